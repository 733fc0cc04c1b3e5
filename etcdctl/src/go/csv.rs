//! Go's `encoding/csv`, one record of it: fields between commas, `"..."` around one that holds commas or quotes.

/// The fields of a line, none of an empty one.
pub fn parse(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = Some(line).filter(|line| !line.is_empty());
    while let Some(text) = rest {
        let column = |at: usize| line[..line.len() - text.len() + at].chars().count();
        let end = if text.starts_with('"') {
            let end = closing_quote(text).ok_or(
                "record on line 1; parse error on line 2, column 0: extraneous or missing \" in quoted-field",
            )?;
            fields.push(text[1..end].replace("\"\"", "\""));
            if !matches!(text.as_bytes().get(end + 1), None | Some(b',')) {
                let column = column(end);
                return Err(format!(
                    "parse error on line 1, column {column}: extraneous or missing \" in quoted-field"
                ));
            }
            end + 1
        } else {
            let end = text.find(',').unwrap_or(text.len());
            if let Some(at) = text[..end].find('"') {
                let column = column(at);
                return Err(format!("parse error on line 1, column {column}: bare \" in non-quoted-field"));
            }
            fields.push(text[..end].into());
            end
        };
        rest = text.get(end + 1..);
    }
    Ok(fields)
}

/// Of a field that begins with a quote; two quotes in a row stand for one inside it.
fn closing_quote(text: &str) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text[at..].find('"')?;
        if !text[at + 1..].starts_with('"') {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        for (line, fields) in [
            ("", &[][..]),
            ("a", &["a"]),
            (",a,", &["", "a", ""]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("a,\"b\"\"\",\"\"", &["a", "b\"", ""]),
        ] {
            assert_eq!(parse(line).unwrap(), fields, "{line}");
        }
    }

    #[test]
    fn misplaced_quotes() {
        for (line, error) in [
            ("a,b\"", "parse error on line 1, column 3: bare \" in non-quoted-field"),
            ("é\"", "parse error on line 1, column 1: bare \" in non-quoted-field"),
            ("\"a\"b", "parse error on line 1, column 2: extraneous or missing \" in quoted-field"),
            (
                "\"a",
                "record on line 1; parse error on line 2, column 0: extraneous or missing \" in quoted-field",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err(), error, "{line}");
        }
    }
}
