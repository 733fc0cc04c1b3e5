//! Concurrent write load that remembers what was acknowledged.
//! Every key is written once with a unique value, so an acknowledged write stays checkable for ever and an
//! unanswered one (which may be applied or not, now or later) cannot hide it. Half of the writes are
//! transactions of two keys, which must appear together or not at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::TxnRequest;
use proto::mvccpb::KeyValue;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Client, put_op};

/// Pause after a failed write: a dead endpoint refuses at once.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// One acknowledged key.
#[derive(Clone, Debug)]
pub struct Ack {
    pub key: Bytes,
    pub value: Bytes,
    pub revision: i64,
}

pub struct Load {
    stop: watch::Sender<bool>,
    acknowledged: Arc<watch::Sender<u64>>,
    tasks: Vec<JoinHandle<Vec<Ack>>>,
}

impl Load {
    /// Starts `workers` writers under `prefix`, spread over the clients; a writer moves to the next client
    /// after an error.
    pub fn start(prefix: &str, clients: &[Client], workers: usize) -> Load {
        let (stop, stopped) = watch::channel(false);
        let acknowledged = Arc::new(watch::channel(0).0);
        let worker = |n: usize| {
            let (clients, stopped) = (clients.to_vec(), stopped.clone());
            tokio::spawn(write(format!("{prefix}/{n:02}"), clients, n, stopped, acknowledged.clone()))
        };
        Load { tasks: (0..workers).map(worker).collect(), stop, acknowledged }
    }

    /// Waits until `more` further writes are acknowledged.
    pub async fn progress(&self, more: u64, limit: Duration) {
        let mut count = self.acknowledged.subscribe();
        let goal = *count.borrow() + more;
        let reached = tokio::time::timeout(limit, count.wait_for(|&n| n >= goal)).await.is_ok();
        assert!(
            reached,
            "only {} of {goal} writes acknowledged within {limit:?}",
            *self.acknowledged.borrow()
        );
    }

    /// Ends the writers after the request each has in flight.
    pub async fn stop(self) -> Vec<Ack> {
        self.stop.send_replace(true);
        let mut acks = Vec::new();
        for task in self.tasks {
            acks.extend(task.await.expect("writer"));
        }
        acks
    }
}

async fn write(
    prefix: String,
    clients: Vec<Client>,
    mut endpoint: usize,
    stopped: watch::Receiver<bool>,
    acknowledged: Arc<watch::Sender<u64>>,
) -> Vec<Ack> {
    let mut acks = Vec::new();
    for n in 0u64.. {
        if *stopped.borrow() {
            break;
        }
        let client = &clients[endpoint % clients.len()];
        let value = format!("value-{prefix}-{n}");
        let (keys, outcome) = if n % 2 == 0 {
            let key = format!("{prefix}/{n:08}");
            let outcome = client.put(key.as_str(), value.as_str()).await;
            (vec![key], outcome)
        } else {
            let keys = vec![format!("{prefix}/{n:08}/a"), format!("{prefix}/{n:08}/b")];
            let success = keys.iter().map(|key| put_op(key.as_str(), value.as_str())).collect();
            let request = TxnRequest { success, ..Default::default() };
            let outcome = client.kv.clone().txn(request).await;
            (keys, outcome.map(|answer| answer.into_inner().header.unwrap_or_default().revision))
        };
        match outcome {
            Ok(revision) => {
                let ack = |key: String| Ack { key: key.into(), value: value.clone().into(), revision };
                acks.extend(keys.into_iter().map(ack));
                acknowledged.send_modify(|count| *count += 1);
            }
            Err(_) => {
                endpoint += 1;
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
    acks
}

/// Fails unless `kvs` holds every acknowledged write unchanged, no revision was given out twice, and every
/// transaction is there as a whole.
pub fn verify(acks: &[Ack], kvs: &[KeyValue], place: &str) {
    let found: HashMap<&[u8], &KeyValue> = kvs.iter().map(|kv| (kv.key.as_ref(), kv)).collect();
    let mut writes: BTreeMap<i64, &Bytes> = BTreeMap::new();
    for ack in acks {
        let kv = found.get(ack.key.as_ref());
        let kv = kv.unwrap_or_else(|| panic!("{place}: acknowledged write lost: {ack:?}"));
        assert_eq!(
            (&kv.value, kv.mod_revision, kv.version),
            (&ack.value, ack.revision, 1),
            "{place}: {ack:?}"
        );
        // Both keys of a transaction carry one value, and no two writes carry the same.
        let first = writes.entry(ack.revision).or_insert(&ack.value);
        assert_eq!(*first, &ack.value, "{place}: revision {} acknowledged twice", ack.revision);
    }
    for kv in kvs {
        let (other, suffix) = match kv.key.split_last() {
            Some((b'a', stem)) => (stem, b'b'),
            Some((b'b', stem)) => (stem, b'a'),
            _ => continue,
        };
        let other = found.get([other, &[suffix]].concat().as_slice());
        let whole =
            other.is_some_and(|other| other.mod_revision == kv.mod_revision && other.value == kv.value);
        assert!(whole, "{place}: half a transaction: {kv:?}, other key {other:?}");
    }
}
