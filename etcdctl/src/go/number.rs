//! Go's `strconv`: integers and booleans with the texts of their errors.

use super::quote::quote;

/// Reads a signed 64-bit integer. Base 0 takes the base from the prefix (`0x`, `0o`, `0b`, `0`) and allows
/// underscores between digits, as in Go source.
pub fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    let fail = |what: &str| Err(format!("strconv.ParseInt: parsing {}: {what}", quote(text.as_bytes())));
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (base, digits, underscores) =
        if base == 0 { split_prefix(unsigned) } else { (base, unsigned, false) };
    let underscored = digits.contains('_');
    if digits.is_empty() || underscored && !(underscores && well_placed(unsigned)) {
        return fail("invalid syntax");
    }
    let mut value: Option<i128> = Some(0);
    for digit in digits.chars().filter(|&c| c != '_') {
        let Some(digit) = digit.to_digit(base) else { return fail("invalid syntax") };
        value = value
            .map(|value| value * i128::from(base) + i128::from(digit))
            .filter(|&value| value <= i128::from(u64::MAX));
    }
    let value =
        value.map(|value| if negative { -value } else { value }).and_then(|value| i64::try_from(value).ok());
    value.map_or_else(|| fail("value out of range"), Ok)
}

/// Reads an unsigned 64-bit id in hexadecimal, which has no sign.
pub fn parse_hex_id(text: &str) -> Result<u64, String> {
    let fail = |what: &str| format!("strconv.ParseUint: parsing {}: {what}", quote(text.as_bytes()));
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(fail("invalid syntax"));
    }
    u64::from_str_radix(text, 16).map_err(|_| fail("value out of range"))
}

fn split_prefix(text: &str) -> (u32, &str, bool) {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'0') || bytes.len() == 1 {
        return (10, text, true);
    }
    match bytes[1] {
        b'x' | b'X' => (16, &text[2..], true),
        b'o' | b'O' => (8, &text[2..], true),
        b'b' | b'B' => (2, &text[2..], true),
        _ => (8, &text[1..], true),
    }
}

/// An underscore stands between digits, or between a base prefix and a digit.
fn well_placed(text: &str) -> bool {
    !text.starts_with('_') && !text.ends_with('_') && !text.contains("__")
}

pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text.as_bytes()))),
    }
}

/// `%016x` of a signed number: the sign counts as a digit.
pub fn hex16(value: i64) -> String {
    if value < 0 { format!("-{:015x}", value.unsigned_abs()) } else { format!("{value:016x}") }
}

/// A size in SI units with at most one decimal, as `dustin/go-humanize` writes it: `20 kB`, `1.5 MB`, `7 B`.
pub fn si_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut divisor = 1u64;
    while unit + 1 < UNITS.len() && bytes / divisor >= 1000 {
        divisor *= 1000;
        unit += 1;
    }
    let scaled = (bytes as f64 / divisor as f64 * 10.0 + 0.5).floor() / 10.0;
    if scaled < 10.0 {
        format!("{scaled:.1} {}", UNITS[unit])
    } else {
        format!("{scaled:.0} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_their_errors() {
        assert_eq!(parse_int("0x1f", 0), Ok(31));
        assert_eq!(parse_int("1_000", 0), Ok(1000));
        assert_eq!(parse_int("010", 0), Ok(8));
        assert_eq!(parse_int("0", 0), Ok(0));
        assert_eq!(parse_int("-9223372036854775808", 10), Ok(i64::MIN));
        assert_eq!(parse_int("x", 10), Err("strconv.ParseInt: parsing \"x\": invalid syntax".into()));
        assert_eq!(parse_int("0x1", 16), Err("strconv.ParseInt: parsing \"0x1\": invalid syntax".into()));
        for bad in ["", "-", "_1", "1_", "1__0", "0x", "0b2", "é"] {
            assert!(parse_int(bad, 0).unwrap_err().ends_with("invalid syntax"), "{bad}");
        }
        let long = "9".repeat(200);
        for big in ["10000000000000000", "8000000000000000", long.as_str()] {
            assert!(parse_int(big, 16).unwrap_err().ends_with("value out of range"), "{big}");
        }
    }

    #[test]
    fn hexadecimal_ids() {
        assert_eq!(parse_hex_id("FFffffffffffffff"), Ok(u64::MAX));
        for bad in ["", "+1", "-1", "0x1", "1_0"] {
            assert!(parse_hex_id(bad).unwrap_err().ends_with("invalid syntax"), "{bad}");
        }
        assert!(parse_hex_id("10000000000000000").unwrap_err().ends_with("value out of range"));
    }

    #[test]
    fn negative_ids_keep_sixteen_columns() {
        assert_eq!(hex16(-1), "-000000000000001");
        assert_eq!(hex16(0x2040a1fc40a9a013), "2040a1fc40a9a013");
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (7, "7 B"),
            (20480, "20 kB"),
            (999, "999 B"),
            (1500, "1.5 kB"),
            (2_147_483_648, "2.1 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(si_bytes(bytes), text);
        }
    }
}
