//! Members embedded in one process: they share nothing but the network between them.

use std::{net::TcpListener, path::Path};

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
    server::Server,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming, transport::Channel};

/// Ports that were free a moment ago; the listeners are closed only when all are chosen.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
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
        let (requests, mut receiver) = mpsc::channel(1);
        let create = WatchCreateRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            start_revision,
            ..Default::default()
        };
        requests
            .send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })
            .await
            .unwrap();
        let stream = futures_like::stream(move |cx| receiver.poll_recv(cx));
        let mut responses = self.watch.watch(stream).await.unwrap().into_inner();
        assert!(responses.message().await.unwrap().unwrap().created);
        Watch { _requests: requests, responses }
    }
}

struct Watch {
    _requests: mpsc::Sender<WatchRequest>,
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

/// The one adapter needed of a stream library.
mod futures_like {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    pub struct PollFn<F>(F);

    pub fn stream<T, F: FnMut(&mut Context<'_>) -> Poll<Option<T>> + Unpin>(poll: F) -> PollFn<F> {
        PollFn(poll)
    }

    impl<T, F: FnMut(&mut Context<'_>) -> Poll<Option<T>> + Unpin> tokio_stream::Stream for PollFn<F> {
        type Item = T;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
            (self.0)(cx)
        }
    }
}
