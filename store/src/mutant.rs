//! Known mistakes that simulated members can be told to make, to show that the proof notices each.
//! They exist only with the feature `mutants`, which no shipped binary has; without it `on` is a constant. One at a
//! time, for the members that the calling thread turns.

/// What goes wrong. Names are those of `correctness` programmes in the field: R reads, D durability, A apply, W
/// watches, L leases, M members, S security; K ours, as are W8 to W12, L7 to L10, M4 and M5. `ALL` says what each is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A linearizable read is answered from the local state.
    R1,
    /// A read round is asked again with the same context.
    R2,
    /// A new leader answers reads before it has committed in its term.
    R3,
    /// A read does not wait until its index is applied.
    R4,
    /// A local read names a newer revision than it shows.
    R5,
    /// Acknowledgements and votes leave before they are durable.
    D1,
    /// The only member applies before its log is synced.
    D2,
    /// Votes leave before they are durable.
    D3,
    /// The directory is not synced after a new log segment.
    D4,
    /// The log's checksums are not looked at.
    D5,
    /// Damage in the middle of the log passes for a torn tail.
    D6,
    /// A failed sync of the log counts as done.
    D7,
    /// The log is cut behind what was not flushed.
    D8,
    /// The index is saved ahead of its data.
    A1,
    /// Every other batch goes without its index, and is applied twice after a crash.
    A2,
    /// The state keeps its old index when it takes over a snapshot.
    A3,
    /// A snapshot leaves the old keys where they are.
    A4,
    /// Ranges inside transactions are checked at the leader only.
    A5,
    /// The keys of a lease go in an order that differs between members.
    A6,
    /// Each operation of a transaction makes a revision.
    A7,
    /// Compares see their transaction's own puts.
    A8,
    /// The create revision moves with every put.
    A9,
    /// A compaction drops the tombstone at its revision.
    A10,
    /// A restart takes the revision from the keys that are left.
    A11,
    /// A snapshot's last batch is lost.
    A12,
    /// Users, roles and whether they count stay as they were when a snapshot is taken over.
    A13,
    /// A watcher that reads slowly loses events.
    W1,
    /// Watchers are told again after a snapshot.
    W2,
    /// Progress is told ahead of events.
    W3,
    /// The events of a revision come in several responses.
    W4,
    /// A watcher that starts in the future is told of the present.
    W5,
    /// The events of a revision come in another order.
    W6,
    /// An event is told twice.
    W7,
    /// What the history holds is told before the news of it.
    W8,
    /// A watcher that starts below zero is taken, and told nothing of the past.
    W9,
    /// A watcher that is behind a compaction goes on with what is left.
    W10,
    /// A watcher from now on is told of what was the newest then.
    W11,
    /// A watcher whose history was read goes on from now, and misses what happened meanwhile.
    W12,
    /// Leases are lost in a restart.
    L1,
    /// A deposed leader goes on ending leases.
    L2,
    /// A keepalive is acknowledged without asking who leads.
    L3,
    /// A new leader gives leases no time.
    L4,
    /// A new leader gives leases all of their time, whatever was left.
    L5,
    /// A keepalive is refused before the grant is applied.
    L7,
    /// The end of a lease that waits for the next leader is proposed there.
    L8,
    /// Ends of leases by time name nobody, and are refused while authentication is on.
    L9,
    /// A restart forgets leases with IDs below zero.
    L10,
    /// Transactions nested in others, and previous values and leases of puts in them, are not checked.
    S1,
    /// A token outlives the password or the user that it was given for, and a time without authentication.
    S2,
    /// Raft counts by a change of members before it is committed.
    M1,
    /// A voter that was removed is still counted.
    M2,
    /// A learner is promoted that has not caught up.
    M3,
    /// A learner votes when its URLs are updated.
    M4,
    /// A promotion is not stored.
    M5,
    /// A view that is behind is not called stale.
    K1,
    /// A member stands for election while it takes over a snapshot.
    K2,
    /// A restart completes an older snapshot than the newest.
    K3,
    /// Learners hear of a lone voter's term before it is durable.
    K4,
    /// Received snapshots are removed while they wait to be taken over.
    K5,
}

