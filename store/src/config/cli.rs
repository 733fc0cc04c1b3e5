//! The command line of the `etcd` binary, with Go's flag habits and etcd's environment.
//!
//! Owns the order of things: flags first, then `--help` and `--version`, then either the configuration file
//! alone or flags and environment together. Everything but `Command::from_process` is a pure function of
//! arguments and environment. Called by `main`, which prints what a `Refusal` shows and exits with its code.
//!
//! Follows Go's `flag` package, etcd's `pkg/flags/flag.go` and `server/etcdmain/config.go`.

#![expect(clippy::disallowed_methods, reason = "reads the process")]

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::features::{Feature, FeatureGates};
use super::flags::{self, EXPERIMENTAL, FLAGS, Flag, Kind};
use super::{Config, ConfigError, cluster::EMPTY_CLUSTER, file, usage};

const ENV_PREFIX: &str = "ETCD_";
/// Read elsewhere, before the configuration.
const ENV_NOT_FLAGS: [&str; 1] = ["ETCD_UNSUPPORTED_ARCH"];

/// Something worth a log line once logging is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub message: String,
    /// What the message is about: a flag, variable or key with its value.
    pub subject: String,
}

impl Warning {
    pub fn new(message: impl Into<String>, subject: impl Into<String>) -> Self {
        Self { message: message.into(), subject: subject.into() }
    }
}

/// What the process was asked to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Serve with a validated configuration.
    Run { config: Box<Config>, warnings: Vec<Warning> },
    /// Print this on stdout and leave with success.
    Print(String),
}

/// Why nothing was started.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The command line cannot be read: message and usage go to stderr.
    Usage(String),
    /// It can be read, but asks for something invalid.
    Invalid(ConfigError),
}

impl Refusal {
    pub fn exit_code(&self) -> i32 {
        match self {
            Refusal::Usage(_) => 2,
            Refusal::Invalid(_) => 1,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Usage(message) => write!(f, "{message}\n{}", usage::synopsis()),
            Refusal::Invalid(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Refusal::Invalid(error)
    }
}

fn invalid<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(ConfigError(text.into())))
}

impl Command {
    /// Reads this process's arguments and environment.
    pub fn from_process() -> Result<Self, Refusal> {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let mut arguments = Vec::new();
        for argument in std::env::args_os().skip(1) {
            match argument.into_string() {
                Ok(argument) => arguments.push(argument),
                Err(bytes) => return Err(Refusal::Usage(format!("argument is not UTF-8: {}", lossy(bytes)))),
            }
        }
        Self::parse(arguments, std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))))
    }

    /// `arguments` without the program's name; `environment` may hold foreign variables.
    pub fn parse(
        arguments: impl IntoIterator<Item = String>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Refusal> {
        let mut given = Given::default();
        let positional = match given.read_arguments(arguments.into_iter())? {
            Read::Help => return Ok(Command::Print(usage::full())),
            Read::Positional(word) => Some(word),
            Read::Done => None,
        };
        if let Some(word) = positional {
            return invalid(refused_word(&word, given.last_switch.as_deref()));
        }
        if given.version {
            return Ok(Command::Print(usage::version()));
        }
        let environment: BTreeMap<String, String> =
            environment.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        let file = match given.config_file.as_str() {
            "" => environment.get("ETCD_CONFIG_FILE").cloned().unwrap_or_default(),
            path => path.into(),
        };
        let (mut config, mut warnings) = if file.is_empty() {
            given.read_environment(&environment)?;
            given.finish()?
        } else {
            let (config, mut warnings) = file::load(Path::new(&file))?;
            for name in given.values.keys().filter(|name| *name != "config-file") {
                warnings
                    .push(Warning::new("ignored, since a configuration file is in use", format!("--{name}")));
            }
            (config, warnings)
        };
        config.raise_raft_timeouts(&mut warnings);
        config.validate()?;
        warnings.extend(config.advice());
        Ok(Command::Run { config: Box::new(config), warnings })
    }
}

