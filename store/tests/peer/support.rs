//! A member that records what its transport tells it.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use proto::raftpb::{Message, MessageType};
use store::peer::codec::{Encoder, StreamKind};
use store::peer::net::Plain;
use store::peer::snapshot::SnapshotStream;
use store::peer::stats::Stats;
use store::peer::{Body, BoxError, BoxFuture, Config, Handler, Transport, serve};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Far above anything a passing test takes.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const CLUSTER: u64 = 0xc1;

#[derive(Debug)]
pub enum Event {
    Message(Message),
    Unreachable(u64),
    SnapshotSent(u64, bool),
    SnapshotReceived(Message, Result<Vec<u8>, String>),
    Removed,
}

#[derive(Default)]
pub struct Rules {
    pub removed: HashSet<u64>,
    /// Proposals are never done.
    pub hold_proposals: bool,
}

pub struct Recorder {
    events: mpsc::UnboundedSender<Event>,
    pub rules: Mutex<Rules>,
}

impl Recorder {
    fn record(&self, event: Event) {
        // A test that has seen enough drops its end.
        drop(self.events.send(event));
    }
}

impl Handler for Recorder {
    fn process(&self, message: Message) -> BoxFuture<'_, Result<(), BoxError>> {
        let hold = message.r#type() == MessageType::MsgProp && self.rules.lock().hold_proposals;
        self.record(Event::Message(message));
        Box::pin(async move { if hold { std::future::pending().await } else { Ok(()) } })
    }

    fn is_id_removed(&self, id: u64) -> bool {
        self.rules.lock().removed.contains(&id)
    }

    fn report_unreachable(&self, id: u64) {
        self.record(Event::Unreachable(id));
    }

    fn report_snapshot(&self, id: u64, ok: bool) {
        self.record(Event::SnapshotSent(id, ok));
    }

    fn removed(&self) {
        self.record(Event::Removed);
    }

    fn receive_snapshot(
        &self,
        message: Message,
        mut database: SnapshotStream,
    ) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            let mut all = Vec::new();
            let result = loop {
                match database.next().await {
                    Ok(Some(bytes)) => all.extend_from_slice(&bytes),
                    Ok(None) => break Ok(all),
                    Err(error) => break Err(error.to_string()),
                }
            };
            let answer = result.as_ref().map(|_| ()).map_err(|error| error.clone().into());
            self.record(Event::SnapshotReceived(message, result));
            answer
        })
    }

    fn http(&self, request: Request<Incoming>) -> BoxFuture<'_, Response<Body>> {
        let body = Full::new(Bytes::from(format!("handler: {}", request.uri().path())));
        Box::pin(async move { Response::new(body.map_err(|never| match never {}).boxed_unsync()) })
    }
}

pub struct Member {
    pub id: u64,
    pub url: String,
    pub transport: Transport,
    pub recorder: Arc<Recorder>,
    pub events: mpsc::UnboundedReceiver<Event>,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Member {
    pub async fn start(id: u64) -> Self {
        Self::start_with(id, "127.0.0.1:0", |_| {}).await
    }

    pub async fn start_with(id: u64, address: &str, configure: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut config = Config::new(id, CLUSTER, "3.5.1", vec![url.clone()]);
        configure(&mut config);
        let (sender, events) = mpsc::unbounded_channel();
        let recorder = Arc::new(Recorder { events: sender, rules: Mutex::default() });
        let transport = Transport::new(config, recorder.clone()).unwrap();
        let (shutdown, stopping) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, Arc::new(Plain), transport.clone(), 1024, async {
            drop(stopping.await)
        }));
        Self { id, url, transport, recorder, events, shutdown, server }
    }

    pub fn add(&self, other: &Member) {
        self.transport.add_peer(other.id, std::slice::from_ref(&other.url)).unwrap();
    }

    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub async fn stop(self) {
        self.transport.stop();
        self.shutdown.send(()).expect("the server waits for it");
        self.server.await.unwrap();
    }

    /// The first event that `pick` wants; others are dropped.
    pub async fn wait_for<T>(&mut self, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.recv().await.expect("the recorder lives as long as the member");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        patiently(found).await
    }

    pub async fn next_message(&mut self) -> Message {
        self.wait_for(|event| match event {
            Event::Message(message) => Some(message),
            _ => None,
        })
        .await
    }
}

pub async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("what the test waits for did not happen")
}

/// Waits for a state that no event announces.
pub async fn eventually(mut condition: impl FnMut() -> bool) {
    patiently(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub fn stats(of: &Member, id: u64) -> Arc<Stats> {
    of.transport.peer_stats().into_iter().find(|(peer, _)| *peer == id).unwrap().1
}

/// Each attached stream starts with a heartbeat; waits until `from` has sent both to `to`.
pub async fn streams_attached(from: &Member, to: u64) {
    let mut heartbeats = BytesMut::new();
    for kind in [StreamKind::MsgApp, StreamKind::Message] {
        Encoder::new(kind).heartbeat(&mut heartbeats);
    }
    let stats = stats(from, to);
    eventually(|| stats.sent_bytes.load(Relaxed) >= heartbeats.len() as u64).await;
}
