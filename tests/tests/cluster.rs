//! Three members: losing a leader, giving up leadership, catching up through a snapshot, restarts, and what
//! followers serve.

use std::time::Duration;

use integration::binary;
use integration::client::Client;
use integration::cluster::{Cluster, START_LIMIT};
use integration::load::{self, Load};
use integration::{bounded, eventually, http};
use proto::etcdserverpb::{PutRequest, WatchCreateRequest};

const LIMIT: Duration = Duration::from_secs(150);
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
const LEASE: i64 = 0x77;

fn followers(cluster: &Cluster, leader: usize) -> Vec<usize> {
    (0..cluster.members.len()).filter(|&n| n != leader).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_continue_after_the_leader_is_killed() {
    bounded(LIMIT, async {
        let mut cluster = Cluster::start(&binary::ours(), 3).await;
        let leader = cluster.leader().await;
        let load = Load::start("load", &cluster.clients(), 4);
        load.progress(50, PROGRESS_LIMIT).await;
        cluster.members[leader].kill();
        let next = cluster.leader_among(&followers(&cluster, leader)).await;
        assert_ne!(next, leader);
        load.progress(50, PROGRESS_LIMIT).await;
        let acks = load.stop().await;
        cluster.members[leader].restart().await;
        cluster.assert_equal_hashes().await;
        let all = cluster.client(leader).prefix("load", false).await.expect("read");
        load::verify(&acks, &all.kvs, "restarted leader");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_hands_over_first() {
    bounded(LIMIT, async {
        let mut cluster = Cluster::start(&binary::ours(), 3).await;
        let leader = cluster.leader().await;
        let others = followers(&cluster, leader);
        cluster.members[leader].stop().await;
        // The hand-over is over before the process ends: one of the others leads already.
        let mut leads = Vec::new();
        for &n in &others {
            let status = cluster.client(n).status().await.expect("status");
            leads.push(status.header.expect("header").member_id == status.leader);
        }
        assert!(leads.contains(&true), "no member took over: {leads:?}");
        let next = cluster.leader_among(&others).await;
        assert!(others.contains(&next));
        cluster.client(next).put("after", "stop").await.expect("put");
        cluster.members[leader].restart().await;
        assert_eq!(cluster.client(leader).get("after").await.expect("get").expect("key").value, "stop");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_far_behind_catches_up_through_a_snapshot() {
    bounded(LIMIT, async {
        let server = binary::ours();
        // A server without the flag keeps 5,000 entries for those that are behind.
        let catchup = server.flag("snapshot-catchup-entries", "10");
        let missed = if catchup.is_some() { 600 } else { 5_500 };
        let builder = Cluster::builder(&server, 3).args(["--snapshot-count=100".to_string()]).args(catchup);
        let mut cluster = builder.start().await;
        let leader = cluster.leader().await;
        let behind = followers(&cluster, leader)[0];
        cluster.members[behind].kill();
        let live = vec![cluster.client(leader), cluster.client(followers(&cluster, leader)[1])];
        let load = Load::start("load", &live, 8);
        load.progress(missed, PROGRESS_LIMIT).await;
        cluster.members[behind].spawn();
        // The others go on serving meanwhile.
        load.progress(200, PROGRESS_LIMIT).await;
        cluster.members[behind].ready().await;
        let acks = load.stop().await;
        cluster.assert_equal_hashes().await;
        let all = cluster.client(behind).prefix("load", false).await.expect("read");
        load::verify(&acks, &all.kvs, "the one left behind");
        let mut snapshots = 0.0;
        for member in &cluster.members {
            let sent = http::metric(member.client_address(), "etcd_network_snapshot_send_success").await;
            snapshots += sent.expect("metrics");
        }
        assert!(snapshots > 0.0, "no snapshot was sent");
        // What came by snapshot survives a restart.
        cluster.members[behind].kill();
        cluster.members[behind].restart().await;
        cluster.assert_equal_hashes().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_members_keeps_everything() {
    bounded(LIMIT, async {
        let mut cluster = Cluster::start(&binary::ours(), 3).await;
        let client = cluster.client(0);
        client.grant(LEASE, 10_000).await.expect("grant");
        let put = PutRequest { key: "leased".into(), value: "1".into(), lease: LEASE, ..Default::default() };
        client.kv.clone().put(put).await.expect("put");
        for n in 0..200 {
            client.put(format!("key/{:03}", n % 150), n.to_string()).await.expect("put");
        }
        client.delete("key/007").await.expect("delete");
        let before = client.prefix("", false).await.expect("read");
        let hash = client.hash_kv(0).await.expect("hash");
        // Followers first, so that some stop without a leader left.
        let leader = cluster.leader().await;
        for n in followers(&cluster, leader).into_iter().chain([leader]) {
            cluster.members[n].stop().await;
        }
        cluster.start_all().await;
        for client in cluster.clients() {
            let after = client.prefix("", false).await.expect("read");
            assert_eq!((&after.kvs, after.count), (&before.kvs, before.count));
            let revision =
                |answer: &proto::etcdserverpb::RangeResponse| answer.header.as_ref().map(|h| h.revision);
            assert_eq!(revision(&after), revision(&before));
            let again = client.hash_kv(hash.header.as_ref().expect("header").revision).await.expect("hash");
            assert_eq!((again.hash, again.compact_revision), (hash.hash, hash.compact_revision));
            let lease = client.time_to_live(LEASE).await.expect("lease");
            assert_eq!((lease.granted_ttl, lease.keys), (10_000, vec!["leased".into()]));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_serve_leases_watches_and_linearizable_reads() {
    bounded(LIMIT, async {
        let cluster = Cluster::start(&binary::ours(), 3).await;
        let leader = cluster.leader().await;
        let clients: Vec<Client> =
            followers(&cluster, leader).into_iter().map(|n| cluster.client(n)).collect();
        let (first, second) = (&clients[0], &clients[1]);

        assert_eq!(first.grant(LEASE, 500).await.expect("grant through a follower"), 500);
        let put = PutRequest { key: "leased".into(), lease: LEASE, ..Default::default() };
        first.kv.clone().put(put).await.expect("put");
        // A follower learns of a lease when it applies the grant.
        let renewed = eventually("keep-alive through the other follower", START_LIMIT, || async {
            let answer = second.keep_alive(LEASE).await.map_err(|error| error.to_string())?;
            if answer.ttl > 0 { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
        .await;
        assert_eq!((renewed.id, renewed.ttl), (LEASE, 500));
        for client in cluster.clients() {
            let lease = client.time_to_live(LEASE).await.expect("time to live");
            assert_eq!((lease.granted_ttl, &lease.keys), (500, &vec!["leased".into()]));
            assert!((1..=500).contains(&lease.ttl), "{lease:?}");
            assert_eq!(client.time_to_live(LEASE + 1).await.expect("unknown lease").ttl, -1);
            assert_eq!(client.keep_alive(LEASE + 1).await.expect("unknown lease").ttl, 0);
        }

        let request = WatchCreateRequest {
            key: "w/".into(),
            range_end: "w0".into(),
            start_revision: 1,
            ..Default::default()
        };
        let mut watch = first.open_watch(request).await.expect("watch on a follower");
        assert!(watch.next().await.expect("created").created);
        let mut written = Vec::new();
        for n in 0..100 {
            let (writer, reader) = (&cluster.client(n % 3), &clients[n % 2]);
            let key = format!("w/{n:03}");
            written.push((key.clone(), writer.put(key.as_str(), n.to_string()).await.expect("put")));
            // Acknowledged anywhere is visible to a linearizable read anywhere.
            let read = reader.get(key.as_str()).await.expect("get").expect("acknowledged write not read");
            assert_eq!((read.mod_revision, read.value), (written[n].1, n.to_string().into()));
        }
        let mut seen = Vec::new();
        while seen.len() < written.len() {
            let events = watch.next().await.expect("events").events;
            let kv = |event: proto::mvccpb::Event| event.kv.expect("a put");
            seen.extend(
                events
                    .into_iter()
                    .map(kv)
                    .map(|kv| (String::from_utf8(kv.key.to_vec()).expect("our own key"), kv.mod_revision)),
            );
        }
        assert_eq!(seen, written);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_takes_its_keys_in_one_revision() {
    bounded(LIMIT, async {
        let cluster = Cluster::start(&binary::ours(), 3).await;
        let client = cluster.client(0);
        let request = WatchCreateRequest { key: "e/".into(), range_end: "e0".into(), ..Default::default() };
        let mut watch = cluster.client(1).open_watch(request).await.expect("watch");
        assert!(watch.next().await.expect("created").created);
        let ttl = client.grant(LEASE, 1).await.expect("grant");
        for n in 0..3 {
            let put = PutRequest { key: format!("e/{n}").into(), lease: LEASE, ..Default::default() };
            client.kv.clone().put(put).await.expect("put");
        }
        let mut deleted = Vec::new();
        while deleted.len() < 3 {
            // The lease takes its time; the test as a whole is bounded.
            let answer = watch.wait().await.expect("events");
            deleted.extend(answer.events.into_iter().filter(|event| event.r#type == 1).map(|event| {
                let kv = event.kv.expect("kv");
                (kv.key, kv.mod_revision)
            }));
        }
        let revision = deleted[0].1;
        let expected: Vec<_> = (0..3).map(|n| (bytes::Bytes::from(format!("e/{n}")), revision)).collect();
        assert_eq!(deleted, expected, "lease of {ttl} s");
        assert_eq!(client.time_to_live(LEASE).await.expect("time to live").ttl, -1);
    })
    .await;
}
