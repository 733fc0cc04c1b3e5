//! Flags: their declarations and pflag's parser, with pflag's error texts.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub default: &'static str,
    pub usage: &'static str,
    pub required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Text,
    Int64,
    Uint64,
}

impl Flag {
    pub const fn bool(name: &'static str, usage: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::Bool, default: "false", usage, required: false }
    }

    pub const fn text(name: &'static str, default: &'static str, usage: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::Text, default, usage, required: false }
    }

    pub const fn int64(name: &'static str, usage: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::Int64, default: "0", usage, required: false }
    }

    pub const fn uint64(name: &'static str, default: &'static str, usage: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::Uint64, default, usage, required: false }
    }

    pub const fn short(mut self, short: char) -> Flag {
        self.short = Some(short);
        self
    }

    pub const fn required(mut self) -> Flag {
        self.required = true;
        self
    }

    /// Only a boolean may stand without a value.
    pub fn needs_value(&self) -> bool {
        self.kind != Kind::Bool
    }

    /// Why `value` is none of this flag's, in Go's words.
    fn refusal(&self, value: &OsStr) -> Option<String> {
        let text = value.to_string_lossy();
        let (parser, reason) = match self.kind {
            Kind::Text => return None,
            Kind::Bool => ("ParseBool", parse_bool(&text).err()),
            Kind::Int64 => ("ParseInt", integer(&text, i64::MIN.into(), i64::MAX.into()).err()),
            Kind::Uint64 => ("ParseUint", integer(&text, 0, u64::MAX.into()).err()),
        };
        let reason = reason?;
        let name = match self.short {
            Some(short) => format!("-{short}, --{}", self.name),
            None => format!("--{}", self.name),
        };
        Some(format!(
            "invalid argument {text:?} for {name:?} flag: strconv.{parser}: parsing {text:?}: {reason}"
        ))
    }
}

fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("invalid syntax"),
    }
}

/// Decimal, or as a prefix says: `0x`, `0o`, `0b`.
fn integer(text: &str, least: i128, most: i128) -> Result<i128, &'static str> {
    let (sign, digits) = match text.split_at_checked(1) {
        Some(("-", digits)) if least < 0 => (-1, digits),
        Some(("+", digits)) if least < 0 => (1, digits),
        _ => (1, text),
    };
    let (radix, digits) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err("invalid syntax");
    }
    let number = i128::from_str_radix(digits, radix).map(|number| sign * number);
    number.ok().filter(|number| (least..=most).contains(number)).ok_or("value out of range")
}

/// The flags of one command line, each at its default until set.
#[derive(Debug)]
pub struct Flags {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    flag: &'static Flag,
    value: OsString,
    changed: bool,
}

impl Flags {
    pub fn new(flags: impl IntoIterator<Item = &'static Flag>) -> Flags {
        let entry = |flag: &'static Flag| Entry { flag, value: flag.default.into(), changed: false };
        Flags { entries: flags.into_iter().map(entry).collect() }
    }

