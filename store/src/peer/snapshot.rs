//! Snapshots between members: one POST whose body is a framed `MsgSnap` and then a database of any length.
//! Both sides stream; neither holds more than a chunk of the database. What the database is, the node knows.
//! Source: etcd `server/etcdserver/api/rafthttp/snapshot_sender.go`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use proto::raftpb::Message;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::peer::client;
use crate::peer::codec::{self, MESSAGE_LIMIT};
use crate::peer::stats::Stats;
use crate::peer::transport::{Hex, Peer, Shared};
use crate::peer::{Body, BoxError};

const CHUNK_BYTES: usize = 256 << 10;
/// Time for the receiver to make the snapshot durable once it has all of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest answer we read.
const ANSWER_LIMIT: usize = 4096;

/// A database read from `reader`; `length` in bytes where it is known. The receiver refuses one that falls
/// short.
pub fn database(reader: impl AsyncRead + Send + Unpin + 'static, length: Option<u64>) -> Body {
    ReaderBody { reader, left: length }.boxed_unsync()
}

struct ReaderBody<R> {
    reader: R,
    left: Option<u64>,
}

impl<R: AsyncRead + Unpin> hyper::body::Body for ReaderBody<R> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let room = this
            .left
            .map_or(CHUNK_BYTES, |left| CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES)));
        if room == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = vec![0; room];
        let mut buffer = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut this.reader).poll_read(cx, &mut buffer))?;
        let size = buffer.filled().len();
        if size == 0 {
            return match this.left {
                Some(left) => Poll::Ready(Some(Err(format!("database ended {left} bytes early").into()))),
                None => Poll::Ready(None),
            };
        }
        chunk.truncate(size);
        this.left = this.left.map(|left| left - size as u64);
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The message's frame, then the database; tells when the last of it has been taken.
struct SnapshotBody {
    head: Option<Bytes>,
    database: Body,
    peer: Arc<Peer>,
    done: Option<oneshot::Sender<()>>,
}

impl hyper::body::Body for SnapshotBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match this.head.take() {
            Some(head) => Some(Ok(Frame::data(head))),
            None => ready!(Pin::new(&mut this.database).poll_frame(cx)),
        };
        match &frame {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len);
                this.peer.stats.sent_bytes.fetch_add(size as u64, Relaxed);
            }
            Some(Err(_)) | None => drop(this.done.take()),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_none() && self.database.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let head = self.head.as_ref().map_or(0, Bytes::len) as u64;
        match self.database.size_hint().exact().and_then(|database| database.checked_add(head)) {
            Some(size) => SizeHint::with_exact(size),
            None => SizeHint::default(),
        }
    }
}

/// Sends one snapshot and reports the outcome.
pub(crate) async fn send(shared: Arc<Shared>, peer: Arc<Peer>, message: Message, database: Body) {
    let transfer = peer.stats.snapshot_send.begin();
    let index = message.snapshot.metadata.index;
    tracing::info!(to = %Hex(peer.id), index, "sending a snapshot");
    match post(&shared, &peer, &message, database).await {
        Ok(()) => {
            transfer.finish();
            peer.status.activate();
            tracing::info!(to = %Hex(peer.id), index, "sent a snapshot");
            shared.handler.report_snapshot(peer.id, true);
        }
        Err(error) => {
            drop(transfer);
            peer.status.deactivate(&error);
            tracing::warn!(to = %Hex(peer.id), index, error, "failed to send a snapshot");
            peer.lost(&shared, &message);
        }
    }
}

async fn post(shared: &Shared, peer: &Arc<Peer>, message: &Message, database: Body) -> Result<(), BoxError> {
    let mut head = BytesMut::new();
    codec::put_message(message, &mut head);
    let (done, body_done) = oneshot::channel();
    let body = SnapshotBody { head: Some(head.freeze()), database, peer: peer.clone(), done: Some(done) };
    let mut request = Request::new(body.boxed_unsync());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/raft/snapshot");
    *request.headers_mut() = shared.identity.request_headers();
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));

    let url = peer.picker.pick();
    let exchange = async {
        let mut connection = shared.dialer.dial(&url).await?;
        let response = connection.send(request).await?;
        let status = response.status();
        let text = client::read_all(response.into_body(), ANSWER_LIMIT).await?;
        Ok::<_, client::Error>((status, text))
    };
    // While the database flows, a stalled write ends the exchange; afterwards, this does.
    let overdue = async {
        drop(body_done.await);
        tokio::time::sleep(ANSWER_TIMEOUT).await;
    };
    let answer = tokio::select! {
        answer = exchange => answer,
        () = overdue => Err(client::Error::Timeout),
    };
    match answer {
        Ok((StatusCode::NO_CONTENT, _)) => Ok(()),
        Ok((StatusCode::FORBIDDEN, _)) => {
            shared.report_removed();
            Err("the member has been permanently removed from the cluster".into())
        }
        Ok((status, text)) => {
            peer.picker.failed(&url);
            Err(format!("{status}: {}", String::from_utf8_lossy(&text).trim()).into())
        }
        Err(error) => {
            peer.picker.failed(&url);
            Err(error.into())
        }
    }
}

/// The body of a snapshot request as it is received.
pub struct SnapshotStream {
    /// Read together with the message.
    rest: Bytes,
    body: Incoming,
    read_timeout: Duration,
    stats: Option<Arc<Stats>>,
}

impl SnapshotStream {
    /// Reads the message in front of the database.
    pub(crate) async fn open(
        body: Incoming,
        read_timeout: Duration,
        stats: Option<Arc<Stats>>,
    ) -> Result<(Message, Self), BoxError> {
        let mut stream = Self { rest: Bytes::new(), body, read_timeout, stats };
        let mut buffer = BytesMut::new();
        loop {
            if let Some(message) = codec::take_message(&mut buffer, MESSAGE_LIMIT)? {
                stream.rest = buffer.freeze();
                return Ok((message, stream));
            }
            match stream.read().await? {
                Some(bytes) => buffer.extend_from_slice(&bytes),
                None => return Err("unexpected EOF".into()),
            }
        }
    }

    /// The next bytes of the database, never empty; `None` at its end. An error if the sender broke off or
    /// paused for longer than the read timeout: what was read so far is not a database then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        self.read().await
    }

    /// Bytes still to come, if the sender announced them.
    pub fn remaining(&self) -> Option<u64> {
        self.body.size_hint().exact().map(|bytes| bytes + self.rest.len() as u64)
    }

    async fn read(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            let Some(frame) = timeout(self.read_timeout, self.body.frame()).await? else { return Ok(None) };
            match frame?.into_data() {
                Ok(bytes) if !bytes.is_empty() => {
                    if let Some(stats) = &self.stats {
                        stats.received_bytes.fetch_add(bytes.len() as u64, Relaxed);
                    }
                    return Ok(Some(bytes));
                }
                _ => {}
            }
        }
    }
}
