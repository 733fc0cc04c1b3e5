//! Log lines in etcd's shape, as a `tracing` subscriber.
//!
//! Owns the two line formats, the outputs and the level filter. A line is written whole, by one call, before
//! the logging call returns; a line that cannot be written is dropped, since there is nowhere left to say so.
//! Spans are not recorded. Which settings are valid is `config::logging`. `main` calls `init` once per
//! process.
//!
//! JSON: `{"level","ts","logger"?,"caller","msg", fields...}`. Console: `ts level logger? caller msg {fields}`
//! separated by tabs. A field named `logger` fills that column; an event without a message has an empty one.
//! Follows etcd's zap set-up (`client/pkg/logutil`), with time always in UTC and lists of strings given by
//! `?` written as JSON lists. Libraries below the server are kept to warnings: at debug level they would log
//! each frame.

#![expect(clippy::disallowed_methods, reason = "writes lines with their time, into files of its own")]

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::config::logging::{Format, LogSettings, Target};
use crate::config::{Config, ConfigError, open_failure};

/// Crates whose events count only from warnings up.
const QUIET_CRATES: [&str; 8] = ["h2", "hyper", "hyper_util", "tonic", "tower", "mio", "tokio", "want"];

/// Keeps the log open; dropping it puts log files on disk. Lines may still be written afterwards.
#[must_use]
pub struct Guard(Arc<Vec<Output>>);

impl Drop for Guard {
    fn drop(&mut self) {
        for output in self.0.iter() {
            if let Output::File(file) = output {
                // A log that cannot be synchronised (a pipe, a full disk) must not stop the shutdown.
                file.sync_data().ok();
            }
        }
    }
}

/// Makes this configuration's log the one of the process. Fails when a file cannot be opened and when the
/// process has a log already.
pub fn init(config: &Config) -> Result<Guard, ConfigError> {
    let settings = LogSettings::from_config(config)?;
    let outputs = Arc::new(settings.targets.iter().map(Output::open).collect::<Result<Vec<_>, _>>()?);
    let lines = Lines { level: settings.level, format: settings.format, outputs: Arc::clone(&outputs) };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines))
        .map_err(|_| ConfigError("logging is set up already in this process".into()))?;
    Ok(Guard(outputs))
}

enum Output {
    Stderr,
    Stdout,
    /// Opened to append, so that each write lands whole at the end, whoever else writes.
    File(File),
}

impl Output {
    fn open(target: &Target) -> Result<Self, ConfigError> {
        Ok(match target {
            Target::Stderr => Output::Stderr,
            Target::Stdout => Output::Stdout,
            Target::File(path) => {
                let opened = File::options().append(true).create(true).open(path);
                Output::File(opened.map_err(|e| {
                    ConfigError(format!("couldn't open sink {path:?}: {}", open_failure(path, &e)))
                })?)
            }
        })
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        match self {
            Output::Stderr => io::stderr().lock().write_all(line),
            Output::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(line)?;
                out.flush()
            }
            Output::File(file) => (&*file).write_all(line),
        }
    }
}

/// The layer itself: filters an event, renders it, hands it to the outputs.
struct Lines {
    level: LevelFilter,
    format: Format,
    outputs: Arc<Vec<Output>>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let crate_name = metadata.target().split("::").next().unwrap_or_default();
        *metadata.level() <= self.level
            && (*metadata.level() <= Level::WARN || !QUIET_CRATES.contains(&crate_name))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let metadata = event.metadata();
        let text = line.render(
            self.format,
            level_name(metadata.level()),
            &timestamp(millis),
            &caller(metadata.file(), metadata.line()),
        );
        for output in self.outputs.iter() {
            output.write(text.as_bytes()).ok();
        }
    }
}

/// What an event carries.
#[derive(Default)]
struct Line {
    message: String,
    logger: String,
    /// In the order of the logging call.
    fields: Vec<(String, Value)>,
}

impl Line {
    fn render(self, format: Format, level: &str, ts: &str, caller: &str) -> String {
        match format {
            Format::Json => {
                let mut text = format!(r#"{{"level":"{level}","ts":"{ts}""#);
                let named = [("logger", self.logger), ("caller", caller.to_owned()), ("msg", self.message)];
                for (key, value) in
                    named.into_iter().filter(|(key, value)| *key != "logger" || !value.is_empty())
                {
                    push_member(&mut text, ",", key, ":", &Value::String(value));
                }
                for (key, value) in &self.fields {
                    push_member(&mut text, ",", key, ":", value);
                }
                text + "}\n"
            }
            Format::Console => {
                // One line stays one line: a message may hold a client's bytes.
                let message = escape_controls(&self.message);
                let columns = [ts, level, &self.logger, caller, &message];
                let mut text =
                    columns.into_iter().filter(|column| !column.is_empty()).collect::<Vec<_>>().join("\t");
                for (position, (key, value)) in self.fields.iter().enumerate() {
                    push_member(&mut text, if position == 0 { "\t{" } else { ", " }, key, ": ", value);
                }
                if !self.fields.is_empty() {
                    text.push('}');
                }
                text + "\n"
            }
        }
    }

    fn put(&mut self, field: &Field, value: Value) {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        match field.name() {
            "message" => self.message = text(value),
            "logger" => self.logger = text(value),
            name => {
                // A field may not shadow a column.
                let key = if matches!(name, "level" | "ts" | "caller" | "msg") {
                    format!("{name}-field")
                } else {
                    name.to_owned()
                };
                self.fields.push((key, value));
            }
        }
    }
}

fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    escaped
}

