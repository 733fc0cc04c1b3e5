//! What became of writes that nobody was answered, told by the watches of everything.
//!
//! Values are unique, so a put that happened is seen with its value, and its revision with it. If the watches are
//! complete up to the last revision that any answer names, a put that is not seen had no effect on anything in the
//! history. What only deletes or keeps values is left open if an unclaimed revision could be its work; leases and
//! compactions are always left open. The checkers decide those.
//!
//! `Fate::Never` trusts the watches to leave nothing out. A write that they hide is then a revision that nothing
//! explains, so the run fails all the same.

use std::collections::{BTreeMap, HashMap, HashSet};

use oracle::history::{
    Fate, History, Key, Outcome, Request, Revision, Stream, Value,
    request::{End, Put, Span},
    watch::{Event, EventKind, WatchCommand},
};

/// What settling came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub happened: u64,
    pub never: u64,
    pub open: u64,
}

/// Settles what can be; `last` is the revision up to which the watches were followed.
pub fn settle(history: &mut History, last: Revision) -> Settled {
    let events = everything(history);
    // Every revision but the first has an event.
    let complete = events.range(..=last).map(|(&revision, _)| revision).eq(2..=last);
    // A value is at its first revision the work of who brought it; later puts may keep it.
    let mut made: HashMap<Value, Revision> = HashMap::new();
    for (&revision, events) in &events {
        for event in events.iter().filter(|event| event.kind == EventKind::Put) {
            made.entry(event.kv.value).or_insert(revision);
        }
    }
    let mut claimed: HashSet<Revision> = HashSet::new();
    for operation in &history.operations {
        if let Outcome::Ok(answer) = &operation.outcome
            && answer.response.wrote()
        {
            claimed.insert(answer.revision);
        }
    }
    let mut settled = Settled::default();
    let mut left = Vec::new();
    for (at, operation) in history.operations.iter_mut().enumerate() {
        let Outcome::Unknown(fate) = &mut operation.outcome else { continue };
        if !matches!(operation.request, Request::Put(_) | Request::Delete(_) | Request::Txn(_)) {
            settled.open += 1;
            continue;
        }
        let mut seen = None;
        each_part(&operation.request, &mut |part| {
            if let Part::Put(put) = part {
                seen = seen.or(made.get(&put.value).copied());
            }
        });
        match seen {
            Some(revision) => {
                claimed.insert(revision);
                settled.happened += 1;
                *fate = Fate::At(revision);
            }
            None => left.push(at),
        }
    }
    let unclaimed: Vec<&Vec<Event>> =
        events.iter().filter(|(revision, _)| !claimed.contains(revision)).map(|(_, events)| events).collect();
    for at in left {
        let operation = &mut history.operations[at];
        let possible = unclaimed.iter().any(|events| can_have_made(&operation.request, events));
        if complete && !possible {
            operation.outcome = Outcome::Unknown(Fate::Never);
            settled.never += 1;
        } else {
            settled.open += 1;
        }
    }
    settled
}

/// Events by revision, of the streams that leave nothing out.
fn everything(history: &History) -> BTreeMap<Revision, Vec<Event>> {
    let mut events: BTreeMap<Revision, Vec<Event>> = BTreeMap::new();
    for stream in history.streams.iter().filter(|stream| watches_all(history, stream)) {
        for response in &stream.responses {
            for of_revision in response.events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
                let known = events.entry(of_revision[0].kv.mod_revision).or_default();
                if known.len() < of_revision.len() {
                    *known = of_revision.to_vec();
                }
            }
        }
    }
    events
}

fn watches_all(history: &History, stream: &Stream) -> bool {
    let [asked] = &stream.asked[..] else { return false };
    matches!(&asked.command, WatchCommand::Create(create)
        if create.span.end == End::Open
            && history.keys.bytes(create.span.start.0) == crate::observer::FIRST_KEY.as_bytes()
            && !create.no_put
            && !create.no_delete)
}

enum Part<'a> {
    /// With a value of its own.
    Put(&'a Put),
    /// With the value that is there.
    Touch(Key),
    Delete(&'a Span),
}

fn each_part<'a>(request: &'a Request, each: &mut dyn FnMut(Part<'a>)) {
    match request {
        Request::Put(put) if put.ignore_value => each(Part::Touch(put.key)),
        Request::Put(put) => each(Part::Put(put)),
        Request::Delete(delete) => each(Part::Delete(&delete.span)),
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).for_each(|op| each_part(op, each)),
        _ => {}
    }
}

/// Whether each event can be the work of some part of the request.
fn can_have_made(request: &Request, events: &[Event]) -> bool {
    events.iter().all(|event| {
        let mut possible = false;
        each_part(request, &mut |part| {
            possible |= match part {
                Part::Put(put) => {
                    event.kind == EventKind::Put && (put.key, put.value) == (event.kv.key, event.kv.value)
                }
                Part::Touch(key) => event.kind == EventKind::Put && key == event.kv.key,
                Part::Delete(span) => event.kind == EventKind::Delete && span.contains(event.kv.key),
            };
        });
        possible
    })
}

#[cfg(test)]
#[path = "fates_test.rs"]
mod tests;
