//! The node: one member at work.
//!
//! `Node` is the handle that requests come in by; behind it run the member's threads: `raft_loop` (consensus),
//! `wal_loop` (the log), `apply_loop` (the state), `backend_loop` (the history). They share nothing but mailboxes, the
//! published view and figures, and each owns its state. `handler` is what peers reach; `transport` sends to them;
//! `snapshot` is the state as a stream; `leader` does what only the leader has to do.
//!
//! What may leave before the log is synced: a leader's appends and heartbeats. What may not: votes, acknowledgements,
//! and answers to clients, which wait for the commit and for the apply.
//! Called by `api`; built by `server`.

#![expect(clippy::disallowed_methods, reason = "the shell: threads, time and files come in here")]

pub mod apply_loop;
pub mod backend_loop;
pub mod build;
pub mod caller;
pub mod clock;
pub mod corruption;
pub mod fatal;
pub mod handler;
pub mod lane;
pub mod leader;
pub mod logins;
pub mod mailbox;
pub mod metrics;
pub mod part;
pub mod proposal;
pub mod raft_loop;
pub mod reconfigure;
pub mod runtime;
pub mod snapshot;
pub mod status;
pub mod transport;
pub mod wait;
pub mod wal_loop;

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};

use prost::Message;
use proto::{etcdserverpb as pb, leasepb, raftpb};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::{
    apply::{ApplyError, Response},
    auth::{AuthError, Identity},
    backend::{BackendError, Bucket, Read},
    config::Config,
    ids::RequestIds,
    lease::{Renewal, TimeToLive},
    mutant::{self, Mutant},
    mvcc::{MvccError, Reader, View, hash},
    peer::{self, Transport, client::Client},
    raft::driver::Event,
};
use apply_loop::{Inbox, LeaseQuery, Published};
use clock::Clock;
use fatal::Fatal;
use lane::Lane;
use logins::Logins;
use mailbox::Sender;
use metrics::Metrics;
use proposal::Operation;
use runtime::Runtime;
use snapshot::{Frozen, SnapshotError};
use status::Status;
use transport::{Ask, Connections};
use wait::Waits;

/// How late a request may be found to have timed out.
const EXPIRY_SWEEP: Duration = Duration::from_millis(100);

/// Why a request was not carried out, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestError {
    Apply(ApplyError),
    TooLarge,
    TooManyRequests,
    /// No answer in time: the request may still be carried out.
    Timeout,
    /// As `Timeout`, and leadership was lost shortly before.
    TimeoutLeaderFail,
    /// As `Timeout`, and this member is cut off from the leader.
    TimeoutConnectionLost,
    NoLeader,
    NotLeader,
    LeaderChanged,
    BadTransferee,
    TransferTimeout,
    /// Too few voters have started for the members to change so.
    NotEnoughStarted,
    /// Too few voters are connected for the members to change so.
    Unhealthy,
    LearnerNotReady,
    Stopped,
}

impl From<ApplyError> for RequestError {
    fn from(error: ApplyError) -> RequestError {
        RequestError::Apply(error)
    }
}

impl From<AuthError> for RequestError {
    fn from(error: AuthError) -> RequestError {
        RequestError::Apply(ApplyError::Auth(error))
    }
}

impl From<MvccError> for RequestError {
    fn from(error: MvccError) -> RequestError {
        RequestError::Apply(ApplyError::Mvcc(error))
    }
}

pub struct Node {
    pub config: Arc<Config>,
    pub id: u64,
    pub cluster_id: u64,
    pub reader: Arc<Reader>,
    pub status: Arc<Status>,
    pub published: Arc<Published>,
    pub metrics: Arc<Metrics>,
    pub fatal: Arc<Fatal>,
    pub logins: Logins,
    pub(crate) waits: Arc<Waits>,
    pub ids: Arc<RequestIds>,
    pub(crate) raft: Sender<raft_loop::Input>,
    pub(crate) apply: Sender<apply_loop::Input>,
    pub(crate) backend_loop: Sender<backend_loop::Input>,
    pub(crate) shared: Arc<backend_loop::Shared>,
    pub(crate) transport: OnceLock<Transport>,
    pub(crate) others: Arc<dyn Ask>,
    pub(crate) connections: Arc<dyn Connections>,
    pub(crate) runtime: Runtime,
    pub(crate) clock: Clock,
    /// The time of day when the clock began.
    pub(crate) started_unix_ms: u64,
    pub(crate) snapshots: Arc<Semaphore>,
    pub(crate) defragmenting: Arc<Mutex<()>>,
}

