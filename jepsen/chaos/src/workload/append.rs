//! Lists that transactions read and append to: a read, then a write under the guard that nothing has changed.
//!
//! A list is one key; its value is its elements, in decimal, separated by commas. After some appends a list is left
//! alone, and the next one is begun. A guarded write says what its transaction read: the lists without their last
//! elements, as they were at the revisions that it compares.

use oracle::history::{
    Key, Request, Response, Revision,
    request::{Compare, Put, Range, Relation, Span, Txn, Wanted},
};
use rand::Rng;

use crate::session::Session;

/// Keys of lists begin so.
pub const LIST: &str = "list/";
/// Lists in use at once.
const LISTS: u64 = 3;
/// Transactions before all lists are new.
const ROTATION: u64 = 300;

/// The elements of a list's value; `None` if it is none.
pub fn elements(value: &[u8]) -> Option<Vec<u64>> {
    let text = std::str::from_utf8(value).ok()?;
    text.split(',').map(|element| element.parse().ok()).collect()
}

pub async fn client(mut session: Session) {
    while !session.is_over() {
        let generation = session.world.notes.borrow().operations / ROTATION;
        let mut slots: Vec<u64> = (0..LISTS).filter(|_| session.random.random_bool(0.6)).collect();
        if slots.is_empty() {
            slots.push(session.random.random_range(0..LISTS));
        }
        let lists: Vec<Key> =
            slots.iter().map(|slot| session.key(&format!("{LIST}{generation}/{slot}"))).collect();
        let read: Vec<Request> =
            lists.iter().map(|&list| Request::Range(Range::newest(Span::key(list)))).collect();
        let look = Txn { compares: Vec::new(), success: read.clone(), failure: Vec::new() };
        let Some(answer) = session.ask(Request::Txn(Box::new(look))).await.answer() else { continue };
        let Response::Txn(told) = answer.response else { continue };
        if session.random.random_bool(0.15) {
            continue;
        }
        let (mut compares, mut success) = (Vec::new(), Vec::new());
        for (&list, (_, response)) in lists.iter().zip(&told.answers) {
            let Response::Range(ranged) = response else { continue };
            let found = ranged.kvs.first();
            let revision: Revision = found.map_or(0, |kv| kv.mod_revision);
            let wanted = Wanted::Mod(revision);
            compares.push(Compare { span: Span::key(list), wanted, relation: Relation::Equal });
            let mut notes = session.world.notes.borrow_mut();
            let element = notes.next_number();
            let value = match found {
                Some(kv) => {
                    let old = notes.book.recorder.value_bytes(kv.value);
                    [&old[..], b",", element.to_string().as_bytes()].concat()
                }
                None => element.to_string().into_bytes(),
            };
            let value = notes.book.value(&value.into());
            success.push(Request::Put(Put::plain(list, value)));
        }
        session.ask(Request::Txn(Box::new(Txn { compares, success, failure: read }))).await;
    }
}