enum Read {
    Done,
    Help,
    Positional(String),
}

/// Flags and variables read so far.
#[derive(Default)]
struct Given {
    config: Config,
    warnings: Vec<Warning>,
    /// By the name they were given under; the value tells where it came from.
    values: BTreeMap<String, String>,
    config_file: String,
    version: bool,
    gates_named_by_list: Vec<Feature>,
    /// The latest switch without `=value`, for a hint.
    last_switch: Option<String>,
}

impl Given {
    /// Stops at the first argument that is no flag, as Go does.
    fn read_arguments(&mut self, mut arguments: impl Iterator<Item = String>) -> Result<Read, Refusal> {
        while let Some(argument) = arguments.next() {
            if argument.len() < 2 || !argument.starts_with('-') {
                return Ok(Read::Positional(argument));
            }
            if argument == "--" {
                return Ok(arguments.next().map_or(Read::Done, Read::Positional));
            }
            let body = argument.strip_prefix("--").unwrap_or(&argument[1..]);
            if body.is_empty() || body.starts_with(['-', '=']) {
                return Err(Refusal::Usage(format!("bad flag syntax: {argument}")));
            }
            let (name, attached) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let Some(flag) = Flag::find(name) else {
                if matches!(name, "h" | "help") {
                    return Ok(Read::Help);
                }
                return Err(Refusal::Usage(undefined(name)));
            };
            self.last_switch = (flag.is_switch() && attached.is_none()).then(|| name.to_owned());
            let value = match attached {
                Some(value) => value,
                None if flag.is_switch() => "true".into(),
                None => match arguments.next() {
                    Some(value) => value,
                    None => return Err(Refusal::Usage(format!("flag needs an argument: -{name}"))),
                },
            };
            if let Err(why) = self.take(flag, &format!("--{name}"), &value)? {
                return Err(Refusal::Usage(match flag.is_switch() {
                    true => format!("invalid boolean value {value:?} for -{name}: {why}"),
                    false => format!("invalid value {value:?} for flag -{name}: {why}"),
                }));
            }
            self.values.insert(name.to_owned(), format!("--{name}"));
        }
        Ok(Read::Done)
    }

    fn read_environment(&mut self, environment: &BTreeMap<String, String>) -> Result<(), Refusal> {
        let names: BTreeMap<String, String> = Flag::all_names().map(|name| (variable(&name), name)).collect();
        for (variable, value) in environment {
            let Some(name) = names.get(variable) else {
                if !ENV_NOT_FLAGS.contains(&variable.as_str()) {
                    let subject = format!("{variable}={value}");
                    self.warnings.push(Warning::new("unrecognized environment variable", subject));
                }
                continue;
            };
            if self.values.contains_key(name) {
                return invalid(format!(
                    "conflicting environment variable is shadowed by corresponding command-line flag \
                     (either unset environment variable or disable flag)): {variable}"
                ));
            }
            let Some(flag) = Flag::find(name) else { continue };
            match flag.kind {
                Kind::Version => {
                    let subject = format!("{variable}={value}");
                    self.warnings.push(Warning::new("cannot set special environment variable", subject));
                }
                _ if value.is_empty() => {}
                _ => {
                    if let Err(why) = self.take(flag, variable, value)? {
                        return invalid(format!("invalid value {value:?} for {variable}: {why}"));
                    }
                    self.values.insert(name.clone(), variable.clone());
                }
            }
        }
        Ok(())
    }

    /// The outer error refuses the flag whatever its value; the inner one refuses the value.
    fn take(&mut self, flag: &Flag, source: &str, value: &str) -> Result<Result<(), String>, Refusal> {
        if let Some(feature) = flag.unsupported(value) {
            return invalid(format!("flag {source} is not supported yet by this build: {feature}"));
        }
        match flag.kind {
            Kind::ConfigFile => self.config_file = value.into(),
            Kind::Version => self.version = flags::parse_bool(value).unwrap_or(false),
            Kind::Ignored => self.warnings.push(Warning::new("flag is no longer supported; ignored", source)),
            Kind::NoEffect { switch } if !switch || flags::parse_bool(value) != Some(false) => {
                self.warnings.push(Warning::new("flag has no effect in this server", source));
            }
            Kind::Gates(_) => {
                let mut alone = FeatureGates::default();
                // A wrong list is reported by `set` below.
                if alone.apply(value).is_ok() {
                    self.gates_named_by_list.extend(alone.named());
                }
            }
            _ => {}
        }
        Ok(flag.set(&mut self.config, value))
    }

