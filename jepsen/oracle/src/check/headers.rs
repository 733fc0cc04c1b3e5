//! Headers: the member that was asked is the one that answers, its revision never falls, and compactions name one that
//! is there.
//!
//! The second holds for all answers of one member incarnation, also those from its own state: what was answered before
//! a call bounds every answer to it. The third bounds answers of all members: a compaction's revision is that of its
//! end, which no order of effects looks at.

use std::collections::HashMap;

use super::{Verdict, Violation};
use crate::{
    history::{History, Member, OpId, Outcome, Request, Revision},
    model::has_revision,
};

pub fn check(history: &History) -> Verdict {
    Verdict::of(identity(history).and_then(|()| monotone(history)).and_then(|()| compactions(history)))
}

fn identity(history: &History) -> Result<(), Violation> {
    for (at, operation) in (0..).zip(&history.operations) {
        if let Outcome::Ok(answer) = &operation.outcome
            && answer.member != operation.member
        {
            let what = format!("{:?} was asked, {:?} answered", operation.member, answer.member);
            return Err(Violation::new(what, [OpId(at)]));
        }
    }
    Ok(())
}

fn monotone(history: &History) -> Result<(), Violation> {
    let mut answered: Vec<(u64, Member, Revision, OpId)> = Vec::new();
    for (at, operation) in (0..).zip(&history.operations) {
        if let Outcome::Ok(answer) = &operation.outcome {
            answered.push((operation.returned_ns, answer.member, answer.revision, OpId(at)));
        }
    }
    answered.sort_by_key(|&(returned_ns, ..)| returned_ns);
    let mut returned = answered.into_iter().peekable();
    let mut highest: HashMap<Member, (Revision, OpId)> = HashMap::new();
    for (at, operation) in (0..).zip(&history.operations) {
        while let Some((_, member, revision, op)) =
            returned.next_if(|&(returned_ns, ..)| returned_ns < operation.called_ns)
        {
            let before = highest.entry(member).or_insert((revision, op));
            if revision > before.0 {
                *before = (revision, op);
            }
        }
        if let Outcome::Ok(answer) = &operation.outcome
            && let Some(&(revision, before)) = highest.get(&answer.member)
            && answer.revision < revision
        {
            let what = format!("{:?} went from revision {revision} to {}", answer.member, answer.revision);
            return Err(Violation::new(what, [OpId(at), before]));
        }
    }
    Ok(())
}

/// What is called after a compaction was answered finds the revision that this named.
fn compactions(history: &History) -> Result<(), Violation> {
    let compactions = (0..).map(OpId).zip(&history.operations).filter_map(|(op, operation)| {
        match (&operation.request, &operation.outcome) {
            (Request::Compact { .. }, Outcome::Ok(answer)) => {
                Some((operation.returned_ns, answer.revision, op))
            }
            _ => None,
        }
    });
    let mut answered: Vec<(u64, Revision, OpId)> = compactions.collect();
    answered.sort_unstable();
    let mut answered = answered.into_iter().peekable();
    let mut highest: Option<(Revision, OpId)> = None;
    for (op, operation) in (0..).map(OpId).zip(&history.operations) {
        while let Some((_, revision, compaction)) =
            answered.next_if(|&(returned_ns, ..)| returned_ns < operation.called_ns)
        {
            highest = highest.max(Some((revision, compaction)));
        }
        if let Outcome::Ok(answer) = &operation.outcome
            && let Some((revision, compaction)) = highest
            && has_revision(&operation.request)
            && !operation.is_serializable()
            && answer.revision < revision + Revision::from(answer.response.wrote())
        {
            let what =
                format!("a compaction named revision {revision}, and later there was {}", answer.revision);
            return Err(Violation::new(what, [op, compaction]));
        }
    }
    Ok(())
}
