//! Runs our etcdctl beside the real one of etcd 3.5 and compares what they print, byte for byte: standard output,
//! standard error and exit code.
//! Two real servers start as twins, with the same cluster and member ids; each command of a story goes to one twin
//! through theirs and to the other through ours, so that commands that write leave both equal. `plain.txt` says how
//! stories are written; `auth.txt` has users and roles, `members.txt` changes of the cluster, `secure.txt` and
//! `own.txt` TLS.
//! Needs `etcd` and `etcdctl` 3.5 in the directory `ETCD_PEER_DIR` names, or on the PATH; without them it skips, or
//! fails where `KEELSON_REQUIRE_PEER=1`.

mod case;
mod certificates;
mod operator;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use case::{Case, Place};
use server::Server;

const OURS: &str = env!("CARGO_BIN_EXE_etcdctl");

/// The directory's or the PATH's `etcd` and `etcdctl`, if they are of the 3.5 line; else says that the test is skipped,
/// or fails it where peers are required.
fn peer() -> Option<(PathBuf, PathBuf)> {
    let directory = std::env::var_os("ETCD_PEER_DIR").map(PathBuf::from);
    let program =
        |name: &str| directory.as_ref().map_or_else(|| name.into(), |directory| directory.join(name));
    let (etcd, etcdctl): (PathBuf, PathBuf) = (program("etcd"), program("etcdctl"));
    let version = Command::new(&etcdctl).arg("version").env("ETCDCTL_API", "3").output();
    if version.is_ok_and(|output| output.stdout.starts_with(b"etcdctl version: 3.5.")) {
        return Some((etcd, etcdctl));
    }
    let reason =
        "no etcd and etcdctl 3.5 in ETCD_PEER_DIR or on the PATH (`tools/setup --peers` installs them)";
    let required = std::env::var("KEELSON_REQUIRE_PEER").is_ok_and(|value| value == "1");
    assert!(!required, "required by KEELSON_REQUIRE_PEER=1: {reason}");
    println!("skipped: {reason}");
    None
}

/// Every difference between the clients in a story, told to twins.
async fn compare(story: &'static str, theirs: &Path, twins: [&Server; 2], directory: &Path) -> usize {
    let mut differences = String::new();
    let mut compared = 0;
    let places = twins.map(|server| Place { server, directory });
    for line in story.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line {
            "= grant lease 77" => {
                twins[0].grant_lease().await;
                twins[1].grant_lease().await;
                continue;
            }
            "= raise alarm" => {
                twins[0].raise_alarm().await;
                twins[1].raise_alarm().await;
                continue;
            }
            _ => {}
        }
        let case = Case::parse(line);
        let expected = case.run(theirs, places[0]).await;
        let found = case.run(Path::new(OURS), places[usize::from(!case.same_server)]).await;
        compared += 1;
        if expected != found {
            differences.push_str(&format!("{}\n  theirs {expected:?}\n  ours   {found:?}\n", case.line));
        }
    }
    assert!(differences.is_empty(), "{differences}");
    compared
}

/// The same for twins of their own.
async fn tell(story: &'static str, least: usize) {
    let Some((etcd, theirs)) = peer() else { return };
    let twins = [Server::start(&etcd, "http", &[]), Server::start(&etcd, "http", &[])];
    let directory = tempfile::tempdir().unwrap();
    let compared = compare(story, &theirs, [&twins[0], &twins[1]], directory.path()).await;
    assert!(compared > least, "only {compared} commands compared");
}

#[tokio::test]
async fn prints_what_etcdctl_prints() {
    tell(include_str!("plain.txt"), 100).await;
}

#[tokio::test]
async fn users_and_roles() {
    tell(include_str!("auth.txt"), 100).await;
}

#[tokio::test]
async fn members_and_snapshots() {
    tell(include_str!("members.txt"), 30).await;
}

