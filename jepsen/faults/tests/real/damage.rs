//! Damaged files, and processes in control groups.

use std::fs;
use std::process::{Child, Command, Stdio};

use faults::cgroup::{self, Cgroup};
use faults::files::{choose, cut_tail, flip_bits, matching};

use crate::can;

#[test]
fn bits_are_flipped_where_it_says() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("sub")).expect("mkdir");
    for (name, length) in [("a.wal", 1000), ("sub/b.wal", 1000), ("c.sst", 1000), ("empty.wal", 0)] {
        fs::write(dir.path().join(name), vec![0; length]).expect("write");
    }
    let files = matching(dir.path(), |path| path.extension().is_some_and(|end| end == "wal")).expect("walk");
    assert_eq!(files.len(), 3);
    let chosen: std::collections::BTreeSet<_> =
        (0..50).map(|seed| choose(&files, seed).expect("stat").expect("one").clone()).collect();
    assert_eq!(chosen.len(), 2, "each but the empty one");

    let flips = flip_bits(&files[0], 5, 3).expect("flip");
    let bytes = fs::read(&files[0]).expect("read");
    assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 5);
    assert!(flips.iter().all(|flip| bytes[flip.offset as usize] & (1 << flip.bit) != 0));
    assert_eq!(flip_bits(&files[0], 5, 3).expect("the same bits back"), flips);
    assert_eq!(fs::read(&files[0]).expect("read"), vec![0; 1000]);

    let cut = cut_tail(&files[0], 100, 9).expect("cut");
    assert!((1..=100).contains(&cut));
    assert_eq!(fs::metadata(&files[0]).expect("stat").len(), 1000 - cut);
    assert_eq!(cut_tail(&dir.path().join("empty.wal"), 100, 9).expect("nothing to cut"), 0);
    assert_eq!(flip_bits(&dir.path().join("empty.wal"), 5, 9).expect("nothing to flip"), []);
}

struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time of a process, in ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
}

#[test]
fn a_frozen_process_does_nothing_until_it_is_thawed() {
    if !can(cgroup::available()) {
        return;
    }
    let group = Cgroup::new("frozen").expect("a group");
    let busy = Busy(
        Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().expect("sh"),
    );
    group.add(busy.0.id()).expect("add");
    group.limit_cpu(Some(20)).expect("limit");
    group.freeze(true).expect("freeze");
    let frozen = ticks(busy.0.id());
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_millis(100) {
        std::thread::yield_now();
    }
    assert_eq!(ticks(busy.0.id()), frozen);
    group.freeze(false).expect("thaw");
    let limit = began + std::time::Duration::from_secs(30);
    while ticks(busy.0.id()) == frozen {
        assert!(std::time::Instant::now() < limit, "it never ran again");
        std::thread::yield_now();
    }
    let path = group.path("freezer");
    assert!(path.is_dir());
    drop(group);
    assert!(!path.exists(), "the group is gone while its process lives");
}
