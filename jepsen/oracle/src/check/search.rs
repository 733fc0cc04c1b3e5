//! Whether operations that overlap in time can be put into some order that a specification allows.
//!
//! Wing and Gong's search with Lowe's memory of what was tried: an operation may come next if it was called before
//! every other one left has returned; a pair of (operations taken, state) that once led nowhere is not tried again.
//! The memory holds 128-bit hashes of such pairs, never the pairs.
//!
//! A step that only looks is taken as soon as it is allowed and never taken back: it can only make room. That a step
//! leaves one state as it is does not suffice: the same write may be needed later.
//! Source: G. Lowe, "Testing for linearizability" (2016); anishathalye/porcupine for the list that calls are lifted
//! from.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

/// Operations with their times, and what each does to a state.
pub trait Problem {
    type State: Clone;

    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn called_ns(&self, step: usize) -> u64;
    /// `NEVER_NS`: it may happen at any time after its call, or never.
    fn returned_ns(&self, step: usize) -> u64;
    /// Whether it leaves every state in which it is allowed as it is.
    fn only_looks(&self, step: usize) -> bool;
    fn start(&self) -> Self::State;
    /// The state after it; `None` if it cannot happen in this one.
    fn step(&self, state: &Self::State, step: usize) -> Option<Self::State>;
    /// Equal exactly for states that nothing can tell apart.
    fn fingerprint(&self, state: &Self::State) -> u128;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// One possible order; operations that never returned may be missing.
    Order(Vec<usize>),
    /// There is none. The longest beginning of an order, and the operation that could not follow in time.
    Nothing {
        longest: Vec<usize>,
        stuck: usize,
    },
    GaveUp,
}

const END: u32 = u32::MAX;

/// Calls and returns in the order of time, as a doubly linked list. Entry 0 is before the first.
struct Entries {
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Step, and whether this is its return.
    what: Vec<(u32, bool)>,
    call: Vec<u32>,
    /// `END` if it never returns.
    ret: Vec<u32>,
}

impl Entries {
    fn of<P: Problem>(problem: &P) -> Entries {
        let steps = 0..problem.len() as u32;
        // What is called when another returns overlaps it.
        let mut times: Vec<(u64, bool, u32)> =
            steps.clone().map(|step| (problem.called_ns(step as usize), false, step)).collect();
        times.extend(steps.filter_map(|step| {
            let returned_ns = problem.returned_ns(step as usize);
            (returned_ns != crate::history::NEVER_NS).then_some((returned_ns, true, step))
        }));
        times.sort_unstable();
        let len = times.len() as u32;
        let mut entries = Entries {
            next: (1..=len).chain([END]).collect(),
            previous: [END].into_iter().chain(0..len).collect(),
            what: vec![(END, false)],
            call: vec![END; problem.len()],
            ret: vec![END; problem.len()],
        };
        for (at, (_, is_return, step)) in (1..).zip(times) {
            entries.what.push((step, is_return));
            let places = if is_return { &mut entries.ret } else { &mut entries.call };
            places[step as usize] = at;
        }
        entries
    }

    fn unlink(&mut self, entry: u32) {
        let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
        self.next[previous as usize] = next;
        if next != END {
            self.previous[next as usize] = previous;
        }
    }

    fn relink(&mut self, entry: u32) {
        let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
        self.next[previous as usize] = entry;
        if next != END {
            self.previous[next as usize] = entry;
        }
    }

    fn lift(&mut self, step: usize) {
        self.unlink(self.call[step]);
        if self.ret[step] != END {
            self.unlink(self.ret[step]);
        }
    }

    fn put_back(&mut self, step: usize) {
        if self.ret[step] != END {
            self.relink(self.ret[step]);
        }
        self.relink(self.call[step]);
    }
}

/// The hashes are uniform already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Taken<S> {
    step: usize,
    before: S,
    /// It changed the state, so something else might have been better.
    is_choice: bool,
}

