//! The comparison: every scenario against our server and against the peer, in turn, round after round, since a
//! shared machine is noisy. Each run has a fresh cluster, which is killed and removed before the next starts.
//! A run that fails is noted and the rest goes on. Owns the list of scenarios and their sizes; `report` shows
//! what comes out.

use crate::figure::{Figure, Sample};
use crate::keys::Values;
use crate::report::{Row, Side};
use crate::server::{Binary, Cluster};
use crate::usage::Probe;
use crate::workloads::{self, Target, Width, Workload, compaction, fill, lists, plain};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// After a fill: background flushes end, and memory is what stays.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two servers: the kernel writes back what the last one left.
const PAUSE: Duration = Duration::from_millis(500);
/// No scenario takes longer; a server that hangs must not hang the bench.
const SCENARIO_LIMIT: Duration = Duration::from_secs(1_800);

const MEMORY: &str = "memory";
const PAGE_FIRST: &str = "page-first";
const PAGE_NEXT: &str = "page-next";
const RESTART: &str = "restart";
const COMPACTION: &str = "compaction";
const SNAPSHOT: &str = "snapshot";
const RESTORE: &str = "restore";

/// Length of the values in a saved store: with its key and the rest, 780,000 of them fill 1 GiB.
const SAVED_VALUE_BYTES: usize = 1 << 10;

pub struct Settings {
    pub ours: Binary,
    pub peer: Option<Binary>,
    pub dir: PathBuf,
    pub rounds: usize,
    pub window: Duration,
    pub connections: Option<usize>,
    /// Keys in the scenarios on a large store: memory, pages, restart.
    pub large_keys: u64,
    /// Revisions that the compaction deletes.
    pub compacted_revisions: u64,
    /// Keys, with values of 1 KiB, in the store that is saved and restored; no fewer than the puts beside it know.
    pub saved_keys: u64,
    /// Rows to run; all when empty. `put` stands for `put-1`, `put-64`, ...
    pub only: Vec<String>,
}

/// What runs on one fresh cluster.
enum Scenario {
    One(One),
    /// Memory, pages and restart share the fill of a large store.
    Large,
    Compaction,
    /// A large store is saved, and restored from what was saved.
    Backup,
}

/// One workload, one row.
struct One {
    row: &'static str,
    /// For the reader of the report, as with all rows.
    about: &'static str,
    workload: Workload,
    in_flight: usize,
    members: usize,
}

const fn one(row: &'static str, workload: Workload, in_flight: usize, about: &'static str) -> Scenario {
    Scenario::One(One { row, about, workload, in_flight, members: 1 })
}

const SCENARIOS: [Scenario; 14] = [
    one("put-1", Workload::Put, 1, "put to one of 100,000 keys, 1 in flight"),
    one("put-64", Workload::Put, 64, "the same, 64 in flight"),
    one("put-512", Workload::Put, 512, "the same, 512 in flight"),
    one("txn", Workload::Txn, 64, "compare mod revision, then put; 64 in flight"),
    one("get", Workload::Get, 64, "linearizable get, 64 in flight"),
    one("get-serializable", Workload::GetSerializable, 64, "serializable get, 64 in flight"),
    one("range-10k", Workload::Range, 4, "all of 10,000 keys, 3 MB; 4 in flight"),
    one(
        "watch",
        Workload::Watch,
        4,
        "200 watchers on 8 streams; an operation is one event delivered to one watcher",
    ),
    one("lease-keepalive", Workload::LeaseKeepalive, 64, "keepalives of 1,000 leases on 64 streams"),
    one("mixed", Workload::Mixed, 64, "60% get, 25% txn, 10% put, 5% page of 500 keys; 64 in flight"),
    Scenario::One(One {
        row: "members-3",
        about: "puts to three members, 512 in flight; CPU, memory and disk of all three",
        workload: Workload::Put,
        in_flight: 512,
        members: 3,
    }),
    Scenario::Large,
    Scenario::Compaction,
    Scenario::Backup,
];
const LARGE_IN_FLIGHT: usize = 4;
const COMPACTION_IN_FLIGHT: usize = 64;

