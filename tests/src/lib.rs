//! Harness of the integration tests: real server processes, driven over their sockets.
//! Owns finding binaries, starting and stopping members, client stubs, write load with a record of what was
//! acknowledged, and network namespaces; the suites in `tests/` own what is asserted. It never looks inside
//! the server, so either side of a comparison may be a stock etcd.
//! Called only by the suites. Everything it starts ends with the value that owns it.

pub mod binary;
pub mod client;
pub mod cluster;
pub mod http;
pub mod load;
pub mod netns;
pub mod tls;

use std::future::Future;
use std::time::{Duration, Instant};

/// A number from the environment, for run sizes.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, got {text:?}")),
        Err(_) => default,
    }
}

/// Runs a test body, failing it after `limit`. The body is still alive when the failure is raised, so its
/// clusters print their logs.
pub async fn bounded<T>(limit: Duration, body: impl Future<Output = T>) -> T {
    let mut body = std::pin::pin!(body);
    match tokio::time::timeout(limit, body.as_mut()).await {
        Ok(value) => value,
        Err(_) => panic!("test exceeded its limit of {limit:?}"),
    }
}

/// Polls `probe` until it gives a value; fails after `limit`, naming `what` and the last reason.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(reason) if start.elapsed() > limit => panic!("{what}: not within {limit:?}: {reason}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
