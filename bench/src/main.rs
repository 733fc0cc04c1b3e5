//! `bench`: a load generator for etcd v3 endpoints, and the comparison behind `make bench`.
//! Reading order: `workloads` (what is done to a server) on `load` (the closed loop) over `client` (gRPC on
//! h2) with `wire`, `keys`, `histogram`; `server` and `usage` (processes and what they use); `compare` (ours and
//! the peer in turn); `figure`, `goals`, `report`, `plot`, `machine` (what is shown).
//! Everything runs on one thread, since client and servers share the machine. Servers die and their data goes
//! with this process, whatever ends it. Standard output carries the result, standard error the progress.

mod client;
mod compare;
mod figure;
mod goals;
mod histogram;
mod keys;
mod load;
mod machine;
mod plot;
mod report;
mod server;
mod usage;
mod wire;
mod workloads;

use clap::{Args, Parser, Subcommand};
use figure::Sample;
use report::{Report, Server, Side, Table};
use server::Binary;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use usage::Probe;
use workloads::{Target, Width, Workload};

#[derive(Parser)]
#[command(name = "bench", version, about = "Load generator for etcd v3 endpoints", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start our server and another etcd in turn, load both alike, and compare.
    Run(Run),
    /// Load an endpoint that is already running. It is filled with keys below /registry/pods/, so it must not
    /// be in use; range and pages want to find no other keys there.
    Load(Load),
}

#[derive(Args)]
struct Run {
    /// Rows to run, such as put-64 or page-first; put stands for put-1, put-64 and put-512.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// One short round on smaller stores.
    #[arg(long)]
    quick: bool,
    /// How often each server is measured; medians are reported [default: 3, quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Length of each measured window [default: 5, quick: 2].
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Client connections [default: 8 from 64 operations in flight on, otherwise 4].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: Option<u16>,
    /// Our server.
    #[arg(long, default_value = "target/release/etcd")]
    ours: PathBuf,
    /// The etcd to compare with [default: $ETCD_PEER_DIR/etcd, or else etcd on PATH].
    #[arg(long, conflicts_with = "without_peer")]
    peer: Option<PathBuf>,
    /// Measure our server alone.
    #[arg(long)]
    without_peer: bool,
    /// Where the servers keep their data; must be a disk for writes to mean anything [default: the temporary
    /// directory, or /var/tmp where that one is in memory].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where report.md, report.json and report.svg go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

#[derive(Args)]
struct Load {
    /// Client URLs, http://host:port.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    endpoints: Vec<String>,
    #[arg(long, value_enum)]
    workload: Workload,
    /// Operations in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,
    /// Length of the measured window.
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// Client connections [default: 8 from 64 operations in flight on, otherwise 4].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: Option<u16>,
    /// Keys below the prefix for the page workloads.
    #[arg(long, default_value_t = FULL.large_keys, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    keys: u64,
    /// Process of the server, for its CPU time and memory; repeat for members.
    #[arg(long)]
    server_pid: Vec<u32>,
}

/// The sizes of a run.
struct Scale {
    rounds: u16,
    window: Duration,
    large_keys: u64,
    compacted_revisions: u64,
    saved_keys: u64,
}

const FULL: Scale = Scale {
    rounds: 3,
    window: Duration::from_secs(5),
    large_keys: 300_000,
    compacted_revisions: 300_000,
    saved_keys: 780_000,
};
const QUICK: Scale = Scale {
    rounds: 1,
    window: Duration::from_secs(2),
    large_keys: 60_000,
    compacted_revisions: 60_000,
    saved_keys: 100_000,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let work = async {
        match cli.command {
            Command::Run(arguments) => run(arguments).await,
            Command::Load(arguments) => load(arguments).await,
        }
    };
    // Dropping the work drops its servers.
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            outcome = work => outcome,
            outcome = interrupted() => outcome,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &str) -> ExitCode {
    eprintln!("bench: {error}");
    ExitCode::FAILURE
}

async fn interrupted() -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Err("interrupted".to_owned())
}