impl Node {
    pub fn now_ms(&self) -> u64 {
        self.clock.elapsed_ms()
    }

    /// A header for an answer at `revision`.
    pub fn header(&self, revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.id,
            revision,
            raft_term: self.status.term(),
        }
    }

    /// Puts a request of nobody in particular through the log; returns once it was applied here.
    pub fn propose<O: Operation>(
        &self,
        operation: O,
    ) -> impl Future<Output = Result<Response, RequestError>> + Send + use<'_, O> {
        self.propose_as(None, operation)
    }

    /// Puts a request of a user through the log; returns once it was applied here.
    ///
    /// Encoded before the first wait: what waits for the answer is small.
    pub fn propose_as<'a, O: Operation>(
        &'a self,
        who: Option<&Identity>,
        operation: O,
    ) -> impl Future<Output = Result<Response, RequestError>> + Send + use<'a, O> {
        let encoded = self.encode(who, &operation);
        async move {
            let (id, entry) = encoded?;
            self.wait_for(id, entry).await
        }
    }

    fn encode(
        &self,
        who: Option<&Identity>,
        operation: &impl Operation,
    ) -> Result<(u64, raftpb::Entry), RequestError> {
        self.check_load()?;
        let id = self.ids.next();
        let data = self.check_size(proposal::encode(id, who, operation))?;
        Ok((id, raftpb::Entry { data: Some(data.into()), ..Default::default() }))
    }

    /// As `propose`, for what members up to 3.5 know only as an operation on etcd's v2 store: PUTs `value` at `path`.
    pub async fn propose_v2(&self, path: String, value: String) -> Result<(), RequestError> {
        self.check_load()?;
        let id = self.ids.next();
        let request = pb::Request { id, method: "PUT".into(), path, val: value, ..Default::default() };
        let data = self.check_size(request.encode_to_vec())?;
        let entry = raftpb::Entry { data: Some(data.into()), ..Default::default() };
        self.wait_for(id, entry).await.map(drop)
    }

    /// Refuses new proposals while too much is under way.
    fn check_load(&self) -> Result<(), RequestError> {
        let status = &self.status;
        let lag =
            status.committed.load(Ordering::Acquire).saturating_sub(status.applied.load(Ordering::Acquire));
        let busy = lag > self.config.max_apply_lag_entries
            || self.waits.count() as u64 >= self.config.max_inflight_proposals
            || status.backlog_bytes.load(Ordering::Relaxed) > MAX_BACKLOG_BYTES;
        if busy { Err(RequestError::TooManyRequests) } else { Ok(()) }
    }

    fn check_size(&self, data: Vec<u8>) -> Result<Vec<u8>, RequestError> {
        if data.len() as u64 > self.config.max_request_bytes {
            return Err(RequestError::TooLarge);
        }
        Ok(data)
    }

    async fn wait_for(&self, id: u64, entry: raftpb::Entry) -> Result<Response, RequestError> {
        /// Nobody waits any more once the caller is gone.
        struct Waiting<'a>(&'a Waits, u64);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.forget(self.1);
            }
        }
        let began = self.clock.now();
        let lane = Lane::current();
        let answer = self.waits.register(id, began + self.config.request_timeout(), lane.clone());
        let _waiting = Waiting(&self.waits, id);
        if self.fatal.is_set() {
            return Err(RequestError::Stopped);
        }
        match lane {
            Some(lane) => lane.propose(entry),
            None => {
                self.raft.send(raft_loop::Input::Propose(vec![entry])).map_err(|_| RequestError::Stopped)?
            }
        }
        match answer.await {
            Ok(answer) => answer.map_err(RequestError::Apply),
            Err(_) => {
                self.status.proposals_failed.fetch_add(1, Ordering::Relaxed);
                Err(self.timeout(began))
            }
        }
    }

    /// Gives up requests that were not answered in time, and all of them when the member ends. One sweep of them all
    /// costs less than a timer for each.
    pub(crate) async fn expire_requests(self: Arc<Node>) {
        while tokio::time::timeout(EXPIRY_SWEEP, self.fatal.happened()).await.is_err() {
            self.sweep();
        }
        // Who registers from now on sees that it has ended.
        self.waits.close();
    }

    /// Gives up requests whose time is over now.
    pub fn sweep(&self) {
        self.waits.expire(self.clock.now());
    }

    /// The kind of a timeout of something that began at `began`.
    fn timeout(&self, began: Instant) -> RequestError {
        if self.fatal.is_set() {
            return RequestError::Stopped;
        }
        let lost_at = Duration::from_millis(self.status.lost_leader_at_ms.load(Ordering::Acquire));
        let grace = Duration::from_millis(2 * self.config.election_timeout_ms);
        let began = self.clock.since_start(began);
        if lost_at > Duration::ZERO && began + grace > lost_at && began < lost_at + grace {
            return RequestError::TimeoutLeaderFail;
        }
        let leader = self.status.leader();
        if leader != self.id && !self.is_connected_to(leader) {
            return RequestError::TimeoutConnectionLost;
        }
        RequestError::Timeout
    }

    pub fn is_connected_to(&self, member: u64) -> bool {
        member == self.id || self.connections.active_since(member).is_some()
    }

    /// Returns once the published view is new enough for a linearizable read that began before the call.
    pub async fn read_index(&self) -> Result<(), RequestError> {
        // Nobody else can have committed anything, and what was acknowledged here was published before.
        if (self.status.sole_leader.load(Ordering::SeqCst) || mutant::on(Mutant::R1)) && !self.fatal.is_set()
        {
            return Ok(());
        }
        let began = self.clock.now();
        let (reader, answer) = oneshot::channel();
        self.raft.send(raft_loop::Input::ReadIndex(reader)).map_err(|_| RequestError::Stopped)?;
        match self.runtime.within(self.config.request_timeout(), answer).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(RequestError::Stopped),
            None => {
                self.status.read_indexes_failed.fetch_add(1, Ordering::Relaxed);
                Err(self.timeout(began))
            }
        }
    }

    /// A view with all that was acknowledged before the call.
    pub async fn view(&self) -> Result<Arc<View>, RequestError> {
        self.reader.demand();
        if self.reader.is_stale() {
            let (done, published) = oneshot::channel();
            self.apply.send(apply_loop::Input::Publish(done)).map_err(|_| RequestError::Stopped)?;
            let limit = self.config.request_timeout();
            let published = self.runtime.within(limit, published).await.ok_or(RequestError::Timeout)?;
            published.map_err(|_| RequestError::Stopped)?;
        }
        Ok(self.reader.view())
    }

    /// Returns once the history on disk can be read at `revision`.
    pub async fn history(&self, revision: i64) -> Result<(), RequestError> {
        if self.reader.written_revision() >= revision {
            return Ok(());
        }
        let _ = self.backend_loop.send(backend_loop::Input::Hurry);
        let mut written = self.shared.written.subscribe();
        tokio::select! {
            reached = written.wait_for(|written| *written >= revision) => {
                reached.map(|_| ()).map_err(|_| RequestError::Stopped)
            }
            () = self.fatal.happened() => Err(RequestError::Stopped),
        }
    }

    /// Returns once everything below `floor` was removed from disk.
    pub async fn compacted(&self, floor: i64) -> Result<(), RequestError> {
        let mut compacted = self.shared.compacted.subscribe();
        tokio::select! {
            reached = compacted.wait_for(|done| *done >= floor) => {
                reached.map(|_| ()).map_err(|_| RequestError::Stopped)
            }
            () = self.fatal.happened() => Err(RequestError::Stopped),
        }
    }

    /// Work on the history that takes a while, off the request threads.
    pub async fn on_history<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reader, &View) -> Result<T, MvccError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let reader = self.reader.clone();
        let view = self.view().await?;
        self.history(view.revision).await?;
        let done = self.runtime.work(move || work(&reader, &view)).await;
        done.ok_or(RequestError::Stopped)?.map_err(Into::into)
    }

    /// (hash, compact revision, current revision) at `revision`, or now if that is 0.
    pub async fn hash_kv(&self, revision: i64) -> Result<(u32, i64, i64, i64), RequestError> {
        self.on_history(move |reader, view| {
            if revision > view.revision {
                return Err(MvccError::FutureRevision);
            }
            let at = if revision <= 0 { view.revision } else { revision };
            if at < view.compact_revision {
                return Err(MvccError::Compacted);
            }
            let _steady = reader.steady();
            loop {
                let floor = reader.view().compact_revision;
                if at < floor {
                    return Err(MvccError::Compacted);
                }
                let frozen = reader.backend().freeze();
                // A compaction that began since may have removed what this floor keeps.
                if reader.view().compact_revision != floor {
                    continue;
                }
                let at_floor = View { root: view.root.clone(), compact_revision: floor, ..*view };
                let hash = hash::hash_kv(&*frozen, &at_floor, at)?;
                return Ok((hash, floor, view.revision, at));
            }
        })
        .await
    }

    /// Whole-backend hash: every bucket's name, keys and values, but for what differs between equal members.
    pub async fn hash(&self) -> Result<(u32, i64), RequestError> {
        self.on_history(|reader, view| {
            let _steady = reader.steady();
            let frozen = reader.backend().freeze();
            let mut crc = 0;
            for bucket in Bucket::ALL {
                crc = crc32c::crc32c_append(crc, bucket.name().as_bytes());
                frozen.scan(bucket, &[], None, &mut |key, value| {
                    use crate::backend::schema::meta;
                    if bucket != Bucket::Meta || ![meta::CONSISTENT_INDEX, meta::TERM].contains(&key) {
                        crc = crc32c::crc32c_append(crc, key);
                        crc = crc32c::crc32c_append(crc, value);
                    }
                    ControlFlow::Continue(())
                })?;
            }
            Ok((crc, view.revision))
        })
        .await
    }

    /// All that is applied now as a file, its length first. Blocks; `begin` and `send` may too.
    pub fn save(
        &self,
        begin: &mut dyn FnMut(u64),
        send: &mut dyn FnMut(bytes::Bytes) -> bool,
    ) -> Result<(), SnapshotError> {
        let backend = self.reader.backend();
        let wanted = self.status.applied.load(Ordering::Acquire);
        transport::wait_for_backend(&**backend, &self.backend_loop, wanted);
        let frozen = Frozen::of(&**backend, wanted)?;
        begin(frozen.size_bytes());
        frozen.send(send)
    }

    /// Gives the space of what was deleted back to the machine; of several at a time, one after the other.
    pub async fn defragment(&self) -> Result<(), RequestError> {
        let alone = self.defragmenting.clone().lock_owned().await;
        let view = self.view().await?;
        self.history(view.revision).await?;
        self.compacted(view.compact_revision).await?;
        let reader = self.reader.clone();
        let work = move || {
            let done = reader.backend().defragment();
            drop(alone);
            done
        };
        let done = self.runtime.work(work).await.ok_or(RequestError::Stopped)?;
        done.map_err(|error| MvccError::from(error).into())
    }

    /// The right to save a snapshot: each keeps a thread and a frozen state for as long as its receiver takes.
    pub fn may_save(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        self.snapshots.clone().try_acquire_owned().map_err(|_| RequestError::TooManyRequests)
    }

    /// Renews a lease; TTL 0 when there is none. Asks the leader if that is another member.
    pub async fn lease_renew(&self, id: i64) -> Result<i64, RequestError> {
        let renew = async {
            // It may have been granted, and that not be applied here yet.
            let mut may_be_unseen = true;
            loop {
                let (answer, renewal) = oneshot::channel();
                self.query(LeaseQuery::Renew { id, answer })?;
                match renewal.await.map_err(|_| RequestError::Stopped)? {
                    Renewal::Renewed { ttl, .. } if mutant::on(Mutant::L3) => return Ok(ttl),
                    Renewal::Renewed { ttl, .. } => {
                        // A leader that was deposed meanwhile, or whose state is behind, must not promise time: what
                        // was acknowledged before the call is applied after this, and who leads is known.
                        self.read_index().await?;
                        match self.local_time_to_live(id, false).await?.0 {
                            TimeToLive::Left { remaining, .. } if remaining > 0 => return Ok(ttl),
                            // It took longer than the lease had: its end is on the way.
                            TimeToLive::Left { .. } => continue,
                            TimeToLive::NotFound => return Ok(0),
                            TimeToLive::NotLeader => continue,
                        }
                    }
                    Renewal::NotFound if may_be_unseen && !mutant::on(Mutant::L7) => {
                        self.read_index().await?;
                        may_be_unseen = false;
                        continue;
                    }
                    Renewal::NotFound => return Ok(0),
                    Renewal::Expired => return Err(RequestError::Stopped),
                    Renewal::NotLeader => {
                        if let Some(ttl) = self.renew_at_leader(id).await {
                            return Ok(ttl);
                        }
                    }
                }
                self.runtime.pause(LEADER_RETRY).await;
            }
        };
        let timeout =
            || if self.status.leader() == 0 { RequestError::NoLeader } else { RequestError::Timeout };
        self.runtime.within(self.config.request_timeout(), renew).await.unwrap_or_else(|| Err(timeout()))
    }

    async fn renew_at_leader(&self, id: i64) -> Option<i64> {
        let request = pb::LeaseKeepAliveRequest { id };
        let answer = self.at_leader("/leases", request.encode_to_vec()).await?;
        if answer.status() == http::StatusCode::NOT_FOUND {
            return Some(0);
        }
        let ok = answer.status() == http::StatusCode::OK;
        ok.then(|| pb::LeaseKeepAliveResponse::decode(answer.into_body()).ok()).flatten().map(|it| it.ttl)
    }

    async fn at_leader(&self, path: &'static str, body: Vec<u8>) -> Option<http::Response<bytes::Bytes>> {
        let leader = self.status.leader();
        let membership = self.published.membership.load_full();
        let body = bytes::Bytes::from(body);
        if leader == self.id {
            return None;
        }
        for url in &membership.get(leader)?.peer_urls {
            let request =
                http::Request::post(path).header("content-type", "application/protobuf").body(body.clone());
            if let Some(answer) = self.others.ask(url, request.expect("constants make a request")).await {
                return Some(answer);
            }
        }
        None
    }

    fn query(&self, query: LeaseQuery) -> Result<(), RequestError> {
        self.apply.send(apply_loop::Input::Lease(query)).map_err(|_| RequestError::Stopped)
    }

    /// What is left of a lease and its keys, if they are asked for; asks the leader if that is another member.
    pub async fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<pb::LeaseTimeToLiveResponse, RequestError> {
        let ask = async {
            loop {
                let (left, found) = self.local_time_to_live(id, keys).await?;
                match left {
                    TimeToLive::Left { remaining, granted } => {
                        return Ok(pb::LeaseTimeToLiveResponse {
                            header: None,
                            id,
                            ttl: remaining,
                            granted_ttl: granted,
                            keys: found,
                        });
                    }
                    TimeToLive::NotFound => {
                        return Ok(pb::LeaseTimeToLiveResponse { id, ttl: -1, ..Default::default() });
                    }
                    TimeToLive::NotLeader => {
                        if let Some(response) = self.time_to_live_at_leader(id, keys).await {
                            return Ok(response);
                        }
                    }
                }
                self.runtime.pause(LEADER_RETRY).await;
            }
        };
        let timeout =
            || if self.status.leader() == 0 { RequestError::NoLeader } else { RequestError::Timeout };
        self.runtime.within(self.config.request_timeout(), ask).await.unwrap_or_else(|| Err(timeout()))
    }

    pub(crate) async fn local_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<(TimeToLive, Vec<bytes::Bytes>), RequestError> {
        let (answer, found) = oneshot::channel();
        self.query(LeaseQuery::TimeToLive { id, keys, answer })?;
        found.await.map_err(|_| RequestError::Stopped)
    }

    async fn time_to_live_at_leader(&self, id: i64, keys: bool) -> Option<pb::LeaseTimeToLiveResponse> {
        let request = leasepb::LeaseInternalRequest {
            lease_time_to_live_request: Some(pb::LeaseTimeToLiveRequest { id, keys }),
        };
        let answer = self.at_leader("/leases/internal", request.encode_to_vec()).await?;
        if answer.status() == http::StatusCode::NOT_FOUND {
            return Some(pb::LeaseTimeToLiveResponse { id, ttl: -1, ..Default::default() });
        }
        let ok = answer.status() == http::StatusCode::OK;
        let response = leasepb::LeaseInternalResponse::decode(answer.into_body()).ok().filter(|_| ok)?;
        response.lease_time_to_live_response
    }

    pub async fn leases(&self) -> Result<Vec<i64>, RequestError> {
        let (answer, leases) = oneshot::channel();
        self.query(LeaseQuery::List { answer })?;
        leases.await.map_err(|_| RequestError::Stopped)
    }

    /// All leases, and all keys attached to any of them.
    pub async fn leases_with_keys(&self) -> Result<(Vec<i64>, Vec<bytes::Bytes>), RequestError> {
        let (answer, leases) = oneshot::channel();
        self.query(LeaseQuery::ListWithKeys { answer })?;
        leases.await.map_err(|_| RequestError::Stopped)
    }

    /// The keys of a lease as this member knows them; none if it knows no such lease.
    pub async fn lease_keys(&self, id: i64) -> Result<Vec<bytes::Bytes>, RequestError> {
        Ok(self.local_time_to_live(id, true).await?.1)
    }

    /// An ID for a lease whose client leaves the choice to the server: positive.
    pub fn new_lease_id(&self) -> i64 {
        (self.ids.next() & i64::MAX as u64) as i64
    }

    /// Hands leadership to a voter. Only the leader can.
    pub async fn move_leader(&self, to: u64) -> Result<(), RequestError> {
        if !self.status.is_leader() {
            return Err(RequestError::NotLeader);
        }
        if to == self.id {
            return Ok(());
        }
        if self.published.membership.load().get(to).is_none_or(|member| member.is_learner) {
            return Err(RequestError::BadTransferee);
        }
        let mut changes = self.status.watch();
        self.event(Event::TransferLeader { to })?;
        let timeout = self.config.request_timeout();
        match self.runtime.within(timeout, changes.wait_for(|state| state.leader == to)).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) => Err(RequestError::Stopped),
            None => Err(RequestError::TransferTimeout),
        }
    }

    pub(crate) fn event(&self, event: Event) -> Result<(), RequestError> {
        self.raft.send(raft_loop::Input::Event(event)).map_err(|_| RequestError::Stopped)
    }

    /// All that happens goes to `inbox` from now on.
    pub fn watch(&self, inbox: Arc<Inbox>) -> Result<(), RequestError> {
        self.apply.send(apply_loop::Input::Watch(inbox)).map_err(|_| RequestError::Stopped)
    }

    pub fn written(&self) -> watch::Receiver<i64> {
        self.shared.written.subscribe()
    }

    pub fn pending_proposals(&self) -> usize {
        self.waits.count()
    }

    pub fn backend_size(&self) -> (u64, u64) {
        let backend = self.reader.backend();
        (backend.size_bytes(), backend.size_in_use_bytes())
    }

    pub fn transport(&self) -> Option<&Transport> {
        self.transport.get()
    }
}

/// Bytes that may be applied and not yet written to the backend.
const MAX_BACKLOG_BYTES: u64 = 128 << 20;
/// Snapshots saved at the same time.
const MAX_SNAPSHOTS: usize = 4;
/// Pause before a leader is looked for again.
const LEADER_RETRY: Duration = Duration::from_millis(50);

pub(crate) fn load_leases(backend: &(impl Read + ?Sized)) -> Result<Vec<leasepb::Lease>, BackendError> {
    let mut leases = Vec::new();
    let mut failure = None;
    backend.scan(Bucket::Lease, &[], None, &mut |_, value| match leasepb::Lease::decode(value) {
        Ok(lease) => {
            if lease.id > 0 || !mutant::on(Mutant::L10) {
                leases.push(lease);
            }
            ControlFlow::Continue(())
        }
        Err(error) => {
            failure = Some(BackendError(format!("malformed lease: {error}")));
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(leases), Err)
}

pub(crate) fn peer_client(config: &Config, connect: Arc<dyn peer::net::Connect>) -> Client {
    Client::new(connect, config.request_timeout(), 64 << 20)
}