    /// Rules between flags that a plain `Config` no longer shows.
    fn finish(mut self) -> Result<(Config, Vec<Warning>), Refusal> {
        for flag in FLAGS {
            let old = format!("{EXPERIMENTAL}{}", flag.name);
            if let (true, Some(today), Some(before)) =
                (flag.was_experimental, self.values.get(flag.name), self.values.get(&old))
            {
                return invalid(format!("cannot specify both {today} and {before}: they are one setting"));
            }
            let old_name = if flag.was_experimental { old.as_str() } else { flag.name };
            if let (true, Some(source)) = (is_deprecated(flag, old_name), self.values.get(old_name)) {
                self.warnings.push(Warning::new("flag is deprecated", source));
            }
        }
        // A list that is given and empty is not the default.
        if self.values.contains_key("initial-cluster")
            && self.config.initial_cluster.is_empty()
            && !self.config.discovery.is_asked_for()
        {
            self.config.initial_cluster = EMPTY_CLUSTER.into();
        }
        if self.values.contains_key("log-outputs") && self.config.log_outputs.is_empty() {
            return invalid("couldn't open sink \"\": open : no such file or directory");
        }
        if self.values.contains_key("feature-gates") {
            self.check_gates_given_once()?;
        }
        if self.values.contains_key("listen-client-urls")
            && !self.values.contains_key("advertise-client-urls")
        {
            self.config.advertise_client_urls.clear();
        }
        Ok((self.config, self.warnings))
    }

    /// A gate may come from `--feature-gates` or from its old switch, but not from both.
    fn check_gates_given_once(&self) -> Result<(), Refusal> {
        for flag in FLAGS {
            let (Kind::Gate(feature), Some(old)) = (flag.kind, self.values.get(flag.name)) else { continue };
            if self.gates_named_by_list.contains(&feature) {
                let gate = feature.name();
                return invalid(format!(
                    "cannot specify both flags: {old}=(true|false) and --feature-gates={gate}=(true|false) \
                     at the same time, please just use --feature-gates={gate}=(true|false)"
                ));
            }
        }
        Ok(())
    }
}

fn is_deprecated(flag: &Flag, name: &str) -> bool {
    matches!(flag.kind, Kind::Gate(_)) || flag.was_experimental && name != flag.name
}

fn variable(flag_name: &str) -> String {
    format!("{ENV_PREFIX}{}", flag_name.to_ascii_uppercase().replace('-', "_"))
}

fn refused_word(word: &str, last_switch: Option<&str>) -> String {
    let text = format!("'{word}' is not a valid flag");
    match (word, last_switch) {
        ("gateway" | "grpc-proxy", _) => {
            format!("{text}: the command {word} is not supported yet by this build")
        }
        (_, Some(switch)) if flags::parse_bool(word).is_some() => {
            format!("{text}: a switch takes its value as --{switch}={word}")
        }
        _ => text,
    }
}

fn undefined(name: &str) -> String {
    let text = format!("flag provided but not defined: -{name}");
    // A long name forgives more slips; a short one would match anything.
    let tolerance = (name.chars().count() / 3).min(3);
    let nearest = Flag::all_names()
        .filter(|known| known.len().abs_diff(name.len()) <= tolerance)
        .map(|known| (edit_distance(name, &known), known))
        .min();
    match nearest {
        Some((distance, known)) if distance <= tolerance => format!("{text}\ndid you mean --{known}?"),
        _ => text,
    }
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
