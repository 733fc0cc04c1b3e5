//! The edge threads: each runs a single-threaded runtime with its share of the connections and one shard of watchers.
//!
//! Connections are dealt to threads in turn, and stay: a request is decoded, answered and written where it arrived.
//! One port speaks HTTP/2 (gRPC) and HTTP/1.1; the first bytes tell which, or what was agreed on in the TLS handshake,
//! which is done on the connection's thread too.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::Either;
use h2::RecvStream;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tonic::Status;

use super::{
    grpc::{self, Body},
    http as plain, http2,
    io::Coalesced,
    router::{self, Context, Counters},
    watch::{Shard, Shards},
};
use crate::{
    node::{Node, lane::Lane},
    tls::{Acceptor, Rejections, Side},
};

/// A connection whose first bytes do not come within this time is closed.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// What every HTTP/2 connection begins with, and no HTTP/1 request.
const PREFACE: &[u8] = b"PRI";
/// What every TLS connection begins with.
const TLS_HANDSHAKE: u8 = 0x16;
/// How often a connection that has sent part of this is looked at again, and how many times.
const PREFACE_POLL: Duration = Duration::from_millis(5);
const PREFACE_POLLS: usize = 200;
/// How long requests under way may take when the server stops.
const DRAIN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and all plain paths.
    Everything,
    /// gRPC alone, where plain paths have listeners of their own.
    Grpc,
    /// All plain paths alone.
    Http,
    /// `/metrics`, `/health` and their like only.
    Metrics,
}

impl Serves {
    /// Whether a connection of this version of HTTP is served; etcd closes the others too.
    fn speaks(self, http2: bool, by_tls: bool) -> bool {
        match self {
            Serves::Grpc => http2,
            // What is plain on HTTP/2 is asked for in the TLS handshake, if at all.
            Serves::Http => !http2 || by_tls,
            Serves::Everything | Serves::Metrics => true,
        }
    }
}

/// What a listener's connections get.
#[derive(Clone)]
pub struct Door {
    pub serves: Serves,
    /// `None`: plain.
    pub tls: Option<Arc<Acceptor>>,
}

enum Dealt {
    Socket(std::net::TcpStream, SocketAddr, Door),
    /// One end of an in-process connection.
    Pipe(tokio::io::DuplexStream),
}

/// The running edge.
pub struct Edge {
    threads: Vec<Thread>,
    next: AtomicUsize,
    connections: Arc<AtomicUsize>,
    /// Further ones are closed at once.
    max_connections: usize,
    rejections: Arc<Rejections>,
    pub counters: Arc<Counters>,
    pub shards: Vec<Arc<Shard>>,
    stop: watch::Sender<bool>,
}

