//! Locks and registers, over histories of the model.

use oracle::{
    check::{
        Replay, Rules, Verdict, linear,
        lock::{Acquired, Guarded, check},
        register,
    },
    history::{
        Answer, Client, History, Key, Member, OpId, Operation, Outcome, Request, Value,
        request::{Delete, End, Put, Range, Span},
    },
    model::{Settings, State},
};

use crate::generate::{PLAIN, Shape, run};

const LOCK: Span = Span { start: Key(1), end: End::Before(Key(10)) };
const DATA: Key = Key(20);

/// Puts and deletes one after the other, each taking from 10 n to 10 n + 5 ns; the n-th makes revision n + 2.
fn replay(requests: &[Request]) -> Replay {
    let mut state = State::new(Settings::default());
    let mut operations = Vec::new();
    for (at, request) in (0..).zip(requests) {
        let (revision, response) = state.apply(request, None, 0, &mut Vec::new()).expect("it is accepted");
        operations.push(Operation {
            client: Client(0),
            member: Member(0),
            called_ns: 10 * at,
            returned_ns: 10 * at + 5,
            request: request.clone(),
            outcome: Outcome::Ok(Answer { revision, member: Member(0), response }),
        });
    }
    let judged = linear::check(&History { operations, ..History::default() }, &Rules::default());
    *judged.replay.expect("it is valid")
}

fn put(key: Key) -> Request {
    Request::Put(Put::plain(key, Value(1)))
}

fn delete(key: Key) -> Request {
    Request::Delete(Delete { span: Span::key(key), prev_kv: false })
}

fn acquired(key: Key, called_ns: u64, returned_ns: u64) -> Acquired {
    Acquired { op: OpId(0), lock: LOCK, key, called_ns, returned_ns }
}

/// Key 2 takes the lock in revision 2, key 1 waits from revision 3, holds it from revision 4 to revision 6.
fn handed_over() -> Replay {
    replay(&[put(Key(2)), put(Key(1)), delete(Key(2)), put(DATA), delete(Key(1)), put(DATA)])
}

#[test]
fn holders_are_the_oldest() {
    let replay = handed_over();
    let told =
        |key, called_ns, returned_ns| check(&[acquired(key, called_ns, returned_ns)], &[], &replay).is_ok();
    assert!(told(Key(2), 0, 6));
    assert!(told(Key(1), 10, 26));
    assert!(!told(Key(1), 10, 19), "key 2 was older and there");
    assert!(!told(Key(2), 26, 29), "it was deleted");
    assert!(!told(Key(1), 46, 49), "it was deleted");
    assert!(!told(Key(3), 0, 49), "it never was there");
}

#[test]
fn holders_write() {
    let replay = handed_over();
    let wrote =
        |key, revision| check(&[], &[Guarded { op: OpId(0), lock: LOCK, key, revision }], &replay).is_ok();
    assert!(wrote(Key(1), 5));
    assert!(!wrote(Key(2), 5), "it had lost the lock");
    assert!(!wrote(Key(1), 7), "it had given the lock back");
    assert!(!wrote(Key(1), 3), "it waited");
}

#[test]
fn registers_are_judged_without_revisions() {
    let shape =
        Shape { clients: 3, operations: 150, keys: 3, ranges: 0, txns: 0, unknown_per_mille: 30, ..PLAIN };
    let rules = Rules::default();
    let mut refused = 0;
    for seed in 0..30 {
        let mut history = run(&shape, seed).history;
        history.operations.retain(|it| match &it.request {
            Request::Put(put) => !put.ignore_value,
            Request::Range(_) => true,
            _ => false,
        });
        // Deletes are gone from the history, so what they hid is too: only reads that saw something are kept.
        history.operations.retain(|it| match &it.outcome {
            Outcome::Ok(answer) => {
                !matches!(&answer.response, oracle::history::Response::Range(it) if it.kvs.is_empty())
            }
            _ => true,
        });
        assert_eq!(register::check(&history, &rules), Verdict::Ok, "seed {seed}");
        let stale = history.operations.iter().rposition(|it| matches!(it.request, Request::Range(_)));
        let key = match &history.operations[stale.expect("a read")].request {
            Request::Range(range) => range.span.start,
            _ => unreachable!("it is a read"),
        };
        let old = history.operations.iter().find(|it| {
            it.request == Request::Range(Range::newest(Span::key(key)))
                && matches!(it.outcome, Outcome::Ok(_))
        });
        let old = old.expect("the read itself, if no other").outcome.clone();
        let changed = history.operations[stale.expect("a read")].outcome != old;
        history.operations[stale.expect("a read")].outcome = old;
        if changed {
            refused += 1;
            assert!(matches!(register::check(&history, &rules), Verdict::Violation(_)), "seed {seed}");
        }
    }
    assert!(refused > 20, "{refused} runs were broken");
}
