//! Watchers of every kind over steady writes: from the past, now and the future, filtered, slow, cancelled, many.

use std::time::Duration;

use oracle::history::{
    Request,
    request::{Delete, End, Put, Span, Txn},
    watch::{WatchCommand, WatchCreate},
};
use rand::Rng;
use tokio::time::{Instant, timeout};

use crate::{session::Session, stream::WatchStream};

const KEYS: u64 = 40;
/// Watchers that a stream may have.
const MAX_WATCHERS: usize = 12;
/// Longest life of a stream.
const LIFE_MS: std::ops::Range<u64> = 300..5000;

pub async fn client(session: Session, number: u64) {
    match number % 3 {
        0 => watcher(session).await,
        _ => writer(session).await,
    }
}

fn key_name(number: u64) -> String {
    format!("w{number:02}")
}

async fn writer(mut session: Session) {
    while !session.is_over() {
        let number = session.random.random_range(0..KEYS);
        let key = session.key(&key_name(number));
        match session.random.random_range(0..10) {
            0..7 => {
                let put = Put { prev_kv: true, ..session.put(key) };
                session.ask(Request::Put(put)).await;
            }
            7 => {
                let world = session.world.clone();
                if let Ok(_permit) = world.anonymous.try_acquire() {
                    session.ask(Request::Delete(Delete { span: Span::key(key), prev_kv: false })).await;
                }
            }
            8 => {
                let keys = (0..3).map(|more| session.key(&key_name((number + more) % KEYS)));
                let keys: Vec<_> = keys.collect();
                let success = keys.into_iter().map(|key| Request::Put(session.put(key))).collect();
                let txn = Txn { compares: Vec::new(), success, failure: Vec::new() };
                session.ask(Request::Txn(Box::new(txn))).await;
            }
            _ => {
                session.get(key).await;
            }
        }
        // Watchers are told of each write many times: writers leave them some of the processor.
        if session.random.random_bool(0.3) {
            session.world.rest(Duration::from_millis(1)).await;
        }
    }
}

async fn watcher(mut session: Session) {
    while !session.is_over() {
        let life = Duration::from_millis(session.random.random_range(LIFE_MS));
        if one_stream(&mut session, life).await.is_none() {
            session.world.rest(Duration::from_millis(20)).await;
        }
    }
}

/// `None` if it broke.
async fn one_stream(session: &mut Session, life: Duration) -> Option<()> {
    let at = session.random.random_range(0..session.world.cluster.servers.len());
    let client = session.world.notes.borrow_mut().next_client();
    let slow = session.random.random_bool(0.2);
    let window_bytes = if slow { 8 << 10 } else { 1 << 20 };
    let mut stream = WatchStream::open(&session.world, client, at, window_bytes).await.ok()?;
    let deadline = Instant::now() + life;
    // Of created watchers; creations are answered in turn.
    let mut watchers: Vec<i64> = Vec::new();
    let mut asked = 0;
    while Instant::now() < deadline && !session.is_over() {
        if asked < MAX_WATCHERS && session.random.random_bool(0.1) || asked == 0 {
            stream.ask(WatchCommand::Create(create(session))).ok()?;
            asked += 1;
        }
        if !watchers.is_empty() && session.random.random_bool(0.01) {
            let id = watchers.swap_remove(session.random.random_range(0..watchers.len()));
            stream.ask(WatchCommand::Cancel { id }).ok()?;
        }
        if session.random.random_bool(0.02) {
            stream.ask(WatchCommand::Progress).ok()?;
        }
        if slow && session.random.random_bool(0.05) {
            let stall = Duration::from_millis(session.random.random_range(100..1200));
            session.world.rest(stall).await;
        }
        match timeout(Duration::from_millis(200), stream.next()).await {
            Ok(told) => {
                let told = told.ok()?;
                if told.canceled {
                    let gone = told.id;
                    watchers.retain(|&id| id != gone);
                } else if told.created {
                    watchers.push(told.id);
                }
            }
            // Silence: there may be nothing to tell.
            Err(_) => continue,
        }
    }
    Some(())
}

fn create(session: &mut Session) -> WatchCreate {
    let seen = session.world.seen();
    let number = session.random.random_range(0..KEYS);
    let start_key = session.key(&key_name(number));
    let end = match session.random.random_range(0..4) {
        0 => End::Single,
        1 => End::Open,
        _ => {
            let last = session.random.random_range(number + 1..=KEYS);
            End::Before(session.key(&key_name(last)))
        }
    };
    let random = &mut session.random;
    let start = match random.random_range(0..5) {
        0 | 1 => 0,
        2 => (seen - random.random_range(0..100)).max(1),
        3 => seen + random.random_range(1..100),
        _ => random.random_range(1..=seen.max(1)),
    };
    WatchCreate {
        id: 0,
        span: Span { start: start_key, end },
        start,
        prev_kv: random.random_bool(0.4),
        progress_notify: random.random_bool(0.3),
        fragment: random.random_bool(0.2),
        no_put: random.random_bool(0.1),
        no_delete: random.random_bool(0.1),
    }
}
