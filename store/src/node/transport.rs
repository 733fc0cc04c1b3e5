//! Where raft messages go: the seam between the raft thread and the peer transport.
//!
//! A snapshot message gets its data here: the snapshot raft chose is replaced by that of the state really sent, which
//! is never older.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use proto::raftpb::{self, MessageType};

use super::{
    backend_loop,
    mailbox::Sender,
    raft_loop,
    snapshot::{self, Opening},
};
use crate::{
    backend::Backend,
    peer::{self, BoxFuture, Transport, client::Client},
    raft::driver::Event,
};

/// Sends messages to peers; never waits, may drop.
pub trait Outbound: Send + Sync {
    fn send(&self, messages: Vec<raftpb::Message>);
}

/// Asks other members for the small services of `handler::serve`.
pub trait Ask: Send + Sync {
    /// `None` if there was no answer from the member at `url`.
    fn ask<'a>(&'a self, url: &'a str, request: Request<Bytes>) -> BoxFuture<'a, Option<Response<Bytes>>>;
}

impl Ask for Client {
    fn ask<'a>(&'a self, url: &'a str, request: Request<Bytes>) -> BoxFuture<'a, Option<Response<Bytes>>> {
        Box::pin(async move { self.call(url, request).await.ok() })
    }
}

/// Tells who is connected.
pub trait Connections: Send + Sync {
    /// Since when a peer has answered without a break; `None` if it does not, or is unknown.
    fn active_since(&self, peer: u64) -> Option<Instant>;
}

impl Connections for Transport {
    fn active_since(&self, peer: u64) -> Option<Instant> {
        Transport::active_since(self, peer)
    }
}

pub struct Peers {
    pub transport: Transport,
    pub backend: Arc<dyn Backend>,
    pub backend_loop: Sender<backend_loop::Input>,
    pub raft: Sender<raft_loop::Input>,
    pub runtime: tokio::runtime::Handle,
}

impl Outbound for Peers {
    fn send(&self, mut messages: Vec<raftpb::Message>) {
        let snapshots = messages.extract_if(.., |it| it.r#type == MessageType::MsgSnap as i32);
        for message in snapshots.collect::<Vec<_>>() {
            self.send_snapshot(message);
        }
        if !messages.is_empty() {
            self.transport.send(messages);
        }
    }
}

impl Peers {
    fn send_snapshot(&self, mut message: raftpb::Message) {
        let to = message.to;
        let (sender, chunks) = tokio::sync::mpsc::channel(4);
        let (ready, opening) = tokio::sync::oneshot::channel();
        let backend = self.backend.clone();
        let wanted = message.snapshot.metadata.index;
        let backend_loop = self.backend_loop.clone();
        self.runtime.spawn_blocking(move || {
            wait_for_backend(&*backend, &backend_loop, wanted);
            let outcome =
                snapshot::stream(&*backend, wanted, ready, &mut |chunk| sender.blocking_send(chunk).is_ok());
            if let Err(error) = outcome {
                tracing::warn!(%error, to = format!("{to:x}"), "failed to read a snapshot for a peer");
            }
        });
        let (transport, raft) = (self.transport.clone(), self.raft.clone());
        self.runtime.spawn(async move {
            let Ok(Opening { snapshot, size_bytes }) = opening.await else {
                let _ = raft.send(raft_loop::Input::Event(Event::SnapshotStatus { peer: to, ok: false }));
                return;
            };
            message.snapshot = snapshot;
            transport.send_snapshot(to, message, ChannelBody { chunks, left: size_bytes }.boxed_unsync());
        });
    }
}

/// The backend follows what is applied at a short distance: lets it catch up with `wanted`, for a while.
pub fn wait_for_backend(backend: &dyn Backend, backend_loop: &Sender<backend_loop::Input>, wanted: u64) {
    for _ in 0..BACKEND_LOOKS {
        // A failure to read shows when the snapshot is read.
        if snapshot::metadata(backend).is_ok_and(|metadata| metadata.index >= wanted)
            || backend_loop.send(backend_loop::Input::Hurry).is_err()
        {
            return;
        }
        std::thread::sleep(BACKEND_LOOK);
    }
}

/// How often, and how many times, the backend is looked at before a snapshot is given up.
const BACKEND_LOOK: std::time::Duration = std::time::Duration::from_millis(2);
const BACKEND_LOOKS: u32 = 1000;

/// A body that yields what arrives on a channel. The receiver learns its length first, and so whether all came.
struct ChannelBody {
    chunks: tokio::sync::mpsc::Receiver<bytes::Bytes>,
    left: u64,
}

impl http_body::Body for ChannelBody {
    type Data = bytes::Bytes;
    type Error = peer::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, peer::BoxError>>> {
        let chunk = ready!(self.chunks.poll_recv(cx));
        self.left = self.left.saturating_sub(chunk.as_ref().map_or(0, Bytes::len) as u64);
        Poll::Ready(chunk.map(|chunk| Ok(http_body::Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}
