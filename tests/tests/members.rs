//! The members of a cluster change while clients write: added, promoted, removed, replaced, and rebuilt from one.

use std::time::Duration;

use integration::binary::{self, Binary};
use integration::client::Client;
use integration::cluster::{Cluster, START_LIMIT, free_url};
use integration::load::{self, Ack, Load};
use integration::{bounded, eventually, http};
use tonic::Code;

const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
const WORKERS: usize = 8;

/// Changes are refused for a few seconds after members have come or gone.
async fn once_healthy<T, F: Future<Output = Result<T, tonic::Status>>>(
    what: &str,
    change: impl Fn() -> F,
) -> T {
    eventually(what, START_LIMIT, || async {
        let refused = match change().await {
            Ok(done) => return Ok(done),
            Err(refused) => refused,
        };
        let texts = ["unhealthy cluster", "in sync with leader", "not enough started members", "no leader"];
        assert!(texts.iter().any(|text| refused.message().contains(text)), "{what}: {refused}");
        Err(refused.to_string())
    })
    .await
}

async fn add(cluster: &mut Cluster, binary: &Binary, name: &str, is_learner: bool) -> u64 {
    let url = free_url();
    let asked = cluster.client(0);
    let id = once_healthy("add a member", || asked.add_member(&url, is_learner)).await;
    let mut newcomer = cluster.newcomer(binary, name, &url, &[]);
    newcomer.spawn();
    cluster.members.push(newcomer);
    id
}

/// All writes are there, on every member that serves.
async fn verify(cluster: &Cluster, prefix: &str, acks: &[Ack]) {
    cluster.assert_equal_hashes().await;
    for member in &cluster.members {
        let all = member.client().prefix(prefix, false).await.expect("read");
        load::verify(acks, &all.kvs, &member.name);
    }
}

