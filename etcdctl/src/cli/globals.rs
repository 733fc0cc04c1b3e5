//! What every command shares: the global flags, `ETCDCTL_*` variables standing in for them, and the session made
//! from both, which is a client, an output format and a time limit.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::flags::{Flag, Flags, Kind};
use crate::client::{Client, Options};
use crate::exit::{BAD_CONNECTION, BAD_FEATURE, ERROR, Exit, Outcome};
use crate::printers::{self, Printer};

pub static FLAGS: [Flag; 14] = [
    Flag::duration("command-timeout", "5s", "timeout for short running command (excluding dial timeout)"),
    Flag::bool("debug", "enable client-side debug logging"),
    Flag::duration("dial-timeout", "2s", "dial timeout for client connections"),
    Flag::text("discovery-srv", "", "domain name to query for SRV records (not supported)").short('d'),
    Flag::text("discovery-srv-name", "", "service name to query when using DNS discovery (not supported)"),
    Flag {
        name: "endpoints",
        short: None,
        kind: Kind::List,
        default: "127.0.0.1:2379",
        usage: "gRPC endpoints",
    },
    Flag::bool("hex", "print byte strings as hex encoded strings"),
    Flag {
        name: "insecure-discovery",
        short: None,
        kind: Kind::Bool,
        default: "true",
        usage: "accept insecure SRV records describing cluster endpoints (not supported)",
    },
    Flag {
        name: "insecure-transport",
        short: None,
        kind: Kind::Bool,
        default: "true",
        usage: "disable transport security for client connections",
    },
    Flag::duration("keepalive-time", "2s", "keepalive time for client connections"),
    Flag::duration("keepalive-timeout", "6s", "keepalive timeout for client connections"),
    Flag::int64("max-recv-bytes", "largest answer to accept, in bytes (0: 2147483647)"),
    Flag::int64("max-request-bytes", "largest request to send, in bytes (0: 2097152)"),
    Flag::text("write-out", "simple", "set the output format (fields, json, protobuf, simple, table)")
        .short('w'),
];

/// Declared only to be refused by name: ignored in the environment they would lead to the endpoints of another
/// cluster.
const DISCOVERY: [&str; 3] = ["discovery-srv", "discovery-srv-name", "insecure-discovery"];

pub struct Session {
    pub client: Client,
    pub printer: Box<dyn Printer>,
    pub options: Options,
    pub endpoints: Vec<String>,
}

impl Session {
    /// Reads the environment, then the flags. Fails on an unknown output format, when a variable and its flag are
    /// both set, and on what this client cannot do.
    pub fn new(flags: &mut Flags) -> Result<Self, Exit> {
        let mut session = Self::without_client(flags)?;
        session.client = session.client_of(&session.endpoints)?;
        Ok(session)
    }

    /// For commands that make a client per endpoint, whose list may be empty.
    pub fn without_client(flags: &mut Flags) -> Result<Self, Exit> {
        read_environment(flags)?;
        if flags.bool("debug") {
            show_settings(flags)?;
        }
        let format = flags.text("write-out");
        let Some(printer) = printers::by_name(format, flags.bool("hex")) else {
            return Err(Exit::new(BAD_FEATURE, "unsupported output format"));
        };
        if let Some(name) = DISCOVERY.into_iter().find(|name| flags.is_changed(name)) {
            let message =
                format!("--{name}: this client has no DNS discovery, name the endpoints with --endpoints");
            return Err(Exit::new(BAD_FEATURE, message));
        }
        if !flags.bool("insecure-transport") {
            let message = "this client has no TLS: --insecure-transport must be true";
            return Err(Exit::new(BAD_CONNECTION, message));
        }
        let limit = |name: &str, default: usize| match usize::try_from(flags.int64(name)) {
            Ok(0) | Err(_) => default,
            Ok(bytes) => bytes,
        };
        let options = Options {
            dial_timeout: flags.duration("dial-timeout").wait(),
            command_timeout: flags.duration("command-timeout").wait(),
            keepalive_time: flags.duration("keepalive-time").wait(),
            keepalive_timeout: flags.duration("keepalive-timeout").wait(),
            max_request_bytes: limit("max-request-bytes", 2 << 20),
            max_response_bytes: limit("max-recv-bytes", i32::MAX as usize),
        };
        let endpoints = flags.list("endpoints").to_vec();
        Ok(Self { client: Client::disconnected(options.clone()), printer, options, endpoints })
    }

    pub fn client_of(&self, endpoints: &[String]) -> Result<Client, Exit> {
        Client::new(endpoints, self.options.clone())
            .map_err(|error| Exit::new(BAD_CONNECTION, error.to_string()))
    }
}

/// `ETCDCTL_API` chooses between the clients of the v2 and the v3 API; this is one of v3.
pub fn refuse_other_apis() -> Outcome {
    let version = std::env::var_os("ETCDCTL_API").unwrap_or_default();
    if version.is_empty() || version == "3" {
        return Ok(());
    }
    writeln!(std::io::stderr(), "unsupported API version: {}", version.to_string_lossy())?;
    Err(Exit::silent(ERROR))
}

/// Each variable `ETCDCTL_<FLAG>` sets its inherited flag, unless the flag was given as well.
fn read_environment(flags: &mut Flags) -> Result<(), Exit> {
    const KNOWN_ELSEWHERE: [&str; 3] = ["ETCDCTL_API", "ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];
    let inherited = flags.inherited().into_iter();
    let inherited: Vec<(String, &str)> = inherited.map(|(name, _)| (variable(name), name)).collect();
    for (key, value) in std::env::vars_os() {
        let (key, value) = (key.to_string_lossy(), value.to_string_lossy());
        if !key.starts_with("ETCDCTL_") || KNOWN_ELSEWHERE.contains(&key.as_ref()) {
            continue;
        }
        match inherited.iter().find(|(variable, _)| *variable == key) {
            Some((_, name)) if flags.is_changed(name) => {
                let message = "conflicting environment variable is shadowed by corresponding command-line flag \
                               (either unset environment variable or disable flag))";
                log("fatal", message, &key)?;
                return Err(Exit::silent(ERROR));
            }
            Some((_, name)) if !value.is_empty() => flags.set_if_valid(name, &value),
            _ => log("warn", "unrecognized environment variable", &format!("{key}={value}"))?,
        }
    }
    Ok(())
}

fn variable(flag: &str) -> String {
    format!("ETCDCTL_{}", flag.to_uppercase().replace('-', "_"))
}

/// A line in the shape of etcd's logs.
fn log(level: &str, message: &str, variable: &str) -> std::io::Result<()> {
    let mut line = String::new();
    crate::go::json::object(&mut line, |o| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        o.string("level", level);
        o.plain("ts", now.as_secs_f64());
        o.string("msg", message);
        o.string("environment-variable", variable);
    });
    writeln!(std::io::stderr(), "{line}")
}

fn show_settings(flags: &Flags) -> std::io::Result<()> {
    let mut err = std::io::stderr();
    for (name, value) in flags.inherited() {
        writeln!(err, "{}={value}", variable(name))?;
    }
    Ok(())
}

/// A command does one thing at a time, so one thread serves it.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
