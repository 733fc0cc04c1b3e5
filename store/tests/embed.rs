//! Members embedded in one process: they share nothing but the network between them.

#![expect(
    clippy::disallowed_methods,
    reason = "a test picks its ports itself and waits for servers that start and stop by blocking"
)]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use proto::{
    etcdserverpb::{
        self as pb, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
        PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse, kv_client::KvClient,
        lease_client::LeaseClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
    mvccpb::Event,
};
use store::{
    config::{Command, Config},
    node::fatal::End,
    peer::REMOVAL_DELAY,
    server::Server,
};
use tonic::{
    Code, Status, Streaming,
    codegen::tokio_stream::{self, StreamExt},
    transport::Channel,
};

/// Ports that are free, below those that the system gives to outgoing connections: a stopped member finds its own
/// again.
fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16 % 10_000;
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}

/// Member `own` of a cluster whose members have these peer ports.
fn config(data: &Path, token: &str, peers: &[u16], own: usize) -> Config {
    let cluster: Vec<String> =
        peers.iter().enumerate().map(|(i, port)| format!("m{i}=http://127.0.0.1:{port}")).collect();
    let peer = format!("http://127.0.0.1:{}", peers[own]);
    let arguments = [
        ("name", format!("m{own}")),
        ("data-dir", data.join(format!("m{own}")).display().to_string()),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("listen-client-urls", "http://127.0.0.1:0".into()),
        ("advertise-client-urls", "http://127.0.0.1:1".into()),
        ("initial-cluster", cluster.join(",")),
        ("initial-cluster-token", token.into()),
        ("heartbeat-interval", "20".into()),
        ("election-timeout", "200".into()),
    ];
    let arguments = arguments.into_iter().map(|(name, value)| format!("--{name}={value}"));
    match Command::parse(arguments, []) {
        Ok(Command::Run { config, .. }) => *config,
        other => panic!("{other:?}"),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn start(config: Config) -> Server {
    blocking(|| Server::start(config).unwrap()).await
}

async fn stop(server: Server) {
    blocking(|| server.stop()).await;
}

fn put_of(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn all() -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

struct Client {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    watch: WatchClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
}

impl Client {
    fn new(server: &Server) -> Client {
        let channel = server.channel();
        Client {
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel),
        }
    }

    async fn put(&mut self, key: &str, value: &str) -> i64 {
        self.kv.put(put_of(key, value)).await.unwrap().into_inner().header.unwrap().revision
    }

    async fn get(&mut self, key: &str) -> Option<String> {
        let request = RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let kvs = self.kv.range(request).await.unwrap().into_inner().kvs;
        kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    }

    async fn all(&mut self) -> (i64, Vec<proto::mvccpb::KeyValue>) {
        let response = self.kv.range(all()).await.unwrap().into_inner();
        (response.header.unwrap().revision, response.kvs)
    }

    async fn hash(&mut self, revision: i64) -> Result<u32, Status> {
        self.maintenance
            .hash_kv(pb::HashKvRequest { revision })
            .await
            .map(|response| response.into_inner().hash)
    }

    /// Watches everything from `start_revision`; returns once the watch stands.
    async fn watch(&mut self, start_revision: i64) -> Watch {
        let create = WatchCreateRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            start_revision,
            prev_kv: true,
            ..Default::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The requests never end: their end would close the watch.
        let requests = tokio_stream::once(request).chain(tokio_stream::pending());
        let mut responses = self.watch.watch(requests).await.unwrap().into_inner();
        assert!(responses.message().await.unwrap().unwrap().created);
        Watch { responses }
    }
}

struct Watch {
    responses: Streaming<WatchResponse>,
}

impl Watch {
    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.responses.message().await.unwrap().unwrap().events);
        }
        events
    }
}

