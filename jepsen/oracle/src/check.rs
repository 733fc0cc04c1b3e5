//! The checkers: each takes what a run showed and gives a verdict.
//!
//! | module | judges |
//! |---|---|
//! | `linear` | a history against the model: witness first, search where that does not settle it |
//! | `witness` | the order that the revisions of the answers claim |
//! | `search` | whether any order exists (Wing, Gong, Lowe, with a memory of what was tried) |
//! | `steps` | what may happen when, for `search` |
//! | `replay` | the events of a run by revision, as an accepted order made them |
//! | `headers` | who answered, and that no member's revision falls |
//! | `cycle` | transactions that append to lists, without looking at revisions |
//! | `auth` | entries and reads by who may do what; not from histories |
//! | `watch`, `lease`, `lock`, `set`, `register`, `members` | the traffic of that name |
//!
//! Checkers that need the run's events take a `Replay`; the others look at their own traffic only.

pub mod auth;
pub mod cycle;
pub mod headers;
pub mod lease;
pub mod linear;
pub mod lock;
pub mod members;
pub mod register;
pub mod replay;
pub mod search;
pub mod set;
pub mod steps;
pub mod watch;
pub mod witness;

pub use replay::Replay;

use crate::{history::OpId, model::Settings};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Violation(Violation),
    /// A limit was reached first. A run must not end so: it counts as failed.
    Unknown {
        why: String,
        /// Where it became difficult, if that is known.
        ops: Vec<OpId>,
    },
}

/// What was wrong, and the operations that show it: the impossible one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub what: String,
    pub ops: Vec<OpId>,
}

/// What a checker takes for granted, and how far it looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub model: Settings,
    /// How much earlier than its time a lease may end, in nanoseconds: what the faults of a run do to clocks.
    pub clock_error_ns: u64,
    /// Steps of a search before it gives up.
    pub max_search_steps: usize,
    /// Longer histories are not searched: a search keeps a state for every operation.
    pub max_search_ops: usize,
    /// Choices that a witness takes back before it gives up.
    pub max_retries: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            model: Settings::default(),
            clock_error_ns: 0,
            max_search_steps: 5_000_000,
            max_search_ops: 50_000,
            max_retries: 10_000,
        }
    }
}

impl Verdict {
    pub fn is_ok(&self) -> bool {
        *self == Verdict::Ok
    }

    /// `Ok` if there is no violation.
    pub fn of(result: Result<(), Violation>) -> Verdict {
        result.map_or_else(Verdict::Violation, |()| Verdict::Ok)
    }
}

impl Violation {
    pub fn new(what: impl Into<String>, ops: impl IntoIterator<Item = OpId>) -> Violation {
        Violation { what: what.into(), ops: ops.into_iter().collect() }
    }
}
