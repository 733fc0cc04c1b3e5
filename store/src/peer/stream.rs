//! A peer's two streams. Reading: we GET the stream from the peer and redial when it breaks. Writing: the
//! peer GETs it from us, and the response body is the sending end of the queue. The body encodes whatever is
//! queued into one chunk each time the connection can take more, so messages that pile up during a write
//! leave in the next one.
//!
//! A queue lives as long as its connection: what is left on it when it breaks is lost, and reported.
//! Source: etcd `server/etcdserver/api/rafthttp/stream.go`.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame as BodyFrame, Incoming};
use parking_lot::Mutex;
use proto::raftpb::{Message, MessageType};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use crate::peer::BoxError;
use crate::peer::client::{self, Connection};
use crate::peer::codec::{self, Decoder, Encoder, Frame, StreamKind};
use crate::peer::net::PeerUrl;
use crate::peer::transport::{Budget, Hex, Peer, Queued, STREAM_QUEUE, Shared};

/// A third of the 5 s after which a silent stream is given up.
const HEARTBEAT: Duration = Duration::from_millis(5000 / 3);
const REDIAL: Duration = Duration::from_millis(100);
/// Encoded bytes above which a chunk is closed.
const CHUNK_BYTES: usize = 1 << 20;
/// Longest refusal we read.
const REFUSAL_LIMIT: usize = 4096;

/// The queue of a stream while a connection is attached to it.
#[derive(Default)]
pub(crate) struct Outgoing {
    state: Mutex<Attachment>,
}

#[derive(Default)]
enum Attachment {
    /// The peer has not asked for the stream, or its connection broke.
    #[default]
    Detached,
    /// A response body takes what is queued.
    Attached(mpsc::Sender<Queued>),
    /// The peer was removed; nothing attaches any more.
    Closed,
}

/// What became of a message.
pub(crate) enum Push {
    Queued,
    Full(Queued),
    Detached(Queued),
}

impl Outgoing {
    pub(crate) fn push(&self, queued: Queued) -> Push {
        match &*self.state.lock() {
            Attachment::Attached(sender) => match sender.try_send(queued) {
                Ok(()) => Push::Queued,
                Err(TrySendError::Full(queued)) => Push::Full(queued),
                Err(TrySendError::Closed(queued)) => Push::Detached(queued),
            },
            Attachment::Detached | Attachment::Closed => Push::Detached(queued),
        }
    }

    /// Takes the place of an earlier connection, which then ends.
    fn attach(&self) -> mpsc::Receiver<Queued> {
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let mut state = self.state.lock();
        if !matches!(*state, Attachment::Closed) {
            *state = Attachment::Attached(sender);
        }
        receiver
    }

    pub(crate) fn close(&self) {
        *self.state.lock() = Attachment::Closed;
    }
}

/// The body of a stream response: endless until the connection breaks or another takes its place.
pub(crate) struct StreamBody {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    kind: StreamKind,
    encoder: Encoder,
    queue: mpsc::Receiver<Queued>,
    heartbeat: Interval,
}

impl StreamBody {
    /// Attaches a connection to the peer's queue.
    pub(crate) fn new(shared: Arc<Shared>, peer: Arc<Peer>, kind: StreamKind) -> Self {
        let queue = peer.outgoing(kind).attach();
        peer.status.activate();
        tracing::info!(peer_id = %Hex(peer.id), stream = kind.path(), "peer attached a stream");
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { shared, peer, kind, encoder: Encoder::new(kind), queue, heartbeat }
    }
}

