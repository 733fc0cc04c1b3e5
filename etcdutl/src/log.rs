//! What a command is doing, as lines on stderr: time, level, message, and fields as JSON, parted by tabs, as etcdutl
//! 3.5 has them (without the place in its source).

use std::{
    io::{self, Write},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

/// Name and value.
pub type Field<'a> = (&'a str, Value);

pub fn info(message: &str, fields: &[Field<'_>]) {
    line("info", message, fields);
}

pub fn warn(message: &str, fields: &[Field<'_>]) {
    line("warn", message, fields);
}

fn line(level: &str, message: &str, fields: &[Field<'_>]) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut line = format!("{}\t{level}\t{message}", utc(since.as_secs()));
    if !fields.is_empty() {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        line.push_str(&format!("\t{{{}}}", fields.join(", ")));
    }
    // Nobody has to read it.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A path as a field's value.
pub fn path(path: &Path) -> Value {
    path.to_string_lossy().into()
}

/// `2026-11-21T20:36:05Z` of seconds since 1970.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that a leap day ends its year; an era is 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_293_365), "2026-11-21T20:36:05Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
