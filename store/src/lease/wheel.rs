//! A hierarchical time wheel over small numbers: eleven levels of 64 slots, level 0 of one tick per slot.
//! Insert, move and remove are O(1); advancing skips empty time and touches an entry at most once per level
//! on its way down. It may fire late by less than one tick, never early.

/// Milliseconds per tick.
const TICK: u64 = 100;
const LEVELS: usize = 11;
const SLOTS: usize = 64;
const NIL: u32 = u32::MAX;
/// The slot of an entry that is not in the wheel.
const OUT: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// In ticks.
    when: u64,
    prev: u32,
    next: u32,
    slot: u16,
}

#[derive(Debug)]
pub(super) struct Wheel {
    /// Everything before this tick has fired.
    elapsed: u64,
    /// Per level one bit for each slot that is not empty.
    occupied: [u64; LEVELS],
    heads: Vec<u32>,
    entries: Vec<Entry>,
}

impl Wheel {
    pub fn new(now: u64) -> Self {
        Wheel {
            elapsed: now / TICK,
            occupied: [0; LEVELS],
            heads: vec![NIL; LEVELS * SLOTS],
            entries: Vec::new(),
        }
    }

    /// Lets `at` fire at `when` (milliseconds), or at the next advance if that is past; moves it if it was
    /// already waiting.
    pub fn insert(&mut self, at: u32, when: u64) {
        self.remove(at);
        let index = at as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, Entry { when: 0, prev: NIL, next: NIL, slot: OUT });
        }
        self.link(at, when.div_ceil(TICK));
    }

    pub fn remove(&mut self, at: u32) {
        let Some(&Entry { prev, next, slot, .. }) = self.entries.get(at as usize) else { return };
        if slot == OUT {
            return;
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev != NIL {
            self.entries[prev as usize].next = next;
        } else {
            self.heads[usize::from(slot)] = next;
            if next == NIL {
                self.occupied[usize::from(slot) / SLOTS] &= !(1 << (usize::from(slot) % SLOTS));
            }
        }
        self.entries[at as usize].slot = OUT;
    }

    fn link(&mut self, at: u32, when: u64) {
        let when = when.max(self.elapsed);
        // The highest digit (of 6 bits) in which `when` differs from now.
        let level = (63 - ((when ^ self.elapsed) | 63).leading_zeros() as usize) / 6;
        let digit = (when >> (6 * level)) as usize % SLOTS;
        let slot = level * SLOTS + digit;
        let next = self.heads[slot];
        if next != NIL {
            self.entries[next as usize].prev = at;
        }
        self.heads[slot] = at;
        self.occupied[level] |= 1 << digit;
        self.entries[at as usize] = Entry { when, prev: NIL, next, slot: slot as u16 };
    }

    /// Appends to `fired`, and takes out of the wheel, all that is due at `now` (milliseconds).
    pub fn advance(&mut self, now: u64, fired: &mut Vec<u32>) {
        let now = now / TICK;
        while let Some(level) = self.occupied.iter().position(|&bits| bits != 0) {
            // Entries above level 0 lie in later slots than now, and lower levels before higher ones.
            let digit = self.occupied[level].trailing_zeros() as usize;
            let shift = 6 * level as u32;
            let above = self.elapsed.checked_shr(shift + 6).map_or(0, |high| high << (shift + 6));
            let start = above | (digit as u64) << shift;
            if start > now {
                break;
            }
            self.elapsed = self.elapsed.max(start);
            self.occupied[level] &= !(1 << digit);
            let mut at = std::mem::replace(&mut self.heads[level * SLOTS + digit], NIL);
            while at != NIL {
                let entry = &mut self.entries[at as usize];
                let (here, when) = (at, entry.when);
                at = entry.next;
                entry.slot = OUT;
                if when <= self.elapsed {
                    fired.push(here);
                } else {
                    self.link(here, when);
                }
            }
        }
        self.elapsed = self.elapsed.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Fires what a sorted map says is due: each once, never early, at most one tick late.
        #[test]
        fn fires_on_time(
            start in 0u64..10_000_000,
            steps in proptest::collection::vec(
                (0u32..50, prop_oneof![0u64..2_000, 0u64..10_000_000, Just(9_000_000_000_000u64)],
                 0u8..4, prop_oneof![0u64..300, 0u64..20_000_000]), 1..200),
        ) {
            let mut now = start;
            let mut wheel = Wheel::new(now);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for (at, after, action, pause) in steps {
                match action {
                    0 => {
                        wheel.remove(at);
                        model.remove(&at);
                    }
                    1 | 2 => {
                        wheel.insert(at, now + after);
                        model.insert(at, now + after);
                    }
                    _ => {
                        now += pause;
                        let mut fired = Vec::new();
                        wheel.advance(now, &mut fired);
                        for at in fired {
                            let when = model.remove(&at);
                            prop_assert!(when.is_some_and(|when| when <= now), "{at} fired early or twice");
                        }
                        prop_assert!(model.values().all(|&when| when + TICK > now), "something is late");
                    }
                }
            }
        }
    }
}
