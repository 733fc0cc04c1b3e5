//! One simulated member: the node as the server builds it, without its threads and sockets.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use oracle::{
    check::members::Configuration,
    history::{LeaseId, Member as MemberName, Revision},
};
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::raftpb::{ConfState, Entry, EntryType, Message, MessageType};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use store::{
    api::watch::{Shard, Shards},
    apply::{self, Applier},
    backend::{Backend, memory::Memory},
    config::{ClusterState, Config, Feature, FeatureGates, Url},
    disk::{self, Disk as _},
    membership::{Change, Membership},
    node::{
        Node,
        apply_loop::{MemberChanges, Observer},
        backend_loop::BackendLoop,
        build::{self, Joints, Links},
        clock::Clock,
        mailbox::{Sender, Wake},
        part::Part,
        raft_loop,
        runtime::Runtime,
        transport::{Ask, Connections, Outbound},
        wait::Answer,
    },
    peer::BoxFuture,
    raft::driver::Event,
    server::{bootstrap, join::Joined},
    wal, watch,
};
use tokio::sync::oneshot;
use tonic::Status;

use super::plan::Plan;

/// Small, so that runs meet their ends.
const SEGMENT_BYTES: u64 = 64 << 10;
const COMPACTION_BATCH: u64 = 10;
const PROGRESS: Duration = Duration::from_secs(2);
/// Tokens that nobody uses for so long end within a run.
const TOKEN_TTL_SECONDS: u64 = 8;

/// The parts in the order of `Life::parts`.
pub const RAFT: usize = 0;
pub const WAL: usize = 1;
pub const APPLY: usize = 2;
pub const BACKEND: usize = 3;
pub const PARTS: usize = 6;

pub struct Member {
    pub number: usize,
    pub id: u64,
    /// Where others reach it.
    pub url: String,
    config: Arc<Config>,
    /// The cluster that it was added to, if it is not of the first members.
    joined: Option<Joined>,
    disk: disk::Sim,
    memory: Arc<Memory>,
    pub life: Option<Life>,
    /// How often it was started.
    pub lives: u64,
    pace: Pace,
}

/// How a member's clock goes, from a moment on.
#[derive(Clone, Copy, Default)]
struct Pace {
    /// By the world's time.
    from_ns: u64,
    /// What the clock showed then.
    shown_ns: u64,
    /// How much faster it goes.
    percent: i64,
}

impl Pace {
    fn shows(&self, now_ns: u64) -> u64 {
        let passed = now_ns.saturating_sub(self.from_ns) as i64;
        self.shown_ns + (passed + passed / 100 * self.percent) as u64
    }

    /// How long the world waits until the clock has gone on by so much.
    fn until(&self, clock_ns: u64) -> u64 {
        clock_ns * 100 / (100 + self.percent) as u64 + u64::from(self.percent != 0)
    }
}

/// A member that runs.
pub struct Life {
    pub node: Arc<Node>,
    pub clock: Clock,
    pub parts: [Box<dyn Part>; PARTS],
    pub outbox: Arc<Tray<Message>>,
    pub calls: Arc<Tray<Call>>,
    pub ledger: Arc<Tray<Applied>>,
    pub contacts: Arc<Contacts>,
    /// Its watchers.
    pub shard: Arc<Shard>,
    pub raft: Sender<raft_loop::Input>,
    pub backend: Arc<Memory>,
}

/// What a member puts out until somebody takes it.
pub struct Tray<T>(Mutex<Vec<T>>);

impl<T> Default for Tray<T> {
    fn default() -> Tray<T> {
        Tray(Mutex::default())
    }
}