async fn id_of(client: &Client) -> u64 {
    client.status().await.expect("status").header.expect("header").member_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_grows_to_three_and_loses_its_founder() {
    bounded(10 * START_LIMIT, async {
        let ours = binary::ours();
        let mut cluster = Cluster::start(&ours, 1).await;
        let load = Load::start("grow", &cluster.clients(), WORKERS);
        load.progress(300, PROGRESS_LIMIT).await;

        add(&mut cluster, &ours, "second", false).await;
        cluster.members[1].ready().await;
        load.progress(300, PROGRESS_LIMIT).await;

        let learner = add(&mut cluster, &ours, "third", true).await;
        // Asked through one that does not lead.
        let follower = cluster.client(1);
        let members = once_healthy("promote", || follower.promote_member(learner)).await;
        assert!(members.iter().all(|member| !member.is_learner), "{members:?}");
        cluster.members[2].ready().await;
        load.use_clients(&cluster.clients());
        load.progress(300, PROGRESS_LIMIT).await;

        let founder = id_of(&cluster.client(0)).await;
        let (asked, last) = (cluster.client(0), cluster.client(2));
        let left = once_healthy("remove the founder", || asked.remove_member(founder)).await;
        assert_eq!(left.len(), 2, "{left:?}");
        let status = cluster.members[0].exited().await;
        assert!(status.success(), "a removed member ends by itself, and well: {status}");
        cluster.members.remove(0);
        load.use_clients(&cluster.clients());
        load.progress(300, PROGRESS_LIMIT).await;
        let acks = load.stop().await;
        verify(&cluster, "grow", &acks).await;
        assert_eq!(last.members().await.expect("members").len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_disk_is_replaced() {
    bounded(10 * START_LIMIT, async {
        let ours = binary::ours();
        let mut cluster = Cluster::builder(&ours, 3).args(["--snapshot-count=200"]).start().await;
        let load = Load::start("lost", &cluster.clients(), WORKERS);
        load.progress(500, PROGRESS_LIMIT).await;
        let lost = id_of(&cluster.client(2)).await;
        cluster.members[2].kill();
        std::fs::remove_dir_all(&cluster.members[2].data_dir).expect("its disk");
        cluster.members.pop();
        load.use_clients(&cluster.clients());
        load.progress(500, PROGRESS_LIMIT).await;

        let asked = cluster.client(0);
        once_healthy("remove the lost member", || asked.remove_member(lost)).await;
        add(&mut cluster, &ours, "replacement", false).await;
        cluster.members[2].ready().await;
        load.use_clients(&cluster.clients());
        load.progress(500, PROGRESS_LIMIT).await;
        let acks = load.stop().await;
        verify(&cluster, "lost", &acks).await;
    })
    .await;
}

/// With its votes gone it could help another emptied or lagging member to a majority that knows less.
async fn does_not_found_again(binary: &Binary) {
    let mut cluster = Cluster::start(binary, 3).await;
    eventually("the first knows all clients' URLs", START_LIMIT, || async {
        let listed = cluster.client(0).members().await.map_err(|error| error.to_string())?;
        let known = listed.iter().all(|member| !member.client_ur_ls.is_empty());
        if known { Ok(()) } else { Err(format!("{listed:?}")) }
    })
    .await;
    cluster.members[0].stop().await;
    eventually("a put by the two", START_LIMIT, || async {
        cluster.client(1).put("precious", "1").await.map(drop).map_err(|status| status.to_string())
    })
    .await;
    cluster.members[1].stop().await;
    cluster.members[2].kill();
    std::fs::remove_dir_all(&cluster.members[2].data_dir).expect("its disk");
    cluster.members[0].spawn();
    eventually("the lagging member tells its peers of all", START_LIMIT, || async {
        let answer = http::get(cluster.members[0].peer_address(), "/members").await;
        let body = answer.map_err(|error| error.to_string())?.body;
        if body.contains(cluster.members[2].client_address()) { Ok(()) } else { Err(body) }
    })
    .await;
    cluster.members[2].spawn();
    assert!(!cluster.members[2].exited().await.success());
    let log = cluster.members[2].log_text();
    assert!(log.contains("has already been bootstrapped"), "{log}");

    cluster.members[1].spawn();
    for member in &mut cluster.members[..2] {
        member.ready().await;
    }
    let found = cluster.client(0).get("precious").await.expect("a majority is there");
    assert_eq!(found.map(|kv| kv.value.to_vec()), Some(b"1".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_lost_its_disk_does_not_found_again() {
    bounded(8 * START_LIMIT, async {
        let stock = binary::peer("3.5.");
        for binary in std::iter::once(binary::ours()).chain(stock) {
            does_not_found_again(&binary).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_survivor_becomes_a_cluster_again() {
    bounded(10 * START_LIMIT, async {
        let ours = binary::ours();
        let mut cluster = Cluster::start(&ours, 3).await;
        let load = Load::start("survivor", &cluster.clients(), WORKERS);
        load.progress(500, PROGRESS_LIMIT).await;
        let acks = load.stop().await;
        // What it has acknowledged must have reached the one that is left.
        cluster.assert_equal_hashes().await;
        cluster.kill_all();
        cluster.members.truncate(1);

        cluster.members[0].args.push("--force-new-cluster".into());
        cluster.members[0].restart().await;
        let client = cluster.client(0);
        let left = client.members().await.expect("members");
        assert_eq!(left.len(), 1, "{left:?}");
        // The flag is for one start.
        cluster.members[0].stop().await;
        cluster.members[0].args.pop();
        cluster.members[0].restart().await;

        let more = Load::start("more", &cluster.clients(), WORKERS);
        for name in ["second", "third"] {
            add(&mut cluster, &ours, name, false).await;
            cluster.members.last_mut().expect("just added").ready().await;
            more.progress(200, PROGRESS_LIMIT).await;
        }
        let more = more.stop().await;
        verify(&cluster, "survivor", &acks).await;
        verify(&cluster, "more", &more).await;
    })
    .await;
}

/// Code and text of refusals, of the same calls to a cluster of one and then of two members.
async fn refusals(binary: &Binary) -> Vec<(&'static str, Code, String)> {
    let cluster = Cluster::start(binary, 1).await;
    let client = cluster.client(0);
    let own = id_of(&client).await;
    let mut refused = Vec::new();
    // etcd 3.5 answers before its raft knows that a change was applied, and drops one that comes at once after it.
    macro_rules! note {
        ($what:literal, $call:expr) => {
            client.put("between", "").await.expect("put");
            let status = $call.await.err().unwrap_or_else(|| tonic::Status::ok(""));
            refused.push(($what, status.code(), status.message().to_string()));
        };
    }
    let own_url = cluster.members[0].peer_url.clone();
    note!("no URL", client.add_member("", false));
    note!("not a URL", client.add_member("127.0.0.1:1", false));
    note!("with a path", client.add_member("http://127.0.0.1:1/x", false));
    note!("of another", client.add_member(&own_url, false));
    note!("remove nobody", client.remove_member(7));
    note!("remove the last", client.remove_member(own));
    note!("update nobody", client.update_member(7, "http://127.0.0.1:1"));
    note!("promote nobody", client.promote_member(7));
    note!("promote a voter", client.promote_member(own));
    client.put("between", "").await.expect("put");
    let learner = client.add_member("http://127.0.0.1:1", true).await.expect("a learner");
    note!("promote one that never came", client.promote_member(learner));
    note!("a second learner", client.add_member("http://127.0.0.1:2", true));
    note!("to the URL of another", client.update_member(own, "http://127.0.0.1:1"));
    note!("remove the learner", client.remove_member(learner));
    note!("remove it again", client.remove_member(learner));
    note!("own URL", client.update_member(own, &own_url));
    // Not at the URL of the one that was removed: added within the same second, it would have the same ID.
    client.put("between", "").await.expect("put");
    client.add_member("http://127.0.0.1:3", false).await.expect("a second voter");
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_refused_as_etcd_refuses_them() {
    bounded(4 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let (ours, theirs) = (refusals(&binary::ours()).await, refusals(&peer).await);
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_that_was_not_added_is_told_so() {
    bounded(4 * START_LIMIT, async {
        let ours = binary::ours();
        let cluster = Cluster::start(&ours, 1).await;
        let mut stranger = cluster.newcomer(&ours, "stranger", &free_url(), &[]);
        stranger.spawn();
        assert!(!stranger.exited().await.success());
        let log = stranger.log_text();
        assert!(log.contains("error validating peerURLs"), "{log}");
        assert!(log.contains("member count is unequal"), "{log}");
    })
    .await;
}

/// A cluster of the newest version goes down step by step, until stock members of 3.5 may join it.
#[tokio::test(flavor = "multi_thread")]
async fn a_downgraded_cluster_takes_older_members() {
    use proto::etcdserverpb::{DowngradeRequest, downgrade_request::DowngradeAction};
    bounded(8 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let flags = ["--snapshot-count=100", "--snapshot-catchup-entries=10"];
        let mut cluster = Cluster::builder(&binary::ours(), 3).args(flags).start().await;
        let client = cluster.client(0);
        client.put("before", "x").await.expect("put");
        for target in ["3.6.0", "3.5.0"] {
            let ask = |action: DowngradeAction, version: &str| {
                let request = DowngradeRequest { action: action as i32, version: version.into() };
                let mut maintenance = client.maintenance.clone();
                async move { maintenance.downgrade(request).await }
            };
            // At first the cluster has no version yet.
            eventually("a refusal of two steps at once", START_LIMIT, || async {
                match ask(DowngradeAction::Validate, "3.4.0").await.map_err(|it| it.message().to_owned()) {
                    Err(text) if text == "etcdserver: invalid downgrade target version" => Ok(()),
                    answer => Err(format!("{answer:?}")),
                }
            })
            .await;
            eventually("enable a downgrade", START_LIMIT, || async {
                ask(DowngradeAction::Enable, target).await.map_err(|refused| refused.to_string())
            })
            .await;
            for member in &cluster.members {
                eventually("the end of the downgrade", START_LIMIT, || async {
                    let get = |address, path| async move { http::get(address, path).await.map(|it| it.body) };
                    let version = get(member.client_address(), "/version").await;
                    let under_way = get(member.peer_address(), "/downgrade/enabled").await;
                    let wanted = format!(r#""etcdcluster":"{target}""#);
                    match (&version, &under_way) {
                        (Ok(version), Ok(under_way)) if version.contains(&wanted) && under_way == "false" => {
                            Ok(())
                        }
                        _ => Err(format!("{version:?}, under way: {under_way:?}")),
                    }
                })
                .await;
            }
            client.put("during", target).await.expect("put");
        }
        // An older member stops where the log still says that the cluster was newer: it has to come by a snapshot.
        let load = Load::start("load", &cluster.clients(), WORKERS);
        load.progress(500, PROGRESS_LIMIT).await;
        load.stop().await;
        let id = add(&mut cluster, &peer, "older", true).await;
        once_healthy("promote it", || client.promote_member(id)).await;
        cluster.members.last_mut().expect("just added").ready().await;
        cluster.client(3).put("after", "x").await.expect("put");
        cluster.assert_equal_hashes().await;
    })
    .await;
}
