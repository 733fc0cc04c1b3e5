//! TLS over real processes: who is admitted, what may change while the server runs, members among themselves, stock
//! programs. Names and revocation in detail are tested beside the module.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use integration::binary::{self, Binary};
use integration::cluster::{Cluster, Host, Member, START_LIMIT, free_port, free_url};
use integration::tls::{Authority, Dialler};
use integration::{bounded, eventually, http, setting};
use proto::etcdserverpb::WatchCreateRequest;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(120);

fn authority(directory: &Path, name: &str) -> Authority {
    let authority = Authority::new(&directory.join(name), name);
    authority.issue("server", &["127.0.0.1", "localhost"], 1, |_| {});
    authority.issue("client", &[], 2, |_| {});
    authority.issue("peer", &["127.0.0.1"], 3, |_| {});
    authority
}

/// One member that serves clients by TLS too; the address of that.
async fn secure_member(flags: Vec<String>) -> (Cluster, String) {
    let address = format!("127.0.0.1:{}", free_port(&Host::loopback()));
    let mut cluster = Cluster::builder(&binary::ours(), 1).args(flags).build();
    let member = &mut cluster.members[0];
    let urls = format!("{},https://{address}", member.client_url);
    member.args.push(format!("--listen-client-urls={urls}"));
    member.args.push(format!("--advertise-client-urls={urls}"));
    cluster.start_all().await;
    (cluster, address)
}

/// A refusal reaches the client before the log.
async fn logged(member: &Member, text: &str) {
    eventually(text, START_LIMIT, || async {
        let log = member.log_text();
        if log.contains(text) { Ok(()) } else { Err(log) }
    })
    .await;
}

