//! Validation of requests, before they reach the log. Order and texts are etcd's.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/key.go`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};
use tonic::Status;

#[cfg(test)]
#[path = "check_test.rs"]
mod check_test;

use super::error;

pub fn range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(error::empty_key());
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(error::invalid_sort_option());
    }
    Ok(())
}

pub fn put(request: &PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(error::empty_key());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(error::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(error::lease_provided());
    }
    Ok(())
}

pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() { Err(error::empty_key()) } else { Ok(()) }
}

/// Checks a transaction with all that is nested in it; `max_ops` bounds it as etcd's `--max-txn-ops`.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Status> {
    txn_ops(request, max_ops, MAX_DEPTH)?;
    intervals(&request.success)?;
    intervals(&request.failure)?;
    Ok(())
}

/// Transactions may be nested this deep; every member must be able to decode them, inside an entry too.
const MAX_DEPTH: usize = 40;

fn txn_ops(request: &TxnRequest, max_ops: usize, max_depth: usize) -> Result<(), Status> {
    if max_depth == 0 {
        return Err(error::too_many_ops());
    }
    let most = request.compare.len().max(request.success.len()).max(request.failure.len());
    if most > max_ops {
        return Err(error::too_many_ops());
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(error::empty_key());
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(it)) => range(it)?,
            Some(Request::RequestPut(it)) => put(it)?,
            Some(Request::RequestDeleteRange(it)) => delete_range(it)?,
            Some(Request::RequestTxn(it)) => txn_ops(it, max_ops - most, max_depth - 1)?,
            None => return Err(error::key_not_found()),
        }
    }
    Ok(())
}

/// Where a range ends: before these bytes, or behind the key of these bytes.
type End<'a> = (&'a [u8], bool);

/// Ranges of keys, as their union: each ends before the next begins. As in etcd's interval tree a range that is open
/// above (`\0`) overlaps nothing.
#[derive(Default)]
struct Ranges<'a>(BTreeMap<&'a [u8], End<'a>>);

impl<'a> Ranges<'a> {
    fn insert(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        let end = if range_end.is_empty() { (key, true) } else { (range_end, false) };
        if (key, false) < end {
            self.join(key, end);
        }
    }

    fn join(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        if let Some((known, known_end)) = self.0.range(..=start).next_back()
            && *known_end >= (start, false)
        {
            (start, end) = (known, end.max(*known_end));
        }
        while let Some((next, next_end)) = self.0.range(start..).next()
            && *next <= end.0
        {
            let next = *next;
            end = end.max(*next_end);
            self.0.remove(next);
        }
        self.0.insert(start, end);
    }

    fn extend(&mut self, mut other: Ranges<'a>) {
        if other.0.len() > self.0.len() {
            std::mem::swap(self, &mut other);
        }
        other.0.into_iter().for_each(|(start, end)| self.join(start, end));
    }

    fn cover(&self, key: &[u8]) -> bool {
        self.0.range(..=key).next_back().is_some_and(|(_, end)| *end > (key, false))
    }
}

/// Keys put and ranges deleted by a list of operations.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Ranges<'a>,
}

impl<'a> Changes<'a> {
    fn put(&mut self, key: &'a Bytes) -> Result<(), Status> {
        if self.deletes.cover(key) || !self.puts.insert(key) { Err(error::duplicate_key()) } else { Ok(()) }
    }
}

/// A key may be put once, and not where it is deleted: by this list, or by a transaction nested before the put.
/// Branches of one nested transaction exclude each other, so both may put a key.
fn intervals(ops: &[RequestOp]) -> Result<Changes<'_>, Status> {
    let mut all = Changes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.insert(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let mut branches = intervals(&nested.success)?;
        let failure = intervals(&nested.failure)?;
        branches.puts.extend(failure.puts);
        for key in branches.puts {
            all.put(key)?;
        }
        all.deletes.extend(branches.deletes);
        all.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            all.put(&put.key)?;
        }
    }
    Ok(all)
}
