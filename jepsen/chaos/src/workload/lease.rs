//! Leases: granted, attached, kept alive, asked for, revoked, or left to end.
//!
//! Each client has one lease at a time, of an ID that it chose, with up to three keys; it keeps it alive for a while,
//! and then either revokes it or waits until its keys are gone.

use std::time::Duration;

use oracle::history::{
    LeaseId, Request, Response,
    request::{End, Put, Range, Span},
};
use rand::Rng;

use crate::session::{Session, Told};

/// Longer than this a lease does not live on, whatever was done to its leaders.
const WAIT_ROUNDS: u32 = 60;

pub async fn client(mut session: Session) {
    while !session.is_over() {
        let lease = session.random.random_range(1..LeaseId::MAX);
        let ttl_seconds = session.random.random_range(1..=4);
        if !matches!(session.ask(Request::Grant { lease, ttl_seconds }).await, Told::Answer(_)) {
            continue;
        }
        for number in 0..session.random.random_range(0..4) {
            let key = session.key(&format!("leased/{lease}/{number}"));
            let put = Put { lease, ..session.put(key) };
            session.ask(Request::Put(put)).await;
        }
        let life = session.random.random_range(0..40);
        for _ in 0..life {
            if session.is_over() {
                return;
            }
            let request = match session.random.random_range(0..10) {
                0..4 => Request::KeepAlive { lease },
                4..6 => Request::TimeToLive { lease, keys: session.random.random_bool(0.5) },
                6 => Request::Leases,
                7..9 => keys_of(&session, lease),
                _ => {
                    let key = session.key(&format!("leased/{lease}/0"));
                    let lease = if session.random.random_bool(0.5) { lease } else { 0 };
                    Request::Put(Put { lease, ..session.put(key) })
                }
            };
            session.ask(request).await;
            let time = Duration::from_millis(session.random.random_range(0..40));
            session.world.rest(time).await;
        }
        if session.random.random_bool(0.4) {
            let world = session.world.clone();
            if let Ok(_permit) = world.anonymous.try_acquire() {
                session.ask(Request::Revoke { lease }).await;
            }
        } else {
            wait_for_the_end(&mut session, lease).await;
        }
        session.ask(Request::KeepAlive { lease }).await;
    }
}

async fn wait_for_the_end(session: &mut Session, lease: LeaseId) {
    for _ in 0..WAIT_ROUNDS {
        if session.is_over() {
            return;
        }
        let request = keys_of(session, lease);
        if let Told::Answer(answer) = session.ask(request).await
            && let Response::Range(ranged) = answer.response
            && ranged.kvs.iter().all(|kv| kv.lease != lease)
        {
            return;
        }
        session.world.rest(Duration::from_millis(100)).await;
    }
}

fn keys_of(session: &Session, lease: LeaseId) -> Request {
    // `0` follows `/`.
    let start = session.key(&format!("leased/{lease}/"));
    let end = End::Before(session.key(&format!("leased/{lease}0")));
    Request::Range(Range::newest(Span { start, end }))
}