struct Thread {
    connections: mpsc::UnboundedSender<Dealt>,
    handle: parking_lot::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Edge {
    pub fn start(node: &Arc<Node>, threads: usize, max_connections: usize) -> std::io::Result<Arc<Edge>> {
        let counters = Arc::new(Counters::default());
        let shared = Shards::default();
        let (stop, stopping) = watch::channel(false);
        let seed = node.id ^ node.ids.next();
        let shards: Vec<_> = (0..threads as u64)
            .map(|thread| Shard::new(node.clone(), &shared, Shard::config(node, seed ^ thread)))
            .collect();
        let connections = Arc::new(AtomicUsize::new(0));
        let rejections = Arc::new(Rejections::new(Side::Client));
        let threads = shards.iter().enumerate().map(|(number, shard)| {
            let (sender, dealt) = mpsc::unbounded_channel();
            let context = Context {
                node: node.clone(),
                counters: counters.clone(),
                shard: shard.clone(),
                common_name: None,
            };
            let all = shards.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (stopping, connections) = (stopping.clone(), connections.clone());
            let refused = rejections.clone();
            let handle = std::thread::Builder::new().name(format!("edge-{number}")).spawn(move || {
                runtime.block_on(serve(context, all, dealt, stopping, connections, refused));
            })?;
            Ok(Thread { connections: sender, handle: Some(handle).into() })
        });
        let threads = threads.collect::<std::io::Result<_>>()?;
        let next = AtomicUsize::new(0);
        Ok(Arc::new(Edge { threads, next, connections, max_connections, rejections, counters, shards, stop }))
    }

    /// Accepts connections until the edge stops.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, door: Door) {
        let mut stopping = self.stop.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopping.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.deal(stream, peer, door.clone()),
                Err(error) => {
                    // Out of file handles, most likely: some connection will end.
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn deal(&self, stream: TcpStream, peer: SocketAddr, door: Door) {
        if self.connections.load(Ordering::Relaxed) >= self.max_connections {
            return self.rejections.log(peer, &"too many connections");
        }
        if let Ok(stream) = stream.into_std() {
            self.hand(Dealt::Socket(stream, peer, door));
        }
    }

    fn hand(&self, connection: Dealt) {
        let thread = self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len();
        self.connections.fetch_add(1, Ordering::Relaxed);
        let _ = self.threads[thread].connections.send(connection);
    }

    /// An in-process connection.
    pub fn connect(&self) -> tokio::io::DuplexStream {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        self.hand(Dealt::Pipe(ours));
        theirs
    }

    /// Ends all connections, letting requests under way finish for a moment. Blocks.
    pub fn stop(&self) {
        self.stop.send_replace(true);
        for thread in &self.threads {
            let handle = thread.handle.lock().take();
            handle.map(std::thread::JoinHandle::join);
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(
    context: Context,
    shards: Vec<Arc<Shard>>,
    mut dealt: mpsc::UnboundedReceiver<Dealt>,
    mut stopping: watch::Receiver<bool>,
    connections: Arc<AtomicUsize>,
    rejections: Arc<Rejections>,
) {
    let shard = tokio::spawn(context.shard.clone().run());
    let lane = tokio::spawn(Arc::<Lane>::default().serve(context.node.raft.clone()));
    let shards = Arc::new(shards);
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let connection = tokio::select! {
            connection = dealt.recv() => connection,
            _ = tasks.join_next(), if !tasks.is_empty() => continue,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        let Some(connection) = connection else { break };
        let (mut context, shards, stopping) = (context.clone(), shards.clone(), stopping.clone());
        let rejections = rejections.clone();
        let counted = Counted(connections.clone());
        tasks.spawn(async move {
            let _counted = counted;
            match connection {
                Dealt::Socket(stream, remote, Door { serves, tls }) => {
                    let Ok(stream) = TcpStream::from_std(stream) else { return };
                    let _ = stream.set_nodelay(true);
                    let Some(acceptor) = tls else {
                        let http2 = match opening(&stream).await {
                            Some(Opening::Http2) => true,
                            Some(Opening::Http1) => false,
                            Some(Opening::Tls) => {
                                return rejections.log(remote, &"a TLS handshake on a plain http port");
                            }
                            None => return,
                        };
                        return connection_task(context, shards, stream, http2, serves, stopping).await;
                    };
                    // Boxed: a plain connection need not be as large.
                    let secure = Box::pin(async move {
                        let Ok((stream, client)) = acceptor.accept(stream, remote).await else { return };
                        context.common_name = client.common_name;
                        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        let reached = Reached { serves, by_tls: true };
                        run(context, shards, stream, http2, reached, stopping).await;
                    });
                    secure.await;
                }
                Dealt::Pipe(pipe) => {
                    connection_task(context, shards, pipe, true, Serves::Everything, stopping).await
                }
            }
        });
    }
    let drained = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    shard.abort();
    lane.abort();
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a plain connection begins with.
enum Opening {
    Http2,
    /// Or anything else.
    Http1,
    Tls,
}

/// Looks at the first bytes without taking them; `None` if they do not come.
async fn opening(stream: &TcpStream) -> Option<Opening> {
    let mut first = [0; PREFACE.len()];
    let peek = async {
        for _ in 0..PREFACE_POLLS {
            let seen = stream.peek(&mut first).await.ok()?;
            let matches = first[..seen] == PREFACE[..seen];
            if seen == 0 {
                return None;
            }
            if first[0] == TLS_HANDSHAKE {
                return Some(Opening::Tls);
            }
            if !matches || seen == PREFACE.len() {
                return Some(if matches { Opening::Http2 } else { Opening::Http1 });
            }
            // A client that sends byte by byte, or one that will send no more.
            tokio::time::sleep(PREFACE_POLL).await;
        }
        None
    };
    tokio::time::timeout(PREFACE_TIMEOUT, peek).await.ok().flatten()
}

/// How a request came to us, as far as plain paths care.
#[derive(Clone, Copy)]
pub struct Reached {
    pub serves: Serves,
    pub by_tls: bool,
}

/// Serves a connection without TLS, or one within the process.
pub async fn connection_task(
    context: Context,
    shards: Arc<Vec<Arc<Shard>>>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
    serves: Serves,
    stopping: watch::Receiver<bool>,
) {
    run(context, shards, stream, http2, Reached { serves, by_tls: false }, stopping).await;
}

async fn run(
    context: Context,
    shards: Arc<Vec<Arc<Shard>>>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
    reached: Reached,
    mut stopping: watch::Receiver<bool>,
) {
    if !reached.serves.speaks(http2, reached.by_tls) {
        return;
    }
    let stop = async { drop(stopping.wait_for(|stop| *stop).await) };
    let stream = Coalesced::new(stream);
    if http2 {
        let config = context.node.config.clone();
        http2::serve(stream, &config, |request| answer(&context, &shards, request, reached), stop).await;
        return;
    }
    let service = service_fn(|request: Request<Incoming>| {
        let (context, shards) = (&context, &shards);
        async move { Ok::<_, Infallible>(plain::answer(context, shards, &request, reached).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PREFACE_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

fn answer<'a>(
    context: &'a Context,
    shards: &'a [Arc<Shard>],
    request: Request<RecvStream>,
    reached: Reached,
) -> impl Future<Output = Response<Body>> + Send + 'a {
    let is_grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc && matches!(reached.serves, Serves::Everything | Serves::Grpc) {
        Either::Left(router::grpc(context, request))
    } else {
        Either::Right(Box::pin(async move {
            match reached.serves {
                Serves::Grpc => not_grpc(request.headers().get(CONTENT_TYPE)),
                _ => plain::answer(context, shards, &request, reached).await,
            }
        }))
    }
}

/// As grpc-go answers what is no call.
fn not_grpc(content_type: Option<&HeaderValue>) -> Response<Body> {
    let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let status = Status::invalid_argument(format!("invalid gRPC request content-type {content_type:?}"));
    let mut response = grpc::refuse(&status);
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}
