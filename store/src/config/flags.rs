//! Flags: what a row of the table is, how its value is read and shown. The rows stand in `table`.
//!
//! The command line, the environment, the configuration file and the usage text all follow from these rows,
//! so a name, default or sentence stands in one place. A row either reaches a field of `Config`, or says why
//! the flag is not served: `Ignored` and `NoEffect` are accepted (scripts written for etcd carry them),
//! `Unsupported` is refused unless it asks for the feature to stay off. Called by `cli`, `file` and `usage`.
//!
//! Value syntax follows Go's `flag` package and its error texts.

mod table;

use std::time::Duration;

use super::features::{Feature, FeatureGates};
use super::{ClusterState, Config, Url, duration, url};

pub use table::{FILE_ONLY, FLAGS};

/// Headings of the usage text, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Member,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Other,
    Keelson,
    Unsafe,
    /// Accepted or refused, but not worth a line of usage.
    Hidden,
}

pub const HEADINGS: [(Group, &str); 10] = [
    (Group::Member, "Member"),
    (Group::Clustering, "Clustering"),
    (Group::Security, "Security"),
    (Group::Auth, "Auth"),
    (Group::Monitoring, "Profiling and Monitoring"),
    (Group::Logging, "Logging"),
    (Group::Tracing, "Distributed tracing"),
    (Group::Other, "Tuning and checks"),
    (Group::Keelson, "Keelson (limits etcd does not have)"),
    (Group::Unsafe, "Unsafe feature"),
];

type Field<T> = fn(&mut Config) -> &mut T;

/// How a row's value is written and where it goes.
#[derive(Clone, Copy)]
pub enum Kind {
    Text(Field<String>),
    /// Empty means a value made from other settings; the usage text shows that one.
    Derived(Field<String>, &'static str),
    Switch(Field<bool>),
    Count(Field<u64>),
    Count32(Field<u32>),
    Signed(Field<i64>),
    Time(Field<Duration>),
    Urls(Field<Vec<Url>>),
    /// `*` or a list of URLs.
    Origins(Field<Vec<String>>),
    Names(Field<Vec<String>>),
    /// As `Names`; the configuration file may also write it as a list.
    List(Field<Vec<String>>),
    State(Field<ClusterState>),
    /// One of these words, whichever: it is for a part this server does not have.
    Choice(&'static [&'static str]),
    Gates(Field<FeatureGates>),
    /// A switch of earlier versions that is a feature gate today.
    Gate(Feature),
    ConfigFile,
    Version,
    /// Switches of etcd 0.x that etcd itself still skips.
    Ignored,
    /// Tunes a part this server does not have, or switches it on.
    NoEffect {
        switch: bool,
    },
    /// The values that leave the feature off are accepted.
    Unsupported {
        switch: bool,
        off: &'static [&'static str],
        feature: &'static str,
    },
}

/// Where a row stands in the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKey {
    SameName,
    In { section: &'static str, key: &'static str },
    Absent,
}

#[derive(Clone, Copy)]
pub struct Flag {
    pub name: &'static str,
    pub group: Group,
    pub kind: Kind,
    pub help: &'static str,
    pub file: FileKey,
    /// Also read as `--experimental-<name>`, its name in etcd 3.4 to 3.6.
    pub was_experimental: bool,
}

impl Flag {
    const fn new(name: &'static str, group: Group, kind: Kind, help: &'static str) -> Self {
        Self { name, group, kind, help, file: FileKey::SameName, was_experimental: false }
    }

    const fn experimental_before(mut self) -> Self {
        self.was_experimental = true;
        self
    }

    const fn in_file(mut self, section: &'static str, key: &'static str) -> Self {
        self.file = FileKey::In { section, key };
        self
    }

    const fn not_in_file(mut self) -> Self {
        self.file = FileKey::Absent;
        self
    }

