//! Files of a stock etcd 3.5 read by us, and files of ours read and changed by it.
//! Needs `etcd`, `etcdctl` and `etcdutl` in the directory `ETCD_PEER_DIR` names, or on the PATH; without them it skips,
//! or fails where `KEELSON_REQUIRE_PEER=1`.

mod files;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bbolt::digest::{self, Sha256Writer};
use bbolt::{Database, NO_FREELIST, PAGE_SIZE, Planner, ReadAt, Writer};
use files::{noise, read, read_all, write};
use serde_json::Value as Json;

/// The programs of a stock etcd.
struct Peer {
    directory: Option<PathBuf>,
}

impl Peer {
    fn find() -> Option<Peer> {
        let peer = Peer { directory: std::env::var_os("ETCD_PEER_DIR").map(PathBuf::from) };
        let version = Command::new(peer.path("etcdutl")).arg("version").output();
        if version.is_ok_and(|output| output.stdout.starts_with(b"etcdutl version: 3.5.")) {
            return Some(peer);
        }
        let reason =
            "no etcd, etcdctl and etcdutl 3.5 in ETCD_PEER_DIR or on the PATH (`tools/setup --peers`)";
        let required = std::env::var("KEELSON_REQUIRE_PEER").is_ok_and(|value| value == "1");
        assert!(!required, "required by KEELSON_REQUIRE_PEER=1: {reason}");
        println!("skipped: {reason}");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.as_ref().map_or_else(|| name.into(), |directory| directory.join(name))
    }

    fn start(&self, data: &Path) -> Server {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client, peer) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let mut process = Command::new(self.path("etcd"))
            .env_clear()
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let ready = log.any(|line| line.unwrap().contains("ready to serve client requests"));
        assert!(ready, "etcd ended before it was ready");
        std::thread::spawn(move || log.for_each(drop));
        Server { process, client }
    }

    fn etcdctl(&self, server: &Server, args: &[&str], input: &[u8]) -> String {
        let args = [&["--endpoints", &server.client, "--command-timeout", "60s"], args].concat();
        run(Command::new(self.path("etcdctl")).args(args), input)
    }

    /// What `etcdutl snapshot status` says of a file.
    fn status(&self, file: &Path) -> Json {
        let output =
            run(Command::new(self.path("etcdutl")).args(["-w", "json", "snapshot", "status"]).arg(file), b"");
        serde_json::from_str(&output).unwrap()
    }
}

