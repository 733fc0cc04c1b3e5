//! What is kept of a run that failed: a directory with all that is needed to look at it again.
//!
//! | file | what |
//! |---|---|
//! | `history` | the history, as `oracle::history::codec` encodes it |
//! | `run.txt` | seed, workload, settings, faults with their times, verdict |
//! | `m<n>.log` | each member's log, over all its starts |

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use oracle::history::codec;

use crate::run::Report;

/// Writes `<out>/<seed>-<workload>/`; its path. Nothing for a run that was right.
pub fn keep(report: &Report, out: &Path) -> io::Result<Option<PathBuf>> {
    let (Some(evidence), Some(failure)) = (&report.evidence, &report.failure) else { return Ok(None) };
    let directory = out.join(format!("{}-{}", report.plan.seed, report.plan.workload));
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("history"), codec::encode(&evidence.history))?;
    for (name, log) in &evidence.logs {
        fs::write(directory.join(format!("{name}.log")), log)?;
    }
    let mut text = format!(
        "seed {}\nworkload {}\n{:?}\n{} operations, unknown outcomes: {:?}\nverdict: {failure}\n\nfaults, in seconds:\n",
        report.plan.seed, report.plan.workload, report.plan.settings, report.operations, report.settled
    );
    let seconds = |ns: u64| ns as f64 / 1e9;
    for band in &report.bands {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:8.3} to {:8.3}  {}", seconds(band.from_ns), seconds(band.to_ns), band.what);
    }
    // What was asked for and not answered may still have taken effect later.
    for (kind, why, count) in &report.missed {
        let _ = writeln!(text, "{kind} {count} times not seen to happen: {why}");
    }
    fs::write(directory.join("run.txt"), text)?;
    Ok(Some(directory))
}
