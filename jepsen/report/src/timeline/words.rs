//! Requests and answers in words, of bounded length: `put k03=v17 prev_kv`, `rev 42; was k03=v16 (mod 40, version 3)`.
//!
//! Names of printable characters stand as they are, others quoted with escapes, long ones cut with their size.

use std::fmt::{self, Write};

use oracle::history::{
    Fate, History, Key, Outcome, Request, Response, Value,
    request::{
        Bounds, Compare, End, Kv, Range, Relation, SortOrder, SortTarget, Span, Txn, TxnResponse, Wanted,
    },
    watch::{Event, EventKind, WatchResponse},
};

/// Bytes of a key or value that are shown.
const NAME_BYTES: usize = 40;

/// Key-value pairs of one answer that are shown.
const PAIRS: usize = 12;

#[derive(Clone, Copy)]
pub struct Words<'a> {
    pub history: &'a History,
    /// Characters of one text.
    pub limit: usize,
}

/// A checker's text with the names of keys and values for their numbers: `Key(3)` becomes `k02`.
pub fn spell(history: &History, text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, is_key)) = next_number(rest) {
        let digits_at = at + if is_key { "Key(" } else { "Value(" }.len();
        let digits = rest[digits_at..].split(')').next().unwrap_or_default();
        let names = if is_key { &history.keys } else { &history.values };
        let known = digits.parse().ok().filter(|&number: &u32| (number as usize) < names.len());
        match known {
            Some(number) => {
                spelled.push_str(&rest[..at]);
                spelled.push_str(&name(names.bytes(number)));
                rest = &rest[digits_at + digits.len() + 1..];
            }
            None => {
                spelled.push_str(&rest[..digits_at]);
                rest = &rest[digits_at..];
            }
        }
    }
    spelled + rest
}

/// Where the next `Key(` or `Value(` begins that a `)` ends, and whether it is a key.
fn next_number(text: &str) -> Option<(usize, bool)> {
    let last = text.rfind(')')?;
    let text = &text[..last];
    let found = [(text.find("Key("), true), (text.find("Value("), false)];
    found.into_iter().filter_map(|(at, is_key)| Some((at?, is_key))).min()
}

/// Text up to a number of characters; what is more is counted.
struct Bounded {
    text: String,
    left: usize,
    dropped: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let end = piece.char_indices().nth(self.left).map_or(piece.len(), |(at, _)| at);
        self.text.push_str(&piece[..end]);
        self.left -= piece[..end].chars().count();
        self.dropped += piece[end..].chars().count();
        Ok(())
    }
}

type Out<'a> = &'a mut Bounded;

