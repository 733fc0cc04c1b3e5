//! The order that the answers' revisions claim, and the model along it: what was there before an operation, and what
//! the model would have answered.
//!
//! The walk explains, it judges nothing: it takes the claimed order as it is, and goes on after a contradiction.
//! Operations without a revision (refusals, keepalives, unknown outcomes) stand where their call was: behind the
//! newest revision that somebody had been told by then. A revision that no answer made is rebuilt from what watches,
//! else reads, saw of it, or from the end of the only lease that can have made it. Where none of that helps, the
//! states from there on are not known, and `Walk::lost_at` says so.

use std::collections::{BTreeMap, HashMap, HashSet};

use oracle::{
    history::{
        Answer, History, LeaseId, OpId, Operation, Outcome, Refusal, Request, Response, Revision,
        request::{Delete, Kv, Put, Range, Span, Txn},
        watch::{Event, EventKind},
    },
    model::{Settings, State},
};

use super::{
    window::{Why, claimed, spans},
    words::Words,
};

/// Keys of one span that are told, and lines of one state.
const KEYS: i64 = 6;
const LINES: usize = 12;

/// Never in the way: the servers' own limits were checked by the servers.
const SETTINGS: Settings = Settings { min_ttl_seconds: 2, max_txn_ops: usize::MAX, extension_seconds: 1 };

pub struct Walk {
    /// Of the operations that are shown.
    pub placed: HashMap<OpId, Placed>,
    /// The first operation, of all, whose answer is not the model's.
    pub first_contradiction: Option<OpId>,
    /// Nobody is known to have made this revision.
    pub lost_at: Option<Revision>,
}

pub struct Placed {
    /// Its place in the claimed order of all operations.
    pub rank: usize,
    /// The keys that it touches, before it; `None` if the state is not known.
    pub before: Option<Vec<String>>,
    /// The model's answer, if it is another.
    pub expected: Option<String>,
}

/// The order of what shares a revision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Wrote,
    /// It made the revision if its lease had keys.
    Revoked,
    Looked,
    /// Put there by its call only.
    Floating,
}

struct Entry {
    revision: Revision,
    rank: Rank,
    at_ns: u64,
    op: OpId,
}

/// What was seen of revisions that no answer made.
#[derive(Default)]
struct Seen {
    by_watches: HashMap<Revision, Vec<Event>>,
    by_reads: HashMap<Revision, Vec<Kv>>,
}

pub fn walk(history: &History, shown: &BTreeMap<OpId, Why>, words: Words) -> Walk {
    let entries = entries(history, shown);
    let seen = Seen::of(history, &entries);
    let mut state = State::new(SETTINGS);
    let mut walk = Walk { placed: HashMap::new(), first_contradiction: None, lost_at: None };
    for (rank, entry) in entries.iter().enumerate() {
        let operation = history.op(entry.op);
        if walk.lost_at.is_none() {
            walk.lost_at = catch_up(&mut state, entry, operation, &seen);
        }
        let is_shown = shown.contains_key(&entry.op);
        let known = walk.lost_at.is_none();
        let before = (is_shown && known).then(|| touched(&state, operation, words));
        let mut expected = None;
        if known && entry.rank != Rank::Floating {
            let contradicted = match &operation.outcome {
                Outcome::Ok(answer) => take(&mut state, operation, answer),
                _ => {
                    take_unanswered(&mut state, operation, entry.revision);
                    None
                }
            };
            if contradicted.is_some() && walk.first_contradiction.is_none() {
                walk.first_contradiction = Some(entry.op);
            }
            expected = contradicted.filter(|_| is_shown).map(|answer| match answer {
                Ok((revision, response)) => words.answer(revision, &response),
                Err(refusal) => words.outcome(&Outcome::Refused(refusal)),
            });
            if entry.rank == Rank::Wrote && state.revision() != entry.revision {
                walk.lost_at = Some(entry.revision);
            }
        }
        if is_shown {
            walk.placed.insert(entry.op, Placed { rank, before, expected });
        }
    }
    walk
}

