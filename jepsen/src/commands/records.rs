//! Records of what the commands showed, and the page that is made of them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use jepsen::sim::{self, Stand, plan::Kind};
use oracle::history::NEVER_NS;
use report::{
    FailureRef, Record, Verb,
    timeline::{self, Band, Lane, Role, Span, Timeline},
};

use super::Done;

/// Where records are kept.
#[derive(Args, Clone)]
pub struct Place {
    /// Directory of records, timelines and the page
    #[arg(long, default_value = "target/proof")]
    records: PathBuf,
}

/// Write all records as one page, <RECORDS>/index.html
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
}

pub fn run(options: &Options) -> Done {
    let dir = &options.place.records;
    let records = report::load(dir).map_err(|broken| broken.to_string())?;
    if records.is_empty() {
        return Err(format!(
            "no records in {}: run make simulate, chaos, mutants, bugs or fuzz first",
            dir.display()
        ));
    }
    let page = dir.join("index.html");
    std::fs::write(&page, report::page::render(&records))
        .map_err(|error| format!("{}: {error}", page.display()))?;
    println!("{} records in {}", records.len(), page.display());
    Ok(true)
}

/// A record of a command that began so long ago and ends now.
pub fn record(verb: Verb, took: Duration, line: String) -> Record {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Record::new(verb, now.saturating_sub(took).as_secs(), took.as_secs_f64(), line)
}

impl Place {
    pub fn save(&self, record: &Record) -> Result<(), String> {
        report::save(&self.records, record).map_err(|error| format!("{}: {error}", self.records.display()))
    }

    /// Draws a failing simulated run; `replay` is the command that runs it again.
    pub fn timeline(&self, report: &sim::Report, name: &str, replay: &str) -> Result<FailureRef, String> {
        let failure = report.failure.as_ref().map_or("", |failure| failure.what.as_str());
        let members = report.stands.iter().map(|stand| stand.member + 1).max().unwrap_or(0);
        let timeline = Timeline {
            title: format!("seed {}: {}", report.plan.seed, failure.lines().next().unwrap_or_default()),
            failure: failure.to_owned(),
            replay_command: replay.to_owned(),
            history: &report.history,
            suspects: report.failure.as_ref().map_or_else(Vec::new, |failure| failure.ops.clone()),
            faults: bands(report),
            members: (0..members).map(|member| lane(member, &report.stands)).collect(),
            log: Vec::new(),
        };
        self.draw(&timeline, name)
    }

    /// Writes the page of a failing run to `<name>.html`.
    pub fn draw(&self, timeline: &Timeline<'_>, name: &str) -> Result<FailureRef, String> {
        let file = format!("{name}.html");
        write(&self.records, &file, &timeline::render(timeline))?;
        Ok(FailureRef { title: timeline.title.clone(), timeline: Some(file) })
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.records.join(file)
    }
}

fn write(dir: &Path, file: &str, text: &str) -> Result<(), String> {
    let path = dir.join(file);
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, text));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

fn bands(report: &sim::Report) -> Vec<Band> {
    let band = |struck: &sim::Struck| Band {
        what: struck.what.clone(),
        from_ns: struck.from_ns,
        to_ns: struck.to_ns,
        member: struck.member,
    };
    report.struck.iter().map(band).collect()
}

fn lane(member: usize, stands: &[Stand]) -> Lane {
    let own: Vec<&Stand> = stands.iter().filter(|stand| stand.member == member).collect();
    let until = |at: usize| own.get(at + 1).map_or(NEVER_NS, |next| next.at_ns);
    let spans = own.iter().enumerate().map(|(at, stand)| Span {
        from_ns: stand.at_ns,
        to_ns: until(at),
        role: match stand.role {
            None => Role::Down,
            Some(store::raft::Role::Leader) => Role::Leader,
            Some(store::raft::Role::Candidate) => Role::Candidate,
            Some(store::raft::Role::Follower) => Role::Follower,
        },
        term: stand.term,
    });
    Lane { name: format!("m{member}"), spans: spans.collect(), commits: Vec::new() }
}

/// Probes that are kinds of faults, as figures; the others stay probes.
pub fn split_probes(record: &mut Record, probes: &BTreeMap<&'static str, u64>) {
    for (what, times) in probes {
        if Kind::NAMES.contains(what) {
            record.figures.insert(format!("faults.{what}"), *times as f64);
        } else {
            record.probes.insert((*what).to_owned(), *times);
        }
    }
}
