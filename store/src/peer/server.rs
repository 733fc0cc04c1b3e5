//! The peer listener: answers `/raft` and below, and hands every other path to the handler. Order of checks,
//! statuses and texts are etcd's (`server/etcdserver/api/rafthttp/http.go`).
//!
//! Bounded: connections per listener, bodies in memory, time between two reads and time a write may stall.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::raftpb::MessageType;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::peer::client::{empty, full};
use crate::peer::codec::{self, MESSAGE_LIMIT, StreamKind};
use crate::peer::headers::{self, CLUSTER_ID, RAFT_TO, SERVER_VERSION, TO_MISMATCH, parse_id};
use crate::peer::net::{Accept, StallGuard};
use crate::peer::snapshot::SnapshotStream;
use crate::peer::stats::Stats;
use crate::peer::stream::StreamBody;
use crate::peer::transport::{Hex, Shared};
use crate::peer::{Body, BoxError, Transport};

/// Longest wait for a request's head, an idle connection included; etcd's.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Wait after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for requests under way after shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

const PROCESS_FAILED: &str = "error processing raft message";

/// Serves one peer listener until `shutdown` ends. Stop the transport first, which ends the streams; requests
/// that take longer than a second after that are broken off. `max_connections`: further ones wait.
pub async fn serve(
    listener: TcpListener,
    accept: Arc<dyn Accept>,
    transport: Transport,
    max_connections: usize,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let permits = Arc::new(Semaphore::new(max_connections));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (permit, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let connection = serve_connection(stream, accept.clone(), transport.clone(), stopping.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a peer connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drop(stop);
    let drained = async { while connections.join_next().await.is_some() {} };
    // The rest is broken off when the set is dropped.
    drop(timeout(DRAIN_TIMEOUT, drained).await);
}

async fn serve_connection(
    stream: TcpStream,
    accept: Arc<dyn Accept>,
    transport: Transport,
    mut stopping: watch::Receiver<()>,
) {
    let config = &transport.shared().config;
    // Bounds its handshake itself, and logs what it refuses.
    let Ok(io) = accept.accept(stream).await else { return };
    let io = TokioIo::new(StallGuard::new(io, config.write_timeout));
    let service = service_fn(|request| {
        let transport = transport.clone();
        async move { Ok::<_, Infallible>(answer(&transport, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(io, service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a peer connection broke");
    }
}

pub async fn answer(transport: &Transport, request: Request<Incoming>) -> Response<Body> {
    let shared = transport.shared();
    let path = request.uri().path();
    if path == "/raft/probing" {
        return respond(StatusCode::OK, "application/json", crate::peer::probe::health());
    }
    let is_stream = path.starts_with("/raft/stream/");
    if path != "/raft" && path != "/raft/snapshot" && !is_stream {
        return shared.handler.http(request).await;
    }
    let allowed = if is_stream { Method::GET } else { Method::POST };
    if request.method() != allowed {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_str(allowed.as_str()).expect("a method is a token"));
        return response;
    }
    let mut response = match shared.identity.check(request.headers()) {
        Err(refusal) => {
            tracing::warn!(path, sender = ?headers::text(request.headers(), &headers::SERVER_FROM), refusal, "refused a peer");
            text(StatusCode::PRECONDITION_FAILED, refusal)
        }
        Ok(()) if is_stream => stream(transport, &request),
        Ok(()) => {
            add_sender(transport, &request);
            if path == "/raft" {
                message(transport, request).await
            } else {
                snapshot(transport, request).await
            }
        }
    };
    response.headers_mut().insert(CLUSTER_ID, shared.identity.cluster_id());
    if is_stream {
        response.headers_mut().insert(SERVER_VERSION, shared.identity.version());
    }
    response
}

/// Lets us answer a sender that our log has not made a member yet.
fn add_sender(transport: &Transport, request: &Request<Incoming>) {
    let Some((id, urls)) = headers::sender(request.headers()) else { return };
    if !transport.shared().handler.is_id_removed(id)
        && let Err(error) = transport.add_remote(id, &urls)
    {
        tracing::debug!(sender = %Hex(id), %error, "cannot answer a sender");
    }
}

fn stream(transport: &Transport, request: &Request<Incoming>) -> Response<Body> {
    let shared = transport.shared();
    let Some((path, from)) = request.uri().path().rsplit_once('/') else {
        return text(StatusCode::NOT_FOUND, "invalid path");
    };
    let kinds = [StreamKind::MsgApp, StreamKind::Message];
    let Some(kind) = kinds.into_iter().find(|kind| kind.path() == path) else {
        return text(StatusCode::NOT_FOUND, "invalid path");
    };
    let Some(from) = parse_id(from) else { return text(StatusCode::NOT_FOUND, "invalid from") };
    if shared.handler.is_id_removed(from) {
        tracing::warn!(from = %Hex(from), "refused a stream to a removed member");
        return text(StatusCode::GONE, "removed member");
    }
    let Some(peer) = transport.peer(from) else {
        if let Some((_, urls)) = headers::sender(request.headers())
            && let Err(error) = transport.add_remote(from, &urls)
        {
            tracing::debug!(from = %Hex(from), %error, "cannot answer a sender");
        }
        return text(StatusCode::NOT_FOUND, "error sender not found");
    };
    let to = headers::text(request.headers(), &RAFT_TO).and_then(parse_id);
    if to != Some(shared.config.id) {
        return text(StatusCode::PRECONDITION_FAILED, TO_MISMATCH);
    }
    Response::new(StreamBody::new(shared.clone(), peer, kind).boxed_unsync())
}

async fn message(transport: &Transport, request: Request<Incoming>) -> Response<Body> {
    let shared = transport.shared();
    let stats = sender_stats(transport, &request);
    let answer = process_message(shared, request, stats.as_deref()).await;
    if let Some(stats) = stats
        && answer.status() != StatusCode::NO_CONTENT
    {
        stats.received_failures.fetch_add(1, Relaxed);
    }
    answer
}

async fn process_message(
    shared: &Shared,
    request: Request<Incoming>,
    stats: Option<&Stats>,
) -> Response<Body> {
    let mut permit = shared.posts.acquire().await.expect("the semaphore is never closed");
    let body = match read_body(request.into_body(), shared.config.read_timeout).await {
        Ok(body) => body,
        Err(error) => {
            tracing::warn!(%error, "failed to read a raft message");
            return text(StatusCode::BAD_REQUEST, "error reading raft message");
        }
    };
    if let Some(stats) = stats {
        stats.received_bytes.fetch_add(body.len() as u64, Relaxed);
    }
    let message = match codec::decode_message(body) {
        Ok(message) => message,
        Err(error) => {
            tracing::warn!(%error, "failed to parse a raft message");
            return text(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
        }
    };
    if let Some(refusal) = shared.refusal(&message) {
        return forbidden(refusal);
    }
    if message.r#type == MessageType::MsgProp as i32 {
        permit = match shared.posted_proposals.try_acquire() {
            Ok(permit) => permit,
            Err(_) => return text(StatusCode::INTERNAL_SERVER_ERROR, PROCESS_FAILED),
        };
    }
    let processed = shared.handler.process(message).await;
    drop(permit);
    match processed {
        Ok(()) => no_content(),
        Err(error) => {
            tracing::warn!(%error, "failed to process a raft message");
            text(StatusCode::INTERNAL_SERVER_ERROR, PROCESS_FAILED)
        }
    }
}

fn sender_stats(transport: &Transport, request: &Request<Incoming>) -> Option<Arc<Stats>> {
    let sender = headers::text(request.headers(), &headers::SERVER_FROM).and_then(parse_id)?;
    Some(transport.peer_or_remote(sender)?.stats.clone())
}

async fn snapshot(transport: &Transport, request: Request<Incoming>) -> Response<Body> {
    let shared = transport.shared();
    let stats = sender_stats(transport, &request);
    let transfer = stats.as_ref().map(|stats| stats.snapshot_receive.begin());
    let opened = SnapshotStream::open(request.into_body(), shared.config.read_timeout, stats.clone()).await;
    let (message, database) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!(%error, "failed to read the message of a snapshot");
            return text(StatusCode::BAD_REQUEST, &format!("failed to decode raft message ({error})"));
        }
    };
    if message.r#type != MessageType::MsgSnap as i32 {
        return text(StatusCode::BAD_REQUEST, "wrong raft message type");
    }
    if let Some(refusal) = shared.refusal(&message) {
        return forbidden(refusal);
    }
    let (from, index) = (message.from, message.snapshot.metadata.index);
    tracing::info!(from = %Hex(from), index, "receiving a snapshot");
    match shared.handler.receive_snapshot(message, database).await {
        Ok(()) => {
            if let Some(transfer) = transfer {
                transfer.finish();
            }
            no_content()
        }
        Err(error) => {
            tracing::warn!(from = %Hex(from), index, %error, "failed to receive a snapshot");
            text(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to process raft message ({error})"))
        }
    }
}

async fn read_body(mut body: Incoming, read_timeout: Duration) -> Result<Bytes, BoxError> {
    let mut all = bytes::BytesMut::new();
    while let Some(frame) = timeout(read_timeout, body.frame()).await? {
        if let Ok(data) = frame?.into_data() {
            if (all.len() + data.len()) as u64 > MESSAGE_LIMIT {
                return Err(codec::Error::TooLong {
                    size: (all.len() + data.len()) as u64,
                    limit: MESSAGE_LIMIT,
                }
                .into());
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A refusal as Go's `http.Error` writes it.
fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = respond(status, "text/plain; charset=utf-8", format!("{text}\n").into());
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn forbidden(message: &'static str) -> Response<Body> {
    let body = serde_json::json!({ "message": message }).to_string();
    respond(StatusCode::FORBIDDEN, "application/json", body.into())
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
