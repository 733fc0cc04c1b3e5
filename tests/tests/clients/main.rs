//! Clients written by others against our server: stock `etcdctl` of two lines, Python's `etcd3`, and (with
//! the feature `etcd-client`) the etcd-client crate. What they print or return is compared with what they
//! give on a stock etcd.

#[cfg(feature = "etcd-client")]
mod etcd_client;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use integration::cluster::{Cluster, Member};
use integration::{binary, bounded};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(120);

/// What a command printed, and how it ended.
struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

struct Ctl<'a> {
    program: &'a Path,
    member: &'a Member,
}

impl Ctl<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCDCTL_") {
                command.env_remove(name);
            }
        }
        command.env("ETCDCTL_API", "3").kill_on_drop(true);
        command.arg(format!("--endpoints={}", self.member.client_address())).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, args: &[&str], input: &str) -> Output {
        let mut child = self.command(args).spawn().expect("run etcdctl");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).await.expect("stdin");
        drop(stdin);
        let output = child.wait_with_output().await.expect("run etcdctl");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Standard output of a command that must succeed.
    async fn stdout(&self, args: &[&str]) -> String {
        let output = self.run(args, "").await;
        assert_eq!(output.code, 0, "{args:?}: {}", output.stderr);
        output.stdout
    }

    async fn expect(&self, args: &[&str], stdout: &str) {
        assert_eq!(self.stdout(args).await, stdout, "{args:?}");
    }

    async fn expect_error(&self, args: &[&str], message: &str) {
        let output = self.run(args, "").await;
        assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{args:?}: {}", output.stderr);
        assert_eq!(output.stderr.lines().last(), Some(format!("Error: {message}").as_str()), "{args:?}");
    }
}

async fn keys_and_transactions(ctl: &Ctl<'_>) {
    ctl.expect(&["put", "foo", "bar"], "OK\n").await;
    ctl.expect(&["put", "--prev-kv", "foo", "baz"], "OK\nfoo\nbar\n").await;
    ctl.expect(&["get", "foo"], "foo\nbaz\n").await;
    ctl.expect(&["get", "foo", "--rev=2"], "foo\nbar\n").await;
    ctl.expect(&["get", "nothing"], "").await;
    let header = ctl.member.client().status().await.expect("status").header.expect("header");
    let json = format!(
        "{{\"header\":{{\"cluster_id\":{},\"member_id\":{},\"revision\":3,\"raft_term\":{}}},\"kvs\":[{{\"key\":\
         \"Zm9v\",\"create_revision\":2,\"mod_revision\":3,\"version\":2,\"value\":\"YmF6\"}}],\"count\":1}}\n",
        header.cluster_id, header.member_id, header.raft_term
    );
    ctl.expect(&["get", "foo", "-w", "json"], &json).await;
    for (key, value) in [("n/1", "3"), ("n/2", "1"), ("n/3", "2")] {
        ctl.expect(&["put", key, value], "OK\n").await;
    }
    ctl.expect(&["get", "n/", "--prefix", "--print-value-only", "--sort-by=VALUE"], "1\n2\n3\n").await;
    ctl.expect(&["get", "n/", "--prefix", "--keys-only", "--order=DESCEND", "--limit=2"], "n/3\n\nn/2\n\n")
        .await;
    ctl.expect(&["get", "n/2", "n/4"], "n/2\n1\nn/3\n2\n").await;
    ctl.expect(&["get", "n/2", "--from-key"], "n/2\n1\nn/3\n2\n").await;
    ctl.expect(&["del", "n/3", "--prev-kv"], "1\nn/3\n2\n").await;
    ctl.expect(&["del", "n/3"], "0\n").await;

    let txn = "value(\"foo\") = \"baz\"\n\nput t new\nget t\ndel foo\n\nput t other\n\n";
    let output = ctl.run(&["txn"], txn).await;
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (0, "SUCCESS\n\nOK\n\nt\nnew\n\n1\n"),
        "{}",
        output.stderr
    );
    let output = ctl.run(&["txn"], txn).await;
    assert_eq!((output.code, output.stdout.as_str()), (0, "FAILURE\n\nOK\n"), "{}", output.stderr);

    ctl.expect_error(&["put", "", "x"], "etcdserver: key is not provided").await;
    ctl.expect_error(&["get", "t", "--rev=999"], "etcdserver: mvcc: required revision is a future revision")
        .await;
    ctl.expect_error(&["put", "x", "y", "--lease=7f"], "etcdserver: requested lease not found").await;
}

async fn watches(ctl: &Ctl<'_>) {
    let revision = ctl.member.client().put("w/a", "1").await.expect("put");
    let start = format!("--rev={revision}");
    let mut child =
        ctl.command(&["watch", "w/", "--prefix", "--prev-kv", &start]).spawn().expect("run etcdctl");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut expect = async |expected: &[&str]| {
        for line in expected {
            assert_eq!(lines.next_line().await.expect("stdout").as_deref(), Some(*line));
        }
    };
    // History, then what happens from now on.
    expect(&["PUT", "w/a", "1"]).await;
    ctl.expect(&["put", "w/a", "2"], "OK\n").await;
    expect(&["PUT", "w/a", "1", "w/a", "2"]).await;
    ctl.expect(&["del", "w/a"], "1\n").await;
    expect(&["DELETE", "w/a", "2", "w/a", ""]).await;
    child.kill().await.expect("kill");
}

