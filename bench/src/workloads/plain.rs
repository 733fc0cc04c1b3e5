//! Single-key workloads: put, txn, get, and the mix of them.

use super::{Width, fill, lists};
use crate::client::{CallError, Client, Method};
use crate::keys::{self, Random, Values};
use crate::load::{Load, Step};
use crate::wire;
use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{Compare, RangeRequest, RequestOp, TxnRequest};

const PUT_KEYS: u64 = 100_000;
const READ_KEYS: u64 = 10_000;
/// Of each worker in `txn`, which nobody else writes: its compares then succeed.
const TXN_KEYS_PER_WORKER: u64 = 16;
/// Fields of `TxnResponse`, `ResponseOp`, `RangeResponse` and `KeyValue`.
const SUCCEEDED: u32 = 2;
const RESPONSES: u32 = 3;
const RESPONSE_RANGE: u32 = 1;
const KVS: u32 = 2;
const MOD_REVISION: u32 = 3;

pub fn put(clients: &[Client], width: &Width) -> Load {
    Load::start(clients, width.in_flight, |number| {
        let mut writer = Writer::new(number);
        async move |client: &mut Client| writer.put(client, PUT_KEYS).await
    })
}

pub fn txn(clients: &[Client], width: &Width) -> Load {
    Load::start(clients, width.in_flight, |number| {
        let mut updater = Updater::new(number, 0);
        async move |client: &mut Client| updater.update(client).await
    })
}

pub async fn get(clients: &[Client], width: &Width, serializable: bool) -> Result<Load, String> {
    fill::in_txns(clients, READ_KEYS).await?;
    Ok(Load::start(clients, width.in_flight, |number| {
        let mut random = Random::new(number as u64);
        async move |client: &mut Client| read(client, &mut random, serializable).await
    }))
}

pub async fn mixed(clients: &[Client], width: &Width) -> Result<Load, String> {
    fill::in_txns(clients, READ_KEYS).await?;
    Ok(Load::start(clients, width.in_flight, |number| {
        let mut random = Random::new(number as u64);
        let mut writer = Writer::new(number);
        // Its keys lie behind those that are read and put.
        let mut updater = Updater::new(number, READ_KEYS);
        let page = lists::page_request(keys::PREFIX.into(), 0);
        async move |client: &mut Client| match random.below(100) {
            0..60 => read(client, &mut random, false).await,
            60..85 => updater.update(client).await,
            85..95 => writer.put(client, READ_KEYS).await,
            _ => client.call_discarding(Method::Range, page.clone()).await.map(|_| Step::Continue),
        }
    }))
}

async fn read(client: &mut Client, random: &mut Random, serializable: bool) -> Result<Step, CallError> {
    let key = keys::key(random.below(READ_KEYS));
    let request = wire::frame(&RangeRequest { key, serializable, ..Default::default() });
    let bytes = client.call_discarding(Method::Range, request).await?;
    if bytes < keys::VALUE_BYTES {
        return Err(CallError::Unexpected(format!("a get of {bytes} bytes")));
    }
    Ok(Step::Continue)
}

struct Writer {
    random: Random,
    values: Values,
}

impl Writer {
    fn new(number: usize) -> Self {
        Self { random: Random::new(number as u64), values: Values::new() }
    }

    async fn put(&mut self, client: &mut Client, key_count: u64) -> Result<Step, CallError> {
        let request = fill::put(keys::key(self.random.below(key_count)), self.values.next());
        client.call_discarding(Method::Put, wire::frame(&request)).await?;
        Ok(Step::Continue)
    }
}

/// Updates its own keys in turn, each guarded by the mod revision it last saw.
struct Updater {
    values: Values,
    keys: Vec<(Bytes, i64)>,
    turn: usize,
}

impl Updater {
    fn new(number: usize, first_key: u64) -> Self {
        let first = first_key + number as u64 * TXN_KEYS_PER_WORKER;
        let keys = (first..first + TXN_KEYS_PER_WORKER).map(|index| (keys::key(index), 0)).collect();
        Self { values: Values::new(), keys, turn: 0 }
    }

    async fn update(&mut self, client: &mut Client) -> Result<Step, CallError> {
        self.turn = (self.turn + 1) % self.keys.len();
        let (key, mod_revision) = &mut self.keys[self.turn];
        let get = RangeRequest { key: key.clone(), ..Default::default() };
        let request = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal as i32,
                target: CompareTarget::Mod as i32,
                key: key.clone(),
                target_union: Some(TargetUnion::ModRevision(*mod_revision)),
                ..Default::default()
            }],
            success: vec![RequestOp {
                request: Some(Request::RequestPut(fill::put(key.clone(), self.values.next()))),
            }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
        };
        let answer = client.call(Method::Txn, wire::frame(&request)).await?;
        if wire::varint_field(&answer, SUCCEEDED) != 0 {
            *mod_revision = wire::revision(&answer);
        } else if *mod_revision == 0 {
            // The key is there from an earlier load: go on from what the failure branch read.
            *mod_revision = current_mod_revision(&answer);
        } else {
            return Err(CallError::Unexpected("a compare failed on a key nobody else writes".to_owned()));
        }
        Ok(Step::Continue)
    }
}

fn current_mod_revision(answer: &[u8]) -> i64 {
    [RESPONSES, RESPONSE_RANGE, KVS]
        .into_iter()
        .try_fold(answer, wire::bytes_field)
        .map_or(0, |kv| wire::varint_field(kv, MOD_REVISION) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::etcdserverpb::response_op::Response;
    use proto::etcdserverpb::{RangeResponse, ResponseHeader, ResponseOp, TxnResponse};
    use proto::mvccpb::KeyValue;

    #[test]
    fn a_failed_compare_tells_the_mod_revision() {
        let kv = KeyValue { key: keys::key(1), create_revision: 3, mod_revision: 700, ..Default::default() };
        let range = RangeResponse { kvs: vec![kv], count: 1, ..Default::default() };
        let mut answer = TxnResponse {
            header: Some(ResponseHeader { revision: 900, ..Default::default() }),
            succeeded: false,
            responses: vec![ResponseOp { response: Some(Response::ResponseRange(range)) }],
        };
        assert_eq!(current_mod_revision(&answer.encode_to_vec()), 700);
        answer.responses.clear();
        assert_eq!(current_mod_revision(&answer.encode_to_vec()), 0);
    }
}
