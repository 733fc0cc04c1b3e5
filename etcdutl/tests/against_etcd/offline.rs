//! Looks at members that do not run: `hashkv`, `dump-log`, `dump-db`, `check`, and `defrag` and `migrate`.

use std::{fs, path::Path, process::Command};

use integration::{binary, bounded, cluster::Cluster};

use super::{
    member::{Data, compact, data, fill, ids, stopped},
    program::{fail, ours, save_snapshot, stock, succeed},
};
use crate::restore::LIMIT;

fn hash_line(data: &Data) -> String {
    format!("{}, {}, {}\n", data.hash, data.revision, data.compact_revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_those_of_the_live_server() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        for compacted in [false, true] {
            for server in [&stock.etcd, &binary::ours()] {
                let mut cluster = Cluster::start(server, 1).await;
                let dir = cluster.path().to_path_buf();
                let client = cluster.client(0);
                fill(&client, compacted).await;
                let live = data(&client).await;
                let mut earlier = Vec::new();
                for revision in [121, 150, live.revision - 1] {
                    earlier.push((revision, client.hash_kv(revision).await.unwrap().hash));
                }
                let saved = server.path == stock.etcd.path;
                if saved {
                    save_snapshot(&stock.etcdctl, cluster.members[0].client_address(), &dir.join("saved.db"));
                }
                cluster.members[0].stop().await;
                let files =
                    if saved { &["saved.db", "m0.etcd", "m0.etcd/member/snap/db"][..] } else { &["m0.etcd"] };
                for file in files {
                    assert_eq!(succeed(&dir, &["hashkv", file]), hash_line(&live));
                    for (revision, hash) in &earlier {
                        let found = succeed(&dir, &["hashkv", file, "--rev", &revision.to_string()]);
                        assert_eq!(found, hash_line(&Data { hash: *hash, revision: *revision, ..live }));
                    }
                }
                let later = (live.revision + 1).to_string();
                let error = fail(&dir, &["hashkv", "m0.etcd", "--rev", &later]);
                assert_eq!(error, "Error: mvcc: required revision is a future revision\n");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_databases_of_both_kinds_are_shown() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        for server in [&stock.etcd, &binary::ours()] {
            let (cluster, before, (_, id, _)) = stopped(server, false).await;
            let dir = cluster.path();
            let log = succeed(dir, &["dump-log", "--data-dir", "m0.etcd", "--start-index", "1"]);
            assert!(log.contains(&format!("WAL metadata:\nnodeID={id:x} ")), "{log}");
            assert!(
                log.contains(&format!("   1\t         1\tconf\tmethod=ConfChangeAddNode id={id:x}\n")),
                "{log}"
            );
            let puts = succeed(
                dir,
                &["dump-log", "--data-dir", "m0.etcd", "--start-index", "1", "--entry-type", "IRRPut"],
            );
            assert!(puts.ends_with("\nEntry types (IRRPut) count is : 201\n"), "{puts}");
            assert!(puts.contains("put:<key:\"after\" value:\"compaction\" >"), "{puts}");

            let buckets = succeed(dir, &["dump-db", "m0.etcd"]);
            for bucket in ["alarm", "cluster", "key", "lease", "members", "members_removed", "meta"] {
                assert!(buckets.lines().any(|name| name == bucket), "{buckets}");
            }
            let keys = succeed(dir, &["dump-db", "m0.etcd", "key", "--decode"]);
            assert_eq!(keys.lines().count(), 202);
            let last = keys.lines().last().unwrap();
            assert!(
                last.starts_with(&format!("rev={{main:{} sub:0}}, value=[key \"after\"", before.revision)),
                "{last}"
            );
            assert_eq!(succeed(dir, &["dump-db", "m0.etcd", "key", "--limit", "3"]).lines().count(), 3);
            let lease = succeed(dir, &["dump-db", "m0.etcd", "lease", "--decode"]);
            assert!(lease.starts_with("lease ID=0000000000000077, TTL=3600s, "), "{lease}");
            let error = fail(dir, &["dump-db", "m0.etcd", "nosuch"]);
            assert!(error.contains("there is no bucket nosuch"), "{error}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_looked_at_while_a_server_runs() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        for server in [&stock.etcd, &binary::ours()] {
            let cluster = Cluster::start(server, 1).await;
            for args in [
                &["dump-log", "--data-dir", "m0.etcd"][..],
                &["dump-db", "m0.etcd"],
                &["hashkv", "m0.etcd"],
                &["defrag", "--data-dir", "m0.etcd"],
                &["migrate", "--data-dir", "m0.etcd", "--target-version", "3.6"],
                &["export", "--data-dir", "m0.etcd", "--target", "other"],
            ] {
                let error = fail(cluster.path(), args);
                assert!(error.contains("is in use: stop the server"), "{error}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defragmented_member_of_ours_is_smaller_and_the_same() {
    bounded(LIMIT, async {
        let mut cluster = Cluster::start(&binary::ours(), 1).await;
        let client = cluster.client(0);
        for n in 0..300 {
            client.put("large", vec![n as u8; 20_000]).await.unwrap();
        }
        // They are in files before they are deleted.
        cluster.members[0].stop().await;
        cluster.members[0].restart().await;
        let client = cluster.client(0);
        fill(&client, true).await;
        let revision = client.revision().await.unwrap();
        compact(&client, revision).await;
        let (before, known) = (data(&client).await, ids(&client).await);
        cluster.members[0].stop().await;
        let size = || -> u64 {
            let files = fs::read_dir(cluster.path().join("m0.etcd/member/snap/kv")).unwrap();
            files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
        };
        let large = size();
        succeed(cluster.path(), &["defrag", "--data-dir", "m0.etcd"]);
        assert!(size() < large / 4, "{large} bytes became {}", size());
        cluster.members[0].restart().await;
        let client = cluster.client(0);
        assert_eq!((data(&client).await, ids(&client).await), (before, known));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defragmented_member_is_smaller_and_the_same() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        let mut cluster = Cluster::start(&stock.etcd, 1).await;
        let client = cluster.client(0);
        for n in 0..300 {
            client.put("large", vec![n as u8; 20_000]).await.unwrap();
        }
        fill(&client, true).await;
        let revision = client.revision().await.unwrap();
        compact(&client, revision).await;
        let (before, known) = (data(&client).await, ids(&client).await);
        cluster.members[0].stop().await;
        let dir = cluster.path().to_path_buf();
        let database = dir.join("m0.etcd/member/snap/db");
        let size = || fs::metadata(&database).unwrap().len();
        let large = size();
        succeed(&dir, &["defrag", "--data-dir", "m0.etcd"]);
        assert!(size() < large / 4, "{large} bytes became {}", size());

        // 3.5 does not look at it; the way up and down leaves everything else alone.
        succeed(&dir, &["migrate", "--data-dir", "m0.etcd", "--target-version", "3.6"]);
        let meta = succeed(&dir, &["dump-db", "m0.etcd", "meta"]);
        assert!(meta.contains("key=\"storageVersion\", value=\"3.6.0\""), "{meta}");
        succeed(&dir, &["migrate", "--data-dir", "m0.etcd", "--target-version", "3.5"]);
        let meta = succeed(&dir, &["dump-db", "m0.etcd", "meta"]);
        assert!(!meta.contains("storageVersion"), "{meta}");
        let error = fail(&dir, &["migrate", "--data-dir", "m0.etcd", "--target-version", "3.7"]);
        assert!(error.contains("version \"3.7.0\" is not supported"), "{error}");
        cluster.members[0].restart().await;
        let client = cluster.client(0);
        assert_eq!((data(&client).await, ids(&client).await), (before, known));

        let (ours, _, _) = stopped(&binary::ours(), false).await;
        let error = fail(ours.path(), &["migrate", "--data-dir", "m0.etcd", "--target-version", "3.6"]);
        assert!(error.contains("etcdutl export"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_of_the_v2_store_is_found() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        for server in [&stock.etcd, &binary::ours()] {
            let (cluster, _, _) = stopped(server, false).await;
            let out = succeed(cluster.path(), &["check", "v2store", "--data-dir", "m0.etcd"]);
            assert_eq!(out, "No custom content found in both v2store and WAL records.\n");
        }
        let mut cluster = Cluster::builder(&stock.etcd, 1).args(["--enable-v2"]).start().await;
        let endpoint = format!("http://{}", cluster.members[0].client_address());
        let set = Command::new(&stock.etcdctl)
            .env("ETCDCTL_API", "2")
            .args(["--endpoints", &endpoint, "set", "a", "b"])
            .output()
            .unwrap();
        assert!(set.status.success(), "{set:?}");
        cluster.members[0].stop().await;
        let error = fail(cluster.path(), &["check", "v2store", "--data-dir", "m0.etcd"]);
        assert_eq!(error, "Error: detected custom v2 content in WAL records\n");
    })
    .await;
}

#[test]
fn backup_says_what_to_do_instead() {
    let args = ["backup", "--data-dir", "a", "--backup-dir", "b"];
    let answer = ours(Path::new("."), &args);
    assert!(answer.err.contains("Error: backup is not supported: copy the data directory"), "{}", answer.err);
    assert_eq!(answer.code, Some(1));
}
