//! The model against the description of etcd's API, and histories as bytes.

use oracle::{
    history::{
        History, Key, LeaseId, Refusal, Request, Response, Revision, Value,
        codec::{DecodeError, decode, encode},
        request::{
            Bounds, Compare, Delete, End, Kv, Put, Range, Ranged, Relation, SortOrder, SortTarget, Span, Txn,
            Wanted,
        },
        watch::{Event, EventKind},
    },
    model::{Settings, State},
};

use crate::generate::{ALL, run};

const A: Key = Key(1);
const B: Key = Key(2);
const C: Key = Key(3);
const ALL_KEYS: Span = Span { start: A, end: End::Open };

/// A store, and the events of the last request.
struct Store {
    state: State,
    events: Vec<Event>,
}

impl Store {
    fn new() -> Store {
        Store { state: State::new(Settings::default()), events: Vec::new() }
    }

    fn ask(&mut self, request: Request) -> Result<(Revision, Response), Refusal> {
        self.events.clear();
        self.state.apply(&request, None, 0, &mut self.events)
    }

    fn put(&mut self, key: Key, value: u32) -> Revision {
        self.ask(put(key, value)).expect("a plain put").0
    }

    fn range(&mut self, range: Range) -> Ranged {
        match self.ask(Request::Range(range)) {
            Ok((_, Response::Range(ranged))) => ranged,
            other => panic!("{other:?}"),
        }
    }

    fn keys(&mut self, range: Range) -> Vec<u32> {
        self.range(range).kvs.iter().map(|kv| kv.key.0).collect()
    }

    fn txn(&mut self, txn: Txn) -> (Revision, bool, Vec<(Revision, Response)>) {
        match self.ask(Request::Txn(Box::new(txn))) {
            Ok((revision, Response::Txn(txn))) => (revision, txn.succeeded, txn.answers),
            other => panic!("{other:?}"),
        }
    }

    fn grant(&mut self, lease: LeaseId, ttl_seconds: i64) -> Result<(Revision, Response), Refusal> {
        self.ask(Request::Grant { lease, ttl_seconds })
    }
}

fn put(key: Key, value: u32) -> Request {
    Request::Put(Put::plain(key, Value(value)))
}

fn put_leased(key: Key, lease: LeaseId) -> Request {
    Request::Put(Put { lease, ..Put::plain(key, Value(1)) })
}

fn delete(span: Span) -> Request {
    Request::Delete(Delete { span, prev_kv: true })
}

fn get(key: Key) -> Request {
    Request::Range(Range::newest(Span::key(key)))
}

fn then(success: Vec<Request>) -> Txn {
    Txn { compares: Vec::new(), success, failure: Vec::new() }
}

fn compare(span: Span, wanted: Wanted, relation: Relation) -> Compare {
    Compare { span, wanted, relation }
}

#[test]
fn revisions_and_versions() {
    let mut store = Store::new();
    assert_eq!(store.state.revision(), 1);
    assert_eq!(store.put(A, 1), 2);
    assert_eq!(store.put(A, 2), 3);
    let kv = |create_revision, mod_revision, version, value| Kv {
        key: A,
        value: Value(value),
        create_revision,
        mod_revision,
        version,
        lease: 0,
    };
    assert_eq!(store.state.get(A), Some(&kv(2, 3, 2, 2)));
    assert_eq!(store.ask(delete(Span::key(B))).expect("deletes nothing").0, 3);
    assert_eq!(store.ask(delete(Span::key(A))).expect("deletes").0, 4);
    assert_eq!(store.events[0].kind, EventKind::Delete);
    assert_eq!(store.events[0].prev, Some(kv(2, 3, 2, 2)));
    assert_eq!(store.put(A, 3), 5);
    assert_eq!(store.state.get(A), Some(&kv(5, 5, 1, 3)));
    assert!(store.events[0].is_create() && store.events[0].prev.is_none());
}