fn entries(history: &History, shown: &BTreeMap<OpId, Why>) -> Vec<Entry> {
    let known = known_at(history);
    let mut entries = Vec::with_capacity(history.operations.len());
    for (at, operation) in (0..).zip(&history.operations) {
        let op = OpId(at);
        let entry = match (&operation.outcome, claimed(operation)) {
            (Outcome::Ok(answer), Some(revision)) => {
                let (rank, at_ns) = match &operation.request {
                    // These may take effect late without a sign, so they count from their return.
                    Request::Revoke { .. } => (Rank::Revoked, operation.returned_ns),
                    Request::Compact { .. } | Request::Grant { .. } => (Rank::Looked, operation.returned_ns),
                    _ if answer.response.wrote() => (Rank::Wrote, operation.called_ns),
                    _ => (Rank::Looked, operation.called_ns),
                };
                Entry { revision, rank, at_ns, op }
            }
            (Outcome::Unknown(_), Some(revision)) => {
                Entry { revision, rank: Rank::Wrote, at_ns: operation.called_ns, op }
            }
            _ if shown.contains_key(&op) => {
                let before = known.partition_point(|(returned_ns, _)| *returned_ns < operation.called_ns);
                let revision = before.checked_sub(1).map_or(1, |last| known[last].1);
                Entry { revision, rank: Rank::Floating, at_ns: operation.called_ns, op }
            }
            _ => continue,
        };
        entries.push(entry);
    }
    entries.sort_by_key(|entry| (entry.revision, entry.rank, entry.at_ns));
    entries
}

/// By time of return: the highest revision that anybody had been told.
fn known_at(history: &History) -> Vec<(u64, Revision)> {
    let answered = history.operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Ok(_)));
    let mut known: Vec<(u64, Revision)> =
        answered.filter_map(|operation| Some((operation.returned_ns, claimed(operation)?))).collect();
    known.sort_unstable();
    let mut highest = 1;
    for (_, revision) in &mut known {
        highest = highest.max(*revision);
        *revision = highest;
    }
    known
}

impl Seen {
    fn of(history: &History, entries: &[Entry]) -> Seen {
        let made = entries.iter().filter(|entry| entry.rank == Rank::Wrote);
        let made: HashSet<Revision> = made.map(|entry| entry.revision).collect();
        let mut seen = Seen::default();
        let responses = history.streams.iter().flat_map(|stream| &stream.responses);
        for event in responses.flat_map(|response| &response.events) {
            if !made.contains(&event.kv.mod_revision) {
                let events = seen.by_watches.entry(event.kv.mod_revision).or_default();
                if !events.iter().any(|known| known.kv.key == event.kv.key) {
                    events.push(*event);
                }
            }
        }
        for operation in &history.operations {
            let Outcome::Ok(answer) = &operation.outcome else { continue };
            // An answer without values says too little.
            if matches!(&operation.request, Request::Range(range) if range.keys_only)
                || matches!(operation.request, Request::Txn(_))
            {
                continue;
            }
            answer.response.each_kv(&mut |kv| {
                if !made.contains(&kv.mod_revision) {
                    let kvs = seen.by_reads.entry(kv.mod_revision).or_default();
                    if !kvs.iter().any(|known| known.key == kv.key) {
                        kvs.push(*kv);
                    }
                }
            });
        }
        seen
    }

    /// Requests that do what was seen of a revision; empty if nothing was.
    fn rebuild(&self, revision: Revision) -> Vec<Request> {
        let put = |kv: &Kv| Request::Put(Put { lease: kv.lease, ..Put::plain(kv.key, kv.value) });
        if let Some(events) = self.by_watches.get(&revision) {
            let of = |event: &Event| match event.kind {
                EventKind::Put => put(&event.kv),
                EventKind::Delete => {
                    Request::Delete(Delete { span: Span::key(event.kv.key), prev_kv: false })
                }
            };
            return events.iter().map(of).collect();
        }
        self.by_reads.get(&revision).map_or(Vec::new(), |kvs| kvs.iter().map(put).collect())
    }
}

/// Brings the state to the revision before `entry` takes effect; the revision that cannot be explained, if any.
fn catch_up(state: &mut State, entry: &Entry, operation: &Operation, seen: &Seen) -> Option<Revision> {
    let makes = match operation.request {
        Request::Revoke { lease } if entry.rank == Rank::Revoked => state.lease_has_keys(lease),
        _ => entry.rank == Rank::Wrote,
    };
    let wanted = if makes { entry.revision - 1 } else { entry.revision };
    while state.revision() < wanted {
        let next = state.revision() + 1;
        let rebuilt = seen.rebuild(next);
        if rebuilt.is_empty() {
            end_a_lease(state, operation.returned_ns);
        } else {
            for request in &rebuilt {
                need_leases(state, request);
            }
            let txn = Txn { compares: Vec::new(), success: rebuilt, failure: Vec::new() };
            let _ = state.apply(&Request::Txn(Box::new(txn)), None, 0, &mut Vec::new());
        }
        if state.revision() != next {
            return Some(next);
        }
    }
    None
}

