//! What programs see of the file system that forgets, through the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use faults::forgetfs::{DirectorySync, ForgetFs, Options, available};
use tempfile::TempDir;

use crate::can;

/// A mount on a temporary directory. Fields are dropped in order.
struct Mounted {
    disk: ForgetFs,
    at: TempDir,
}

impl Mounted {
    fn new(options: Options) -> Option<Mounted> {
        if !can(available()) {
            return None;
        }
        let at = tempfile::tempdir().expect("a directory");
        let disk = ForgetFs::mount(at.path(), options).expect("mount");
        Some(Mounted { disk, at })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.at.path().join(name)
    }

    fn sync_directory(&self) {
        File::open(self.at.path()).expect("open").sync_all().expect("sync");
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// The first seed that keeps nothing of `lose`, tried on the same state made anew.
fn nothing_kept(mut lose: impl FnMut(u64) -> faults::forgetfs::Lost) -> u64 {
    (0..64)
        .find(|&seed| {
            let lost = lose(seed);
            lost.sectors > 0 && lost.sectors_kept == 0
        })
        .expect("a quarter of all seeds keeps nothing")
}

#[test]
fn what_was_synced_survives_and_nothing_else_must() {
    let Some(mounted) = Mounted::new(Options::default()) else { return };
    let path = mounted.path("a");
    let seed = nothing_kept(|seed| {
        let file = File::create(&path).expect("create");
        file.write_all_at(&[1; 5000], 0).expect("write");
        file.sync_data().expect("sync");
        mounted.sync_directory();
        file.write_all_at(&[2; 5000], 2500).expect("write");
        drop(file);
        assert_eq!(fs::read(&path).expect("read").len(), 7500);
        let lost = mounted.disk.lose_power(seed);
        // A second copy of the name, to see that an unsynced one may stay or go.
        let left = fs::read(&path).expect("the synced file");
        assert_eq!(left[..2048], [1; 2048], "sectors that were not written again");
        assert!((5000..=7500).contains(&left.len()));
        assert_eq!(lost.sectors + lost.sectors_kept, 11);
        lost
    });
    assert_eq!(fs::read(&path).expect("read"), [1; 5000], "seed {seed}");
}

#[test]
fn a_rename_without_a_directory_sync_vanishes_or_stays_whole() {
    let Some(mounted) = Mounted::new(Options::default()) else { return };
    let (mut old, mut new) = (0, 0);
    for seed in 0..40 {
        for (name, text) in [("a", "old"), ("b", "new")] {
            let mut file = File::create(mounted.path(name)).expect("create");
            file.write_all(text.as_bytes()).expect("write");
            file.sync_all().expect("sync");
        }
        mounted.sync_directory();
        fs::rename(mounted.path("b"), mounted.path("a")).expect("rename");
        let lost = mounted.disk.lose_power(seed);
        assert_eq!(lost.entries + lost.entries_kept, 1);
        match fs::read_to_string(mounted.path("a")).expect("one of them").as_str() {
            "old" => {
                assert_eq!(fs::read_to_string(mounted.path("b")).expect("still there"), "new");
                old += 1;
            }
            other => {
                assert_eq!(other, "new");
                assert!(!mounted.path("b").exists());
                new += 1;
            }
        }
    }
    assert!(old > 0 && new > 0, "{old} vanished, {new} stayed");
}

#[test]
fn directories_are_lost_with_what_is_in_them() {
    for (directory_sync, survives) in [(DirectorySync::Strict, false), (DirectorySync::Journal, true)] {
        let Some(mounted) = Mounted::new(Options { directory_sync, capacity: None }) else { return };
        let mut seed = 0;
        loop {
            fs::create_dir_all(mounted.path("d/e")).expect("directories");
            let file = File::create(mounted.path("d/e/f")).expect("create");
            file.sync_all().expect("sync");
            File::open(mounted.path("d/e")).expect("open").sync_all().expect("sync");
            let lost = mounted.disk.lose_power(seed);
            if survives {
                assert!(mounted.path("d/e/f").exists());
                break;
            }
            if lost.entries == 2 {
                assert!(!mounted.path("d").exists());
                break;
            }
            seed += 1;
            assert!(seed < 64, "no seed lost both directories");
            let _ = fs::remove_dir_all(mounted.path("d"));
            mounted.sync_directory();
        }
    }
}

#[test]
fn capacity_refuses_and_is_freed() {
    let options = Options { capacity: Some(1 << 20), ..Options::default() };
    let Some(mounted) = Mounted::new(options) else { return };
    let mut file = File::create(mounted.path("a")).expect("create");
    file.write_all(&vec![1; 1 << 19]).expect("half of it fits");
    assert_eq!(errno(file.write_all(&vec![1; 1 << 20])), Some(libc::ENOSPC));
    assert!(mounted.disk.stats().refused_full > 0);
    mounted.disk.capacity(None);
    file.write_all(&vec![1; 1 << 20]).expect("room again");
    drop(file);
    mounted.disk.capacity(Some(0));
    assert_eq!(errno(fs::write(mounted.path("b"), "x")), Some(libc::ENOSPC));
    fs::remove_file(mounted.path("a")).expect("unlink needs no room");
    mounted.disk.capacity(Some(4096));
    fs::write(mounted.path("b"), "x").expect("freed");
}

#[test]
fn after_a_failed_sync_the_pages_are_lost() {
    let Some(mounted) = Mounted::new(Options::default()) else { return };
    for seed in 0..16 {
        let file = File::create(mounted.path("a")).expect("create");
        file.write_all_at(&[1; 1024], 0).expect("write");
        file.sync_all().expect("sync");
        mounted.sync_directory();
        file.write_all_at(&[2; 512], 0).expect("write");
        mounted.disk.fail_syncs(Some(libc::EIO));
        assert_eq!(errno(file.sync_data()), Some(libc::EIO));
        mounted.disk.fail_syncs(None);
        file.sync_data().expect("the next succeeds");
        drop(file);
        assert_eq!(fs::read(mounted.path("a")).expect("read")[0], 2, "seen as long as there is power");
        mounted.disk.lose_power(seed);
        assert_eq!(fs::read(mounted.path("a")).expect("read"), [1; 1024], "seed {seed}");
    }
    assert_eq!(mounted.disk.stats().syncs_failed, 16);
}

#[test]
fn a_stall_holds_writes_and_not_reads() {
    let Some(mounted) = Mounted::new(Options::default()) else { return };
    let path = mounted.path("a");
    fs::write(&path, "before").expect("write");
    mounted.disk.stall(true);
    let (sender, receiver) = mpsc::channel();
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || {
            let file = OpenOptions::new().append(true).open(path).expect("open");
            (&file).write_all(b" after").expect("write");
            sender.send(()).expect("a receiver");
        })
    };
    let limit = Instant::now() + Duration::from_secs(20);
    while mounted.disk.stats().waiting == 0 {
        assert!(Instant::now() < limit, "the write never came");
        std::thread::yield_now();
    }
    assert_eq!(fs::read_dir(mounted.at.path()).expect("list").count(), 1, "reading goes on");
    assert!(receiver.try_recv().is_err(), "the write hangs");
    mounted.disk.stall(false);
    receiver.recv_timeout(Duration::from_secs(20)).expect("released");
    writer.join().expect("writer");
    assert_eq!(fs::read_to_string(&path).expect("read"), "before after");
}

