//! Watch: one shard of watchers per edge thread, and the streams that show it to clients.
//!
//! The hub decides everything; this is its shell. The shard's task takes news from the apply thread, lets the hub work
//! in bounded steps, starts reads of the history and wakes the streams that have something to send. A stream's body
//! takes its bytes straight from the hub when the connection has room, so nothing is queued twice.
//! The mutex is never contended for long: its users run on one thread, one step at a time.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;
use prost::Message;
use proto::{
    etcdserverpb::{self as pb, watch_request::RequestUnion},
    mvccpb::KeyValue,
};
use tokio::sync::Notify;
use tonic::{Code, Status};

use super::{
    caller::Caller,
    error,
    grpc::{self, Body, Requests, Source},
    router::{Context, Counters, Method},
};
use crate::{
    apply::ApplyError,
    auth::{Access, AuthError},
    backend::{Backend, Bucket, Cursor, schema::Revision, schema::index},
    mutant::{self, Mutant},
    mvcc::{Event, EventKind, MvccError, encode, event},
    node::{
        Node, RequestError,
        apply_loop::{Inbox, News},
    },
    watch::{Compacted, Config, Hub, LoadRequest, Loaded, StreamId},
};

/// Bytes a body takes at a time.
const TAKE_BYTES: usize = 64 << 10;
/// Events looked at before other tasks of the thread get their turn.
const STEP_EVENTS: usize = 10_000;
/// Revisions of history that one load looks through, wanted or not.
const SCAN_REVISIONS: i64 = 100_000;
/// How often watchers that wait for the history look again.
const HISTORY_POLL: Duration = Duration::from_millis(5);

/// The watchers of one edge thread.
pub struct Shard {
    node: Arc<Node>,
    hub: Mutex<Hub>,
    inbox: Arc<Inbox>,
    wakers: Mutex<HashMap<StreamId, Waker>>,
    /// Wakes request readers that wait for room.
    room: Notify,
    /// Open streams of all shards.
    streams: Arc<AtomicUsize>,
    prev_wanted: Mutex<bool>,
    /// Shards that want previous values.
    prev_wanting: Arc<AtomicUsize>,
    jitter: AtomicU64,
}

/// What all shards of a server share.
#[derive(Clone, Default)]
pub struct Shards {
    streams: Arc<AtomicUsize>,
    prev_wanting: Arc<AtomicUsize>,
}

impl Shard {
    /// What a member's shards are like; `seed` differs from shard to shard.
    pub fn config(node: &Node, seed: u64) -> Config {
        Config {
            fragment_bytes: node.config.max_request_bytes as usize + (512 << 10),
            progress_interval: node.config.watch_progress_interval().as_millis() as u64,
            max_watchers: node.config.max_watchers as usize,
            ..Config::new(node.cluster_id, node.id, seed)
        }
    }

    pub fn new(node: Arc<Node>, shards: &Shards, config: Config) -> Arc<Shard> {
        let seed = config.seed;
        let hub = Hub::new(config, node.reader.revision());
        Arc::new(Shard {
            node,
            hub: Mutex::new(hub),
            inbox: Arc::default(),
            wakers: Mutex::default(),
            room: Notify::new(),
            streams: shards.streams.clone(),
            prev_wanted: Mutex::new(false),
            prev_wanting: shards.prev_wanting.clone(),
            jitter: AtomicU64::new(seed),
        })
    }

    pub fn stats(&self) -> crate::watch::Stats {
        self.hub.lock().stats()
    }

