//! Words: of the command line as text, and of a line typed to `txn` or `watch -i`: separated by blanks, `'raw'` or
//! `"with escapes"` where quoted.

use crate::cli::flags::Word;
use crate::exit::{Exit, INVALID_INPUT};
use crate::go::quote::unquote_prefix;

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\x0c' | b'\r')
}

/// A quote that is never closed is skipped; one inside a plain word belongs to it.
pub fn split(line: &[u8]) -> Result<Vec<Word>, Exit> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some((&first, after)) = rest.split_first() {
        match first {
            _ if is_blank(first) => rest = after,
            b'\'' => match after.iter().position(|&byte| byte == b'\'') {
                Some(end) => {
                    words.push(after[..end].to_vec());
                    rest = &after[end + 1..];
                }
                None => rest = after,
            },
            b'"' => match closing_quote(after) {
                Some(end) => {
                    let (word, _) = unquote_prefix(&rest[..end + 2])
                        .ok_or_else(|| Exit::new(INVALID_INPUT, "invalid syntax"))?;
                    words.push(word);
                    rest = &after[end + 1..];
                }
                None => rest = after,
            },
            _ => {
                let end = rest.iter().position(|&byte| is_blank(byte)).unwrap_or(rest.len());
                words.push(rest[..end].to_vec());
                rest = &rest[end..];
            }
        }
    }
    Ok(words)
}

fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// A word where the wire has text. What is not UTF-8 in it is replaced.
pub fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

/// A line without the white space around it.
pub fn trim(line: &[u8]) -> &[u8] {
    line.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits() {
        let split = |line: &str| -> Vec<String> {
            let words = split(line.as_bytes()).unwrap();
            words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect()
        };
        assert_eq!(split("  put a\t1 "), ["put", "a", "1"]);
        assert_eq!(split(r#"put 'single q' "d\tq\"" it's"#), ["put", "single q", "d\tq\"", "it's"]);
        assert_eq!(split("put a ''"), ["put", "a", ""]);
        assert_eq!(split("a 'b"), ["a", "b"]);
        assert_eq!(split(r#"a "b\"#), ["a", "b\\"]);
        assert!(split("").is_empty());
    }

    #[test]
    fn bad_escapes_are_invalid_input() {
        assert_eq!(split(br#"put "\q" 1"#), Err(Exit::new(INVALID_INPUT, "invalid syntax")));
    }
}
