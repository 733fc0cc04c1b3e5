//! What every command shares: the global flags, `ETCDCTL_*` variables standing in for them, and the session made
//! from both, which is a client, an output format and a time limit.

use std::io::Write;
use std::time::Duration;

use super::flags::{Flag, Flags, Kind};
use super::security;
use crate::client::{Client, Error, Options};
use crate::exit::{BAD_CONNECTION, BAD_FEATURE, ERROR, Exit, Outcome};
use crate::go::quote::quote;
use crate::log;
use crate::printers::{self, Printer};

pub static FLAGS: [Flag; 20] = [
    Flag::text("cacert", "", "verify certificates of TLS-enabled secure servers using this CA bundle"),
    Flag::text("cert", "", "identify secure client using this TLS certificate file"),
    Flag::duration("command-timeout", "5s", "timeout for short running command (excluding dial timeout)"),
    Flag::bool("debug", "enable client-side debug logging"),
    Flag::duration("dial-timeout", "2s", "dial timeout for client connections"),
    Flag::text("discovery-srv", "", "domain name to query for SRV records describing cluster endpoints")
        .short('d'),
    Flag::text("discovery-srv-name", "", "service name to query when using DNS discovery"),
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
        usage: "accept insecure SRV records describing cluster endpoints",
    },
    Flag::bool(
        "insecure-skip-tls-verify",
        "skip server certificate verification (CAUTION: this option should be enabled only for testing purposes)",
    ),
    Flag {
        name: "insecure-transport",
        short: None,
        kind: Kind::Bool,
        default: "true",
        usage: "disable transport security for client connections",
    },
    Flag::duration("keepalive-time", "2s", "keepalive time for client connections"),
    Flag::duration("keepalive-timeout", "6s", "keepalive timeout for client connections"),
    Flag::text("key", "", "identify secure client using this TLS key file"),
    Flag::int64("max-recv-bytes", "largest answer to accept, in bytes (0: 2147483647)"),
    Flag::int64("max-request-bytes", "largest request to send, in bytes (0: 2097152)"),
    Flag::text(
        "password",
        "",
        "password for authentication (if this option is used, --user option shouldn't include password)",
    ),
    Flag::text("user", "", "username[:password] for authentication (prompt if password is not supplied)"),
    Flag::text("write-out", "simple", "set the output format (fields, json, protobuf, simple, table)")
        .short('w'),
];

pub struct Session {
    pub client: Client,
    pub printer: Box<dyn Printer>,
    pub options: Options,
    pub endpoints: Vec<String>,
}

impl Session {
    /// Reads the environment, then the flags, and logs in if they name a user. Fails on an unknown output format,
    /// when a variable and its flag are both set, on bad certificates, and on what this client cannot do.
    pub async fn new(flags: &mut Flags) -> Result<Self, Exit> {
        Self::without_client(flags)?.connected().await
    }

    /// For work that takes as long as it takes, such as waiting for a lock: no call has a limit of time.
    pub async fn patient(flags: &mut Flags) -> Result<Self, Exit> {
        let mut session = Self::without_client(flags)?;
        session.options.command_timeout = Duration::MAX;
        session.connected().await
    }

    async fn connected(mut self) -> Result<Self, Exit> {
        let bad_connection = |error: Error| Exit::new(BAD_CONNECTION, error.to_string());
        self.client = Client::new(&self.endpoints, self.options.clone()).map_err(bad_connection)?;
        self.client.log_in().await.map_err(bad_connection)?;
        Ok(self)
    }

    /// For commands that make a client per endpoint, whose list may be empty.
    pub fn without_client(flags: &mut Flags) -> Result<Self, Exit> {
        read_environment(flags)?;
        if flags.bool("debug") {
            show_settings(flags)?;
        }
        let endpoints = match discovered(flags)? {
            found if found.is_empty() => flags.list("endpoints").to_vec(),
            found => found,
        };
        let tls = security::tls_settings(flags)?;
        let credentials = security::credentials(flags.text("user"), flags.text("password"), "Password: ")?;
        let format = flags.text("write-out");
        let Some(printer) = printers::by_name(format, flags.bool("hex")) else {
            return Err(Exit::new(BAD_FEATURE, "unsupported output format"));
        };
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
            tls: tls.tls().map_err(Exit::bad_args)?,
            credentials,
        };
        Ok(Self { client: Client::disconnected(options.clone()), printer, options, endpoints })
    }

    /// A client of some endpoints alone, with the login of the session.
    pub fn client_of(&self, endpoints: &[String]) -> Result<Client, Exit> {
        self.client.to(endpoints).map_err(|error| Exit::new(BAD_CONNECTION, error.to_string()))
    }
}

/// The endpoints that DNS names, if it is to be asked; only those with TLS unless others are accepted.
fn discovered(flags: &Flags) -> Result<Vec<String>, Exit> {
    let (domain, name) = (flags.text("discovery-srv"), flags.text("discovery-srv-name"));
    if domain.is_empty() {
        return Ok(Vec::new());
    }
    let suffix = if name.is_empty() { String::new() } else { format!("-{name}") };
    let found = |scheme: &str, service: &str| -> Result<Vec<String>, String> {
        let targets = srv::look_up(&format!("{service}{suffix}"), domain)?;
        Ok(targets.into_iter().map(|(host, port)| format!("{scheme}://{host}:{port}")).collect())
    };
    let (secure, insecure) = (found("https", "etcd-client-ssl"), found("http", "etcd-client"));
    if let (Err(secure), Err(insecure)) = (&secure, &insecure) {
        return Err(Exit::new(ERROR, format!("dns lookup errors: {secure} and {insecure}")));
    }
    let mut endpoints = secure.unwrap_or_default();
    for endpoint in insecure.unwrap_or_default() {
        if flags.bool("insecure-discovery") {
            endpoints.push(endpoint);
        } else {
            writeln!(
                std::io::stderr(),
                "ignoring discovered insecure endpoint {}",
                quote(endpoint.as_bytes())
            )?;
        }
    }
    Ok(endpoints)
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
                log::line("fatal", message, &[("environment-variable", &key)])?;
                return Err(Exit::silent(ERROR));
            }
            Some((_, name)) if !value.is_empty() => flags.set_if_valid(name, &value),
            _ => {
                let setting = format!("{key}={value}");
                log::line(
                    "warn",
                    "unrecognized environment variable",
                    &[("environment-variable", &setting)],
                )?;
            }
        }
    }
    Ok(())
}

fn variable(flag: &str) -> String {
    format!("ETCDCTL_{}", flag.to_uppercase().replace('-', "_"))
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
