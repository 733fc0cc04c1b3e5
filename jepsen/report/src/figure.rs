//! Numbers, spans of time and dates as a reader wants them.

/// 1234567 as `1,234,567`; a number with a fraction keeps the digits that matter.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value.fract() != 0.0 && magnitude < 1000.0 {
        let digits = if magnitude < 10.0 { 2 } else { 1 };
        return format!("{value:.digits$}");
    }
    let digits = format!("{magnitude:.0}");
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn count(value: usize) -> String {
    number(value as f64)
}

/// `3 faults`, `1 fault`.
pub fn counted(value: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(value), if value == 1 { "" } else { "s" })
}

/// A span of time: `0.25 s`, `9 min 58 s`, `2 h 5 min`.
pub fn span(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{} s", number((seconds * 100.0).round() / 100.0));
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours} h {minutes} min") } else { format!("{minutes} min {seconds} s") }
}

/// Nanoseconds of a run as seconds, to the microsecond.
pub fn clock(at_ns: u64) -> String {
    format!("{}.{:06}", at_ns / 1_000_000_000, at_ns / 1000 % 1_000_000)
}

/// How long an operation took.
pub fn brief(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{} µs", ns / 1000),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// Unix seconds as `2026-01-31 09:05 UTC`.
pub fn date(unix_seconds: u64) -> String {
    let (days, of_day) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", of_day / 3600, of_day / 60 % 60)
}

/// Year, month and day, so many days after 1970-01-01. Years are counted from March, so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, of_era) = (days / ERA, days % ERA);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let texts = [0.0, 7.0, 999.0, 1000.0, 1_234_567.0, -1234.0, 0.125, 12.345, 1234.5].map(number);
        assert_eq!(texts, ["0", "7", "999", "1,000", "1,234,567", "-1,234", "0.12", "12.3", "1,234"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let dates = [0, 951_782_400, 1_709_164_800, 1_735_689_599, 4_107_542_399].map(date);
        assert_eq!(
            dates,
            [
                "1970-01-01 00:00 UTC",
                "2000-02-29 00:00 UTC",
                "2024-02-29 00:00 UTC",
                "2024-12-31 23:59 UTC",
                "2100-02-28 23:59 UTC"
            ]
        );
    }

    #[test]
    fn spans_name_their_units() {
        let texts = [0.25, 59.0, 598.0, 7500.0].map(span);
        assert_eq!(texts, ["0.25 s", "59 s", "9 min 58 s", "2 h 5 min"]);
    }
}
