//! Registers: writes, reads and compare-and-set of single keys, each key on its own and without looking at revisions.
//!
//! Independent of the witness: it takes the values alone. A search per key is quick while keys rotate (a few hundred
//! operations each).

use std::collections::BTreeMap;

use super::{
    Rules, Verdict, Violation,
    search::{Found, Problem, search},
};
use crate::history::{
    Fate, History, Key, OpId, Outcome, Request, Response, Value,
    request::{End, Kv, Relation, Span, Txn, Wanted},
};

/// A step of a register costs so much less than one of a whole store.
const STEPS_FOR_ONE: usize = 10;

/// An operation on one register. What never returned has no result; reads that never returned are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub op: OpId,
    pub called_ns: u64,
    pub returned_ns: u64,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Write(Value),
    Read(Option<Value>),
    /// `succeeded` is `None` if nobody was told.
    CompareAndSet {
        old: Value,
        new: Value,
        succeeded: Option<bool>,
    },
}

/// Judges the registers of a history: plain puts, newest reads of one key, and transactions that compare one key's
/// value and then put it. All other operations on such a key make it `Unknown`.
pub fn check(history: &History, rules: &Rules) -> Verdict {
    let mut registers: BTreeMap<Key, Vec<Access>> = BTreeMap::new();
    for (at, operation) in (0..).zip(&history.operations) {
        if matches!(operation.outcome, Outcome::Refused(_) | Outcome::Unknown(Fate::Never)) {
            continue;
        }
        let response = match &operation.outcome {
            Outcome::Ok(answer) => Some(&answer.response),
            _ => None,
        };
        let Some((key, action)) = action(&operation.request, response) else {
            let why = format!("operation {at} is none of a register");
            return Verdict::Unknown { why, ops: vec![OpId(at)] };
        };
        if let Some(action) = action {
            let (called_ns, returned_ns) = (operation.called_ns, operation.returned_ns);
            registers.entry(key).or_default().push(Access { op: OpId(at), called_ns, returned_ns, action });
        }
    }
    for (key, accesses) in registers {
        match check_one(&accesses, rules.max_search_steps.saturating_mul(STEPS_FOR_ONE)) {
            Verdict::Ok => {}
            Verdict::Violation(found) => {
                let what = format!("register {}: {}", key.0, found.what);
                return Verdict::Violation(Violation::new(what, found.ops));
            }
            unknown => return unknown,
        }
    }
    Verdict::Ok
}

/// Judges one register, which is empty at first.
pub fn check_one(accesses: &[Access], max_steps: usize) -> Verdict {
    match search(&Register(accesses), max_steps) {
        Found::Order(_) => Verdict::Ok,
        Found::GaveUp => Verdict::Unknown { why: format!("no order in {max_steps} steps"), ops: Vec::new() },
        Found::Nothing { longest, stuck } => {
            let ops = [stuck].into_iter().chain(longest.last().copied()).map(|step| accesses[step].op);
            Verdict::Violation(Violation::new("no order of its operations exists", ops))
        }
    }
}

/// The register and what was done to it; without an action if that proves nothing. `None`: not a register's.
fn action(request: &Request, response: Option<&Response>) -> Option<(Key, Option<Action>)> {
    match (request, response) {
        (Request::Put(put), _) if !put.ignore_value => Some((put.key, Some(Action::Write(put.value)))),
        (Request::Range(range), _)
            if range.span.end == End::Single && range.revision <= 0 && !range.serializable =>
        {
            let read = match response {
                Some(Response::Range(ranged)) => {
                    Some(Action::Read(ranged.kvs.first().map(|kv: &Kv| kv.value)))
                }
                _ => None,
            };
            Some((range.span.start, read))
        }
        (Request::Txn(txn), _) => {
            let (key, old, new) = compare_and_set(txn)?;
            let succeeded = match response {
                Some(Response::Txn(txn)) => Some(txn.succeeded),
                _ => None,
            };
            Some((key, Some(Action::CompareAndSet { old, new, succeeded })))
        }
        _ => None,
    }
}

fn compare_and_set(txn: &Txn) -> Option<(Key, Value, Value)> {
    let ([compare], [Request::Put(put)], []) = (&txn.compares[..], &txn.success[..], &txn.failure[..]) else {
        return None;
    };
    let Wanted::Value(old) = compare.wanted else { return None };
    let fits = compare.relation == Relation::Equal && compare.span == Span::key(put.key) && !put.ignore_value;
    fits.then_some((put.key, old, put.value))
}

struct Register<'a>(&'a [Access]);

impl Problem for Register<'_> {
    type State = Option<Value>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn called_ns(&self, step: usize) -> u64 {
        self.0[step].called_ns
    }

    fn returned_ns(&self, step: usize) -> u64 {
        self.0[step].returned_ns
    }

    fn only_looks(&self, step: usize) -> bool {
        use Action::{CompareAndSet, Read};
        matches!(self.0[step].action, Read(_) | CompareAndSet { succeeded: Some(false), .. })
    }

    fn start(&self) -> Option<Value> {
        None
    }

    fn step(&self, &state: &Option<Value>, step: usize) -> Option<Option<Value>> {
        match self.0[step].action {
            Action::Write(value) => Some(Some(value)),
            Action::Read(value) => (value == state).then_some(state),
            Action::CompareAndSet { old, new, succeeded } => {
                let succeeds = state == Some(old);
                (succeeded != Some(!succeeds)).then_some(if succeeds { Some(new) } else { state })
            }
        }
    }

    fn fingerprint(&self, state: &Option<Value>) -> u128 {
        state.map_or(0, |value| crate::model::mix(&[6, u64::from(value.0)]))
    }
}