impl Words<'_> {
    pub fn request(&self, request: &Request) -> String {
        self.bounded(|out| self.put_request(out, request))
    }

    pub fn outcome(&self, outcome: &Outcome) -> String {
        self.bounded(|out| match outcome {
            Outcome::Ok(answer) => {
                write!(out, "rev {}", answer.revision)?;
                self.put_response(out, &answer.response)
            }
            Outcome::Refused(refusal) => write!(out, "refused: {refusal:?}"),
            Outcome::Unknown(Fate::Open) => out.write_str("no answer"),
            Outcome::Unknown(Fate::Never) => out.write_str("no answer; in no log, so without effect"),
            Outcome::Unknown(Fate::At(revision)) => {
                write!(out, "no answer; the log has it as rev {revision}")
            }
        })
    }

    /// As `outcome` has the answer, for one that the model gives.
    pub fn answer(&self, revision: i64, response: &Response) -> String {
        self.bounded(|out| {
            write!(out, "rev {revision}")?;
            self.put_response(out, response)
        })
    }

    pub fn kv(&self, kv: &Kv) -> String {
        self.bounded(|out| self.put_kv(out, kv))
    }

    pub fn key(&self, key: Key) -> String {
        name(self.history.keys.bytes(key.0))
    }

    pub fn span(&self, span: &Span) -> String {
        match span.end {
            End::Single => self.key(span.start),
            End::Before(end) => format!("[{}, {})", self.key(span.start), self.key(end)),
            End::Open => format!("[{}, end]", self.key(span.start)),
        }
    }

    pub fn watched(&self, response: &WatchResponse) -> String {
        self.bounded(|out| {
            write!(out, "watch {} rev {}", response.id, response.revision)?;
            for (is, word) in [
                (response.created, " created"),
                (response.canceled, " canceled"),
                (response.fragment, " fragment"),
                (response.events.is_empty() && !response.created && !response.canceled, " progress"),
            ] {
                out.write_str(if is { word } else { "" })?;
            }
            if response.compact_revision != 0 {
                write!(out, " compacted at {}", response.compact_revision)?;
            }
            listed(out, "; ", &response.events, |out, event| self.put_event(out, event))
        })
    }

    fn bounded(&self, write: impl FnOnce(Out) -> fmt::Result) -> String {
        let mut out = Bounded { text: String::new(), left: self.limit, dropped: 0 };
        // Writing to memory does not fail.
        let _ = write(&mut out);
        if out.dropped > 0 {
            let _ = write!(out.text, " … and {} characters more", out.dropped);
        }
        out.text
    }

    fn value(&self, value: Value) -> String {
        name(self.history.values.bytes(value.0))
    }

    fn put_request(&self, out: Out, request: &Request) -> fmt::Result {
        match request {
            Request::Put(put) => {
                write!(out, "put {}", self.key(put.key))?;
                if !put.ignore_value {
                    write!(out, "={}", self.value(put.value))?;
                }
                if put.lease != 0 {
                    write!(out, " lease={}", put.lease)?;
                }
                flags(
                    out,
                    &[
                        (put.prev_kv, "prev_kv"),
                        (put.ignore_value, "ignore_value"),
                        (put.ignore_lease, "ignore_lease"),
                    ],
                )
            }
            Request::Delete(delete) => {
                write!(out, "delete {}", self.span(&delete.span))?;
                flags(out, &[(delete.prev_kv, "prev_kv")])
            }
            Request::Range(range) => self.put_range(out, range),
            Request::Txn(txn) => self.put_txn(out, txn),
            Request::Compact { revision } => write!(out, "compact {revision}"),
            Request::Grant { lease: 0, ttl_seconds } => write!(out, "grant a lease of {ttl_seconds} s"),
            Request::Grant { lease, ttl_seconds } => write!(out, "grant lease {lease} of {ttl_seconds} s"),
            Request::Revoke { lease } => write!(out, "revoke lease {lease}"),
            Request::KeepAlive { lease } => write!(out, "keep lease {lease} alive"),
            Request::TimeToLive { lease, keys } => {
                write!(out, "time to live of lease {lease}")?;
                flags(out, &[(*keys, "keys")])
            }
            Request::Leases => out.write_str("leases"),
        }
    }

    fn put_range(&self, out: Out, range: &Range) -> fmt::Result {
        let verb = if range.span.end == End::Single { "get" } else { "range" };
        write!(out, "{verb} {}", self.span(&range.span))?;
        if range.revision > 0 {
            write!(out, " at rev {}", range.revision)?;
        }
        if range.limit > 0 {
            write!(out, " limit {}", range.limit)?;
        }
        let order = match range.order {
            SortOrder::None => None,
            SortOrder::Ascend => Some("up"),
            SortOrder::Descend => Some("down"),
        };
        if let Some(order) = order {
            let target = match range.target {
                SortTarget::Key => "key",
                SortTarget::Version => "version",
                SortTarget::Create => "create",
                SortTarget::Mod => "mod",
                SortTarget::Value => "value",
            };
            write!(out, " by {target} {order}")?;
        }
        flags(
            out,
            &[
                (range.serializable, "serializable"),
                (range.keys_only, "keys_only"),
                (range.count_only, "count_only"),
            ],
        )?;
        let Bounds { min_mod, max_mod, min_create, max_create } =
            range.bounds.as_deref().copied().unwrap_or_default();
        let bounds =
            [(min_mod, "mod>="), (max_mod, "mod<="), (min_create, "create>="), (max_create, "create<=")];
        bounds
            .iter()
            .filter(|(bound, _)| *bound != 0)
            .try_for_each(|(bound, word)| write!(out, " {word}{bound}"))
    }

    fn put_txn(&self, out: Out, txn: &Txn) -> fmt::Result {
        if !txn.compares.is_empty() {
            out.write_str("if ")?;
            separated(out, " and ", &txn.compares, |out, compare| self.put_compare(out, compare))?;
            out.write_str(" then ")?;
        }
        self.put_branch(out, &txn.success)?;
        if !txn.failure.is_empty() {
            out.write_str(" else ")?;
            self.put_branch(out, &txn.failure)?;
        }
        Ok(())
    }

    fn put_branch(&self, out: Out, branch: &[Request]) -> fmt::Result {
        out.write_str("{")?;
        separated(out, "; ", branch, |out, request| self.put_request(out, request))?;
        out.write_str("}")
    }

    fn put_compare(&self, out: Out, compare: &Compare) -> fmt::Result {
        let relation = match compare.relation {
            Relation::Equal => "=",
            Relation::NotEqual => "!=",
            Relation::Greater => ">",
            Relation::Less => "<",
        };
        let span = self.span(&compare.span);
        match compare.wanted {
            Wanted::Version(version) => write!(out, "version({span}){relation}{version}"),
            Wanted::Create(revision) => write!(out, "create({span}){relation}{revision}"),
            Wanted::Mod(revision) => write!(out, "mod({span}){relation}{revision}"),
            Wanted::Lease(lease) => write!(out, "lease({span}){relation}{lease}"),
            Wanted::Value(value) => write!(out, "value({span}){relation}{}", self.value(value)),
        }
    }

    /// What follows the revision.
    fn put_response(&self, out: Out, response: &Response) -> fmt::Result {
        match response {
            Response::Put { prev: None } | Response::Compact | Response::Revoke => Ok(()),
            Response::Put { prev: Some(kv) } => {
                out.write_str("; was ")?;
                self.put_kv(out, kv)
            }
            Response::Delete(deleted) => {
                write!(out, "; deleted {}", deleted.deleted)?;
                listed(out, ", was ", &deleted.prev, |out, kv| self.put_kv(out, kv))
            }
            Response::Range(ranged) => {
                if ranged.kvs.is_empty() {
                    out.write_str("; nothing")?;
                }
                listed(out, "; ", &ranged.kvs, |out, kv| self.put_kv(out, kv))?;
                if ranged.count != ranged.kvs.len() as i64 || ranged.more {
                    write!(out, "; count {}", ranged.count)?;
                }
                flags(out, &[(ranged.more, "more")])
            }
            Response::Txn(txn) => self.put_txn_answer(out, txn),
            Response::Grant { lease, ttl_seconds } => write!(out, "; lease {lease} of {ttl_seconds} s"),
            Response::KeepAlive { ttl_seconds: 0 } => out.write_str("; no such lease"),
            Response::KeepAlive { ttl_seconds } => write!(out, "; {ttl_seconds} s"),
            Response::TimeToLive { ttl_seconds: -1, .. } => out.write_str("; no such lease"),
            Response::TimeToLive { ttl_seconds, granted_seconds, keys } => {
                write!(out, "; {ttl_seconds} of {granted_seconds} s")?;
                listed(out, "; ", keys, |out, key| out.write_str(&self.key(*key)))
            }
            Response::Leases(leases) => {
                write!(out, "; {} leases", leases.len())?;
                listed(out, ": ", leases, |out, lease| write!(out, "{lease}"))
            }
        }
    }

    fn put_txn_answer(&self, out: Out, txn: &TxnResponse) -> fmt::Result {
        out.write_str(if txn.succeeded { "; then {" } else { "; else {" })?;
        separated(out, " | ", &txn.answers, |out, (revision, response)| {
            if *revision != 0 {
                write!(out, "rev {revision}")?;
            }
            self.put_response(out, response)
        })?;
        out.write_str("}")
    }

    fn put_event(&self, out: Out, event: &Event) -> fmt::Result {
        match event.kind {
            EventKind::Put => self.put_kv(out, &event.kv)?,
            EventKind::Delete => {
                write!(out, "deleted {} (mod {})", self.key(event.kv.key), event.kv.mod_revision)?;
            }
        }
        let Some(prev) = &event.prev else { return Ok(()) };
        out.write_str(" was ")?;
        self.put_kv(out, prev)
    }

    fn put_kv(&self, out: Out, kv: &Kv) -> fmt::Result {
        let (key, value) = (self.key(kv.key), self.value(kv.value));
        write!(out, "{key}={value} (mod {}, version {}", kv.mod_revision, kv.version)?;
        if kv.create_revision != kv.mod_revision {
            write!(out, ", create {}", kv.create_revision)?;
        }
        if kv.lease != 0 {
            write!(out, ", lease {}", kv.lease)?;
        }
        out.write_str(")")
    }
}