    /// Sets what the words say, and returns those that are no flags.
    pub fn parse(&mut self, words: &[OsString]) -> Result<Vec<OsString>, String> {
        let mut plain = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_bytes() {
                b"--" => {
                    plain.extend(words.cloned());
                    break;
                }
                [b'-', b'-', long @ ..] => self.parse_long(long, &mut words)?,
                [b'-', cluster @ ..] if !cluster.is_empty() => self.parse_short(cluster, &mut words)?,
                _ => plain.push(word.clone()),
            }
        }
        Ok(plain)
    }

    fn parse_long<'w>(
        &mut self,
        word: &[u8],
        rest: &mut impl Iterator<Item = &'w OsString>,
    ) -> Result<(), String> {
        let end = word.iter().position(|byte| *byte == b'=');
        let name = String::from_utf8_lossy(&word[..end.unwrap_or(word.len())]);
        if name.is_empty() || name.starts_with('-') {
            return Err(format!("bad flag syntax: --{}", String::from_utf8_lossy(word)));
        }
        let entry = self.entries.iter_mut().find(|entry| entry.flag.name == name);
        let entry = entry.ok_or_else(|| format!("unknown flag: --{name}"))?;
        match end {
            Some(end) => entry.set(OsStr::from_bytes(&word[end + 1..])),
            None if !entry.flag.needs_value() => entry.set(OsStr::new("true")),
            None => {
                let value = rest.next().ok_or_else(|| format!("flag needs an argument: --{name}"))?;
                entry.set(value)
            }
        }
    }

    /// `-w json`, `-wjson`, `-w=json`, and booleans in a row.
    fn parse_short<'w>(
        &mut self,
        cluster: &[u8],
        rest: &mut impl Iterator<Item = &'w OsString>,
    ) -> Result<(), String> {
        for (at, byte) in cluster.iter().enumerate() {
            let (letter, tail) = (char::from(*byte), &cluster[at + 1..]);
            let all = || String::from_utf8_lossy(cluster);
            let entry = self.entries.iter_mut().find(|entry| entry.flag.short == Some(letter));
            let entry = entry.ok_or_else(|| format!("unknown shorthand flag: '{letter}' in -{}", all()))?;
            match tail {
                [b'=', value @ ..] if !value.is_empty() => return entry.set(OsStr::from_bytes(value)),
                _ if !entry.flag.needs_value() => entry.set(OsStr::new("true"))?,
                [] => {
                    let missing = || format!("flag needs an argument: '{letter}' in -{}", all());
                    return entry.set(rest.next().ok_or_else(missing)?);
                }
                value => return entry.set(OsStr::from_bytes(value)),
            }
        }
        Ok(())
    }

    /// What has to be there and is not.
    pub fn missing(&self) -> Option<String> {
        let mut names = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.flag.required && !entry.changed) {
            names.push(format!("\"{}\"", entry.flag.name));
        }
        (!names.is_empty()).then(|| format!("required flag(s) {} not set", names.join(", ")))
    }

    /// A flag the command declares, and so has.
    fn entry(&self, name: &str) -> &Entry {
        let entry = self.entries.iter().find(|entry| entry.flag.name == name);
        entry.unwrap_or_else(|| panic!("flag {name} is not declared"))
    }

    pub fn bool(&self, name: &str) -> bool {
        parse_bool(&self.text(name)) == Ok(true)
    }

    pub fn text(&self, name: &str) -> String {
        self.entry(name).value.to_string_lossy().into_owned()
    }

    /// A path need not be text.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        OsString::from_vec(self.entry(name).value.as_bytes().to_vec()).into()
    }

    pub fn int64(&self, name: &str) -> i64 {
        integer(&self.text(name), i64::MIN.into(), i64::MAX.into()).map_or(0, |number| number as i64)
    }

    pub fn uint64(&self, name: &str) -> u64 {
        integer(&self.text(name), 0, u64::MAX.into()).map_or(0, |number| number as u64)
    }
}

impl Entry {
    fn set(&mut self, value: &OsStr) -> Result<(), String> {
        if let Some(refusal) = self.flag.refusal(value) {
            return Err(refusal);
        }
        (self.value, self.changed) = (value.to_owned(), true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: [Flag; 5] = [
        Flag::text("write-out", "simple", "").short('w'),
        Flag::bool("help", "").short('h'),
        Flag::int64("rev", ""),
        Flag::uint64("bump", "7", ""),
        Flag::text("dir", "", "").required(),
    ];

    fn parse(line: &str) -> Result<(Flags, Vec<String>), String> {
        let words: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
        let mut flags = Flags::new(&FLAGS);
        let plain = flags.parse(&words)?;
        Ok((flags, plain.into_iter().map(|word| word.into_string().unwrap()).collect()))
    }

    #[test]
    fn flags_are_read_in_every_form() {
        for line in ["-w json a --rev 0x10 b", "a b -wjson --rev=16", "--write-out=json a --rev +16 -- b"] {
            let (flags, plain) = parse(line).unwrap();
            assert_eq!((flags.text("write-out").as_str(), flags.int64("rev")), ("json", 16), "{line}");
            assert_eq!(plain, ["a", "b"]);
            assert_eq!(flags.missing().unwrap(), "required flag(s) \"dir\" not set");
            assert_eq!(flags.uint64("bump"), 7);
        }
        let (flags, _) = parse("-hw=x --dir=").unwrap();
        assert!(flags.bool("help") && flags.missing().is_none());
    }

    #[test]
    fn errors_are_those_of_pflag() {
        for (line, error) in [
            ("--nosuch", "unknown flag: --nosuch"),
            ("-x", "unknown shorthand flag: 'x' in -x"),
            ("--=", "bad flag syntax: --="),
            ("--dir", "flag needs an argument: --dir"),
            ("-w", "flag needs an argument: 'w' in -w"),
            (
                "--rev x",
                "invalid argument \"x\" for \"--rev\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                "--bump 99999999999999999999",
                "invalid argument \"99999999999999999999\" for \"--bump\" flag: strconv.ParseUint: parsing \
                 \"99999999999999999999\": value out of range",
            ),
            (
                "--bump -1",
                "invalid argument \"-1\" for \"--bump\" flag: strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
            (
                "-h=q",
                "invalid argument \"q\" for \"-h, --help\" flag: strconv.ParseBool: parsing \"q\": invalid syntax",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err(), error, "{line}");
        }
    }
}
