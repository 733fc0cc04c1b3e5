//! kill -9 under concurrent load: no acknowledged write is lost, no revision is reused or falls, and members
//! agree byte for byte afterwards. `KEELSON_CRASH_ROUNDS` sets the rounds (a full run: 20).

use std::time::Duration;

use integration::binary;
use integration::cluster::{Cluster, START_LIMIT};
use integration::load::{self, Load};
use integration::{bounded, eventually, setting};

const WORKERS: usize = 8;
/// Acknowledged writes between two kills.
const WRITES: u64 = 150;
/// Covers an election.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);

fn limit(rounds: u64) -> Duration {
    (2 * START_LIMIT + 2 * PROGRESS_LIMIT) * u32::try_from(rounds + 1).expect("few rounds")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_keeps_what_it_acknowledged() {
    let rounds = setting("KEELSON_CRASH_ROUNDS", 3);
    bounded(limit(rounds), async {
        let mut cluster = Cluster::start(&binary::ours(), 1).await;
        let mut acks = Vec::new();
        for round in 0..rounds {
            let load = Load::start(&format!("load/{round:03}"), &cluster.clients(), WORKERS);
            load.progress(WRITES, PROGRESS_LIMIT).await;
            cluster.kill_all();
            acks.extend(load.stop().await);

            cluster.start_all().await;
            let all = cluster.client(0).prefix("load/", false).await.expect("read");
            load::verify(&acks, &all.kvs, &format!("round {round}"));
            let highest = acks.iter().map(|ack| ack.revision).max().unwrap_or_default();
            let current = all.header.expect("header").revision;
            assert!(current >= highest, "revision fell from {highest} to {current}");
            let next = cluster.client(0).put("after", round.to_string()).await.expect("put");
            assert_eq!(next, current + 1);
            cluster.assert_equal_hashes().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_keep_what_they_acknowledged() {
    let rounds = setting("KEELSON_CRASH_ROUNDS", 3);
    bounded(limit(rounds), async {
        let mut cluster = Cluster::start(&binary::ours(), 3).await;
        let mut acks = Vec::new();
        for round in 0..rounds {
            let load = Load::start(&format!("load/{round:03}"), &cluster.clients(), WORKERS);
            load.progress(WRITES, PROGRESS_LIMIT).await;
            // The leader alone: the others must go on acknowledging.
            let leader = cluster.leader().await;
            cluster.members[leader].kill();
            load.progress(WRITES, PROGRESS_LIMIT).await;
            cluster.members[leader].spawn();
            load.progress(WRITES, PROGRESS_LIMIT).await;
            // All at once, while the restarted one may still be catching up.
            cluster.kill_all();
            acks.extend(load.stop().await);

            cluster.start_all().await;
            let highest = acks.iter().map(|ack| ack.revision).max().unwrap_or_default();
            let revision = cluster.assert_equal_hashes().await;
            assert!(revision >= highest, "revision fell from {highest} to {revision}");
            for member in &cluster.members {
                let client = member.client();
                // Local reads: what this member has itself.
                let all = eventually("catching up", START_LIMIT, || async {
                    let all = client.prefix("load/", true).await.map_err(|error| error.to_string())?;
                    let at = all.header.as_ref().map_or(0, |header| header.revision);
                    if at >= revision { Ok(all) } else { Err(format!("revision {at} of {revision}")) }
                })
                .await;
                load::verify(&acks, &all.kvs, &format!("round {round}, {}", member.name));
            }
        }
    })
    .await;
}
