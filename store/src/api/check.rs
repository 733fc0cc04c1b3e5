//! Validation of requests, before they reach the log. Order and texts are etcd's.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/key.go`.

use std::collections::BTreeSet;

use bytes::Bytes;
use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};
use tonic::Status;

use super::error;
use crate::mvcc::tree::KeyRange;

pub fn range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(error::empty_key());
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
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
    txn_ops(request, max_ops)?;
    intervals(&request.success)?;
    intervals(&request.failure)?;
    Ok(())
}

fn txn_ops(request: &TxnRequest, max_ops: usize) -> Result<(), Status> {
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
            Some(Request::RequestTxn(it)) => txn_ops(it, max_ops - most)?,
            None => return Err(error::key_not_found()),
        }
    }
    Ok(())
}

/// Keys put and ranges deleted by a list of operations.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Vec<(&'a Bytes, &'a Bytes)>,
}

impl<'a> Changes<'a> {
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|(start, end)| KeyRange::from_request(start, end).contains(key))
    }

    fn puts_within(&self, start: &'a Bytes, end: &'a Bytes) -> bool {
        let range = KeyRange::from_request(start, end);
        self.puts.range::<Bytes, _>(start..).next().is_some_and(|key| range.contains(key))
    }
}

/// A key may change once: two puts of it, or a put and a delete over it, are refused. Within a nested transaction its
/// branches exclude each other; against what stands beside it both count.
fn intervals(ops: &[RequestOp]) -> Result<Changes<'_>, Status> {
    let mut all = Changes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.push((&delete.key, &delete.range_end));
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let success = intervals(&nested.success)?;
        let failure = intervals(&nested.failure)?;
        let mut nested_puts = success.puts;
        nested_puts.extend(failure.puts);
        for key in nested_puts {
            if all.deletes(key) || !all.puts.insert(key) {
                return Err(error::duplicate_key());
            }
        }
        for (start, end) in success.deletes.into_iter().chain(failure.deletes) {
            // Its own puts were checked against its own deletes already.
            let others = Changes { puts: all.puts.iter().filter(|key| !puts_of(nested).contains(*key)).copied().collect(), ..Default::default() };
            if others.puts_within(start, end) {
                return Err(error::duplicate_key());
            }
            all.deletes.push((start, end));
        }
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        if !all.puts.insert(&put.key) || all.deletes(&put.key) {
            return Err(error::duplicate_key());
        }
    }
    Ok(all)
}

fn puts_of(txn: &TxnRequest) -> BTreeSet<&Bytes> {
    let mut puts = BTreeSet::new();
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Request::RequestPut(put)) => {
                puts.insert(&put.key);
            }
            Some(Request::RequestTxn(nested)) => puts.extend(puts_of(nested)),
            _ => {}
        }
    }
    puts
}
