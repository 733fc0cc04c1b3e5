//! The set of peers, and which of a peer's channels a message takes. Owns the peers' tasks: they run from
//! `add_peer` until `remove_peer` or `stop`. No lock is held while the handler is called.
//!
//! A *peer* is a member: it has streams both ways, a pipeline and a prober. A *remote* is a sender that is
//! not a member as far as we know (we may be behind the log that adds it); it can only be POSTed to.
//! Source: etcd `server/etcdserver/api/rafthttp/{transport,peer,remote,urlpick,peer_status}.go`. Differs: the
//! number of remotes is limited, since any client with the cluster id can make us create them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use proto::raftpb::{Message, MessageType};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::peer::client::Dialer;
use crate::peer::codec::StreamKind;
use crate::peer::headers::Identity;
use crate::peer::net::{InvalidUrl, PeerUrl};
use crate::peer::stats::Stats;
use crate::peer::stream::{Outgoing, Push};
use crate::peer::{Body, Config, Handler, pipeline, probe, snapshot, stream};

/// Messages in a stream's queue, and proposals waiting to be processed.
pub(crate) const STREAM_QUEUE: usize = 4096;
/// Messages waiting for a pipeline connection.
const PIPELINE_QUEUE: usize = 64;
const PIPELINE_CONNECTIONS: usize = 4;
const REMOTE_LIMIT: usize = 64;
/// Requests to `/raft` whose messages are in memory at the same time.
const POST_LIMIT: usize = 64;
/// How long a member goes on that was removed.
pub const REMOVAL_DELAY: Duration = Duration::from_secs(1);

/// Carries messages to and from the other members. Cheap to clone; all clones are the same transport.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    members: RwLock<Members>,
}

#[derive(Default)]
struct Members {
    peers: HashMap<u64, Arc<Peer>>,
    remotes: HashMap<u64, Arc<Peer>>,
    stopped: bool,
}

/// What all tasks of a transport use.
pub(crate) struct Shared {
    pub config: Config,
    pub identity: Identity,
    pub handler: Arc<dyn Handler>,
    pub dialer: Dialer,
    /// Messages POSTed to us that are being read or processed.
    pub posts: Semaphore,
    /// Proposals among them, apart: they may wait for a leader, and the votes for one must get through.
    pub posted_proposals: Semaphore,
    runtime: Handle,
    removed: AtomicBool,
}

impl Shared {
    /// Tells the node once that it is no member any more, as itself or a peer has found: when whoever asked for it here
    /// may have been answered.
    pub(crate) fn report_removed(&self) {
        if !self.removed.swap(true, Relaxed) {
            tracing::error!(local_member_id = %Hex(self.config.id), "the member has been permanently removed from the cluster");
            let handler = self.handler.clone();
            self.runtime.spawn(async move {
                tokio::time::sleep(REMOVAL_DELAY).await;
                handler.removed();
            });
        }
    }

    /// The refusal of a message that must not reach raft.
    pub(crate) fn refusal(&self, message: &Message) -> Option<&'static str> {
        if self.handler.is_id_removed(message.from) {
            Some("cannot process message from removed member")
        } else if message.to != self.config.id {
            Some("cannot process message to mismatch member")
        } else {
            None
        }
    }
}

/// Why a transport cannot be set up or a peer not be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    Url(InvalidUrl),
    /// A peer without URLs.
    NoUrl,
    /// `server_version` is not `major.minor.patch`, or cannot stand in a header.
    Version(String),
    UnknownPeer(u64),
    /// `stop` has been called.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(error) => error.fmt(f),
            Self::NoUrl => f.write_str("peer has no URL"),
            Self::Version(version) => write!(f, "invalid server version {version:?}"),
            Self::UnknownPeer(id) => write!(f, "peer {id:x} is unknown"),
            Self::Stopped => f.write_str("peer transport is stopped"),
        }
    }
}

impl std::error::Error for Error {}

impl Transport {
    /// Must be called within a tokio runtime, on which all its tasks will run.
    pub fn new(config: Config, handler: Arc<dyn Handler>) -> Result<Self, Error> {
        for url in &config.peer_urls {
            PeerUrl::parse(url).map_err(Error::Url)?;
        }
        let identity = Identity::new(config.id, config.cluster_id, &config.server_version, &config.peer_urls)
            .ok_or_else(|| Error::Version(config.server_version.clone()))?;
        let dialer = Dialer {
            connect: config.connect.clone(),
            dial_timeout: config.dial_timeout,
            stall_timeout: config.write_timeout,
        };
        let shared = Arc::new(Shared {
            identity,
            handler,
            dialer,
            posts: Semaphore::new(POST_LIMIT),
            posted_proposals: Semaphore::new(POST_LIMIT),
            runtime: Handle::current(),
            removed: AtomicBool::new(false),
            config,
        });
        Ok(Self { inner: Arc::new(Inner { shared, members: RwLock::default() }) })
    }

