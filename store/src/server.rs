//! The server: a member with its listeners, started from a plain config and stopped cleanly.
//!
//! `bootstrap` finds or founds the member on disk, after `discovery` has found its founders, `join` has asked the
//! cluster it was added to, or `force` has left it alone; here its threads are started and joined up. Several servers
//! run in one process without sharing anything; each owns one runtime for peers and background work, and its edge
//! threads. Stopping hands leadership on, lets requests under way finish, and leaves everything durable.

#![expect(clippy::disallowed_methods, reason = "assembly: sockets, threads and the data directory")]

pub mod bootstrap;
mod descriptors;
mod discovery;
mod force;
pub mod join;
mod takeover;
mod tokens;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper_util::rt::TokioIo;
use proto::raftpb;
use tokio::net::{TcpListener, TcpSocket};
use tonic::transport::{Channel, Endpoint};

use crate::{
    api::edge::{Door, Edge, Serves},
    backend::rocks,
    config::{self, ClusterState, Config, Feature, Url},
    disk,
    membership::{Change, Membership},
    node::{
        self, Node,
        apply_loop::{self, MemberChanges},
        backend_loop,
        build::{self, Found, Joints, Links},
        clock::Clock,
        corruption,
        fatal::End,
        handler::PeerHandler,
        leader,
        logins::Provider,
        mailbox, part, raft_loop,
        transport::Peers,
        wal_loop,
    },
    peer::{
        self, Transport,
        net::{Accept, Connect, Plain, Secure},
    },
    tls::{Acceptor, Sides},
};
use descriptors::Shares;
use join::Joined;