impl<T> Tray<T> {
    fn put(&self, things: impl IntoIterator<Item = T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(things);
    }

    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Outbound for Tray<Message> {
    fn send(&self, messages: Vec<Message>) {
        self.put(messages);
    }
}

/// A request to another member's peer listener.
pub struct Call {
    pub url: String,
    pub request: Request<Bytes>,
    pub answer: oneshot::Sender<Response<Bytes>>,
}

impl Ask for Tray<Call> {
    fn ask<'a>(&'a self, url: &'a str, request: Request<Bytes>) -> BoxFuture<'a, Option<Response<Bytes>>> {
        let (answer, answered) = oneshot::channel();
        self.put([Call { url: url.to_owned(), request, answer }]);
        Box::pin(async { answered.await.ok() })
    }
}

/// What an entry did when a member applied it.
pub struct Applied {
    pub index: u64,
    /// Of the request, 0 if it has none.
    pub request: u64,
    /// Of the entry, its result and the revisions before and after it.
    pub digest: u64,
    pub effect: Effect,
    /// The lease that it ended.
    pub ended: Option<LeaseId>,
    /// What it asked for; the text of a refusal, or a transaction's answer.
    pub data: Bytes,
    pub result: Result<Option<pb::TxnResponse>, String>,
    pub at_new_version: bool,
    /// The members after a change of them.
    pub configuration: Option<Configuration>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub struct Effect {
    /// The store's after it.
    pub revision: Revision,
    pub made_revision: bool,
    pub refused: bool,
}

fn lease_of(entry: &Entry) -> Option<LeaseId> {
    let request = pb::InternalRaftRequest::decode(entry.data.clone()?).ok()?;
    request.lease_revoke.map(|revoke| revoke.id)
}

impl Observer for Tray<Applied> {
    fn applied(&self, entry: &Entry, id: u64, result: &Answer, (before, after): (i64, i64), state: &Applier) {
        let mut hasher = DefaultHasher::new();
        (entry.index, entry.term, entry.data.as_deref(), before, after).hash(&mut hasher);
        state.membership.hash(&mut hasher);
        format!("{result:?}").hash(&mut hasher);
        (state.auth.is_enabled(), state.auth.revision()).hash(&mut hasher);
        if let Ok(apply::Response::AuthChanged { .. }) = result {
            state.auth.hash(&mut hasher);
        }
        let effect = Effect { revision: after, made_revision: after > before, refused: result.is_err() };
        let ended = match result {
            Ok(apply::Response::LeaseRevoke(_)) => lease_of(entry),
            _ => None,
        };
        let told = match result {
            Ok(apply::Response::Txn(answer)) => Ok(Some(answer.clone())),
            Ok(_) => Ok(None),
            Err(error) => Err(Status::from(error.clone()).message().to_owned()),
        };
        let is_change = entry.r#type != EntryType::EntryNormal as i32;
        let configuration = is_change.then(|| configuration(&state.membership.conf_state()));
        self.put([Applied {
            index: entry.index,
            request: id,
            digest: hasher.finish(),
            effect,
            ended,
            data: entry.data.clone().unwrap_or_default(),
            result: told,
            at_new_version: state.membership.all_are_new(),
            configuration,
        }]);
    }
}

pub fn configuration(state: &ConfState) -> Configuration {
    Configuration {
        voters: state.voters.iter().copied().collect(),
        learners: state.learners.iter().copied().collect(),
    }
}

/// Where a member believes others to be, and since when they have been there: what the transport knows in a server.
#[derive(Default)]
pub struct Contacts {
    own: u64,
    urls: Mutex<BTreeMap<u64, String>>,
    since: Mutex<BTreeMap<u64, Instant>>,
    /// It has applied its own removal.
    removed: AtomicBool,
}

impl Contacts {
    pub fn url(&self, id: u64) -> Option<String> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub fn all(&self) -> Vec<(u64, String)> {
        let urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        urls.iter().map(|(id, url)| (*id, url.clone())).collect()
    }

    /// One that is not known yet.
    pub fn meet(&self, id: u64, url: &str) {
        let mut urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        if id != self.own && !urls.contains_key(&id) {
            urls.insert(id, url.to_owned());
        }
    }

    fn set(&self, member: &store::membership::Member) {
        if member.id != self.own
            && let Some(url) = member.peer_urls.first()
        {
            self.urls.lock().unwrap_or_else(PoisonError::into_inner).insert(member.id, url.clone());
        }
    }

    /// Whether a peer answers now.
    pub fn note(&self, id: u64, answers: bool, now: Instant) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        match answers {
            true => drop(since.entry(id).or_insert(now)),
            false => drop(since.remove(&id)),
        }
    }

    /// Whether it has applied its own removal since the last call.
    pub fn take_removed(&self) -> bool {
        self.removed.swap(false, Ordering::Relaxed)
    }
}

impl Connections for Contacts {
    fn active_since(&self, peer: u64) -> Option<Instant> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).copied()
    }
}

/// Keeps the contacts in step with the members.
struct Following(Arc<Contacts>);

