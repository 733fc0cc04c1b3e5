//! The report: tables of medians, of ratios between the servers and of goals, as Markdown and as JSON.
//! Owns the rows that `compare` fills and how they are shown; measures nothing itself.

use crate::figure::{Figure, Sample};
use crate::goals::{self, Verdict};
use crate::machine::Machine;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Ours,
    Peer,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Ours => "ours",
            Side::Peer => "peer",
        })
    }
}

/// One row of the report: a workload, and the samples of each side in the order of the rounds.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    about: String,
    samples: BTreeMap<Side, Vec<Sample>>,
    failures: Vec<String>,
}

impl Row {
    pub fn new(name: &'static str, about: String) -> Self {
        Self { name, about, samples: BTreeMap::new(), failures: Vec::new() }
    }

    pub fn add(&mut self, side: Side, sample: Sample) {
        self.samples.entry(side).or_default().push(sample);
    }

    pub fn fail(&mut self, side: Side, round: usize, error: &str) {
        self.failures.push(format!("{side}, round {round}: {}", error.trim_end()));
    }

    pub fn median(&self, side: Side) -> Sample {
        Sample::median(self.samples.get(&side).map_or(&[], Vec::as_slice))
    }

    pub fn verdicts(&self) -> Vec<Verdict> {
        goals::verdicts(self.name, &self.median(Side::Ours), &self.median(Side::Peer))
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Server {
    pub side: Side,
    pub version: String,
    pub path: String,
}

pub struct Report {
    pub machine: Machine,
    pub servers: Vec<Server>,
    pub rounds: usize,
    pub window_seconds: f64,
    pub rows: Vec<Row>,
}

/// Figures of the big table; those of a single row follow in a table of their own.
const COLUMNS: [Figure; 12] = [
    Figure::Throughput,
    Figure::P50,
    Figure::P99,
    Figure::P999,
    Figure::Max,
    Figure::ServerCpu,
    Figure::ServerUser,
    Figure::ServerKernel,
    Figure::ClientCpu,
    Figure::Resident,
    Figure::Anonymous,
    Figure::Disk,
];
const SPECIAL: [Figure; 8] = [
    Figure::RestartTime,
    Figure::CompactionTime,
    Figure::QuietP999,
    Figure::QuietMax,
    Figure::QuietGap,
    Figure::LongestGap,
    Figure::Stall,
    Figure::Errors,
];
const RATIOS: [Figure; 7] = [
    Figure::Throughput,
    Figure::P50,
    Figure::P99,
    Figure::P999,
    Figure::ServerCpu,
    Figure::Resident,
    Figure::Disk,
];
const NONE: &str = "-";

impl Report {
    pub fn has_failures(&self) -> bool {
        self.rows.iter().any(|row| !row.failures.is_empty())
    }

    pub fn markdown(&self) -> String {
        let mut out = String::from("# Benchmark\n\n");
        self.write_head(&mut out);
        out.push_str(
            "\n## Figures\n\nMedians over the rounds. CPU is of all server processes, per operation.\n\n",
        );
        out.push_str(&self.figures());
        let special = self.special();
        if !special.is_empty() {
            out.push('\n');
            out.push_str(&special);
        }
        if self.servers.len() > 1 {
            out.push_str("\n## Ratios\n\nTimes better than the peer: peer / ours; for op/s ours / peer.\n\n");
            out.push_str(&self.ratios());
        }
        let goals = self.goals();
        if !goals.is_empty() {
            out.push_str("\n## Goals\n\n");
            out.push_str(&goals);
        }
        out.push_str("\n## Workloads\n\n");
        for row in &self.rows {
            let _ = writeln!(out, "- `{}`: {}", row.name, row.about);
        }
        if self.has_failures() {
            out.push_str("\n## Failures\n\n");
            for row in &self.rows {
                for failure in &row.failures {
                    let _ = writeln!(out, "- `{}`, {failure}", row.name);
                }
            }
        }
        out
    }

    fn write_head(&self, out: &mut String) {
        let machine = &self.machine;
        let _ = writeln!(
            out,
            "{}; {} x {}, {:.0} GB, Linux {}; data on {}, fsync of 4 KB {:.2} ms (p99 {:.2} ms).",
            machine.date,
            machine.processors,
            machine.processor,
            machine.memory_gb,
            machine.kernel,
            machine.filesystem,
            machine.fsync_p50_ms,
            machine.fsync_p99_ms,
        );
        for server in &self.servers {
            let _ = writeln!(out, "{}: {} (`{}`).", server.side, server.version, server.path);
        }
        let _ = writeln!(
            out,
            "Rounds: {}, windows of {} s; servers in turn, fresh data each time; client and servers share the machine; \
             values of 256 bytes.",
            self.rounds, self.window_seconds,
        );
    }

    fn sides(&self) -> impl Iterator<Item = Side> {
        self.servers.iter().map(|server| server.side)
    }

    fn figures(&self) -> String {
        let mut table = Table::new(["workload", "server"].into_iter().chain(COLUMNS.map(Figure::title)));
        for row in &self.rows {
            for side in self.sides() {
                let median = row.median(side);
                let cells = COLUMNS.iter().map(|figure| shown(*figure, median.get(*figure)));
                table.push([row.name.to_owned(), side.to_string()].into_iter().chain(cells));
            }
        }
        table.render()
    }

    /// The figures that only some rows have, one to a line.
    fn special(&self) -> String {
        let mut table =
            Table::new(["workload", "figure"].into_iter().chain(self.servers.iter().map(|server| {
                match server.side {
                    Side::Ours => "ours",
                    Side::Peer => "peer",
                }
            })));
        for row in &self.rows {
            let medians: Vec<Sample> = self.sides().map(|side| row.median(side)).collect();
            let is_compaction = medians.iter().any(|median| median.get(Figure::Stall).is_some());
            for figure in SPECIAL {
                let values: Vec<Option<f64>> = medians.iter().map(|median| median.get(figure)).collect();
                let worth_it = match figure {
                    Figure::Errors => values.iter().flatten().any(|errors| *errors > 0.0),
                    Figure::LongestGap => is_compaction,
                    _ => values.iter().any(Option::is_some),
                };
                if worth_it {
                    let cells = values.into_iter().map(|value| shown(figure, value));
                    table.push([row.name.to_owned(), figure.title().to_owned()].into_iter().chain(cells));
                }
            }
        }
        table.render()
    }

    fn ratios(&self) -> String {
        let mut table = Table::new(["workload"].into_iter().chain(RATIOS.map(Figure::title)));
        for row in &self.rows {
            let (ours, peer) = (row.median(Side::Ours), row.median(Side::Peer));
            let cells = RATIOS.iter().map(|figure| times(goals::times_better(*figure, &ours, &peer)));
            table.push([row.name.to_owned()].into_iter().chain(cells));
        }
        table.render()
    }

    fn goals(&self) -> String {
        let mut table = Table::new(["workload", "figure", "ours", "peer", "times better", "goal", "met"]);
        for verdict in self.rows.iter().flat_map(Row::verdicts) {
            table.push([
                verdict.row.to_owned(),
                verdict.figure.title().to_owned(),
                shown(verdict.figure, verdict.ours),
                shown(verdict.figure, verdict.peer),
                times(verdict.times_better),
                verdict.goal,
                match verdict.met {
                    Some(true) => "yes",
                    Some(false) => "NO",
                    None => NONE,
                }
                .to_owned(),
            ]);
        }
        table.render()
    }

    pub fn json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct JsonRow<'a> {
            name: &'a str,
            about: &'a str,
            medians: BTreeMap<Side, Sample>,
            samples: &'a BTreeMap<Side, Vec<Sample>>,
            times_better: BTreeMap<Figure, f64>,
            goals: Vec<Verdict>,
            failures: &'a [String],
        }
        #[derive(Serialize)]
        struct Json<'a> {
            machine: &'a Machine,
            servers: &'a [Server],
            rounds: usize,
            window_seconds: f64,
            rows: Vec<JsonRow<'a>>,
        }
        let rows = self.rows.iter().map(|row| {
            let (ours, peer) = (row.median(Side::Ours), row.median(Side::Peer));
            JsonRow {
                name: row.name,
                about: &row.about,
                times_better: ours
                    .figures()
                    .filter_map(|(figure, _)| Some((figure, goals::times_better(figure, &ours, &peer)?)))
                    .collect(),
                medians: row.samples.keys().map(|side| (*side, row.median(*side))).collect(),
                samples: &row.samples,
                goals: row.verdicts(),
                failures: &row.failures,
            }
        });
        serde_json::to_string_pretty(&Json {
            machine: &self.machine,
            servers: &self.servers,
            rounds: self.rounds,
            window_seconds: self.window_seconds,
            rows: rows.collect(),
        })
    }
}

