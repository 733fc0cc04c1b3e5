//! How far back the log is kept.
//!
//! Owned by the raft thread, which tells it of the snapshots that leave and asks it after each apply. A follower needs
//! the entries right behind its snapshot: were they gone by the time it has taken it over, it would need the next one,
//! and so on for as long as clients write. They are kept from when a snapshot leaves until some time after it has
//! arrived, within the bound on memory. Source: etcd, which stops compacting for as long.

use std::collections::BTreeMap;

use super::log::Log;

pub struct Retention {
    /// Entries kept for followers that lag.
    catch_up_entries: u64,
    /// Entries that come together before the log is cut again.
    snapshot_count: u64,
    /// Bytes of entry data above which nothing that is applied is kept.
    max_bytes: usize,
    /// How long after its snapshot a follower may need to take it over and ask for more.
    install_ticks: u64,
    /// By follower.
    sent: BTreeMap<u64, Sent>,
}

struct Sent {
    /// What the follower has for certain, or will have with its snapshot.
    index: u64,
    /// None while it is on its way.
    ticks_left: Option<u64>,
}

impl Retention {
    pub fn new(
        catch_up_entries: u64,
        snapshot_count: u64,
        max_bytes: usize,
        install_ticks: u64,
    ) -> Retention {
        Retention { catch_up_entries, snapshot_count, max_bytes, install_ticks, sent: BTreeMap::new() }
    }

    /// A snapshot of the state at `index` is about to leave.
    pub fn sends(&mut self, peer: u64, index: u64) {
        self.sent.insert(peer, Sent { index, ticks_left: None });
    }

    /// It has arrived, or never will.
    pub fn sent(&mut self, peer: u64) {
        if let Some(sent) = self.sent.get_mut(&peer) {
            sent.ticks_left = Some(self.install_ticks);
        }
    }

    /// `matched`: how far a follower's log is known to equal this one; None without the lead over it.
    pub fn tick(&mut self, matched: impl Fn(u64) -> Option<u64>) {
        self.sent.retain(|peer, sent| {
            let Some(matched) = matched(*peer) else { return false };
            sent.index = sent.index.max(matched);
            sent.ticks_left = sent.ticks_left.map(|left| left.saturating_sub(1));
            sent.ticks_left != Some(0)
        });
    }

    /// Up to where the log can go, if it is worth it.
    pub fn cut(&self, log: &Log, applied: u64) -> Option<u64> {
        let usual = applied.saturating_sub(self.catch_up_entries);
        let index = if log.size_bytes() > self.max_bytes {
            // What is usually kept may be too much by itself.
            log.within(self.max_bytes).max(usual).min(applied)
        } else if applied.saturating_sub(log.first()) > self.catch_up_entries + self.snapshot_count {
            // Who needs what is gone already will get another snapshot anyway.
            let held = self.sent.values().map(|sent| sent.index).filter(|index| index + 1 >= log.first());
            held.min().unwrap_or(usual).min(usual)
        } else {
            return None;
        };
        (index >= log.first()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{ConfState, Entry, HardState};

    use super::*;

    const FOLLOWER: u64 = 7;

    fn log(last: u64) -> Log {
        let mut log = Log::new(HardState::default(), ConfState::default(), (0, 0));
        let entry = |index| Entry { index, term: 1, data: vec![0; 10].into(), ..Entry::default() };
        log.append(&(1..=last).map(entry).collect::<Vec<_>>());
        log
    }

    fn retention() -> Retention {
        Retention::new(10, 50, 10_000, 3)
    }

    #[test]
    fn the_log_is_cut_when_enough_has_come_together() {
        let subject = retention();
        assert_eq!(subject.cut(&log(61), 61), None);
        assert_eq!(subject.cut(&log(62), 62), Some(52));
    }

    #[test]
    fn what_follows_a_snapshot_is_kept_until_its_follower_had_time_to_take_it_over() {
        let mut subject = retention();
        let (log, behind) = (log(500), |_| Some(0));
        subject.sends(FOLLOWER, 200);
        for _ in 0..100 {
            subject.tick(behind);
        }
        assert_eq!(subject.cut(&log, 500), Some(200), "on its way");
        subject.sent(FOLLOWER);
        for _ in 0..2 {
            subject.tick(behind);
            assert_eq!(subject.cut(&log, 500), Some(200), "arrived");
        }
        subject.tick(behind);
        assert_eq!(subject.cut(&log, 500), Some(490), "had its time");
    }

    #[test]
    fn what_a_follower_has_by_now_is_not_kept_for_it() {
        let mut subject = retention();
        let log = log(500);
        subject.sends(FOLLOWER, 200);
        subject.sent(FOLLOWER);
        subject.tick(|_| Some(300));
        assert_eq!(subject.cut(&log, 500), Some(300));
        subject.tick(|_| Some(499));
        assert_eq!(subject.cut(&log, 500), Some(490));
    }

    #[test]
    fn nothing_is_kept_for_former_followers_nor_beyond_the_bound_on_memory() {
        let mut subject = retention();
        subject.sends(FOLLOWER, 200);
        let mut large = log(1001);
        assert_eq!(subject.cut(&large, 1001), Some(991), "for those that lag little");
        large.compact(991);
        let entry = |index| Entry { index, term: 1, data: vec![0; 5000].into(), ..Entry::default() };
        large.append(&(1002..=1005).map(entry).collect::<Vec<_>>());
        assert_eq!(subject.cut(&large, 1001), Some(1001), "even those");
        large.compact(1001);
        large.append(
            &(1006..=1100).map(|index| Entry { index, term: 1, ..Entry::default() }).collect::<Vec<_>>(),
        );
        large.compact(1005);
        assert_eq!(subject.cut(&large, 1100), Some(1090), "what is gone helps nobody");
        subject.tick(|_| None);
        assert_eq!(subject.cut(&log(500), 500), Some(490));
    }

    #[test]
    fn large_entries_stay_within_the_bound_as_they_come() {
        let subject = retention();
        let mut log = log(61);
        for index in 62..200 {
            log.append(&[Entry { index, term: 1, data: vec![0; 3000].into(), ..Entry::default() }]);
            if let Some(cut) = subject.cut(&log, index) {
                log.compact(cut);
            }
            assert!(log.size_bytes() <= 10_000, "{} bytes at {index}", log.size_bytes());
        }
        assert_eq!(log.first(), 197, "three of them fit");
        assert_eq!(subject.cut(&log, 199), None);
    }
}