impl hyper::body::Body for StreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let mut out = BytesMut::new();
        while out.len() < CHUNK_BYTES {
            match this.queue.poll_recv(cx) {
                Poll::Ready(Some(queued)) => this.encoder.message(&queued.message, &mut out),
                Poll::Ready(None) if out.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if out.is_empty() {
            if this.heartbeat.poll_tick(cx).is_pending() {
                return Poll::Pending;
            }
            this.encoder.heartbeat(&mut out);
        }
        this.peer.stats.sent_bytes.fetch_add(out.len() as u64, Relaxed);
        Poll::Ready(Some(Ok(BodyFrame::data(out.freeze()))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        // Without a sender left, another connection has taken this one's place, or the peer was removed.
        let replaced = self.queue.is_closed();
        self.queue.close();
        let mut lost = 0;
        while self.queue.try_recv().is_ok() {
            lost += 1;
        }
        self.peer.stats.sent_failures.fetch_add(lost, Relaxed);
        if !replaced {
            self.peer.status.deactivate(&"its connection to our stream broke");
            tracing::warn!(peer_id = %Hex(self.peer.id), stream = self.kind.path(), lost, "lost a peer's stream");
        }
        // Bytes that were written but not read are lost too, so a break is reported even with an empty queue.
        if !replaced || lost > 0 {
            self.peer.report_unreachable(&self.shared);
        }
    }
}

/// Proposals forwarded by a peer. They may wait for a leader, so they do not travel with other messages.
#[derive(Clone)]
pub(crate) struct Proposals {
    pub queue: mpsc::Sender<Queued>,
    pub bytes: Arc<Budget>,
}

pub(crate) async fn process_proposals(shared: Arc<Shared>, mut queue: mpsc::Receiver<Queued>) {
    while let Some(queued) = queue.recv().await {
        process(&shared, queued.message).await;
    }
}

async fn process(shared: &Shared, message: Message) {
    if let Some(refusal) = shared.refusal(&message) {
        tracing::debug!(from = %Hex(message.from), to = %Hex(message.to), refusal, "ignored a message");
        return;
    }
    let (from, kind) = (message.from, message.r#type());
    if let Err(error) = shared.handler.process(message).await {
        tracing::debug!(from = %Hex(from), kind = kind.as_str_name(), %error, "failed to process a message");
    }
}

/// Keeps one stream from the peer connected and passes on what it carries, for as long as the task runs.
pub(crate) async fn read(shared: Arc<Shared>, peer: Arc<Peer>, kind: StreamKind, proposals: Proposals) {
    let mut reader = Reader { shared, peer, kind, proposals, refusal: String::new() };
    loop {
        let next_dial = Instant::now() + REDIAL;
        reader.connect_and_receive().await;
        sleep_until(next_dial).await;
    }
}

struct Reader {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    kind: StreamKind,
    proposals: Proposals,
    /// Why the last dial failed, so that it is logged once and not ten times a second.
    refusal: String,
}

impl Reader {
    async fn connect_and_receive(&mut self) {
        let url = self.peer.picker.pick();
        let (connection, body) = match self.dial(&url).await {
            Ok(open) => open,
            Err(error) => {
                if matches!(error, DialError::Removed) {
                    self.shared.report_removed();
                }
                self.peer.picker.failed(&url);
                self.peer.status.deactivate(&error);
                let refusal = error.to_string();
                if refusal != self.refusal {
                    tracing::warn!(peer_id = %Hex(self.peer.id), %url, stream = self.kind.path(), %error, "failed to dial a peer");
                    self.refusal = refusal;
                }
                return;
            }
        };
        self.refusal.clear();
        self.peer.status.activate();
        tracing::info!(peer_id = %Hex(self.peer.id), %url, stream = self.kind.path(), "connected to a peer");
        let error = self.receive(body).await;
        drop(connection);
        self.peer.stats.received_failures.fetch_add(1, Relaxed);
        self.peer.status.deactivate(&error);
        tracing::warn!(peer_id = %Hex(self.peer.id), stream = self.kind.path(), %error, "lost the connection to a peer");
    }

    async fn dial(&self, url: &PeerUrl) -> Result<(Connection, Incoming), DialError> {
        let Shared { config, identity, dialer, .. } = &*self.shared;
        let mut connection = dialer.dial(url).await.map_err(DialError::Request)?;
        let mut request = Request::new(client::empty());
        *request.uri_mut() =
            format!("{}/{:x}", self.kind.path(), config.id).parse().expect("a path is a URI");
        *request.headers_mut() = identity.stream_headers(self.peer.id);
        let exchange = async {
            let response = connection.send(request).await.map_err(DialError::Request)?;
            match response.status() {
                StatusCode::OK => Ok(response.into_body()),
                StatusCode::GONE => Err(DialError::Removed),
                status => {
                    let refusal =
                        client::read_all(response.into_body(), REFUSAL_LIMIT).await.unwrap_or_default();
                    Err(DialError::Refused(status, String::from_utf8_lossy(&refusal).trim().to_owned()))
                }
            }
        };
        let body = timeout(config.read_timeout, exchange)
            .await
            .unwrap_or(Err(DialError::Request(client::Error::Timeout)))?;
        Ok((connection, body))
    }

    /// Why the stream ended.
    async fn receive(&self, mut body: Incoming) -> ReadError {
        let mut decoder = Decoder::new(self.kind, self.shared.config.id, self.peer.id);
        loop {
            loop {
                match decoder.next_frame() {
                    Ok(Some(Frame::Message(message))) => self.deliver(*message).await,
                    Ok(Some(Frame::Heartbeat)) => {}
                    Ok(None) => break,
                    Err(error) => return ReadError::Codec(error),
                }
            }
            match timeout(self.shared.config.read_timeout, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.peer.stats.received_bytes.fetch_add(data.len() as u64, Relaxed);
                        decoder.feed(&data);
                    }
                }
                Ok(Some(Err(error))) => return ReadError::Broken(error),
                Ok(None) => return ReadError::Ended,
                Err(_) => return ReadError::Silent,
            }
        }
    }

    async fn deliver(&self, message: Message) {
        if message.r#type != MessageType::MsgProp as i32 {
            return process(&self.shared, message).await;
        }
        let queued = Queued::new(message, &self.proposals.bytes).ok();
        if queued.and_then(|queued| self.proposals.queue.try_send(queued).ok()).is_none() {
            self.peer.stats.received_failures.fetch_add(1, Relaxed);
            tracing::warn!(peer_id = %Hex(self.peer.id), "dropped a forwarded proposal: too many are waiting");
        }
    }
}

enum DialError {
    Request(client::Error),
    /// 410: we are no member any more.
    Removed,
    Refused(StatusCode, String),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Removed => f.write_str("the member has been permanently removed from the cluster"),
            Self::Refused(status, text) => write!(f, "{status}: {text}"),
        }
    }
}

enum ReadError {
    Codec(codec::Error),
    Broken(hyper::Error),
    Ended,
    /// Nothing for longer than the read timeout.
    Silent,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Codec(error) => error.fmt(f),
            Self::Broken(error) => error.fmt(f),
            Self::Ended => f.write_str("closed by the peer"),
            Self::Silent => io::Error::from(io::ErrorKind::TimedOut).fmt(f),
        }
    }
}
