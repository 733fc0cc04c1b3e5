//! The configuration file (`--config-file`): YAML, or JSON, which is YAML too.
//!
//! Owns the mapping from keys to rows of the flag table and the types values must have in a file. A key that
//! no setting has is reported and skipped, as etcd skips it; a value of the wrong type is an error. Called by
//! `cli` only. Follows `server/embed/config.go` (`configYAML`): durations are integer nanoseconds, lists of
//! URLs are comma-separated strings, an empty value leaves the default. Key names match in any case. Of several YAML
//! documents the first one counts.

#![expect(clippy::disallowed_methods, reason = "reads the configuration file")]

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;
use serde_yaml_ng::Deserializer;

use super::flags::{self, FILE_ONLY, FLAGS, FileKey, Flag, Kind};
use super::{ClusterState, Config, ConfigError, Warning, duration, open_failure, url};

const MAX_FILE_BYTES: u64 = 1 << 20;

pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
    let failed = |e: std::io::Error| ConfigError(open_failure(&path.to_string_lossy(), &e));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError(format!("{}: larger than {MAX_FILE_BYTES} bytes", path.display())));
    }
    parse(&text).map_err(|e| ConfigError(format!("{}: {e}", path.display())))
}

pub fn parse(text: &str) -> Result<(Config, Vec<Warning>), ConfigError> {
    let mut config = Config::default();
    let mut warnings = Vec::new();
    let mut documents = Deserializer::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let root = documents.next().map_or(Ok(Value::Null), Value::deserialize);
    let root = root.map_err(|e| ConfigError(format!("not valid YAML: {e}")))?;
    let settings = match root {
        Value::Null => return Ok((config, warnings)),
        Value::Object(settings) => settings,
        other => return Err(ConfigError(format!("expected keys and values, got {}", describe(&other)))),
    };
    read_section(&mut config, &mut warnings, "", &settings)?;
    // As etcd does for files.
    config.self_signed_cert_validity = config.self_signed_cert_validity.max(1);
    Ok((config, warnings))
}

/// `section`: the path of keys above, empty at the top.
fn read_section(
    config: &mut Config,
    warnings: &mut Vec<Warning>,
    section: &str,
    settings: &serde_json::Map<String, Value>,
) -> Result<(), ConfigError> {
    for (key, value) in settings {
        let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        let row = if section.is_empty() {
            FLAGS
                .iter()
                .find(|flag| flag.file == FileKey::SameName && flag.name.eq_ignore_ascii_case(key))
                .or_else(|| {
                    Flag::find(&key.to_ascii_lowercase())
                        .filter(|flag| flag.was_experimental && flag.file == FileKey::SameName)
                })
        } else {
            let is_meant = |flag: &&Flag| {
                matches!(flag.file, FileKey::In { section: s, key: k }
                    if s.eq_ignore_ascii_case(section) && k.eq_ignore_ascii_case(key))
            };
            FLAGS.iter().chain(FILE_ONLY).find(is_meant)
        };
        match (row, value) {
            (None, Value::Object(members)) => read_section(config, warnings, &path, members)?,
            (None, Value::Null) if is_section(&path) => {}
            (None, _) if is_section(&path) => return Err(unexpected(&path, "a section", value)),
            _ => set(config, warnings, row, &path, value)?,
        }
    }
    Ok(())
}

fn is_section(path: &str) -> bool {
    let is_in =
        |flag: &Flag| matches!(flag.file, FileKey::In { section, .. } if section.eq_ignore_ascii_case(path));
    FLAGS.iter().chain(FILE_ONLY).any(is_in)
}

fn unexpected(key: &str, expected: &str, value: &Value) -> ConfigError {
    ConfigError(format!("key {key}: expected {expected}, got {}", describe(value)))
}

