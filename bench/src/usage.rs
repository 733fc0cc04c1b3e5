//! What processes use: CPU time, memory and disk, read from `/proc` and the file system (Linux).
//! Used around every measured window for the servers, and for the client itself. Parsing is pure.

use serde::Serialize;
use std::ops::{Add, Sub};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// `/proc/PID/stat` counts in USER_HZ, 100 on every Linux platform.
const TICKS_PER_SECOND: f64 = 100.0;
/// `st_blocks` is in these units whatever the block size of the file system.
const STAT_BLOCK_BYTES: u64 = 512;

/// CPU seconds of all threads, those that ended included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuTime {
    pub user: f64,
    pub kernel: f64,
}

impl CpuTime {
    pub fn total(self) -> f64 {
        self.user + self.kernel
    }
}

impl Add for CpuTime {
    type Output = CpuTime;
    fn add(self, other: CpuTime) -> CpuTime {
        CpuTime { user: self.user + other.user, kernel: self.kernel + other.kernel }
    }
}

impl Sub for CpuTime {
    type Output = CpuTime;
    fn sub(self, other: CpuTime) -> CpuTime {
        CpuTime { user: self.user - other.user, kernel: self.kernel - other.kernel }
    }
}

/// Resident memory in bytes: all of it, and the part that is not pages of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    pub resident: u64,
    pub anonymous: u64,
}

/// The processes and directories of one server under test, all members together. Empty for a server that
/// runs elsewhere: everything is then zero.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    pub pids: Vec<u32>,
    pub dirs: Vec<PathBuf>,
}

impl Probe {
    pub fn cpu(&self) -> io::Result<CpuTime> {
        self.pids.iter().try_fold(CpuTime::default(), |sum, pid| Ok(sum + cpu_of(&pid.to_string())?))
    }

    pub fn memory(&self) -> io::Result<Memory> {
        self.pids.iter().try_fold(Memory::default(), |sum, pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let one = parse_status(&status).ok_or_else(|| invalid("/proc/PID/status"))?;
            Ok(Memory { resident: sum.resident + one.resident, anonymous: sum.anonymous + one.anonymous })
        })
    }

    pub fn disk_bytes(&self) -> u64 {
        self.dirs.iter().map(|dir| allocated_bytes(dir)).sum()
    }
}

pub fn own_cpu() -> io::Result<CpuTime> {
    cpu_of("self")
}

fn cpu_of(pid: &str) -> io::Result<CpuTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat).ok_or_else(|| invalid("/proc/PID/stat"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not in its known form"))
}

/// Fields 14 and 15, counted behind the command name, which may itself hold spaces and brackets.
fn parse_stat(stat: &str) -> Option<CpuTime> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some(CpuTime { user: seconds()?, kernel: seconds()? })
}

fn parse_status(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
    };
    Some(Memory { resident: bytes("VmRSS")?, anonymous: bytes("RssAnon")? })
}

/// Blocks on disk, preallocated ones too. Files that vanish meanwhile count as nothing.
fn allocated_bytes(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.blocks() * STAT_BLOCK_BYTES;
    }
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries.flatten().map(|entry| allocated_bytes(&entry.path())).sum()
}

/// The type of the file system that holds `path`, as `/proc/self/mounts` names it.
pub fn filesystem_of(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    filesystem_in(&mounts, &path.canonicalize().ok()?)
}

/// The longest mount point above `path` wins; of equal ones the last, which hides the others.
fn filesystem_in(mounts: &str, path: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_name_with_brackets() {
        let stat = "7 (a ) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 1234 56 0 0 20 0 9 0 100";
        assert_eq!(parse_stat(stat), Some(CpuTime { user: 12.34, kernel: 0.56 }));
        assert_eq!(parse_stat("7 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn status_gives_resident_and_anonymous() {
        let status = "Name:\tetcd\nVmRSS:\t  2048 kB\nRssAnon:\t    1024 kB\nRssFile:\t 1024 kB\n";
        assert_eq!(parse_status(status), Some(Memory { resident: 2 << 20, anonymous: 1 << 20 }));
        assert_eq!(parse_status("Name:\tkernel thread\n"), None);
    }

    #[test]
    fn the_longest_mount_point_names_the_file_system() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/disk xfs rw 0 0\n";
        let of = |path: &str| filesystem_in(mounts, Path::new(path));
        assert_eq!(of("/var/lib").as_deref(), Some("ext4"));
        assert_eq!(of("/tmp/x").as_deref(), Some("tmpfs"));
        assert_eq!(of("/tmp/disk/x").as_deref(), Some("xfs"));
        assert_eq!(of("/tmpother").as_deref(), Some("ext4"));
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let probe = Probe { pids: vec![std::process::id()], dirs: vec![] };
        assert!(probe.memory().expect("own status").resident > 0);
        assert!(probe.cpu().is_ok() && own_cpu().is_ok());
        assert_eq!(Probe::default().disk_bytes(), 0);
    }

    #[test]
    fn disk_use_counts_files_below() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("a")).expect("a folder");
        fs::write(dir.path().join("a/b"), vec![1u8; 100_000]).expect("a file");
        fs::File::open(dir.path().join("a/b")).and_then(|file| file.sync_all()).expect("allocated");
        assert!(allocated_bytes(dir.path()) >= 100_000);
    }
}