/// What a command prints; it must succeed.
fn run(command: &mut Command, input: &[u8]) -> String {
    let mut child = command
        .env("ETCDCTL_API", "3")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

struct Server {
    process: Child,
    client: String,
}

impl Server {
    /// As an operator stops it.
    fn stop(mut self) {
        assert!(Command::new("kill").arg(self.process.id().to_string()).status().unwrap().success());
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Values of all sizes, and history with holes.
fn put_much(peer: &Peer, server: &Server) {
    for round in 0..30 {
        let mut txn = String::from("\n");
        for n in 0..120 {
            let value = "v".repeat((round * 120 + n) % 700);
            txn.push_str(&format!("put key/{:05} \"{value}\"\n", round * 100 + n));
        }
        txn.push_str("\n\n");
        peer.etcdctl(server, &["txn"], txn.as_bytes());
    }
    for (n, len) in [1, 3_000, 4_096, 5_000, 100_000, 1_400_000].into_iter().enumerate() {
        let value: Vec<u8> = noise(len, n as u64).iter().map(|byte| b'a' + byte % 26).collect();
        peer.etcdctl(server, &["put", &format!("long/{n}")], &value);
    }
    peer.etcdctl(server, &["put", "empty", ""], b"");
    peer.etcdctl(server, &["del", "key/001", "key/002"], b"");
}

/// Something in every bucket but that of alarms.
fn fill(peer: &Peer, server: &Server) {
    put_much(peer, server);
    peer.etcdctl(server, &["compaction", "10", "--physical"], b"");
    peer.etcdctl(server, &["lease", "grant", "10000"], b"");
    // Several pages of keys that come in descending order.
    for n in (0..60).rev() {
        peer.etcdctl(server, &["role", "add", &format!("reader/{n:0200}")], b"");
    }
    peer.etcdctl(server, &["user", "add", "somebody:password"], b"");
    peer.etcdctl(server, &["put", "last", "one"], b"");
}

/// We read of a file what etcdutl does. Returns its status.
fn agree(peer: &Peer, path: &Path) -> Json {
    let status = peer.status(path);
    let database = Database::open(path).unwrap();
    let (mut entries, mut revision) = (0, 0);
    let crc = digest::contents(&database, |bucket, key, _| {
        entries += 1;
        if bucket == b"key" {
            revision = u64::from_be_bytes(key[..8].try_into().unwrap());
        }
    })
    .unwrap();
    let usage = database.check().unwrap();
    assert_eq!(usage.entries, entries);
    assert_eq!(usage.used_bytes + usage.free_pages * 4096, database.meta().size_bytes());
    let ours = serde_json::json!({
        "hash": crc,
        "revision": revision,
        "totalKey": entries,
        "totalSize": database.meta().size_bytes(),
    });
    assert_eq!(ours, status, "{}", path.display());
    status
}

/// The same entries in a file of ours, with a digest at its end.
fn rewrite(from: &Path, to: &Path) {
    let database = Database::open(from).unwrap();
    let mut planner = Planner::new(PAGE_SIZE).unwrap();
    read(&database, |bucket, entry| match entry {
        None => planner.bucket(bucket).unwrap(),
        Some((key, value)) => planner.entry(key, value.len()).unwrap(),
    })
    .unwrap();
    let plan = planner.finish().unwrap();
    let out = Sha256Writer::new(fs::File::create(to).unwrap());
    let mut writer = Writer::planned(plan, out).unwrap();
    read(&database, |bucket, entry| match entry {
        None => writer.bucket(bucket).unwrap(),
        Some((key, value)) => writer.entry(key, value).unwrap(),
    })
    .unwrap();
    let (mut file, sha256) = writer.finish().unwrap().finish();
    file.write_all(&sha256).unwrap();
}

fn tail_is_right(path: &Path) {
    let file = fs::File::open(path).unwrap();
    assert!(digest::has_sha256(file.size_bytes().unwrap()));
    let tail = digest::sha256_tail(&file).unwrap().unwrap();
    assert_eq!(tail.stored, tail.computed);
}

#[test]
fn stock_files_are_read_and_ours_are_taken() {
    let Some(peer) = Peer::find() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);

    // A snapshot, and the database of the stopped member.
    let server = peer.start(&path("stock"));
    fill(&peer, &server);
    let all = peer.etcdctl(&server, &["get", "", "--prefix", "-w", "json"], b"");
    let saved = path("saved.db");
    peer.etcdctl(&server, &["snapshot", "save", saved.to_str().unwrap()], b"");
    server.stop();
    tail_is_right(&saved);
    let status = agree(&peer, &saved);
    let stopped = path("stock/member/snap/db");
    agree(&peer, &stopped);
    let database = Database::open(&stopped).unwrap();
    assert_eq!((database.meta().page_size, database.meta().freelist), (4096, NO_FREELIST));
    let buckets = read_all(&database).unwrap();
    assert!(buckets[b"members".as_slice()].len() == 1 && buckets[b"key".as_slice()].len() > 3_000);
    assert!(buckets[b"alarm".as_slice()].is_empty());

    // The same in a file of ours.
    let ours = path("ours.db");
    rewrite(&saved, &ours);
    tail_is_right(&ours);
    let mut rewritten = agree(&peer, &ours);
    assert!(rewritten["totalSize"].as_u64() < status["totalSize"].as_u64(), "fuller pages, none free");
    rewritten["totalSize"] = status["totalSize"].clone();
    assert_eq!(rewritten, status);
    let restored = path("restored");
    let mut restore = Command::new(peer.path("etcdutl"));
    restore.args(["snapshot", "restore"]).arg(&ours).arg("--data-dir").arg(&restored);
    run(&mut restore, b"");

    // A stock etcd works on it: it finds free pages, splits, merges and removes ours.
    let server = peer.start(&restored);
    let kvs = |json: &str| serde_json::from_str::<Json>(json).unwrap()["kvs"].clone();
    let again = peer.etcdctl(&server, &["get", "", "--prefix", "-w", "json"], b"");
    assert!(kvs(&again) == kvs(&all), "other keys after the restore");
    assert!(kvs(&all).as_array().unwrap().len() > 2_000);
    peer.etcdctl(&server, &["del", "key/", "--prefix"], b"");
    peer.etcdctl(&server, &["put", "one", "more"], b"");
    let now: Json = serde_json::from_str(&peer.etcdctl(&server, &["get", "one", "-w", "json"], b"")).unwrap();
    let revision = now["header"]["revision"].to_string();
    peer.etcdctl(&server, &["compaction", &revision, "--physical"], b"");
    put_much(&peer, &server);
    server.stop();
    agree(&peer, &restored.join("member/snap/db"));
}

/// Trees of several levels: etcd compacts nearly all of one away, page by page.
#[test]
fn a_deep_tree_is_taken_apart_by_a_stock_etcd() {
    let Some(peer) = Peer::find() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = peer.start(&path("stock"));
    peer.etcdctl(&server, &["put", "key", "value"], b"");
    let saved = path("saved.db");
    peer.etcdctl(&server, &["snapshot", "save", saved.to_str().unwrap()], b"");
    server.stop();

    // History of that key as if it had been put again and again.
    let mut buckets = read_all(&Database::open(&saved).unwrap()).unwrap();
    let keys = buckets.get_mut(b"key".as_slice()).unwrap();
    let first = 2;
    let last: u64 = 400_000;
    for revision in first..=last {
        let record = [&revision.to_be_bytes()[..], b"_", &0_u64.to_be_bytes()].concat();
        keys.insert(record, key_value(revision, revision - first + 1));
    }
    let ours = path("ours.db");
    fs::write(&ours, write(&buckets, PAGE_SIZE)).unwrap();
    let status = agree(&peer, &ours);
    assert_eq!(status["revision"], last);
    let restored = path("restored");
    let mut restore = Command::new(peer.path("etcdutl"));
    restore.args(["snapshot", "restore", "--skip-hash-check"]).arg(&ours).arg("--data-dir").arg(&restored);
    run(&mut restore, b"");

    let server = peer.start(&restored);
    let at = |revision: u64| {
        let revision = format!("--rev={revision}");
        peer.etcdctl(&server, &["get", "key", "--print-value-only", &revision], b"").trim_end().to_string()
    };
    assert_eq!(at(first), first.to_string());
    assert_eq!(at(250_000), "250000");
    peer.etcdctl(&server, &["compaction", "399000", "--physical"], b"");
    assert_eq!(at(399_500), "399500");
    peer.etcdctl(&server, &["put", "key", "new"], b"");
    server.stop();
    let stopped = restored.join("member/snap/db");
    agree(&peer, &stopped);
    let usage = Database::open(&stopped).unwrap().check().unwrap();
    assert!(usage.entries < 1_100 && usage.free_pages > 3_000, "{usage:?}");
}

/// The record of the version of a key "key" that a revision made, its value that revision.
fn key_value(revision: u64, version: u64) -> Vec<u8> {
    fn varint(out: &mut Vec<u8>, mut number: u64) {
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    }
    let value = revision.to_string();
    let mut out = b"\x0a\x03key".to_vec();
    for (tag, number) in [(0x10, 2), (0x18, revision), (0x20, version), (0x2a, value.len() as u64)] {
        out.push(tag);
        varint(&mut out, number);
    }
    out.extend_from_slice(value.as_bytes());
    out
}