#[tokio::test]
async fn certificates() {
    let Some((etcd, theirs)) = peer() else { return };
    let directory = tempfile::tempdir().unwrap();
    certificates::write(directory.path());
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let identity = ["--cert-file", &cert, "--key-file", &key];
    let mutual = [&identity[..], &["--client-cert-auth", "--trusted-ca-file", &ca]].concat();
    let (cert, key) = (file("own.pem"), file("own.key"));
    let own = ["--cert-file", &cert, "--key-file", &key, "--client-cert-auth", "--trusted-ca-file", &cert];
    for (story, args) in [
        (include_str!("secure.txt"), &identity[..]),
        (include_str!("mutual.txt"), &mutual[..]),
        (include_str!("own.txt"), &own[..]),
    ] {
        let twins = [Server::start(&etcd, "https", args), Server::start(&etcd, "https", args)];
        let compared = compare(story, &theirs, [&twins[0], &twins[1]], directory.path()).await;
        assert!(compared > 5, "only {compared} commands compared");
    }
}

/// What stands last in the log line of a client that could not connect.
fn cause(program: &Path, args: &[&str]) -> String {
    let limit = ["--command-timeout", "1s", "get", "a"];
    let output = Command::new(program).env_clear().args(args).args(limit).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let cause = text.split_once("last connection error: ").and_then(|(_, rest)| rest.split_once("\"}\n"));
    cause.unwrap_or_else(|| panic!("no cause in {text}")).0.to_owned()
}

#[tokio::test]
async fn says_why_it_cannot_connect() {
    let Some((etcd, theirs)) = peer() else { return };
    let directory = tempfile::tempdir().unwrap();
    certificates::write(directory.path());
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (ca, other, elsewhere) = (file("ca.pem"), file("other-ca.pem"), file("elsewhere.pem"));
    let serve = |name: &str| {
        let (cert, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        let identity = ["--cert-file", &cert, "--key-file", &key];
        let server = Server::start(&etcd, "https", &[&identity[..], &["--trusted-ca-file", &ca]].concat());
        (format!("https://{}", server.endpoint()), server)
    };
    let ((known, _known), (misnamed, _misnamed)) = (serve("server"), serve("elsewhere"));
    let nobody = "127.0.0.1:1";
    for args in [
        &["--endpoints", &known][..],
        &["--endpoints", &known, "--cacert", &other],
        &["--endpoints", &known, "--cacert", &ca],
        &["--endpoints", &known, "--cacert", &ca, "--user", "a:b"],
        &["--endpoints", &misnamed, "--cacert", &elsewhere],
        &["--endpoints", nobody],
    ] {
        assert_eq!(cause(Path::new(OURS), args), cause(&theirs, args), "{args:?}");
    }
}

#[tokio::test]
async fn moves_the_leader() {
    let Some((etcd, theirs)) = peer() else { return };
    let members = Server::start_cluster(&etcd);
    let run = |program: &Path, target: u64, endpoints: &[String]| {
        let endpoints = endpoints.join(",");
        let args = ["move-leader", &format!("{target:x}"), "--endpoints", &endpoints];
        let output = Command::new(program).env_clear().args(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code())
    };
    let all: Vec<String> = members.iter().map(Server::endpoint).collect();
    for program in [Path::new(OURS), &theirs] {
        let (mut leader, mut follower, mut followers) = (0, 0, Vec::new());
        for member in &members {
            let (id, its_leader) = member.ids().await;
            // Only the leader itself is sure to know at once.
            if id == its_leader {
                leader = id;
            } else {
                follower = id;
                followers.push(member.endpoint());
            }
        }
        let refusal = format!("Error: no leader endpoint given at [{}]\n", followers.join(" "));
        assert_eq!(run(program, follower, &followers), (String::new(), refusal, Some(128)));
        let done = format!("Leadership transferred from {leader:x} to {follower:x}\n");
        assert_eq!(run(program, follower, &all), (done, String::new(), Some(0)));
    }
}