#[test]
fn ranges_of_the_past_and_compaction() {
    let mut store = Store::new();
    (1..6).for_each(|value| {
        store.put(A, value);
    });
    let at = |revision| Request::Range(Range { revision, ..Range::newest(Span::key(A)) });
    assert!(matches!(store.ask(at(4)), Ok((6, Response::Range(it))) if it.kvs[0].value == Value(3)));
    assert_eq!(store.ask(at(7)), Err(Refusal::FutureRevision));
    assert!(store.ask(at(-5)).is_ok(), "outside a transaction that is the newest");
    assert!(store.ask(Request::Compact { revision: 4 }).is_ok());
    assert_eq!(store.ask(at(3)), Err(Refusal::Compacted));
    assert!(store.ask(at(4)).is_ok());
    assert_eq!(store.ask(Request::Compact { revision: 4 }), Err(Refusal::Compacted));
    assert_eq!(store.ask(Request::Compact { revision: 7 }), Err(Refusal::FutureRevision));
    let refused = then(vec![put(B, 1), at(3)]);
    assert_eq!(store.ask(Request::Txn(Box::new(refused))), Err(Refusal::Compacted));
    assert_eq!(store.state.revision(), 6, "a refused transaction changes nothing");
}

#[test]
fn limits_filters_and_sorts() {
    let mut store = Store::new();
    // Versions 3, 1, 2; mod revisions 7, 3, 6.
    for key in [A, B, C, A, C, A] {
        store.put(key, 10 - key.0);
    }
    let all = Range::newest(ALL_KEYS);
    let ranged = store.range(Range { limit: 2, ..all.clone() });
    assert_eq!((ranged.kvs.len(), ranged.count, ranged.more), (2, 3, true));
    let counted = store.range(Range { count_only: true, limit: 1, ..all.clone() });
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 3, false));
    assert!(
        store.range(Range { keys_only: true, ..all.clone() }).kvs.iter().all(|kv| kv.value == Value::EMPTY)
    );
    let sorted = |order, target, limit| Range { order, target, limit, ..Range::newest(ALL_KEYS) };
    assert_eq!(store.keys(sorted(SortOrder::Descend, SortTarget::Key, 2)), [3, 2]);
    assert_eq!(store.keys(sorted(SortOrder::Ascend, SortTarget::Version, 0)), [2, 3, 1]);
    assert_eq!(store.keys(sorted(SortOrder::Descend, SortTarget::Mod, 1)), [1]);
    assert_eq!(store.keys(sorted(SortOrder::Ascend, SortTarget::Value, 0)), [3, 2, 1]);
    // Without an order only the first keys are read, one more than the limit, and those are sorted.
    assert_eq!(store.keys(sorted(SortOrder::None, SortTarget::Version, 1)), [2]);
    assert_eq!(store.keys(sorted(SortOrder::None, SortTarget::Value, 1)), [2]);
    let bounds = Bounds { min_mod: 4, max_mod: 6, ..Bounds::default() };
    let filtered = store.range(Range { bounds: Some(Box::new(bounds)), ..all });
    assert_eq!((filtered.kvs[0].key, filtered.kvs.len(), filtered.count), (C, 1, 3));
    let reversed = Span { start: C, end: End::Before(A) };
    assert_eq!(store.range(Range::newest(reversed)), Ranged::default());
}

#[test]
fn equals_come_in_the_order_observed() {
    let mut store = Store::new();
    store.put(A, 1);
    store.put(B, 2);
    let range =
        Range { order: SortOrder::Ascend, target: SortTarget::Version, limit: 1, ..Range::newest(ALL_KEYS) };
    let both = store.range(Range::newest(ALL_KEYS)).kvs;
    for kv in both {
        let observed = Response::Range(Ranged { kvs: [kv].into(), count: 2, more: true });
        let answer =
            store.state.clone().apply(&Request::Range(range.clone()), Some(&observed), 0, &mut Vec::new());
        assert_eq!(answer, Ok((3, observed)));
    }
}

#[test]
fn puts_that_keep_something() {
    let mut store = Store::new();
    let keep = |ignore_value, ignore_lease| {
        let value = if ignore_value { Value::EMPTY } else { Value(7) };
        Request::Put(Put { ignore_value, ignore_lease, prev_kv: true, ..Put::plain(A, value) })
    };
    assert_eq!(store.ask(keep(true, false)), Err(Refusal::KeyNotFound));
    assert_eq!(store.ask(keep(false, true)), Err(Refusal::KeyNotFound));
    assert!(store.grant(5, 10).is_ok());
    assert!(store.ask(put_leased(A, 5)).is_ok());
    assert!(store.ask(keep(false, true)).is_ok());
    assert_eq!(store.state.get(A).map(|kv| (kv.value, kv.lease)), Some((Value(7), 5)));
    assert!(matches!(store.ask(keep(true, false)), Ok((4, Response::Put { prev: Some(_) }))));
    assert_eq!(store.state.get(A).map(|kv| (kv.value, kv.lease)), Some((Value(7), 0)));
    assert!(!store.state.lease_has_keys(5), "a put without a lease detaches");
    let provided = Put { ignore_value: true, ..Put::plain(A, Value(1)) };
    assert_eq!(store.ask(Request::Put(provided)), Err(Refusal::ValueProvided));
    let provided = Put { ignore_lease: true, lease: 5, ..Put::plain(A, Value(1)) };
    assert_eq!(store.ask(Request::Put(provided)), Err(Refusal::LeaseProvided));
    assert_eq!(store.ask(put(Key::EMPTY, 1)), Err(Refusal::EmptyKey));
}