/// Why a server could not start.
#[derive(Debug)]
pub struct StartError(pub String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> StartError {
    move |error| StartError(format!("{what}: {error}"))
}

/// How long a stopping leader waits for its successor, in tenths of an election timeout: raft gives a transfer up after
/// ten.
const TRANSFER_TENTHS: u64 = 15;

pub struct Server {
    node: Arc<Node>,
    edge: Option<Arc<Edge>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    apply_thread: Option<std::thread::JoinHandle<()>>,
    wal: mailbox::Sender<wal_loop::Input>,
    backend_loop: mailbox::Sender<backend_loop::Input>,
    stop_peers: tokio::sync::watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
    client_addresses: Vec<SocketAddr>,
    secure_addresses: Vec<SocketAddr>,
    stopped: bool,
}

impl Server {
    /// Starts a member. Returns once its listeners are open and its state is loaded; `ready` tells when it serves.
    pub fn start(mut config: Config) -> Result<Server, StartError> {
        config.validate().map_err(|error| StartError(error.0))?;
        let shares = Shares::of(descriptors::raise_limit());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(16)
            .thread_name("member")
            .enable_all()
            .build()
            .map_err(failed("runtime"))?;
        let listeners = {
            let _context = runtime.enter();
            let sides = Sides::load(&config).map_err(|error| StartError(error.0))?;
            Listeners::open(&config, sides)?
        };
        let provider = tokens::provider(&config)?;
        let disk: Arc<dyn disk::Disk> = Arc::new(disk::Os);
        let joined = Server::arrive(&mut config, &*disk, &runtime, &listeners)?;
        let config = Arc::new(config);
        let found = bootstrap::bootstrap(
            &config,
            joined.as_ref(),
            disk.clone(),
            rocks::Settings { open_files: shares.tables, ..Default::default() },
        )?;
        let server = Server::assemble(config, disk, found, runtime, listeners, provider, shares)?;
        for member in joined.iter().flat_map(|it| &it.members) {
            // Their messages may come before the log that makes them members.
            let _ = server.node.transport().map(|it| it.add_remote(member.id, &member.peer_urls));
        }
        Ok(server)
    }

    /// What a member without data does before it begins: checks what it was told, and meets the cluster it joins.
    fn arrive(
        config: &mut Config,
        disk: &dyn disk::Disk,
        runtime: &tokio::runtime::Runtime,
        listeners: &Listeners,
    ) -> Result<Option<Joined>, StartError> {
        if bootstrap::exists(config, disk)? {
            if config.discovery.is_asked_for() {
                tracing::warn!("discovery is not needed: the member has data and knows its cluster");
            }
            return Ok(None);
        }
        runtime.block_on(discovery::settle(config))?;
        let client = node::peer_client(config, listeners.connect.clone());
        if config.initial_cluster_state == ClusterState::Existing {
            return runtime.block_on(join::find(config, &client)).map(Some);
        }
        let initial = config.initial_cluster().map_err(|error| StartError(error.0))?;
        initial.verify(&config.name).map_err(|error| StartError(error.0))?;
        join::verify_advertised(config, &initial)?;
        let own = bootstrap::founder(config)?;
        runtime.block_on(async {
            tokio::select! {
                verified = join::verify_not_bootstrapped(own, config, &initial, &client) => verified,
                () = listeners.turn_peers_away() => Ok(()),
            }
        })?;
        Ok(None)
    }

    fn assemble(
        config: Arc<Config>,
        disk: Arc<dyn disk::Disk>,
        found: Found,
        runtime: tokio::runtime::Runtime,
        listeners: Listeners,
        provider: Provider,
        shares: Shares,
    ) -> Result<Server, StartError> {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64);
        let (id, cluster_id) = (found.id, found.cluster_id);
        let joints = Joints::new(&found, unix_ms);
        let snap_dir = config.member_dir_path().join("snap");

        // Peers.
        let peer_urls: Vec<String> =
            config.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
        let handler = Arc::new(PeerHandler {
            raft: joints.raft.clone(),
            snap_dir,
            published: joints.published.clone(),
            transfers: 0.into(),
            node: OnceLock::new(),
        });
        let transport = {
            let _context = runtime.enter();
            let peer_config = peer::Config {
                read_timeout: config.raft_read_timeout,
                write_timeout: config.raft_write_timeout,
                connect: listeners.connect.clone(),
                ..peer::Config::new(id, cluster_id, config::VERSION, peer_urls)
            };
            Transport::new(peer_config, handler.clone()).map_err(failed("peer transport"))?
        };
        let outbound = Arc::new(Peers {
            transport: transport.clone(),
            backend: found.backend.clone(),
            backend_loop: joints.backend.clone(),
            raft: joints.raft.clone(),
            runtime: runtime.handle().clone(),
        });
        let members = Members { id, transport: transport.clone() };
        let (wal_sender, backend_sender) = (joints.wal.clone(), joints.backend.clone());
        let links = Links {
            disk,
            outbound,
            members: Box::new(members),
            others: Arc::new(node::peer_client(&config, listeners.connect.clone())),
            connections: Arc::new(transport.clone()),
            transport: Some(transport.clone()),
            runtime: node::runtime::Runtime::Tokio(runtime.handle().clone()),
            clock: Clock::real(),
            random: random(id ^ unix_ms),
            drive: None,
            observer: None,
        };
        let (node, mut parts) = build::build(&config, found, joints, links).map_err(failed("raft"))?;
        let _ = handler.node.set(Arc::downgrade(&node));
        let _ = node.logins.provider.set(provider);
        let mut threads = Vec::new();
        if !config.unsafe_no_fsync {
            let (ahead, fatal) = (parts.wal.wal.ahead().clone(), node.fatal.clone());
            // Without it syncs only take longer.
            if let Ok(filler) = spawn("wal-ahead", move || wal_loop::fill(&ahead, &fatal)) {
                parts.wal.filler = Some(filler.thread().clone());
                threads.push(filler);
            }
        }
        threads.extend([
            spawn("raft", move || part::run(parts.raft))?,
            spawn("wal", move || part::run(parts.wal))?,
            spawn("backend", move || part::run(parts.backend))?,
            spawn("checkpoint", move || part::run(parts.checkpoint))?,
            spawn("compaction", move || part::run(parts.compaction))?,
        ]);
        let apply_thread = Some(spawn("apply", move || part::run(parts.apply))?);
        let edge_threads = std::thread::available_parallelism().map_or(2, usize::from);
        let edge = Edge::start(&node, edge_threads, shares.clients).map_err(failed("edge"))?;
        let (stop_peers, _) = tokio::sync::watch::channel(false);
        let mut server = Server {
            node,
            edge: Some(edge),
            threads,
            apply_thread,
            wal: wal_sender,
            backend_loop: backend_sender,
            stop_peers,
            runtime: Some(runtime),
            client_addresses: Vec::new(),
            secure_addresses: Vec::new(),
            stopped: false,
        };
        if server.node.config.feature_gates.enabled(Feature::InitialCorruptCheck) {
            let check = corruption::check_at_start(&server.node);
            server.runtime.as_ref().map_or(Ok(()), |it| it.block_on(check)).map_err(StartError)?;
        }
        server.listen(listeners, &transport, shares.peers);
        Ok(server)
    }

    fn listen(&mut self, listeners: Listeners, transport: &Transport, max_peers: usize) {
        let Some(runtime) = &self.runtime else { return };
        for material in listeners.sides.all() {
            runtime.spawn(material.clone().watch());
        }
        for (listener, accept) in listeners.peers {
            let mut stop = self.stop_peers.subscribe();
            let stopped = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            runtime.spawn(peer::serve(listener, accept, transport.clone(), max_peers, stopped));
        }
        let Some(edge) = &self.edge else { return };
        for (listener, door) in listeners.clients {
            self.client_addresses.extend(listener.local_addr().ok());
            if door.tls.is_some() {
                self.secure_addresses.extend(listener.local_addr().ok());
            }
            runtime.spawn(edge.clone().accept(listener, door));
        }
        runtime.spawn(leader::publish(self.node.clone()));
        runtime.spawn(leader::monitor_version(self.node.clone()));
        runtime.spawn(self.node.clone().expire_requests());
        let config = &self.node.config;
        if !config.corrupt_check_time.is_zero() {
            runtime.spawn(corruption::check_periodically(self.node.clone(), config.corrupt_check_time));
        }
        if config.feature_gates.enabled(Feature::CompactHashCheck)
            && !config.compact_hash_check_time.is_zero()
        {
            runtime.spawn(corruption::check_compactions(self.node.clone(), config.compact_hash_check_time));
        }
        // Checked when the config was.
        if let Ok(Some(mode)) = self.node.config.auto_compaction() {
            runtime.spawn(leader::auto_compact(self.node.clone(), mode));
        }
    }

    /// Returns once a leader is known and this member has caught up with it.
    pub async fn ready(&self) {
        loop {
            if self.node.read_index().await.is_ok() {
                return;
            }
            if self.node.fatal.is_set() {
                return;
            }
        }
    }

    /// Returns when the member had to stop by itself, with the reason.
    pub async fn ended(&self) -> End {
        self.node.fatal.happened().await;
        self.node.fatal.reason().cloned().expect("it happened")
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where clients can connect: the addresses bound, with the ports the system chose for those given as 0.
    pub fn client_addresses(&self) -> &[SocketAddr] {
        &self.client_addresses
    }

    /// Whether connections to this one of the addresses are by TLS.
    pub fn is_secure(&self, address: &SocketAddr) -> bool {
        self.secure_addresses.contains(address)
    }

    /// A gRPC channel to this server within the process. Must be called within a tokio runtime.
    pub fn channel(&self) -> Channel {
        let edge = self.edge.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let pipe = edge.as_ref().map(|edge| edge.connect());
            async move { pipe.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        });
        Endpoint::from_static("http://in-process").connect_with_connector_lazy(connector)
    }

    /// Stops cleanly: hands leadership on, finishes requests under way, makes everything durable. Blocks.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let Some(runtime) = self.runtime.take() else { return };
        let node = self.node.clone();
        runtime.block_on(hand_over(&node));
        // The edge first, while there is still somebody to answer it.
        if let Some(edge) = self.edge.take() {
            edge.stop();
            drop(edge);
        }
        let _ = self.stop_peers.send(true);
        if let Some(transport) = self.node.transport() {
            transport.stop();
        }
        let _ = self.node.raft.send(raft_loop::Input::Stop);
        let _ = self.node.apply.send(apply_loop::Input::Stop);
        // What it applies last may need the backend.
        if let Some(apply) = self.apply_thread.take() {
            let _ = apply.join();
        }
        let _ = self.wal.send(wal_loop::Input::Stop);
        let _ = self.backend_loop.send(backend_loop::Input::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.stopped {
            // Where a tokio runtime is at work no other can be waited for.
            std::thread::scope(|scope| {
                scope.spawn(|| self.shut_down());
            });
        }
    }
}

