//! `check perf`: writes at a set rate for a minute and judges throughput and latency.
//! What is measured, the limits and the report are etcdctl's; `judge` is pure.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::{
    CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RangeRequest,
};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::range_options::Keys;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Invocation};
use crate::client::Client;
use crate::exit::{BAD_FEATURE, ERROR, Exit, INVALID_INPUT, Outcome};
use crate::go::quote::quote;

pub static COMMAND: Command = Command {
    usage: "check <subcommand>",
    short: "commands for checking properties of the etcd cluster",
    children: &[&PERF],
    ..Command::EMPTY
};

static PERF: Command = Command {
    usage: "perf [options]",
    short: "Check the performance of the etcd cluster",
    flags: &[
        Flag::text(
            "load",
            "s",
            "The performance check's workload model. Accepted workloads: s(small), m(medium), l(large), xl(xLarge)",
        ),
        Flag::text("prefix", "/etcdctl-check-perf/", "The prefix for writing the performance check's keys."),
        Flag::bool("auto-compact", "Compact storage with last revision after test is finished."),
        Flag::bool("auto-defrag", "Defragment storage after test is finished."),
    ],
    run: Some(|invocation| Box::pin(perf(invocation))),
    ..Command::EMPTY
};

/// Writes a second, and how many of them may be under way.
#[derive(Clone, Copy)]
struct Load {
    rate: u32,
    clients: usize,
}

const SECONDS: u64 = 60;
const KEY_SUFFIX_BYTES: usize = 256;
const VALUE: &[u8] = &[0; 1024];
/// Compaction and defragmentation of a full store outlast an ordinary command.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);

impl Load {
    fn named(name: &str) -> Option<Self> {
        let (rate, clients) = match name {
            "s" | "small" => (150, 50),
            "m" | "medium" => (1000, 200),
            "l" | "large" => (8000, 500),
            "xl" | "xLarge" => (15000, 1000),
            _ => return None,
        };
        Some(Self { rate, clients })
    }
}

async fn perf(mut invocation: Invocation) -> Outcome {
    let name = invocation.flags.text("load");
    let load =
        Load::named(name).ok_or_else(|| Exit::new(BAD_FEATURE, format!("unknown load option {name}")))?;
    let session = Session::new(&mut invocation.flags).await?;
    let flags = &invocation.flags;
    let prefix = flags.text("prefix");
    let keys = Keys::with_prefix(prefix.as_bytes());
    let (key, range_end) = (keys.key.clone(), keys.range_end.clone());
    let first = RangeRequest { key, range_end, limit: 1, ..Default::default() };
    if !session.client.range(first).await.map_err(Exit::failed)?.kvs.is_empty() {
        let quoted = quote(prefix.as_bytes());
        let message = format!("prefix {quoted} has keys. Delete with etcdctl del --prefix {prefix} first");
        return Err(Exit::new(INVALID_INPUT, message));
    }
    let clients: Vec<Rc<Client>> = (0..load.clients)
        .map(|_| session.client_of(&session.endpoints).map(Rc::new))
        .collect::<Result<_, _>>()?;
    let samples = LocalSet::new().run_until(write_at_rate(load, clients, prefix)).await?;
    clean_up(&session, keys, flags.bool("auto-compact"), flags.bool("auto-defrag")).await?;
    let (report, passed) = judge(load, &samples);
    io::stdout().write_all(report.as_bytes())?;
    if passed { Ok(()) } else { Err(Exit::silent(ERROR)) }
}

/// What the writes came to.
#[derive(Default)]
struct Samples {
    seconds: Vec<f64>,
    errors: BTreeMap<String, usize>,
    total: Duration,
}

async fn write_at_rate(load: Load, clients: Vec<Rc<Client>>, prefix: &str) -> Result<Samples, Exit> {
    let start = Instant::now();
    let (tickets, queue) = mpsc::channel::<Bytes>(load.clients);
    let queue = Rc::new(Mutex::new(queue));
    let mut writers = JoinSet::new();
    for client in clients {
        writers.spawn_local(write(client, Rc::clone(&queue)));
    }
    let mut tick = interval(Duration::from_secs(1) / load.rate);
    // A slow cluster is to be found out, not to be caught up with.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = 0;
    show_progress(shown)?;
    while start.elapsed() < Duration::from_secs(SECONDS) {
        tick.tick().await;
        if tickets.send(random_key(prefix)).await.is_err() {
            break;
        }
        let elapsed = start.elapsed().as_secs().min(SECONDS);
        if elapsed > shown {
            shown = elapsed;
            show_progress(shown)?;
        }
    }
    drop(tickets);
    let mut samples = Samples::default();
    while let Some(joined) = writers.join_next().await {
        let Ok(part) = joined else { continue };
        samples.seconds.extend(part.seconds);
        for (error, count) in part.errors {
            *samples.errors.entry(error).or_default() += count;
        }
    }
    samples.total = start.elapsed();
    writeln!(io::stdout())?;
    Ok(samples)
}

