//! Registers: puts, reads and compare-and-set of single keys. A key has some 200 operations before the next one.

use oracle::history::{
    Request, Response, Value,
    request::{Compare, Put, Relation, Span, Txn, Wanted},
};
use rand::Rng;

use crate::session::Session;

/// Keys in use at once.
const KEYS: u64 = 4;
const OPERATIONS_PER_KEY: u64 = 200;

pub async fn client(mut session: Session) {
    // What this client last knew of each key.
    let mut known: [(u64, Option<Value>); KEYS as usize] = [(0, None); KEYS as usize];
    while !session.is_over() {
        let generation = session.world.notes.borrow().operations / (KEYS * OPERATIONS_PER_KEY);
        let slot = session.random.random_range(0..KEYS);
        let key = session.key(&format!("register/{generation}/{slot}"));
        let known = &mut known[slot as usize];
        if known.0 != generation {
            *known = (generation, None);
        }
        let value = session.value();
        match session.random.random_range(0..10) {
            0..3 => {
                session.ask(Request::Put(Put::plain(key, value))).await;
            }
            3..6 if known.1.is_some() => {
                let old = known.1.take().expect("it was just looked at");
                let wanted = Wanted::Value(old);
                let compare = Compare { span: Span::key(key), wanted, relation: Relation::Equal };
                let success = vec![Request::Put(Put::plain(key, value))];
                let txn = Txn { compares: vec![compare], success, failure: Vec::new() };
                session.ask(Request::Txn(Box::new(txn))).await;
            }
            _ => {
                if let Some(answer) = session.get(key).await.answer()
                    && let Response::Range(ranged) = answer.response
                {
                    known.1 = ranged.kvs.first().map(|kv| kv.value);
                }
            }
        }
    }
}