#[test]
fn a_slow_sync_is_slow() {
    let Some(mounted) = Mounted::new(Options::default()) else { return };
    let file = File::create(mounted.path("a")).expect("create");
    mounted.disk.slow(Some(Duration::from_millis(30)));
    let began = Instant::now();
    file.sync_all().expect("sync");
    assert!(began.elapsed() >= Duration::from_millis(30));
    mounted.disk.slow(None);
    assert_eq!(mounted.disk.stats().delayed, 1);
}

#[test]
fn flipped_bits_show_in_an_open_file() {
    let Some(mounted) = Mounted::new(Options::default()) else { return };
    fs::write(mounted.path("a"), [0; 10_000]).expect("write");
    let file = File::open(mounted.path("a")).expect("open");
    let read = || {
        let mut bytes = [0; 10_000];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    };
    assert_eq!(read(), [0; 10_000]);
    let offsets = mounted.disk.flip_bits(Path::new("a"), 3, 7).expect("flip");
    let flipped: Vec<u64> = (0..10_000).filter(|&at| read()[at as usize] != 0).collect();
    assert_eq!(flipped, offsets);
    assert_eq!(errno(mounted.disk.flip_bits(Path::new("b"), 3, 7)), Some(libc::ENOENT));
}

#[test]
fn direct_writes_preallocation_and_locks_work() {
    let Some(mounted) = Mounted::new(Options::default()) else { return };
    let path = mounted.path("a");
    let file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .expect("open for direct writes");
    #[repr(align(4096))]
    struct Aligned([u8; 8192]);
    file.write_all_at(&Aligned([3; 8192]).0, 4096).expect("direct write");
    let mut back = Aligned([0; 8192]);
    file.read_exact_at(&mut back.0, 4096).expect("direct read");
    assert_eq!(back.0, [3; 8192]);
    let allocate = |mode, from, length| {
        use std::os::fd::AsRawFd;
        // SAFETY: an open file.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, from, length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    allocate(0, 0, 1 << 20).expect("preallocate");
    assert_eq!(file.metadata().expect("stat").len(), 1 << 20);
    allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 4096, 4096).expect("punch");
    assert_eq!(fs::read(&path).expect("read")[4096..12288], [[0; 4096], [3; 4096]].concat());
    file.set_len(100).expect("truncate");
    assert_eq!(file.metadata().expect("stat").len(), 100);
    file.lock().expect("lock");
    let other = File::open(&path).expect("open");
    assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
    file.unlock().expect("unlock");
    other.try_lock().expect("free now");
}