async fn write(client: Rc<Client>, queue: Rc<Mutex<mpsc::Receiver<Bytes>>>) -> Samples {
    let mut samples = Samples::default();
    loop {
        let next = queue.lock().await.recv().await;
        let Some(key) = next else { return samples };
        let start = Instant::now();
        let put = PutRequest { key, value: Bytes::from_static(VALUE), ..Default::default() };
        match client.put(put).await {
            Ok(_) => samples.seconds.push(start.elapsed().as_secs_f64()),
            Err(error) => *samples.errors.entry(error.to_string()).or_default() += 1,
        }
    }
}

/// A random number in front of zeros, so that keys spread but do not repeat.
fn random_key(prefix: &str) -> Bytes {
    let mut key = prefix.as_bytes().to_vec();
    key.extend(rand::random::<u64>().to_be_bytes());
    key.resize(prefix.len() + KEY_SUFFIX_BYTES, 0);
    key.into()
}

fn show_progress(second: u64) -> io::Result<()> {
    let mut out = io::stdout();
    let percent = second as f64 * 100.0 / SECONDS as f64;
    write!(out, "\r {second} / {SECONDS} {percent:.2}%")?;
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

/// The report, and whether all is well: nine tenths of the rate, no write above half a second, and a standard
/// deviation of a tenth at most.
fn judge(load: Load, samples: &Samples) -> (String, bool) {
    let count = samples.seconds.len() as f64;
    let rate = if samples.total.is_zero() { 0.0 } else { count / samples.total.as_secs_f64() };
    let slowest = samples.seconds.iter().copied().fold(0.0, f64::max);
    let mean = samples.seconds.iter().sum::<f64>() / count.max(1.0);
    let variance =
        samples.seconds.iter().map(|seconds| (seconds - mean).powi(2)).sum::<f64>() / count.max(1.0);
    let deviation = variance.sqrt();
    let mut report = String::new();
    let mut passed = true;
    if !samples.errors.is_empty() {
        passed = false;
        report.push_str("FAIL: too many errors\n");
        for (error, count) in &samples.errors {
            report.push_str(&format!("FAIL: ERROR({error}) -> {count}\n"));
        }
    }
    let mut line = |good: bool, pass: String, fail: String| {
        passed &= good;
        report.push_str(if good { &pass } else { &fail });
        report.push('\n');
    };
    let writes = rate as u64 + 1;
    line(
        rate / f64::from(load.rate) > 0.9,
        format!("PASS: Throughput is {writes} writes/s"),
        format!("FAIL: Throughput too low: {writes} writes/s"),
    );
    line(
        slowest <= 0.5,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    );
    line(
        deviation <= 0.1,
        format!("PASS: Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s"),
    );
    report.push_str(if passed { "PASS\n" } else { "FAIL\n" });
    (report, passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { rate: 10, clients: 1 };

    #[test]
    fn a_good_run_passes() {
        let samples =
            Samples { seconds: vec![0.01; 100], total: Duration::from_secs(10), ..Default::default() };
        let expected = "PASS: Throughput is 11 writes/s\nPASS: Slowest request took 0.010000s\n\
                        PASS: Stddev is 0.000000s\nPASS\n";
        assert_eq!(judge(LOAD, &samples), (expected.into(), true));
    }

    #[test]
    fn a_bad_run_fails_in_every_way() {
        let errors = BTreeMap::from([("odd".to_owned(), 2)]);
        let samples = Samples { seconds: vec![0.0, 1.0], errors, total: Duration::from_secs(10) };
        let expected = "FAIL: too many errors\nFAIL: ERROR(odd) -> 2\nFAIL: Throughput too low: 1 writes/s\n\
                        Slowest request took too long: 1.000000s\nStddev too high: 0.500000s\nFAIL\n";
        assert_eq!(judge(LOAD, &samples), (expected.into(), false));
    }
}
