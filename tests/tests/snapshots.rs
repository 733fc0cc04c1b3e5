//! Snapshots go both ways between our server and stock etcd, and through stock tools, with users and auth enabled.
//! `KEELSON_SNAPSHOT_KEYS` sets the number of keys (a full run: 100,000).

use std::path::{Path, PathBuf};
use std::process::Command;

use integration::binary::{self, Binary};
use integration::client::Client;
use integration::cluster::{Cluster, START_LIMIT};
use integration::{bounded, setting};
use proto::etcdserverpb::{RequestOp, TxnRequest};
use proto::mvccpb::KeyValue;

/// Runs a stock tool: whether it succeeds, and what it prints.
fn attempt(program: &Path, args: &[&str]) -> (bool, String) {
    let output =
        Command::new(program).args(args).env("ETCDCTL_API", "3").output().expect("start a stock tool");
    let text = [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
    (output.status.success(), text)
}

/// What a stock tool prints, which must succeed.
fn run(program: &Path, args: &[&str]) -> String {
    let (succeeds, text) = attempt(program, args);
    assert!(succeeds, "{} {args:?}: {text}", program.display());
    text
}

/// A stock etcdctl, and the member it talks to.
struct Etcdctl {
    program: PathBuf,
    endpoint: String,
}

impl Etcdctl {
    fn run(&self, user: &str, words: &str) -> String {
        let (succeeds, text) = self.attempt(user, words);
        assert!(succeeds, "{words}: {text}");
        text
    }

    fn attempt(&self, user: &str, words: &str) -> (bool, String) {
        let mut args = vec![self.endpoint.as_str()];
        args.extend(user.split_terminator(' ').chain(words.split(' ')));
        attempt(&self.program, &args)
    }
}

const NOBODY: &str = "";
const ROOT: &str = "--user=root:master";
const READER: &str = "--user=reader:secret";

/// A reader of some keys only, and auth enabled.
fn add_users(etcdctl: &Etcdctl) {
    for words in [
        "user add root:master",
        "user grant-role root root",
        "role add reads",
        "role grant-permission reads read key00000001 key00000100",
        "role grant-permission reads readwrite --prefix open/",
        "user add reader:secret",
        "user grant-role reader reads",
        "user add --no-password guest",
        "auth enable",
    ] {
        // `role add` of root comes with its own; old tools want it said.
        if words == "user grant-role root root" {
            etcdctl.attempt(NOBODY, "role add root");
        }
        etcdctl.run(NOBODY, words);
    }
}

/// What each may do, and what is said of users; auth is disabled at the end.
fn check_users(etcdctl: &Etcdctl) -> String {
    let (allowed, text) = etcdctl.attempt(NOBODY, "get key00000001");
    assert!(!allowed && text.contains("user name is empty"), "{text}");
    let (allowed, text) = etcdctl.attempt("--user=reader:master", "get key00000001");
    assert!(!allowed && text.contains("invalid user ID or password"), "{text}");
    assert!(etcdctl.run(READER, "get key00000001").starts_with("key00000001\n"));
    for words in ["get key00000100", "put key00000001 x"] {
        let (allowed, text) = etcdctl.attempt(READER, words);
        assert!(!allowed && text.contains("permission denied"), "{words}: {text}");
    }
    let lists = ["user list", "user get reader", "user get guest", "role list", "role get reads"];
    let told = lists.map(|words| etcdctl.run(ROOT, words)).concat();
    etcdctl.run(ROOT, "auth disable");
    told
}

/// Keys, versions, deletions, leases and a compaction.
async fn fill(client: &Client, keys: u64) {
    for lease in 1..=10 {
        client.grant(lease, 100_000).await.expect("a lease");
    }
    let put = |key: u64, value: &str| -> RequestOp {
        let mut put = integration::client::put_op(format!("key{key:08}"), format!("{value}{key}"));
        if let Some(proto::etcdserverpb::request_op::Request::RequestPut(request)) = &mut put.request {
            request.lease = (key % 20) as i64 % 11;
        }
        put
    };
    for first in (0..keys).step_by(100) {
        let of = |value: &str| (first..keys.min(first + 100)).map(|key| put(key, value)).collect();
        let request = TxnRequest { success: of("one"), ..Default::default() };
        client.kv.clone().txn(request).await.expect("txn");
        if first % 500 == 0 {
            let request = TxnRequest { success: of("two"), ..Default::default() };
            client.kv.clone().txn(request).await.expect("txn");
            client.delete(format!("key{first:08}")).await.expect("delete");
        }
    }
    let revision = client.revision().await.expect("revision");
    client.compact(revision / 2).await.expect("compaction");
}

/// What two members must have in common.
async fn content(client: &Client, revision: i64) -> (u32, i64, Vec<KeyValue>, Vec<Vec<u8>>) {
    let hash = client.hash_kv(revision).await.expect("hash");
    let kvs = client.prefix("", false).await.expect("read").kvs;
    let mut leased: Vec<Vec<u8>> = Vec::new();
    for lease in 1..=10 {
        let answer = client.time_to_live(lease).await.expect("lease");
        assert_eq!(answer.granted_ttl, 100_000, "lease {lease}");
        leased.extend(answer.keys.iter().map(|key| key.to_vec()));
    }
    leased.sort();
    (hash.hash, hash.compact_revision, kvs, leased)
}

/// `from` is filled and saved by a stock client, restored by a stock tool, started by stock etcd and by ours.
async fn saved_and_restored(from: &Binary, peer: &Binary) {
    let tool = |name: &str| -> PathBuf { peer.path.with_file_name(name) };
    let cluster = Cluster::start(from, 1).await;
    let client = cluster.client(0);
    fill(&client, setting("KEELSON_SNAPSHOT_KEYS", 3000)).await;
    let revision = client.revision().await.expect("revision");
    let expected = content(&client, revision).await;

    let file = cluster.path().join("saved.db");
    let file = file.to_str().expect("a path of ASCII");
    let etcdctl = |cluster: &Cluster| Etcdctl {
        program: tool("etcdctl"),
        endpoint: format!("--endpoints={}", cluster.members[0].client_address()),
    };
    add_users(&etcdctl(&cluster));
    etcdctl(&cluster).run(ROOT, &format!("snapshot save {file}"));
    let expected_users = check_users(&etcdctl(&cluster));
    let status = run(&tool("etcdutl"), &["snapshot", "status", file, "--write-out=json"]);
    assert!(status.contains(&format!(r#""revision":{revision},"#)), "{status}");

    for binary in [peer, &binary::ours()] {
        let mut restored = Cluster::builder(binary, 1).build();
        let member = &restored.members[0];
        let (name, peer_url) = (member.name.clone(), member.peer_url.clone());
        run(
            &tool("etcdutl"),
            &[
                "snapshot",
                "restore",
                file,
                &format!("--data-dir={}", member.data_dir.display()),
                &format!("--name={name}"),
                &format!("--initial-cluster={name}={peer_url}"),
                &format!("--initial-advertise-peer-urls={peer_url}"),
                "--initial-cluster-token=keelson-test",
            ],
        );
        restored.start_all().await;
        assert_eq!(check_users(&etcdctl(&restored)), expected_users, "restored to {}", binary.version);
        let client = restored.client(0);
        assert_eq!(content(&client, revision).await, expected, "restored to {}", binary.version);
        let members = client.members().await.expect("members");
        assert_eq!(members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["m0"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_tools_take_our_snapshots() {
    bounded(10 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        saved_and_restored(&binary::ours(), &peer).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_start_from_snapshots_of_stock_etcd() {
    bounded(10 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        saved_and_restored(&peer, &peer).await;
    })
    .await;
}