#[test]
fn compares_and_nested_transactions() {
    let mut store = Store::new();
    store.put(A, 5);
    store.put(B, 5);
    use Relation::{Equal, Greater, Less, NotEqual};
    let expected = [
        (compare(Span::key(A), Wanted::Value(Value(5)), Equal), true),
        (compare(Span::key(C), Wanted::Value(Value(5)), NotEqual), false),
        (compare(Span::key(C), Wanted::Version(0), Equal), true),
        (compare(Span::key(C), Wanted::Mod(1), Less), true),
        (compare(ALL_KEYS, Wanted::Create(1), Greater), true),
        (compare(ALL_KEYS, Wanted::Create(2), Greater), false),
        (compare(ALL_KEYS, Wanted::Lease(0), Equal), true),
        (compare(Span { start: C, end: End::Open }, Wanted::Value(Value(1)), Greater), false),
    ];
    for (compare, holds) in expected {
        let txn = Txn { compares: vec![compare], success: Vec::new(), failure: Vec::new() };
        assert_eq!(store.txn(txn).1, holds, "{compare:?}");
    }
    // The nested compare sees the state before the transaction; ranges see what came before them in it.
    let is_new = compare(Span::key(C), Wanted::Version(0), Equal);
    let nested = Txn { compares: vec![is_new], success: vec![get(C)], failure: vec![put(A, 9)] };
    let (revision, succeeded, answers) =
        store.txn(then(vec![get(A), put(C, 1), Request::Txn(Box::new(nested)), delete(Span::key(B))]));
    assert!(succeeded);
    assert_eq!(revision, 4);
    let revisions: Vec<Revision> = answers.iter().map(|(revision, _)| *revision).collect();
    assert_eq!(revisions, [3, 4, 0, 4]);
    let Response::Txn(nested) = &answers[2].1 else { panic!("{answers:?}") };
    assert!(nested.succeeded);
    assert!(matches!(&nested.answers[..], [(4, Response::Range(it))] if it.kvs[0].version == 1));
    assert_eq!(store.events.len(), 2);
    assert_eq!(store.txn(then(Vec::new())), (4, true, Vec::new()));
}

#[test]
fn transactions_that_are_refused() {
    let mut store = Store::new();
    let refusal = |store: &mut Store, txn: Txn| store.ask(Request::Txn(Box::new(txn))).err();
    assert_eq!(refusal(&mut store, then(vec![put(A, 1), put(A, 2)])), Some(Refusal::DuplicateKey));
    let up_to_c = Span { start: A, end: End::Before(C) };
    assert_eq!(refusal(&mut store, then(vec![put(A, 1), delete(up_to_c)])), Some(Refusal::DuplicateKey));
    // A range without an end passes etcd's check.
    assert_eq!(refusal(&mut store, then(vec![put(A, 1), delete(ALL_KEYS)])), None);
    assert_eq!(refusal(&mut store, then(vec![delete(ALL_KEYS), delete(ALL_KEYS)])), None);
    let either = Txn { compares: Vec::new(), success: vec![put(A, 1)], failure: vec![put(A, 2)] };
    let nested = |txn: &Txn| Request::Txn(Box::new(txn.clone()));
    assert_eq!(refusal(&mut store, then(vec![nested(&either)])), None);
    assert_eq!(refusal(&mut store, then(vec![nested(&either), put(A, 3)])), Some(Refusal::DuplicateKey));
    let below = then(vec![delete(up_to_c)]);
    assert_eq!(refusal(&mut store, then(vec![nested(&below), put(A, 3)])), Some(Refusal::DuplicateKey));
    assert_eq!(refusal(&mut store, then(vec![get(A); 129])), Some(Refusal::TooManyOps));
    let mut many = vec![get(A); 100];
    many.push(nested(&then(vec![get(A); 28])));
    assert_eq!(refusal(&mut store, then(many)), Some(Refusal::TooManyOps), "27 are left");
    let before = store.state.revision();
    assert_eq!(refusal(&mut store, then(vec![put(A, 1), put_leased(B, 9)])), Some(Refusal::LeaseNotFound));
    assert_eq!(store.state.revision(), before);
}