impl MemberChanges for Following {
    fn changed(&self, change: &Change) {
        match change {
            Change::Added(member) | Change::Updated(member) => self.0.set(member),
            Change::Removed(id) if *id == self.0.own => self.0.removed.store(true, Ordering::Relaxed),
            Change::Removed(id) => {
                self.0.urls.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
            }
            Change::Promoted(_) => {}
        }
    }

    fn replaced(&self, membership: &Membership) {
        let mut urls = self.0.urls.lock().unwrap_or_else(PoisonError::into_inner);
        urls.retain(|id, _| membership.get(*id).is_some());
        drop(urls);
        membership.members().for_each(|member| self.0.set(member));
    }
}

/// The backend part where the apply part can turn it too.
#[derive(Clone)]
struct Shared(Arc<Mutex<Option<BackendLoop>>>);

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut BackendLoop) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }
}

impl Part for Shared {
    fn wake(&self) -> Wake {
        self.with(|part| part.wake()).unwrap_or(Wake::Never)
    }

    fn waiting(&self) -> usize {
        self.with(|part| part.waiting()).unwrap_or(0)
    }

    fn wait(&self) {}

    fn turn(&mut self) -> bool {
        self.with(Part::turn).unwrap_or(false)
    }
}

/// Address of member `number` to its peers.
pub fn peer_url(number: usize) -> Url {
    Url::http(&format!("m{number}"), 2380)
}

impl Member {
    /// Of the first members of a cluster, not started yet.
    pub fn new(number: usize, plan: &Plan) -> Member {
        let all: Vec<String> = (0..plan.members).map(|it| format!("m{it}={}", peer_url(it))).collect();
        Member::of(Member::config(number, plan, &peer_url(number), all.join(",")), number, None)
    }

    /// One that was added to a cluster, not started yet. `meet`: what it learns of the cluster, given its settings.
    pub fn joining(
        number: usize,
        plan: &Plan,
        url: &Url,
        initial_cluster: String,
        meet: impl FnOnce(&Config) -> Option<Joined>,
    ) -> Option<Member> {
        let config = Config {
            initial_cluster_state: ClusterState::Existing,
            ..Member::config(number, plan, url, initial_cluster)
        };
        let joined = meet(&config)?;
        Some(Member::of(config, number, Some(joined)))
    }

    fn of(config: Config, number: usize, joined: Option<Joined>) -> Member {
        Member {
            number,
            id: joined.as_ref().map_or(0, |joined| joined.id),
            url: config.initial_advertise_peer_urls[0].to_string(),
            config: Arc::new(config),
            joined,
            disk: disk::Sim::new(),
            memory: Arc::default(),
            life: None,
            lives: 0,
            pace: Pace::default(),
        }
    }

    fn config(number: usize, plan: &Plan, url: &Url, initial_cluster: String) -> Config {
        // Half of the clusters write down what is left of leases; of those some so often that it matters.
        let mut feature_gates = FeatureGates::default();
        let notes = plan.lease_notes_ms > 0 || plan.seed.is_multiple_of(2);
        feature_gates.set(Feature::LeaseCheckpoint, notes);
        let defaults = Config::default();
        let lease_checkpoint_interval = match plan.lease_notes_ms {
            0 => defaults.lease_checkpoint_interval,
            often => Duration::from_millis(often),
        };
        Config {
            name: format!("m{number}"),
            data_dir: "/data".into(),
            initial_cluster,
            listen_peer_urls: vec![url.clone()],
            initial_advertise_peer_urls: vec![url.clone()],
            snapshot_count: plan.snapshot_count,
            snapshot_catchup_entries: plan.catch_up,
            watch_progress_notify_interval: PROGRESS,
            compaction_batch_limit: COMPACTION_BATCH,
            feature_gates,
            lease_checkpoint_interval,
            bcrypt_cost: store::auth::password::MIN_COST.into(),
            auth_token_ttl_seconds: TOKEN_TTL_SECONDS,
            ..defaults
        }
    }

    /// It will listen there when it starts again.
    pub fn relocate(&mut self, url: &str) {
        let Ok(parsed) = Url::parse(url) else { return };
        let config = Arc::make_mut(&mut self.config);
        config.listen_peer_urls = vec![parsed.clone()];
        config.initial_advertise_peer_urls = vec![parsed];
        self.url = url.to_owned();
    }

