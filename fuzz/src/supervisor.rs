//! Runs engines: one process a target, a few at a time, each with limits of time and memory, and adds up what they did.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
    time::Duration,
};

use fuzz::Target;

/// Memory of a process, in MiB.
const RSS_LIMIT_MB: u32 = 512;
/// Longest time for one input.
const INPUT_SECONDS: u32 = 10;
/// How much of what a failing engine said is shown.
const SHOWN_LINES: usize = 40;

#[derive(Default)]
struct Sum {
    executions: u64,
    edges: u64,
    failures: Vec<String>,
}

struct Outcome {
    executions: u64,
    edges: u64,
    failed: bool,
    said: String,
}

/// Runs all `targets`, each for `time`; prints a line for each and one for all.
pub fn run(targets: &[&'static Target], time: Duration, jobs: usize, dir: &Path) -> ExitCode {
    let queue = Mutex::new(targets.iter());
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no job panics").next();
                    let Some(target) = next else { return };
                    let outcome = engine(target, time, dir);
                    report(target, outcome, dir, &mut sum.lock().expect("no job panics"));
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no job panics");
    for failure in &sum.failures {
        println!("{failure}");
    }
    println!(
        "fuzz: {} targets, {} executions, {} edges, {} failures",
        targets.len(),
        sum.executions,
        sum.edges,
        sum.failures.len()
    );
    if sum.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failures_of(target: &Target, dir: &Path) -> PathBuf {
    dir.join("failures").join(target.name)
}

fn engine(target: &Target, time: Duration, dir: &Path) -> io::Result<Outcome> {
    let corpus = dir.join("corpus").join(target.name);
    let failures = failures_of(target, dir);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&failures)?;
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(corpus.join(format!("seed-{number:03}")), seed)?;
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["engine", target.name, "--"]);
    command.arg(format!("-max_total_time={}", time.as_secs()));
    command.arg(format!("-max_len={}", target.max_bytes));
    command.arg(format!("-rss_limit_mb={RSS_LIMIT_MB}"));
    command.arg(format!("-timeout={INPUT_SECONDS}"));
    command.arg(format!("-artifact_prefix={}/", failures.display()));
    command.args(["-print_final_stats=1", "-verbosity=1"]).arg(&corpus);
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Outcome {
        executions: number_after(&said, "stat::number_of_executed_units:").unwrap_or(0),
        edges: number_after(&said, " cov: ").unwrap_or(0),
        failed: !output.status.success(),
        said,
    })
}

/// The number behind the last `mark`.
fn number_after(text: &str, mark: &str) -> Option<u64> {
    let rest = text[text.rfind(mark)? + mark.len()..].trim_start();
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn report(target: &Target, outcome: io::Result<Outcome>, dir: &Path, sum: &mut Sum) {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            sum.failures.push(format!("{}: the engine could not be run: {error}", target.name));
            return;
        }
    };
    let Outcome { executions, edges, failed, said } = outcome;
    println!("{:18} {executions:>10} executions {edges:>6} edges", target.name);
    sum.executions += executions;
    sum.edges += edges;
    if !failed {
        return;
    }
    let lines: Vec<&str> = said.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        eprintln!("{line}");
    }
    // Its last words name the file.
    let mark = "Test unit written to ";
    let file = said.rfind(mark).and_then(|at| said[at + mark.len()..].lines().next());
    let program = std::env::args().next().unwrap_or_default();
    sum.failures.push(match file {
        Some(file) => format!("{} failed; repeat: {program} repeat {} {file}", target.name, target.name),
        None => {
            format!("{} failed without an input; see {}", target.name, failures_of(target, dir).display())
        }
    });
}
