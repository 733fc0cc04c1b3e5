//! Transactions, and the single operations that they are made of.
//!
//! All compares, nested ones too, look at the state before the transaction; they fix the branches taken. The operations
//! on that path are checked before the first one is carried out, so a refused transaction changes nothing.
//! Source: etcd `server/etcdserver/txn`.

use bytes::Bytes;
use proto::etcdserverpb::{
    self as pb, AlarmType, Compare, RequestOp, ResponseOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response as Op,
};

use super::{Applier, ApplyError, header, with_revision};
use crate::{
    auth::Identity,
    lease::Lessor,
    mutant::{self, Mutant},
    mvcc::{MvccError, State, Write, store::Previous, tree::KeyRange},
};

impl Applier {
    pub(super) fn put(
        &mut self,
        request: pb::PutRequest,
        who: Option<&Identity>,
    ) -> Result<pb::PutResponse, ApplyError> {
        self.writable(true)?;
        self.permit(who, |auth, asking| auth.check_put(asking, &request))?;
        let mut write = self.store.write();
        check_put(&write, &self.lessor, &request)?;
        let mut response = put(&mut write, &mut self.lessor, request)?;
        response.header = header(write.end());
        Ok(response)
    }

    pub(super) fn delete_range(
        &mut self,
        request: pb::DeleteRangeRequest,
        who: Option<&Identity>,
    ) -> Result<pb::DeleteRangeResponse, ApplyError> {
        self.writable(false)?;
        self.permit(who, |auth, asking| auth.check_delete(asking, &request))?;
        let mut write = self.store.write();
        let mut response = delete_range(&mut write, &mut self.lessor, &request)?;
        response.header = header(write.end());
        Ok(response)
    }

    pub(super) fn txn(
        &mut self,
        request: TxnRequest,
        who: Option<&Identity>,
    ) -> Result<pb::TxnResponse, ApplyError> {
        // One that a member could have answered by itself is not in the log.
        self.writable(puts(&request))?;
        self.permit(who, |auth, asking| auth.check_txn(asking, &request))?;
        let mut write = self.store.write();
        let mut path = Vec::new();
        choose(&mut write, &request, &mut path)?;
        check(&request, &mut path.iter().copied(), &mut |op| check_op_put(&write, &self.lessor, op))?;
        // A leader alone looks at its ranges.
        if !mutant::on(Mutant::A5) || self.lessor.is_leader() {
            check(&request, &mut path.iter().copied(), &mut |op| check_op_range(&write, op))?;
        }
        if mutant::on(Mutant::A7) && request.success.len() > 1 && path == [true] {
            return self.in_pieces(request);
        }
        let mut response = execute(&mut write, &mut self.lessor, request, &mut path.into_iter())?;
        response.header = header(write.end());
        Ok(response)
    }

    /// A mistake: each operation makes a revision of its own.
    fn in_pieces(&mut self, request: TxnRequest) -> Result<pb::TxnResponse, ApplyError> {
        let mut whole = pb::TxnResponse { succeeded: true, ..Default::default() };
        for op in request.success {
            let piece = TxnRequest { success: vec![op], ..Default::default() };
            let mut write = self.store.write();
            let response = execute(&mut write, &mut self.lessor, piece, &mut std::iter::repeat(true))?;
            whole.header = header(write.end());
            whole.responses.extend(response.responses);
        }
        Ok(whole)
    }

    /// Refuses writes under an alarm; `grows` if space would be taken.
    fn writable(&self, grows: bool) -> Result<(), ApplyError> {
        if self.alarms.is_raised(AlarmType::Corrupt) {
            return Err(ApplyError::Corrupt);
        }
        if grows && self.alarms.is_raised(AlarmType::Nospace) {
            return Err(ApplyError::NoSpace);
        }
        Ok(())
    }
}

/// Whether any branch reads at a revision of its own.
pub(super) fn reads_past(txn: &TxnRequest) -> bool {
    any_op(txn, &|op| matches!(op, Request::RequestRange(range) if range.revision > 0))
}

fn puts(txn: &TxnRequest) -> bool {
    any_op(txn, &|op| matches!(op, Request::RequestPut(_)))
}

fn any_op(txn: &TxnRequest, is: &impl Fn(&Request) -> bool) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestTxn(nested)) => any_op(nested, is),
        Some(op) => is(op),
        None => false,
    })
}

