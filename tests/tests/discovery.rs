//! New members find each other: through an etcd as discovery service, and by DNS, with stock members among them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Output, Stdio};

use integration::binary::{self, Binary};
use integration::cluster::{Cluster, START_LIMIT};
use integration::netns::{Network, inside, is_root};
use integration::tls::Authority;
use integration::{bounded, eventually};
use simple_dns::rdata::{A, RData, SRV};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;
use tokio::process::Command;

/// All serve, as one cluster.
async fn founded(cluster: &mut Cluster) {
    for member in &mut cluster.members {
        member.ready().await;
    }
    let all = cluster.members.len();
    let first = cluster.client(0).members().await.expect("members");
    assert_eq!(first.len(), all);
    cluster.client(all - 1).put("key", "value").await.expect("put");
    cluster.assert_equal_hashes().await;
}

/// Three members that are told nothing but where `service` is found each other; a fourth comes too late.
async fn through(service: &Cluster, more: &[String]) {
    let ours = binary::ours();
    let mut flags = vec!["--discovery-token=some-token".to_owned()];
    flags.extend_from_slice(more);
    let mut cluster = Cluster::builder(&ours, 3).build();
    for member in &mut cluster.members {
        member.discover(&flags);
        member.spawn();
    }
    founded(&mut cluster).await;
    let client = service.client(0);
    let registered = client.prefix("/_etcd/registry/some-token/members/", false).await.expect("read").kvs;
    let mut told: Vec<String> =
        registered.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect();
    told.sort();
    let expected = cluster.members.iter().map(|member| format!("{}={}", member.name, member.peer_url));
    assert_eq!(told, expected.collect::<Vec<_>>());

    let mut late = Cluster::builder(&ours, 1).build();
    late.members[0].discover(&flags);
    late.members[0].spawn();
    late.members[0].exited().await;
    assert!(late.members[0].log_text().contains("discovery: cluster is full"));

    // Their data say who they are: nobody is asked any more.
    client.delete("/_etcd/registry/some-token/_config/size").await.expect("delete");
    cluster.members[1].stop().await;
    cluster.members[1].restart().await;
}

