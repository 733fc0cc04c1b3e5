//! Membership: every member goes through the same configurations, each a legal step from the one before.
//!
//! A configuration is known by the index of its entry in the log. What the cluster counted as a quorum is not to be
//! seen from outside; that is the simulator's to check.

use std::collections::{BTreeMap, BTreeSet};

use super::{Verdict, Violation};
use crate::history::Member;

/// A configuration that a member says it applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub by: Member,
    /// Of the raft log.
    pub index: u64,
    pub configuration: Configuration,
}

/// Members by their IDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
}

/// Judges what all members applied. Each must report in the order in which it applied; one that started from a
/// snapshot may have missed what came before.
pub fn check(applied: &[Applied]) -> Verdict {
    Verdict::of(check_all(applied).map_err(|what| Violation::new(what, [])))
}

fn check_all(applied: &[Applied]) -> Result<(), String> {
    let mut by_index: BTreeMap<u64, (&Configuration, Member)> = BTreeMap::new();
    let mut last: BTreeMap<Member, u64> = BTreeMap::new();
    for Applied { by, index, configuration } in applied {
        if let Some(before) = last.insert(*by, *index)
            && before >= *index
        {
            return Err(format!("{by:?} applied index {index} after {before}"));
        }
        let (known, other) = by_index.entry(*index).or_insert((configuration, *by));
        if *known != configuration {
            return Err(format!("at index {index} {by:?} has {configuration:?}, {other:?} has {known:?}"));
        }
    }
    let mut removed: BTreeSet<u64> = BTreeSet::new();
    let mut before: Option<&Configuration> = None;
    for (index, (configuration, _)) in by_index {
        check_one(configuration).map_err(|what| format!("index {index}: {what}"))?;
        if let Some(before) = before {
            step(before, configuration).map_err(|what| format!("index {index}: {what}"))?;
            removed.extend(members(before).difference(&members(configuration)));
        }
        if let Some(zombie) = members(configuration).intersection(&removed).next() {
            return Err(format!("index {index}: member {zombie} is back after its removal"));
        }
        before = Some(configuration);
    }
    Ok(())
}

fn members(configuration: &Configuration) -> BTreeSet<u64> {
    configuration.voters.union(&configuration.learners).copied().collect()
}

fn check_one(configuration: &Configuration) -> Result<(), String> {
    if configuration.voters.is_empty() {
        return Err("nobody votes".to_string());
    }
    match configuration.voters.intersection(&configuration.learners).next() {
        Some(member) => Err(format!("member {member} votes and learns")),
        None => Ok(()),
    }
}

/// One member was added, removed or promoted, or nothing but its addresses changed.
fn step(before: &Configuration, after: &Configuration) -> Result<(), String> {
    if let Some(member) = before.voters.intersection(&after.learners).next() {
        return Err(format!("voter {member} became a learner"));
    }
    let (old, new) = (members(before), members(after));
    let promoted = before.learners.intersection(&after.voters).count();
    let changes = old.symmetric_difference(&new).count() + promoted;
    if changes > 1 { Err(format!("{changes} changes at once: {before:?} to {after:?}")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::{Applied, Configuration, check};
    use crate::history::Member;

    fn at(by: u32, index: u64, voters: &[u64], learners: &[u64]) -> Applied {
        let (voters, learners) = (voters.iter().copied().collect(), learners.iter().copied().collect());
        Applied { by: Member(by), index, configuration: Configuration { voters, learners } }
    }

    #[test]
    fn legal_steps_are_accepted() {
        let run = [
            at(1, 3, &[1], &[]),
            at(1, 5, &[1], &[2]),
            at(1, 9, &[1, 2], &[]),
            at(1, 12, &[2], &[]),
            at(2, 9, &[1, 2], &[]),
            at(2, 12, &[2], &[]),
        ];
        assert!(check(&run).is_ok());
    }

    #[test]
    fn broken_runs_are_refused() {
        let broken: [&[Applied]; 8] = [
            &[at(1, 3, &[1], &[]), at(2, 3, &[1, 2], &[])],
            &[at(1, 5, &[1], &[]), at(1, 5, &[1], &[])],
            &[at(1, 3, &[1, 2, 3], &[]), at(1, 4, &[1], &[])],
            &[at(1, 3, &[1, 2], &[]), at(1, 4, &[1], &[2])],
            &[at(1, 3, &[], &[1])],
            &[at(1, 3, &[1, 2], &[2])],
            &[at(1, 3, &[1, 2], &[]), at(1, 4, &[1], &[]), at(1, 5, &[1, 2], &[])],
            &[at(1, 3, &[1], &[2]), at(1, 4, &[1, 2], &[3])],
        ];
        for run in broken {
            assert!(!check(run).is_ok(), "{run:?}");
        }
    }
}