fn flags(out: Out, flags: &[(bool, &str)]) -> fmt::Result {
    flags.iter().filter(|(is, _)| *is).try_for_each(|(_, word)| write!(out, " {word}"))
}

fn separated<T>(
    out: Out,
    separator: &str,
    items: &[T],
    mut put: impl FnMut(Out, &T) -> fmt::Result,
) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.write_str(separator)?;
        }
        put(out, item)?;
    }
    Ok(())
}

/// The first of many after `lead`, and how many more there are; nothing of none.
fn listed<T>(out: Out, lead: &str, items: &[T], put: impl FnMut(Out, &T) -> fmt::Result) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    out.write_str(lead)?;
    separated(out, ", ", &items[..items.len().min(PAIRS)], put)?;
    match items.len().checked_sub(PAIRS) {
        Some(more @ 1..) => write!(out, " and {more} more"),
        _ => Ok(()),
    }
}

fn name(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(NAME_BYTES)];
    let plain = std::str::from_utf8(shown).ok().filter(|text| !text.is_empty() && text.chars().all(is_plain));
    let mut name = plain.map_or_else(|| format!("\"{}\"", shown.escape_ascii()), str::to_owned);
    if bytes.len() > shown.len() {
        let _ = write!(name, "…({} bytes)", bytes.len());
    }
    name
}

