//! The events of a run by revision, as the accepted order made them, with what is known of when each came to be.

use crate::history::{NEVER_NS, Revision, watch::Event};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    events: Vec<Event>,
    /// Of revision 2 and on.
    revisions: Vec<Made>,
    /// In the order of the log.
    pub compactions: Vec<Compaction>,
}

/// When a revision came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Events of earlier revisions.
    first_event: u32,
    pub not_before_ns: u64,
    /// When somebody had proof of it; `NEVER_NS` if nobody ever.
    pub not_after_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    pub revision: Revision,
    pub not_before_ns: u64,
    pub not_after_ns: u64,
}

impl Replay {
    /// For so many writes, of mostly one event.
    pub(super) fn with_capacity(writes: usize) -> Replay {
        Replay {
            events: Vec::with_capacity(writes),
            revisions: Vec::with_capacity(writes),
            compactions: Vec::new(),
        }
    }

    /// The newest revision; 1 if nothing was written.
    pub fn last(&self) -> Revision {
        self.revisions.len() as Revision + 1
    }

    /// Events from revision `first` to revision `last`, both included.
    pub fn events(&self, first: Revision, last: Revision) -> &[Event] {
        let start = |revision: Revision| {
            let at = usize::try_from(revision - 2).unwrap_or(0);
            self.revisions.get(at).map_or(self.events.len(), |made| made.first_event as usize)
        };
        let (from, to) = (start(first), start(last.saturating_add(1)));
        &self.events[from..to.max(from)]
    }

    /// `None` for revision 1, which was always there, and for those that were never made.
    pub fn made(&self, revision: Revision) -> Option<&Made> {
        self.revisions.get(usize::try_from(revision - 2).ok()?)
    }

    /// The highest revision that was there for certain at a time.
    pub fn surely_at(&self, at_ns: u64) -> Revision {
        self.revisions.partition_point(|made| made.not_after_ns <= at_ns) as Revision + 1
    }

    /// The highest revision that can have been there at a time.
    pub fn perhaps_at(&self, at_ns: u64) -> Revision {
        self.revisions.partition_point(|made| made.not_before_ns <= at_ns) as Revision + 1
    }

    /// The highest compaction that can have been made by a time; 0 if none.
    pub fn perhaps_compacted_at(&self, at_ns: u64) -> Revision {
        let made = self.compactions.iter().filter(|it| it.not_before_ns <= at_ns);
        made.map(|it| it.revision).max().unwrap_or(0)
    }

    /// The next revision, not made before `not_before_ns`. Times of proof are set by `prove`.
    pub(super) fn push(&mut self, events: &[Event], not_before_ns: u64) {
        let first_event = self.events.len() as u32;
        self.events.extend_from_slice(events);
        self.revisions.push(Made { first_event, not_before_ns, not_after_ns: NEVER_NS });
    }

    pub(super) fn truncate(&mut self, last: Revision, compactions: usize) {
        if let Some(made) = self.made(last + 1) {
            self.events.truncate(made.first_event as usize);
        }
        self.revisions.truncate((last - 1) as usize);
        self.compactions.truncate(compactions);
    }

    /// Somebody had an answer from revision `revision` or a later one at `at_ns`.
    pub(super) fn prove(&mut self, revision: Revision, at_ns: u64) {
        let index = usize::try_from(revision - 2).ok();
        if let Some(made) = index.and_then(|index| self.revisions.get_mut(index)) {
            made.not_after_ns = made.not_after_ns.min(at_ns);
        }
    }

    /// What proves a revision proves those before it.
    pub(super) fn finish(&mut self) {
        let mut earliest_ns = NEVER_NS;
        for made in self.revisions.iter_mut().rev() {
            earliest_ns = earliest_ns.min(made.not_after_ns);
            made.not_after_ns = earliest_ns;
        }
    }
}
