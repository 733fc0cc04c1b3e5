//! Channels to the endpoints. One endpoint serves until it fails; then the next is dialled, round and round.
//! Dialling is apart from calling, so that a call knows whether it can have reached a server.

use std::cell::{Cell, RefCell};
use std::io;
use std::iter::successors;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;
use tonic::Status;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::tls::{Address, Dialer};
use super::{Error, Options, tls};
use crate::go::error::reason;

/// Pings more often than this are refused by servers as too many.
const MIN_KEEPALIVE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub struct Connections {
    targets: Vec<Target>,
    current: Cell<usize>,
    /// Which endpoint could not be reached last, and why.
    failure: RefCell<Option<(String, String)>>,
}

struct Target {
    endpoint: Endpoint,
    /// Where the endpoint speaks TLS.
    dialer: Option<Dialer>,
    channel: RefCell<Option<Channel>>,
}

impl Connections {
    pub fn new(endpoints: &[String], options: &Options) -> Result<Self, Error> {
        if endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let targets = endpoints.iter().map(|endpoint| {
            let bad = |why: &str| Error::Text(format!("endpoint \"{endpoint}\": {why}"));
            let (uri, security) = uri(endpoint).map_err(|why| bad(&why))?;
            let dialer = if security.is_encrypted(options) {
                Some(dialer(&uri, options).map_err(|why| bad(&why))?)
            } else {
                None
            };
            let endpoint = Endpoint::from_shared(uri).map_err(|error| bad(&error.to_string()))?;
            let endpoint = endpoint
                .connect_timeout(options.dial_timeout)
                .http2_keep_alive_interval(options.keepalive_time.max(MIN_KEEPALIVE))
                .keep_alive_timeout(options.keepalive_timeout)
                .tcp_nodelay(true);
            Ok(Target { endpoint, dialer, channel: RefCell::new(None) })
        });
        let targets = targets.collect::<Result<_, Error>>()?;
        Ok(Self { targets, current: Cell::new(0), failure: RefCell::default() })
    }

    pub fn none() -> Self {
        Self { targets: Vec::new(), current: Cell::new(0), failure: RefCell::default() }
    }

