//! Go's quoted strings: `%q` in both directions. Strings are bytes; what is not UTF-8 shows as `\xNN`.

/// `strconv.Quote`.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_char(&mut out, c));
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

fn push_char(out: &mut String, c: char) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        ' '..='~' => out.push(c),
        '\0'..='\x7f' => out.push_str(&format!("\\x{:02x}", c as u32)),
        _ if is_printable(c) => out.push(c),
        _ if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
        _ => out.push_str(&format!("\\U{:08x}", c as u32)),
    }
}

/// Go's `unicode.IsPrint` and Rust's debug escape agree on letters, marks, numbers, punctuation and symbols.
/// A leading letter keeps combining marks, which are escaped only at the start of a string.
fn is_printable(c: char) -> bool {
    let mut text = String::from("a");
    text.push(c);
    let escaped: String = text.escape_debug().collect();
    escaped == text
}

/// Reads a Go string literal at the start of `input`: `"..."` with escapes or `` `...` `` raw.
/// Returns its value and the rest, or `None` when there is no whole literal or an escape is malformed.
pub fn unquote_prefix(input: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&mark, body) = input.split_first()?;
    if mark == b'`' {
        let end = body.iter().position(|&b| b == b'`')?;
        return Some((body[..end].to_vec(), &body[end + 1..]));
    }
    if mark != b'"' {
        return None;
    }
    let mut value = Vec::new();
    let mut at = 0;
    loop {
        match *body.get(at)? {
            b'"' => return Some((value, &body[at + 1..])),
            b'\\' => at = unescape(body, at + 1, &mut value)?,
            byte => {
                value.push(byte);
                at += 1;
            }
        }
    }
}

/// Reads the escape whose letter is at `at`, appends what it stands for and returns the position after it.
fn unescape(body: &[u8], at: usize, value: &mut Vec<u8>) -> Option<usize> {
    let digits = |from: usize, count: usize, base: u32| -> Option<u32> {
        let text = std::str::from_utf8(body.get(from..from + count)?).ok()?;
        text.chars().try_fold(0u32, |sum, c| Some(sum.wrapping_mul(base).wrapping_add(c.to_digit(base)?)))
    };
    let simple = |byte: u8, value: &mut Vec<u8>| {
        value.push(byte);
        Some(at + 1)
    };
    match *body.get(at)? {
        b'a' => simple(0x07, value),
        b'b' => simple(0x08, value),
        b'f' => simple(0x0c, value),
        b'n' => simple(b'\n', value),
        b'r' => simple(b'\r', value),
        b't' => simple(b'\t', value),
        b'v' => simple(0x0b, value),
        b'\\' => simple(b'\\', value),
        b'"' => simple(b'"', value),
        b'x' => {
            value.push(digits(at + 1, 2, 16)? as u8);
            Some(at + 3)
        }
        b'0'..=b'7' => {
            value.push(u8::try_from(digits(at, 3, 8)?).ok()?);
            Some(at + 3)
        }
        letter @ (b'u' | b'U') => {
            let count = if letter == b'u' { 4 } else { 8 };
            let c = char::from_u32(digits(at + 1, count, 16)?)?;
            value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            Some(at + 1 + count)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        for (bytes, text) in [
            (&b"a\"\\\n\x01\x7f"[..], r#""a\"\\\n\x01\x7f""#),
            (b"\xff\xfe", r#""\xff\xfe""#),
            ("é日\u{301}\u{a0}\u{200b}\u{feff}".as_bytes(), "\"é日\u{301}\\u00a0\\u200b\\ufeff\""),
            ("\u{e0001}😀".as_bytes(), "\"\\U000e0001😀\""),
            ("'\u{fffd}".as_bytes(), "\"'\u{fffd}\""),
            (b"\0\x07\x0b", r#""\x00\a\v""#),
        ] {
            assert_eq!(quote(bytes), text);
        }
    }

    #[test]
    fn unquotes_what_go_accepts() {
        let read = |text: &str| unquote_prefix(text.as_bytes()).map(|(value, rest)| (value, rest.to_vec()));
        assert_eq!(read(r#""a\tb\x00\101\u00e9" rest"#), Some(("a\tb\0Aé".into(), b" rest".to_vec())));
        assert_eq!(read("`a\\n`)"), Some((b"a\\n".to_vec(), b")".to_vec())));
        for bad in ["", "a", "\"a", "\"\\q\"", "\"\\x1\"", "\"\\400\"", "\"\\ud800\"", "\"\\'\"", "`a"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