async fn cluster(data: &Path, peers: &[u16]) -> Vec<Server> {
    // Each waits for a leader only when it is asked to serve, so one after the other will do.
    let mut servers = Vec::new();
    for own in 0..peers.len() {
        servers.push(start(config(data, "embed", peers, own)).await);
    }
    for server in &servers {
        server.ready().await;
    }
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_in_a_process_are_one_store() {
    let data = tempfile::tempdir().unwrap();
    let peers = free_ports(3);
    let mut servers = cluster(data.path(), &peers).await;
    let mut clients: Vec<Client> = servers.iter().map(Client::new).collect();

    // What one member took, every other has.
    let mut watch = clients[2].watch(0).await;
    let revision = clients[0].put("a", "1").await;
    for client in &mut clients {
        assert_eq!(client.get("a").await.as_deref(), Some("1"));
    }
    let deleted = DeleteRangeRequest { key: "a".into(), ..Default::default() };
    clients[1].put("b", "1").await;
    assert_eq!(clients[1].kv.delete_range(deleted).await.unwrap().into_inner().deleted, 1);
    let events = watch.events(3).await;
    let seen: Vec<(i32, &[u8], i64)> = events
        .iter()
        .map(|event| {
            (event.r#type, &event.kv.as_ref().unwrap().key[..], event.kv.as_ref().unwrap().mod_revision)
        })
        .collect();
    assert_eq!(seen, [(0, &b"a"[..], revision), (0, b"b", revision + 1), (1, b"a", revision + 2)]);
    assert_eq!(events[2].prev_kv.as_ref().unwrap().value, "1");

    // A lease granted at one, used at another, looked at and revoked at the third.
    let grant = LeaseGrantRequest { id: 0, ttl: 600 };
    let lease = clients[0].lease.lease_grant(grant).await.unwrap().into_inner().id;
    clients[1].kv.put(PutRequest { lease, ..put_of("leased", "x") }).await.unwrap();
    // The lease's keys are the answering member's own: make sure that it has applied the put.
    clients[2].get("leased").await;
    let left = LeaseTimeToLiveRequest { id: lease, keys: true };
    let left = clients[2].lease.lease_time_to_live(left).await.unwrap().into_inner();
    assert_eq!((left.granted_ttl, left.ttl > 0, left.keys), (600, true, vec!["leased".into()]));
    clients[2].lease.lease_revoke(LeaseRevokeRequest { id: lease }).await.unwrap();
    assert_eq!(clients[0].get("leased").await, None);

    // Two go on without the third, whichever that is; it catches up when it is back.
    for stopped in 0..3 {
        clients.clear();
        stop(servers.remove(stopped)).await;
        let mut others: Vec<Client> = servers.iter().map(Client::new).collect();
        // While a new leader is elected a request may time out; whether it was carried out does not matter here.
        for server in &servers {
            server.ready().await;
        }
        for number in 0..20 {
            others[number % 2].put(&format!("{stopped}/{number}"), "x").await;
        }
        servers.insert(stopped, start(config(data.path(), "embed", &peers, stopped)).await);
        servers[stopped].ready().await;
        clients = servers.iter().map(Client::new).collect();
        let (revision, wanted) = clients[(stopped + 1) % 3].all().await;
        let hash = clients[(stopped + 1) % 3].hash(revision).await.unwrap();
        for client in &mut clients {
            assert_eq!(client.all().await, (revision, wanted.clone()));
            assert_eq!(client.hash(revision).await.unwrap(), hash);
        }
    }
    let ids: std::collections::BTreeSet<u64> = servers.iter().map(|server| server.node().id).collect();
    assert_eq!(ids.len(), 3);
    for server in servers {
        stop(server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_keeps_what_it_had() {
    let data = tempfile::tempdir().unwrap();
    let peers = free_ports(1);
    let (mut revision, mut lease) = (1, 0);
    for round in 0..4 {
        let server = start(config(data.path(), "single", &peers, 0)).await;
        server.ready().await;
        let mut client = Client::new(&server);
        let (found, kvs) = client.all().await;
        assert_eq!((found, kvs.len()), (revision, round), "round {round}");
        if round == 0 {
            lease = client
                .lease
                .lease_grant(LeaseGrantRequest { id: 0, ttl: 600 })
                .await
                .unwrap()
                .into_inner()
                .id;
        } else {
            let left = LeaseTimeToLiveRequest { id: lease, keys: true };
            let left = client.lease.lease_time_to_live(left).await.unwrap().into_inner();
            assert_eq!((left.granted_ttl, left.keys.len()), (600, round));
            let events = client.watch(2).await.events(round).await;
            assert_eq!(events.len(), round, "history from before the restart");
        }
        let put = PutRequest { lease, ..put_of(&format!("k{round}"), "x") };
        revision = client.kv.put(put).await.unwrap().into_inner().header.unwrap().revision;
        drop(client);
        stop(server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_two_clusters_know_nothing_of_each_other() {
    let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let peers = free_ports(2);
    let one = start(config(data[0].path(), "one", &peers[..1], 0)).await;
    let two = start(config(data[1].path(), "two", &peers[1..], 0)).await;
    one.ready().await;
    two.ready().await;
    assert_ne!(one.node().cluster_id, two.node().cluster_id);
    let (mut at_one, mut at_two) = (Client::new(&one), Client::new(&two));
    at_one.put("a", "1").await;
    at_one.put("a", "2").await;
    assert_eq!(at_two.put("a", "other").await, 2);
    assert_eq!(at_one.get("a").await.as_deref(), Some("2"));
    drop(at_one);
    // One may end without the other noticing.
    stop(one).await;
    assert_eq!(at_two.get("a").await.as_deref(), Some("other"));
    assert_eq!(at_two.put("a", "still").await, 3);
    drop(at_two);
    stop(two).await;
}

/// Answers all peers' streams as a member that knows the caller as removed. Ends with the test's process.
fn tell_of_removal(listener: TcpListener) -> tokio::sync::oneshot::Receiver<Instant> {
    let (told, first) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut told = Some(told);
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut lines = BufReader::new(&connection).lines();
            let Some(Ok(request)) = lines.next() else { continue };
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let is_stream = request.starts_with("GET /raft/stream/");
            if is_stream && let Some(told) = told.take() {
                let _ = told.send(Instant::now());
            }
            let status = if is_stream { "410 Gone" } else { "404 Not Found" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    first
}

/// Others may apply a removal before the member that was asked for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hears_of_its_removal_answers_before_it_ends() {
    let data = tempfile::tempdir().unwrap();
    let peers = free_ports(2);
    let listener = TcpListener::bind(("127.0.0.1", peers[1])).unwrap();
    let mut config = config(data.path(), "removed", &peers, 0);
    // Nobody is elected, and a request waits for 105 s.
    config.election_timeout_ms = 50_000;
    let server = start(config).await;
    let waiting = tokio::spawn({
        let mut client = Client::new(&server);
        async move { client.kv.put(put_of("a", "1")).await }
    });
    let told = tell_of_removal(listener).await.unwrap();
    assert_eq!(server.ended().await, End::Removed);
    let went_on = told.elapsed();
    assert!(went_on >= REMOVAL_DELAY, "{went_on:?}");
    let answer =
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("is told at once").unwrap();
    let refusal = answer.unwrap_err();
    assert_eq!((refusal.code(), refusal.message()), (Code::Unavailable, "etcdserver: server stopped"));
    stop(server).await;
}
