//! Every request of the KV service: ranges with all options and of the past, deletes, nested transactions, compaction.

use oracle::history::{
    Key, Request,
    request::{Bounds, Compare, Delete, End, Put, Range, Relation, SortOrder, SortTarget, Span, Txn, Wanted},
};
use rand::Rng;

use crate::session::Session;

/// How deep transactions are nested.
const MAX_DEPTH: u32 = 2;

pub async fn client(mut session: Session) {
    let keys = [5, 30, 300][session.world.random("keys", 0).random_range(0..3)];
    while !session.is_over() {
        let request = choose(&mut session, keys);
        let world = session.world.clone();
        let permit = if is_anonymous(&request) {
            match world.anonymous.try_acquire() {
                Ok(permit) => Some(permit),
                Err(_) => continue,
            }
        } else {
            None
        };
        session.ask(request).await;
        drop(permit);
    }
}

fn key(session: &mut Session, keys: u64) -> Key {
    let number = session.random.random_range(0..keys);
    session.key(&key_name(number))
}

/// Names sort as their numbers do.
fn key_name(number: u64) -> String {
    format!("k{number:03}")
}

fn span(session: &mut Session, keys: u64) -> Span {
    let start = key(session, keys);
    let end = match session.random.random_range(0..10) {
        0..2 => End::Open,
        2..6 => End::Before(key(session, keys)),
        _ => End::Single,
    };
    Span { start, end }
}

/// Whether no value shows that it happened.
fn is_anonymous(request: &Request) -> bool {
    match request {
        Request::Delete(_) | Request::Compact { .. } => true,
        Request::Put(put) => put.ignore_value,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(is_anonymous),
        _ => false,
    }
}

fn choose(session: &mut Session, keys: u64) -> Request {
    match session.random.random_range(0..100) {
        0..35 => put(session, keys),
        35..60 => range(session, keys),
        60..67 => delete(session, keys),
        67..70 => {
            let key = key(session, keys);
            let nothing = session.world.notes.borrow_mut().book.value(&bytes::Bytes::new());
            Request::Put(Put { ignore_value: true, prev_kv: true, ..Put::plain(key, nothing) })
        }
        70..99 => Request::Txn(Box::new(txn(session, keys, MAX_DEPTH))),
        _ => {
            let revision = session.world.seen() - session.random.random_range(0..500);
            Request::Compact { revision: session.world.compactable(revision) }
        }
    }
}

fn put(session: &mut Session, keys: u64) -> Request {
    let key = key(session, keys);
    let prev_kv = session.random.random_bool(0.2);
    Request::Put(Put { prev_kv, ..session.put(key) })
}

fn delete(session: &mut Session, keys: u64) -> Request {
    Request::Delete(Delete { span: span(session, keys), prev_kv: session.random.random_bool(0.3) })
}

/// etcd looks for deletes and puts of the same key in one transaction, but takes an open end, and one before the
/// start, for what they are not: those are not asked here.
fn delete_in_txn(session: &mut Session, keys: u64) -> Request {
    let start = session.random.random_range(0..keys);
    let end = start + session.random.random_range(1..=3);
    let (start, end) = (session.key(&key_name(start)), session.key(&key_name(end)));
    Request::Delete(Delete { span: Span { start, end: End::Before(end) }, prev_kv: true })
}

fn range(session: &mut Session, keys: u64) -> Request {
    let span = span(session, keys);
    let seen = session.world.seen();
    let random = &mut session.random;
    let mut range = Range::newest(span);
    range.serializable = random.random_bool(0.3);
    if random.random_bool(0.2) {
        range.revision = (seen - random.random_range(-2..100)).max(0);
    }
    if random.random_bool(0.3) {
        range.limit = random.random_range(1..5);
    }
    if random.random_bool(0.3) {
        range.order = [SortOrder::Ascend, SortOrder::Descend][random.random_range(0..2)];
        let targets =
            [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
        range.target = targets[random.random_range(0..5)];
    }
    range.keys_only = random.random_bool(0.1);
    range.count_only = random.random_bool(0.1);
    if random.random_bool(0.1) {
        let mut bound =
            || if random.random_bool(0.3) { (seen - random.random_range(0..100)).max(0) } else { 0 };
        let bounds = Bounds { min_mod: bound(), max_mod: bound(), min_create: bound(), max_create: bound() };
        range.bounds = (bounds != Bounds::default()).then(|| Box::new(bounds));
    }
    Request::Range(range)
}

fn compare(session: &mut Session, keys: u64) -> Compare {
    let span =
        if session.random.random_bool(0.8) { Span::key(key(session, keys)) } else { span(session, keys) };
    let seen = session.world.seen();
    let random = &mut session.random;
    let wanted = match random.random_range(0..4) {
        0 => Wanted::Version(random.random_range(0..4)),
        1 => Wanted::Create((seen - random.random_range(0..50)).max(0)),
        2 => Wanted::Mod((seen - random.random_range(0..50)).max(0)),
        _ => Wanted::Lease(0),
    };
    let relations = [Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less];
    Compare { span, wanted, relation: relations[random.random_range(0..4)] }
}

fn txn(session: &mut Session, keys: u64, depth: u32) -> Txn {
    let compares = (0..session.random.random_range(0..3)).map(|_| compare(session, keys)).collect();
    let mut success = branch(session, keys, depth);
    let failure = branch(session, keys, depth);
    if success.is_empty() && failure.is_empty() {
        // etcd answers a transaction of nothing from any member's own state, as one of serializable reads.
        success.push(put(session, keys));
    }
    Txn { compares, success, failure }
}

fn branch(session: &mut Session, keys: u64, depth: u32) -> Vec<Request> {
    (0..session.random.random_range(0..4))
        .map(|_| match session.random.random_range(0..20) {
            0..9 => put(session, keys),
            9..16 => match range(session, keys) {
                // A transaction of serializable reads alone is one itself; of the others they are a part.
                Request::Range(range) => Request::Range(Range { serializable: false, ..range }),
                other => other,
            },
            16 => delete_in_txn(session, keys),
            _ if depth > 0 => Request::Txn(Box::new(txn(session, keys, depth - 1))),
            _ => put(session, keys),
        })
        .collect()
}
