//! Who was allowed what, and when, as far as clients can know; and whether everybody was answered accordingly.
//!
//! Each user has slots, spans of keys in a row, with one permission each that root turns on and off. Between the call
//! of a change and its answer, and for ever after one that was not answered, nobody knows whether it holds. What held,
//! or did not, during a whole use is what the use is judged by. Times are those of the run. Filled by the workload
//! `auth`.

use oracle::check::Violation;

/// Users, and spans of keys that each may be permitted.
pub const USERS: usize = 4;
pub const SLOTS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A slot's permission is given, or taken away.
    Slot {
        user: usize,
        slot: usize,
        on: bool,
    },
    Password {
        user: usize,
    },
    Enable,
    Disable,
}

/// A change that took effect between call and return; without a return it may, at any time from its call on.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub what: What,
    pub called_ns: u64,
    pub returned_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Done,
    /// Permission denied.
    Denied,
    /// Anything else, which says nothing about rights.
    Else,
}

/// A linearizable request of a user.
#[derive(Clone, Debug)]
pub struct Use {
    pub user: usize,
    /// All of these are needed.
    pub slots: std::ops::Range<usize>,
    pub reads: bool,
    pub writes: bool,
    pub called_ns: u64,
    pub returned_ns: u64,
    pub told: Told,
    /// When the answer to its login had come.
    pub logged_in_ns: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Rights {
    pub changes: Vec<Change>,
    pub uses: Vec<Use>,
    /// The newest password of each user, for whoever logs in.
    pub passwords: [u32; USERS],
}

/// What a slot's permission is for, reading and writing.
pub fn kind(user: usize, slot: usize) -> (bool, bool) {
    [(true, true), (true, false), (true, true), (false, true)][(user + slot) % 4]
}

impl Rights {
    /// Whether it may be that this change, or one like it, is under way in that time.
    fn is_touched(&self, like: impl Fn(What) -> bool, from_ns: u64, to_ns: u64) -> bool {
        let overlaps = |it: &Change| {
            it.called_ns < to_ns && it.returned_ns.is_none_or(|returned_ns| returned_ns > from_ns)
        };
        self.changes.iter().any(|it| like(it.what) && overlaps(it))
    }

    /// Whether a slot's permission holds during a time; `None` if nobody knows.
    fn holds(&self, user: usize, slot: usize, from_ns: u64, to_ns: u64) -> Option<bool> {
        let of_slot =
            |what: What| matches!(what, What::Slot { user: u, slot: s, .. } if (u, s) == (user, slot));
        if self.is_touched(of_slot, from_ns, to_ns) {
            return None;
        }
        let before = self.changes.iter().filter(|it| of_slot(it.what) && it.called_ns < from_ns);
        let last = before.max_by_key(|it| it.called_ns);
        Some(last.is_some_and(|it| matches!(it.what, What::Slot { on: true, .. })))
    }

    /// Whether rights count during a time, for sure.
    fn count(&self, from_ns: u64, to_ns: u64) -> bool {
        let is_toggle = |what| matches!(what, What::Enable | What::Disable);
        let last = self.changes.iter().filter(|it| is_toggle(it.what) && it.called_ns < from_ns);
        let last = last.max_by_key(|it| it.called_ns).map(|it| it.what);
        !self.is_touched(is_toggle, from_ns, to_ns) && last == Some(What::Enable)
    }

    /// Whether the password was changed after a login and before a use.
    fn has_ended(&self, used: &Use) -> bool {
        self.changes.iter().any(|it| {
            it.what == What::Password { user: used.user }
                && it.called_ns >= used.logged_in_ns
                && it.returned_ns.is_some_and(|returned_ns| returned_ns <= used.called_ns)
        })
    }

    /// How many uses were answered as they had to be; of the others nobody knows.
    pub fn judge(&self) -> Result<u64, Violation> {
        let mut judged = 0;
        for used in &self.uses {
            let (from_ns, to_ns) = (used.called_ns, used.returned_ns);
            if !self.count(from_ns, to_ns) {
                continue;
            }
            let fits = |slot| {
                let (reads, writes) = kind(used.user, slot);
                (reads || !used.reads) && (writes || !used.writes)
            };
            let each = used.slots.clone().map(|slot| match fits(slot) {
                true => self.holds(used.user, slot, from_ns, to_ns),
                false => Some(false),
            });
            let each: Vec<Option<bool>> = each.collect();
            let allowed = each.iter().all(|holds| *holds == Some(true));
            let forbidden = each.contains(&Some(false));
            let wrong = match used.told {
                Told::Done if forbidden => "was never allowed meanwhile, and done",
                Told::Done if self.has_ended(used) => {
                    "was done by a token from before a change of the password"
                }
                Told::Denied if allowed => "was allowed all the time, and denied",
                told => {
                    judged += u64::from(told == Told::Done && allowed || told == Told::Denied && forbidden);
                    continue;
                }
            };
            return Err(Violation::new(format!("auth: this {wrong}: {used:?}"), []));
        }
        Ok(judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slot 0 of user 0, for reading and writing, is on from 30–40 to 50–60; another password at 70–80.
    fn story(told: Told, (called_ns, returned_ns): (u64, u64), slots: std::ops::Range<usize>) -> Rights {
        let slot = |on| What::Slot { user: 0, slot: 0, on };
        let change = |what, called_ns| Change { what, called_ns, returned_ns: Some(called_ns + 10) };
        let changes = vec![
            change(What::Enable, 10),
            change(slot(true), 30),
            change(slot(false), 50),
            change(What::Password { user: 0 }, 70),
            change(slot(true), 80),
        ];
        let used =
            Use { user: 0, slots, reads: true, writes: true, called_ns, returned_ns, told, logged_in_ns: 5 };
        Rights { changes, uses: vec![used], ..Rights::default() }
    }

    #[test]
    fn what_was_never_allowed_is_not_done() {
        for (time, holds) in [((21, 29), false), ((21, 31), true), ((41, 49), true), ((61, 69), false)] {
            assert_eq!(story(Told::Done, time, 0..1).judge().is_ok(), holds, "{time:?}");
        }
        assert!(story(Told::Done, (41, 49), 0..2).judge().is_err(), "half of it");
        assert!(story(Told::Done, (2, 8), 0..1).judge().is_ok(), "before rights counted");
        assert!(story(Told::Else, (61, 69), 0..1).judge().is_ok());
    }

    #[test]
    fn what_was_allowed_all_the_time_is_not_denied() {
        for (time, holds) in [((21, 29), true), ((31, 45), true), ((41, 49), false), ((45, 55), true)] {
            assert_eq!(story(Told::Denied, time, 0..1).judge().is_ok(), holds, "{time:?}");
        }
        assert!(story(Told::Denied, (41, 49), 0..2).judge().is_ok());
    }

    #[test]
    fn a_token_ends_with_its_password() {
        assert!(story(Told::Done, (91, 99), 0..1).judge().is_err());
        let mut rights = story(Told::Done, (91, 99), 0..1);
        rights.uses[0].logged_in_ns = 85;
        assert_eq!(rights.judge(), Ok(1));
    }

    #[test]
    fn of_what_was_not_answered_nobody_knows() {
        for told in [Told::Done, Told::Denied] {
            let mut rights = story(told, (41, 49), 0..1);
            rights.changes[1].returned_ns = None;
            assert_eq!(rights.judge(), Ok(0));
        }
    }
}
