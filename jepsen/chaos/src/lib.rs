//! Real clusters under real faults, judged by the oracle.
//!
//! `run` has one cluster of real server processes after the other: clients work on it, a nemesis disturbs it, then all
//! is healed, and what the clients saw must be what one etcd could have answered. Any etcd will do as the server.
//!
//! | module | owns |
//! |---|---|
//! | `binary` | the program under test and its flags |
//! | `member`, `cluster` | processes, their places, who leads |
//! | `rpc`, `session`, `stream` | connections that never retry; clients and watches that write down what they see |
//! | `world` | what the tasks of a run share |
//! | `workload` | the traffic, one file a kind |
//! | `nemesis` | the faults |
//! | `observer`, `fates` | watches of everything, and what became of writes that nobody was answered |
//! | `run`, `judge`, `evidence` | one run from its seed, its verdict, what is kept of it |
//!
//! One run is one thread with one runtime. Servers die with that thread, directories with the run; SIGINT and SIGTERM
//! end all runs in that way. The crate shares no code with the server. Called by the binary `jepsen`.

mod binary;
mod cluster;
mod evidence;
mod fates;
mod judge;
mod member;
mod nemesis;
mod observer;
mod rights;
mod rpc;
mod run;
mod session;
mod stream;
mod workload;
mod world;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

pub use nemesis::{Band, Kind};
pub use run::Evidence;
pub use workload::Workload;

use binary::Binary;
use nemesis::Machine;
use run::{Plan, Report};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server; `None` = `etcd` beside this program, or in the directory above.
    pub etcd: Option<PathBuf>,
    /// No run is begun later than this.
    pub time: Duration,
    /// At most so many; `None` = as many as there is time for.
    pub runs: Option<u64>,
    /// Of the first run; the next ones have the next numbers.
    pub seed: u64,
    /// In turn; empty = all.
    pub workloads: Vec<Workload>,
    /// To draw from; empty = all.
    pub faults: Vec<Kind>,
    /// Runs at once, at least 1.
    pub at_once: usize,
    /// A fault that cannot be done here is a failure.
    pub require_all: bool,
    /// Goes on after a run that failed.
    pub keep_going: bool,
    /// Where runs that failed are kept, as `<seed>-<workload>/`.
    pub out: PathBuf,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Progress {
    /// Before the first run.
    Begun { server: PathBuf, version: String },
    /// A kind of fault that cannot be done here, and why.
    Skipped { fault: Kind, why: String },
    /// A run has ended.
    Ended(Box<Ended>),
}

/// A run, in short.
#[derive(Debug)]
pub struct Ended {
    pub seed: u64,
    pub workload: Workload,
    pub members: usize,
    pub operations: usize,
    /// In the order in which they ended.
    pub bands: Vec<Band>,
    pub failure: Option<String>,
    pub evidence: Option<Evidence>,
    /// Where it was kept.
    pub kept: Option<PathBuf>,
    pub took: Duration,
    /// From the end of the faults until every member served.
    pub healed: Option<Duration>,
}

/// How often a kind of fault took place, and why it did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub injected: u64,
    pub missed: BTreeMap<&'static str, u64>,
    /// It cannot be done here at all.
    pub skipped: Option<String>,
}

/// All runs together.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub version: String,
    pub runs: u64,
    pub failed: u64,
    pub operations: u64,
    /// Events that watches were told, all of them compared with what happened.
    pub events: u64,
    /// Requests whose answer the rules of the moment leave no choice, and hashes that were compared with others.
    pub by_rights: u64,
    pub hashes: u64,
    pub elections: u64,
    /// Writes of unknown outcome: that happened, that did not, that were left to the checkers.
    pub unknown: (u64, u64, u64),
    pub runs_by_workload: BTreeMap<Workload, u64>,
    pub faults: BTreeMap<Kind, Tally>,
    pub slowest_healing: Duration,
    pub took: Duration,
    /// A signal ended it.
    pub interrupted: bool,
    /// Faults were skipped, or there was nothing to judge, and that is a failure.
    pub incomplete: bool,
}

impl Summary {
    pub fn is_ok(&self) -> bool {
        // Without a fault nothing was shown.
        self.failed == 0 && self.runs > 0 && self.injected() > 0 && !self.incomplete && !self.interrupted
    }

