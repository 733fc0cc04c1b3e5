//! Sets that only grow: an element is a key, and reads want them all. After some elements the next set is begun.

use oracle::history::{
    Request,
    request::{End, Range, Span},
};
use rand::Rng;

use crate::session::Session;

const PREFIX: &str = "set/";
const ELEMENTS: u64 = 400;

/// The set and the element that a key stands for; `None` if it is none.
pub fn element(key: &[u8]) -> Option<(u64, u64)> {
    let (set, element) = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once('/')?;
    Some((set.parse().ok()?, element.parse().ok()?))
}

pub async fn client(mut session: Session) {
    while !session.is_over() {
        if session.random.random_bool(0.75) {
            let number = session.world.notes.borrow_mut().next_number();
            let key = session.key(&format!("{PREFIX}{}/{number}", number / ELEMENTS));
            let put = session.put(key);
            session.ask(Request::Put(put)).await;
        } else {
            // `0` follows `/`.
            let set = session.world.notes.borrow_mut().next_number() / ELEMENTS;
            let start = session.key(&format!("{PREFIX}{set}/"));
            let end = End::Before(session.key(&format!("{PREFIX}{set}0")));
            session.ask(Request::Range(Range::newest(Span { start, end }))).await;
        }
    }
}