fn set(
    config: &mut Config,
    warnings: &mut Vec<Warning>,
    row: Option<&Flag>,
    key: &str,
    value: &Value,
) -> Result<(), ConfigError> {
    let Some(flag) = row else {
        warnings.push(Warning::new("unknown key in the configuration file; ignored", key));
        return Ok(());
    };
    if value.is_null() {
        return Ok(());
    }
    let expected = |what: &str| Err(unexpected(key, what, value));
    let wrong = |why: String| ConfigError(format!("unexpected error setting up {key}: {why}"));
    match flag.kind {
        Kind::Switch(field) => match boolean(value) {
            Some(on) => *field(config) = on,
            None => return expected("true or false"),
        },
        Kind::Gate(feature) => match boolean(value) {
            Some(on) => config.feature_gates.set(feature, on),
            None => return expected("true or false"),
        },
        Kind::Count(field) => match integer(value).and_then(|n| u64::try_from(n).ok()) {
            Some(count) => *field(config) = count,
            None => return expected("a whole number from 0"),
        },
        Kind::Count32(field) => match integer(value).and_then(|n| u32::try_from(n).ok()) {
            Some(count) => *field(config) = count,
            None => return expected("a whole number from 0 to 4294967295"),
        },
        Kind::Signed(field) => match integer(value).and_then(|n| i64::try_from(n).ok()) {
            Some(number) => *field(config) = number,
            None => return expected("a whole number"),
        },
        Kind::Time(field) => {
            match integer(value).and_then(|n| u64::try_from(n).ok()).map(Duration::from_nanos) {
                Some(time) if time <= duration::MAX => *field(config) = time,
                _ => return expected("a whole number of nanoseconds"),
            }
        }
        // Only the log outputs are a list here; host names are one string.
        Kind::Names(field) if flag.name == "log-outputs" => match strings(value) {
            Some(names) => *field(config) = flags::split_names(&names.join(",")),
            None => return expected("a list of strings"),
        },
        // Older lines write one string.
        Kind::List(field) => match (value.as_str(), strings(value)) {
            (Some(text), _) => *field(config) = flags::split_names(text),
            (None, Some(names)) => *field(config) = names,
            (None, None) => return expected("a list of strings"),
        },
        Kind::NoEffect { switch } => match boolean(value) {
            None if switch => return expected("true or false"),
            Some(false) if switch => {}
            _ => warnings.push(Warning::new("key has no effect in this server", key)),
        },
        Kind::Unsupported { switch, feature, .. } => {
            let text = match (value, boolean(value)) {
                (_, Some(on)) if switch => on.to_string(),
                (Value::String(text), _) => text.clone(),
                (other, _) => other.to_string(),
            };
            let empty = value.as_array().is_some_and(Vec::is_empty) || text == "0";
            if !empty && flag.unsupported(&text).is_some() {
                return Err(ConfigError(format!("key {key} is not supported yet by this build: {feature}")));
            }
        }
        Kind::Text(_)
        | Kind::Derived(..)
        | Kind::Names(_)
        | Kind::Urls(_)
        | Kind::Origins(_)
        | Kind::State(_)
        | Kind::Choice(_)
        | Kind::Gates(_) => match value.as_str() {
            None => return expected("a string"),
            Some("") => {}
            Some(text) => set_text(config, flag, text).map_err(wrong)?,
        },
        // Not reachable from a file: these rows have no key.
        Kind::ConfigFile | Kind::Version | Kind::Ignored => {}
    }
    Ok(())
}

fn set_text(config: &mut Config, flag: &Flag, text: &str) -> Result<(), String> {
    match flag.kind {
        Kind::State(_) if ![ClusterState::New, ClusterState::Existing].iter().any(|s| s.as_str() == text) => {
            Err(format!("unexpected clusterState {text:?}"))
        }
        Kind::Urls(field) => url::parse_list(text).map(|urls| *field(config) = urls).map_err(|e| e.0),
        _ => flag.set(config, text),
    }
}

/// Also in the words of YAML 1.1, which the parser leaves strings. It does not tell whether they were quoted.
fn boolean(value: &Value) -> Option<bool> {
    match value.as_str() {
        Some("y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON") => Some(true),
        Some("n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF") => Some(false),
        _ => value.as_bool(),
    }
}

fn strings(list: &Value) -> Option<Vec<String>> {
    list.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Also of a float without fraction, such as `1e9`.
fn integer(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    number.as_i128().or_else(|| {
        // 2^63 bounds what any setting holds and keeps the conversion exact enough to be meant.
        number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.2e18).map(|f| f as i128)
    })
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(on) => on.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a section".into(),
    }
}
