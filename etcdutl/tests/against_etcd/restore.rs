//! `snapshot restore`: what it writes is what a stock etcd, and ours, starts from.

use std::{fs, path::Path, time::Duration};

use integration::{
    binary::{self, Binary},
    bounded,
    cluster::{Cluster, Member},
};
use proto::etcdserverpb::WatchCreateRequest;

use super::{
    member::{Data, Place, data, fill, ids},
    program::{run, save_snapshot, stock, succeed},
};

pub const LIMIT: Duration = Duration::from_secs(150);

/// A snapshot of a filled stock member, and what was in it.
async fn saved(cluster: &Cluster, etcdctl: &Path, compact: bool) -> Data {
    let client = cluster.client(0);
    fill(&client, compact).await;
    save_snapshot(etcdctl, cluster.members[0].client_address(), &cluster.path().join("saved.db"));
    data(&client).await
}

fn restore(dir: &Path, place: &Place, cluster: &str, more: &[&str]) {
    let data_dir = format!("{}.etcd", place.name);
    let args = ["snapshot", "restore", "saved.db", "--data-dir", &data_dir, "--name", &place.name];
    let urls = ["--initial-advertise-peer-urls", &place.peer_url, "--initial-cluster", cluster];
    succeed(dir, &[&args[..], &urls, more].concat());
}

/// Three members from one file are one cluster, with the data of the file.
async fn three_members(servers: [&Binary; 3]) {
    let Some(stock) = stock() else { return };
    let source = Cluster::start(&stock.etcd, 1).await;
    let before = saved(&source, &stock.etcdctl, true).await;
    let dir = source.path().to_path_buf();
    let places = ["a", "b", "c"].map(Place::new);
    let cluster = places.iter().map(Place::in_cluster).collect::<Vec<_>>().join(",");
    for place in &places {
        restore(&dir, place, &cluster, &[]);
    }
    let mut members: Vec<Member> =
        places.iter().zip(servers).map(|(place, binary)| place.member(binary, &dir, &cluster)).collect();
    members.iter_mut().for_each(Member::spawn);
    for member in &mut members {
        member.ready().await;
    }
    let mut clusters = Vec::new();
    for member in &members {
        let (cluster_id, _, known) = ids(&member.client()).await;
        let peers: Vec<&String> = known.iter().flat_map(|(_, _, urls)| urls).collect();
        assert_eq!(peers.len(), 3);
        clusters.push(cluster_id);
        assert_eq!(data(&member.client()).await, before);
    }
    assert!(clusters.windows(2).all(|pair| pair[0] == pair[1]), "{clusters:x?}");
    members[0].client().put("after", "the restore").await.unwrap();
    let expected = data(&members[0].client()).await;
    assert_eq!(expected.revision, before.revision + 1);
    assert_eq!(data(&members[2].client()).await, expected);
    // A restart reads what was restored and what came after.
    for member in &mut members {
        member.stop().await;
    }
    members.iter_mut().for_each(Member::spawn);
    for member in &mut members {
        member.ready().await;
    }
    assert_eq!(data(&members[1].client()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_stock_members_start_from_one_file() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        three_members([&stock.etcd; 3]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_of_both_kinds_start_from_one_file() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        let ours = binary::ours();
        three_members([&ours, &stock.etcd, &ours]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_has_the_ids_that_etcdutl_gives_it() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        let source = Cluster::start(&stock.etcd, 1).await;
        let before = saved(&source, &stock.etcdctl, false).await;
        let dir = source.path().to_path_buf();
        let place = Place::new("same");
        let cluster = place.in_cluster();
        let mut found = Vec::new();
        for which in ["theirs", "ours"] {
            let member_dir = dir.join("same.etcd");
            let log = format!("{which}-wal");
            let args = [
                "snapshot",
                "restore",
                "saved.db",
                "--data-dir",
                "same.etcd",
                "--name",
                "same",
                "--wal-dir",
                &log,
            ];
            let urls = ["--initial-advertise-peer-urls", &place.peer_url, "--initial-cluster", &cluster];
            let args = [&args[..], &urls].concat();
            match which {
                "ours" => {
                    succeed(&dir, &args);
                }
                _ => assert_eq!(run(&stock.etcdutl, &dir, &args).code, Some(0)),
            }
            let mut member = place.member(&stock.etcd, &dir, &cluster);
            member.args.push(format!("--wal-dir={}", dir.join(&log).display()));
            member.restart().await;
            found.push((ids(&member.client()).await, data(&member.client()).await));
            member.stop().await;
            fs::remove_dir_all(&member_dir).unwrap();
        }
        assert_eq!(found[0], found[1]);
        assert_eq!(found[1].1, before);
    })
    .await;
}

/// Clients that know later revisions are not led to believe that nothing happened.
async fn bumped(server: &Binary) {
    let Some(stock) = stock() else { return };
    let source = Cluster::start(&stock.etcd, 1).await;
    let before = saved(&source, &stock.etcdctl, false).await;
    let dir = source.path().to_path_buf();
    let place = Place::new("bumped");
    let cluster = place.in_cluster();
    restore(
        &dir,
        &place,
        &cluster,
        &["--bump-revision", "1000000", "--mark-compacted", "--initial-memory-map-size=1000"],
    );
    let mut member = place.member(server, &dir, &cluster);
    member.restart().await;
    let client = member.client();
    let after = data(&client).await;
    assert_eq!((after.revision, after.keys), (before.revision + 1_000_000, before.keys));
    assert_eq!(after.compact_revision, after.revision);
    for start_revision in [before.revision, before.revision + 5] {
        let request = WatchCreateRequest { key: "key/001".into(), start_revision, ..Default::default() };
        let mut watch = client.open_watch(request).await.unwrap();
        let refused = loop {
            let answer = watch.wait().await.unwrap();
            if answer.canceled {
                break answer;
            }
        };
        assert_eq!(refused.compact_revision, after.revision);
        drop(watch);
    }
    assert_eq!(client.put("key/001", "new").await.unwrap(), after.revision + 1);
    let kept = client.get("key/002").await.unwrap().unwrap();
    assert!(kept.mod_revision <= before.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bumped_revision_refuses_older_watches_of_a_stock_member() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        bumped(&stock.etcd).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bumped_revision_refuses_older_watches_of_ours() {
    bounded(LIMIT, bumped(&binary::ours())).await;
}
