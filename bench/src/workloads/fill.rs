//! Puts the keys there that a workload needs: quickly, many per transaction, or one by one as real writers do.

use crate::client::{Client, Method};
use crate::keys::{Values, key};
use crate::load::{Load, Measured, Step};
use crate::usage::Probe;
use crate::wire;
use bytes::Bytes;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use std::cell::Cell;
use std::rc::Rc;

/// Below the servers' limit of 128 operations in a transaction.
const KEYS_PER_TXN: u64 = 100;
const TXNS_IN_FLIGHT: usize = 16;
pub const PUTS_IN_FLIGHT: usize = 512;

pub fn put(key: Bytes, value: Bytes) -> PutRequest {
    PutRequest { key, value, ..Default::default() }
}

/// Writes keys 0 to `count`, 100 in each transaction.
pub async fn in_txns(clients: &[Client], count: u64) -> Result<(), String> {
    in_txns_of(clients, count, Values::new()).await
}

/// The same with values of another length.
pub async fn in_txns_of(clients: &[Client], count: u64, values: Values) -> Result<(), String> {
    let txns = count.div_ceil(KEYS_PER_TXN);
    run(clients, TXNS_IN_FLIGHT, txns, values, &Probe::default(), move |txn, values| {
        let keys = txn * KEYS_PER_TXN..((txn + 1) * KEYS_PER_TXN).min(count);
        let success = keys
            .map(|index| RequestOp { request: Some(Request::RequestPut(put(key(index), values.next()))) })
            .collect();
        (Method::Txn, wire::frame(&TxnRequest { success, ..Default::default() }))
    })
    .await
    .map(|_| ())
}

/// Writes keys 0 to `count` with one put each, 512 in flight.
pub async fn in_puts(clients: &[Client], count: u64, probe: &Probe) -> Result<Measured, String> {
    run(clients, PUTS_IN_FLIGHT, count, Values::new(), probe, |index, values| {
        (Method::Put, wire::frame(&put(key(index), values.next())))
    })
    .await
}

/// Sends requests 0 to `count`, each once and in this order, and waits for all answers.
async fn run(
    clients: &[Client],
    in_flight: usize,
    count: u64,
    values: Values,
    probe: &Probe,
    request: impl Fn(u64, &mut Values) -> (Method, Bytes) + Clone + 'static,
) -> Result<Measured, String> {
    let next = Rc::new(Cell::new(0));
    let load = Load::start(clients, in_flight, |_| {
        let (next, request, mut values) = (next.clone(), request.clone(), values.clone());
        async move |client: &mut Client| {
            let index = next.get();
            if index == count {
                return Ok(Step::Finished);
            }
            next.set(index + 1);
            let (method, frame) = request(index, &mut values);
            client.call_discarding(method, frame).await?;
            Ok(Step::Continue)
        }
    });
    load.finish(probe).await
}
