//! Histories of clients that put, read, delete and compare, answered by the model. Some writes nobody hears of; all of
//! it follows from a seed.

use oracle::{
    history::{
        Answer, Client, Fate, History, Key, Member, NEVER_NS, OpId, Operation, Outcome, Request, Response,
        Stream, Value,
        record::Recorder,
        request::{Compare, Delete, End, Put, Range, Ranged, Relation, Span, Txn, Wanted},
        watch::{Event, WatchResponse},
    },
    model::{Settings, State},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

pub const MEMBERS: u32 = 3;

/// A history of so many operations, called every 30 µs or so by 8 clients, and a watch of all that happened.
pub fn history(operations: usize, seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut recorder = Recorder::default();
    let keys: Vec<Key> = (0..6).map(|at| recorder.key(format!("k{at:02}").as_bytes())).collect();
    let mut values: Vec<Value> = Vec::new();
    let mut state = State::new(Settings::default());
    let mut free_ns = [0; 8];
    let mut ids: Vec<u32> = (0..8).collect();
    let mut next_id = 8;
    let mut responses = Vec::new();
    let mut now_ns = 1_000_000;
    for at in 0..operations {
        now_ns += rng.random_range(1_000..60_000);
        let client = (0..8).min_by_key(|&client| free_ns[client]).expect("there are clients");
        now_ns = now_ns.max(free_ns[client]);
        let key = keys[rng.random_range(0..keys.len())];
        let mut fresh = || {
            values.push(recorder.value(format!("v{at:08}").as_bytes()));
            values[values.len() - 1]
        };
        let request = match rng.random_range(0..10) {
            0..4 => Request::Put(Put { prev_kv: rng.random_bool(0.2), ..Put::plain(key, fresh()) }),
            4..8 => Request::Range(Range::newest(Span::key(key))),
            8 => Request::Delete(Delete { span: Span::key(key), prev_kv: false }),
            _ => Request::Txn(Box::new(Txn {
                compares: vec![Compare {
                    span: Span::key(key),
                    wanted: Wanted::Mod(state.get(key).map_or(0, |kv| kv.mod_revision)),
                    relation: Relation::Equal,
                }],
                success: vec![Request::Put(Put::plain(key, fresh()))],
                failure: vec![Request::Range(Range::newest(Span { start: keys[0], end: End::Open }))],
            })),
        };
        let member = Member(rng.random_range(0..MEMBERS));
        let lost = request.writes() && rng.random_range(0..60) == 0;
        let mut events: Vec<Event> = Vec::new();
        let (revision, response) =
            state.apply(&request, None, now_ns, &mut events).expect("nothing here is refused");
        // The order of effects is that of the calls.
        let returned_ns = now_ns + rng.random_range(100_000..900_000);
        free_ns[client] = returned_ns + 1;
        let called_ns = now_ns;
        let id = Client(ids[client]);
        let operation = if lost {
            ids[client] = next_id;
            next_id += 1;
            let outcome = Outcome::Unknown(Fate::Open);
            Operation { client: id, member, called_ns, returned_ns: NEVER_NS, request, outcome }
        } else {
            let outcome = Outcome::Ok(Answer { revision, member, response });
            Operation { client: id, member, called_ns, returned_ns, request, outcome }
        };
        recorder.operation(operation);
        if !events.is_empty() {
            responses.push(WatchResponse {
                received_ns: now_ns + 50_000,
                id: 1,
                revision,
                created: false,
                canceled: false,
                fragment: false,
                compact_revision: 0,
                events: events.into(),
            });
        }
    }
    recorder.stream(Stream { client: Client(1_000), member: Member(0), asked: Vec::new(), responses });
    recorder.finish().0
}

/// Makes a read near `wanted` miss the write before it on its key: the read, and that write.
pub fn make_stale(history: &mut History, wanted: usize) -> (OpId, OpId) {
    for at in wanted..history.operations.len() {
        let (Request::Range(range), Outcome::Ok(answer)) =
            (&history.operations[at].request, &history.operations[at].outcome)
        else {
            continue;
        };
        let key = range.span.start;
        let Response::Range(Ranged { kvs, .. }) = &answer.response else { continue };
        let Some(newest) = kvs.first() else { continue };
        let before = history.operations[..at].iter().enumerate().rev();
        let mut puts = before.filter_map(|(at, operation)| match (&operation.request, &operation.outcome) {
            (Request::Put(put), Outcome::Ok(answer)) if put.key == key => {
                Some((at, put.value, answer.revision))
            }
            _ => None,
        });
        let (Some((missed, _, made)), Some((_, value, revision))) = (puts.next(), puts.next()) else {
            continue;
        };
        if made != newest.mod_revision
            || newest.version < 2
            || history.operations[missed].returned_ns >= history.operations[at].called_ns
        {
            continue;
        }
        let mut old = *newest;
        (old.value, old.mod_revision, old.version) = (value, revision, newest.version - 1);
        let Outcome::Ok(answer) = &mut history.operations[at].outcome else {
            unreachable!("it was Ok above")
        };
        answer.response = Response::Range(Ranged { kvs: [old].into(), count: 1, more: false });
        return (OpId(at as u32), OpId(missed as u32));
    }
    panic!("no read from {wanted} on follows two puts of its key");
}
