//! Little processor time and frozen processes, by control groups of version 1.
//!
//! A `Cgroup` is one group in the hierarchies `cpu` and `freezer` below `/sys/fs/cgroup`. Processes started by a member
//! of the group belong to it. Dropping it thaws what is frozen, moves the processes back and removes the group. A run
//! that was killed leaves its groups; the next `Cgroup::new` removes those whose maker is gone, in the same way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MOUNTS: &str = "/sys/fs/cgroup";
const HIERARCHIES: [&str; 2] = ["cpu", "freezer"];
const PREFIX: &str = "keelson-";
const PERIOD_US: u64 = 100_000;
/// The least quota that the kernel takes.
const LEAST_QUOTA_US: u64 = 1_000;
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// The kernel tells no one when a group is frozen.
const FREEZE_POLL: Duration = Duration::from_millis(1);

/// A group of processes in the hierarchies `cpu` and `freezer`.
#[derive(Debug)]
pub struct Cgroup {
    name: String,
}

/// Why groups cannot be made here, if so.
pub fn available() -> Result<(), String> {
    for file in ["cpu/cpu.shares", "freezer/cgroup.procs"] {
        let path = Path::new(MOUNTS).join(file);
        if !path.exists() {
            return Err(format!("no control groups of version 1: {} is missing", path.display()));
        }
    }
    Cgroup::new("probe").map(drop).map_err(|error| format!("control groups: {error}"))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Thaws a group, moves its processes to the root and removes it.
fn remove(path: &Path) -> io::Result<()> {
    let state = path.join("freezer.state");
    if state.exists() {
        write(&state, "THAWED")?;
    }
    let root = path.parent().unwrap_or(path).join("cgroup.procs");
    for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
        // It may have ended meanwhile.
        let _ = write(&root, pid);
    }
    fs::remove_dir(path)
}

/// Removes groups of processes that are gone.
fn sweep(hierarchy: &Path) -> io::Result<()> {
    for entry in fs::read_dir(hierarchy)? {
        let name = entry?.file_name();
        let maker =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|name| name.split('-').next());
        if let Some(pid) = maker.and_then(|pid| pid.parse::<u32>().ok())
            && !Path::new("/proc").join(pid.to_string()).exists()
        {
            // Another run may sweep at the same time.
            let _ = remove(&hierarchy.join(name));
        }
    }
    Ok(())
}

impl Cgroup {
    /// Makes the group; `name` tells it from others of this process: letters, digits, `-`.
    pub fn new(name: &str) -> io::Result<Cgroup> {
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("not a name of a group: {name}"),
            ));
        }
        let group = Cgroup { name: format!("{PREFIX}{}-{name}", std::process::id()) };
        for hierarchy in HIERARCHIES {
            sweep(&Path::new(MOUNTS).join(hierarchy))?;
        }
        for (made, hierarchy) in HIERARCHIES.into_iter().enumerate() {
            if let Err(error) = fs::create_dir(group.path(hierarchy)) {
                for hierarchy in &HIERARCHIES[..made] {
                    fs::remove_dir(group.path(hierarchy))?;
                }
                // Its directories are not ours: another group of this name may have them.
                std::mem::forget(group);
                return Err(error);
            }
        }
        Ok(group)
    }

    /// Its directory in the hierarchy `cpu` or `freezer`.
    pub fn path(&self, hierarchy: &str) -> PathBuf {
        Path::new(MOUNTS).join(hierarchy).join(&self.name)
    }

    /// Moves a process with its threads into the group.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        for hierarchy in HIERARCHIES {
            write(&self.path(hierarchy).join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// At most so many percent of one processor for the whole group, at least one; `None` = no limit.
    pub fn limit_cpu(&self, percent: Option<u32>) -> io::Result<()> {
        let cpu = self.path("cpu");
        let quota = percent.map_or("-1".to_string(), |percent| {
            (u64::from(percent) * PERIOD_US / 100).max(LEAST_QUOTA_US).to_string()
        });
        write(&cpu.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
        write(&cpu.join("cpu.cfs_quota_us"), &quota)
    }

    /// Freezes or thaws all processes; returns when they are. `TimedOut` after 10 seconds.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        let state = self.path("freezer").join("freezer.state");
        write(&state, wanted)?;
        let limit = Instant::now() + FREEZE_LIMIT;
        while fs::read_to_string(&state)?.trim() != wanted {
            if Instant::now() >= limit {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} is not {wanted}", self.name),
                ));
            }
            std::thread::sleep(FREEZE_POLL);
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for hierarchy in HIERARCHIES {
            // What cannot be removed now, the next run sweeps.
            let _ = remove(&self.path(hierarchy));
        }
    }
}
