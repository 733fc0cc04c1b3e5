//! What is done to a server: the workloads that one running endpoint can be put under, by name.
//! `plain` holds the calls, `lists` the ranges and pages, `watch` and `lease` the streams, `fill` the keys that
//! must be there first. `compaction` is for fresh servers only, and what needs the server's process, memory and
//! restart, is in `compare`. All end in one `Sample`.

pub mod compaction;
pub mod fill;
mod lease;
pub mod lists;
pub mod plain;
mod watch;

use crate::client::Client;
use crate::figure::{Figure, Sample};
use crate::load::{Load, Measured};
use crate::usage::Probe;
use clap::ValueEnum;
use std::time::{Duration, Instant};

/// From this many operations in flight on, they are spread over `MANY_CONNECTIONS`.
const MANY_IN_FLIGHT: usize = 64;
const MANY_CONNECTIONS: usize = 8;
const FEW_CONNECTIONS: usize = 4;
/// No workload needs longer than its window and this: filling 300,000 keys, draining, stopping.
const OVERHEAD_LIMIT: Duration = Duration::from_secs(600);
const WARM_UP_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Put to one of 100,000 keys.
    Put,
    /// Compare a key's mod revision, then put, as Kubernetes updates an object.
    Txn,
    /// Linearizable get of one key.
    Get,
    /// Serializable get of one key.
    GetSerializable,
    /// Linearizable range over all of 10,000 keys, 3 MB.
    Range,
    /// First page of 500 keys of all keys, as kube-apiserver lists.
    PageFirst,
    /// Following pages of 500 keys at the first page's revision.
    PageNext,
    /// 200 watchers on one prefix; an operation is one event delivered to one watcher.
    Watch,
    /// Keepalives of 1,000 leases over streams.
    LeaseKeepalive,
    /// 60% linearizable get, 25% txn, 10% put, 5% page of 500 keys, over 10,000 keys.
    Mixed,
}

/// How long and how wide to load.
#[derive(Clone, Debug)]
pub struct Width {
    pub window: Duration,
    pub in_flight: usize,
    /// `None`: by the number in flight.
    pub connections: Option<usize>,
    /// How many keys the paged prefix holds.
    pub paged_keys: u64,
}

impl Width {
    /// The number of connections to open.
    pub fn connections(&self) -> usize {
        let default = if self.in_flight >= MANY_IN_FLIGHT { MANY_CONNECTIONS } else { FEW_CONNECTIONS };
        self.connections.unwrap_or(default).min(self.in_flight).max(1)
    }

    fn warm_up(&self) -> Duration {
        (self.window / 4).min(WARM_UP_LIMIT)
    }
}

/// A running server: where it listens, and how its resources are seen.
#[derive(Clone, Debug)]
pub struct Target {
    pub endpoints: Vec<String>,
    pub probe: Probe,
}

impl Target {
    /// Connections spread over the endpoints, at least one to each.
    pub async fn connect(&self, connections: usize) -> Result<Vec<Client>, String> {
        let mut clients = Vec::with_capacity(connections);
        for endpoint in self.endpoints.iter().cycle().take(connections.max(self.endpoints.len())) {
            clients.push(Client::connect(endpoint).await.map_err(|e| e.to_string())?);
        }
        Ok(clients)
    }
}

impl Workload {
    /// Puts the server under this load: keys first, a short warm-up, then the window.
    pub async fn run(self, target: &Target, width: &Width) -> Result<Sample, String> {
        let limit = width.window + OVERHEAD_LIMIT;
        match tokio::time::timeout(limit, self.run_unbounded(target, width)).await {
            Ok(result) => result,
            Err(_) => Err(format!("not done within {limit:?}")),
        }
    }

    async fn run_unbounded(self, target: &Target, width: &Width) -> Result<Sample, String> {
        let clients = target.connect(width.connections()).await?;
        let load = match self {
            Workload::Put => plain::put(&clients, width),
            Workload::Txn => plain::txn(&clients, width),
            Workload::Get => plain::get(&clients, width, false).await?,
            Workload::GetSerializable => plain::get(&clients, width, true).await?,
            Workload::Mixed => plain::mixed(&clients, width).await?,
            Workload::Range => lists::range(&clients, width).await?,
            Workload::PageFirst => {
                fill::in_txns(&clients, width.paged_keys).await?;
                lists::first_pages(&clients, width).await?
            }
            Workload::PageNext => {
                fill::in_txns(&clients, width.paged_keys).await?;
                lists::following_pages(&clients, width).await?
            }
            Workload::LeaseKeepalive => lease::keepalive(&clients, width).await?,
            Workload::Watch => return watch::fan_out(target, width).await,
        };
        sample(load, target, width).await
    }
}

/// Warms up, measures one window and stops.
pub async fn sample(load: Load, target: &Target, width: &Width) -> Result<Sample, String> {
    let measured = window(&load, &target.probe, width).await?;
    load.stop().await?;
    Sample::of(&measured, &target.probe).map_err(|e| e.to_string())
}

/// What `work` does to a load: the load alone, then with the work under way, for at least as long, so that maxima are
/// comparable.
pub async fn disturbance<T>(
    load: Load,
    target: &Target,
    width: &Width,
    work: impl Future<Output = Result<T, String>>,
) -> Result<(Sample, T), String> {
    let quiet = window(&load, &target.probe, width).await?;
    let least = Instant::now() + width.window;
    let (measured, done) = load
        .window(&target.probe, async {
            let done = work.await;
            tokio::time::sleep_until(least.into()).await;
            done
        })
        .await?;
    load.stop().await?;
    let done = done?;
    let mut sample = Sample::of(&measured.check()?, &target.probe).map_err(|e| e.to_string())?;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let quiet_gap = ms(quiet.longest_gap);
    sample.set(Figure::QuietP999, ms(quiet.latencies.percentile(99.9)));
    sample.set(Figure::QuietMax, ms(quiet.latencies.max()));
    sample.set(Figure::QuietGap, quiet_gap);
    let gap = sample.get(Figure::LongestGap).unwrap_or_default();
    sample.set(Figure::Stall, (gap - quiet_gap).max(0.0));
    Ok((sample, done))
}

async fn window(load: &Load, probe: &Probe, width: &Width) -> Result<Measured, String> {
    tokio::time::sleep(width.warm_up()).await;
    let (measured, ()) = load.window(probe, tokio::time::sleep(width.window)).await?;
    measured.check()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_the_number_in_flight() {
        let width = |in_flight, connections| Width {
            window: Duration::from_secs(8),
            in_flight,
            connections,
            paged_keys: 1,
        };
        assert_eq!(width(1, None).connections(), 1);
        assert_eq!(width(16, None).connections(), 4);
        assert_eq!(width(64, None).connections(), 8);
        assert_eq!(width(512, Some(16)).connections(), 16);
        assert_eq!(width(2, Some(16)).connections(), 2);
        assert_eq!(width(1, None).warm_up(), Duration::from_secs(1));
    }
}