fn is_plain(c: char) -> bool {
    c.is_ascii_graphic() && c != '"' || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_or_quoted() {
        assert_eq!(name(b"/registry/pods/a-1"), "/registry/pods/a-1");
        assert_eq!(name("schlüssel".as_bytes()), "schlüssel");
        assert_eq!(name(b""), "\"\"");
        assert_eq!(name(b"a b\0\xff"), "\"a b\\x00\\xff\"");
        assert_eq!(name("\u{202e}x".as_bytes()), "\"\\xe2\\x80\\xaex\"");
        assert_eq!(name(&[b'v'; 1 << 20]), format!("{}…(1048576 bytes)", "v".repeat(40)));
    }

    #[test]
    fn numbers_in_a_verdict_are_spelled() {
        let mut recorder = oracle::history::record::Recorder::default();
        recorder.key(b"k");
        recorder.value(b"v");
        let (history, _) = recorder.finish();
        let text = "Kv { key: Key(1), value: Value(1) }, Key(7), Value(x), Key(1";
        assert_eq!(spell(&history, text), "Kv { key: k, value: v }, Key(7), Value(x), Key(1");
        assert_eq!(spell(&history, "Key("), "Key(");
        assert_eq!(spell(&history, "Key(ü) Value()"), "Key(ü) Value()");
    }

    #[test]
    fn a_text_says_how_much_of_it_is_missing() {
        let history = History::default();
        let words = Words { history: &history, limit: 10 };
        let txn = Txn { compares: Vec::new(), success: vec![Request::Leases; 3], failure: Vec::new() };
        let text = words.request(&Request::Txn(Box::new(txn)));
        assert_eq!(text, "{leases; l … and 14 characters more");
    }
}
