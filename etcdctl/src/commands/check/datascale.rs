//! `check datascale`: how much memory a member takes to hold a number of keys: what it says of itself after they were
//! put, less what it said before. `judge` is pure.

use std::io::{self, Write};
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::Instant;

use super::{
    AUTO_COMPACT, AUTO_DEFRAG, Samples, Writers, clean_up, has_keys, of_load, random_key, show_progress,
};
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Invocation};
use crate::client::metrics;
use crate::commands::range_options::Keys;
use crate::exit::{ERROR, Exit, INVALID_INPUT, Outcome};
use crate::go::quote::quote;

pub static COMMAND: Command = Command {
    usage: "datascale [options]",
    short: "Check the memory usage of holding data for different workloads on a given server endpoint.",
    long: "If no endpoint is provided, localhost will be used. If multiple endpoints are provided, first endpoint will be used.",
    flags: &[
        Flag::text(
            "load",
            "s",
            "The datascale check's workload model. Accepted workloads: s(small), m(medium), l(large), xl(xLarge)",
        ),
        Flag::text(
            "prefix",
            "/etcdctl-check-datascale/",
            "The prefix for writing the datascale check's keys.",
        ),
        AUTO_COMPACT,
        AUTO_DEFRAG,
    ],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

#[derive(Clone, Copy)]
struct Load {
    keys: u64,
    clients: usize,
}

const LOADS: [Load; 4] = [
    Load { keys: 10_000, clients: 50 },
    Load { keys: 100_000, clients: 200 },
    Load { keys: 1_000_000, clients: 500 },
    Load { keys: 3_000_000, clients: 1000 },
];

const KEY_SUFFIX_BYTES: usize = 512;
const VALUE: &[u8] = &[0; 512];
const METRIC: &str = "process_resident_memory_bytes";
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

async fn run(mut invocation: Invocation) -> Outcome {
    let load = of_load(invocation.flags.text("load"), LOADS)?;
    // What is measured is not speed: writes and the deletion of millions of keys take the time they take.
    let session = Session::patient(&mut invocation.flags).await?;
    let flags = &invocation.flags;
    let prefix = flags.text("prefix");
    let keys = Keys::with_prefix(prefix.as_bytes());
    if has_keys(&session, &keys, flags.duration("command-timeout").wait()).await? {
        let quoted = quote(prefix.as_bytes());
        let message = format!("prefix {quoted} has keys. Delete with etcdctl del --prefix {prefix} first");
        return Err(Exit::new(INVALID_INPUT, message));
    }
    let before = memory_bytes(&session, "before").await?;
    let Load { keys: count, clients } = load;
    let size = KEY_SUFFIX_BYTES + VALUE.len();
    writeln!(
        io::stdout(),
        "Start data scale check for work load [{count} key-value pairs, {size} bytes per key-value, \
         {clients} concurrent clients]."
    )?;
    let samples = LocalSet::new().run_until(write_all(&session, load, prefix)).await?;
    let after = memory_bytes(&session, "after").await;
    clean_up(&session, keys, flags.bool("auto-compact"), flags.bool("auto-defrag")).await?;
    let (report, passed) = judge(after? - before, &samples);
    io::stdout().write_all(report.as_bytes())?;
    if passed { Ok(()) } else { Err(Exit::silent(ERROR)) }
}

/// What the first endpoint's process has in memory; `when` the keys were put.
async fn memory_bytes(session: &Session, when: &str) -> Result<f64, Exit> {
    let [endpoint, ..] = session.endpoints.as_slice() else { return Err(Exit::silent(ERROR)) };
    match metrics::read(endpoint, METRIC, &session.options).await {
        Ok(bytes) if bytes != 0.0 => return Ok(bytes),
        Ok(_) => {}
        Err(why) => writeln!(io::stdout(), "{why}")?,
    }
    writeln!(io::stdout(), "FAIL: Could not read {METRIC} {when} the put operations.")?;
    Err(Exit::silent(ERROR))
}

async fn write_all(session: &Session, load: Load, prefix: &str) -> Result<Samples, Exit> {
    let writers = Writers::start(session, load.clients, VALUE)?;
    let mut shown = Instant::now();
    show_progress(0, load.keys)?;
    for _ in 0..load.keys {
        writers.put(random_key(prefix, KEY_SUFFIX_BYTES)).await;
        if shown.elapsed() > PROGRESS_PAUSE {
            shown = Instant::now();
            show_progress(writers.done(), load.keys)?;
        }
    }
    let samples = writers.finish().await;
    show_progress(load.keys, load.keys)?;
    writeln!(io::stdout())?;
    Ok(samples)
}

/// The report, and whether all is well: every write was done.
fn judge(used_bytes: f64, samples: &Samples) -> (String, bool) {
    match samples.failures() {
        none if none.is_empty() => {
            let megabytes = used_bytes / f64::from(1 << 20);
            (format!("PASS: Approximate system memory used : {megabytes:.2} MB.\n"), true)
        }
        failures => (failures, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_unless_a_write_failed() {
        let mut samples = Samples::default();
        let expected = "PASS: Approximate system memory used : 48.18 MB.\n";
        assert_eq!(judge(50_520_000.0, &samples), (expected.into(), true));
        samples.errors.insert("odd".into(), 2);
        let expected = "FAIL: too many errors\nFAIL: ERROR(odd) -> 2\n";
        assert_eq!(judge(50_520_000.0, &samples), (expected.into(), false));
    }
}