    pub fn start(&mut self, now_ns: u64, mut random: StdRng) -> Result<(), String> {
        let disk: Arc<dyn disk::Disk> = Arc::new(self.disk.clone());
        let memory = self.memory.clone();
        let open = |_: &Path| Ok(memory.clone() as Arc<dyn Backend>);
        let options = wal::Options { segment_bytes: SEGMENT_BYTES };
        let found = bootstrap::member(&self.config, self.joined.as_ref(), disk.clone(), &open, options)
            .map_err(|error| format!("start: member {} does not start: {error}", self.number))?;
        self.id = found.id;
        let (told, counted) =
            (configuration(&found.membership.conf_state()), configuration(&found.applied.conf_state));
        if found.membership.members().next().is_some() && told != counted {
            return Err(format!(
                "members: member {} starts with {told:?}, and its raft with {counted:?}",
                self.number
            ));
        }
        self.lives += 1;
        self.pace = Pace { from_ns: now_ns, shown_ns: 0, percent: self.pace.percent };
        // Request IDs of different lives must differ, as they do where time never stands still.
        let joints = Joints::new(&found, 1_700_000_000_000 + now_ns / 1_000_000 + self.lives);
        let (outbox, calls, ledger): (Arc<Tray<Message>>, Arc<Tray<Call>>, Arc<Tray<Applied>>) =
            Default::default();
        let contacts = Arc::new(Contacts { own: found.id, ..Contacts::default() });
        let shard_seed = random.random();
        let backend_slot = Shared(Arc::default());
        let clock = Clock::simulated();
        let links = Links {
            disk,
            outbound: outbox.clone(),
            members: Box::new(Following(contacts.clone())),
            others: calls.clone(),
            connections: contacts.clone(),
            transport: None,
            runtime: Runtime::simulated(clock.clone(), (self.lives << 8) + self.number as u64),
            clock: clock.clone(),
            random: Box::new(move |bound| random.random_range(0..bound.max(1))),
            observer: Some(ledger.clone()),
            drive: Some({
                let slot = backend_slot.clone();
                Arc::new(move || {
                    // Its end shows when its own turn comes.
                    let _ = slot.with(Part::turn);
                })
            }),
        };
        let raft = joints.raft.clone();
        let (node, parts) = build::build(&self.config, found, joints, links)
            .map_err(|error| format!("start: member {} does not start: {error}", self.number))?;
        *backend_slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(parts.backend);
        // As the server does: their messages may come before the log that makes them members.
        let known = self.joined.iter().flat_map(|joined| &joined.members);
        known
            .for_each(|member| contacts.meet(member.id, member.peer_urls.first().map_or("", String::as_str)));
        // Small, so that streams are full and events have to be read from the history.
        let small = watch::Config {
            output_bytes: 2048,
            ring_bytes: 4096,
            catch_up_bytes: 1024,
            fragment_bytes: 512,
            ..Shard::config(&node, shard_seed)
        };
        let shard = Shard::new(node.clone(), &Shards::default(), small);
        shard.attach().map_err(|error| format!("member {}: {error:?}", self.number))?;
        self.life = Some(Life {
            node,
            clock,
            parts: [
                Box::new(parts.raft),
                Box::new(parts.wal),
                Box::new(parts.apply),
                Box::new(backend_slot),
                Box::new(parts.checkpoint),
                Box::new(parts.compaction),
            ],
            outbox,
            calls,
            ledger,
            contacts,
            shard,
            raft,
            backend: self.memory.clone(),
        });
        Ok(())
    }

    /// The power goes in the middle of things: after so many more changes on its disk, or in its backend.
    pub fn cut_power_after(&self, changes: u64) {
        self.disk.power_off_after(changes);
        self.cut_power_of_backend_after(changes);
    }

    pub fn cut_power_of_backend_after(&self, changes: u64) {
        self.memory.power_off_after(changes);
    }

    /// It got as far as its power was to last.
    pub fn is_powered_off(&self) -> bool {
        self.disk.is_powered_off() || self.memory.is_powered_off()
    }

    /// The process ends; with `power` gone, what was not synced may go with it.
    pub fn crash(&mut self, power: bool, random: &mut StdRng) {
        self.life = None;
        if power {
            let keeps = random.random_range(0..4);
            self.disk.crash(&mut |_| match keeps {
                0 => false,
                1 => true,
                _ => random.random_bool(0.5),
            });
        } else {
            self.disk.crash(&mut |_| true);
        }
        // The backend has no log of its own: a process that ends loses what was not flushed, power or not.
        self.memory = Arc::new(self.memory.crash(random.random_range(0..=self.memory.unflushed())));
    }

