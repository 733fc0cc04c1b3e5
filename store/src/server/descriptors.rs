//! File descriptors: how many this process may have, and what they are for.
//!
//! A member that cannot open its files must stop, so connections get no more than the files leave over. Nothing here is
//! of one server alone: several in one process know nothing of each other.

/// For the log, snapshots, listeners and all else that is not counted below; etcd keeps as many.
const RESERVED: usize = 150;
/// Beyond these there is nothing to gain.
const MAX_TABLES: usize = 512;
const MAX_PEERS: usize = 1024;
const MAX_CLIENTS: usize = 50_000;

/// How many may be open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Files of the backend.
    pub tables: usize,
    /// Connections to one peer listener.
    pub peers: usize,
    /// Connections of clients, on all listeners together.
    pub clients: usize,
}

impl Shares {
    /// `limit`: descriptors that the process may have.
    pub fn of(limit: usize) -> Shares {
        let (tables, peers) = ((limit / 4).min(MAX_TABLES), (limit / 8).min(MAX_PEERS));
        let rest = limit.saturating_sub(RESERVED + tables + peers);
        Shares { tables, peers, clients: rest.clamp(1, MAX_CLIENTS) }
    }
}

/// Takes what the machine allows, as programs in Go do, and returns the limit.
pub fn raise_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a place of the right type, which outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return usize::MAX;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: as above; the value is only read.
    if limit.rlim_cur < limit.rlim_max && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
        limit = raised;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_their_share() {
        for limit in [0, 100, 256, 1024, 4096, 1 << 20, usize::MAX] {
            let Shares { tables, peers, clients } = Shares::of(limit);
            assert!((1..=MAX_CLIENTS).contains(&clients));
            assert!(clients == 1 || tables + peers + clients + RESERVED <= limit, "{limit}");
        }
        assert_eq!(Shares::of(1024), Shares { tables: 256, peers: 128, clients: 490 });
        assert_eq!(Shares::of(1 << 20), Shares { tables: 512, peers: 1024, clients: 50_000 });
    }
}
