//! What an operator does with several commands, or with one that holds on: checked for our client against real
//! servers, beyond what a line of a story can say.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::certificates;
use crate::server::{Server, free_port};
use crate::{OURS, peer};

const PATIENCE: Duration = Duration::from_secs(10);

fn command(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(OURS);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("ETCDCTL_ENDPOINTS", server.endpoint()).args(args);
    command
}

fn run(server: &Server, args: &[&str]) -> Output {
    command(server, args).stdin(Stdio::null()).output().unwrap()
}

/// Standard output of a command that must succeed.
fn done(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A command that goes on, killed when dropped.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(server: &Server, args: &[&str]) -> Self {
        let mut child = command(server, args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    /// Whether it prints something before it is lost patience with.
    fn prints(&mut self) -> bool {
        let (child, lines) = (&mut self.child, &mut self.lines);
        let (done, waiting) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    child.kill().unwrap();
                }
            });
            let printed = !lines.fill_buf().unwrap().is_empty();
            drop(done);
            printed
        })
    }

    fn interrupt(&mut self) -> Option<i32> {
        let kill = Command::new("sh").args(["-c", &format!("kill -INT {}", self.child.id())]).status();
        assert!(kill.unwrap().success());
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_snapshot_is_whole_and_replaces_the_one_before() {
    let Some((etcd, etcdctl)) = peer() else { return };
    let server = Server::start(&etcd, "http", &[]);
    done(&server, &["put", "a", &"x".repeat(100_000)]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot");
    let file = path.to_str().unwrap();
    std::fs::write(&path, "an older one").unwrap();
    assert_eq!(done(&server, &["snapshot", "save", file]), format!("Snapshot saved at {file}\n"));
    assert!(!directory.path().join("snapshot.part").exists());
    // The stock client reads and checks it.
    let status = Command::new(etcdctl).args(["snapshot", "status", file, "-w", "json"]).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    let restored = directory.path().join("restored");
    let mut restore = Command::new(etcd.with_file_name("etcdutl"));
    restore.args(["snapshot", "restore", file, "--data-dir"]).arg(&restored);
    let restored = restore.output().unwrap();
    assert!(restored.status.success(), "{restored:?}");
}

#[tokio::test]
async fn a_member_starts_with_what_was_printed_and_is_promoted() {
    let Some((etcd, _)) = peer() else { return };
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let first = Server::start_member(&etcd, "first", ("http", port), &url, &format!("first={url}"), &[]);
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let printed = done(&first, &["member", "add", "second", "--learner", "--peer-urls", &url]);
    let id = format!("{:x}", first.added_member().await.unwrap());
    let value = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches('"').to_owned()
    };
    assert_eq!(value("ETCD_NAME="), "second");
    assert_eq!(value("ETCD_INITIAL_ADVERTISE_PEER_URLS="), url);
    let state = value("ETCD_INITIAL_CLUSTER_STATE=");
    let cluster = value("ETCD_INITIAL_CLUSTER=");
    let _second = Server::start_member(
        &etcd,
        "second",
        ("http", port),
        &url,
        &cluster,
        &["--initial-cluster-state", &state],
    );
    // A learner may be promoted when it has caught up, which its leader learns a moment after it serves.
    let promoted = loop {
        let output = run(&first, &["member", "promote", &id]);
        let said = String::from_utf8(output.stderr).unwrap();
        match output.status.success() {
            true => break String::from_utf8(output.stdout).unwrap(),
            false => assert!(said.contains("in sync with leader"), "{said}"),
        }
    };
    assert!(promoted.starts_with(&format!("Member {id:>16} promoted in cluster ")), "{promoted}");
    let members = done(&first, &["member", "list"]);
    assert!(members.contains(&format!("{id}, started, second, {url}")), "{members}");
}

/// The server forgets all logins while the lock is held; leaving takes a new one.
#[test]
fn a_login_is_renewed_when_it_was_forgotten() {
    let Some((etcd, _)) = peer() else { return };
    let mut server = Server::start(&etcd, "http", &[]);
    done(&server, &["user", "add", "root:pw"]);
    done(&server, &["auth", "enable"]);
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let script = format!("echo $ETCD_LOCK_KEY $ETCD_LOCK_REV; read line < {}; echo $line", pipe.display());
    let mut lock = Running::start(&server, &["--user", "root:pw", "lock", "l", "--", "sh", "-c", &script]);
    let held = lock.line();
    let (key, revision) = held.trim().split_once(' ').unwrap();
    assert!(key.starts_with("l/") && revision == "2", "{held}");
    server.restart();
    std::fs::write(&pipe, "let go\n").unwrap();
    assert_eq!(lock.line(), "let go\n");
    assert_eq!(lock.child.wait().unwrap().code(), Some(0));
    assert_eq!(done(&server, &["--user", "root:pw", "get", "l", "--prefix"]), "");
}

#[test]
fn locks_wait_for_one_another() {
    let Some((etcd, theirs)) = peer() else { return };
    let server = Server::start(&etcd, "http", &[]);
    let mut first = Running::start(&server, &["lock", "l"]);
    let held = first.line();
    assert!(held.starts_with("l/"), "{held}");
    assert_eq!(first.line(), "\n");
    let second = Running::start(&server, &["lock", "l", "echo", "second"]);
    // The real client queues behind ours, and ours behind it.
    let mut queue = [second, Running::start(&server, &["lock", "l", "echo", "third"])];
    let mut stock = Command::new(theirs);
    stock.env_clear().env("PATH", "/usr/bin:/bin").env("ETCDCTL_ENDPOINTS", server.endpoint());
    let stock = stock.args(["lock", "l", "echo", "stock"]).stdout(Stdio::piped()).spawn().unwrap();
    while done(&server, &["get", "l/", "--prefix", "--keys-only"])
        .lines()
        .filter(|key| !key.is_empty())
        .count()
        < 4
    {}
    assert_eq!(first.interrupt(), Some(0));
    assert_eq!(stock.wait_with_output().unwrap().stdout, b"stock\n");
    for (waiting, word) in queue.iter_mut().zip(["second\n", "third\n"]) {
        assert_eq!(waiting.line(), word);
        assert!(waiting.child.wait().unwrap().success());
    }
    assert_eq!(done(&server, &["get", "l/", "--prefix"]), "");
}

#[test]
fn an_interrupted_wait_leaves_the_queue() {
    let Some((etcd, _)) = peer() else { return };
    let server = Server::start(&etcd, "http", &[]);
    let mut first = Running::start(&server, &["lock", "l"]);
    let held = first.line();
    let mut second = Running::start(&server, &["lock", "l"]);
    let keys = || done(&server, &["get", "l/", "--prefix", "--keys-only"]);
    while keys().lines().filter(|key| !key.is_empty()).count() < 2 {}
    assert_eq!(second.interrupt(), Some(1));
    assert_eq!(keys().trim(), held.trim());
}

#[test]
fn an_election_is_watched_from_one_leader_to_the_next() {
    let Some((etcd, _)) = peer() else { return };
    let server = Server::start(&etcd, "http", &[]);
    let mut observer = Running::start(&server, &["elect", "-l", "e"]);
    let mut leader = Running::start(&server, &["elect", "e", "one"]);
    let key = leader.line();
    assert_eq!(leader.line(), "one\n");
    assert_eq!([observer.line(), observer.line()], [key.clone(), "one\n".into()]);
    done(&server, &["put", key.trim(), "changed", "--ignore-lease"]);
    assert_eq!([observer.line(), observer.line()], [key, "changed\n".into()]);
    let mut next = Running::start(&server, &["elect", "e", "two"]);
    while done(&server, &["get", "e/", "--prefix", "--keys-only"])
        .lines()
        .filter(|key| !key.is_empty())
        .count()
        < 2
    {}
    assert_eq!(leader.interrupt(), Some(0));
    let key = next.line();
    assert_eq!(next.line(), "two\n");
    assert_eq!([observer.line(), observer.line()], [key, "two\n".into()]);
    assert_eq!(observer.interrupt(), Some(0));
}

/// Messages end with no newline, and what reads them waits for each.
#[test]
fn a_stream_of_messages_is_not_held_back() {
    let Some((etcd, _)) = peer() else { return };
    let server = Server::start(&etcd, "http", &[]);
    done(&server, &["put", "a", "1"]);
    let granted = done(&server, &["lease", "grant", "600"]);
    let lease = granted.split(' ').nth(1).unwrap();
    let _leader = Running::start(&server, &["elect", "e", "one"]);
    for args in [
        &["watch", "a", "--rev", "1"][..],
        &["lease", "keep-alive", lease],
        &["elect", "-l", "e"],
        &["lock", "l"],
    ] {
        let mut running = Running::start(&server, &[args, &["-w", "protobuf"]].concat());
        assert!(running.prints(), "{args:?}");
    }
}

#[test]
fn a_mirror_has_what_was_there_and_follows() {
    let Some((etcd, _)) = peer() else { return };
    let (source, mirror) = (Server::start(&etcd, "http", &[]), Server::start(&etcd, "http", &[]));
    for (key, value) in [("a/1", "one"), ("a/2", "two"), ("b", "not this")] {
        done(&source, &["put", key, value]);
    }
    let destination = mirror.endpoint();
    let _mirroring =
        Running::start(&source, &["make-mirror", "--prefix", "a/", "--dest-prefix", "c/", &destination]);
    let mut watch = Running::start(&mirror, &["watch", "--prefix", "", "--rev", "1"]);
    let mut event = || [watch.line(), watch.line(), watch.line()].concat();
    assert_eq!([event(), event()], ["PUT\nc/1\none\n", "PUT\nc/2\ntwo\n"]);
    let mut txn = command(&source, &["txn"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    txn.stdin.take().unwrap().write_all(b"\nput a/3 three\ndel a/1\n\n\n").unwrap();
    assert!(txn.wait().unwrap().success());
    let mut both = [event(), event()];
    both.sort();
    assert_eq!(both, ["DELETE\nc/1\n\n", "PUT\nc/3\nthree\n"]);
}

/// etcdctl 3.5 does not have it; the server has all but the enabling itself.
#[test]
fn downgrades() {
    let Some((etcd, _)) = peer() else { return };
    let server = Server::start(&etcd, "http", &[]);
    for (args, code, said) in [
        (&["validate", "3.4"][..], 0, "Downgrade validate success, cluster version 3.5.0\n"),
        (&["validate", "3.3"], 1, "Error: etcdserver: invalid downgrade target version\n"),
        (&["validate", "x"], 1, "Error: etcdserver: wrong downgrade target version format\n"),
        (&["cancel"], 1, "Error: etcdserver: no inflight downgrade job\n"),
        (&["validate"], 128, "Error: TARGET_VERSION not provided\n"),
        (&["enable"], 128, "Error: TARGET_VERSION not provided\n"),
        (&["enable", ""], 128, "Error: target version not provided\n"),
        (&["validate", "3.4", "3.3"], 128, "Error: too many arguments\n"),
        (&["validate", "3.4", "-w", "fields"], 4, "Error: fields not supported as output format\n"),
    ] {
        let output = run(&server, &[&["downgrade"], args].concat());
        let found = [output.stdout, output.stderr].concat();
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&found).as_ref()),
            (Some(code), said),
            "{args:?}"
        );
    }
    let json = done(&server, &["downgrade", "validate", "3.4", "-w", "json"]);
    assert!(json.starts_with("{\"header\":{") && json.ends_with(",\"version\":\"3.5.0\"}\n"), "{json}");
}

