//! Durations in Go's notation (`1h30m`, `1.5s`, `300ms`), in which etcd's flags are written.
//!
//! Only syntax: what a duration means is the caller's. Negative durations, which Go reads and etcd has no
//! use for, are refused. Follows the format of Go's `time.ParseDuration` and its error texts.

use std::time::Duration;

/// The longest duration Go can hold, and so the longest that is accepted.
pub const MAX: Duration = Duration::from_nanos(i64::MAX as u64);

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (whole, after_whole) = split_digits(rest);
        let (fraction, after_number) = match after_whole.strip_prefix('.') {
            Some(after_point) => split_digits(after_point),
            None => ("", after_whole),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_end =
            after_number.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after_number.len());
        let (unit_name, after_unit) = after_number.split_at(unit_end);
        if unit_name.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let Some((_, unit)) = UNITS.iter().find(|(name, _)| *name == unit_name) else {
            return Err(format!("time: unknown unit {unit_name:?} in duration {text:?}"));
        };
        let whole: u128 =
            if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| invalid())?.into() };
        // Digits of a fraction beyond a nanosecond of an hour cannot count.
        let fraction = &fraction[..fraction.len().min(18)];
        let numerator: u128 =
            if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| invalid())? };
        nanos += whole * unit + numerator * unit / 10u128.pow(fraction.len() as u32);
        if nanos > MAX.as_nanos() {
            return Err(invalid());
        }
        rest = after_unit;
    }
    match u64::try_from(nanos) {
        Ok(nanos) if !negative || nanos == 0 => Ok(Duration::from_nanos(nanos)),
        _ => Err(format!("time: negative duration {text:?}")),
    }
}

/// The shortest notation that reads back the same: `2h`, `1m30s`, `300ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    if nanos < 1_000_000_000 {
        let (unit, name) = match nanos {
            1_000_000.. => (1_000_000, "ms"),
            1_000.. => (1_000, "µs"),
            _ => (1, "ns"),
        };
        return with_fraction(nanos, unit) + name;
    }
    let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
    let rest = nanos % 60_000_000_000;
    let mut text = String::new();
    for (count, name) in [(hours, "h"), (minutes, "m")] {
        if count > 0 {
            text += &format!("{count}{name}");
        }
    }
    if rest > 0 {
        text += &(with_fraction(rest, 1_000_000_000) + "s");
    }
    text
}

fn with_fraction(nanos: u128, unit: u128) -> String {
    let width = unit.ilog10() as usize;
    let text = format!("{}.{:0width$}", nanos / unit, nanos % unit);
    text.trim_end_matches('0').trim_end_matches('.').into()
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_gos_notation() {
        let cases = [
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("+5s", 5_000_000_000),
            ("0", 0),
            ("-0s", 0),
            ("1us", 1_000),
            ("1µs", 1_000),
            ("1.0000000000000000000000001s", 1_000_000_000),
            ("2540400h10m10.000000001s", 9_145_440_610_000_000_001),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_with_gos_texts() {
        let cases = [
            ("foo", "time: invalid duration \"foo\""),
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("-1", "time: missing unit in duration \"-1\""),
            ("1x", "time: unknown unit \"x\" in duration \"1x\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            (".s", "time: invalid duration \".s\""),
            (" 1s", "time: invalid duration \" 1s\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
            ("99999999999999999999999h", "time: invalid duration \"99999999999999999999999h\""),
            ("-5s", "time: negative duration \"-5s\""),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in ["2h", "1m30s", "300ms", "0s", "1.5s", "1µs", "1.234ms", "1h0.5s", "7ns"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }
}
