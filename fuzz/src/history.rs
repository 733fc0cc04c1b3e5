//! The harness's own files: a history that was damaged must not stop the judge.

use oracle::history::{
    Answer, Client, Fate, History, Member, NEVER_NS, Operation, Outcome, Request, Response, codec,
    record::Recorder,
    request::{Delete, Put, Range, Ranged, Span, Txn},
};

/// What every history begins with.
const MAGIC_BYTES: usize = 8;

/// A file; without its first bytes, which would only be guessed.
pub fn decode(data: &[u8]) {
    let magic = codec::encode(&History::default());
    let file = [&magic[..MAGIC_BYTES], data].concat();
    let Ok(history) = codec::decode(&file) else { return };
    let again = codec::decode(&codec::encode(&history)).expect("what was decoded is encoded");
    assert_eq!(again, history);
    for operation in &history.operations {
        let _ = (operation.is_serializable(), operation.request.writes());
    }
}

fn sample() -> History {
    let mut recorder = Recorder::default();
    let (key, value) = (recorder.key(b"k"), recorder.value(b"v"));
    let span = Span::key(key);
    let read = Request::Range(Range::newest(span));
    let inner = Txn { compares: Vec::new(), success: vec![read.clone()], failure: Vec::new() };
    let txn = Txn {
        compares: Vec::new(),
        success: vec![Request::Txn(Box::new(inner)), Request::Delete(Delete { span, prev_kv: true })],
        failure: Vec::new(),
    };
    let requests = [Request::Put(Put::plain(key, value)), read, Request::Txn(Box::new(txn)), Request::Leases];
    for (number, request) in (0..).zip(requests) {
        let outcome = match &request {
            Request::Put(_) => Some(Response::Put { prev: None }),
            Request::Range(_) => Some(Response::Range(Ranged::default())),
            _ => None,
        };
        let outcome = outcome.map_or(Outcome::Unknown(Fate::Open), |response| {
            Outcome::Ok(Answer { revision: 2, member: Member(0), response })
        });
        let unknown = matches!(outcome, Outcome::Unknown(_));
        recorder.operation(Operation {
            client: Client(number),
            member: Member(0),
            called_ns: u64::from(number),
            returned_ns: if unknown { NEVER_NS } else { 100 },
            request,
            outcome,
        });
    }
    recorder.finish().0
}

/// A history of one transaction that is nested so deep.
fn nested(levels: usize) -> Vec<u8> {
    let mut recorder = Recorder::default();
    let key = recorder.key(b"k");
    let mut request = Request::Range(Range::newest(Span::key(key)));
    for _ in 0..levels {
        let txn = Txn { compares: Vec::new(), success: vec![request], failure: Vec::new() };
        request = Request::Txn(Box::new(txn));
    }
    recorder.operation(Operation {
        client: Client(0),
        member: Member(0),
        called_ns: 0,
        returned_ns: NEVER_NS,
        request,
        outcome: Outcome::Unknown(Fate::Open),
    });
    codec::encode(&recorder.finish().0).split_off(MAGIC_BYTES)
}

/// The same without recursion: each level adds three bytes in front of the request and one behind.
fn deep(levels: usize) -> Vec<u8> {
    let (one, two) = (nested(1), nested(2));
    let front = (0..one.len()).find(|at| one[*at] != two[*at]).expect("they differ");
    let back = (front..one.len()).find(|at| one[*at] != two[*at + 3]).expect("they differ");
    let level = two[front..front + 3].repeat(levels - 1);
    [&one[..front], &level, &one[front..back], &vec![0; levels - 1], &one[back..]].concat()
}

#[test]
fn deep_histories_are_nested_ones() {
    assert_eq!(deep(5), nested(5));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> =
        [History::default(), sample()].map(|it| codec::encode(&it).split_off(MAGIC_BYTES)).to_vec();
    seeds.extend([deep(60), deep(15_000)]);
    seeds
}