/// A log of records that a writer appends and syncs: after any loss of power, what was acknowledged is there.
#[test]
fn a_log_keeps_what_it_acknowledged() {
    let Some(mounted) = Mounted::new(Options::default()) else { return };
    let path = mounted.path("log");
    File::create(&path).expect("create").sync_all().expect("sync");
    mounted.sync_directory();
    let mut acknowledged = 0u32;
    let mut torn = 0;
    for seed in 0..40u64 {
        let mut file = OpenOptions::new().append(true).open(&path).expect("open");
        for _ in 0..seed % 7 + 1 {
            file.write_all(&record(acknowledged)).expect("append");
            file.sync_data().expect("sync");
            acknowledged += 1;
        }
        for unsynced in 0..5 {
            file.write_all(&record(acknowledged + unsynced)).expect("append");
        }
        drop(file);
        mounted.disk.lose_power(seed);
        let log = fs::read(&path).expect("read");
        let valid =
            log.chunks(RECORD).enumerate().take_while(|(n, chunk)| *chunk == record(*n as u32)).count();
        assert!(valid as u32 >= acknowledged, "seed {seed}: {valid} of {acknowledged}");
        torn += u32::from(log.len() > valid * RECORD);
        acknowledged = valid as u32;
        let file = OpenOptions::new().write(true).open(&path).expect("open");
        file.set_len((valid * RECORD) as u64).expect("cut the tail");
        file.sync_all().expect("sync");
    }
    assert!(torn > 0, "no tail was ever torn");
}

const RECORD: usize = 700;

fn record(n: u32) -> [u8; RECORD] {
    let mut record = [n as u8 | 1; RECORD];
    record[..4].copy_from_slice(&n.to_le_bytes());
    record
}

/// Writes of 256 bytes, each synced, per second: here, in shared memory, and where temporary files are.
#[test]
#[ignore = "a measurement: cargo test --release -p faults --test real speed -- --ignored --nocapture"]
fn forgetfs_speed() {
    let Some(mounted) = Mounted::new(Options::default()) else { return };
    let disk = tempfile::tempdir().expect("a directory");
    let memory = tempfile::tempdir_in("/dev/shm").expect("a directory");
    for (name, at) in [("forgetfs", mounted.at.path()), ("tmpfs", memory.path()), ("disk", disk.path())] {
        let mut file = File::create(at.join("log")).expect("create");
        let mut synced = 0u32;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            file.write_all(&[1; 256]).expect("write");
            file.sync_data().expect("sync");
            synced += 1;
        }
        println!("{name}: {:.0} write+fdatasync/s", f64::from(synced) / began.elapsed().as_secs_f64());
        let mut file = File::create(at.join("bulk")).expect("create");
        let began = Instant::now();
        for _ in 0..256 {
            file.write_all(&[1; 1 << 20]).expect("write");
        }
        file.sync_data().expect("sync");
        println!("{name}: {:.0} MiB/s in writes of 1 MiB", 256.0 / began.elapsed().as_secs_f64());
    }
}
