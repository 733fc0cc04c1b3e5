//! The kinds of faults by name, and which of them this machine can do to this server.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::binary::Binary;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// SIGKILL to one, the leader, a minority, or all; they come back.
    Kill,
    /// SIGSTOP for a while.
    Pause,
    /// A graceful stop and a start, of one or of each in turn.
    Restart,
    /// Another member is told to lead.
    Transfer,
    /// A member is away until only a snapshot brings it back.
    Snapshot,
    /// No way between some ends, in both directions or in one.
    Partition,
    Delay,
    Loss,
    Duplicate,
    /// A kill after which what was not synced is gone.
    Power,
    /// No space left on a disk.
    Full,
    /// Syncs that take long, or hang.
    SlowDisk,
    /// Syncs that fail.
    FailingDisk,
    ClockJump,
    ClockDrift,
    /// A member loses its data, is removed, and a new one comes in its place.
    Replace,
}

impl Kind {
    pub const ALL: [Kind; 16] = [
        Kind::Kill,
        Kind::Pause,
        Kind::Restart,
        Kind::Transfer,
        Kind::Snapshot,
        Kind::Partition,
        Kind::Delay,
        Kind::Loss,
        Kind::Duplicate,
        Kind::Power,
        Kind::Full,
        Kind::SlowDisk,
        Kind::FailingDisk,
        Kind::ClockJump,
        Kind::ClockDrift,
        Kind::Replace,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Pause => "pause",
            Kind::Restart => "restart",
            Kind::Transfer => "transfer",
            Kind::Snapshot => "snapshot",
            Kind::Partition => "partition",
            Kind::Delay => "delay",
            Kind::Loss => "loss",
            Kind::Duplicate => "duplicate",
            Kind::Power => "power",
            Kind::Full => "full",
            Kind::SlowDisk => "slow-disk",
            Kind::FailingDisk => "failing-disk",
            Kind::ClockJump => "clock-jump",
            Kind::ClockDrift => "clock-drift",
            Kind::Replace => "replace",
        }
    }

    /// How likely a run has it.
    pub(super) fn likely(self) -> f64 {
        match self {
            Kind::Kill | Kind::Pause => 0.5,
            Kind::Restart | Kind::Transfer | Kind::Snapshot | Kind::Partition => 0.35,
            Kind::Delay | Kind::Loss | Kind::Duplicate | Kind::Power => 0.25,
            _ => 0.2,
        }
    }

    /// Whether it means something to a cluster of so many.
    pub(super) fn fits(self, size: usize) -> bool {
        match self {
            Kind::Transfer | Kind::Snapshot => size > 1,
            // Those who are left must be a majority.
            Kind::Replace => size > 2,
            _ => true,
        }
    }

    pub fn needs_network(self) -> bool {
        matches!(self, Kind::Partition | Kind::Delay | Kind::Loss | Kind::Duplicate)
    }

    pub fn needs_disk(self) -> bool {
        matches!(self, Kind::Power | Kind::Full | Kind::SlowDisk | Kind::FailingDisk)
    }

    pub fn needs_clock(self) -> bool {
        matches!(self, Kind::ClockJump | Kind::ClockDrift)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Kind, String> {
        let known = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| format!("no fault {name:?}; there are {}", Kind::ALL.map(Kind::name).join(", ")))
    }
}

/// What cannot be done here, and the library that clocks need.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    network: Option<String>,
    disk: Option<String>,
    clock: Option<String>,
    pub library: Option<PathBuf>,
}

impl Machine {
    /// Asks the tools.
    pub fn probe(binary: &Binary) -> Machine {
        let library = faults::nudge::find_library();
        let clock = if binary.is_go {
            Err("the server asks the kernel for the time, past the C library".to_owned())
        } else if library.is_none() {
            Err("no libnudge.so beside this program".to_owned())
        } else {
            faults::nudge::available()
        };
        Machine {
            network: faults::switch::available().err(),
            disk: faults::forgetfs::available().err(),
            clock: clock.err(),
            library,
        }
    }

    /// Why a kind cannot be done.
    pub fn refuses(&self, kind: Kind) -> Option<&str> {
        match kind {
            _ if kind.needs_network() => self.network.as_deref(),
            _ if kind.needs_disk() => self.disk.as_deref(),
            _ if kind.needs_clock() => self.clock.as_deref(),
            _ => None,
        }
    }
}
