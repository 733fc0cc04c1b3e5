//! Locks over keys and leases, as etcd's client library makes them, and writes by who holds one.
//!
//! A lock is a prefix; a client has a key below it that hangs on its lease. The key with the lowest create revision
//! holds the lock. Holders write in transactions that compare the create revision of their own key, so who has lost
//! the lock without noticing writes nothing.

use std::time::Duration;

use oracle::history::{
    Key, LeaseId, Request, Response, Revision,
    request::{Compare, Delete, End, Put, Range, Relation, SortOrder, SortTarget, Span, Txn, Wanted},
};
use rand::Rng;

use crate::session::{Session, Told};

/// Keys of locks begin so; `lock/<lock>/<client>`.
pub const LOCK: &str = "lock/";
const LOCKS: u64 = 3;
const TTL_SECONDS: i64 = 2;
const WAITING_ROUNDS: u32 = 200;

pub async fn client(mut session: Session, number: u64) {
    let lock = number % LOCKS;
    while !session.is_over() {
        let lease = session.random.random_range(1..LeaseId::MAX);
        if !matches!(session.ask(Request::Grant { lease, ttl_seconds: TTL_SECONDS }).await, Told::Answer(_)) {
            continue;
        }
        let key = session.key(&format!("{LOCK}{lock}/{lease}"));
        let span = Span {
            start: session.key(&format!("{LOCK}{lock}/")),
            end: End::Before(session.key(&format!("{LOCK}{lock}0"))),
        };
        if let Some(created) = enter(&mut session, key, lease).await
            && wait(&mut session, key, span, lease).await
        {
            write(&mut session, key, created, lock, lease).await;
        }
        leave(&mut session, key, lease).await;
    }
}

/// Puts the client's key; its create revision.
async fn enter(session: &mut Session, key: Key, lease: LeaseId) -> Option<Revision> {
    let compare = Compare { span: Span::key(key), wanted: Wanted::Create(0), relation: Relation::Equal };
    let put = Put { lease, ..session.put(key) };
    let look = Request::Range(Range::newest(Span::key(key)));
    let txn = Txn { compares: vec![compare], success: vec![Request::Put(put)], failure: vec![look] };
    let answer = session.ask(Request::Txn(Box::new(txn))).await.answer()?;
    match answer.response {
        Response::Txn(told) if told.succeeded => Some(answer.revision),
        _ => None,
    }
}

/// Waits until `key` is the oldest; false if the wait is over before.
async fn wait(session: &mut Session, key: Key, span: Span, lease: LeaseId) -> bool {
    for round in 0..WAITING_ROUNDS {
        if session.is_over() {
            return false;
        }
        let oldest =
            Range { limit: 1, order: SortOrder::Ascend, target: SortTarget::Create, ..Range::newest(span) };
        if let Some(answer) = session.ask(Request::Range(oldest)).await.answer()
            && let Response::Range(ranged) = answer.response
        {
            match ranged.kvs.first() {
                Some(kv) if kv.key == key => return true,
                Some(_) => {}
                None => return false,
            }
        }
        if round % 10 == 9 {
            session.ask(Request::KeepAlive { lease }).await;
        }
        let time = Duration::from_millis(session.random.random_range(2..15));
        session.world.rest(time).await;
    }
    false
}

/// Writes under the lock until it is lost or given up; a few forget to keep it alive.
async fn write(session: &mut Session, key: Key, created: Revision, lock: u64, lease: LeaseId) {
    let careful = session.random.random_bool(0.8);
    for round in 0..session.random.random_range(5..60) {
        if session.is_over() {
            return;
        }
        let guard =
            Compare { span: Span::key(key), wanted: Wanted::Create(created), relation: Relation::Equal };
        let data = session.key(&format!("guarded/{lock}"));
        let put = Request::Put(session.put(data));
        let look = Request::Range(Range::newest(Span::key(data)));
        let success = vec![look, put];
        let txn = Txn { compares: vec![guard], success, failure: Vec::new() };
        match session.ask(Request::Txn(Box::new(txn))).await {
            Told::Answer(answer) => {
                if !matches!(answer.response, Response::Txn(told) if told.succeeded) {
                    return;
                }
            }
            Told::Unknown | Told::Refused(_) => return,
            Told::Nothing => {}
        }
        if careful && round % 8 == 7 {
            session.ask(Request::KeepAlive { lease }).await;
        }
    }
}

async fn leave(session: &mut Session, key: Key, lease: LeaseId) {
    let world = session.world.clone();
    // Without a permit the lease is left to end by itself.
    let Ok(_permit) = world.anonymous.try_acquire() else { return };
    let request = if session.random.random_bool(0.5) {
        Request::Revoke { lease }
    } else {
        Request::Delete(Delete { span: Span::key(key), prev_kv: false })
    };
    session.ask(request).await;
}
