//! Concurrent write load that remembers what was acknowledged.
//! Every key is written once with a unique value, so an acknowledged write stays checkable for ever and an
//! unanswered one (which may be applied or not, now or later) cannot hide it. Half of the writes are
//! transactions of two keys, which must appear together or not at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    clients: watch::Sender<Vec<Client>>,
    progress: Arc<watch::Sender<Progress>>,
    tasks: Vec<JoinHandle<Vec<Ack>>>,
}

/// How far all writers are together.
#[derive(Clone, Copy)]
struct Progress {
    acknowledged: u64,
    last: Instant,
    longest_pause: Duration,
}

/// What a writer needs.
struct Writer {
    prefix: String,
    number: usize,
    /// Between two writes.
    pace: Option<Duration>,
    clients: watch::Receiver<Vec<Client>>,
    stopped: watch::Receiver<bool>,
    progress: Arc<watch::Sender<Progress>>,
}

impl Load {
    /// Starts `workers` writers under `prefix`, spread over the clients; a writer moves to the next client
    /// after an error.
    pub fn start(prefix: &str, clients: &[Client], workers: usize) -> Load {
        Load::paced(prefix, clients, workers, None)
    }

    /// As `start`; together the writers write so many times a second at most.
    pub fn paced(prefix: &str, clients: &[Client], workers: usize, per_second: Option<u32>) -> Load {
        let (stop, stopped) = watch::channel(false);
        let (clients, given) = watch::channel(clients.to_vec());
        let began = Progress { acknowledged: 0, last: Instant::now(), longest_pause: Duration::ZERO };
        let progress = Arc::new(watch::channel(began).0);
        let worker = |number: usize| {
            tokio::spawn(write(Writer {
                prefix: format!("{prefix}/{number:02}"),
                number,
                pace: per_second.map(|rate| Duration::from_secs(workers as u64) / rate),
                clients: given.clone(),
                stopped: stopped.clone(),
                progress: progress.clone(),
            }))
        };
        Load { tasks: (0..workers).map(worker).collect(), stop, clients, progress }
    }

    /// From now on the writers use these clients.
    pub fn use_clients(&self, clients: &[Client]) {
        self.clients.send_replace(clients.to_vec());
    }

    /// The longest time so far in which nothing was acknowledged.
    pub fn longest_pause(&self) -> Duration {
        let progress = self.progress.borrow();
        progress.longest_pause.max(progress.last.elapsed())
    }

    /// Waits until `more` further writes are acknowledged.
    pub async fn progress(&self, more: u64, limit: Duration) {
        let mut progress = self.progress.subscribe();
        let goal = progress.borrow().acknowledged + more;
        let reached = progress.wait_for(|progress| progress.acknowledged >= goal);
        let reached = tokio::time::timeout(limit, reached).await.is_ok();
        let acknowledged = self.progress.borrow().acknowledged;
        assert!(reached, "only {acknowledged} of {goal} writes acknowledged within {limit:?}");
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

async fn write(writer: Writer) -> Vec<Ack> {
    let Writer { prefix, number: mut endpoint, pace, clients, stopped, progress } = writer;
    let mut acks = Vec::new();
    let mut ticks = pace.map(tokio::time::interval);
    for n in 0u64.. {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        if *stopped.borrow() {
            break;
        }
        let client = {
            let clients = clients.borrow();
            clients[endpoint % clients.len()].clone()
        };
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
                progress.send_modify(|progress| {
                    let now = Instant::now();
                    progress.longest_pause = progress.longest_pause.max(now - progress.last);
                    progress.last = now;
                    progress.acknowledged += 1;
                });
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