    /// Queues messages for their members; never waits. Those to unknown ids, and to id 0, are dropped.
    pub fn send(&self, messages: Vec<Message>) {
        for message in messages {
            if message.to == 0 {
                continue;
            }
            match self.peer_or_remote(message.to) {
                Some(peer) => peer.send(&self.inner.shared, message),
                None => tracing::debug!(to = %Hex(message.to), "dropped a message to an unknown peer"),
            }
        }
    }

    /// Sends a `MsgSnap` and the database behind it, in the background. The outcome goes to
    /// [`Handler::report_snapshot`], unless a later snapshot to the same peer takes its place.
    pub fn send_snapshot(&self, to: u64, message: Message, database: Body) {
        let shared = &self.inner.shared;
        match self.peer_or_remote(to) {
            Some(peer) => {
                let task = snapshot::send(shared.clone(), peer.clone(), message, database);
                let task = shared.runtime.spawn(task).abort_handle();
                peer.replace_snapshot(task);
            }
            None => shared.handler.report_snapshot(to, false),
        }
    }

    /// Starts talking to a member. Does nothing if it is known, or ourselves.
    pub fn add_peer(&self, id: u64, urls: &[String]) -> Result<(), Error> {
        let urls = parse_urls(urls)?;
        let mut members = self.inner.members.write();
        if members.stopped {
            return Err(Error::Stopped);
        }
        if id == self.inner.shared.config.id {
            return Ok(());
        }
        if let Some(remote) = members.remotes.remove(&id) {
            remote.close();
        }
        members.peers.entry(id).or_insert_with(|| Peer::start(&self.inner.shared, id, urls, true));
        Ok(())
    }

    /// Allows messages to a sender that is not a member yet. Does nothing if it is known.
    pub fn add_remote(&self, id: u64, urls: &[String]) -> Result<(), Error> {
        if self.peer_or_remote(id).is_some() || id == self.inner.shared.config.id {
            return Ok(());
        }
        let urls = parse_urls(urls)?;
        let mut members = self.inner.members.write();
        if members.stopped {
            return Err(Error::Stopped);
        }
        if members.peers.contains_key(&id) || members.remotes.len() >= REMOTE_LIMIT {
            return Ok(());
        }
        members.remotes.entry(id).or_insert_with(|| Peer::start(&self.inner.shared, id, urls, false));
        Ok(())
    }

    /// Stops talking to a member and drops what is queued for it.
    pub fn remove_peer(&self, id: u64) {
        let mut members = self.inner.members.write();
        let gone = [members.peers.remove(&id), members.remotes.remove(&id)];
        drop(members);
        for peer in gone.into_iter().flatten() {
            peer.close();
        }
    }

    /// New connections go to these URLs; connected streams stay.
    pub fn update_peer(&self, id: u64, urls: &[String]) -> Result<(), Error> {
        let urls = parse_urls(urls)?;
        let peer = self.inner.members.read().peers.get(&id).cloned().ok_or(Error::UnknownPeer(id))?;
        peer.picker.update(urls);
        Ok(())
    }

    /// Since when the peer has answered without a break; `None` if it does not answer or is unknown.
    pub fn active_since(&self, id: u64) -> Option<Instant> {
        self.inner.members.read().peers.get(&id)?.status.since()
    }

    /// Counters of each peer.
    pub fn peer_stats(&self) -> Vec<(u64, Arc<Stats>)> {
        self.inner.members.read().peers.iter().map(|(id, peer)| (*id, peer.stats.clone())).collect()
    }

    /// Counters of each remote.
    pub fn remote_stats(&self) -> Vec<(u64, Arc<Stats>)> {
        self.inner.members.read().remotes.iter().map(|(id, peer)| (*id, peer.stats.clone())).collect()
    }

    pub fn id(&self) -> u64 {
        self.inner.shared.config.id
    }

    /// This member is none any more: the node hears of it when whoever asked may have been answered.
    pub fn removed(&self) {
        self.inner.shared.report_removed();
    }