    pub fn injected(&self) -> u64 {
        self.faults.values().map(|tally| tally.injected).sum()
    }

    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.failed += u64::from(report.failure.is_some());
        self.operations += report.operations as u64;
        self.events += report.events as u64;
        self.by_rights += report.by_rights;
        self.hashes += report.hashes;
        self.elections += report.elections;
        let settled = report.settled;
        let (happened, never, open) = self.unknown;
        self.unknown = (happened + settled.happened, never + settled.never, open + settled.open);
        *self.runs_by_workload.entry(report.plan.workload).or_insert(0) += 1;
        for band in &report.bands {
            self.faults.entry(band.kind).or_default().injected += 1;
        }
        for &(kind, why, count) in &report.missed {
            *self.faults.entry(kind).or_default().missed.entry(why).or_insert(0) += count;
        }
        self.slowest_healing = self.slowest_healing.max(report.healed.unwrap_or_default());
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, tally) in &self.faults {
            write!(f, "{kind}: {} injected", tally.injected)?;
            for (why, count) in &tally.missed {
                write!(f, "; {count} not, {why}")?;
            }
            if let Some(why) = &tally.skipped {
                write!(f, "; SKIPPED: {why}")?;
            }
            writeln!(f)?;
        }
        let (happened, never, open) = self.unknown;
        writeln!(
            f,
            "unknown outcomes: {happened} happened, {never} did not, {open} left to the checkers; {} elections; every \
             member served {:.1} s after the last fault at the latest; {} watch events, {} hashes compared; {} answers \
             judged by users' rights",
            self.elections,
            self.slowest_healing.as_secs_f64(),
            self.events,
            self.hashes,
            self.by_rights
        )?;
        let workloads: Vec<String> =
            self.runs_by_workload.iter().map(|(workload, runs)| format!("{workload} {runs}")).collect();
        write!(
            f,
            "etcd {}: {} runs ({}), {} faults, {} operations checked, {} failed, {:.0} s{}",
            self.version,
            self.runs,
            workloads.join(", "),
            self.injected(),
            self.operations,
            self.failed,
            self.took.as_secs_f64(),
            if self.interrupted { ", interrupted" } else { "" }
        )
    }
}

/// Runs until the time is over, a run fails, or a signal comes. An error if there is no server to run.
///
/// To be called before other threads are started: mounts are made private to the process first.
pub fn run(options: Options, progress: &mut dyn FnMut(Progress)) -> io::Result<Summary> {
    let began = Instant::now();
    let binary = match &options.etcd {
        Some(path) => Binary::at(path)?,
        None => Binary::beside_this_program()?,
    };
    let (server, version) = (binary.path.clone(), binary.version.clone());
    let mut summary = Summary { version: version.clone(), ..Summary::default() };
    progress(Progress::Begun { server, version });
    faults::forgetfs::private_mounts()?;
    cluster::sweep()?;
    let machine = Machine::probe(&binary);
    for fault in Kind::ALL {
        if let Some(why) = machine.refuses(fault)
            && (options.faults.is_empty() || options.faults.contains(&fault))
        {
            progress(Progress::Skipped { fault, why: why.to_owned() });
            summary.faults.entry(fault).or_default().skipped = Some(why.to_owned());
            summary.incomplete |= options.require_all;
        }
    }
    let workloads = if options.workloads.is_empty() { &Workload::ALL[..] } else { &options.workloads };
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (send, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..options.at_once.max(1) {
            let send = send.clone();
            scope.spawn(|| {
                let send = send;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let over =
                        began.elapsed() >= options.time || options.runs.is_some_and(|runs| number >= runs);
                    if over || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = options.seed.wrapping_add(number);
                    let workload = workloads[(number % workloads.len() as u64) as usize];
                    let plan = Plan::draw(seed, workload, &options.faults, &machine, &binary);
                    let report = one(plan, &binary);
                    let failed = report.as_ref().is_none_or(|report| report.failure.is_some());
                    if failed && !(options.keep_going && report.is_some()) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    if send.send(report).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for report in reports {
            let Some(report) = report else {
                summary.interrupted = true;
                continue;
            };
            summary.add(&report);
            progress(Progress::Ended(Box::new(end(report, &options.out))));
        }
    });
    let ran = |workload| summary.runs_by_workload.contains_key(&workload);
    summary.incomplete |= options.require_all
        && (ran(Workload::Auth) && summary.by_rights == 0 || ran(Workload::Admin) && summary.hashes == 0);
    summary.took = began.elapsed();
    Ok(summary)
}

/// One run on this thread; `None` if a signal ended it.
fn one(plan: Plan, binary: &Binary) -> Option<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs little");
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be caught");
        let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
        tokio::select! {
            report = run::run(plan, binary) => Some(report),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        }
    })
}

fn end(report: Report, out: &Path) -> Ended {
    let (kept, not_kept) = match evidence::keep(&report, out) {
        Ok(kept) => (kept, None),
        Err(error) => (None, Some(error)),
    };
    let failure = report.failure.as_ref().map(|failure| match not_kept {
        Some(error) => format!("{failure}\n(not kept: {error})"),
        None => failure.clone(),
    });
    Ended {
        seed: report.plan.seed,
        workload: report.plan.workload,
        members: report.plan.settings.size,
        operations: report.operations,
        bands: report.bands,
        failure,
        evidence: report.evidence,
        kept,
        took: report.took,
        healed: report.healed,
    }
}