/// Offers leadership to another voter and waits for it to take over, for a while.
async fn hand_over(node: &Node) {
    if node.fatal.is_set() || !node.status.is_leader() {
        return;
    }
    let (answer, target) = tokio::sync::oneshot::channel();
    if node.raft.send(raft_loop::Input::TransferAway(answer)).is_err() {
        return;
    }
    let Ok(Some(to)) = target.await else { return };
    let mut changes = node.status.watch();
    let patience = Duration::from_millis(TRANSFER_TENTHS * node.config.election_timeout_ms / 10);
    let taken_over = async {
        loop {
            tokio::select! {
                changed = changes.wait_for(|state| state.leader == to) => return changed.is_ok(),
                () = tokio::time::sleep(Duration::from_millis(50)) => {
                    // It may be stopping too.
                    if !node.is_connected_to(to) {
                        return false;
                    }
                }
            }
        }
    };
    match tokio::time::timeout(patience, taken_over).await {
        Ok(true) => tracing::info!(to = format!("{to:x}"), "leadership transferred"),
        _ => tracing::warn!(to = format!("{to:x}"), "leadership was not taken over in time"),
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(failed("thread"))
}

/// xorshift64*: election timeouts need to differ between members, nothing more.
fn random(seed: u64) -> crate::raft::driver::Random {
    let mut state = seed | 1;
    Box::new(move |bound| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    })
}

