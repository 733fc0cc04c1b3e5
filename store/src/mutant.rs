//! Known mistakes that simulated members can be told to make, to show that the proof notices each.
//! They exist only with the feature `mutants`, which no shipped binary has; without it `on` is a constant. One at a
//! time, for the members that the calling thread turns.

/// What goes wrong. Names are those of `correctness` programmes in the field: R reads, D durability, A apply; K ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A linearizable read is answered from the local state.
    R1,
    /// A read round is asked again with the same context.
    R2,
    /// A read does not wait until its index is applied.
    R4,
    /// Acknowledgements and votes leave before they are durable.
    D1,
    /// Votes alone leave before they are durable.
    D3,
    /// The directory is not synced after a new segment.
    D4,
    /// The log says that it has synced and has not.
    D7,
    /// Every other batch goes without its index, and is applied twice after a crash.
    A2,
    /// The state keeps its old index when it takes over a snapshot.
    A3,
    /// A snapshot leaves the old keys where they are.
    A4,
    /// The create revision moves with every put.
    A9,
    /// A view that is behind is not called stale.
    K1,
    /// A member stands for election while it takes over a snapshot.
    K2,
}

#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub(crate) use switch::on;
#[cfg(feature = "mutants")]
pub use switch::{ALL, MARK, set};

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    /// Stands in every binary that can be told to make mistakes, for whoever looks for it where it must not be.
    pub const MARK: &str = "keelson: this binary can make mistakes";

    pub const ALL: [(Mutant, &str); 13] = [
        (Mutant::R1, "a linearizable read is answered from the local state"),
        (Mutant::R2, "a read round is asked again with the same context"),
        (Mutant::R4, "a read does not wait until its index is applied"),
        (Mutant::D1, "acknowledgements and votes leave before they are durable"),
        (Mutant::D3, "votes leave before they are durable"),
        (Mutant::D4, "the directory is not synced after a new log segment"),
        (Mutant::D7, "the log says that it has synced and has not"),
        (Mutant::A2, "every other batch goes without its index"),
        (Mutant::A3, "the state keeps its old index when it takes over a snapshot"),
        (Mutant::A4, "a snapshot leaves the old keys where they are"),
        (Mutant::A9, "the create revision moves with every put"),
        (Mutant::K1, "a view that is behind is not called stale"),
        (Mutant::K2, "a member stands for election while it takes over a snapshot"),
    ];

    thread_local! {
        static CURRENT: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Which mistake this thread's members make from now on.
    pub fn set(mutant: Option<Mutant>) {
        CURRENT.set(mutant);
    }

    pub(crate) fn on(mutant: Mutant) -> bool {
        CURRENT.get() == Some(mutant)
    }
}
