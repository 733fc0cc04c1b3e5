//! Changes of directories that are not durable yet, in their order.
//!
//! A change is a few edits of one or two directories that happen together: a rename takes a name away and sets another.
//! It becomes durable as a whole. Changes of one directory become durable in order, so that a later one takes the
//! earlier ones along, those of the other directory of a rename too. Used by `volume`.

use std::collections::BTreeSet;
use std::ffi::OsString;

use rand::{Rng, rngs::StdRng};

/// A file's or directory's number.
pub type Number = u64;

/// One name set, or taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub directory: Number,
    pub name: OsString,
    pub to: Option<Number>,
}

/// Edits that happen together.
pub type Change = Vec<Edit>;

#[derive(Debug, Default)]
pub struct Journal {
    pending: Vec<Change>,
}

impl Journal {
    pub fn push(&mut self, change: Change) {
        self.pending.push(change);
    }

    /// All changes, in order.
    pub fn take_all(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.pending)
    }

    /// What a sync of `directory` makes durable, in order.
    pub fn take(&mut self, directory: Number) -> Vec<Change> {
        let mut directories = BTreeSet::from([directory]);
        let mut wanted = vec![false; self.pending.len()];
        for (change, wanted) in self.pending.iter().zip(&mut wanted).rev() {
            if change.iter().any(|edit| directories.contains(&edit.directory)) {
                directories.extend(change.iter().map(|edit| edit.directory));
                *wanted = true;
            }
        }
        let mut wanted = wanted.into_iter();
        let taken = self.pending.extract_if(.., |_| wanted.next() == Some(true));
        taken.collect()
    }

    /// Empties it: (what a loss of power keeps, in order; what it takes). In each directory, a beginning is kept.
    pub fn lose_power(&mut self, keep: f64, random: &mut StdRng) -> (Vec<Change>, Vec<Change>) {
        let mut ended = BTreeSet::new();
        self.take_all().into_iter().partition(|change| {
            let kept = change.iter().all(|edit| !ended.contains(&edit.directory)) && random.random_bool(keep);
            if !kept {
                ended.extend(change.iter().map(|edit| edit.directory));
            }
            kept
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn edit(directory: Number, name: &str, to: Option<Number>) -> Edit {
        Edit { directory, name: name.into(), to }
    }

    fn names(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change[0].name.to_str().expect("a test's name")).collect()
    }

    #[test]
    fn a_sync_takes_its_directory_and_what_came_before_a_rename() {
        let mut journal = Journal::default();
        journal.push(vec![edit(1, "a", Some(10))]);
        journal.push(vec![edit(2, "b", Some(11))]);
        journal.push(vec![edit(3, "c", Some(12))]);
        journal.push(vec![edit(2, "moved", None), edit(1, "moved", Some(11))]);
        journal.push(vec![edit(2, "d", Some(13))]);
        assert_eq!(names(&journal.take(1)), ["a", "b", "moved"]);
        assert_eq!(names(&journal.take(4)), [""; 0]);
        assert_eq!(names(&journal.take_all()), ["c", "d"]);
    }

    #[test]
    fn power_loss_keeps_a_beginning_of_each_directory() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut journal = Journal::default();
            for name in ["a", "b", "c", "d"] {
                journal.push(vec![edit(1, name, Some(10))]);
            }
            let (kept, lost) = journal.lose_power(0.6, &mut StdRng::seed_from_u64(seed));
            assert_eq!(names(&kept), ["a", "b", "c", "d"][..kept.len()]);
            assert_eq!(kept.len() + lost.len(), 4);
            seen.insert(kept.len());
        }
        assert_eq!(seen, BTreeSet::from([0, 1, 2, 3, 4]));
    }
}
