//! Peer transport: carries raft messages and snapshots between members, on the wire of etcd's rafthttp. Owns
//! connections, queues, redialling, probing and their counters. Leaves out what a message means (`raft`), who
//! is a member (`membership`) and the other paths of the peer listener: those go up through [`Handler`],
//! which the node implements. Used by `node` (sending) and `server` (listening, bootstrap).
//!
//! Any message may be dropped: a queue is full, a connection broke with messages on it, the peer is unknown.
//! A drop at a known peer is reported as unreachable; raft sends again. What arrives over one stream arrives
//! in order; between the two streams and the pipeline there is no order. Nothing here is durable: when `send`
//! returns, a message is queued at most.
//!
//! Each member GETs two endless responses from each peer and receives through them; so what we send to a peer
//! goes into responses to its requests. Reading order: `codec` (bytes), `headers` (identity), `net`
//! (sockets), `client` (requests), `transport` (peers and routing), `stream`, `pipeline`, `snapshot`, `probe`
//! (a peer's tasks), `server` (the listener), `stats`.
//! Source: etcd `server/etcdserver/api/rafthttp`. Differs: receiving is slowed down by the handler instead of
//! dropping, queues are bounded in bytes too, and all frames that are ready leave in one write.

#![expect(clippy::disallowed_methods, reason = "the network of peers: sockets, tasks and timers")]

pub mod client;
pub mod codec;
mod headers;
pub mod net;
mod pipeline;
mod probe;
pub mod server;
pub mod snapshot;
pub mod stats;
mod stream;
pub mod transport;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use proto::raftpb::Message;

pub use self::server::serve;
pub use self::transport::{REMOVAL_DELAY, Transport};

use self::net::{Connect, Plain};
use self::snapshot::SnapshotStream;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// Body of a request we send or an answer we give.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What the transport tells the node. The methods that are not async are called from sending threads and
/// network tasks: they must neither block nor call back into the transport while they hold a lock that `send`
/// is called under.
pub trait Handler: Send + Sync + 'static {
    /// A message to us from a member that is not removed. The stream it came on is read on when the future
    /// ends, so a busy node slows its peers down. Proposals are called apart from other messages and may wait
    /// for a leader.
    fn process(&self, message: Message) -> BoxFuture<'_, Result<(), BoxError>>;

    /// Whether this id has been a member and never will be again.
    fn is_id_removed(&self, id: u64) -> bool;

    /// A message to this peer was or may have been lost.
    fn report_unreachable(&self, id: u64);

    /// A snapshot sent to this peer has been accepted, or will not be.
    fn report_snapshot(&self, id: u64, ok: bool);

    /// A peer told us that we are no member any more. Called once.
    fn removed(&self);

    /// A `MsgSnap` to us, followed by the database it stands for. `Ok` tells the sender that it has been
    /// taken over.
    fn receive_snapshot(
        &self,
        message: Message,
        database: SnapshotStream,
    ) -> BoxFuture<'_, Result<(), BoxError>>;

    /// Any path of the peer listener outside `/raft`.
    fn http(&self, request: Request<Incoming>) -> BoxFuture<'_, Response<Body>>;
}

/// Settings of one transport.
#[derive(Clone)]
pub struct Config {
    pub id: u64,
    pub cluster_id: u64,
    /// `major.minor.patch`, as in `/version`.
    pub server_version: String,
    /// Where peers that do not know us yet can answer; our advertised peer URLs.
    pub peer_urls: Vec<String>,
    pub connect: Arc<dyn Connect>,
    pub dial_timeout: Duration,
    /// Longest silence on a stream and between two parts of a request; at least etcd's 5 s.
    pub read_timeout: Duration,
    /// Longest time a write may stall.
    pub write_timeout: Duration,
    /// Most bytes queued per peer and direction.
    pub queue_bytes: usize,
}

impl Config {
    /// Plain TCP and etcd's times.
    pub fn new(id: u64, cluster_id: u64, server_version: impl Into<String>, peer_urls: Vec<String>) -> Self {
        Self {
            id,
            cluster_id,
            server_version: server_version.into(),
            peer_urls,
            connect: Arc::new(Plain),
            dial_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
            queue_bytes: 64 << 20,
        }
    }
}
