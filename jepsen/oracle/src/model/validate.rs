//! Refusals that depend on the request alone.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/key.go`.

use std::collections::BTreeSet;

use crate::history::{
    Key, Refusal, Request, Value,
    request::{End, Put, Span, Txn},
};

/// What the server says to a request before it looks at the store. `max_txn_ops` bounds the operations of a
/// transaction; a nested one gets what its parent's largest list leaves.
pub fn validate(request: &Request, max_txn_ops: usize) -> Result<(), Refusal> {
    match request {
        Request::Put(put) => validate_put(put),
        Request::Delete(delete) => validate_span(&delete.span),
        Request::Range(range) => validate_span(&range.span),
        Request::Txn(txn) => {
            validate_txn(txn, max_txn_ops)?;
            for branch in [&txn.success, &txn.failure] {
                if branch.len() > 1 || matches!(branch[..], [Request::Txn(_)]) {
                    touched(branch)?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn validate_span(span: &Span) -> Result<(), Refusal> {
    if span.start == Key::EMPTY { Err(Refusal::EmptyKey) } else { Ok(()) }
}

fn validate_put(put: &Put) -> Result<(), Refusal> {
    if put.key == Key::EMPTY {
        return Err(Refusal::EmptyKey);
    }
    if put.ignore_value && put.value != Value::EMPTY {
        return Err(Refusal::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

fn validate_txn(txn: &Txn, max_ops: usize) -> Result<(), Refusal> {
    let ops = txn.compares.len().max(txn.success.len()).max(txn.failure.len());
    if ops > max_ops {
        return Err(Refusal::TooManyOps);
    }
    if txn.compares.iter().any(|compare| compare.span.start == Key::EMPTY) {
        return Err(Refusal::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Request::Txn(nested) => validate_txn(nested, max_ops - ops)?,
            op => validate(op, max_ops)?,
        }
    }
    Ok(())
}

/// Keys put and spans deleted by a branch, with what is nested in it; refuses a key that is put twice, or put and
/// deleted. The two branches of a nested transaction exclude each other and may put the same key.
fn touched(branch: &[Request]) -> Result<(BTreeSet<Key>, Vec<Span>), Refusal> {
    let mut puts = BTreeSet::new();
    let mut deletes: Vec<Span> = Vec::new();
    for op in branch {
        if let Request::Delete(delete) = op {
            deletes.push(delete.span);
        }
    }
    let deleted = |deletes: &[Span], key: Key| deletes.iter().any(|span| intersects(span, key));
    for op in branch {
        let Request::Txn(nested) = op else { continue };
        let (then_puts, then_deletes) = touched(&nested.success)?;
        let (else_puts, else_deletes) = touched(&nested.failure)?;
        let both: BTreeSet<Key> = then_puts.union(&else_puts).copied().collect();
        for key in both {
            if !puts.insert(key) || deleted(&deletes, key) {
                return Err(Refusal::DuplicateKey);
            }
        }
        deletes.extend(then_deletes);
        deletes.extend(else_deletes);
    }
    for op in branch {
        if let Request::Put(put) = op
            && (!puts.insert(put.key) || deleted(&deletes, put.key))
        {
            return Err(Refusal::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

fn intersects(span: &Span, key: Key) -> bool {
    match span.end {
        // etcd takes the end as it stands: one before the start, and `\0` always is, has nothing in it.
        End::Before(end) if end <= span.start => false,
        End::Open => false,
        _ => span.contains(key),
    }
}