async fn sized(service: &Cluster) {
    service.client(0).put("/_etcd/registry/some-token/_config/size", "3").await.expect("put");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_meet_at_a_discovery_service() {
    bounded(6 * START_LIMIT, async {
        for binary in [Some(binary::ours()), binary::peer("3.5.")].into_iter().flatten() {
            let service = Cluster::start(&binary, 1).await;
            sized(&service).await;
            // The first endpoint is of nobody.
            let endpoints =
                format!("--discovery-endpoints=127.0.0.1:1,{}", service.members[0].client_address());
            through(&service, &[endpoints]).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovery_service_may_want_certificates() {
    bounded(4 * START_LIMIT, async {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new(directory.path(), "ca");
        authority.issue("server", &["127.0.0.1"], 1, |_| {});
        authority.issue("client", &[], 2, |_| {});
        let mut service = Cluster::builder(&binary::ours(), 1).args(authority.client_flags(true)).build();
        let secure =
            format!("127.0.0.1:{}", integration::cluster::free_port(&integration::cluster::Host::loopback()));
        let member = &mut service.members[0];
        member.args.push(format!("--listen-client-urls={},https://{secure}", member.client_url));
        service.start_all().await;
        sized(&service).await;
        through(
            &service,
            &[
                format!("--discovery-endpoints={secure}"),
                "--discovery-insecure-transport=false".into(),
                format!("--discovery-cacert={}", authority.file("ca.pem")),
                format!("--discovery-cert={}", authority.file("client.pem")),
                format!("--discovery-key={}", authority.file("client.key")),
            ],
        )
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_the_cluster_says_so() {
    bounded(4 * START_LIMIT, async {
        let service = Cluster::start(&binary::ours(), 1).await;
        for (size, text) in [("", "discovery: size key not found"), ("many", "discovery: size key is bad")] {
            if !size.is_empty() {
                service.client(0).put("/_etcd/registry/t/_config/size", size).await.expect("put");
            }
            let mut cluster = Cluster::builder(&binary::ours(), 1).build();
            let endpoint = format!("--discovery-endpoints={}", service.members[0].client_address());
            cluster.members[0].discover(&["--discovery-token=t".into(), endpoint]);
            cluster.members[0].spawn();
            cluster.members[0].exited().await;
            assert!(cluster.members[0].log_text().contains(text), "{text}");
        }
    })
    .await;
}

/// The first process of a container gets no signal that it does not ask for.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_member_ends_by_a_signal_as_first_process_too() {
    if !is_root() {
        return binary::missing("a process namespace needs root");
    }
    bounded(4 * START_LIMIT, async {
        let directory = tempfile::tempdir().expect("a directory");
        let service = Cluster::start(&binary::ours(), 1).await;
        sized(&service).await;
        let free = integration::cluster::free_url;
        let (client_url, peer) = (free(), free());
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child"]).arg(&binary::ours().path);
        unshare.arg("--data-dir").arg(directory.path().join("data"));
        unshare.args(["--name=lonely", "--discovery-token=some-token"]);
        unshare.arg(format!("--discovery-endpoints={}", service.members[0].client_address()));
        for flag in ["listen", "advertise"] {
            unshare.arg(format!("--{flag}-client-urls={client_url}"));
        }
        unshare.args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")]);
        let log = std::fs::File::create(directory.path().join("log")).expect("a log");
        let mut started = unshare
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("unshare");
        let client = service.client(0);
        eventually("the member registers", START_LIMIT, || async {
            let found = client.prefix("/_etcd/registry/some-token/members/", true).await;
            match found.map(|found| found.count) {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let first = format!("/proc/{0}/task/{0}/children", started.id().expect("it runs"));
        let first = std::fs::read_to_string(first).expect("the children").trim().parse().expect("one child");
        // SAFETY: kill has no memory effects; the process is there until its parent, which waits, has seen its end.
        assert_eq!(unsafe { libc::kill(first, libc::SIGTERM) }, 0);
        let ended = tokio::time::timeout(START_LIMIT, started.wait()).await;
        let status = ended.expect("it ends").expect("a child");
        assert!(status.success(), "{status}");
    })
    .await;
}

const DOMAIN: &str = "cluster.test";
const SECURE_DOMAIN: &str = "secure.test";

/// Answers for `m<n>.cluster.test` and for the services of members, peers' and clients', until it is dropped; and for
/// `m0.secure.test`, the only host with a service of the port `secure`.
async fn serve_names(address: IpAddr, peers: Vec<SocketAddr>, clients: Vec<SocketAddr>, secure: u16) {
    let socket = UdpSocket::bind((address, 53)).await.expect("the port of DNS");
    let mut question = [0; 1500];
    loop {
        let (len, from) = socket.recv_from(&mut question).await.expect("a question");
        let Ok(asked) = Packet::parse(&question[..len]) else { continue };
        let mut answer = Packet::new_reply(asked.id());
        answer.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
        for question in &asked.questions {
            let name = question.qname.to_string();
            let mut add = |data| {
                answer.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 60, data));
            };
            for (n, (peer, client)) in peers.iter().zip(&clients).enumerate() {
                let plain = format!("m{n}.{DOMAIN}");
                let protected = format!("m{n}.{SECURE_DOMAIN}");
                for (host, domain, service, port) in [
                    (&plain, DOMAIN, "etcd-server", peer.port()),
                    (&plain, DOMAIN, "etcd-client", client.port()),
                    (&protected, SECURE_DOMAIN, "etcd-client-ssl", secure),
                ] {
                    let offered = host == &plain || n == 0;
                    if offered
                        && question.qtype == QTYPE::TYPE(TYPE::SRV)
                        && name == format!("_{service}._tcp.{domain}")
                    {
                        let target = Name::new(host).expect("a name").into_owned();
                        add(RData::SRV(SRV { priority: 0, weight: 0, port, target }));
                    }
                }
                let IpAddr::V4(ip) = peer.ip() else { continue };
                if question.qtype == QTYPE::TYPE(TYPE::A) && (name == plain || name == protected) {
                    add(RData::A(A { address: ip.into() }));
                }
            }
        }
        if asked.questions.iter().any(|question| question.qname.to_string().ends_with("broken.test")) {
            *answer.rcode_mut() = RCODE::ServerFailure;
        }
        answer.questions = asked.questions;
        let bytes = answer.build_bytes_vec().expect("an answer");
        socket.send_to(&bytes, from).await.expect("an answer sent");
    }
}

#[test]
fn members_find_each_other_by_dns() {
    let Some(network) = Network::or_skip(3) else { return };
    let Some(peer) = binary::peer("3.5.") else { return };
    let kinds: [Binary; 3] = [binary::ours(), peer, binary::ours()];
    let hosts = network.hosts();
    inside(&network.hub(), move || {
        bounded(4 * START_LIMIT, async move {
            let network = network;
            network.set_name_server(network.hub_address(), "test");
            let mut cluster = Cluster::of(&kinds).hosts(hosts).build();
            let parse = |address: &str| address.parse().expect("an address");
            let peers = cluster.members.iter().map(|it| parse(it.peer_address())).collect();
            let clients = cluster.members.iter().map(|it| parse(it.client_address())).collect();
            // One member offers TLS too, with a certificate of the domains instead of its host.
            let directory = tempfile::tempdir().expect("a directory");
            let authority = Authority::new(directory.path(), "ca");
            authority.issue("server", &[DOMAIN, SECURE_DOMAIN], 1, |_| {});
            let secure = integration::cluster::free_port(&network.hosts()[0]);
            let member = &mut cluster.members[0];
            let host = member.client_address().split(':').next().expect("a host");
            member.args.push(format!("--listen-client-urls={},https://{host}:{secure}", member.client_url));
            member.args.extend(authority.client_flags(false));
            let names = tokio::spawn(serve_names(network.hub_address(), peers, clients, secure));
            for member in &mut cluster.members {
                member.discover(&[format!("--discovery-srv={DOMAIN}")]);
                member.spawn();
            }
            founded(&mut cluster).await;
            eventually("names of all", START_LIMIT, || async {
                let members = cluster.client(0).members().await.map_err(|error| error.to_string())?;
                let mut names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
                names.sort_unstable();
                if names == ["m0", "m1", "m2"] { Ok(()) } else { Err(format!("{members:?}")) }
            })
            .await;

            // Clients find them too: of the hosts that have these names, each but the namespace of the bridge.
            let ours = binary::ours().path.with_file_name("etcdctl");
            let list = async |program: &Path, domain: &str, more: &[&str]| {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &network.name(0)]).arg(program).env("ETCDCTL_API", "3");
                command.args(["--discovery-srv", domain, "member", "list"]).args(more).stdin(Stdio::null());
                command.output().await.expect("etcdctl")
            };
            let all = |output: &Output| String::from_utf8_lossy(&output.stdout).lines().count() == 3;
            let trusting = format!("--cacert={}", authority.file("ca.pem"));
            let reserve = format!("--endpoints=https://m0.{DOMAIN}:{secure}");
            for program in binary::etcdctls().into_iter().chain([ours.clone()]) {
                // The second one lies in the search domain.
                for domain in [DOMAIN, "cluster"] {
                    let output = list(&program, domain, &[]).await;
                    assert!(all(&output), "{}: {output:?}", program.display());
                }
                // Who does not trust DNS wants certificates of the domain, and endpoints that have some.
                let careful = [&*trusting, "--insecure-discovery=false"];
                let output = list(&program, SECURE_DOMAIN, &careful).await;
                assert!(all(&output), "{}: {output:?}", program.display());
                let output = list(&program, SECURE_DOMAIN, &[&trusting, "--command-timeout=1s"]).await;
                assert!(!output.status.success(), "{}: {output:?}", program.display());
                let output = list(&program, DOMAIN, &[&careful[..], &[&*reserve]].concat()).await;
                assert!(all(&output), "{}: {output:?}", program.display());
                for member in &cluster.members {
                    let (_, port) = member.client_address().split_once(':').expect("a port");
                    let text = String::from_utf8_lossy(&output.stderr);
                    let ignored = text.lines().any(|line| {
                        line.starts_with("ignoring discovered insecure endpoint \"http://m")
                            && line.ends_with(&format!(":{port}\""))
                    });
                    assert!(ignored, "{}: {text}", program.display());
                }
            }
            for (domain, reason) in [("nowhere.test", "no such host"), ("broken.test", "the server failed")] {
                let output = list(&ours, domain, &[]).await;
                let text = String::from_utf8_lossy(&output.stderr);
                assert!(!output.status.success() && text.contains(reason), "{domain}: {text}");
            }

            let mut stranger = Cluster::of(&kinds[..1]).hosts(network.hosts()[..1].to_vec()).build();
            stranger.members[0].discover(&[format!("--discovery-srv={DOMAIN}")]);
            stranger.members[0].spawn();
            stranger.members[0].exited().await;
            assert!(stranger.members[0].log_text().contains("cannot find local etcd member"));
            names.abort();
        })
    });
}
