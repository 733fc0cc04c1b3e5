//! Flags: their declarations and pflag's parser, with pflag's error texts. A word is bytes, since keys and values
//! need not be UTF-8; flag values are text.

use crate::go::{csv, duration, duration::GoDuration, number, quote::quote};

pub type Word = Vec<u8>;

#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    /// Written as a user would; it must parse.
    pub default: &'static str,
    pub usage: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int64,
    Text,
    Duration,
    /// Comma separated; a second use appends.
    List,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bool(bool),
    Int64(i64),
    Text(String),
    Duration(GoDuration),
    List(Vec<String>),
}

impl Flag {
    pub const fn bool(name: &'static str, usage: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Bool, default: "false", usage }
    }

    pub const fn int64(name: &'static str, usage: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Int64, default: "0", usage }
    }

    pub const fn text(name: &'static str, default: &'static str, usage: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Text, default, usage }
    }

    pub const fn duration(name: &'static str, default: &'static str, usage: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Duration, default, usage }
    }

    pub const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// Only a boolean may stand without a value.
    pub fn needs_value(&self) -> bool {
        self.kind != Kind::Bool
    }

    fn value(&self, text: &str) -> Result<Value, String> {
        Ok(match self.kind {
            Kind::Bool => Value::Bool(number::parse_bool(text)?),
            Kind::Int64 => Value::Int64(number::parse_int(text, 0)?),
            Kind::Text => Value::Text(text.into()),
            Kind::Duration => Value::Duration(duration::parse(text)?),
            Kind::List => Value::List(csv::parse(text)?),
        })
    }
}

/// The flags of one command line, each at its default until set.
#[derive(Debug)]
pub struct Flags {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    flag: &'static Flag,
    /// From a command above.
    inherited: bool,
    value: Value,
    changed: bool,
}

/// The words that are no flags.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Positional {
    pub words: Vec<Word>,
    /// How many of them came before a `--`.
    pub dash_at: Option<usize>,
}

impl Flags {
    pub fn new(
        own: impl IntoIterator<Item = &'static Flag>,
        inherited: impl IntoIterator<Item = &'static Flag>,
    ) -> Self {
        let entry = |inherited: bool| {
            move |flag: &'static Flag| {
                let value = flag.value(flag.default).expect("the declared default parses");
                Entry { flag, inherited, value, changed: false }
            }
        };
        Self {
            entries: own
                .into_iter()
                .map(entry(false))
                .chain(inherited.into_iter().map(entry(true)))
                .collect(),
        }
    }

    pub fn parse(&mut self, words: &[Word]) -> Result<Positional, String> {
        let mut found = Positional::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == b"--" {
                found.dash_at = Some(found.words.len());
                found.words.extend(words.cloned());
                break;
            }
            match word.as_slice() {
                [b'-', b'-', long @ ..] => self.parse_long(&String::from_utf8_lossy(long), &mut words)?,
                [b'-', cluster @ ..] if !cluster.is_empty() => {
                    self.parse_short(&String::from_utf8_lossy(cluster), &mut words)?;
                }
                _ => found.words.push(word.clone()),
            }
        }
        Ok(found)
    }

    fn parse_long<'w>(
        &mut self,
        text: &str,
        rest: &mut impl Iterator<Item = &'w Word>,
    ) -> Result<(), String> {
        if text.starts_with(['-', '=']) {
            return Err(format!("bad flag syntax: --{text}"));
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.flag.name == name) else {
            return Err(match name {
                "help" => "pflag: help requested".into(),
                _ => format!("unknown flag: --{name}"),
            });
        };
        let value = match value {
            Some(value) => value,
            None if !entry.flag.needs_value() => "true".into(),
            None => match rest.next() {
                Some(word) => String::from_utf8_lossy(word).into_owned(),
                None => return Err(format!("flag needs an argument: --{name}")),
            },
        };
        entry.set(&value)
    }

    /// `-w json`, `-wjson`, `-w=json`, and booleans in a row.
    fn parse_short<'w>(
        &mut self,
        cluster: &str,
        rest: &mut impl Iterator<Item = &'w Word>,
    ) -> Result<(), String> {
        let mut letters = cluster.chars();
        while let Some(letter) = letters.next() {
            let tail = letters.as_str();
            let Some(entry) = self.entries.iter_mut().find(|entry| entry.flag.short == Some(letter)) else {
                return Err(match letter {
                    'h' => "pflag: help requested".into(),
                    _ => format!("unknown shorthand flag: '{letter}' in -{letter}{tail}"),
                });
            };
            if let Some(value) = tail.strip_prefix('=').filter(|_| tail.len() > 1) {
                return entry.set(value);
            }
            if !entry.flag.needs_value() {
                entry.set("true")?;
            } else if !tail.is_empty() {
                return entry.set(tail);
            } else {
                return match rest.next() {
                    Some(word) => entry.set(&String::from_utf8_lossy(word)),
                    None => Err(format!("flag needs an argument: '{letter}' in -{letter}")),
                };
            }
        }
        Ok(())
    }

    /// Sets a flag by name from elsewhere than the command line. A value that does not parse makes a boolean false,
    /// as it does in pflag, and else is ignored.
    pub fn set_if_valid(&mut self, name: &str, text: &str) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.flag.name == name)
            && entry.set(text).is_err()
            && entry.flag.kind == Kind::Bool
        {
            entry.set("false").expect("a boolean can be false");
        }
    }

    pub fn is_changed(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.flag.name == name && entry.changed)
    }

    /// The flags of the commands above, each with its value as text, by name.
    pub fn inherited(&self) -> Vec<(&'static str, String)> {
        let inherited = self.entries.iter().filter(|entry| entry.inherited);
        let mut all: Vec<_> = inherited.map(|entry| (entry.flag.name, entry.value.to_string())).collect();
        all.sort();
        all
    }

    fn value(&self, name: &str) -> &Value {
        let entry = self.entries.iter().find(|entry| entry.flag.name == name);
        &entry.unwrap_or_else(|| panic!("flag --{name} is not declared")).value
    }

    pub fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Bool(true))
    }

    pub fn int64(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int64(value) => *value,
            _ => panic!("flag --{name} is no integer"),
        }
    }

    pub fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Value::Text(value) => value,
            _ => panic!("flag --{name} is no text"),
        }
    }

    pub fn duration(&self, name: &str) -> GoDuration {
        match self.value(name) {
            Value::Duration(value) => *value,
            _ => panic!("flag --{name} is no duration"),
        }
    }

    pub fn list(&self, name: &str) -> &[String] {
        match self.value(name) {
            Value::List(value) => value,
            _ => panic!("flag --{name} is no list"),
        }
    }
}