async fn run(arguments: Run) -> Result<(), String> {
    let unknown = compare::unknown_rows(&arguments.only);
    if !unknown.is_empty() {
        return Err(format!("no such row: {}", unknown.join(", ")));
    }
    if !arguments.ours.is_file() {
        let path = arguments.ours.display();
        return Err(format!("there is no server at {path}: build it (cargo build --release) or give --ours"));
    }
    let ours = Binary::probe(&arguments.ours).await?;
    let peer = match find_peer(&arguments) {
        Some(path) => Some(Binary::probe(&path).await?),
        None => None,
    };
    let dir = data_dir(arguments.dir)?;
    let machine = machine::Machine::look(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    if machine.filesystem == "tmpfs" {
        eprintln!("{} is in memory: an fsync there is free, so writes say nothing of a disk", dir.display());
    }
    fs::create_dir_all(&arguments.out).map_err(|e| format!("{}: {e}", arguments.out.display()))?;

    let scale = if arguments.quick { QUICK } else { FULL };
    let settings = compare::Settings {
        ours,
        peer,
        dir,
        rounds: usize::from(arguments.rounds.unwrap_or(scale.rounds)),
        window: arguments.seconds.unwrap_or(scale.window),
        connections: arguments.connections.map(usize::from),
        large_keys: scale.large_keys,
        compacted_revisions: scale.compacted_revisions,
        saved_keys: scale.saved_keys,
        only: arguments.only,
    };
    let rows = compare::run(&settings).await;
    let server = |side, binary: &Binary| Server {
        side,
        version: binary.version.clone(),
        path: binary.path.display().to_string(),
    };
    let report = Report {
        machine,
        servers: [
            Some(server(Side::Ours, &settings.ours)),
            settings.peer.map(|peer| server(Side::Peer, &peer)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        rounds: settings.rounds,
        window_seconds: settings.window.as_secs_f64(),
        rows,
    };
    let markdown = report.markdown();
    println!("{markdown}");
    let json = report.json().map_err(|e| e.to_string())?;
    for (name, text) in [("report.md", markdown), ("report.json", json), ("report.svg", plot::svg(&report))] {
        let path = arguments.out.join(name);
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    eprintln!("wrote report.md, report.json and report.svg to {}", arguments.out.display());
    if report.has_failures() { Err("some runs failed, see the report".to_owned()) } else { Ok(()) }
}

async fn load(arguments: Load) -> Result<(), String> {
    let target =
        Target { endpoints: arguments.endpoints, probe: Probe { pids: arguments.server_pid, dirs: vec![] } };
    let width = Width {
        window: arguments.seconds,
        in_flight: arguments.concurrency as usize,
        connections: arguments.connections.map(usize::from),
        paged_keys: arguments.keys,
    };
    let sample: Sample = arguments.workload.run(&target, &width).await?;
    let mut table = Table::new(sample.figures().map(|(figure, _)| figure.title()));
    table.push(sample.figures().map(|(figure, value)| figure.show(value)));
    print!("{}", table.render());
    Ok(())
}

/// The etcd to compare with, unless it is our own server under another name.
fn find_peer(arguments: &Run) -> Option<PathBuf> {
    if arguments.without_peer {
        return None;
    }
    if let Some(path) = &arguments.peer {
        return Some(path.clone());
    }
    let given = std::env::var_os("ETCD_PEER_DIR").map(PathBuf::from);
    let searched =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let found = given
        .into_iter()
        .chain::<Vec<PathBuf>>(searched)
        .map(|dir| dir.join("etcd"))
        .find(|path| path.is_file() && path.canonicalize().ok() != arguments.ours.canonicalize().ok());
    if found.is_none() {
        eprintln!("no etcd to compare with: set ETCD_PEER_DIR or give --peer; measuring our server alone");
    }
    found
}

fn data_dir(given: Option<PathBuf>) -> Result<PathBuf, String> {
    let dir = given.unwrap_or_else(|| {
        let temporary = std::env::temp_dir();
        match usage::filesystem_of(&temporary).as_deref() {
            Some("tmpfs") => Path::new("/var/tmp").to_owned(),
            _ => temporary,
        }
    });
    // The servers may run elsewhere than in our working directory.
    dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3_600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("want a number of seconds from 0.1 to 3600".to_owned()),
    }
}
