//! Whether a history is what one copy of etcd could have answered, in an order that agrees with real time.

use super::{
    Replay, Rules, Verdict, Violation,
    replay::Compaction,
    search::{Found, Problem, search},
    steps::{Kind, Steps},
    witness::{Witnessed, witness},
};
use crate::history::{Fate, History, NEVER_NS, OpId, Outcome, Request};

/// The verdict, and if it is `Ok` the events of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub verdict: Verdict,
    pub replay: Option<Box<Replay>>,
    /// The witness did not settle it.
    pub searched: bool,
}

/// Judges all operations of a history by the model: the witness first, and a search where it left something open.
pub fn check(history: &History, rules: &Rules) -> Judged {
    let (violation, certain) = match witness(history, rules) {
        Witnessed::Ordered(mut replay) => {
            add_open_compactions(history, &mut replay);
            return Judged { verdict: Verdict::Ok, replay: Some(replay), searched: false };
        }
        Witnessed::Refuted { violation, certain } => (violation, certain),
    };
    if history.operations.len() > rules.max_search_ops {
        let verdict = if certain {
            Verdict::Violation(violation)
        } else {
            let why = format!("too long to search, and the witness says: {}", violation.what);
            Verdict::Unknown { why, ops: violation.ops }
        };
        return Judged { verdict, replay: None, searched: false };
    }
    let mut judged = check_by_search(history, rules);
    match &mut judged.verdict {
        // The witness names what the revisions contradict, which says more than the end of a search.
        Verdict::Violation(found) => *found = violation,
        Verdict::Unknown { .. } if certain => judged.verdict = Verdict::Violation(violation),
        Verdict::Unknown { why, ops } => {
            *why += &format!("; the witness says: {}", violation.what);
            *ops = violation.ops;
        }
        _ => {}
    }
    judged
}

/// The same by search alone.
pub fn check_by_search(history: &History, rules: &Rules) -> Judged {
    let steps = Steps::of(history, rules);
    let (verdict, replay) = match search(&steps, rules.max_search_steps) {
        Found::Order(order) => {
            let mut replay = Box::new(replay(history, &steps, &order));
            add_open_compactions(history, &mut replay);
            (Verdict::Ok, Some(replay))
        }
        Found::Nothing { longest, stuck } => {
            let ops = [stuck].into_iter().chain(longest.last().copied()).filter_map(|step| op(&steps, step));
            let what = format!("no order has it after the {} operations that can be ordered", longest.len());
            (Verdict::Violation(Violation::new(what, ops)), None)
        }
        Found::GaveUp => {
            let why = format!("no order in {} steps", rules.max_search_steps);
            (Verdict::Unknown { why, ops: Vec::new() }, None)
        }
    };
    Judged { verdict, replay, searched: true }
}

/// Compactions that nobody was told the end of, and that no answer needed: watchers may have been told of them.
fn add_open_compactions(history: &History, replay: &mut Replay) {
    for operation in &history.operations {
        if let Request::Compact { revision } = operation.request
            && let Outcome::Unknown(fate) = operation.outcome
            && fate != Fate::Never
            && replay.compactions.iter().all(|compaction| compaction.revision != revision)
        {
            let (not_before_ns, not_after_ns) = (operation.called_ns, NEVER_NS);
            replay.compactions.push(Compaction { revision, not_before_ns, not_after_ns });
        }
    }
}

fn op(steps: &Steps, step: usize) -> Option<OpId> {
    match steps.steps[step].kind {
        Kind::Op(op) => Some(op),
        Kind::Expiry(_) => None,
    }
}

/// The events of an order that a search found.
fn replay(history: &History, steps: &Steps, order: &[usize]) -> Replay {
    let mut replay = Replay::default();
    let mut position = steps.start();
    let (mut latest_ns, mut events) = (0, Vec::new());
    let mut proofs = Vec::new();
    for &at in order {
        let step = &steps.steps[at];
        let next = steps.step(&position, at).expect("the search took it");
        latest_ns = latest_ns.max(step.called_ns).max(next.not_before_ns);
        events.clear();
        match step.kind {
            Kind::Op(op) => {
                let operation = history.op(op);
                let observed = match &operation.outcome {
                    Outcome::Ok(answer) => Some(&answer.response),
                    _ => None,
                };
                // A refusal changes nothing, so its result says nothing here.
                let _ = position.state.apply(&operation.request, observed, operation.called_ns, &mut events);
                if let Request::Compact { revision } = operation.request
                    && !matches!(operation.outcome, Outcome::Refused(_))
                {
                    let (not_before_ns, not_after_ns) = (operation.called_ns, operation.returned_ns);
                    replay.compactions.push(Compaction { revision, not_before_ns, not_after_ns });
                }
            }
            Kind::Expiry(lease) => {
                position.state.expire(lease, NEVER_NS, &mut events);
            }
        }
        if !events.is_empty() {
            replay.push(&events, latest_ns);
        }
        if step.returned_ns != NEVER_NS {
            proofs.push((next.state.revision(), step.returned_ns));
        }
        position = next;
    }
    for (revision, at_ns) in proofs {
        replay.prove(revision, at_ns);
    }
    replay.finish();
    replay
}