impl Entry {
    fn set(&mut self, text: &str) -> Result<(), String> {
        let value = self.flag.value(text).map_err(|error| {
            let long = self.flag.name;
            let names = self.flag.short.map_or(format!("--{long}"), |short| format!("-{short}, --{long}"));
            format!("invalid argument {} for \"{names}\" flag: {error}", quote(text.as_bytes()))
        })?;
        match (&mut self.value, value) {
            (Value::List(list), Value::List(more)) if self.changed => list.extend(more),
            (current, value) => *current = value,
        }
        self.changed = true;
        Ok(())
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int64(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
            Self::Duration(value) => value.fmt(f),
            Self::List(value) => write!(f, "[{}]", value.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static DECLARED: [Flag; 5] = [
        Flag::bool("prefix", "").short('p'),
        Flag::int64("limit", ""),
        Flag::text("write-out", "simple", "").short('w'),
        Flag::duration("timeout", "5s", ""),
        Flag { name: "endpoints", short: None, kind: Kind::List, default: "a", usage: "" },
    ];

    fn parse(line: &str) -> Result<(Flags, Positional), String> {
        let words: Vec<Word> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let mut flags = Flags::new(&DECLARED, []);
        let positional = flags.parse(&words)?;
        Ok((flags, positional))
    }

    #[test]
    fn flags_stand_anywhere() {
        let (flags, rest) =
            parse("k --prefix=false e --limit 0x10 -pwjson --endpoints b,c --endpoints d -- -x").unwrap();
        assert_eq!(
            rest,
            Positional { words: vec![b"k".into(), b"e".into(), b"-x".into()], dash_at: Some(2) }
        );
        assert!(flags.bool("prefix"));
        assert_eq!(flags.int64("limit"), 16);
        assert_eq!(flags.text("write-out"), "json");
        assert_eq!(flags.list("endpoints"), ["b", "c", "d"]);
        assert_eq!(flags.duration("timeout").0, 5_000_000_000);
        assert!(!flags.is_changed("timeout"));
    }

    #[test]
    fn errors_are_pflags() {
        for (line, error) in [
            ("--nosuch", "unknown flag: --nosuch"),
            ("-xy", "unknown shorthand flag: 'x' in -xy"),
            ("--limit", "flag needs an argument: --limit"),
            ("-w", "flag needs an argument: 'w' in -w"),
            ("---x", "bad flag syntax: ---x"),
            ("--=x", "bad flag syntax: --=x"),
            ("--help", "pflag: help requested"),
            (
                "--limit x",
                "invalid argument \"x\" for \"--limit\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                "-p=x",
                "invalid argument \"x\" for \"-p, --prefix\" flag: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err(), error);
        }
    }
}
