//! What etcd's store does, in the plainest terms: every version of every key in a map, nothing ever removed.
//!
//! Written from the description of the API alone, to be compared with `Applier`; shares no code with `mvcc`, `lease`
//! or `txn`. A transaction works on a copy that is thrown away when it is refused.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::{
    etcdserverpb::{
        self as pb, AlarmMember, AlarmType, InternalRaftRequest, ResponseHeader,
        alarm_request::AlarmAction,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op::Response as Op,
    },
    mvccpb::{self, KeyValue},
};

use super::{ApplyError, Response};
use crate::{lease::MAX_TTL, mvcc::MvccError};

pub const MIN_TTL: i64 = 2;

#[derive(Clone, Debug)]
struct Version {
    main: i64,
    /// `None`: deleted.
    kv: Option<KeyValue>,
}

#[derive(Clone, Default)]
pub struct Model {
    history: BTreeMap<Bytes, Vec<Version>>,
    pub revision: i64,
    pub floor: i64,
    leases: BTreeSet<i64>,
    alarms: BTreeSet<(i32, u64)>,
    events: Vec<mvccpb::Event>,
}

/// What one entry does.
#[derive(Clone)]
pub struct Outcome {
    pub result: Result<Response, ApplyError>,
    /// With what was there before, also where no watcher would be told.
    pub events: Vec<mvccpb::Event>,
    pub revision: i64,
    pub floor: i64,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => start <= key && key < end,
    }
}

impl Model {
    pub fn new() -> Model {
        Model { revision: 1, floor: -1, ..Model::default() }
    }

    pub fn leases(&self) -> Vec<i64> {
        self.leases.iter().copied().collect()
    }

    /// Keys that hang on `lease`.
    pub fn keys_of(&self, lease: i64) -> Vec<Bytes> {
        let live = self.live(&[], &[0], i64::MAX);
        live.into_iter().filter(|kv| kv.lease == lease).map(|kv| kv.key).collect()
    }

    pub fn apply(&mut self, request: &InternalRaftRequest) -> Outcome {
        let mut next = self.clone();
        next.events.clear();
        let result = next.request(request);
        if result.is_ok() {
            *self = next;
        } else {
            self.events.clear();
        }
        Outcome { result, events: self.events.clone(), revision: self.revision, floor: self.floor }
    }

    fn request(&mut self, request: &InternalRaftRequest) -> Result<Response, ApplyError> {
        let corrupt = self.alarms.iter().any(|(alarm, _)| *alarm == AlarmType::Corrupt as i32);
        let full = self.alarms.iter().any(|(alarm, _)| *alarm == AlarmType::Nospace as i32);
        let guard = |grows: bool| match (corrupt, full && grows) {
            (true, _) => Err(ApplyError::Corrupt),
            (_, true) => Err(ApplyError::NoSpace),
            _ => Ok(()),
        };
        let before = self.revision;
        let main = before + 1;
        if let Some(put) = &request.put {
            guard(true)?;
            if put.lease != 0 && !self.leases.contains(&put.lease) {
                return Err(ApplyError::LeaseNotFound);
            }
            self.check_put(put)?;
            let mut response = self.put(put, main);
            self.revision = main;
            response.header = header(main);
            return Ok(Response::Put(response));
        }
        if let Some(delete) = &request.delete_range {
            guard(false)?;
            let mut response = self.delete(delete, main);
            self.revision += i64::from(response.deleted > 0);
            response.header = header(self.revision);
            return Ok(Response::DeleteRange(response));
        }
        if let Some(txn) = &request.txn {
            guard(any(txn, &|op| matches!(op, Request::RequestPut(_))))?;
            let state = self.clone();
            self.check_txn(&state, txn, true)?;
            self.check_txn(&state, txn, false)?;
            let mut response = self.txn(&state, txn, main);
            self.revision += i64::from(!self.events.is_empty());
            response.header = header(self.revision);
            return Ok(Response::Txn(response));
        }
        if let Some(range) = &request.range {
            let mut response = self.range(range, before, self.floor)?;
            response.header = header(before);
            return Ok(Response::Range(response));
        }
        if let Some(compaction) = &request.compaction {
            guard(false)?;
            if compaction.revision <= self.floor {
                return Err(MvccError::Compacted.into());
            }
            if compaction.revision > self.revision {
                return Err(MvccError::FutureRevision.into());
            }
            self.floor = compaction.revision;
            return Ok(Response::Compaction(pb::CompactionResponse { header: header(before) }));
        }
        if let Some(grant) = &request.lease_grant {
            guard(true)?;
            return match grant {
                pb::LeaseGrantRequest { id: 0, .. } => Err(ApplyError::LeaseNotFound),
                pb::LeaseGrantRequest { ttl, .. } if *ttl > MAX_TTL => Err(ApplyError::LeaseTtlTooLarge),
                pb::LeaseGrantRequest { id, .. } if !self.leases.insert(*id) => Err(ApplyError::LeaseExists),
                pb::LeaseGrantRequest { id, ttl } => Ok(Response::LeaseGrant(pb::LeaseGrantResponse {
                    header: header(before),
                    id: *id,
                    ttl: MIN_TTL.max(*ttl),
                    error: String::new(),
                })),
            };
        }
        if let Some(revoke) = &request.lease_revoke {
            guard(false)?;
            if !self.leases.remove(&revoke.id) {
                return Err(ApplyError::LeaseNotFound);
            }
            for key in self.keys_of(revoke.id) {
                self.change(&key, None, main);
                self.revision = main;
            }
            return Ok(Response::LeaseRevoke(pb::LeaseRevokeResponse { header: header(self.revision) }));
        }
        if let Some(alarm) = &request.alarm {
            let member = AlarmMember { member_id: alarm.member_id, alarm: alarm.alarm };
            let entry = (alarm.alarm, alarm.member_id);
            let none = alarm.alarm == AlarmType::None as i32;
            let alarms = match AlarmAction::try_from(alarm.action) {
                Ok(AlarmAction::Get) => {
                    let wanted = self.alarms.iter().filter(|(raised, _)| none || *raised == alarm.alarm);
                    wanted.map(|&(alarm, member_id)| AlarmMember { member_id, alarm }).collect()
                }
                Ok(AlarmAction::Activate) if !none => {
                    self.alarms.insert(entry);
                    vec![member]
                }
                Ok(AlarmAction::Deactivate) if self.alarms.remove(&entry) => vec![member],
                _ => Vec::new(),
            };
            return Ok(Response::Alarm(pb::AlarmResponse { header: header(before), alarms }));
        }
        Err(ApplyError::Unknown)
    }