/// Looks for an order, in at most `max_steps` trials of an operation.
pub fn search<P: Problem>(problem: &P, max_steps: usize) -> Found {
    let mut entries = Entries::of(problem);
    let mut must_happen = entries.ret.iter().filter(|&&ret| ret != END).count();
    let mut tried: HashSet<u128, BuildHasherDefault<AsIs>> = HashSet::default();
    let mut taken: Vec<Taken<P::State>> = Vec::new();
    let mut taken_hash = 0;
    let mut state = problem.start();
    let mut longest = Vec::new();
    let mut stuck = 0;
    let mut steps = 0;
    let mut at = entries.next[0];
    loop {
        if must_happen == 0 {
            return Found::Order(taken.iter().map(|taken| taken.step).collect());
        }
        let (step, is_return) = entries.what[at as usize];
        let step = step as usize;
        if !is_return {
            steps += 1;
            if steps > max_steps {
                return Found::GaveUp;
            }
            let lost = entries.ret[step] == END;
            // Without an effect it may as well never have happened.
            let after = problem.step(&state, step);
            let after =
                after.filter(|after| !lost || problem.fingerprint(after) != problem.fingerprint(&state));
            if let Some(after) = after {
                let is_choice = !problem.only_looks(step);
                let hash = taken_hash ^ step_hash(step);
                if !is_choice || tried.insert(hash ^ problem.fingerprint(&after)) {
                    taken.push(Taken { step, before: std::mem::replace(&mut state, after), is_choice });
                    taken_hash = hash;
                    must_happen -= usize::from(!lost);
                    entries.lift(step);
                    at = entries.next[0];
                    continue;
                }
            }
            at = entries.next[at as usize];
            continue;
        }
        // It has returned and could not be placed: something before was wrong.
        if longest.len() <= taken.len() {
            longest = taken.iter().map(|taken| taken.step).collect();
            stuck = step;
        }
        loop {
            let Some(last) = taken.pop() else { return Found::Nothing { longest, stuck } };
            entries.put_back(last.step);
            must_happen += usize::from(entries.ret[last.step] != END);
            taken_hash ^= step_hash(last.step);
            state = last.before;
            if last.is_choice {
                at = entries.next[entries.call[last.step] as usize];
                break;
            }
        }
    }
}

fn step_hash(step: usize) -> u128 {
    crate::model::mix(&[5, step as u64])
}

#[cfg(test)]
mod tests {
    use super::{Found, Problem, search};
    use crate::history::NEVER_NS;

    /// One register: (called, returned, written value or read value).
    struct Register(Vec<(u64, u64, Op)>);

    enum Op {
        Write(u64),
        Read(u64),
    }
    use Op::{Read, Write};

    impl Problem for Register {
        type State = u64;

        fn len(&self) -> usize {
            self.0.len()
        }
        fn called_ns(&self, step: usize) -> u64 {
            self.0[step].0
        }
        fn returned_ns(&self, step: usize) -> u64 {
            self.0[step].1
        }
        fn only_looks(&self, step: usize) -> bool {
            matches!(self.0[step].2, Read(_))
        }
        fn start(&self) -> u64 {
            0
        }
        fn step(&self, &state: &u64, step: usize) -> Option<u64> {
            match self.0[step].2 {
                Write(value) => Some(value),
                Read(value) => (value == state).then_some(state),
            }
        }
        fn fingerprint(&self, &state: &u64) -> u128 {
            u128::from(state)
        }
    }

    #[test]
    fn a_read_may_see_a_write_that_overlaps_it() {
        let problem = Register(vec![(0, 100, Write(100)), (25, 75, Read(100)), (30, 60, Read(0))]);
        assert_eq!(search(&problem, 100), Found::Order(vec![2, 0, 1]));
    }

    #[test]
    fn a_read_may_not_go_back() {
        let problem = Register(vec![(0, 100, Write(200)), (10, 30, Read(200)), (40, 90, Read(0))]);
        assert_eq!(search(&problem, 100), Found::Nothing { longest: vec![0, 1], stuck: 2 });
    }

    #[test]
    fn what_is_called_at_the_return_of_another_overlaps_it() {
        let problem = Register(vec![(0, 10, Write(1)), (10, 20, Read(0))]);
        assert_eq!(search(&problem, 100), Found::Order(vec![1, 0]));
        let later = Register(vec![(0, 10, Write(1)), (11, 20, Read(0))]);
        assert!(matches!(search(&later, 100), Found::Nothing { .. }));
    }

    #[test]
    fn what_never_returned_happens_late_or_never() {
        let late = Register(vec![(0, NEVER_NS, Write(7)), (10, 20, Read(0)), (30, 40, Read(7))]);
        assert_eq!(search(&late, 100), Found::Order(vec![1, 0, 2]));
        let never = Register(vec![(0, NEVER_NS, Write(7)), (30, 40, Read(0))]);
        assert_eq!(search(&never, 100), Found::Order(vec![1]));
        let twice =
            Register(vec![(0, NEVER_NS, Write(7)), (1, 2, Read(7)), (3, 4, Write(8)), (5, 6, Read(7))]);
        assert!(matches!(search(&twice, 100), Found::Nothing { stuck: 3, .. }));
    }

    #[test]
    fn a_write_that_changes_nothing_now_may_be_needed_later() {
        let writes = vec![(0, 5, Write(3)), (1, 60, Write(3)), (20, 30, Write(4)), (40, 50, Read(3))];
        assert!(matches!(search(&Register(writes), 100), Found::Order(_)));
    }

    #[test]
    fn it_gives_up() {
        let problem =
            Register((1..40).map(|value| (0, 100, Write(value))).chain([(101, 102, Read(50))]).collect());
        assert_eq!(search(&problem, 1_000), Found::GaveUp);
    }
}
