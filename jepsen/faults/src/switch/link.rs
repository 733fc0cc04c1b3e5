//! What happens to a frame in one direction: a pure function of the rules, the time and a random generator.
//!
//! Times are nanoseconds of any one clock. A frame first waits for its turn at the rate, then for the delay. Frames
//! leave in the order they came, whatever the jitter, but for those that are held back by `reorder`.

use rand::{Rng, rngs::StdRng};

use super::{Counts, Link};

/// A frame that is held back comes so much later, or as much as the jitter if that is more.
const HELD_BACK_NS: u64 = 2_000_000;

/// A rate keeps at most so much waiting; what would wait longer is dropped.
const LONGEST_QUEUE_NS: u64 = 1_000_000_000;

/// The Ethernet header is spared by bit flips: a frame to nobody would be a lost one.
pub const HEADER: usize = 14;

/// One of the copies of a frame that go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    pub due_ns: u64,
    /// The bit to flip, counted from the beginning of the frame.
    pub flip: Option<usize>,
}

/// One direction: its rules, and what they depend on of earlier frames.
#[derive(Debug, Default)]
pub struct Direction {
    link: Link,
    pub counts: Counts,
    /// When the last frame that was not held back is due.
    last_due_ns: u64,
    /// When the rate lets the next one pass.
    free_at_ns: u64,
    pub waiting: usize,
}

fn drawn(probability: f64, random: &mut StdRng) -> bool {
    probability > 0.0 && random.random_bool(probability.min(1.0))
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Direction {
    pub fn link(&self) -> Link {
        self.link
    }

    /// New rules hold for frames that come later; waiting ones stay due as they were, but a blocked link drops them.
    pub fn set(&mut self, link: Link) {
        self.link = link;
        (self.last_due_ns, self.free_at_ns) = (0, 0);
    }

    /// Whether a frame that was delayed still arrives.
    pub fn arrives(&mut self) -> bool {
        self.counts.blocked += u64::from(self.link.blocked);
        !self.link.blocked
    }

    /// The copies of a frame of `length` bytes that go on: none, one or two.
    pub fn pass(&mut self, now_ns: u64, length: usize, random: &mut StdRng) -> [Option<Copy>; 2] {
        let link = self.link;
        if link.blocked {
            self.counts.blocked += 1;
            return [None, None];
        }
        if drawn(link.loss, random) {
            self.counts.lost += 1;
            return [None, None];
        }
        let first = self.copy(now_ns, length, random);
        let mut second = None;
        if drawn(link.duplicate, random) {
            self.counts.duplicated += 1;
            second = self.copy(now_ns, length, random);
        }
        [first, second]
    }

    fn copy(&mut self, now_ns: u64, length: usize, random: &mut StdRng) -> Option<Copy> {
        let link = self.link;
        let mut due_ns = now_ns;
        if let Some(rate) = link.bytes_per_second {
            let starts = self.free_at_ns.max(now_ns);
            if starts - now_ns > LONGEST_QUEUE_NS {
                self.counts.overflowed += 1;
                return None;
            }
            let takes = (length as u64).saturating_mul(1_000_000_000) / rate.max(1);
            due_ns = starts.saturating_add(takes);
            self.free_at_ns = due_ns;
        }
        due_ns = due_ns.saturating_add(nanoseconds(link.delay));
        let jitter = nanoseconds(link.jitter);
        if jitter > 0 {
            due_ns = due_ns.saturating_add(random.random_range(0..=jitter));
        }
        if drawn(link.reorder, random) {
            self.counts.reordered += 1;
            due_ns = due_ns.saturating_add(HELD_BACK_NS.max(jitter));
        } else {
            due_ns = due_ns.max(self.last_due_ns);
            self.last_due_ns = due_ns;
        }
        self.counts.delayed += u64::from(due_ns > now_ns);
        let mut flip = None;
        if length > HEADER && drawn(link.corrupt, random) {
            self.counts.corrupted += 1;
            flip = Some(random.random_range(HEADER * 8..length * 8));
        }
        Some(Copy { due_ns, flip })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::time::Duration;

    const MS: u64 = 1_000_000;

    fn direction(link: Link) -> (Direction, StdRng) {
        let mut direction = Direction::default();
        direction.set(link);
        (direction, StdRng::seed_from_u64(1))
    }

    #[test]
    fn without_rules_a_frame_passes_at_once() {
        let (mut direction, mut random) = direction(Link::default());
        assert_eq!(direction.pass(5, 100, &mut random), [Some(Copy { due_ns: 5, flip: None }), None]);
        assert_eq!(direction.counts, Counts::default());
    }

    #[test]
    fn each_rule_shows_in_its_count() {
        let link = Link { loss: 0.1, duplicate: 0.2, corrupt: 0.3, reorder: 0.1, ..Link::default() };
        let (mut direction, mut random) = direction(link);
        let mut passed = 0;
        for now in 0..10_000 {
            let copies = direction.pass(now, 100, &mut random);
            for copy in copies.into_iter().flatten() {
                passed += 1;
                assert!(copy.flip.is_none_or(|bit| (HEADER * 8..800).contains(&bit)));
            }
        }
        let counts = direction.counts;
        assert_eq!(passed, 10_000 - counts.lost + counts.duplicated);
        assert!((800..1200).contains(&counts.lost), "{counts:?}");
        assert!((1600..2000).contains(&counts.duplicated), "{counts:?}");
        assert!((2900..3600).contains(&counts.corrupted), "{counts:?}");
        assert!((900..1300).contains(&counts.reordered), "{counts:?}");
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let link =
            Link { delay: Duration::from_millis(10), jitter: Duration::from_millis(5), ..Link::default() };
        for (reorder, in_order) in [(0.0, true), (0.2, false)] {
            let (mut direction, mut random) = direction(Link { reorder, ..link });
            let due: Vec<u64> = (0..1000)
                .map(|n| direction.pass(n * MS / 10, 100, &mut random)[0].expect("nothing is lost").due_ns)
                .collect();
            assert!(due.iter().enumerate().all(|(n, &due)| due >= n as u64 * MS / 10 + 10 * MS));
            assert_eq!(due.is_sorted(), in_order);
        }
    }

    #[test]
    fn a_rate_spreads_frames_and_drops_what_waits_too_long() {
        let (mut direction, mut random) =
            direction(Link { bytes_per_second: Some(100_000), ..Link::default() });
        let due: Vec<u64> = (0..3)
            .map(|_| direction.pass(0, 1000, &mut random)[0].expect("nothing is lost").due_ns)
            .collect();
        assert_eq!(due, [10 * MS, 20 * MS, 30 * MS]);
        let passed = (0..1000).filter(|_| direction.pass(0, 1000, &mut random)[0].is_some()).count();
        assert_eq!((passed, direction.counts.overflowed), (98, 902));
    }

    #[test]
    fn a_block_drops_what_is_on_its_way() {
        let (mut direction, mut random) =
            direction(Link { delay: Duration::from_millis(10), ..Link::default() });
        assert!(direction.pass(0, 100, &mut random)[0].is_some());
        direction.set(Link { blocked: true, ..Link::default() });
        assert!(!direction.arrives());
        assert_eq!(direction.pass(0, 100, &mut random), [None, None]);
        assert_eq!(direction.counts.blocked, 2);
    }
}