#[test]
fn leases_take_their_keys_along() {
    let mut store = Store::new();
    assert_eq!(store.grant(7, 1), Ok((1, Response::Grant { lease: 7, ttl_seconds: 2 })));
    assert_eq!(store.grant(7, 1), Err(Refusal::LeaseExists));
    assert_eq!(store.grant(8, 9_000_000_001), Err(Refusal::LeaseTtlTooLarge));
    assert!(store.ask(put_leased(C, 7)).is_ok());
    assert!(store.ask(put_leased(A, 7)).is_ok());
    let left = Request::TimeToLive { lease: 7, keys: true };
    assert!(matches!(store.ask(left), Ok((3, Response::TimeToLive { keys, .. })) if *keys == [A, C]));
    assert!(!store.state.expire(7, 1_999_999_999, &mut Vec::new()), "not before its time");
    let mut events = Vec::new();
    let mut expired = store.state.clone();
    assert!(expired.expire(7, 2_000_000_000, &mut events));
    let ended: Vec<(Key, Revision)> =
        events.iter().map(|event| (event.kv.key, event.kv.mod_revision)).collect();
    assert_eq!(ended, [(A, 4), (C, 4)], "in one revision, by key");
    assert_eq!(store.ask(Request::Revoke { lease: 7 }), Ok((4, Response::Revoke)));
    assert_eq!(store.state.fingerprint(), expired.fingerprint());
    assert_eq!(store.ask(Request::Revoke { lease: 7 }), Err(Refusal::LeaseNotFound));
    assert!(matches!(
        store.ask(Request::KeepAlive { lease: 7 }),
        Ok((4, Response::KeepAlive { ttl_seconds: 0 }))
    ));
    assert_eq!(store.ask(put_leased(A, 7)), Err(Refusal::LeaseNotFound));
}

#[test]
fn keeping_alive_moves_the_deadline() {
    let mut store = Store::new();
    assert!(store.grant(7, 5).is_ok());
    let keep = Request::KeepAlive { lease: 7 };
    let answer = store.state.apply(&keep, None, 3_000_000_000, &mut Vec::new());
    assert_eq!(answer, Ok((1, Response::KeepAlive { ttl_seconds: 5 })));
    assert_eq!(store.state.expires_ns(7), Some(8_000_000_000));
}

#[test]
fn a_copy_is_its_own() {
    let mut store = Store::new();
    store.put(A, 1);
    let copy = store.state.clone();
    let fingerprint = copy.fingerprint();
    store.put(A, 2);
    assert_eq!(copy.get(A).map(|kv| kv.value), Some(Value(1)));
    assert_eq!(copy.fingerprint(), fingerprint);
    assert_ne!(store.state.fingerprint(), fingerprint);
}

#[test]
fn histories_survive_their_bytes() {
    for seed in 0..10 {
        let history = run(&ALL, seed).with_watch(seed).history;
        let bytes = encode(&history);
        assert!(decode(&bytes).as_ref() == Ok(&history));
        assert_eq!(decode(&bytes[1..]), Err(DecodeError::Magic));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), Err(DecodeError::Malformed));
        // No byte that is changed makes it panic.
        for at in (0..bytes.len()).step_by(97) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            let _ = decode(&damaged);
        }
    }
}

#[test]
fn inconsistent_histories_are_refused() {
    let valid = run(&ALL, 1).history;
    let breaks: [fn(&mut History); 3] = [
        |history| history.operations.reverse(),
        |history| history.operations[5].returned_ns = 0,
        |history| history.operations[0].request = put(Key(1_000), 1),
    ];
    for break_it in breaks {
        let mut history = valid.clone();
        break_it(&mut history);
        assert!(matches!(decode(&encode(&history)), Err(DecodeError::Inconsistent(_))));
    }
}
