//! Channels to the endpoints. One endpoint serves until it fails; then the next is dialled, round and round.
//! Dialling is apart from calling, so that a call knows whether it can have reached a server.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};

use super::{Error, Options};

/// Pings more often than this are refused by servers as too many.
const MIN_KEEPALIVE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub struct Connections {
    targets: Vec<Target>,
    current: Cell<usize>,
}

struct Target {
    endpoint: Endpoint,
    channel: RefCell<Option<Channel>>,
}

impl Connections {
    pub fn new(endpoints: &[String], options: &Options) -> Result<Self, Error> {
        if endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let targets = endpoints.iter().map(|endpoint| {
            let bad = |why: &str| Error::BadEndpoint(format!("endpoint \"{endpoint}\": {why}"));
            let uri = uri(endpoint).map_err(|why| bad(&why))?;
            let endpoint = Endpoint::from_shared(uri).map_err(|error| bad(&error.to_string()))?;
            let endpoint = endpoint
                .connect_timeout(options.dial_timeout)
                .http2_keep_alive_interval(options.keepalive_time.max(MIN_KEEPALIVE))
                .keep_alive_timeout(options.keepalive_timeout)
                .tcp_nodelay(true);
            Ok(Target { endpoint, channel: RefCell::new(None) })
        });
        Ok(Self { targets: targets.collect::<Result<_, Error>>()?, current: Cell::new(0) })
    }

    pub fn none() -> Self {
        Self { targets: Vec::new(), current: Cell::new(0) }
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
            if let Ok(channel) = target.endpoint.connect().await {
                *target.channel.borrow_mut() = Some(channel.clone());
                return Ok((channel, at));
            }
            self.give_up_on(at);
            failed += 1;
            if failed % self.targets.len() == 0 {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// The endpoint failed: dial it anew when its turn comes again, and go to the next one.
    pub fn give_up_on(&self, at: usize) {
        *self.targets[at].channel.borrow_mut() = None;
        if self.current.get() == at {
            self.current.set((at + 1) % self.targets.len());
        }
    }
}

/// An endpoint as etcd writes it, as the URI tonic dials: a bare `host:port` is plain HTTP/2.
fn uri(endpoint: &str) -> Result<String, String> {
    match endpoint.split_once("://") {
        Some(("http", _)) => Ok(endpoint.into()),
        Some(("unix", path)) => Ok(format!("unix://{path}")),
        Some(("https" | "unixs", _)) => Err("this client has no TLS".into()),
        Some((scheme, _)) => Err(format!("unknown scheme \"{scheme}\"")),
        None if endpoint.starts_with("unix:") => Ok(endpoint.into()),
        None => Ok(format!("http://{endpoint}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_uris() {
        assert_eq!(uri("127.0.0.1:2379").unwrap(), "http://127.0.0.1:2379");
        assert_eq!(uri("http://a:1").unwrap(), "http://a:1");
        assert_eq!(uri("unix:///tmp/s").unwrap(), "unix:///tmp/s");
        assert_eq!(uri("unix:/tmp/s").unwrap(), "unix:/tmp/s");
        assert!(uri("https://a:1").is_err() && uri("ftp://a:1").is_err());
    }
}
