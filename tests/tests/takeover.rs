//! Stock etcd is taken over: a running cluster member by member under load, and handed back the same way; the data of
//! a stopped member in place.
//! `KEELSON_TAKEOVER_WRITES` sets the writes between two changes (a full run: 3,000), at 1,000 a second.

use std::time::Duration;

use integration::binary::{self, Binary};
use integration::cluster::{Cluster, Member, START_LIMIT, free_url};
use integration::load::{self, Load};
use integration::{bounded, eventually, http, setting};

const PROGRESS_LIMIT: Duration = Duration::from_secs(120);
const WORKERS: usize = 16;
const WRITES_PER_SECOND: u32 = 1000;

/// Tries until the change is taken: members that came a moment ago do not count as healthy yet.
async fn insist<T, F: Future<Output = Result<T, tonic::Status>>>(what: &str, change: impl Fn() -> F) -> T {
    eventually(what, PROGRESS_LIMIT, || async { change().await.map_err(|refused| refused.to_string()) }).await
}

/// The oldest member makes room for a new one: added as a learner, promoted, then the old one removed.
async fn replace_oldest(cluster: &mut Cluster, load: &Load, binary: &Binary, name: &str, more: &[&str]) {
    let url = free_url();
    let asked = cluster.client(1);
    let id = insist("add a learner", || asked.add_member(&url, true)).await;
    let mut newcomer = cluster.newcomer(binary, name, &url, more);
    newcomer.spawn();
    cluster.members.push(newcomer);
    insist("promote it", || asked.promote_member(id)).await;
    cluster.members.last_mut().expect("just added").ready().await;

    let oldest = cluster.client(0).status().await.expect("status").header.expect("header").member_id;
    let leader = cluster.leader().await;
    if leader == 0 {
        let next = cluster.client(1).status().await.expect("status").header.expect("header").member_id;
        insist("move the leader", || async {
            match cluster.leader().await {
                0 => cluster.client(0).move_leader(next).await,
                _ => Ok(()),
            }
        })
        .await;
    }
    load.use_clients(&cluster.clients()[1..]);
    insist("remove the oldest", || asked.remove_member(oldest)).await;
    cluster.members[0].exited().await;
    cluster.members.remove(0);
}

/// How members get what happened before they came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CatchUp {
    Log,
    Snapshot,
}

impl CatchUp {
    /// Flags for a member of this kind.
    fn flags(self, binary: &Binary) -> Vec<String> {
        match self {
            CatchUp::Log => Vec::new(),
            CatchUp::Snapshot => {
                let flags = [("snapshot-count", "500"), ("snapshot-catchup-entries", "100")];
                flags.iter().filter_map(|(name, value)| binary.flag(name, value)).collect()
            }
        }
    }
}

/// A member knows the names of all, and where clients reach them, wherever it learned of them.
async fn all_are_known_to(member: &Member) {
    let client = member.client();
    eventually("names and client URLs of all members", START_LIMIT, || async {
        let members = client.members().await.map_err(|error| error.to_string())?;
        let known = members.iter().all(|it| !it.name.is_empty() && !it.client_ur_ls.is_empty());
        if known { Ok(()) } else { Err(format!("{}: {members:?}", member.name)) }
    })
    .await;
}

/// Entries that stock etcd keeps behind a snapshot.
const STOCK_CATCHUP_ENTRIES: u64 = 5000;

