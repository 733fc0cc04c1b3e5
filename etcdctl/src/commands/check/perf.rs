//! `check perf`: writes at a set rate for a minute and judges throughput and latency. `judge` is pure.

use std::io::{self, Write};
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    AUTO_COMPACT, AUTO_DEFRAG, Samples, Writers, clean_up, has_keys, of_load, random_key, show_progress,
};
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Invocation};
use crate::commands::range_options::Keys;
use crate::exit::{ERROR, Exit, INVALID_INPUT, Outcome};
use crate::go::quote::quote;

pub static COMMAND: Command = Command {
    usage: "perf [options]",
    short: "Check the performance of the etcd cluster",
    flags: &[
        Flag::text(
            "load",
            "s",
            "The performance check's workload model. Accepted workloads: s(small), m(medium), l(large), xl(xLarge)",
        ),
        Flag::text("prefix", "/etcdctl-check-perf/", "The prefix for writing the performance check's keys."),
        AUTO_COMPACT,
        AUTO_DEFRAG,
    ],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

/// Writes a second, and how many of them may be under way.
#[derive(Clone, Copy)]
struct Load {
    rate: u32,
    clients: usize,
}

const LOADS: [Load; 4] = [
    Load { rate: 150, clients: 50 },
    Load { rate: 1000, clients: 200 },
    Load { rate: 8000, clients: 500 },
    Load { rate: 15000, clients: 1000 },
];

const SECONDS: u64 = 60;
const KEY_SUFFIX_BYTES: usize = 256;
const VALUE: &[u8] = &[0; 1024];

async fn run(mut invocation: Invocation) -> Outcome {
    let load = of_load(invocation.flags.text("load"), LOADS)?;
    let session = Session::new(&mut invocation.flags).await?;
    let flags = &invocation.flags;
    let prefix = flags.text("prefix");
    let keys = Keys::with_prefix(prefix.as_bytes());
    if has_keys(&session, &keys, session.options.command_timeout).await? {
        let quoted = quote(prefix.as_bytes());
        let message = format!("prefix {quoted} has keys. Delete with 'etcdctl del --prefix {prefix}' first");
        return Err(Exit::new(INVALID_INPUT, message));
    }
    let samples = LocalSet::new().run_until(write_at_rate(&session, load, prefix)).await?;
    clean_up(&session, keys, flags.bool("auto-compact"), flags.bool("auto-defrag")).await?;
    let (report, passed) = judge(load, &samples);
    io::stdout().write_all(report.as_bytes())?;
    if passed { Ok(()) } else { Err(Exit::silent(ERROR)) }
}

async fn write_at_rate(session: &Session, load: Load, prefix: &str) -> Result<Samples, Exit> {
    let writers = Writers::start(session, load.clients, VALUE)?;
    let mut tick = interval(Duration::from_secs(1) / load.rate);
    // A slow cluster is to be found out, not to be caught up with.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = 0;
    show_progress(shown, SECONDS)?;
    while writers.start.elapsed() < Duration::from_secs(SECONDS) {
        tick.tick().await;
        writers.put(random_key(prefix, KEY_SUFFIX_BYTES)).await;
        let elapsed = writers.start.elapsed().as_secs().min(SECONDS);
        if elapsed > shown {
            shown = elapsed;
            show_progress(shown, SECONDS)?;
        }
    }
    let samples = writers.finish().await;
    writeln!(io::stdout())?;
    Ok(samples)
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
    let mut report = samples.failures();
    let mut passed = report.is_empty();
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
    use std::collections::BTreeMap;

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
