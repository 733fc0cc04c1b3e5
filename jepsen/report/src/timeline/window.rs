//! Which operations a timeline shows: those around the impossible one, and others that explain it.
//!
//! Around it: `REACH` calls before and `REACH` after. From elsewhere: the other suspects; the last writes that the
//! claimed order has ahead of the suspect on its keys, and the next after it; who wrote what the suspect read;
//! earlier writes of unknown outcome on its keys.

use std::collections::BTreeMap;

use oracle::history::{
    Fate, History, LeaseId, OpId, Operation, Outcome, Request, Response, Revision,
    request::{End, Span},
};
use oracle::model::has_revision;

/// Calls before the impossible operation that are shown, and after it.
pub const REACH: usize = 200;

/// Suspects from elsewhere, and of each other kind.
const SUSPECTS: usize = 200;
const RELATED: usize = 12;

/// Spans of one operation that are looked at.
const SPANS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its place among the suspects.
    Suspect(usize),
    Near,
    Related,
}

/// What is shown, in the order of calls, and why.
pub fn choose(history: &History, suspects: &[OpId]) -> BTreeMap<OpId, Why> {
    let total = history.operations.len();
    let mut chosen = BTreeMap::new();
    if total == 0 {
        return chosen;
    }
    let centre = centre(history, suspects);
    let near = centre.saturating_sub(REACH)..(centre + REACH + 1).min(total);
    chosen.extend(near.map(|at| (OpId(at as u32), Why::Near)));
    if let Some(&first) = suspects.first().filter(|op| (op.0 as usize) < total) {
        for op in related(history, first) {
            chosen.entry(op).or_insert(Why::Related);
        }
    }
    for (at, &op) in suspects.iter().enumerate().take(SUSPECTS).rev() {
        if (op.0 as usize) < total {
            chosen.insert(op, Why::Suspect(at));
        }
    }
    chosen
}

/// The place of the impossible operation; the last one if none is known. The history must not be empty.
pub fn centre(history: &History, suspects: &[OpId]) -> usize {
    let last = history.operations.len() - 1;
    suspects.first().map_or(last, |op| (op.0 as usize).min(last))
}

fn related(history: &History, suspect: OpId) -> Vec<OpId> {
    let operation = history.op(suspect);
    let spans = spans(&operation.request);
    let revision = claimed(operation);
    let mut read: Vec<Revision> = Vec::new();
    if let Outcome::Ok(answer) = &operation.outcome {
        answer.response.each_kv(&mut |kv| read.push(kv.mod_revision));
    }
    read.sort_unstable();
    let (mut ahead, mut after, mut open) = (Vec::new(), Vec::new(), Vec::new());
    let mut related = Vec::new();
    for (at, other) in (0..).zip(&history.operations) {
        let op = OpId(at);
        let Some(written) = written(other).filter(|_| op != suspect) else { continue };
        let made = claimed(other);
        if made.is_some_and(|made| read.binary_search(&made).is_ok()) && related.len() < RELATED {
            related.push(op);
        }
        if !touch(&written, &spans) && !same_lease(&other.request, &operation.request) {
            continue;
        }
        match (made, revision) {
            (Some(made), Some(revision)) if made <= revision => ahead.push((made, op)),
            (Some(made), Some(_)) => after.push((made, op)),
            (Some(made), None) if other.called_ns <= operation.called_ns => ahead.push((made, op)),
            (Some(made), None) => after.push((made, op)),
            (None, _) if other.called_ns <= operation.returned_ns => open.push(op),
            (None, _) => {}
        }
    }
    ahead.sort_unstable();
    after.sort_unstable();
    related.extend(ahead.iter().rev().take(RELATED).map(|(_, op)| *op));
    related.extend(after.iter().take(RELATED).map(|(_, op)| *op));
    related.extend(open.iter().rev().take(RELATED));
    related
}

/// The revision at which an operation says, or the logs say, that it took effect.
pub fn claimed(operation: &Operation) -> Option<Revision> {
    match &operation.outcome {
        Outcome::Ok(answer) => has_revision(&operation.request).then_some(answer.revision),
        Outcome::Unknown(Fate::At(revision)) => Some(*revision),
        _ => None,
    }
}

/// The keys that a request names, in its compares too.
pub fn spans(request: &Request) -> Vec<Span> {
    fn add(request: &Request, spans: &mut Vec<Span>) {
        match request {
            Request::Put(put) => push(spans, Span::key(put.key)),
            Request::Delete(delete) => push(spans, delete.span),
            Request::Range(range) => push(spans, range.span),
            Request::Txn(txn) => {
                txn.compares.iter().for_each(|compare| push(spans, compare.span));
                txn.success.iter().chain(&txn.failure).for_each(|op| add(op, spans));
            }
            _ => {}
        }
    }
    let mut spans = Vec::new();
    add(request, &mut spans);
    spans
}

/// The keys that an operation changed, or may have changed if nobody knows; `None` if it changed nothing.
/// Empty for what changes leases or the history only.
pub fn written(operation: &Operation) -> Option<Vec<Span>> {
    let mut spans = Vec::new();
    let wrote = match &operation.outcome {
        Outcome::Refused(_) => false,
        Outcome::Unknown(_) => add_written(&operation.request, None, &mut spans),
        Outcome::Ok(answer) => add_written(&operation.request, Some(&answer.response), &mut spans),
    };
    wrote.then_some(spans)
}

fn add_written(request: &Request, response: Option<&Response>, spans: &mut Vec<Span>) -> bool {
    match request {
        Request::Put(put) => push(spans, Span::key(put.key)),
        Request::Delete(_) if matches!(response, Some(Response::Delete(deleted)) if deleted.deleted == 0) => {
            return false;
        }
        Request::Delete(delete) => push(spans, delete.span),
        Request::Txn(txn) => {
            let mut wrote = false;
            if let Some(Response::Txn(answer)) = response {
                let branch = if answer.succeeded { &txn.success } else { &txn.failure };
                for (op, (_, answer)) in branch.iter().zip(&answer.answers) {
                    wrote |= add_written(op, Some(answer), spans);
                }
            } else {
                for op in txn.success.iter().chain(&txn.failure) {
                    wrote |= add_written(op, None, spans);
                }
            }
            return wrote;
        }
        _ => return request.writes(),
    }
    true
}

fn push(spans: &mut Vec<Span>, span: Span) {
    if spans.len() < SPANS && !spans.contains(&span) {
        spans.push(span);
    }
}

/// First key, and the first key behind, by number.
pub fn bounds(span: &Span) -> (u32, u32) {
    let end = match span.end {
        End::Single => span.start.0.saturating_add(1),
        End::Before(end) => end.0,
        End::Open => u32::MAX,
    };
    (span.start.0, end)
}

fn touch(a: &[Span], b: &[Span]) -> bool {
    a.iter().map(bounds).any(|(from, to)| b.iter().map(bounds).any(|other| from < other.1 && other.0 < to))
}

fn same_lease(a: &Request, b: &Request) -> bool {
    lease(a).is_some_and(|id| lease(b) == Some(id))
}

fn lease(request: &Request) -> Option<LeaseId> {
    match request {
        Request::Grant { lease, .. }
        | Request::Revoke { lease }
        | Request::KeepAlive { lease }
        | Request::TimeToLive { lease, .. } => Some(*lease),
        Request::Put(put) if put.lease != 0 => Some(put.lease),
        _ => None,
    }
}