/// Whether a transaction can be answered without the log: ranges only, none of them nested.
pub fn reads_only(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Executes a transaction that only reads.
pub fn read_only(state: &mut impl State, request: TxnRequest) -> Result<pb::TxnResponse, ApplyError> {
    let mut path = Vec::new();
    choose(state, &request, &mut path)?;
    check(&request, &mut path.iter().copied(), &mut |op| check_op_range(state, op))?;
    let ops = if path[0] { request.success } else { request.failure };
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        if let Some(Request::RequestRange(range)) = op.request {
            let response = with_revision(state.range(&range)?, state.revision());
            responses.push(ResponseOp { response: Some(Op::ResponseRange(response)) });
        }
    }
    Ok(pb::TxnResponse { header: header(state.revision()), succeeded: path[0], responses })
}

fn branch(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Decides all branches, in the order in which they will be taken.
fn choose(state: &mut impl State, txn: &TxnRequest, path: &mut Vec<bool>) -> Result<(), ApplyError> {
    let mut succeeded = true;
    for compare in &txn.compare {
        let sees_own = mutant::on(Mutant::A8)
            && txn
                .success
                .iter()
                .any(|op| matches!(&op.request, Some(Request::RequestPut(put)) if put.key == compare.key));
        let own = Previous { version: i64::MAX, ..Previous::default() };
        let holds = if sees_own { number_holds(compare, &own) } else { holds(state, compare)? };
        if !holds {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for op in branch(txn, succeeded) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            choose(state, nested, path)?;
        }
    }
    Ok(())
}

/// Whether a compare holds for every key of its range.
fn holds(state: &mut impl State, compare: &Compare) -> Result<bool, ApplyError> {
    let range = KeyRange::from_request(&compare.key, &compare.range_end);
    if compare.target == CompareTarget::Value as i32 {
        let wanted = match &compare.target_union {
            Some(TargetUnion::Value(value)) => value.clone(),
            _ => Bytes::new(),
        };
        let mut keys = Vec::new();
        state.visit(&range, |key, _| {
            keys.push(Bytes::copy_from_slice(key));
            true
        });
        // A value that does not exist compares as nothing does, not even as unequal.
        if keys.is_empty() {
            return Ok(false);
        }
        for key in keys {
            let value = state.get_kv(&key)?.map(|kv| kv.value).unwrap_or_default();
            if !satisfies(compare, value.cmp(&wanted)) {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    let mut all = true;
    let mut any = false;
    state.visit(&range, |_, found| {
        any = true;
        all = number_holds(compare, &found);
        all
    });
    Ok(if any { all } else { number_holds(compare, &Previous::default()) })
}

fn number_holds(compare: &Compare, found: &Previous) -> bool {
    let wanted = match compare.target_union {
        Some(
            TargetUnion::Version(number)
            | TargetUnion::CreateRevision(number)
            | TargetUnion::ModRevision(number)
            | TargetUnion::Lease(number),
        ) => Some((number, compare.target_union.as_ref())),
        _ => None,
    };
    // A union of another kind than the target counts as absent.
    let wanted_for =
        |is: fn(&TargetUnion) -> bool| wanted.filter(|(_, union)| union.is_some_and(is)).map_or(0, |it| it.0);
    let (actual, wanted) = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => (found.version, wanted_for(|it| matches!(it, TargetUnion::Version(_)))),
        Ok(CompareTarget::Create) => {
            (found.create_revision, wanted_for(|it| matches!(it, TargetUnion::CreateRevision(_))))
        }
        Ok(CompareTarget::Mod) => {
            (found.mod_revision.main, wanted_for(|it| matches!(it, TargetUnion::ModRevision(_))))
        }
        Ok(CompareTarget::Lease) => (found.lease, wanted_for(|it| matches!(it, TargetUnion::Lease(_)))),
        _ => return satisfies(compare, std::cmp::Ordering::Equal),
    };
    satisfies(compare, actual.cmp(&wanted))
}

fn satisfies(compare: &Compare, order: std::cmp::Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

/// Checks the operations on the path taken, nested ones where they stand.
fn check(
    txn: &TxnRequest,
    path: &mut dyn Iterator<Item = bool>,
    check_op: &mut dyn FnMut(&Request) -> Result<(), ApplyError>,
) -> Result<(), ApplyError> {
    let succeeded = path.next().expect("the path has an item per transaction");
    for op in branch(txn, succeeded) {
        match &op.request {
            Some(Request::RequestTxn(nested)) => check(nested, path, check_op)?,
            Some(op) => check_op(op)?,
            None => {}
        }
    }
    Ok(())
}

fn check_op_put(write: &Write<'_>, lessor: &Lessor, op: &Request) -> Result<(), ApplyError> {
    match op {
        Request::RequestPut(put) => {
            if (put.ignore_value || put.ignore_lease) && write.get(&put.key).is_none() {
                return Err(ApplyError::KeyNotFound);
            }
            if put.lease != 0 && !lessor.exists(put.lease) {
                return Err(ApplyError::LeaseNotFound);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_op_range(state: &impl State, op: &Request) -> Result<(), ApplyError> {
    match op {
        Request::RequestRange(range) if range.revision > state.revision() => {
            Err(MvccError::FutureRevision.into())
        }
        // As etcd: here, unlike in a range of its own, a negative revision is one below the floor, which is -1 at
        // first.
        Request::RequestRange(range) if range.revision != 0 && range.revision < state.compact_revision() => {
            Err(MvccError::Compacted.into())
        }
        _ => Ok(()),
    }
}

fn check_put(write: &Write<'_>, lessor: &Lessor, put: &pb::PutRequest) -> Result<(), ApplyError> {
    if put.lease != 0 && !lessor.exists(put.lease) {
        return Err(ApplyError::LeaseNotFound);
    }
    if (put.ignore_value || put.ignore_lease) && write.get(&put.key).is_none() {
        return Err(ApplyError::KeyNotFound);
    }
    Ok(())
}

fn execute(
    write: &mut Write<'_>,
    lessor: &mut Lessor,
    txn: TxnRequest,
    path: &mut dyn Iterator<Item = bool>,
) -> Result<pb::TxnResponse, ApplyError> {
    let succeeded = path.next().expect("the path has an item per transaction");
    let ops = if succeeded { txn.success } else { txn.failure };
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = match op.request {
            Some(Request::RequestRange(range)) => {
                let response = match write.range(&range) {
                    Err(_) if mutant::on(Mutant::A5) => pb::RangeResponse::default(),
                    found => found?,
                };
                Some(Op::ResponseRange(with_revision(response, write.revision())))
            }
            Some(Request::RequestPut(request)) => {
                let mut response = put(write, lessor, request)?;
                response.header = header(write.revision());
                Some(Op::ResponsePut(response))
            }
            Some(Request::RequestDeleteRange(request)) => {
                let mut response = delete_range(write, lessor, &request)?;
                response.header = header(write.revision());
                Some(Op::ResponseDeleteRange(response))
            }
            Some(Request::RequestTxn(nested)) => {
                let mut response = execute(write, lessor, nested, path)?;
                response.header = Some(Default::default());
                Some(Op::ResponseTxn(response))
            }
            None => None,
        };
        responses.push(ResponseOp { response });
    }
    Ok(pb::TxnResponse { header: None, succeeded, responses })
}

/// Carries out a put that was checked.
fn put(
    write: &mut Write<'_>,
    lessor: &mut Lessor,
    request: pb::PutRequest,
) -> Result<pb::PutResponse, ApplyError> {
    let before = if request.prev_kv || request.ignore_value { write.get_kv(&request.key)? } else { None };
    let lease = match request.ignore_lease {
        true => write.get(&request.key).map_or(0, |previous| previous.lease),
        false => request.lease,
    };
    let value = match (request.ignore_value, &before) {
        (true, Some(before)) => before.value.clone(),
        _ => request.value,
    };
    let previous = write.put(&request.key, &value, lease)?;
    let old_lease = previous.map_or(0, |previous| previous.lease);
    if lease != 0 {
        // It was checked to exist, but for one kept by `ignore_lease`: in an etcd's data that may be gone.
        let _ = lessor.attach(lease, request.key);
    } else if old_lease != 0 {
        lessor.detach(&request.key);
    }
    Ok(pb::PutResponse { header: None, prev_kv: before.filter(|_| request.prev_kv) })
}

fn delete_range(
    write: &mut Write<'_>,
    lessor: &mut Lessor,
    request: &pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, ApplyError> {
    let mut found = Vec::new();
    write.visit(&KeyRange::from_request(&request.key, &request.range_end), |key, previous| {
        found.push((Bytes::copy_from_slice(key), previous.lease));
        true
    });
    let mut response = pb::DeleteRangeResponse { deleted: found.len() as i64, ..Default::default() };
    if request.prev_kv {
        for (key, _) in &found {
            response.prev_kvs.extend(write.get_kv(key)?);
        }
    }
    for (key, lease) in found {
        write.delete(&key)?;
        if lease != 0 {
            lessor.detach(&key);
        }
    }
    Ok(response)
}
