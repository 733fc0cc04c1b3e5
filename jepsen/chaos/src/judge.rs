//! The verdict on a run: all checkers that its history is for, one after the other, as one line.
//!
//! A function of the history and what the run says of itself; histories that were kept can be judged again.

use std::collections::BTreeMap;

use oracle::{
    check::{Replay, Rules, Verdict, Violation, cycle, headers, lease, linear, lock, register, set, watch},
    history::{
        Fate, History, Key, NEVER_NS, OpId, Operation, Outcome, Request, Response, Revision,
        request::{End, Relation, SortOrder, SortTarget, Span, Txn, Wanted},
    },
};

use crate::workload::{LIST, LOCK, Workload, element, elements};

/// Operations shown with a violation.
const SHOWN: usize = 4;

/// What a verdict needs beside the history.
#[derive(Clone, Debug)]
pub struct Case {
    pub workload: Workload,
    pub rules: Rules,
    /// How much longer than its time a lease may live.
    pub lease_grace_ns: u64,
    /// Streams that must have been told all up to `last`.
    pub complete: Vec<usize>,
    pub last: Revision,
}

/// How long a text may be of which the first failure is told.
const MAX_TEXT: usize = 600;

/// `Err` with the checker and what it found; the first that does not say `Ok`.
pub fn judge(history: &History, case: &Case) -> Result<(), Violation> {
    tell(history, "headers", headers::check(history))?;
    let judged = linear::check(history, &case.rules);
    tell(history, "linearizability", judged.verdict)?;
    let replay = judged.replay.ok_or_else(|| Violation::new("linearizability: no order was kept", []))?;
    tell(history, "watch", watch::check_complete(history, &replay, &case.complete, case.last))?;
    tell(history, "lease", lease::check(history, case.lease_grace_ns))?;
    match case.workload {
        Workload::Register => registers(history, &case.rules),
        Workload::Append => tell(history, "cycle", cycle::check(&transactions(history))),
        Workload::Set => sets(history),
        Workload::Lock => tell(history, "lock", locks(history, &replay)),
        _ => Ok(()),
    }
}

fn tell(history: &History, checker: &str, verdict: Verdict) -> Result<(), Violation> {
    let (what, ops) = match verdict {
        Verdict::Ok => return Ok(()),
        Verdict::Unknown { why, ops } => (format!("not decided: {why}"), ops),
        Verdict::Violation(Violation { what, ops }) => (what, ops),
    };
    let shown: Vec<String> = ops.iter().take(SHOWN).map(|&op| show(history, op)).collect();
    Err(Violation { what: format!("{checker}: {what}{}", shown.concat()), ops })
}

fn show(history: &History, op: OpId) -> String {
    let mut text = format!("{:?}", history.op(op));
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    format!("\n  {op:?}: {text}")
}

fn key(history: &History, key: Key) -> &[u8] {
    history.keys.bytes(key.0)
}

/// The part of a history that is about registers, judged by itself.
fn registers(history: &History, rules: &Rules) -> Result<(), Violation> {
    let of_register = |operation: &Operation| {
        let about = match &operation.request {
            Request::Put(put) => put.key,
            Request::Range(range) if range.span.end == End::Single => range.span.start,
            Request::Txn(txn) => match txn.compares.first() {
                Some(compare) => compare.span.start,
                None => return false,
            },
            _ => return false,
        };
        key(history, about).starts_with(b"register/")
    };
    let mut part =
        History { keys: history.keys.clone(), values: history.values.clone(), ..History::default() };
    part.operations = history.operations.iter().filter(|it| of_register(it)).cloned().collect();
    tell(&part, "register", register::check(&part, rules))
}

/// The transactions of lists.
fn transactions(history: &History) -> Vec<cycle::Txn> {
    // List numbers, for keys.
    let mut lists: BTreeMap<Key, u32> = BTreeMap::new();
    let mut txns = Vec::new();
    for (op, operation) in (0..).map(OpId).zip(&history.operations) {
        let Request::Txn(txn) = &operation.request else { continue };
        let mut number = |list: Key| {
            let next = lists.len() as u32;
            *lists.entry(list).or_insert(next)
        };
        let mut steps = Vec::new();
        let mut may_have_happened = true;
        match &operation.outcome {
            Outcome::Ok(answer) => {
                let Response::Txn(told) = &answer.response else { continue };
                if txn.compares.is_empty() || !told.succeeded {
                    let branch = if told.succeeded { &txn.success } else { &txn.failure };
                    read_steps(history, branch, &told.answers, &mut number, &mut steps);
                } else {
                    append_steps(history, txn, true, &mut number, &mut steps);
                }
            }
            Outcome::Unknown(fate) => {
                may_have_happened = *fate != Fate::Never;
                append_steps(history, txn, false, &mut number, &mut steps);
            }
            Outcome::Refused(_) => continue,
        }
        if !steps.is_empty() {
            let (called_ns, returned_ns) = (operation.called_ns, operation.returned_ns);
            txns.push(cycle::Txn { op, called_ns, returned_ns, may_have_happened, steps });
        }
    }
    txns
}

