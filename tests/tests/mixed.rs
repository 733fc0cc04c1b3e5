//! One cluster of two stock etcd members and one of ours: the peer wire against the real thing.
//! `KEELSON_MIXED_WRITES` sets the number of writes (a full run: 50,000).

use std::time::Duration;

use integration::binary;
use integration::cluster::{Cluster, START_LIMIT};
use integration::load::{self, Load};
use integration::{bounded, eventually, setting};

const OURS: usize = 0;
const PROGRESS_LIMIT: Duration = Duration::from_secs(120);

async fn move_leader(cluster: &Cluster, to: usize) {
    let target = cluster.client(to).status().await.expect("status").header.expect("header").member_id;
    eventually("leadership transfer", START_LIMIT, || async {
        let leader = cluster.leader().await;
        if leader == to {
            return Ok(());
        }
        // Refused where the leader has changed meanwhile.
        cluster.client(leader).move_leader(target).await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(cluster.leader().await, to);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_stock_members_agrees() {
    let writes = setting("KEELSON_MIXED_WRITES", 2_000);
    let limit = 4 * START_LIMIT + 4 * PROGRESS_LIMIT + Duration::from_millis(20 * writes);
    bounded(limit, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let cluster = Cluster::of(&[binary::ours(), peer.clone(), peer]).start().await;
        let load = Load::start("load", &cluster.clients(), 8);
        // Under stock leaders and under ours.
        for leader in [1, OURS, 2] {
            move_leader(&cluster, leader).await;
            load.progress(writes / 3 + 1, PROGRESS_LIMIT + Duration::from_millis(5 * writes)).await;
        }
        let acks = load.stop().await;
        cluster.assert_equal_hashes().await;
        for member in &cluster.members {
            let all = member.client().prefix("load", false).await.expect("read");
            load::verify(&acks, &all.kvs, &member.name);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_catches_up_from_the_other() {
    bounded(8 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let mut cluster = Cluster::of(&[binary::ours(), peer.clone(), peer]).start().await;
        // Ours leads while a stock member is away, then the other way round.
        for (leader, away) in [(OURS, 1), (2, OURS)] {
            move_leader(&cluster, leader).await;
            cluster.members[away].stop().await;
            let present: Vec<_> = (0..3).filter(|&n| n != away).map(|n| cluster.client(n)).collect();
            let load = Load::start(&format!("load/{away}"), &present, 8);
            load.progress(300, PROGRESS_LIMIT).await;
            let acks = load.stop().await;
            cluster.members[away].restart().await;
            cluster.assert_equal_hashes().await;
            let all = cluster.client(away).prefix(&format!("load/{away}"), false).await.expect("read");
            load::verify(&acks, &all.kvs, "the one that was away");
        }
    })
    .await;
}
