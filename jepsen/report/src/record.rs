//! What one run of one verb showed, and the directory that keeps it.
//!
//! | file | what |
//! |---|---|
//! | `<verb>.json` | the newest record of a verb, indented; replaced atomically |
//! | `log.jsonl` | every record ever saved, one a line, appended |
//!
//! A record is a JSON object of the fields of `Record`. Lists, maps and optional fields may be absent, so that older
//! logs stay readable. Times are Unix seconds, spans of time seconds.
//!
//! Names of figures that pages know; any other is shown as it is:
//!
//! | verb | figures |
//! |---|---|
//! | all | `operations` checked, `faults` injected, `faults.<kind>` of each kind |
//! | `simulate` | `seeds`, `simulated_hours`, `simulated_seconds_per_core_second`, `replayed` (seeds run twice), `replays_differing`, `checked_per_core_second` |
//! | `chaos` | `runs` |
//! | `fuzz` | `executions` |
//!
//! Figures of mutants and bugs are counted from their rows.

#![expect(clippy::disallowed_methods, reason = "records are files")]

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const LOG: &str = "log.jsonl";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub verb: Verb,
    /// Unix seconds.
    pub began: u64,
    pub took_seconds: f64,
    /// The closing line of figures.
    pub line: String,
    /// By name, see the table above; all finite.
    #[serde(default)]
    pub figures: BTreeMap<String, f64>,
    /// Faults that the machine could not do, and why.
    #[serde(default)]
    pub skipped: Vec<(String, String)>,
    /// How often what must sometimes happen did; 0: never.
    #[serde(default)]
    pub probes: BTreeMap<String, u64>,
    #[serde(default)]
    pub rows: Vec<Row>,
    #[serde(default)]
    pub failures: Vec<FailureRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    Simulate,
    Chaos,
    Mutants,
    Bugs,
    Fuzz,
}

/// One mutant, known bug, fuzz target or scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub what: String,
    pub state: State,
    /// What noticed it, what failed, why it was skipped.
    #[serde(default)]
    pub detail: String,
    /// Seeds until it was noticed.
    #[serde(default)]
    pub seeds: Option<u64>,
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Date of the last red, `2026-01-31`.
    #[serde(default)]
    pub on: Option<String>,
    /// It ran real processes, which have more time.
    #[serde(default)]
    pub processes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    Failed,
    /// A known mistake was made, and found.
    Noticed,
    /// A known mistake was made, and nothing found it.
    Unnoticed,
    Skipped,
}

/// A history that the proof refuses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureRef {
    pub title: String,
    /// Name of the timeline's file, relative to the page.
    #[serde(default)]
    pub timeline: Option<String>,
}

/// A file of the directory that cannot be read, or is not what `save` writes.
#[derive(Debug)]
pub struct Broken {
    pub path: PathBuf,
    /// Of `log.jsonl`, from 1.
    pub line: Option<usize>,
    pub why: String,
}

impl Verb {
    pub const ALL: [Verb; 5] = [Verb::Simulate, Verb::Chaos, Verb::Mutants, Verb::Bugs, Verb::Fuzz];

    /// As on the command line and in file names.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Simulate => "simulate",
            Verb::Chaos => "chaos",
            Verb::Mutants => "mutants",
            Verb::Bugs => "bugs",
            Verb::Fuzz => "fuzz",
        }
    }
}

impl State {
    pub fn is_bad(self) -> bool {
        matches!(self, State::Failed | State::Unnoticed)
    }
}

impl Row {
    /// Without detail, seeds, time and date.
    pub fn new(name: impl Into<String>, what: impl Into<String>, state: State) -> Row {
        let (name, what, detail) = (name.into(), what.into(), String::new());
        Row { name, what, state, detail, seeds: None, seconds: None, on: None, processes: false }
    }
}

impl Record {
    /// Without figures, rows and failures.
    pub fn new(verb: Verb, began: u64, took_seconds: f64, line: impl Into<String>) -> Record {
        Record {
            verb,
            began,
            took_seconds,
            line: line.into(),
            figures: BTreeMap::new(),
            skipped: Vec::new(),
            probes: BTreeMap::new(),
            rows: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Whether it showed a failure, or a known mistake that was not noticed.
    pub fn failed(&self) -> bool {
        !self.failures.is_empty() || self.rows.iter().any(|row| row.state.is_bad())
    }

    fn check(&self) -> Result<(), String> {
        let seconds = self.rows.iter().filter_map(|row| Some((row.name.as_str(), row.seconds?)));
        let figures = self.figures.iter().map(|(name, value)| (name.as_str(), *value));
        let mut numbers = figures.chain(seconds).chain([("took_seconds", self.took_seconds)]);
        match numbers.find(|(_, value)| !value.is_finite()) {
            Some((name, value)) => Err(format!("{name} is {value}, which JSON cannot hold")),
            None => Ok(()),
        }
    }
}

/// Keeps a record in `dir`, which is made if need be. When it returns, both files hold the record.
///
/// Errors: those of the file system; `InvalidInput` if a figure is not finite.
pub fn save(dir: &Path, record: &Record) -> io::Result<()> {
    record.check().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    fs::create_dir_all(dir)?;
    let mut indented = serde_json::to_vec_pretty(record)?;
    indented.push(b'\n');
    replace(&dir.join(format!("{}.json", record.verb.name())), &indented)?;
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    // One write of a whole line: runs that end together do not mix.
    fs::OpenOptions::new().create(true).append(true).open(dir.join(LOG))?.write_all(&line)
}

/// Another process sees the old file or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let written = fs::File::create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// All records of `dir`, the oldest first; none if nothing was ever saved there.
///
/// Errors: the first file, and line, that is not as `save` left it.
pub fn load(dir: &Path) -> Result<Vec<Record>, Broken> {
    let log = dir.join(LOG);
    let mut records: Vec<Record> = Vec::new();
    let text = read(&log)?.unwrap_or_default();
    for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        if !line.trim_ascii().is_empty() {
            records.push(parse(&log, Some(number), line)?);
        }
    }
    for verb in Verb::ALL {
        let path = dir.join(format!("{}.json", verb.name()));
        let Some(bytes) = read(&path)? else { continue };
        let record: Record = parse(&path, None, &bytes)?;
        if record.verb != verb {
            let why = format!("it is a record of {}", record.verb.name());
            return Err(Broken { path, line: None, why });
        }
        if !records.contains(&record) {
            records.push(record);
        }
    }
    records.sort_by_key(|record| record.began);
    Ok(records)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Broken> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Broken { path: path.to_owned(), line: None, why: error.to_string() }),
    }
}

fn parse(path: &Path, line: Option<usize>, bytes: &[u8]) -> Result<Record, Broken> {
    serde_json::from_slice(bytes).map_err(|error| Broken {
        path: path.to_owned(),
        line,
        why: error.to_string(),
    })
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl std::error::Error for Broken {}