fn read_steps(
    history: &History,
    branch: &[Request],
    answers: &[(Revision, Response)],
    number: &mut impl FnMut(Key) -> u32,
    steps: &mut Vec<cycle::Step>,
) {
    for (request, (_, response)) in branch.iter().zip(answers) {
        let (Request::Range(range), Response::Range(ranged)) = (request, response) else { continue };
        if !key(history, range.span.start).starts_with(LIST.as_bytes()) {
            continue;
        }
        let value = ranged.kvs.first().map(|kv| history.values.bytes(kv.value.0));
        if let Some(elements) = value.map_or(Some(Vec::new()), elements) {
            steps.push(cycle::Step::Read { list: number(range.span.start), elements });
        }
    }
}

/// What a guarded write appended, and, if its guard is known to have held, read.
fn append_steps(
    history: &History,
    txn: &Txn,
    held: bool,
    number: &mut impl FnMut(Key) -> u32,
    steps: &mut Vec<cycle::Step>,
) {
    for request in &txn.success {
        let Request::Put(put) = request else { continue };
        let Some(mut elements) = elements(history.values.bytes(put.value.0)) else { continue };
        if !key(history, put.key).starts_with(LIST.as_bytes()) {
            continue;
        }
        let (list, element) = (number(put.key), elements.pop().expect("a list has elements"));
        if held {
            steps.push(cycle::Step::Read { list, elements });
        }
        steps.push(cycle::Step::Append { list, element });
    }
}

fn sets(history: &History) -> Result<(), Violation> {
    let mut adds: BTreeMap<u64, Vec<set::Add>> = BTreeMap::new();
    let mut reads: BTreeMap<u64, Vec<set::Read>> = BTreeMap::new();
    for (op, operation) in (0..).map(OpId).zip(&history.operations) {
        let (called_ns, returned_ns) = (operation.called_ns, operation.returned_ns);
        match (&operation.request, &operation.outcome) {
            (Request::Put(put), outcome) => {
                let Some((set, element)) = element(key(history, put.key)) else { continue };
                let may_have_happened =
                    !matches!(outcome, Outcome::Refused(_) | Outcome::Unknown(Fate::Never));
                let add = set::Add { op, element, called_ns, returned_ns, may_have_happened };
                adds.entry(set).or_default().push(add);
            }
            (Request::Range(range), Outcome::Ok(answer)) if !range.serializable => {
                let Response::Range(ranged) = &answer.response else { continue };
                let start = key(history, range.span.start);
                let Some((set, _)) = element(&[start, b"0"].concat()) else { continue };
                let elements = ranged.kvs.iter().filter_map(|kv| element(key(history, kv.key)));
                let elements = elements.map(|(_, element)| element).collect();
                reads.entry(set).or_default().push(set::Read { op, elements, called_ns, returned_ns });
            }
            _ => {}
        }
    }
    for (set, reads) in reads {
        let adds = adds.remove(&set).unwrap_or_default();
        tell(history, &format!("set {set}"), set::check(&adds, &reads))?;
    }
    Ok(())
}

fn locks(history: &History, replay: &Replay) -> Verdict {
    let (mut acquired, mut guarded) = (Vec::new(), Vec::new());
    for (op, operation) in (0..).map(OpId).zip(&history.operations) {
        let Outcome::Ok(answer) = &operation.outcome else { continue };
        match (&operation.request, &answer.response) {
            // Who asks for the oldest key of a lock is told who holds it.
            (Request::Range(range), Response::Range(ranged))
                if (range.order, range.target) == (SortOrder::Ascend, SortTarget::Create) =>
            {
                if let Some(kv) = ranged.kvs.first() {
                    let (called_ns, returned_ns) = (operation.called_ns, operation.returned_ns);
                    debug_assert_ne!(returned_ns, NEVER_NS);
                    acquired.push(lock::Acquired {
                        op,
                        lock: range.span,
                        key: kv.key,
                        called_ns,
                        returned_ns,
                    });
                }
            }
            (Request::Txn(txn), Response::Txn(told)) if told.succeeded && answer.response.wrote() => {
                let [compare] = &txn.compares[..] else { continue };
                let held = matches!(compare.wanted, Wanted::Create(created) if created > 0)
                    && compare.relation == Relation::Equal;
                if let Some(lock) = lock_of(history, compare.span.start).filter(|_| held) {
                    let (key, revision) = (compare.span.start, answer.revision);
                    guarded.push(lock::Guarded { op, lock, key, revision });
                }
            }
            _ => {}
        }
    }
    lock::check(&acquired, &guarded, replay)
}

/// All keys of the lock that a key is of.
fn lock_of(history: &History, member: Key) -> Option<Span> {
    let prefix = |name: &[u8]| {
        let end = LOCK.len() + name.get(LOCK.len()..)?.iter().position(|&byte| byte == b'/')?;
        name.starts_with(LOCK.as_bytes()).then(|| name[..=end].to_vec())
    };
    let wanted = prefix(key(history, member))?;
    // Names are in the order of their bytes, so the keys of a lock have numbers in a row.
    let count = history.keys.len() as u32;
    let below = |number: &u32| prefix(history.keys.bytes(*number)).as_deref() == Some(&wanted[..]);
    let first = (0..=member.0).rev().take_while(below).last()?;
    let end = (member.0..count).take_while(below).last()? + 1;
    let end = if end < count { End::Before(Key(end)) } else { End::Open };
    Some(Span { start: Key(first), end })
}

#[cfg(test)]
#[path = "judge_test.rs"]
mod tests;
