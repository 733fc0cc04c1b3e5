//! One format for the histories of all runs: what each client asked, when, and what it was told.
//!
//! Keys and values are interned (`names`), so an operation is at most 136 bytes and its lists, and comparing keys or
//! values as etcd does is comparing integers. `record` makes a history, `codec` turns it into bytes and back.
//! Times are nanoseconds on one monotonic clock shared by all clients of the run.
//!
//! Invariants of a finished history, which `codec::decode` checks too:
//! - `operations` is sorted by `called_ns`, and `OpId` is the index there;
//! - an operation returns no earlier than it was called; one of unknown outcome returns at `NEVER_NS`;
//! - every `Key` and `Value` is in the tables, and number 0 in both is the empty name.

pub mod codec;
pub mod names;
pub mod record;
pub mod request;
pub mod watch;

use serde::{Deserialize, Serialize};

pub use names::{Key, Names, Value};
pub use request::{Request, Response};
pub use watch::Stream;

/// Store revision, as in a response's header: 1 is the empty store, and each write that changes something adds 1.
pub type Revision = i64;

/// Lease ID; any number but 0, which means no lease.
pub type LeaseId = i64;

/// The return time of an operation that nobody was told the end of.
pub const NEVER_NS: u64 = u64::MAX;

/// An operation by its place in `History::operations`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId(pub u32);

/// A client that has one operation under way at a time. After an unknown outcome it goes on under a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Client(pub u32);

/// A member of the cluster, by the number the run gave it. A restarted process may get a new number: reads that are
/// not linearizable may then show an older revision than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member(pub u32);

/// All that one run showed to its clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub keys: Names,
    pub values: Names,
    pub operations: Vec<Operation>,
    pub streams: Vec<Stream>,
}

/// One request and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub client: Client,
    /// The member that was asked.
    pub member: Member,
    pub called_ns: u64,
    /// `NEVER_NS` if the outcome is unknown.
    pub returned_ns: u64,
    pub request: Request,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    Ok(Answer),
    /// Definitely without effect.
    Refused(Refusal),
    /// Timeouts, lost connections, lost leaders: it may happen at any time after the call, or never.
    Unknown(Fate),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// `header.revision`.
    pub revision: Revision,
    /// The member that `header.member_id` names.
    pub member: Member,
    pub response: Response,
}

/// What the members' merged raft logs say of a write of unknown outcome, where somebody looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Open,
    /// In no log: it had no effect.
    Never,
    /// It made this revision.
    At(Revision),
}

/// Errors that say an operation had no effect. Names are those of etcd's `rpctypes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    /// Space, size, rate, rights: not what the model knows; only the absence of an effect is checked.
    Unmodelled,
}

impl Member {
    /// The cluster by itself: where a run can look into the log, the ends of leases whose time was over stand in its
    /// history as revokes that nobody asked for.
    pub const CLUSTER: Member = Member(u32::MAX);
}

impl History {
    pub fn op(&self, id: OpId) -> &Operation {
        &self.operations[id.0 as usize]
    }
}

impl Operation {
    /// Whether a member may answer it from its own state, however old.
    pub fn is_serializable(&self) -> bool {
        match &self.request {
            Request::Range(range) => range.serializable,
            Request::Txn(txn) => {
                let mut ops = txn.success.iter().chain(&txn.failure);
                ops.all(|op| matches!(op, Request::Range(range) if range.serializable))
                    && !(txn.success.is_empty() && txn.failure.is_empty())
            }
            Request::Leases => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Operation;

    /// Histories of millions of operations must fit into memory.
    #[test]
    fn an_operation_is_small() {
        let bytes = size_of::<Operation>();
        assert!(bytes <= 136, "{bytes} bytes");
    }
}