impl Scenario {
    fn rows(&self) -> Vec<&'static str> {
        match self {
            Scenario::One(one) => vec![one.row],
            Scenario::Large => vec![MEMORY, PAGE_FIRST, PAGE_NEXT, RESTART],
            Scenario::Compaction => vec![COMPACTION],
            Scenario::Backup => vec![SNAPSHOT, RESTORE],
        }
    }

    fn about(&self, row: &str, settings: &Settings) -> String {
        let large = settings.large_keys;
        match (self, row) {
            (Scenario::One(one), _) => one.about.to_owned(),
            (Scenario::Compaction, _) => format!(
                "{COMPACTION_IN_FLIGHT} puts in flight while {} revisions are compacted; quiet: just before; \
                 stall: how much longer the longest time without an answer was than in the quiet",
                settings.compacted_revisions
            ),
            (Scenario::Backup, SNAPSHOT) => format!(
                "puts one at a time while {} keys of {SAVED_VALUE_BYTES} bytes are saved, each server by its own \
                 etcdctl, to memory, as if to another machine; quiet and stall as with the compaction",
                settings.saved_keys
            ),
            (Scenario::Backup, _) => {
                "unpack: by its own etcdutl; restart: from the start of the server to the \
                                      first linearizable get; restore: both"
                    .to_owned()
            }
            (Scenario::Large, MEMORY) => {
                format!("{large} keys put one by one, 512 in flight; memory {SETTLE:?} later")
            }
            (Scenario::Large, PAGE_FIRST) => {
                format!("first page of 500 of {large} keys, {LARGE_IN_FLIGHT} in flight")
            }
            (Scenario::Large, PAGE_NEXT) => {
                format!("following pages at the first one's revision, {LARGE_IN_FLIGHT} in flight")
            }
            (Scenario::Large, _) => {
                format!(
                    "kill -9 after {large} keys were put twice; from the start to the first linearizable get"
                )
            }
        }
    }

    fn members(&self) -> usize {
        match self {
            Scenario::One(one) => one.members,
            Scenario::Large | Scenario::Compaction | Scenario::Backup => 1,
        }
    }
}