    fn version_at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        self.history.get(key)?.iter().rfind(|version| version.main <= revision)?.kv.as_ref()
    }

    /// Live keys in a range as of a revision.
    fn live(&self, start: &[u8], end: &[u8], revision: i64) -> Vec<KeyValue> {
        let keys = self.history.keys().filter(|key| in_range(key, start, end));
        keys.filter_map(|key| self.version_at(key, revision).cloned()).collect()
    }

    fn change(&mut self, key: &Bytes, kv: Option<KeyValue>, main: i64) {
        // What was before the transaction; nothing before a creation.
        let creates = kv.as_ref().is_some_and(|kv| kv.version == 1);
        let prev_kv = self.version_at(key, main - 1).filter(|_| !creates).cloned();
        let deleted = || KeyValue { key: key.clone(), mod_revision: main, ..Default::default() };
        self.events.push(mvccpb::Event {
            r#type: i32::from(kv.is_none()),
            kv: Some(kv.clone().unwrap_or_else(deleted)),
            prev_kv,
        });
        self.history.entry(key.clone()).or_default().push(Version { main, kv });
    }

    fn check_put(&self, put: &pb::PutRequest) -> Result<(), ApplyError> {
        if (put.ignore_value || put.ignore_lease) && self.version_at(&put.key, i64::MAX).is_none() {
            return Err(ApplyError::KeyNotFound);
        }
        if put.lease != 0 && !self.leases.contains(&put.lease) {
            return Err(ApplyError::LeaseNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &pb::PutRequest, main: i64) -> pb::PutResponse {
        let before = self.version_at(&put.key, i64::MAX).cloned();
        let (create_revision, version) =
            before.as_ref().map_or((main, 1), |it| (it.create_revision, it.version + 1));
        let kept = before.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision,
            mod_revision: main,
            version,
            value: if put.ignore_value { kept.value } else { put.value.clone() },
            lease: if put.ignore_lease { kept.lease } else { put.lease },
        };
        self.change(&put.key, Some(kv), main);
        pb::PutResponse { header: None, prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest, main: i64) -> pb::DeleteRangeResponse {
        let found = self.live(&delete.key, &delete.range_end, i64::MAX);
        for kv in &found {
            self.change(&kv.key, None, main);
        }
        let deleted = found.len() as i64;
        let prev_kvs = if delete.prev_kv { found } else { Vec::new() };
        pb::DeleteRangeResponse { header: None, deleted, prev_kvs }
    }

    fn succeeds(&self, txn: &pb::TxnRequest) -> bool {
        txn.compare.iter().all(|compare| self.holds(compare))
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let target = CompareTarget::try_from(compare.target).unwrap();
        let mut found = self.live(&compare.key, &compare.range_end, i64::MAX);
        if found.is_empty() {
            if target == CompareTarget::Value {
                return false;
            }
            found.push(KeyValue::default());
        }
        found.iter().all(|kv| {
            let union = compare.target_union.as_ref();
            let order = match target {
                CompareTarget::Version => {
                    let wanted =
                        union.map_or(0, |it| if let TargetUnion::Version(it) = it { *it } else { 0 });
                    kv.version.cmp(&wanted)
                }
                CompareTarget::Create => {
                    let wanted =
                        union.map_or(0, |it| if let TargetUnion::CreateRevision(it) = it { *it } else { 0 });
                    kv.create_revision.cmp(&wanted)
                }
                CompareTarget::Mod => {
                    let wanted =
                        union.map_or(0, |it| if let TargetUnion::ModRevision(it) = it { *it } else { 0 });
                    kv.mod_revision.cmp(&wanted)
                }
                CompareTarget::Lease => {
                    let wanted = union.map_or(0, |it| if let TargetUnion::Lease(it) = it { *it } else { 0 });
                    kv.lease.cmp(&wanted)
                }
                CompareTarget::Value => {
                    let none = Bytes::new();
                    let wanted =
                        union.map_or(&none, |it| if let TargetUnion::Value(it) = it { it } else { &none });
                    kv.value.cmp(wanted)
                }
            };
            match CompareResult::try_from(compare.result).unwrap() {
                CompareResult::Equal => order.is_eq(),
                CompareResult::NotEqual => order.is_ne(),
                CompareResult::Greater => order.is_gt(),
                CompareResult::Less => order.is_lt(),
            }
        })
    }

    /// Puts of the whole path are checked before its ranges.
    fn check_txn(&self, state: &Model, txn: &pb::TxnRequest, puts: bool) -> Result<(), ApplyError> {
        let ops = if state.succeeds(txn) { &txn.success } else { &txn.failure };
        // Within a transaction etcd takes a negative revision at its word, and -1 for the floor there is at first.
        let first = self.floor;
        for op in ops {
            match op.request.as_ref().unwrap() {
                Request::RequestPut(put) if puts => self.check_put(put)?,
                Request::RequestRange(range) if !puts && range.revision > self.revision => {
                    return Err(MvccError::FutureRevision.into());
                }
                Request::RequestRange(range) if !puts && range.revision != 0 && range.revision < first => {
                    return Err(MvccError::Compacted.into());
                }
                Request::RequestTxn(nested) => self.check_txn(state, nested, puts)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn txn(&mut self, state: &Model, txn: &pb::TxnRequest, main: i64) -> pb::TxnResponse {
        let succeeded = state.succeeds(txn);
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut responses = Vec::new();
        for op in ops {
            let now = |model: &Model| if model.events.is_empty() { main - 1 } else { main };
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    let now = now(self);
                    let mut response = self.range(range, now, self.floor).expect("it was checked");
                    response.header = header(now);
                    Op::ResponseRange(response)
                }
                Request::RequestPut(put) => {
                    let mut response = self.put(put, main);
                    response.header = header(main);
                    Op::ResponsePut(response)
                }
                Request::RequestDeleteRange(delete) => {
                    let mut response = self.delete(delete, main);
                    response.header = header(now(self));
                    Op::ResponseDeleteRange(response)
                }
                Request::RequestTxn(nested) => {
                    let mut response = self.txn(state, nested, main);
                    response.header = header(0);
                    Op::ResponseTxn(response)
                }
            };
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        pb::TxnResponse { header: None, succeeded, responses }
    }

    /// A range as answered when the store was at revision `current` with floor `floor`.
    pub fn range(
        &self,
        range: &pb::RangeRequest,
        current: i64,
        floor: i64,
    ) -> Result<pb::RangeResponse, MvccError> {
        if range.revision > current {
            return Err(MvccError::FutureRevision);
        }
        let at = if range.revision > 0 { range.revision } else { current };
        if at < floor {
            return Err(MvccError::Compacted);
        }
        let mut kvs = self.live(&range.key, &range.range_end, at);
        let count = kvs.len() as i64;
        if range.count_only {
            return Ok(pb::RangeResponse { count, ..Default::default() });
        }
        let bounds = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        let limit = if range.limit > 0 { range.limit as usize } else { usize::MAX };
        if range.sort_order == SortOrder::None as i32 && bounds == [0; 4] {
            kvs.truncate(limit.saturating_add(1));
        }
        let [min_mod, max_mod, min_create, max_create] = bounds;
        kvs.retain(|kv| {
            (min_mod == 0 || kv.mod_revision >= min_mod)
                && (max_mod == 0 || kv.mod_revision <= max_mod)
                && (min_create == 0 || kv.create_revision >= min_create)
                && (max_create == 0 || kv.create_revision <= max_create)
        });
        kvs.sort_by_key(|kv| sort_key(kv, range.sort_target));
        if range.sort_order == SortOrder::Descend as i32 {
            kvs.reverse();
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(pb::RangeResponse { header: None, kvs, more, count })
    }
}

/// What a sort compares: equal ones may come in any order.
pub fn sort_key(kv: &KeyValue, target: i32) -> (i64, Bytes) {
    match SortTarget::try_from(target).unwrap() {
        SortTarget::Key => (0, kv.key.clone()),
        SortTarget::Version => (kv.version, Bytes::new()),
        SortTarget::Create => (kv.create_revision, Bytes::new()),
        SortTarget::Mod => (kv.mod_revision, Bytes::new()),
        SortTarget::Value => (0, kv.value.clone()),
    }
}

fn any(txn: &pb::TxnRequest, is: &dyn Fn(&Request) -> bool) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op.request.as_ref().unwrap() {
        Request::RequestTxn(nested) => any(nested, is),
        op => is(op),
    })
}
