//! Compactions all the time, some of the future, and reads at both sides of where they are.
//!
//! One client compacts, one compares the members' HashKV at the same revisions, the others write and read.

use std::time::Duration;

use oracle::history::{
    Request,
    request::{Delete, End, Range, Span},
};
use rand::Rng;

use crate::session::Session;

const KEYS: u64 = 20;
const EVERY: Duration = Duration::from_millis(100);
/// Far enough ahead of what is known that nobody gets there before the question is answered.
const FUTURE: i64 = 1_000_000;

pub async fn client(session: Session, number: u64) {
    match number {
        0 => compact(session).await,
        1 => compare_hashes(session).await,
        _ => write_and_read(session).await,
    }
}

async fn compact(mut session: Session) {
    while !session.is_over() {
        let revision = match session.random.random_bool(0.1) {
            true => session.world.seen() + FUTURE,
            false => session.world.compactable(session.world.seen() - session.random.random_range(0..60)),
        };
        session.ask(Request::Compact { revision }).await;
        session.world.rest(EVERY).await;
    }
}

async fn compare_hashes(session: Session) {
    while !session.is_over() {
        // At revision 0 a member would take its newest.
        session.world.hashes(session.world.seen().max(1)).await;
        session.world.rest(EVERY).await;
    }
}

async fn write_and_read(mut session: Session) {
    while !session.is_over() {
        let number = session.random.random_range(0..KEYS);
        let key = session.key(&format!("c{number:02}"));
        let seen = session.world.seen();
        match session.random.random_range(0..10) {
            0..4 => {
                let put = session.put(key);
                session.ask(Request::Put(put)).await;
            }
            4..6 => {
                let world = session.world.clone();
                if let Ok(_permit) = world.anonymous.try_acquire() {
                    session.ask(Request::Delete(Delete { span: Span::key(key), prev_kv: true })).await;
                }
            }
            6..9 => {
                let span = Span { start: key, end: End::Open };
                let revision = (seen - session.random.random_range(-3..80)).max(1);
                let serializable = session.random.random_bool(0.3);
                let range = Range { revision, serializable, limit: 3, ..Range::newest(span) };
                session.ask(Request::Range(range)).await;
            }
            _ => {
                session.get(key).await;
            }
        }
    }
}