/// Ends the lease whose time can be over, if there is only one that has keys.
fn end_a_lease(state: &mut State, latest_ns: u64) {
    let with_keys: Vec<LeaseId> = state.leases_with_keys().collect();
    let mut due =
        with_keys.into_iter().filter(|&lease| state.expires_ns(lease).is_some_and(|at| at <= latest_ns));
    if let (Some(lease), None) = (due.next(), due.next()) {
        state.expire(lease, latest_ns, &mut Vec::new());
    }
}

/// Carries out what was answered; the model's answer if it is another.
fn take(
    state: &mut State,
    operation: &Operation,
    answer: &Answer,
) -> Option<Result<(Revision, Response), Refusal>> {
    if let (Request::Grant { .. }, &Response::Grant { lease, .. }) = (&operation.request, &answer.response) {
        // A lease without keys may have ended unseen.
        if !state.lease_has_keys(lease) {
            state.expire(lease, u64::MAX, &mut Vec::new());
        }
    } else {
        need_leases(state, &operation.request);
    }
    let mut next = state.clone();
    let result = next.apply(&operation.request, Some(&answer.response), operation.called_ns, &mut Vec::new());
    if !operation.is_serializable() && next.revision() <= answer.revision {
        *state = next;
    }
    // What becomes of leases leaves no trace in this order.
    let judged = !matches!(
        operation.request,
        Request::Grant { .. } | Request::Revoke { .. } | Request::Compact { .. }
    );
    let same = matches!(&result, Ok((revision, response))
        if *revision == answer.revision && *response == answer.response);
    (judged && !same).then_some(result)
}

/// Carries out what made `revision` by the logs.
fn take_unanswered(state: &mut State, operation: &Operation, revision: Revision) {
    need_leases(state, &operation.request);
    let mut next = state.clone();
    let done = next.apply(&operation.request, None, operation.called_ns, &mut Vec::new());
    if done.is_ok() && next.revision() == revision {
        *state = next;
    }
}

/// A lease that was put to use must have been granted, though nobody was told.
fn need_leases(state: &mut State, request: &Request) {
    const LONG_SECONDS: i64 = 1_000_000;
    match request {
        Request::Put(put) if put.lease != 0 && !state.has_lease(put.lease) => {
            let grant = Request::Grant { lease: put.lease, ttl_seconds: LONG_SECONDS };
            let _ = state.apply(&grant, None, 0, &mut Vec::new());
        }
        Request::Txn(txn) if txn.compares.is_empty() => {
            txn.success.iter().for_each(|op| need_leases(state, op));
        }
        _ => {}
    }
}

/// The keys that an operation names, as they are now.
fn touched(state: &State, operation: &Operation, words: Words) -> Vec<String> {
    let mut lines = Vec::new();
    match operation.request {
        Request::Revoke { lease } | Request::KeepAlive { lease } | Request::TimeToLive { lease, .. } => {
            let has = match (state.has_lease(lease), state.lease_has_keys(lease)) {
                (false, _) => "not there",
                (true, false) => "there, without keys",
                (true, true) => "there, with keys",
            };
            lines.push(format!("lease {lease}: {has}"));
        }
        Request::Compact { .. } => {
            lines.push(format!("revision {}, compacted {}", state.revision(), state.compacted()));
        }
        _ => {}
    }
    for span in spans(&operation.request) {
        let range = Range { limit: KEYS, ..Range::newest(span) };
        let Ok((_, Response::Range(found))) =
            state.clone().apply(&Request::Range(range), None, 0, &mut Vec::new())
        else {
            continue;
        };
        if found.kvs.is_empty() {
            lines.push(format!("{}: nothing", words.span(&span)));
        }
        lines.extend(found.kvs.iter().map(|kv| words.kv(kv)));
        if found.more {
            lines.push(format!("{}: {} keys in all", words.span(&span), found.count));
        }
        if lines.len() >= LINES {
            break;
        }
    }
    let mut known = HashSet::new();
    lines.retain(|line| known.insert(line.clone()));
    lines
}