/// The first endpoint is asked for its memory as it is for keys, with TLS or without.
#[test]
fn datascale_tells_memory_and_leaves_no_keys() {
    let Some((etcd, _)) = peer() else { return };
    let directory = tempfile::tempdir().unwrap();
    certificates::write(directory.path());
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let plain = Server::start(&etcd, "http", &[]);
    let secure = Server::start(&etcd, "https", &["--cert-file", &cert, "--key-file", &key]);
    for (server, trust) in [(&plain, &[][..]), (&secure, &["--cacert", &ca])] {
        let printed =
            done(server, &[&["check", "datascale", "--auto-compact", "--auto-defrag"], trust].concat());
        let mut lines = printed.lines();
        let first = "Start data scale check for work load [10000 key-value pairs, 1024 bytes per key-value, \
                     50 concurrent clients].";
        assert_eq!(lines.next(), Some(first));
        assert!(lines.next().unwrap().ends_with("\r 10000 / 10000 100.00%"), "{printed}");
        // One for each key, and one for the deletion of all.
        assert_eq!(lines.next(), Some("Compacting with revision 10002"));
        let last = lines.last().unwrap();
        assert!(
            last.starts_with("PASS: Approximate system memory used : ") && last.ends_with(" MB."),
            "{last}"
        );
        assert_eq!(done(server, &[&["get", "--prefix", ""], trust].concat()), "");
    }
}

/// A password is not shown on a terminal, and the terminal shows again what is typed afterwards.
#[test]
fn passwords_are_typed_unseen() {
    let Some((etcd, _)) = peer() else { return };
    let server = Server::start(&etcd, "http", &[]);
    done(&server, &["user", "add", "root:pw"]);
    done(&server, &["auth", "enable"]);
    let line = format!("{OURS} --endpoints {} --user root get nosuch; stty -a", server.endpoint());
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut terminal = terminal.spawn().unwrap();
    let mut seen = Vec::new();
    let (mut keys, mut screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    while !seen.ends_with(b"Password: ") {
        let mut byte = [0];
        assert_eq!(screen.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
        seen.extend(byte);
    }
    keys.write_all(b"px\x7fw\n").unwrap();
    screen.read_to_end(&mut seen).unwrap();
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("Password: \r\n") && !seen.contains("pw"), "{seen}");
    assert!(seen.contains(" echo ") && !seen.contains("Error"), "{seen}");
    terminal.wait().unwrap();
}