    /// Its name in a history: a life that begins anew may show older states than the one before.
    pub fn name(&self) -> MemberName {
        MemberName((self.lives * 100) as u32 + self.number as u32)
    }

    /// Sets its clock for what happens at `now_ns`.
    pub fn set_clock(&self, now_ns: u64) {
        if let Some(life) = &self.life {
            life.clock.set(Duration::from_nanos(self.pace.shows(now_ns)));
        }
    }

    /// From now on its clock goes faster by so many percent.
    pub fn set_pace(&mut self, now_ns: u64, percent: i64) {
        self.pace = Pace { from_ns: now_ns, shown_ns: self.pace.shows(now_ns), percent };
    }

    /// Only so many more bytes fit on its disk; `None`: any number.
    pub fn set_room(&self, bytes: Option<u64>) {
        let capacity = bytes.map_or(u64::MAX, |bytes| self.disk.used_bytes() + bytes);
        self.disk.set_capacity_bytes(capacity);
    }

    /// What was to go wrong on its disk, and did not yet, will not.
    pub fn forgive(&self) {
        self.disk.inject(disk::Fault::Sync { after: u64::MAX });
        self.disk.inject(disk::Fault::Write { after: u64::MAX, written: 0 });
    }

    pub fn spoil(&self, fault: disk::Fault) {
        self.disk.inject(fault);
    }

    /// Bits of its log flip.
    pub fn rot(&self, flips: u64, random: &mut StdRng) {
        let dir = self.config.member_dir_path().join("wal");
        let mut files = self.disk.list(&dir).unwrap_or_default();
        files.retain(|name| name.ends_with(".wal"));
        for _ in 0..flips {
            let Some(path) = files.choose(random).map(|name| dir.join(name)) else { return };
            let Ok(len) = self.disk.open(&path, disk::Mode::Read).and_then(|file| file.len()) else { return };
            // Where something is written, mostly: behind it are zeros.
            let at = random.random_range(0..len.max(1)).min(random.random_range(0..8192));
            let _ = self.disk.flip(&path, at, 1 << random.random_range(0..8));
        }
    }

    /// When a part wants to be turned: at once (0) or in so many nanoseconds.
    pub fn due_in_ns(&self, part: usize) -> Option<u64> {
        let life = self.life.as_ref()?;
        let part = &life.parts[part];
        if part.waiting() > 0 {
            return Some(0);
        }
        match part.wake() {
            Wake::Never => None,
            Wake::At { deadline, .. } => {
                let waits = deadline.saturating_duration_since(life.clock.now()).as_nanos() as u64;
                Some(if waits == 0 { 0 } else { self.pace.until(waits) })
            }
        }
    }

    /// What a message brings: a snapshot comes with its data.
    pub fn receive(&self, message: Message, data: Option<&[u8]>) -> Result<(), String> {
        let Some(life) = &self.life else { return Ok(()) };
        if let Some(data) = data {
            let snap_dir: PathBuf = self.config.member_dir_path().join("snap");
            let path = store::node::apply_loop::received_path(&snap_dir, message.snapshot.metadata.index);
            let write = || {
                let file = self.disk.create(&path)?;
                file.write_at(data, 0)?;
                file.sync_data()?;
                self.disk.sync_dir(&snap_dir)
            };
            write().map_err(|error| format!("a received snapshot cannot be saved: {error}"))?;
        }
        let _ = life.raft.send(raft_loop::Input::Event(Event::Message(Box::new(message))));
        Ok(())
    }
}

impl Life {
    /// The data that a snapshot message takes along; `None` while the backend is behind it.
    pub fn snapshot(&self, message: &mut Message) -> Option<Vec<u8>> {
        debug_assert_eq!(message.r#type, MessageType::MsgSnap as i32);
        let (ready, mut opening) = tokio::sync::oneshot::channel();
        let mut data = Vec::new();
        let wanted = message.snapshot.metadata.index;
        let mut send = |chunk: bytes::Bytes| {
            data.extend_from_slice(&chunk);
            true
        };
        store::node::snapshot::stream(&*self.backend, wanted, ready, &mut send).ok()?;
        message.snapshot = opening.try_recv().ok()?.snapshot;
        Some(data)
    }
}