    /// Serves the shard until the member stops. Runs on the shard's own thread.
    pub async fn run(self: Arc<Self>) {
        if self.attach().is_err() {
            return;
        }
        loop {
            let (more, loads) = self.work();
            for request in loads {
                let shard = self.clone();
                tokio::spawn(async move { shard.load(request).await });
            }
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let pause = self.next_look().unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                () = self.inbox.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.node.fatal.happened() => return,
            }
        }
    }

    /// From now on the shard's inbox gets the news.
    pub fn attach(&self) -> Result<(), RequestError> {
        self.node.watch(self.inbox.clone())
    }

    /// How long there is nothing to do if nobody wakes the shard.
    pub fn next_look(&self) -> Option<Duration> {
        let hub = self.hub.lock();
        let now = self.node.now_ms();
        let tick = hub.next_tick().map(|at| Duration::from_millis(at.saturating_sub(now).max(1)));
        let behind = (hub.stats().slow_watchers > 0).then_some(HISTORY_POLL);
        tick.into_iter().chain(behind).min()
    }

    /// Takes the news and does a bounded amount of work. True if there is more to do at once; and the reads of
    /// history that `load` is to be called with.
    pub fn work(&self) -> (bool, Vec<LoadRequest>) {
        let mut hub = self.hub.lock();
        self.take_news(&mut hub);
        let now = self.node.now_ms();
        if hub.next_tick().is_some_and(|at| at <= now) {
            hub.tick(now);
        }
        let more = hub.catch_up(STEP_EVENTS);
        let loads = hub.loads();
        self.note_prev(&hub);
        self.wake_readable(&mut hub);
        (more, loads)
    }

    /// Opens a stream.
    pub fn open(&self) -> StreamId {
        self.streams.fetch_add(1, Ordering::SeqCst);
        self.node.reader.watched.store(true, Ordering::SeqCst);
        let mut hub = self.hub.lock();
        self.take_news(&mut hub);
        let interval = self.node.config.watch_progress_interval().as_millis() as u64;
        let step = self.jitter.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) >> 32;
        hub.open_stream(self.node.now_ms(), step % (interval / 10).max(1))
    }

    pub fn close(&self, stream: StreamId) {
        {
            let mut hub = self.hub.lock();
            hub.close_stream(stream);
            self.note_prev(&hub);
        }
        self.wakers.lock().remove(&stream);
        if self.streams.fetch_sub(1, Ordering::SeqCst) == 1 {
            let watched = &self.node.reader.watched;
            watched.store(false, Ordering::SeqCst);
            // A stream that another thread opened just now must not be overlooked.
            if self.streams.load(Ordering::SeqCst) > 0 {
                watched.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Whether the stream's client reads what it is told; until then its requests have to wait.
    pub fn accepts(&self, stream: StreamId) -> bool {
        self.hub.lock().accepts(stream)
    }

    /// A message of the client.
    pub fn request(&self, stream: StreamId, request: pb::WatchRequest) {
        {
            let mut hub = self.hub.lock();
            self.take_news(&mut hub);
            hub.request(stream, request, self.node.now_ms());
            self.note_prev(&hub);
            self.wake_readable(&mut hub);
        }
        // Catching up is the shard's work.
        self.inbox.wake.notify_one();
    }

    /// A request for a watcher that the client may not have.
    pub fn refuse(&self, stream: StreamId, create: &pb::WatchCreateRequest, reason: &str) {
        let mut hub = self.hub.lock();
        self.take_news(&mut hub);
        hub.refuse(stream, create, reason);
        self.wake_readable(&mut hub);
    }

    /// What the client is to get next, in gRPC frames; may end within one.
    pub fn take_output(&self, stream: StreamId, max_bytes: usize) -> Bytes {
        let bytes = self.hub.lock().take_output(stream, max_bytes);
        if !bytes.is_empty() {
            // There is room again: for watchers that fell behind, and for requests.
            self.room.notify_waiters();
            self.inbox.wake.notify_one();
        }
        bytes
    }

    /// Tells the hub all that has been published: whatever a client was answered is in here.
    fn take_news(&self, hub: &mut Hub) {
        let news = std::mem::take(&mut *self.inbox.news.lock());
        hub.set_term(self.node.status.term());
        hub.history_through(self.node.reader.written_revision().min(hub.revision()));
        for item in news {
            match item {
                News::Block(block) if block.first_revision == hub.revision() + 1 => hub.publish(&block),
                // A block of before this shard was told where it begins.
                News::Block(block) if block.last_revision <= hub.revision() => {}
                News::Block(block) => hub.restored(block.last_revision),
                News::Skip(revision) if revision > hub.revision() => hub.restored(revision),
                News::Skip(_) => {}
            }
        }
        hub.compacted(self.node.reader.view().compact_revision);
    }

    fn wake_readable(&self, hub: &mut Hub) {
        let readable = hub.readable();
        if readable.is_empty() {
            return;
        }
        let mut wakers = self.wakers.lock();
        for stream in readable {
            if let Some(waker) = wakers.remove(&stream) {
                waker.wake();
            }
        }
    }

    fn note_prev(&self, hub: &Hub) {
        let mut wanted = self.prev_wanted.lock();
        if *wanted == hub.wants_prev() {
            return;
        }
        *wanted = hub.wants_prev();
        if *wanted {
            self.prev_wanting.fetch_add(1, Ordering::SeqCst);
        } else {
            self.prev_wanting.fetch_sub(1, Ordering::SeqCst);
        }
        let watched_prev = &self.node.reader.watched_prev;
        watched_prev.store(*wanted, Ordering::SeqCst);
        // Another thread's watchers must not be overlooked.
        if self.prev_wanting.load(Ordering::SeqCst) > 0 {
            watched_prev.store(true, Ordering::SeqCst);
        }
    }

    /// Reads from the history what a watcher is behind.
    pub async fn load(&self, request: LoadRequest) {
        let ticket = request.ticket;
        // The history may hold what the hub has not heard of yet, and would tell again.
        let known = if mutant::on(Mutant::W8) { i64::MAX } else { self.hub.lock().revision() };
        if let Some(loaded) = self.read_history(request, known).await {
            self.hub.lock().loaded(ticket, loaded);
            self.inbox.wake.notify_one();
        }
    }

    /// `None` once the member stops.
    async fn read_history(&self, request: LoadRequest, known: i64) -> Option<Result<Loaded, Compacted>> {
        self.node.history(request.from_revision).await.ok()?;
        let reader = self.node.reader.clone();
        let work = move || {
            let _steady = reader.steady();
            let through = reader.written_revision().min(known);
            let floor = || reader.view().compact_revision;
            let is_gone = || request.from_revision < floor() && !mutant::on(Mutant::W10);
            if is_gone() {
                return Ok(Err(Compacted(floor())));
            }
            let loaded = load(&**reader.backend(), &request, through, floor())?;
            // What was read may have been under compaction.
            Ok(if is_gone() { Err(Compacted(floor())) } else { Ok(loaded) })
        };
        match self.node.runtime.work(work).await {
            Some(Ok(loaded)) => Some(loaded),
            Some(Err::<_, MvccError>(error)) => {
                self.node.fatal.set(format!("failed to read the history for a watcher: {error}"));
                None
            }
            None => None,
        }
    }
}

/// Events of a range from the history, whole revisions, up to `through` at most.
fn load(backend: &dyn Backend, request: &LoadRequest, through: i64, floor: i64) -> Result<Loaded, MvccError> {
    let through = through.min(request.from_revision.saturating_add(SCAN_REVISIONS));
    let mut loaded = Loaded { events: Vec::new(), through_revision: through };
    let mut revisions = 0;
    let mut bytes = 0;
    let mut failure = None;
    let mut prevs = request.want_prev.then(|| backend.cursor(Bucket::Index));
    let end = Revision::new(through + 1, 0).encode(false);
    let start = Revision::new(request.from_revision, 0).encode(false);
    backend.scan(Bucket::Key, &start, Some(&end), &mut |key, value| {
        let malformed = || MvccError::Backend(crate::backend::BackendError("malformed history".into()));
        let mut visit = || -> Result<ControlFlow<()>, MvccError> {
            let (revision, tombstone) = Revision::decode(key).ok_or_else(malformed)?;
            let kv = KeyValue::decode(Bytes::copy_from_slice(value)).map_err(|_| malformed())?;
            if !request.range.contains(&kv.key) {
                return Ok(ControlFlow::Continue(()));
            }
            if loaded.events.last().is_none_or(|last| last.revision != revision.main) {
                if revisions == request.max_revisions || bytes >= request.max_bytes {
                    loaded.through_revision = revision.main - 1;
                    return Ok(ControlFlow::Break(()));
                }
                revisions += 1;
            }
            let event = event(backend, prevs.as_deref_mut(), revision, tombstone, kv, value, floor)?;
            bytes += event.body.len() + event.prev.as_ref().map_or(0, Bytes::len);
            loaded.events.push(event);
            Ok(ControlFlow::Continue(()))
        };
        visit().unwrap_or_else(|error| {
            failure = Some(error);
            ControlFlow::Break(())
        })
    })?;
    failure.map_or(Ok(loaded), Err)
}

fn event(
    backend: &dyn Backend,
    prevs: Option<&mut (dyn Cursor + '_)>,
    revision: Revision,
    tombstone: bool,
    kv: KeyValue,
    stored: &[u8],
    floor: i64,
) -> Result<Event, MvccError> {
    let is_create = !tombstone && kv.version == 1;
    let prev = match prevs {
        // The state of one revision before must be readable.
        Some(cursor) if !is_create && revision.main > floor => {
            previous(backend, cursor, &kv.key, revision.main - 1)?
        }
        _ => None,
    };
    let body = if tombstone {
        event::delete_body(&kv.key, revision.main)
    } else {
        let mut body = Vec::with_capacity(stored.len() + 6);
        body.push(0x12);
        encode::varint(stored.len() as u64, &mut body);
        body.extend_from_slice(stored);
        body.into()
    };
    Ok(Event {
        key: kv.key,
        revision: revision.main,
        sub: revision.sub,
        kind: if tombstone { EventKind::Delete } else { EventKind::Put },
        is_create,
        body,
        prev,
    })
}

/// The KeyValue of a key at `main`, if it existed.
fn previous(
    backend: &dyn Backend,
    cursor: &mut (dyn Cursor + '_),
    key: &[u8],
    main: i64,
) -> Result<Option<Bytes>, MvccError> {
    cursor.seek(&index::key(key, main))?;
    let Some((entry, value)) = cursor.item() else { return Ok(None) };
    let (Some((found, at)), Some((sub, tombstone))) = (index::decode(entry), index::decode_value(value))
    else {
        return Ok(None);
    };
    if found != key || tombstone {
        return Ok(None);
    }
    Ok(backend.get(Bucket::Key, &Revision::new(at, sub).encode(false))?.map(Bytes::from))
}

/// Opens a watch stream.
pub fn serve(
    context: Context,
    caller: Caller,
    requests: Requests,
    needs_leader: bool,
) -> Result<Response<Body>, Status> {
    let Context { node, counters, shard, .. } = context;
    if shard.streams.load(Ordering::Relaxed) as u64 >= node.config.max_watch_streams {
        return Err(error::too_many_streams());
    }
    let id = shard.open();
    let stream = Arc::new(Stream { shard, id, caller, ended: Mutex::new(None), counters });
    let reader = tokio::spawn(read_requests(Arc::downgrade(&stream), requests));
    let guard = needs_leader.then(|| tokio::spawn(end_without_leader(node, Arc::downgrade(&stream))));
    let tasks = [Some(reader), guard].into_iter().flatten().map(|task| task.abort_handle()).collect();
    Ok(grpc::respond(Body::Custom(Box::pin(Frames { stream, tasks }))))
}

struct Stream {
    shard: Arc<Shard>,
    id: StreamId,
    caller: Caller,
    /// Why the stream must end.
    ended: Mutex<Option<Status>>,
    counters: Arc<Counters>,
}

impl Stream {
    fn end(&self, status: Status) {
        self.ended.lock().get_or_insert(status);
        if let Some(waker) = self.shard.wakers.lock().remove(&self.id) {
            waker.wake();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shard.close(self.id);
        let code = self.ended.lock().as_ref().map_or(Code::Cancelled, Status::code);
        self.counters.ended(Method::Watch, code);
    }
}

async fn read_requests(stream: std::sync::Weak<Stream>, mut requests: Requests) {
    loop {
        let request = match requests.buffered::<pb::WatchRequest>() {
            Ok(Some(request)) => Ok(Some(request)),
            Ok(None) => requests.next().await,
            Err(status) => Err(status),
        };
        let Some(stream) = stream.upgrade() else { return };
        match request {
            Ok(Some(request)) => {
                stream.counters.received[Method::Watch as usize].fetch_add(1, Ordering::Relaxed);
                stream.accept(request).await;
            }
            // The client may go on listening.
            Ok(None) => return,
            Err(status) => return stream.end(status),
        }
    }
}

impl Stream {
    async fn accept(&self, request: pb::WatchRequest) {
        let shard = &self.shard;
        loop {
            let room = shard.room.notified();
            if shard.accepts(self.id) {
                break;
            }
            room.await;
        }
        if let Some(RequestUnion::CreateRequest(create)) = &request.request_union
            && let Err(reason) = self.permit(create).await
        {
            return shard.refuse(self.id, create, reason);
        }
        shard.request(self.id, request);
    }

    /// Permission counts when a watcher is made, as in etcd: one that there is goes on, whatever is taken from its
    /// user later, until the client or its connection ends it.
    async fn permit(&self, create: &pb::WatchCreateRequest) -> Result<(), &'static str> {
        // An empty key is the least there is.
        let key = if create.key.is_empty() { &b"\0"[..] } else { &create.key[..] };
        let permit = self
            .caller
            .permit(&self.shard.node, |auth, who| auth.check(who, Access::Read, key, &create.range_end));
        match permit.await {
            Ok(_) => Ok(()),
            Err(RequestError::Apply(ApplyError::Auth(AuthError::InvalidToken))) => {
                Err("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token")
            }
            Err(RequestError::Apply(ApplyError::Auth(AuthError::OldRevision))) => {
                Err("rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old")
            }
            Err(RequestError::Apply(ApplyError::Auth(AuthError::UserEmpty))) => {
                Err("rpc error: code = InvalidArgument desc = etcdserver: user name is empty")
            }
            Err(_) => Err("rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
        }
    }
}

/// Ends a stream that asked for a leader once there has been none for three checks in a row.
async fn end_without_leader(node: Arc<Node>, stream: std::sync::Weak<Stream>) {
    let interval = Duration::from_millis(node.config.election_timeout_ms);
    let mut without = 0;
    loop {
        tokio::time::sleep(interval).await;
        without = if node.status.leader() == 0 { without + 1 } else { 0 };
        let Some(stream) = stream.upgrade() else { return };
        if without == 3 {
            return stream.end(error::no_leader());
        }
    }
}

/// A watch stream's body.
struct Frames {
    stream: Arc<Stream>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Source for Frames {
    fn poll_frames(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let stream = &self.stream;
        let shard = &stream.shard;
        let bytes = shard.take_output(stream.id, TAKE_BYTES);
        if !bytes.is_empty() {
            stream.counters.sent[Method::Watch as usize].fetch_add(1, Ordering::Relaxed);
            stream.counters.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            return Poll::Ready(Some(Ok(bytes)));
        }
        if let Some(status) = stream.ended.lock().clone() {
            return Poll::Ready(Some(Err(status)));
        }
        shard.wakers.lock().insert(stream.id, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}