fn push_member(text: &mut String, before: &str, key: &str, colon: &str, value: &Value) {
    text.push_str(before);
    // Writing to a string cannot fail.
    write!(text, "{}{colon}{value}", Value::from(key)).ok();
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        // A list of strings prints in Rust nearly as in JSON; zap would have written the list.
        let list = (text.starts_with('[') && field.name() != "message")
            .then(|| serde_json::from_str::<Vec<String>>(&text).ok())
            .flatten();
        self.put(field, list.map_or(Value::String(text), Value::from));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinities; zap writes them as strings too.
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        self.put(field, number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
}

fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// `folder/file.rs:line`; for a file directly in `src`, the crate's folder.
fn caller(file: Option<&str>, line: Option<u32>) -> String {
    let path = file.unwrap_or("unknown");
    let mut parts = path.rsplit(['/', '\\']);
    let name = parts.next().unwrap_or(path);
    let place = match parts.find(|part| *part != "src") {
        Some(folder) => format!("{folder}/{name}"),
        None => name.to_owned(),
    };
    format!("{place}:{}", line.unwrap_or(0))
}

/// `2006-01-02T15:04:05.000Z` of a time in milliseconds since 1970, in UTC.
fn timestamp(millis: u64) -> String {
    let (days, in_day) = (millis / 86_400_000, millis % 86_400_000);
    // Days are counted from 0000-03-01, so that a leap day ends its year; eras are 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines a block of code logs.
    fn logged(level: LevelFilter, format: Format, block: impl FnOnce()) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let output = Output::open(&Target::File(path.to_string_lossy().into_owned())).unwrap();
        let lines = Lines { level, format, outputs: Arc::new(vec![output]) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), block);
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn golden_lines() {
        let line = || {
            let mut line = Line { message: "say \"hi\"\n".into(), ..Line::default() };
            line.fields.push(("took".into(), "3.4ms".into()));
            line.fields.push(("a-count".into(), 5.into()));
            line
        };
        assert_eq!(
            line().render(Format::Json, "info", "2026-01-02T15:04:05.000Z", "server/run.rs:7"),
            "{\"level\":\"info\",\"ts\":\"2026-01-02T15:04:05.000Z\",\"caller\":\"server/run.rs:7\",\
             \"msg\":\"say \\\"hi\\\"\\n\",\"took\":\"3.4ms\",\"a-count\":5}\n"
        );
        assert_eq!(
            line().render(Format::Console, "info", "2026-01-02T15:04:05.000Z", "server/run.rs:7"),
            "2026-01-02T15:04:05.000Z\tinfo\tserver/run.rs:7\tsay \"hi\"\\n\t{\"took\": \"3.4ms\", \"a-count\": 5}\n"
        );
        let named = Line { logger: "raft".into(), message: "m".into(), ..Line::default() };
        assert_eq!(
            named.render(Format::Json, "warn", "T", "raft/node.rs:1"),
            "{\"level\":\"warn\",\"ts\":\"T\",\"logger\":\"raft\",\"caller\":\"raft/node.rs:1\",\"msg\":\"m\"}\n"
        );
    }

    #[test]
    fn an_event_becomes_one_json_line() {
        let lines = logged(LevelFilter::INFO, Format::Json, || {
            let urls = ["http://a:1", "http://b:2"];
            tracing::info!("listen-peer-urls" = ?urls, ok = true, n = -1, f = 0.5, e = %"x", level = 3, "starting");
            tracing::debug!("unseen");
            tracing::info!(target: "h2::codec", "unseen");
            tracing::warn!(target: "h2::codec", logger = "h2", "seen");
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].contains(r#""logger":"h2","caller":""#), "{}", lines[1]);
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(lines[0].starts_with("{\"level\":\"info\",\"ts\":\"20"), "{}", lines[0]);
        assert_eq!(keys.len(), 10);
        assert_eq!(value["msg"], "starting");
        assert_eq!(value["listen-peer-urls"], serde_json::json!(["http://a:1", "http://b:2"]));
        assert_eq!((&value["ok"], &value["n"], &value["f"]), (&true.into(), &(-1).into(), &0.5.into()));
        assert_eq!((&value["e"], &value["level-field"]), (&"x".into(), &3.into()));
        assert!(value["caller"].as_str().unwrap().contains("log.rs:"), "{value}");
    }

    #[test]
    fn callers_are_short() {
        for (path, expected) in [
            ("store/src/server/run.rs", "server/run.rs:3"),
            ("store/src/main.rs", "store/main.rs:3"),
            ("src/main.rs", "main.rs:3"),
            ("/x/h2-0.4.1/src/codec/mod.rs", "codec/mod.rs:3"),
        ] {
            assert_eq!(caller(Some(path), Some(3)), expected);
        }
    }

    #[test]
    fn timestamps_follow_the_calendar() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_795_232_972_788, "2026-11-21T03:49:32.788Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
        ] {
            assert_eq!(timestamp(millis), text);
        }
        assert!(timestamp(u64::MAX).ends_with('Z'));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let missing = Output::open(&Target::File("/nonexistent/x.log".into())).err().unwrap();
        assert_eq!(
            missing.0,
            "couldn't open sink \"/nonexistent/x.log\": open /nonexistent/x.log: no such file or directory"
        );
    }
}