    /// The row a flag name means, be it today's name or the experimental one.
    pub fn find(name: &str) -> Option<&'static Flag> {
        FLAGS.iter().find(|flag| flag.answers_to(name))
    }

    fn answers_to(&self, name: &str) -> bool {
        self.name == name
            || self.was_experimental && name.strip_prefix(EXPERIMENTAL).is_some_and(|rest| rest == self.name)
    }

    /// Every name a flag may be given under.
    pub fn all_names() -> impl Iterator<Item = String> {
        FLAGS.iter().flat_map(|flag| {
            let old = flag.was_experimental.then(|| format!("{EXPERIMENTAL}{}", flag.name));
            std::iter::once(flag.name.to_owned()).chain(old)
        })
    }

    /// Whether the flag stands alone, so that the next argument is not its value.
    pub fn is_switch(&self) -> bool {
        matches!(
            self.kind,
            Kind::Switch(_)
                | Kind::Gate(_)
                | Kind::Version
                | Kind::Ignored
                | Kind::NoEffect { switch: true }
                | Kind::Unsupported { switch: true, .. }
        )
    }

    /// Why this value cannot be served, if the row is of a feature that does not exist.
    pub fn unsupported(&self, value: &str) -> Option<&'static str> {
        match self.kind {
            Kind::Unsupported { switch, off, feature } => {
                let stays_off = value.is_empty()
                    || off.contains(&value)
                    || switch
                        && parse_bool(value)
                            .is_some_and(|on| off.contains(&if on { "true" } else { "false" }));
                (!stays_off).then_some(feature)
            }
            _ => None,
        }
    }

    /// Reads a value as the command line and the environment write it.
    pub fn set(&self, config: &mut Config, value: &str) -> Result<(), String> {
        match self.kind {
            Kind::Text(field) | Kind::Derived(field, _) => *field(config) = value.into(),
            Kind::Switch(field) => *field(config) = parse_bool(value).ok_or(PARSE_ERROR)?,
            Kind::Count(field) => *field(config) = parse_unsigned(value)?,
            Kind::Count32(field) => {
                *field(config) = u32::try_from(parse_unsigned(value)?).map_err(|_| OUT_OF_RANGE)?;
            }
            Kind::Signed(field) => *field(config) = parse_signed(value)?,
            Kind::Time(field) => {
                *field(config) = duration::parse(value).map_err(|e| match e.contains("negative") {
                    true => "must not be negative",
                    false => PARSE_ERROR,
                })?;
            }
            // As in etcd, an empty list leaves the default.
            Kind::Urls(_) if value.is_empty() => {}
            Kind::Urls(field) => *field(config) = url::parse_list(value).map_err(|e| e.0)?,
            Kind::Origins(field) => *field(config) = parse_origins(value)?,
            Kind::Names(field) | Kind::List(field) => *field(config) = split_names(value),
            Kind::Choice(words) => {
                words.iter().find(|word| **word == value).ok_or(INVALID_VALUE)?;
            }
            Kind::State(field) => {
                *field(config) = [ClusterState::New, ClusterState::Existing]
                    .into_iter()
                    .find(|state| state.as_str() == value)
                    .ok_or(INVALID_VALUE)?;
            }
            Kind::Gates(field) => field(config).apply(value).map_err(|e| e.0)?,
            Kind::Gate(feature) => {
                config.feature_gates.set(feature, parse_bool(value).ok_or(PARSE_ERROR)?);
            }
            Kind::Version | Kind::NoEffect { switch: true } | Kind::Unsupported { switch: true, .. } => {
                parse_bool(value).ok_or(PARSE_ERROR)?;
            }
            Kind::ConfigFile | Kind::Ignored | Kind::NoEffect { .. } | Kind::Unsupported { .. } => {}
        }
        Ok(())
    }

    /// The value a configuration has here, as the command line would write it; `None` without a field.
    pub fn show(&self, config: &mut Config) -> Option<String> {
        Some(match self.kind {
            Kind::Text(field) => field(config).clone(),
            Kind::Derived(field, derived) => match field(config).as_str() {
                "" => derived.into(),
                text => text.into(),
            },
            Kind::Switch(field) => field(config).to_string(),
            Kind::Count(field) => field(config).to_string(),
            Kind::Count32(field) => field(config).to_string(),
            Kind::Signed(field) => field(config).to_string(),
            Kind::Time(field) => duration::format(*field(config)),
            Kind::Urls(field) => url::join(field(config)),
            Kind::Origins(field) | Kind::Names(field) | Kind::List(field) => field(config).join(","),
            Kind::State(field) => field(config).as_str().into(),
            Kind::Gate(feature) => config.feature_gates.enabled(feature).to_string(),
            Kind::Gates(_) | Kind::ConfigFile => String::new(),
            Kind::Version => "false".into(),
            Kind::Choice(_) | Kind::Ignored | Kind::NoEffect { .. } | Kind::Unsupported { .. } => {
                return None;
            }
        })
    }
}