async fn leases(ctl: &Ctl<'_>) {
    let granted = ctl.stdout(&["lease", "grant", "1000"]).await;
    let id = granted.strip_prefix("lease ").and_then(|rest| rest.strip_suffix(" granted with TTL(1000s)\n"));
    let id = id.unwrap_or_else(|| panic!("{granted:?}"));
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    ctl.expect(&["put", "leased", "v", &format!("--lease={id}")], "OK\n").await;
    ctl.expect(&["lease", "list"], &format!("found 1 leases\n{id}\n")).await;
    let left = ctl.stdout(&["lease", "timetolive", id, "--keys"]).await;
    let start = format!("lease {id} granted with TTL(1000s), remaining(");
    assert!(left.starts_with(&start) && left.ends_with("s), attached keys([leased])\n"), "{left:?}");
    let renewed = format!("lease {id} keepalived with TTL(1000)\n");
    ctl.expect(&["lease", "keep-alive", "--once", id], &renewed).await;
    ctl.expect(&["lease", "revoke", id], &format!("lease {id} revoked\n")).await;
    ctl.expect(&["get", "leased"], "").await;
    ctl.expect(&["lease", "timetolive", id], &format!("lease {id} already expired\n")).await;
    let refused = "failed to revoke lease (etcdserver: requested lease not found)";
    ctl.expect_error(&["lease", "revoke", id], refused).await;
}

async fn members_and_maintenance(ctl: &Ctl<'_>) {
    let member = ctl.member;
    let status = member.client().status().await.expect("status");
    let id = format!("{:x}", status.header.expect("header").member_id);
    let list = format!("{id}, started, {}, {}, {}, false\n", member.name, member.peer_url, member.client_url);
    ctl.expect(&["member", "list"], &list).await;
    let line = ctl.stdout(&["endpoint", "status"]).await;
    let fields: Vec<&str> = line.trim_end_matches('\n').split(", ").collect();
    assert_eq!(fields.len(), 10, "{line:?}");
    assert_eq!(fields[..3], [member.client_address(), &id, &status.version]);
    assert_eq!((fields[4], fields[5], fields[9]), ("true", "false", ""), "{line:?}");
    assert_eq!(fields[6], status.raft_term.to_string());
    // The older etcdctl says so on standard error.
    let health = ctl.run(&["endpoint", "health"], "").await;
    let told = format!("{} is healthy: successfully committed proposal: took = ", member.client_address());
    assert_eq!(health.code, 0);
    assert!((health.stdout + &health.stderr).starts_with(&told));
    ctl.expect(&["alarm", "list"], "").await;
    ctl.expect(&["lock", "a-lock", "echo", "held"], "held\n").await;

    let revision = member.client().revision().await.expect("revision").to_string();
    ctl.expect(&["compaction", &revision], &format!("compacted revision {revision}\n")).await;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    ctl.expect_error(&["compaction", &revision], compacted).await;
    ctl.expect_error(&["get", "foo", "--rev=2"], compacted).await;
    let watch = ctl.run(&["watch", "foo", "--rev=2"], "").await;
    assert_eq!(watch.code, 5, "{}", watch.stderr);
    assert!(
        watch.stderr.contains("watch was canceled (etcdserver: mvcc: required revision has been compacted)")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_etcdctl() {
    let programs = binary::etcdctls();
    bounded(LIMIT * 2, async {
        for program in &programs {
            // A fresh server each, so that revisions in answers are known.
            let cluster = Cluster::start(&binary::ours(), 1).await;
            println!("{}", program.display());
            let ctl = Ctl { program, member: &cluster.members[0] };
            keys_and_transactions(&ctl).await;
            watches(&ctl).await;
            leases(&ctl).await;
            members_and_maintenance(&ctl).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_etcd3() {
    bounded(LIMIT, async {
        let python = |args: &[&str]| {
            let mut command = Command::new("python3");
            // The package's generated code is older than what current protobuf runs natively.
            command.env("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python").args(args).kill_on_drop(true);
            command.stdin(Stdio::null());
            command
        };
        let importable =
            python(&["-c", "import etcd3"]).output().await.is_ok_and(|output| output.status.success());
        if !importable {
            binary::missing("the Python module etcd3 is not importable (`tools/setup --tests` installs it)");
            return;
        }
        let cluster = Cluster::start(&binary::ours(), 1).await;
        let (host, port) = cluster.members[0].client_address().split_once(':').expect("host and port");
        let output = python(&["-c", include_str!("etcd3.py"), host, port]).output().await.expect("python3");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout == "passed\n", "{stdout}{stderr}");
    })
    .await;
}

#[cfg(not(feature = "etcd-client"))]
#[test]
fn etcd_client_crate() {
    println!("skipped: built without the feature `etcd-client`");
}