fn wanted(row: &str, only: &[String]) -> bool {
    only.is_empty()
        || only
            .iter()
            .any(|name| row == name || row.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')))
}

/// Names in `only` that stand for no row.
pub fn unknown_rows(only: &[String]) -> Vec<&str> {
    let rows: Vec<&str> = SCENARIOS.iter().flat_map(Scenario::rows).collect();
    only.iter()
        .filter(|name| !rows.iter().any(|row| wanted(row, std::slice::from_ref(name))))
        .map(String::as_str)
        .collect()
}

/// Runs everything; rows come back in the order of the report.
pub async fn run(settings: &Settings) -> Vec<Row> {
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| scenario.rows().iter().any(|row| wanted(row, &settings.only)))
        .collect();
    let sides: Vec<(Side, &Binary)> =
        [(Side::Ours, Some(&settings.ours)), (Side::Peer, settings.peer.as_ref())]
            .into_iter()
            .filter_map(|(side, binary)| Some((side, binary?)))
            .collect();
    let total = chosen.len() * settings.rounds * sides.len();
    let mut done = 0;
    let mut rows = Vec::new();
    for scenario in chosen {
        let first = rows.len();
        rows.extend(
            scenario
                .rows()
                .into_iter()
                .filter(|row| wanted(row, &settings.only))
                .map(|row| Row::new(row, scenario.about(row, settings))),
        );
        for round in 1..=settings.rounds {
            for (side, binary) in &sides {
                done += 1;
                let began = Instant::now();
                let head = format!("[{done}/{total}] round {round} {side}");
                let names: Vec<&'static str> = rows[first..].iter().map(|row| row.name).collect();
                if !matches!(scenario, Scenario::One(_)) {
                    eprintln!("{head} {}: takes a minute or more", names.join(", "));
                }
                let work = scenario.run(binary, settings, &names);
                let outcome = tokio::time::timeout(SCENARIO_LIMIT, work)
                    .await
                    .unwrap_or_else(|_| Err(format!("not done within {SCENARIO_LIMIT:?}")));
                match outcome {
                    Ok(samples) => {
                        for (row, sample) in rows[first..].iter_mut().zip(samples) {
                            eprintln!("{head} {}: {}", row.name, brief(&sample));
                            row.add(*side, sample);
                        }
                    }
                    Err(error) => {
                        eprintln!("{head} {}: FAILED after {:?}: {error}", names.join(", "), began.elapsed());
                        for row in &mut rows[first..] {
                            row.fail(*side, round, &error);
                        }
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    rows
}

fn brief(sample: &Sample) -> String {
    const SHOWN: [Figure; 9] = [
        Figure::Throughput,
        Figure::P50,
        Figure::P99,
        Figure::ServerCpu,
        Figure::Resident,
        Figure::RestartTime,
        Figure::Stall,
        Figure::SaveTime,
        Figure::RestoreTime,
    ];
    let shown = SHOWN.iter().filter_map(|figure| {
        sample.get(*figure).map(|value| format!("{} {}", figure.show(value), figure.title()))
    });
    shown.collect::<Vec<_>>().join(", ")
}

impl Scenario {
    /// One sample for each of `rows`, in their order.
    async fn run(&self, binary: &Binary, settings: &Settings, rows: &[&str]) -> Result<Vec<Sample>, String> {
        let mut cluster = Cluster::start(binary, self.members(), &settings.dir).await?;
        let width = |in_flight| Width {
            window: settings.window,
            in_flight,
            connections: settings.connections,
            paged_keys: settings.large_keys,
        };
        let target = Target { endpoints: cluster.endpoints(), probe: cluster.probe() };
        let samples = match self {
            Scenario::One(one) => vec![one.workload.run(&target, &width(one.in_flight)).await?],

            Scenario::Large => large(&mut cluster, &target, &width(LARGE_IN_FLIGHT), rows).await?,
            Scenario::Compaction => {
                let width = width(COMPACTION_IN_FLIGHT);
                vec![compaction::puts_during(&target, &width, settings.compacted_revisions).await?]
            }
            Scenario::Backup => backup(&mut cluster, &target, &width(1), settings.saved_keys, rows).await?,
        };
        cluster.stop()?;
        Ok(samples)
    }
}

/// The scenarios on a large store share its fill: memory first, pages, and the restart last.
async fn large(
    cluster: &mut Cluster,
    target: &Target,
    width: &Width,
    rows: &[&str],
) -> Result<Vec<Sample>, String> {
    let filling = Width { in_flight: fill::PUTS_IN_FLIGHT, ..width.clone() };
    let fillers = target.connect(filling.connections()).await?;
    let filled = fill::in_puts(&fillers, width.paged_keys, &target.probe).await?;
    tokio::time::sleep(SETTLE).await;
    let readers = target.connect(width.connections()).await?;
    let mut samples = Vec::with_capacity(rows.len());
    for row in rows {
        samples.push(match *row {
            MEMORY => Sample::of(&filled, &target.probe).map_err(|e| e.to_string())?,
            PAGE_FIRST => {
                workloads::sample(lists::first_pages(&readers, width).await?, target, width).await?
            }
            PAGE_NEXT => {
                workloads::sample(lists::following_pages(&readers, width).await?, target, width).await?
            }
            _ => {
                fill::in_puts(&fillers, width.paged_keys, &Probe::default()).await?;
                restart(cluster, width.paged_keys).await?
            }
        });
    }
    Ok(samples)
}

/// Saving comes first, whether its row is wanted or not.
async fn backup(
    cluster: &mut Cluster,
    target: &Target,
    width: &Width,
    key_count: u64,
    rows: &[&str],
) -> Result<Vec<Sample>, String> {
    let clients = target.connect(width.connections()).await?;
    fill::in_txns_of(&clients, key_count, Values::of(SAVED_VALUE_BYTES)).await?;
    tokio::time::sleep(SETTLE).await;
    let (mut saved, took) =
        workloads::disturbance(plain::put(&clients, width), target, width, cluster.save()).await?;
    saved.set(Figure::SaveTime, took.as_secs_f64());
    let mut samples = Vec::with_capacity(rows.len());
    for row in rows {
        samples.push(match *row {
            SNAPSHOT => std::mem::take(&mut saved),
            _ => {
                let unpacked = cluster.unpack().await?;
                let mut sample = restart(cluster, key_count).await?;
                let restarted = sample.get(Figure::RestartTime).unwrap_or_default();
                sample.set(Figure::UnpackTime, unpacked.as_secs_f64());
                sample.set(Figure::RestoreTime, unpacked.as_secs_f64() + restarted);
                sample
            }
        });
    }
    Ok(samples)
}

async fn restart(cluster: &mut Cluster, key_count: u64) -> Result<Sample, String> {
    let took = cluster.restart().await?;
    let target = Target { endpoints: cluster.endpoints(), probe: cluster.probe() };
    let (count, _) = lists::count(&mut target.connect(1).await?[0]).await?;
    if count != key_count as i64 {
        return Err(format!("{count} keys after the restart, not {key_count}"));
    }
    let mut sample = Sample::default();
    sample.set(Figure::RestartTime, took.as_secs_f64());
    sample.set_footprint(&target.probe).map_err(|e| e.to_string())?;
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn rows_are_distinct() {
        let rows: Vec<&str> = SCENARIOS.iter().flat_map(Scenario::rows).collect();
        assert_eq!(rows.iter().collect::<HashSet<_>>().len(), rows.len());
    }

    #[test]
    fn only_takes_a_row_or_a_family() {
        assert!(wanted("put-64", &[]));
        assert!(wanted("put-64", &names(&["put"])));
        assert!(wanted("put-64", &names(&["get", "put-64"])));
        assert!(!wanted("put-64", &names(&["put-6"])));
        assert!(wanted("get-serializable", &names(&["get"])));
        assert_eq!(unknown_rows(&names(&["put", "page-next", "putt", ""])), ["putt", ""]);
    }
}
