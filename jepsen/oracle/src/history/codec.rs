//! Histories as bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | `KLHIST` and the format's number, two decimal digits |
//! | 8– | `History` in postcard (<https://postcard.jamesmunns.com/wire-format>): fields in order, integers as varints |
//!
//! Postcard has no names and no padding: an operation took 56 to 73 bytes in the runs of `tests/checkers/speed.rs`.
//! There is no checksum; `decode` trusts no byte and checks the invariants of `history`.

use super::{History, NEVER_NS, Operation, Outcome, Request, names::Name};

const MAGIC: &[u8; 8] = b"KLHIST01";

#[derive(Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not a history, or one of another format.
    Magic,
    /// Cut short, or not what `encode` writes.
    Malformed,
    /// Well-formed, but against an invariant of `history`.
    Inconsistent(&'static str),
}

pub fn encode(history: &History) -> Vec<u8> {
    postcard::to_extend(history, MAGIC.to_vec()).expect("all parts have a length")
}

pub fn decode(bytes: &[u8]) -> Result<History, DecodeError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
    let (mut history, rest) =
        postcard::take_from_bytes::<History>(body).map_err(|_| DecodeError::Malformed)?;
    if !rest.is_empty() {
        return Err(DecodeError::Malformed);
    }
    check(&mut history).map_err(DecodeError::Inconsistent)?;
    Ok(history)
}

fn check(history: &mut History) -> Result<(), &'static str> {
    if !history.keys.is_valid() || !history.values.is_valid() {
        return Err("names are sorted, different, and begin with the empty one");
    }
    let (keys, values) = (history.keys.len(), history.values.len());
    let mut known = true;
    history.visit(&mut |name| {
        known &= match name {
            Name::Key(key) => (key.0 as usize) < keys,
            Name::Value(value) => (value.0 as usize) < values,
        }
    });
    if !known {
        return Err("names are in the tables");
    }
    if !history.operations.is_sorted_by_key(|operation| operation.called_ns) {
        return Err("operations are in the order of their calls");
    }
    let ends = |operation: &Operation| {
        operation.called_ns <= operation.returned_ns
            && matches!(operation.outcome, Outcome::Unknown(_)) == (operation.returned_ns == NEVER_NS)
    };
    if !history.operations.iter().all(ends) {
        return Err("operations return after they were called, and never if the outcome is unknown");
    }
    if !history.operations.iter().all(|operation| is_nested_right(&operation.request)) {
        return Err("transactions hold puts, deletes, ranges and transactions");
    }
    Ok(())
}

fn is_nested_right(request: &Request) -> bool {
    let Request::Txn(txn) = request else { return true };
    txn.success.iter().chain(&txn.failure).all(|op| match op {
        Request::Put(_) | Request::Delete(_) | Request::Range(_) => true,
        Request::Txn(_) => is_nested_right(op),
        _ => false,
    })
}