fn shown(figure: Figure, value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| figure.show(value))
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| NONE.to_owned(), |ratio| format!("{ratio:.2}x"))
}

/// A Markdown table whose columns are padded, so that it also reads well in a terminal.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<'a>(titles: impl IntoIterator<Item = &'a str>) -> Self {
        Self { rows: vec![titles.into_iter().map(str::to_owned).collect()] }
    }

    pub fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| cell.replace('|', "/")).collect());
    }

    /// Empty when there is nothing below the titles. The first column is left-aligned, the others to the right.
    pub fn render(&self) -> String {
        if self.rows.len() < 2 {
            return String::new();
        }
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).max(3)).collect();
        let mut out = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let _ = match column {
                    0 => write!(out, "| {cell:<width$} "),
                    _ => write!(out, "| {cell:>width$} "),
                };
            }
            out.push_str("|\n");
            if index == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let _ = write!(out, "|{}{}", "-".repeat(width + 1), if column == 0 { "-" } else { ":" });
                }
                out.push_str("|\n");
            }
        }
        out
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn sample(figures: &[(Figure, f64)]) -> Sample {
        let mut sample = Sample::default();
        figures.iter().for_each(|(figure, value)| sample.set(*figure, *value));
        sample
    }

    pub fn example() -> Report {
        let mut put = Row::new("put-64", "puts".to_owned());
        for (ours, peer) in [(10.0, 40.0), (99.0, 50.0), (12.0, 48.0)] {
            put.add(Side::Ours, sample(&[(Figure::ServerCpu, ours), (Figure::Throughput, 30_000.0)]));
            put.add(Side::Peer, sample(&[(Figure::ServerCpu, peer), (Figure::Throughput, 10_000.0)]));
        }
        let mut restart = Row::new("restart", "kill -9".to_owned());
        restart.add(Side::Ours, sample(&[(Figure::RestartTime, 1.0)]));
        restart.fail(Side::Peer, 1, "not ready");
        Report {
            machine: Machine {
                date: "2000-01-01".into(),
                processors: 2,
                processor: "a processor".into(),
                memory_gb: 8.0,
                kernel: "6.1".into(),
                filesystem: "ext4".into(),
                fsync_p50_ms: 0.5,
                fsync_p99_ms: 2.0,
            },
            servers: [Side::Ours, Side::Peer]
                .map(|side| Server { side, version: "3.5.1".into(), path: "etcd".into() })
                .to_vec(),
            rounds: 3,
            window_seconds: 5.0,
            rows: vec![put, restart],
        }
    }

    #[test]
    fn ratios_and_goals_compare_medians() {
        let markdown = example().markdown();
        let line = |start: &str, has: &str| {
            let found = markdown.lines().find(|line| line.starts_with(start) && line.contains(has));
            found.unwrap_or_else(|| panic!("no {start} with {has} in\n{markdown}")).replace(' ', "")
        };
        assert_eq!(line("| put-64", "≥ 3"), "|put-64|serverµs/op|12.0|48.0|4.00x|≥3xbetter|yes|");
        assert_eq!(line("| put-64", "≥ 2.5"), "|put-64|op/s|30000|10000|3.00x|≥2.5xbetter|yes|");
        assert_eq!(line("| put-64", "not worse"), "|put-64|p99ms|-|-|-|notworse|-|");
        assert_eq!(line("| restart", "≤"), "|restart|restarts|1.00|-|-|≤0.2ofpeer|-|");
        assert!(markdown.contains("- `restart`, peer, round 1: not ready"));
        assert!(example().has_failures());
    }

    #[test]
    fn json_holds_samples_medians_and_ratios() {
        let json: serde_json::Value =
            serde_json::from_str(&example().json().expect("plain data")).expect("is JSON");
        let put = &json["rows"][0];
        assert_eq!(put["samples"]["ours"][1]["server_cpu_us_per_op"], 99.0);
        assert_eq!(put["medians"]["peer"]["server_cpu_us_per_op"], 48.0);
        assert_eq!(put["times_better"]["server_cpu_us_per_op"], 4.0);
        assert_eq!(put["goals"][0]["met"], true);
        assert_eq!(json["rows"][1]["medians"].get("peer"), None);
    }

    #[test]
    fn tables_are_padded_and_empty_without_rows() {
        let mut table = Table::new(["name", "n"]);
        assert_eq!(table.render(), "");
        table.push(["a|b".to_owned(), "12345".to_owned()]);
        assert_eq!(table.render(), "| name |     n |\n|------|------:|\n| a/b  | 12345 |\n");
    }
}
