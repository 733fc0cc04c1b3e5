//! `check`: puts a load of keys on a cluster and judges how it bears them. `perf` judges speed, `datascale` memory;
//! what both do is here. What is measured, the limits and the reports are etcdctl's.

mod datascale;
mod perf;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::{
    CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RangeRequest,
};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::range_options::Keys;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag};
use crate::client::{Client, Error};
use crate::exit::{BAD_FEATURE, Exit, Outcome};
use crate::go::quote::quote;

pub static COMMAND: Command = Command {
    usage: "check <subcommand>",
    short: "commands for checking properties of the etcd cluster",
    children: &[&perf::COMMAND, &datascale::COMMAND],
    ..Command::EMPTY
};

const AUTO_COMPACT: Flag =
    Flag::bool("auto-compact", "Compact storage with last revision after test is finished.");
const AUTO_DEFRAG: Flag = Flag::bool("auto-defrag", "Defragment storage after test is finished.");

/// Compaction and defragmentation of a full store outlast an ordinary command.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);

/// The one of four loads that `name` is for.
fn of_load<T: Copy>(name: &str, [s, m, l, xl]: [T; 4]) -> Result<T, Exit> {
    match name {
        "s" | "small" => Ok(s),
        "m" | "medium" => Ok(m),
        "l" | "large" => Ok(l),
        "xl" | "xLarge" => Ok(xl),
        _ => Err(Exit::new(BAD_FEATURE, format!("unknown load option {name}"))),
    }
}

async fn has_keys(session: &Session, keys: &Keys, limit: Duration) -> Result<bool, Exit> {
    let (key, range_end) = (keys.key.clone(), keys.range_end.clone());
    let first = session.client.range(RangeRequest { key, range_end, limit: 1, ..Default::default() });
    let found = timeout(limit, first).await.unwrap_or(Err(Error::DeadlineExceeded));
    Ok(!found.map_err(Exit::failed)?.kvs.is_empty())
}

/// What the writes came to.
#[derive(Default)]
struct Samples {
    seconds: Vec<f64>,
    errors: BTreeMap<String, usize>,
    total: Duration,
}

impl Samples {
    /// The lines that errors make a report begin with.
    fn failures(&self) -> String {
        if self.errors.is_empty() {
            return String::new();
        }
        let lines = self.errors.iter().map(|(error, count)| format!("FAIL: ERROR({error}) -> {count}\n"));
        "FAIL: too many errors\n".to_owned() + &lines.collect::<String>()
    }
}

/// Clients that put keys, one each at a time. Needs a `LocalSet`.
struct Writers {
    start: Instant,
    keys: mpsc::Sender<Bytes>,
    tasks: JoinSet<Samples>,
    done: Rc<Cell<u64>>,
}

impl Writers {
    fn start(session: &Session, count: usize, value: &'static [u8]) -> Result<Self, Exit> {
        let clients = (0..count).map(|_| session.client_of(&session.endpoints));
        let clients: Vec<Client> = clients.collect::<Result<_, _>>()?;
        let (keys, queue) = mpsc::channel(count);
        let (queue, done) = (Rc::new(Mutex::new(queue)), Rc::new(Cell::new(0)));
        let mut tasks = JoinSet::new();
        for client in clients {
            tasks.spawn_local(write(client, Rc::clone(&queue), value, Rc::clone(&done)));
        }
        Ok(Self { start: Instant::now(), keys, tasks, done })
    }

    /// Returns when a client is about to take the key, or others before it.
    async fn put(&self, key: Bytes) {
        // They stop only when told to.
        let _ = self.keys.send(key).await;
    }

    /// How many writes are over.
    fn done(&self) -> u64 {
        self.done.get()
    }

    async fn finish(mut self) -> Samples {
        drop(self.keys);
        let mut samples = Samples::default();
        while let Some(joined) = self.tasks.join_next().await {
            let Ok(part) = joined else { continue };
            samples.seconds.extend(part.seconds);
            for (error, count) in part.errors {
                *samples.errors.entry(error).or_default() += count;
            }
        }
        samples.total = self.start.elapsed();
        samples
    }
}

async fn write(
    client: Client,
    queue: Rc<Mutex<mpsc::Receiver<Bytes>>>,
    value: &'static [u8],
    done: Rc<Cell<u64>>,
) -> Samples {
    let mut samples = Samples::default();
    loop {
        let next = queue.lock().await.recv().await;
        let Some(key) = next else { return samples };
        let start = Instant::now();
        let put = PutRequest { key, value: Bytes::from_static(value), ..Default::default() };
        match client.put(put).await {
            Ok(_) => samples.seconds.push(start.elapsed().as_secs_f64()),
            Err(error) => *samples.errors.entry(error.to_string()).or_default() += 1,
        }
        done.set(done.get() + 1);
    }
}

/// A random number in front of zeros, so that keys spread but do not repeat.
fn random_key(prefix: &str, suffix_bytes: usize) -> Bytes {
    let mut key = prefix.as_bytes().to_vec();
    key.extend(rand::random::<u64>().to_be_bytes());
    key.resize(prefix.len() + suffix_bytes, 0);
    key.into()
}

fn show_progress(done: u64, all: u64) -> io::Result<()> {
    let mut out = io::stdout();
    let percent = done as f64 * 100.0 / all as f64;
    write!(out, "\r {done} / {all} {percent:.2}%")?;
    out.flush()
}

async fn clean_up(session: &Session, keys: Keys, compact: bool, defragment: bool) -> Outcome {
    let patient = |endpoints: &[String]| {
        let mut options = session.options.clone();
        options.command_timeout = options.command_timeout.max(CLEANUP_TIMEOUT);
        Client::new(endpoints, options).map_err(Exit::failed)
    };
    let client = patient(&session.endpoints)?;
    let request = DeleteRangeRequest { key: keys.key, range_end: keys.range_end, prev_kv: false };
    let deleted = client.delete_range(request).await.map_err(Exit::failed)?;
    let mut out = io::stdout();
    if compact {
        let revision = deleted.header.map_or(0, |header| header.revision);
        writeln!(out, "Compacting with revision {revision}")?;
        client.compact(CompactionRequest { revision, physical: true }).await.map_err(Exit::failed)?;
        writeln!(out, "Compacted with revision {revision}")?;
    }
    if defragment {
        for endpoint in &session.endpoints {
            let quoted = quote(endpoint.as_bytes());
            writeln!(out, "Defragmenting {quoted}")?;
            patient(std::slice::from_ref(endpoint))?
                .defragment(DefragmentRequest {})
                .await
                .map_err(Exit::failed)?;
            writeln!(out, "Defragmented {quoted}")?;
        }
    }
    Ok(())
}