async fn put(client: Dialler, address: &str) -> Result<i64, String> {
    client.grpc(address).put("key", "value").await.map_err(|status| format!("{status:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_meet_listeners() {
    bounded(LIMIT, async {
        let directory = tempfile::tempdir().expect("a directory");
        let ours = authority(directory.path(), "ours");
        let theirs = authority(directory.path(), "theirs");
        ours.issue("revoked", &[], 77, |_| {});
        ours.issue_expired("expired", 4);
        ours.issue("elsewhere", &["m9.example"], 5, |_| {});
        ours.revoke(&[77]);
        let mut mutual_flags = ours.client_flags(true);
        mutual_flags.push(format!("--client-crl-file={}", ours.file("crl.der")));
        let (one_sided, tls) = secure_member(ours.client_flags(false)).await;
        let (both_sided, mutual) = secure_member(mutual_flags.clone()).await;
        mutual_flags.push("--client-cert-allowed-hostname=m9.example".into());
        let (_picky, picky) = secure_member(mutual_flags).await;

        let wrong_host = || ours.client(Some("client")).expecting("m0.example");
        let cases = [
            ("any client by TLS", &tls, ours.client(None), true),
            ("a certificate that is not asked for", &tls, ours.client(Some("client")), true),
            ("a client that trusts others", &tls, theirs.client(None), false),
            ("the wrong host", &tls, wrong_host(), false),
            ("a good certificate", &mutual, ours.client(Some("client")), true),
            ("no certificate", &mutual, ours.client(None), false),
            ("a certificate of others", &mutual, ours.client_of(&theirs, Some("client")), false),
            ("a revoked one", &mutual, ours.client(Some("revoked")), false),
            ("an expired one", &mutual, ours.client(Some("expired")), false),
            ("the wrong host", &mutual, wrong_host(), false),
            ("an allowed name", &picky, ours.client(Some("elsewhere")), true),
            ("another name", &picky, ours.client(Some("client")), false),
        ];
        for (what, address, client, welcome) in cases {
            let outcome = put(client, address).await;
            assert_eq!(outcome.is_ok(), welcome, "{what}: {outcome:?}");
        }
        for text in [
            "rejected connection on client endpoint",
            "transport: certificate serial 4d revoked",
            "tls: client didn't provide a certificate",
            "x509: certificate signed by unknown authority",
        ] {
            logged(&both_sided.members[0], text).await;
        }

        // Plain where TLS is spoken, and the other way round.
        let answer =
            http::exchange(&tls, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains("Client sent an HTTP request to an HTTPS server"), "{answer}");
        let member = &one_sided.members[0];
        assert!(put(ours.client(None), member.client_address()).await.is_err());
        member.client().put("plain", "still works").await.expect("a plain put");
        for text in [
            "tls: first record does not look like a TLS handshake",
            "a TLS handshake on a plain http port",
            "serving client traffic securely",
        ] {
            logged(member, text).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_paths_by_both_protocols() {
    bounded(LIMIT, async {
        let directory = tempfile::tempdir().expect("a directory");
        let ours = authority(directory.path(), "ours");
        let metrics = format!("127.0.0.1:{}", free_port(&Host::loopback()));
        let mut flags = ours.client_flags(false);
        flags.push(format!("--listen-metrics-urls=https://{metrics}"));
        flags.push("--host-whitelist=nobody.example".into());
        let (cluster, address) = secure_member(flags).await;
        let client = ours.client(None);
        for protocol in ["http/1.1", "h2"] {
            for (address, path, text) in [
                (&address, "/health", "\"health\":\"true\""),
                (&address, "/version", "etcdserver"),
                (&address, "/metrics", "etcd_server_has_leader 1"),
                (&metrics, "/health", "\"health\":\"true\""),
                (&metrics, "/metrics", "etcd_server_has_leader 1"),
            ] {
                let answer = client.get(address, protocol, path).await.expect(path);
                assert!(
                    answer.status() == 200 && answer.body().contains(text),
                    "{protocol} {path}: {answer:?}"
                );
            }
        }
        // The list of hosts is for plain connections.
        let refused = http::get(cluster.members[0].client_address(), "/health").await.expect("an answer");
        assert_eq!(refused.status, 421);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_outlive_new_certificates() {
    bounded(LIMIT * 2, async {
        let directory = tempfile::tempdir().expect("a directory");
        let ours = authority(directory.path(), "ours");
        ours.revoke(&[]);
        let mut flags = ours.client_flags(true);
        flags.push(format!("--client-crl-file={}", ours.file("crl.der")));
        let (cluster, address) = secure_member(flags).await;
        let dialler = ours.client(Some("client"));
        let count = setting("KEELSON_TLS_WATCHES", 1_000) as usize;
        let clients: Vec<_> = (0..10).map(|_| dialler.grpc(&address)).collect();
        let mut watches = Vec::new();
        for n in 0..count {
            let request = WatchCreateRequest { key: "watched".into(), ..Default::default() };
            let mut watch = clients[n % clients.len()].open_watch(request).await.expect("a watch");
            assert!(watch.next().await.expect("created").created);
            watches.push(watch);
        }
        let before = dialler.certificate_of(&address).await.expect("a certificate");

        // A broken file changes nothing.
        std::fs::write(ours.file("server.key"), "no key").expect("write");
        logged(&cluster.members[0], "failed to reload client TLS files").await;
        assert_eq!(dialler.certificate_of(&address).await.expect("a certificate"), before);

        ours.issue("server", &["127.0.0.1"], 10, |_| {});
        eventually("the new certificate", START_LIMIT, || async {
            let now = dialler.certificate_of(&address).await.map_err(|error| error.to_string())?;
            if now == before { Err("the old one".into()) } else { Ok(()) }
        })
        .await;
        // Who is revoked meanwhile keeps the connections there are, and gets no new ones, as in etcd.
        ours.revoke(&[2]);
        eventually("the revocation", START_LIMIT, || async {
            match put(dialler.clone(), &address).await {
                Ok(_) => Err("welcome still".to_string()),
                Err(_) => Ok(()),
            }
        })
        .await;
        let revision = cluster.client(0).put("watched", "now").await.expect("a put");
        for watch in &mut watches {
            let answer = watch.next().await.expect("an event");
            assert_eq!(answer.events[0].kv.as_ref().map(|kv| kv.mod_revision), Some(revision));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_keep_nobody_out() {
    bounded(LIMIT, async {
        let directory = tempfile::tempdir().expect("a directory");
        let ours = authority(directory.path(), "ours");
        let (_cluster, address) = secure_member(ours.client_flags(false)).await;
        let mut silent = Vec::new();
        for n in 0..setting("KEELSON_TLS_SILENT", 1_500) {
            match TcpStream::connect(&address).await {
                Ok(mut stream) => {
                    // Half of them begin.
                    if n % 2 == 0 {
                        stream.write_all(&[0x16, 3, 1, 0]).await.expect("a beginning");
                    }
                    silent.push(stream);
                }
                // Out of file handles here, which is no concern of the server.
                Err(_) => break,
            }
        }
        assert!(silent.len() > 200, "only {} connections", silent.len());
        silent.truncate(silent.len() - 20);
        put(ours.client(None), &address).await.expect("a client that speaks");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_trust_each_other_by_certificate() {
    bounded(LIMIT, async {
        let directory = tempfile::tempdir().expect("a directory");
        let ours = authority(directory.path(), "ours");
        let mut flags = ours.peer_flags();
        flags.push("--peer-cert-allowed-cn=other,peer".into());
        let mut cluster = Cluster::builder(&binary::ours(), 3).args(flags).secure_peers().start().await;
        for n in 0..3 {
            cluster.client(n).put(format!("key {n}"), "value").await.expect("a put");
        }
        // Renewals on followers and linearizable reads go from member to member.
        cluster.client(0).grant(5, 60).await.expect("a lease");
        for n in 0..3 {
            assert!(cluster.client(n).keep_alive(5).await.expect("a renewal").ttl > 0);
        }
        cluster.assert_equal_hashes().await;
        let peer = cluster.members[0].peer_address().to_owned();
        assert!(ours.client(None).get(&peer, "http/1.1", "/members").await.is_err());
        let members = ours.client(Some("peer")).get(&peer, "http/1.1", "/members").await.expect("members");
        assert!(members.body().contains("https://127.0.0.1:"), "{members:?}");
        // A certificate from the same authority, with a name that is not allowed.
        assert!(ours.client(Some("client")).get(&peer, "http/1.1", "/members").await.is_err());
        logged(&cluster.members[0], "client certificate authentication failed").await;

        // New certificates for all, one by one; then a restart, which must use them.
        ours.issue("peer", &["127.0.0.1"], 30, |_| {});
        for n in 0..3 {
            cluster.members[n].stop().await;
            cluster.members[n].restart().await;
            cluster.client(n).put(format!("again {n}"), "value").await.expect("a put");
        }
        cluster.assert_equal_hashes().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_can_be_of_their_own_making() {
    bounded(LIMIT, async {
        let flags = ["--auto-tls", "--peer-auto-tls"];
        let mut cluster = Cluster::builder(&binary::ours(), 3).args(flags).secure_peers().start().await;
        cluster.client(1).put("key", "value").await.expect("a put");
        let made = |cluster: &Cluster| {
            let fixtures = cluster.members[0].data_dir.join("fixtures");
            ["client/cert.pem", "client/key.pem", "peer/cert.pem", "peer/key.pem"]
                .map(|file| std::fs::read(fixtures.join(file)).expect(file))
        };
        let before = made(&cluster);
        cluster.members[0].stop().await;
        cluster.members[0].restart().await;
        assert!(made(&cluster) == before, "made again");
        cluster.client(0).put("key", "again").await.expect("a put");
        cluster.assert_equal_hashes().await;
    })
    .await;
}

/// An etcdctl that shows a certificate for `client`, or none.
struct Etcdctl<'a> {
    program: PathBuf,
    address: &'a str,
    authority: &'a Authority,
}

impl Etcdctl<'_> {
    /// Whether it succeeds, and what it prints.
    async fn attempt(&self, certificate: bool, user: &str, words: &str) -> (bool, String) {
        let mut command = Command::new(&self.program);
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints=https://{}", self.address));
        command.arg(format!("--cacert={}", self.authority.file("ca.pem"))).arg("--dial-timeout=1s");
        command.arg("--command-timeout=5s");
        if certificate {
            command.arg(format!("--cert={}", self.authority.file("client.pem")));
            command.arg(format!("--key={}", self.authority.file("client.key")));
        }
        if !user.is_empty() {
            command.arg(format!("--user={user}:secret"));
        }
        let output = command.args(words.split(' ')).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = output.await.expect("etcdctl");
        let text =
            [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
        println!("{} {user} {words}: {}\n{text}", self.program.display(), output.status);
        (output.status.success(), text)
    }

    async fn run(&self, user: &str, words: &str) -> String {
        let (succeeds, text) = self.attempt(true, user, words).await;
        assert!(succeeds, "{user} {words}: {text}");
        text
    }

    async fn refused(&self, user: &str, words: &str, why: &str) {
        let (succeeds, text) = self.attempt(true, user, words).await;
        assert!(!succeeds && text.contains(why), "{user} {words}: {text}");
    }
}

/// Auth, members and snapshots by TLS, with stock etcdctl and our own, as an operator who starts with nothing.
#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_operates_a_secured_member() {
    bounded(LIMIT, async {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = authority(directory.path(), "ours");
        let (cluster, address) = secure_member(authority.client_flags(true)).await;
        let ours = binary::ours().path.with_file_name("etcdctl");
        for program in binary::etcdctls().into_iter().chain([ours]) {
            let etcdctl = Etcdctl { program, address: &address, authority: &authority };
            assert_eq!(etcdctl.run("", "put a b").await, "OK\n");
            assert!(!etcdctl.attempt(false, "", "get a").await.0, "without a certificate");

            etcdctl.run("", "user add root:secret").await;
            etcdctl.run("", "role add root").await;
            for words in [
                "user grant-role root root",
                "role add some",
                "role grant-permission some readwrite a",
                "role grant-permission some read b/ --prefix",
                "user add alice:secret",
                "user grant-role alice some",
                // Who shows a certificate of this name needs no password.
                "user add client --no-password",
                "auth enable",
            ] {
                etcdctl.run("", words).await;
            }
            etcdctl.refused("", "get a", "permission denied").await;
            etcdctl.run("root", "user grant-role client some").await;
            assert_eq!(etcdctl.run("", "get a").await, "a\nb\n");
            etcdctl.run("", "endpoint health").await;

            assert_eq!(etcdctl.run("alice", "put a c").await, "OK\n");
            etcdctl.refused("alice", "put b/1 c", "permission denied").await;
            etcdctl
                .refused("alice", "member add two --peer-urls=http://127.0.0.1:1", "permission denied")
                .await;
            etcdctl.refused("mallory", "get a", "invalid user ID or password").await;
            etcdctl.run("root", "role revoke-permission some a").await;
            etcdctl.refused("alice", "get a", "permission denied").await;
            assert!(etcdctl.run("root", "role get some").await.contains("[b/, b0)"));
            assert_eq!(etcdctl.run("root", "user list").await, "alice\nclient\nroot\n");
            assert!(etcdctl.run("root", "user get alice").await.contains("Roles: some"));

            let url = free_url();
            let added = etcdctl.run("root", &format!("member add two --learner --peer-urls={url}")).await;
            // Short IDs are padded.
            let id = added.split_whitespace().nth(1).expect("Member <id> added to cluster").to_owned();
            etcdctl.refused("root", &format!("member promote {id}"), "learner").await;
            etcdctl.run("root", &format!("member update {id} --peer-urls={}", free_url())).await;
            assert!(etcdctl.run("root", "member list").await.contains(&id));
            etcdctl.run("root", &format!("member remove {id}")).await;

            let file = cluster.path().join("saved.db");
            etcdctl.refused("alice", &format!("snapshot save {}", file.display()), "permission denied").await;
            etcdctl.run("root", &format!("snapshot save {}", file.display())).await;
            let tool = binary::ours().path.with_file_name("etcdutl");
            let status = Command::new(tool).args(["snapshot", "status"]).arg(&file).output().await;
            assert!(status.expect("etcdutl").status.success());

            etcdctl.run("root", "auth disable").await;
            for words in ["user delete alice", "user delete client", "user delete root", "role delete some"] {
                etcdctl.run("", words).await;
            }
            etcdctl.run("", "role delete root").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_members_by_tls() {
    bounded(LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let directory = tempfile::tempdir().expect("a directory");
        let ours = authority(directory.path(), "ours");
        let kinds: [Binary; 3] = [binary::ours(), peer.clone(), peer];
        let mut cluster = Cluster::of(&kinds).args(ours.peer_flags()).secure_peers().start().await;
        for n in 0..3 {
            cluster.client(n).put(format!("key {n}"), "value").await.expect("a put");
        }
        cluster.assert_equal_hashes().await;
        for away in [0, 1] {
            cluster.members[away].stop().await;
            cluster.client(2).put(format!("without {away}"), "value").await.expect("a put");
            cluster.members[away].restart().await;
            cluster.assert_equal_hashes().await;
        }
    })
    .await;
}

/// Processor time of the server for the same requests by TLS and without.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn cost() {
    let directory = tempfile::tempdir().expect("a directory");
    let ours = authority(directory.path(), "ours");
    let (cluster, address) = secure_member(ours.client_flags(true)).await;
    let plain = cluster.members[0].client_address();
    let requests = setting("KEELSON_TLS_REQUESTS", 50_000);
    let used = || async { http::metric(plain, "process_cpu_seconds_total").await.expect("a figure") };
    for round in 0..3 {
        for (what, secure) in [("plain", false), ("TLS", true)] {
            let clients: Vec<_> = (0..4)
                .map(|_| if secure { ours.client(Some("client")).grpc(&address) } else { cluster.client(0) })
                .collect();
            for operation in ["put", "get"] {
                let before = used().await;
                let tasks = (0..64).map(|n| {
                    let client = clients[n % clients.len()].clone();
                    tokio::spawn(async move {
                        for i in 0..requests / 64 {
                            let key = format!("{n}/{}", i % 1000);
                            if operation == "put" {
                                client.put(key, vec![b'v'; 256]).await.expect("a put");
                            } else {
                                client.get(key).await.expect("a get");
                            }
                        }
                    })
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.await.expect("a load");
                }
                let micros = (used().await - before) * 1e6 / requests as f64;
                println!("round {round}: {operation} {what}: {micros:.1} us of processor time each");
            }
        }
    }
}