async fn taken_over_and_handed_back(version: &str, catch_up: CatchUp) {
    let writes = setting("KEELSON_TAKEOVER_WRITES", 500);
    bounded(20 * START_LIMIT + Duration::from_millis(20 * writes), async {
        let Some(peer) = binary::peer(version) else { return };
        let ours = binary::ours();
        let mut cluster = Cluster::builder(&peer, 3).args(catch_up.flags(&peer)).start().await;
        if catch_up == CatchUp::Snapshot {
            let before = Load::start("before", &cluster.clients(), WORKERS);
            before.progress(STOCK_CATCHUP_ENTRIES + 1000, PROGRESS_LIMIT).await;
            before.stop().await;
        }
        let load = Load::paced("load", &cluster.clients(), WORKERS, Some(WRITES_PER_SECOND));
        load.progress(writes, PROGRESS_LIMIT).await;
        for (binary, kind) in [(&ours, "ours"), (&peer, "theirs")] {
            for number in 0..3 {
                let (name, flags) = (format!("{kind}{number}"), catch_up.flags(binary));
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                replace_oldest(&mut cluster, &load, binary, &name, &flags).await;
                all_are_known_to(cluster.members.last().expect("just added")).await;
                load.progress(writes, PROGRESS_LIMIT).await;
            }
            cluster.assert_equal_hashes().await;
            if catch_up == CatchUp::Snapshot {
                // The first of a kind gets its snapshot from the other kind.
                let log = cluster.members[0].log_text();
                let texts = ["applying a received snapshot", "applying snapshot"];
                assert!(texts.iter().any(|text| log.contains(text)), "{kind}0 came without a snapshot");
            }
        }
        let pause = load.longest_pause();
        let acks = load.stop().await;
        cluster.assert_equal_hashes().await;
        for member in &cluster.members {
            let all = member.client().prefix("load", false).await.expect("read");
            load::verify(&acks, &all.kvs, &member.name);
        }
        println!("etcd {}: {} keys written, longest pause {pause:?}", peer.version, acks.len());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_5_is_replaced_and_comes_back_by_the_log() {
    taken_over_and_handed_back("3.5.", CatchUp::Log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_5_is_replaced_and_comes_back_by_snapshots() {
    taken_over_and_handed_back("3.5.", CatchUp::Snapshot).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_4_is_replaced_and_comes_back_by_the_log() {
    taken_over_and_handed_back("3.4.", CatchUp::Log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_4_is_replaced_and_comes_back_by_snapshots() {
    taken_over_and_handed_back("3.4.", CatchUp::Snapshot).await;
}

/// The whole history below a key, as a member tells it.
async fn everything(cluster: &Cluster) -> Vec<proto::mvccpb::KeyValue> {
    cluster.client(0).prefix("", false).await.expect("read").kvs
}

async fn taken_over_in_place(version: &str) {
    bounded(6 * START_LIMIT, async {
        let Some(peer) = binary::peer(version) else { return };
        let args = ["--snapshot-count=300"];
        let mut stock = Cluster::builder(&peer, 1).args(args).start().await;
        let client = stock.client(0);
        let load = Load::start("load", &stock.clients(), WORKERS);
        load.progress(1000, PROGRESS_LIMIT).await;
        let acks = load.stop().await;
        client.grant(77, 5000).await.expect("a lease");
        let revision = client.revision().await.expect("revision");
        client.compact(revision - 500).await.expect("compaction");
        let hash = client.hash_kv(revision).await.expect("hash");
        let (keys, members) = (everything(&stock).await, client.members().await.expect("members"));
        // Its database is behind its log.
        stock.members[0].kill();

        let mut ours = stock.continued_by(&binary::ours());
        ours.start_all().await;
        let client = ours.client(0);
        for start in ["first", "second"] {
            assert_eq!(everything(&ours).await, keys, "{start} start");
            load::verify(&acks, &client.prefix("load", false).await.expect("read").kvs, start);
            let found = client.hash_kv(revision).await.expect("hash");
            assert_eq!(
                (found.hash, found.compact_revision),
                (hash.hash, hash.compact_revision),
                "{start} start"
            );
            assert_eq!(client.members().await.expect("members"), members, "{start} start");
            assert!(client.time_to_live(77).await.expect("lease").ttl > 4000, "{start} start");
            assert!(client.put(format!("after the {start}"), "x").await.expect("put") > revision);
            client.delete(format!("after the {start}")).await.expect("delete");
            ours.members[0].stop().await;
            ours.members[0].restart().await;
        }
        let set_aside = ours.members[0].data_dir.join("member/snap/db.taken-over");
        assert!(set_aside.exists(), "the old database is kept");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_a_stopped_etcd_3_5_are_taken_over_in_place() {
    taken_over_in_place("3.5.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_a_stopped_etcd_3_4_are_taken_over_in_place() {
    taken_over_in_place("3.4.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_the_v2_api_are_not_thrown_away() {
    bounded(6 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let args = ["--enable-v2", "--snapshot-count=500"];
        let mut stock = Cluster::builder(&peer, 1).args(args).start().await;
        let address = stock.members[0].client_address().to_owned();
        let asked = async |method: &str| {
            let headers = [("content-type", "application/x-www-form-urlencoded")];
            let (path, body) = ("/v2/keys/a", if method == "PUT" { &b"value=kept"[..] } else { b"" });
            http::request(&address, method, path, &headers, body).await.expect("an answer").body
        };
        asked("PUT").await;
        // It keeps 5,000 entries: a newcomer needs a snapshot now.
        let load = Load::start("load", &stock.clients(), WORKERS);
        load.progress(6000, PROGRESS_LIMIT).await;
        load.stop().await;
        // Neither by a snapshot,
        let url = free_url();
        let client = stock.client(0);
        let added = insist("add a learner", || client.add_member(&url, true)).await;
        let mut newcomer = stock.newcomer(&binary::ours(), "newcomer", &url, &[]);
        newcomer.spawn();
        eventually("the refusal", START_LIMIT, || async {
            let log = newcomer.log_text();
            if log.contains("refused a snapshot: illegal v2store content") { Ok(()) } else { Err(log) }
        })
        .await;
        newcomer.kill();
        insist("remove it", || client.remove_member(added)).await;
        // nor in place.
        stock.members[0].stop().await;
        let mut ours = stock.continued_by(&binary::ours());
        let v2 = ours.members[0].args.extract_if(.., |it| it == "--enable-v2").next().expect("a flag");
        ours.members[0].spawn();
        ours.members[0].exited().await;
        let log = ours.members[0].log_text();
        assert!(log.contains("illegal v2store content"), "{log}");
        let mut stock = ours.continued_by(&peer);
        stock.members[0].args.push(v2);
        stock.members[0].restart().await;
        let body = asked("GET").await;
        assert!(body.contains("kept"), "{body}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_a_running_member_are_left_alone() {
    bounded(4 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let ours = binary::ours();
        for (runs, comes) in [(&peer, &ours), (&ours, &peer), (&ours, &ours)] {
            let cluster = Cluster::start(runs, 1).await;
            let client = cluster.client(0);
            client.put("before", "x").await.expect("put");
            let mut second = cluster.newcomer(comes, "m0", &free_url(), &[]);
            second.data_dir = cluster.members[0].data_dir.clone();
            second.spawn();
            // It ends, or waits for the lock.
            let serves = async {
                while second.is_running() {
                    if second.client().revision().await.is_ok() {
                        return true;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                false
            };
            let serves = tokio::time::timeout(Duration::from_secs(3), serves).await;
            assert_ne!(serves, Ok(true), "a second member serves the same data");
            second.kill();
            client.put("after", "x").await.expect("put");
            assert_eq!(everything(&cluster).await.len(), 2);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downgrades_do_not_stop_members_of_3_4() {
    use proto::etcdserverpb::{DowngradeRequest, downgrade_request::DowngradeAction};
    bounded(4 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.4.") else { return };
        let mut cluster = Cluster::of(&[peer.clone(), binary::ours(), peer]).start().await;
        let ours = cluster.client(1);
        for action in [DowngradeAction::Cancel, DowngradeAction::Enable, DowngradeAction::Validate] {
            let request = DowngradeRequest { action: action as i32, version: "3.3".into() };
            let _ = ours.maintenance.clone().downgrade(request).await;
            ours.put("after", action.as_str_name()).await.expect("put");
        }
        cluster.assert_equal_hashes().await;
        assert!(cluster.members.iter_mut().all(Member::is_running));
    })
    .await;
}