    /// Ends all streams, requests and probes. The listener goes on until its own shutdown.
    pub fn stop(&self) {
        self.inner.stop();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn peer(&self, id: u64) -> Option<Arc<Peer>> {
        self.inner.members.read().peers.get(&id).cloned()
    }

    pub(crate) fn peer_or_remote(&self, id: u64) -> Option<Arc<Peer>> {
        let members = self.inner.members.read();
        members.peers.get(&id).or_else(|| members.remotes.get(&id)).cloned()
    }
}

impl Inner {
    fn stop(&self) {
        let mut members = self.members.write();
        members.stopped = true;
        let members = (std::mem::take(&mut members.peers), std::mem::take(&mut members.remotes));
        for peer in members.0.values().chain(members.1.values()) {
            peer.close();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

fn parse_urls(urls: &[String]) -> Result<Vec<PeerUrl>, Error> {
    if urls.is_empty() {
        return Err(Error::NoUrl);
    }
    urls.iter().map(|url| PeerUrl::parse(url).map_err(Error::Url)).collect()
}

/// One other member, shared by its tasks.
pub(crate) struct Peer {
    pub id: u64,
    pub picker: Picker,
    pub status: Status,
    pub stats: Arc<Stats>,
    queued: Arc<Budget>,
    msgapp: Outgoing,
    message: Outgoing,
    pipeline: mpsc::Sender<Queued>,
    closed: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    snapshot: Mutex<Option<AbortHandle>>,
}

impl Peer {
    fn start(shared: &Arc<Shared>, id: u64, urls: Vec<PeerUrl>, member: bool) -> Arc<Self> {
        let stats = Arc::new(Stats::default());
        let (pipeline, messages) = mpsc::channel(PIPELINE_QUEUE);
        let peer = Arc::new(Self {
            id,
            picker: Picker::new(urls),
            status: Status::new(id, stats.clone()),
            stats,
            queued: Budget::new(shared.config.queue_bytes),
            msgapp: Outgoing::default(),
            message: Outgoing::default(),
            pipeline,
            closed: AtomicBool::new(false),
            tasks: Mutex::default(),
            snapshot: Mutex::default(),
        });
        let mut tasks = peer.tasks.lock();
        let messages = Arc::new(tokio::sync::Mutex::new(messages));
        for _ in 0..PIPELINE_CONNECTIONS {
            let worker = pipeline::run(shared.clone(), peer.clone(), messages.clone());
            tasks.push(shared.runtime.spawn(worker).abort_handle());
        }
        tasks.push(shared.runtime.spawn(probe::run(shared.clone(), peer.clone())).abort_handle());
        if member {
            let (proposals, proposed) = mpsc::channel(STREAM_QUEUE);
            let proposals =
                stream::Proposals { queue: proposals, bytes: Budget::new(shared.config.queue_bytes) };
            tasks.push(
                shared.runtime.spawn(stream::process_proposals(shared.clone(), proposed)).abort_handle(),
            );
            for kind in [StreamKind::MsgApp, StreamKind::Message] {
                let reader = stream::read(shared.clone(), peer.clone(), kind, proposals.clone());
                tasks.push(shared.runtime.spawn(reader).abort_handle());
            }
        }
        drop(tasks);
        peer
    }

    /// Queues a message on the best channel that is connected.
    fn send(&self, shared: &Shared, message: Message) {
        let Some(charge) = self.queued.charge(weight(&message)) else {
            return self.lost(shared, &message);
        };
        let streams: &[&Outgoing] = match message.r#type() {
            MessageType::MsgApp => &[&self.msgapp, &self.message],
            // A snapshot may be large and would hold up a stream for long.
            MessageType::MsgSnap => &[],
            _ => &[&self.message],
        };
        let mut queued = Queued { message, _charge: charge };
        for stream in streams {
            match stream.push(queued) {
                Push::Queued => return,
                Push::Full(queued) => return self.lost(shared, &queued.message),
                Push::Detached(back) => queued = back,
            }
        }
        if let Err(error) = self.pipeline.try_send(queued) {
            self.lost(shared, &error.into_inner().message);
        }
    }

    /// Counts and reports a message that will not arrive.
    pub(crate) fn lost(&self, shared: &Shared, message: &Message) {
        self.stats.sent_failures.fetch_add(1, Relaxed);
        self.report_unreachable(shared);
        if message.r#type == MessageType::MsgSnap as i32 {
            shared.handler.report_snapshot(self.id, false);
        }
    }

    pub(crate) fn report_unreachable(&self, shared: &Shared) {
        if !self.closed.load(Relaxed) {
            shared.handler.report_unreachable(self.id);
        }
    }

    pub(crate) fn outgoing(&self, kind: StreamKind) -> &Outgoing {
        match kind {
            StreamKind::MsgApp => &self.msgapp,
            StreamKind::Message => &self.message,
        }
    }

    fn replace_snapshot(&self, task: AbortHandle) {
        let mut running = self.snapshot.lock();
        if self.closed.load(Ordering::SeqCst) {
            task.abort();
        } else if let Some(earlier) = running.replace(task) {
            earlier.abort();
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for task in self.tasks.lock().drain(..).chain(self.snapshot.lock().take()) {
            task.abort();
        }
        self.msgapp.close();
        self.message.close();
        self.status.deactivate(&"removed from the transport");
    }
}

/// The URL in use; moves on when it fails.
pub(crate) struct Picker {
    urls: Mutex<(Vec<PeerUrl>, usize)>,
}

impl Picker {
    fn new(urls: Vec<PeerUrl>) -> Self {
        Self { urls: Mutex::new((urls, 0)) }
    }

    pub(crate) fn pick(&self) -> PeerUrl {
        let urls = self.urls.lock();
        urls.0[urls.1].clone()
    }

    pub(crate) fn failed(&self, url: &PeerUrl) {
        let mut urls = self.urls.lock();
        if urls.0[urls.1] == *url {
            urls.1 = (urls.1 + 1) % urls.0.len();
        }
    }

    fn update(&self, urls: Vec<PeerUrl>) {
        *self.urls.lock() = (urls, 0);
    }
}

/// Whether the peer answers: the last that happened on any of its channels decides, as in etcd.
pub(crate) struct Status {
    id: u64,
    since: Mutex<Option<Instant>>,
    stats: Arc<Stats>,
}

impl Status {
    fn new(id: u64, stats: Arc<Stats>) -> Self {
        Self { id, since: Mutex::new(None), stats }
    }

    fn since(&self) -> Option<Instant> {
        *self.since.lock()
    }

    pub(crate) fn activate(&self) {
        let mut since = self.since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            self.stats.active.store(true, Relaxed);
            tracing::info!(peer_id = %Hex(self.id), "peer became active");
        }
    }

    pub(crate) fn deactivate(&self, reason: &dyn fmt::Display) {
        if self.since.lock().take().is_some() {
            self.stats.active.store(false, Relaxed);
            self.stats.disconnected.fetch_add(1, Relaxed);
            tracing::warn!(peer_id = %Hex(self.id), %reason, "peer became inactive");
        } else {
            tracing::debug!(peer_id = %Hex(self.id), %reason, "peer is inactive");
        }
    }
}

/// A message in a queue, with its share of the byte bound.
pub(crate) struct Queued {
    pub message: Message,
    _charge: Charge,
}

impl Queued {
    pub(crate) fn new(message: Message, bytes: &Arc<Budget>) -> Result<Self, Box<Message>> {
        match bytes.charge(weight(&message)) {
            Some(charge) => Ok(Self { message, _charge: charge }),
            None => Err(Box::new(message)),
        }
    }
}

/// Bytes a message holds in memory, closely enough for a bound.
fn weight(message: &Message) -> usize {
    let data = |data: &Option<bytes::Bytes>| data.as_ref().map_or(0, bytes::Bytes::len);
    let entries: usize = message.entries.iter().map(|entry| 64 + data(&entry.data)).sum();
    256 + entries + data(&message.context) + data(&message.snapshot.data)
}

/// A bound on the bytes of several queues together.
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// `None` if the bound would be passed. A single message may be larger than the bound, or it could never
    /// be sent.
    fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let add = |used: usize| {
            (used == 0 || used.saturating_add(bytes) <= self.limit).then(|| used.saturating_add(bytes))
        };
        self.used.fetch_update(Relaxed, Relaxed, add).ok()?;
        Some(Charge { budget: self.clone(), bytes })
    }
}

struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// A member id as logs and headers show it.
pub(crate) struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Time a request with this many bytes may take when the peer reads them slowly but steadily.
pub(crate) fn request_timeout(base: Duration, bytes: usize) -> Duration {
    const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;
    base + Duration::from_secs(bytes as u64 / SLOWEST_BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_given_back_and_lets_one_large_message_through() {
        let budget = Budget::new(100);
        let first = budget.charge(60).unwrap();
        assert!(budget.charge(41).is_none());
        let second = budget.charge(40).unwrap();
        drop((first, second));
        let large = budget.charge(1000).unwrap();
        assert!(budget.charge(1).is_none());
        drop(large);
        assert_eq!(budget.used.load(Relaxed), 0);
    }

    #[test]
    fn the_picker_moves_on_only_from_the_url_in_use() {
        let urls: Vec<_> =
            ["http://a:1", "http://b:1"].iter().map(|url| PeerUrl::parse(url).unwrap()).collect();
        let picker = Picker::new(urls.clone());
        picker.failed(&urls[0]);
        picker.failed(&urls[0]);
        assert_eq!(picker.pick(), urls[1]);
        picker.failed(&urls[1]);
        assert_eq!(picker.pick(), urls[0]);
        picker.update(urls[1..].to_vec());
        assert_eq!(picker.pick(), urls[1]);
    }
}