#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub(crate) use switch::on;
#[cfg(feature = "mutants")]
pub use switch::{ALL, named, set, shown_by};

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    /// Stands in every binary that can be told to make mistakes, for whoever looks for it where it must not be.
    #[used]
    static MARK: [u8; 38] = *b"keelson: this binary can make mistakes";

    /// What a stale or early read breaks.
    const READS: &[&str] = &["linearizability", "headers"];
    /// What members that differ break.
    const STATE: &[&str] = &["digest", "hash"];

    /// Each with what it is, and the invariants of the simulator by which it must be noticed: another one would say
    /// nothing of the mistake.
    pub const ALL: [(Mutant, &str, &[&str]); 59] = [
        (Mutant::R1, "a linearizable read is answered from the local state", READS),
        (Mutant::R2, "a read round is asked again with the same context", READS),
        (Mutant::R3, "a new leader answers reads before it has committed in its term", READS),
        (Mutant::R4, "a read does not wait until its index is applied", READS),
        (Mutant::R5, "a local read names a newer revision than it shows", READS),
        (
            Mutant::D1,
            "acknowledgements and votes leave before they are durable",
            &["durability", "digest", "election safety", "leader completeness", "commit quorum"],
        ),
        (
            Mutant::D2,
            "the only member applies before its log is synced",
            &["durability", "digest", "linearizability", "headers"],
        ),
        (
            Mutant::D3,
            "votes leave before they are durable",
            &["election safety", "election quorum", "leader completeness", "durability", "digest"],
        ),
        (Mutant::D4, "the directory is not synced after a new log segment", &["start", "durability"]),
        (Mutant::D5, "the log's checksums are not looked at", &["digest", "durability", "start"]),
        (Mutant::D6, "damage in the middle of the log passes for a torn tail", &["durability", "digest"]),
        (Mutant::D7, "a failed sync of the log counts as done", &["start", "durability"]),
        (Mutant::D8, "the log is cut behind what was not flushed", &["start"]),
        (Mutant::A1, "the index is saved ahead of its data", STATE),
        (Mutant::A2, "every other batch goes without its index, and is applied twice after a crash", STATE),
        (
            Mutant::A3,
            "the state keeps its old index when it takes over a snapshot",
            &["digest", "hash", "recovery"],
        ),
        (Mutant::A4, "a snapshot leaves the old keys where they are", STATE),
        (Mutant::A5, "ranges inside transactions are checked at the leader only", STATE),
        (Mutant::A6, "the keys of a lease go in an order that differs between members", &["digest", "watch"]),
        (Mutant::A7, "each operation of a transaction makes a revision", &["digest", "linearizability"]),
        (Mutant::A8, "compares see their transaction's own puts", &["digest", "linearizability"]),
        (Mutant::A9, "the create revision moves with every put", &["digest", "linearizability"]),
        (Mutant::A10, "a compaction drops the tombstone at its revision", &["watch"]),
        (
            Mutant::A11,
            "a restart takes the revision from the keys that are left",
            &["headers", "digest", "linearizability"],
        ),
        (Mutant::A12, "a snapshot's last batch is lost", STATE),
        (
            Mutant::A13,
            "users, roles and whether they count stay as they were before a snapshot",
            &["digest", "auth"],
        ),
        (Mutant::W1, "a watcher that reads slowly loses events", &["watch"]),
        (Mutant::W2, "watchers are told again after a snapshot", &["watch"]),
        (Mutant::W3, "progress is told ahead of events", &["watch"]),
        (Mutant::W4, "the events of a revision come in several responses", &["watch"]),
        (Mutant::W5, "a watcher that starts in the future is told of the present", &["watch"]),
        (Mutant::W6, "the events of a revision come in another order", &["watch"]),
        (Mutant::W7, "an event is told twice", &["watch"]),
        (Mutant::W8, "what the history holds is told before the news of it", &["watch"]),
        (Mutant::W9, "a watcher that starts below zero is told nothing of the past", &["watch"]),
        (Mutant::W10, "a watcher that is behind a compaction goes on with what is left", &["watch"]),
        (Mutant::W11, "a watcher from now on is told of what was the newest then", &["watch"]),
        (Mutant::W12, "a watcher whose history was read misses what happened meanwhile", &["watch"]),
        (Mutant::L1, "leases are lost in a restart", &["digest", "lease", "leases"]),
        (Mutant::L2, "a deposed leader goes on ending leases", &["lease"]),
        (Mutant::L3, "a keepalive is acknowledged without asking who leads", &["lease", "linearizability"]),
        (Mutant::L4, "a new leader gives leases no time", &["lease"]),
        (Mutant::L5, "a new leader gives leases all of their time, whatever was left", &["leases"]),
        (Mutant::L7, "a keepalive is refused before the grant is applied", &["linearizability"]),
        (Mutant::L8, "the end of a lease that waits for the next leader is proposed there", &["lease"]),
        (
            Mutant::L9,
            "ends of leases by time name nobody, and are refused while authentication is on",
            &["auth", "leases"],
        ),
        (Mutant::L10, "a restart forgets leases with IDs below zero", &["digest", "lease", "leases"]),
        (
            Mutant::S1,
            "nested transactions, and previous values and leases of puts in one, are not checked",
            &["auth"],
        ),
        (Mutant::S2, "a token outlives its user's password, or a time without authentication", &["auth"]),
        (
            Mutant::M1,
            "raft counts by a change of members before it is committed",
            &["commit quorum", "election quorum", "election safety"],
        ),
        (
            Mutant::M2,
            "a voter that was removed is still counted",
            &["members", "commit quorum", "election quorum"],
        ),
        (Mutant::M3, "a learner is promoted that has not caught up", &["members"]),
        (
            Mutant::M4,
            "a learner votes when its URLs are updated",
            &["members", "commit quorum", "election quorum"],
        ),
        (Mutant::M5, "a promotion is not stored", &["members"]),
        (Mutant::K1, "a view that is behind is not called stale", READS),
        (Mutant::K2, "a member stands for election while it takes over a snapshot", &["panic"]),
        (Mutant::K3, "a restart completes an older snapshot than the newest", &["panic", "digest", "start"]),
        (
            Mutant::K4,
            "learners hear of a lone voter's term before it is durable",
            &["digest", "durability", "leader completeness"],
        ),
        (Mutant::K5, "received snapshots are removed while they wait to be taken over", &["stop"]),
    ];

    thread_local! {
        static CURRENT: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Which mistake this thread's members make from now on.
    pub fn set(mutant: Option<Mutant>) {
        CURRENT.set(mutant);
    }

    pub fn named(name: &str) -> Option<Mutant> {
        ALL.iter().map(|(mutant, ..)| *mutant).find(|mutant| format!("{mutant:?}") == name)
    }

    /// The invariants by which a mistake must be noticed.
    pub fn shown_by(name: &str) -> &'static [&'static str] {
        ALL.iter().find(|(mutant, ..)| format!("{mutant:?}") == name).map_or(&[], |(_, _, shown_by)| shown_by)
    }

    pub(crate) fn on(mutant: Mutant) -> bool {
        CURRENT.get() == Some(mutant)
    }
}