/// Keeps the transport in step with the members.
struct Members {
    id: u64,
    transport: Transport,
}

impl MemberChanges for Members {
    fn changed(&self, change: &Change) {
        let outcome = match change {
            Change::Added(member) => self.transport.add_peer(member.id, &member.peer_urls),
            Change::Updated(member) if member.id != self.id => {
                self.transport.update_peer(member.id, &member.peer_urls)
            }
            Change::Removed(id) if *id == self.id => {
                self.transport.removed();
                Ok(())
            }
            Change::Removed(id) => {
                self.transport.remove_peer(*id);
                Ok(())
            }
            Change::Updated(_) | Change::Promoted(_) => Ok(()),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, ?change, "a member cannot be reached");
        }
    }

    fn replaced(&self, membership: &Membership) {
        for (id, _) in self.transport.peer_stats() {
            if membership.get(id).is_none() {
                self.transport.remove_peer(id);
            }
        }
        for member in membership.members() {
            self.changed(&Change::Added(member.clone()));
        }
    }
}

struct Listeners {
    sides: Sides,
    /// How other members are dialled.
    connect: Arc<dyn Connect>,
    peers: Vec<(TcpListener, Arc<dyn Accept>)>,
    clients: Vec<(TcpListener, Door)>,
}

impl Listeners {
    fn open(config: &Config, sides: Sides) -> Result<Listeners, StartError> {
        let open = |url: &Url| {
            bind(url, config).map_err(|error| {
                StartError(format!("listen tcp {}: bind: {}", url.authority(), config::reason(&error)))
            })
        };
        let connect: Arc<dyn Connect> = match &sides.peer {
            Some(material) => Arc::new(Secure(material.clone())),
            None => Arc::new(Plain),
        };
        let peer_acceptor = sides.peer.as_ref().map(|material| Arc::new(Acceptor::new(material.clone())));
        let mut peers = Vec::new();
        for url in &config.listen_peer_urls {
            let accept: Arc<dyn Accept> = match behind(url, &peer_acceptor)? {
                Some(acceptor) => acceptor,
                None => Arc::new(Plain),
            };
            peers.push((open(url)?, accept));
        }
        let acceptor = sides.client.as_ref().map(|material| Arc::new(Acceptor::new(material.clone())));
        let for_metrics = acceptor.as_ref().map(|acceptor| Arc::new(acceptor.for_metrics()));
        let with_clients =
            if config.listen_client_http_urls.is_empty() { Serves::Everything } else { Serves::Grpc };
        let kinds = [
            (&config.listen_client_urls, with_clients),
            (&config.listen_client_http_urls, Serves::Http),
            (&config.listen_metrics_urls, Serves::Metrics),
        ];
        let mut clients = Vec::new();
        for (urls, serves) in kinds {
            let acceptor = if serves == Serves::Metrics { &for_metrics } else { &acceptor };
            for url in urls {
                let tls = behind(url, acceptor)?;
                clients.push((open(url)?, Door { serves, tls }));
            }
        }
        Ok(Listeners { sides, connect, peers, clients })
    }

    /// Ends connections of peers at once, for as long as it is polled: founders that ask each other whether there is a
    /// cluster need not wait for each other.
    async fn turn_peers_away(&self) {
        let ends = self.peers.iter().map(|(listener, _)| async {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        futures_util::future::join_all(ends).await;
        std::future::pending().await
    }
}

/// What connections to this URL pass through.
fn behind(url: &Url, acceptor: &Option<Arc<Acceptor>>) -> Result<Option<Arc<Acceptor>>, StartError> {
    match (url.scheme().is_tls(), acceptor) {
        (false, _) => Ok(None),
        (true, Some(acceptor)) => Ok(Some(acceptor.clone())),
        // The rules of the configuration do not let it come to this.
        (true, None) => Err(StartError(format!("{url} has no certificate to be served with"))),
    }
}

fn bind(url: &Url, config: &Config) -> io::Result<TcpListener> {
    if url.socket_path().is_some() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "Unix sockets are not supported yet"));
    }
    let host = if url.host() == "localhost" { "127.0.0.1" } else { url.host() };
    let ip =
        host.trim_matches(['[', ']']).parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let address = SocketAddr::new(ip, url.port());
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As Go's listeners: a restart need not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(config.socket_reuse_port)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// Metadata of the state found at start.
pub type AppliedState = raftpb::SnapshotMetadata;