pub const EXPERIMENTAL: &str = "experimental-";
const PARSE_ERROR: &str = "parse error";
const INVALID_VALUE: &str = "invalid value";
const OUT_OF_RANGE: &str = "value out of range";

pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's integer literals: `0x`, `0o`, `0b` and leading-zero octal, `_` between digits.
fn parse_unsigned(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    // A separator may also follow the prefix.
    let separated = if radix == 10 { digits } else { digits.strip_prefix('_').unwrap_or(digits) };
    if separated.split('_').any(|part| part.is_empty() || !part.chars().all(|c| c.is_digit(radix))) {
        return Err(PARSE_ERROR.into());
    }
    u64::from_str_radix(&separated.replace('_', ""), radix).map_err(|_| OUT_OF_RANGE.into())
}

fn parse_signed(text: &str) -> Result<i64, String> {
    let magnitude = parse_unsigned(text.strip_prefix(['-', '+']).unwrap_or(text))?;
    let value = if text.starts_with('-') { -i128::from(magnitude) } else { magnitude.into() };
    i64::try_from(value).map_err(|_| OUT_OF_RANGE.into())
}

pub fn parse_origins(text: &str) -> Result<Vec<String>, String> {
    if text == "*" {
        return Ok(vec!["*".into()]);
    }
    url::parse_list(text).map(|urls| urls.iter().map(Url::to_string).collect()).map_err(|e| e.0)
}

pub fn split_names(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.into());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = Flag::all_names().collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_shown_default_reads_back() {
        for flag in FLAGS {
            let Some(shown) = flag.show(&mut Config::default()) else { continue };
            let mut config = Config::default();
            let before = config.clone();
            flag.set(&mut config, &shown).unwrap_or_else(|e| panic!("--{}={shown}: {e}", flag.name));
            if !matches!(flag.kind, Kind::Derived(..) | Kind::Gate(_)) {
                assert_eq!(config, before, "--{}={shown}", flag.name);
            }
        }
    }

    #[test]
    fn integers_follow_go() {
        for (text, value) in
            [("0x64", 100), ("1_000", 1000), ("010", 8), ("0b1", 1), ("0o17", 15), ("0", 0), ("0X_f", 15)]
        {
            assert_eq!(parse_unsigned(text), Ok(value), "{text}");
        }
        for text in ["", "+5", " 5", "5.0", "-1", "1__0", "_1", "1_", "0x", "08", "abc"] {
            assert_eq!(parse_unsigned(text), Err(PARSE_ERROR.into()), "{text}");
        }
        assert_eq!(parse_unsigned("99999999999999999999"), Err(OUT_OF_RANGE.into()));
        assert_eq!(parse_signed("-5"), Ok(-5));
        assert_eq!(parse_signed("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_signed("9223372036854775808"), Err(OUT_OF_RANGE.into()));
    }
}
