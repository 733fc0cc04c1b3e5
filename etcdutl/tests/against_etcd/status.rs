//! The command line, `snapshot status`, and damaged files.

use std::fs;

use integration::{bounded, cluster::Cluster};

use super::{
    member::{compact, fill},
    program::{fail, ours, run, save_snapshot, stock},
};
use crate::restore::LIMIT;

#[tokio::test(flavor = "multi_thread")]
async fn status_and_errors_are_those_of_etcdutl() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        let mut cluster = Cluster::start(&stock.etcd, 1).await;
        let dir = cluster.path().to_path_buf();
        let client = cluster.client(0);
        let save = |name: &str| {
            save_snapshot(&stock.etcdctl, cluster.members[0].client_address(), &dir.join(name));
        };
        fill(&client, false).await;
        save("plain.db");
        compact(&client, 120).await;
        save("compacted.db");
        cluster.members[0].stop().await;
        fs::copy(cluster.members[0].data_dir.join("member/snap/db"), dir.join("live.db")).unwrap();
        let saved = fs::read(dir.join("plain.db")).unwrap();
        fs::write(dir.join("cut.db"), &saved[..saved.len() - 32]).unwrap();
        fs::write(dir.join("junk.db"), [7; 100]).unwrap();
        let mut flipped = saved.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(dir.join("flipped.db"), &flipped).unwrap();
        let mut lines: Vec<String> = Vec::new();
        for file in ["plain.db", "compacted.db", "live.db", "cut.db", "flipped.db", "nosuch.db"] {
            for format in ["simple", "fields", "json", "table", "protobuf", "xml"] {
                lines.push(format!("snapshot status {file} -w {format}"));
            }
        }
        let restore = "snapshot restore --data-dir new";
        lines.extend(
            [
                "version",
                "snapshot status",
                "snapshot status a b",
                "snapshot status --nosuch",
                "snapshot status -h",
                "snapshot nosuch",
                "snapshot save",
                "snapshot save x",
                "snapshot save --nosuch",
                "snapshot save -h",
                "snapshot status .",
                "snapshot status plain.db/x",
                "nosuch",
                "versoin",
                "defrag",
                "defrag -h",
            ]
            .map(Into::into),
        );
        lines.extend(
            [
                "",
                "a b",
                "nosuch.db",
                "cut.db",
                "flipped.db",
                "junk.db",
                "plain.db --data-dir .",
                "plain.db --wal-dir .",
                "plain.db --name other",
                "plain.db --initial-cluster default=http://127.0.0.1",
                "plain.db --initial-advertise-peer-urls nonsense",
                "plain.db --initial-cluster default=http://127.0.0.1:1 --initial-advertise-peer-urls http://127.0.0.1:2",
                "plain.db --initial-cluster default=http://127.0.0.1:1,b=http://127.0.0.1:1 --initial-advertise-peer-urls \
                 http://127.0.0.1:1",
                "plain.db --skip-hash-check=perhaps",
            ]
            .map(|rest| format!("{restore} {rest}")),
        );
        let mut differences = String::new();
        for line in &lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let theirs = run(&stock.etcdutl, &dir, &words);
            let _ = fs::remove_dir_all(dir.join("new"));
            let found = ours(&dir, &words);
            assert!(!dir.join("new").exists(), "{line} left something");
            let usage_of_more = found.err.contains("--bump-revision");
            let same = found == theirs
                || usage_of_more && found.err.lines().next() == theirs.err.lines().next() && found.code == theirs.code;
            if !same {
                differences.push_str(&format!("etcdutl {line}\n  theirs {theirs:?}\n  ours   {found:?}\n"));
            }
        }
        assert!(differences.is_empty(), "{differences}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_refused_and_leave_nothing() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        let cluster = Cluster::start(&stock.etcd, 1).await;
        let dir = cluster.path().to_path_buf();
        fill(&cluster.client(0), false).await;
        save_snapshot(&stock.etcdctl, cluster.members[0].client_address(), &dir.join("good.db"));
        let good = fs::read(dir.join("good.db")).unwrap();
        let bytes = good.len() - 32;
        let damages: Vec<(&str, Vec<u8>)> = vec![
            ("empty", Vec::new()),
            ("short", vec![1; 31]),
            ("junk", (0..40_000_u32).map(|n| (n * 7919) as u8).collect()),
            ("half", good[..bytes / 2 / 4096 * 4096].to_vec()),
            ("metas", {
                let mut bytes = good.clone();
                bytes[..8192].fill(0);
                bytes
            }),
            ("pages", {
                let mut bytes = good.clone();
                bytes[8192..].fill(0xff);
                bytes
            }),
        ];
        for (name, bytes) in damages {
            let file = format!("{name}.db");
            fs::write(dir.join(&file), bytes).unwrap();
            fail(&dir, &["snapshot", "status", &file]);
            fail(&dir, &["hashkv", &file]);
            fail(&dir, &["snapshot", "restore", &file, "--data-dir", "new"]);
            fail(&dir, &["snapshot", "restore", &file, "--data-dir", "new", "--skip-hash-check"]);
            assert!(!dir.join("new").exists(), "{name} left something");
        }
    })
    .await;
}