    /// A connected channel and the number of its endpoint. Dials on until one answers: callers set the limit.
    pub async fn pick(&self) -> Result<(Channel, usize), Error> {
        if self.targets.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let mut pause = FIRST_PAUSE;
        let mut failed = 0;
        loop {
            let at = self.current.get();
            let target = &self.targets[at];
            let known = target.channel.borrow().clone();
            if let Some(channel) = known {
                return Ok((channel, at));
            }
            match target.dial().await {
                Ok(channel) => {
                    self.note(at, None);
                    *target.channel.borrow_mut() = Some(channel.clone());
                    return Ok((channel, at));
                }
                Err(error) => {
                    let cause =
                        refused_handshake(&error).or_else(|| not_dialled(&error, target.endpoint.uri()));
                    self.note(at, cause);
                }
            }
            self.give_up_on(at);
            failed += 1;
            if failed % self.targets.len() == 0 {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// A call failed that had a connection. In TLS 1.3 the server judges the client after that.
    pub fn note_broken(&self, at: usize, status: &Status) {
        self.note(at, refused_handshake(status));
    }

    fn note(&self, at: usize, cause: Option<String>) {
        *self.failure.borrow_mut() = cause.map(|cause| (self.targets[at].endpoint.uri().to_string(), cause));
    }

    /// Which endpoint could not be reached, and why in the words of gRPC for Go, if that was the last that happened.
    pub fn failure(&self) -> Option<(String, String)> {
        self.failure.borrow().clone()
    }

    /// The endpoint failed: dial it anew when its turn comes again, and go to the next one.
    pub fn give_up_on(&self, at: usize) {
        *self.targets[at].channel.borrow_mut() = None;
        if self.current.get() == at {
            self.current.set((at + 1) % self.targets.len());
        }
    }
}

impl Target {
    async fn dial(&self) -> Result<Channel, tonic::transport::Error> {
        match self.dialer.clone() {
            None => self.endpoint.connect().await,
            Some(dialer) => {
                self.endpoint.connect_with_connector(service_fn(move |_| dialer.clone().dial())).await
            }
        }
    }
}

fn io_errors<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a io::Error> {
    successors(Some(error), |error| error.source()).filter_map(|error| error.downcast_ref::<io::Error>())
}

fn refused_handshake(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let tls = io_errors(error).find_map(|error| error.get_ref()?.downcast_ref::<rustls::Error>())?;
    Some(format!("transport: authentication handshake failed: {}", tls::failure(tls)))
}

fn not_dialled(error: &(dyn std::error::Error + 'static), uri: &Uri) -> Option<String> {
    let error = io_errors(error).next()?;
    let step = if error.raw_os_error().is_some() { "connect: " } else { "" };
    let target = uri.authority().map_or_else(|| uri.to_string(), ToString::to_string);
    Some(format!("transport: Error while dialing dial tcp {target}: {step}{}", reason(error)))
}

/// What the scheme of an endpoint says of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    Tls,
    /// As the flags say.
    Either,
}

impl Security {
    pub(super) fn is_encrypted(self, options: &Options) -> bool {
        self == Self::Tls || self == Self::Either && options.tls.is_some()
    }
}

/// An endpoint as etcd writes it, as the URI tonic dials: a bare `host:port` is HTTP/2.
pub(super) fn uri(endpoint: &str) -> Result<(String, Security), String> {
    match endpoint.split_once("://") {
        Some(("http", _)) => Ok((endpoint.into(), Security::Plain)),
        Some(("https", rest)) => Ok((format!("http://{rest}"), Security::Tls)),
        Some(("unix", path)) => Ok((format!("unix://{path}"), Security::Either)),
        Some(("unixs", path)) => Ok((format!("unix://{path}"), Security::Tls)),
        Some((scheme, _)) => Err(format!("unknown scheme \"{scheme}\"")),
        None if endpoint.starts_with("unix:") => Ok((endpoint.into(), Security::Either)),
        None => match endpoint.strip_prefix("unixs:") {
            Some(path) => Ok((format!("unix:{path}"), Security::Tls)),
            None => Ok((format!("http://{endpoint}"), Security::Either)),
        },
    }
}

const HTTPS_PORT: u16 = 443;

pub(super) fn dialer(uri: &str, options: &Options) -> Result<Dialer, String> {
    let tls = options.tls.clone().map_or_else(tls::by_default, Ok)?;
    let (name, address) = address(uri)?;
    Dialer::new(tls, &name, address)
}

/// Where a URI leads, and the name a certificate there must have: that of the host, or of the socket's file.
pub(super) fn address(uri: &str) -> Result<(String, Address), String> {
    if let Some(path) = uri.strip_prefix("unix:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok((name, Address::Unix(path)));
    }
    let parsed: Uri =
        uri.parse().map_err(|error: tonic::codegen::http::uri::InvalidUri| error.to_string())?;
    let host = parsed.host().ok_or("it has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.into(), Address::Tcp(host.into(), parsed.port_u16().unwrap_or(HTTPS_PORT))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_uris() {
        for (endpoint, expected, security) in [
            ("127.0.0.1:2379", "http://127.0.0.1:2379", Security::Either),
            ("http://a:1", "http://a:1", Security::Plain),
            ("https://a:1", "http://a:1", Security::Tls),
            ("unix:///tmp/s", "unix:///tmp/s", Security::Either),
            ("unix:/tmp/s", "unix:/tmp/s", Security::Either),
            ("unixs:///tmp/s", "unix:///tmp/s", Security::Tls),
        ] {
            assert_eq!(uri(endpoint).unwrap(), (expected.into(), security));
        }
        assert!(uri("ftp://a:1").is_err());
    }

    #[test]
    fn certificates_are_for_the_host() {
        for (uri, name, expected) in [
            ("http://a.example:1", "a.example", Address::Tcp("a.example".into(), 1)),
            ("http://[::1]:1/", "::1", Address::Tcp("::1".into(), 1)),
            ("http://127.0.0.1", "127.0.0.1", Address::Tcp("127.0.0.1".into(), 443)),
            ("unix:///tmp/s", "s", Address::Unix("/tmp/s".into())),
        ] {
            assert_eq!(address(uri).unwrap(), (name.into(), expected));
        }
        assert!(address("http://").is_err());
    }
}
