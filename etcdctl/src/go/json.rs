//! A writer for the JSON of Go's `encoding/json`: members in the order written, `omitempty` as methods ending in
//! `_if_set`, bytes in base64, and `<`, `>`, `&`, U+2028, U+2029 escaped in strings.

/// The members of one JSON object, appended to a caller's buffer.
pub struct Object<'a> {
    out: &'a mut String,
    empty: bool,
}

/// Writes one object whose members `fill` adds.
pub fn object(out: &mut String, fill: impl FnOnce(&mut Object<'_>)) {
    out.push('{');
    let mut object = Object { out, empty: true };
    fill(&mut object);
    out.push('}');
}

/// Writes an array with one element per item.
pub fn array<T>(out: &mut String, items: &[T], mut element: impl FnMut(&mut String, &T)) {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        element(out, item);
    }
    out.push(']');
}

impl Object<'_> {
    /// Adds a member and hands out the buffer its value goes to.
    pub fn member(&mut self, name: &str) -> &mut String {
        if !std::mem::replace(&mut self.empty, false) {
            self.out.push(',');
        }
        self.out.push('"');
        self.out.push_str(name);
        self.out.push_str("\":");
        self.out
    }

    /// A number or a boolean, always present.
    pub fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        let text = value.to_string();
        self.member(name).push_str(&text);
    }

    /// A number or a boolean, absent when it is its type's zero.
    pub fn plain_if_set<T: std::fmt::Display + Default + PartialEq>(&mut self, name: &str, value: T) {
        if value != T::default() {
            self.plain(name, value);
        }
    }

    pub fn string(&mut self, name: &str, value: &str) {
        string(self.member(name), value);
    }

    pub fn string_if_set(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.string(name, value);
        }
    }

    pub fn bytes_if_set(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            bytes(self.member(name), value);
        }
    }

    pub fn array<T>(&mut self, name: &str, items: &[T], element: impl FnMut(&mut String, &T)) {
        array(self.member(name), items, element);
    }

    pub fn array_if_set<T>(&mut self, name: &str, items: &[T], element: impl FnMut(&mut String, &T)) {
        if !items.is_empty() {
            self.array(name, items, element);
        }
    }
}

pub fn string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// Standard base64 with padding.
pub fn bytes(out: &mut String, value: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push('"');
    for chunk in value.chunks(3) {
        let group = (0..3).fold(0u32, |group, i| group << 8 | u32::from(*chunk.get(i).unwrap_or(&0)));
        for sextet in 0..4 {
            let index = (group >> (18 - 6 * sextet)) & 63;
            out.push(if sextet <= chunk.len() { ALPHABET[index as usize] as char } else { '=' });
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_follow_their_order_and_zeros_vanish() {
        let mut out = String::new();
        object(&mut out, |o| {
            o.plain_if_set("a", 0);
            o.plain("b", 0);
            o.string("c", "<&>\u{2028}\u{1}\t\"é");
            o.bytes_if_set("d", b"");
            o.array("e", &[1, 2], |out, n| out.push_str(&n.to_string()));
        });
        assert_eq!(out, "{\"b\":0,\"c\":\"\\u003c\\u0026\\u003e\\u2028\\u0001\\t\\\"é\",\"e\":[1,2]}");
    }

    #[test]
    fn base64() {
        for (value, text) in [
            (&b""[..], "\"\""),
            (b"a", "\"YQ==\""),
            (b"lb", "\"bGI=\""),
            (b"<&>", "\"PCY+\""),
            (b"\xff\xff\xff\xff", "\"/////w==\""),
        ] {
            let mut out = String::new();
            bytes(&mut out, value);
            assert_eq!(out, text);
        }
    }
}
