//! The apply thread: owns the state, applies what is committed, publishes, answers, and hands the rest on.
//!
//! Per batch of entries: apply all, give watchers their block, publish the view or call it stale, answer the proposers,
//! send the batch to the backend. In that order: who was answered finds the write in the view, and a watcher created
//! after an answer does not get that write as an event. It never waits for the backend, but for two rare cases: a read
//! of the past inside a write transaction, and a received snapshot.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use proto::{etcdserverpb as pb, raftpb};
use tokio::sync::oneshot;

use super::{
    backend_loop,
    clock::Clock,
    fatal::Fatal,
    mailbox::{Receiver, Sender, Wake},
    metrics::Metrics,
    part::{Part, inbox},
    proposal::{self, Operation},
    raft_loop,
    snapshot::{self, SnapshotError},
    status::Status,
    wait::{Answer, Waits},
};
use crate::{
    apply::{Applier, alarm::Alarms},
    auth::{Auth, Identity, ROOT, change::Changed, tokens::Tokens},
    backend::{Backend, BackendError},
    disk::{Disk, Mode},
    ids::RequestIds,
    lease::{self, Lessor, Renewal, TimeToLive},
    membership::{Attributes, Change, Membership},
    mutant::{self, Mutant},
    mvcc::{Block, Settle, Store, load},
    raft::driver::Event,
};

pub enum Input {
    Entries(Vec<raftpb::Entry>),
    /// Publish what has been applied.
    Publish(oneshot::Sender<()>),
    /// Answer the readers once everything up to `index` is applied.
    ReadAt {
        index: u64,
        readers: Vec<oneshot::Sender<()>>,
    },
    /// A received snapshot is durable in the log: take it over.
    Restore(raftpb::Snapshot),
    /// The term in which this member leads, if it does.
    Leadership {
        term: Option<u64>,
    },
    Lease(LeaseQuery),
    /// From now on this inbox gets all blocks.
    Watch(Arc<Inbox>),
    Stop,
}

pub enum LeaseQuery {
    /// An expired lease is answered only when it is gone.
    Renew {
        id: i64,
        answer: oneshot::Sender<Renewal>,
    },
    TimeToLive {
        id: i64,
        keys: bool,
        answer: oneshot::Sender<(TimeToLive, Vec<Bytes>)>,
    },
    List {
        answer: oneshot::Sender<Vec<i64>>,
    },
    ListWithKeys {
        answer: oneshot::Sender<(Vec<i64>, Vec<Bytes>)>,
    },
}

/// Where one shard of watchers gets what happens.
#[derive(Default)]
pub struct Inbox {
    pub news: Mutex<Vec<News>>,
    pub wake: tokio::sync::Notify,
}

#[derive(Clone)]
pub enum News {
    Block(Arc<Block>),
    /// Revisions up to here happened without events: nobody watched, or a snapshot replaced the store.
    Skip(i64),
}

/// Copies that other threads read.
#[derive(Default)]
pub struct Published {
    pub membership: ArcSwap<Membership>,
    pub alarms: ArcSwap<Alarms>,
    pub auth: ArcSwap<Auth>,
    pub tokens: Mutex<Tokens>,
    pub lease_stats: Mutex<lease::Stats>,
}

/// A renewal that the next leader may not know of.
pub struct Clearing {
    lease: i64,
    /// The checkpoint that is cleared (`Lessor::noted`).
    noted: u64,
    renewal: Renewal,
    answer: oneshot::Sender<Renewal>,
}

/// Who must hear of membership changes at once.
pub trait MemberChanges: Send {
    fn changed(&self, change: &Change);
    /// All members at once: after a snapshot.
    fn replaced(&self, membership: &Membership);
}

/// Looks on while entries are applied: the simulator's means to compare members.
pub trait Observer: Send + Sync {
    /// `id`: of the request, 0 if it has none. `revisions`: of the store before and after it. `state`: after it.
    fn applied(
        &self,
        entry: &raftpb::Entry,
        id: u64,
        result: &Answer,
        revisions: (i64, i64),
        state: &Applier,
    );
}

pub struct ApplyLoop {
    pub applier: Applier,
    pub inputs: Receiver<Input>,
    /// Kept for its space.
    pub taken: Vec<Input>,
    pub raft: Sender<raft_loop::Input>,
    pub backend: Arc<dyn Backend>,
    pub backend_loop: Sender<backend_loop::Input>,
    pub shared: Arc<backend_loop::Shared>,
    pub waits: Arc<Waits>,
    pub status: Arc<Status>,
    pub published: Arc<Published>,
    pub members: Box<dyn MemberChanges>,
    pub fatal: Arc<Fatal>,
    pub metrics: Arc<Metrics>,
    pub ids: Arc<RequestIds>,
    pub clock: Clock,
    pub next_scan: Instant,
    pub disk: Arc<dyn Disk>,
    pub observer: Option<Arc<dyn Observer>>,
    /// As the store's own.
    pub settle: Box<dyn Fn() -> Box<dyn Settle> + Send>,
    pub snap_dir: PathBuf,
    pub election_timeout_ms: u64,
    pub lease_config: lease::Config,
    pub token_ttl: Duration,
    pub checkpoint_entries: u64,
    pub checkpoint_bytes: u64,
    pub value_cache_bytes: u64,
    pub slow_apply: Duration,
    pub inboxes: Vec<Arc<Inbox>>,
    pub reads: Vec<(u64, Vec<oneshot::Sender<()>>)>,
    pub waiting_renewals: Vec<(i64, oneshot::Sender<Renewal>)>,
    /// Renewals that hold once their clearing of a checkpoint is applied, by its request.
    pub clearing_renewals: HashMap<u64, Clearing>,
    /// Index and bytes written since the last checkpoint.
    pub checkpointed: u64,
    pub bytes_since_checkpoint: u64,
    /// Revision of the saved tree.
    pub tree_saved: i64,
    /// The term in which this member was elected, until all of those before is applied.
    pub elected: Option<u64>,
    /// The term in which this member leads.
    pub leads: Option<u64>,
}

/// How often the leader looks for expired leases, and how many it takes at once.
pub const LEASE_SCAN: Duration = Duration::from_millis(500);
const LEASE_SCAN_LIMIT: usize = 500;

impl Part for ApplyLoop {
    inbox!();

    fn wake(&self) -> Wake {
        Wake::At { deadline: self.next_scan, expects: false }
    }

    fn turn(&mut self) -> bool {
        let mut inputs = std::mem::take(&mut self.taken);
        self.inputs.take(&mut inputs);
        self.applier.now_ms = self.clock.elapsed_ms();
        for input in inputs.drain(..) {
            match input {
                Input::Entries(entries) => self.entries(&entries),
                Input::ReadAt { index, readers } => {
                    if index <= self.applier.consistent_index() || mutant::on(Mutant::R4) {
                        self.refresh();
                        answer_readers(readers);
                    } else {
                        self.reads.push((index, readers));
                    }
                }
                Input::Publish(done) => {
                    self.refresh();
                    let _ = done.send(());
                }
                Input::Restore(snapshot) => {
                    if let Err(error) = self.restore(&snapshot) {
                        self.fatal.set(format!("failed to take over a snapshot: {error}"));
                        return false;
                    }
                }
                Input::Leadership { term } => self.leadership(term),
                Input::Lease(query) => self.lease(query),
                Input::Watch(inbox) => {
                    inbox.news.lock().push(News::Skip(self.applier.store.revision()));
                    inbox.wake.notify_one();
                    self.inboxes.push(inbox);
                }
                Input::Stop => return false,
            }
        }
        self.taken = inputs;
        if self.fatal.is_set() {
            return false;
        }
        let now = self.clock.now();
        if now >= self.next_scan {
            self.next_scan = now + LEASE_SCAN;
            self.scan();
        }
        true
    }
}

impl ApplyLoop {
    fn entries(&mut self, entries: &[raftpb::Entry]) {
        let started = self.clock.now();
        let from = self.applier.store.revision();
        self.applier.store.begin_batch();
        let mut answers = Vec::with_capacity(entries.len());
        let mut conf_changed = false;
        let mut compaction = None;
        for entry in entries {
            self.lead(entry.term);
            let before = self.applier.store.revision();
            let Some(applied) = self.applier.apply(entry) else { continue };
            if let Err(crate::apply::ApplyError::Mvcc(crate::mvcc::MvccError::Backend(error))) =
                &applied.result
            {
                // This member could not do what all others did: going on would make it differ.
                self.fatal.set(format!("failed to apply entry {}: {error}", entry.index));
                return;
            }
            if applied.result.as_ref().is_err_and(|error| *error == crate::apply::ApplyError::Undecodable) {
                // Others may have understood it: going on would make this member differ.
                self.fatal.set(format!("entry {} of the log cannot be decoded by this version", entry.index));
                return;
            }
            if let Some((change, done)) = applied.conf_change {
                conf_changed = true;
                let _ = self.raft.send(raft_loop::Input::Event(Event::ConfChange(change)));
                self.members.changed(&done);
            }
            compaction = applied.compaction.or(compaction);
            if let Some(observer) = &self.observer {
                let revisions = (before, self.applier.store.revision());
                observer.applied(entry, applied.id, &applied.result, revisions, &self.applier);
            }
            if !self.clearing_renewals.is_empty()
                && let Some(clearing) = self.clearing_renewals.remove(&applied.id)
            {
                self.applier.lessor.cleared(clearing.lease, clearing.noted);
                let exists = self.applier.lessor.exists(clearing.lease);
                let _ = clearing.answer.send(if exists { clearing.renewal } else { Renewal::NotFound });
            }
            if applied.id != 0 {
                answers.push((applied.id, applied.result));
            }
        }
        let index = self.applier.consistent_index();
        self.publish_auth();
        // Whoever hears of these events must find them in what it reads.
        self.applier.store.outdate();
        match self.applier.store.take_block() {
            Some(block) => self.tell(News::Block(Arc::new(block))),
            None if self.applier.store.revision() > from => {
                self.tell(News::Skip(self.applier.store.revision()))
            }
            None => {}
        }
        self.applier.store.publish_if_wanted(index);
        if compaction.is_some() {
            self.refresh();
        }
        self.tell_applied(index);
        if conf_changed {
            // Whoever is answered may ask for the next change, which raft refuses before it knows this one applied.
            let _ = self.raft.send(raft_loop::Input::Event(Event::Applied { index }));
        }
        self.waits.answer(answers);
        self.answer_reads(index);
        self.answer_renewals();

        let conf_state = conf_changed.then(|| self.applier.membership.conf_state());
        let batch = self.applier.take_batch(conf_state.as_ref());
        let size = batch.size_bytes() as u64;
        self.bytes_since_checkpoint += size;
        self.status.backlog_bytes.fetch_add(size, Ordering::Relaxed);
        let revision = self.applier.store.revision();
        let write = backend_loop::Input::Write { batch, revision };
        let _ = if self.status.backlog_bytes.load(Ordering::Relaxed) > backend_loop::HURRY_BYTES {
            self.backend_loop.send(write)
        } else {
            self.backend_loop.send_lazily(write)
        };
        if !conf_changed {
            let applied = raft_loop::Input::Event(Event::Applied { index });
            // Without a leader the raft thread may wait for this to stand for election.
            let _ = match self.status.leader() {
                0 => self.raft.send(applied),
                _ => self.raft.send_lazily(applied),
            };
        }
        if let Some(floor) = compaction {
            self.tell_compacted();
            let _ = self.backend_loop.send(backend_loop::Input::Compact(self.compaction(floor)));
        }
        if index - self.checkpointed >= self.checkpoint_entries
            || self.bytes_since_checkpoint >= self.checkpoint_bytes
        {
            self.checkpoint(index);
        }
        self.evict();
        let took = self.clock.now() - started;
        self.metrics.apply.observe(took);
        if took > self.slow_apply {
            self.status.slow_applies.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(?took, entries = entries.len(), "apply entries took too long");
        }
    }

    /// Publishes a view if the last one is stale.
    fn refresh(&mut self) {
        if self.shared.reader.is_stale() {
            self.applier.store.publish(self.applier.consistent_index());
        }
    }

    /// Before the view: what is read was then permitted by rules that are not older than it.
    fn publish_auth(&mut self) {
        let logins = self.applier.take_logins();
        if !logins.is_empty() {
            let mut tokens = self.published.tokens.lock();
            let expires_ms = self.applier.now_ms + self.token_ttl.as_millis() as u64;
            for login in logins {
                match login {
                    Changed::LoggedIn { name, token: Some(token) } => {
                        tokens.assign(&token, &name, expires_ms)
                    }
                    Changed::LoggedIn { token: None, .. } | Changed::Rules => {}
                    Changed::UserGone(_) | Changed::Off if mutant::on(Mutant::S2) => {}
                    Changed::UserGone(name) => tokens.drop_user(&name),
                    Changed::Off => tokens.clear(),
                }
            }
        }
        if self.applier.take_auth_changed() {
            self.published.auth.store(Arc::new(self.applier.auth.clone()));
        }
    }

    fn tell_applied(&mut self, index: u64) {
        if self.applier.take_membership_changed() {
            self.published.membership.store(Arc::new(self.applier.membership.clone()));
            self.published.alarms.store(Arc::new(self.applier.alarms.clone()));
        }
        self.status.applied.store(index, Ordering::Release);
    }

    fn tell(&self, news: News) {
        for inbox in &self.inboxes {
            let mut queue = inbox.news.lock();
            match (&news, queue.last_mut()) {
                // Nobody watches: whoever begins to looks here first.
                (News::Skip(revision), Some(News::Skip(last))) => *last = *revision,
                _ => {
                    queue.push(news.clone());
                    drop(queue);
                    inbox.wake.notify_one();
                }
            }
        }
    }

    /// Shards learn the new floor from the view; wake them to look.
    fn tell_compacted(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.wake.notify_one());
    }

    fn answer_reads(&mut self, index: u64) {
        if self.reads.iter().any(|(at, _)| *at <= index) {
            self.refresh();
        }
        for (_, readers) in self.reads.extract_if(.., |(at, _)| *at <= index) {
            answer_readers(readers);
        }
    }

    fn checkpoint(&mut self, index: u64) {
        self.checkpointed = index;
        self.bytes_since_checkpoint = 0;
        let metadata = raftpb::SnapshotMetadata {
            conf_state: self.applier.membership.conf_state(),
            index,
            term: self.applier.term(),
        };
        let (tree, revision) = (self.applier.store.tree(), self.applier.store.revision());
        // A root that is held makes the writer copy what it shares: only when it is worth it.
        let due = backend_loop::SAVE_TREE_REVISIONS.max(tree.len() as i64 / 2);
        let tree = (revision - self.tree_saved >= due).then(|| (tree.snapshot(), revision));
        if tree.is_some() {
            self.tree_saved = revision;
        }
        let epoch = self.shared.epoch();
        let checkpoint = backend_loop::Checkpoint { metadata, tree, epoch };
        let _ = self.backend_loop.send(backend_loop::Input::Checkpoint(checkpoint));
    }

    fn compaction(&self, floor: i64) -> backend_loop::Compact {
        let root = self.applier.store.tree().snapshot();
        backend_loop::Compact { floor, root, epoch: self.shared.epoch() }
    }

    /// Lets go of cached values above the budget, of those that the history on disk has.
    fn evict(&mut self) {
        let cached = self.applier.store.tree().cached_value_bytes();
        if cached > self.value_cache_bytes {
            let written = self.shared.reader.written_revision();
            // A little more than needed, so that the next batch does not evict again.
            let excess = cached - (self.value_cache_bytes - self.value_cache_bytes / 16);
            self.applier.store.tree_mut().evict_some(excess, |revision| revision <= written);
        }
    }

    fn leadership(&mut self, term: Option<u64>) {
        if mutant::on(Mutant::L2) && term.is_none() {
            return;
        }
        (self.elected, self.leads) = (term, None);
        // What was proposed in another term may be dropped.
        for (_, clearing) in self.clearing_renewals.drain() {
            let _ = clearing.answer.send(Renewal::NotLeader);
        }
        self.applier.lessor.demote();
        for (_, answer) in self.waiting_renewals.drain(..) {
            let _ = answer.send(Renewal::NotLeader);
        }
        self.lead(self.applier.term());
    }

    /// Looks after leases from the first entry of its own term on: what former leaders noted of them must be applied.
    fn lead(&mut self, term: u64) {
        if let Some(elected) = self.elected.take_if(|elected| *elected <= term) {
            self.leads = Some(elected);
            let now_ms = self.clock.elapsed_ms();
            self.applier.lessor.promote(now_ms, self.election_timeout_ms);
        }
    }

    fn lease(&mut self, query: LeaseQuery) {
        let now_ms = self.applier.now_ms;
        match query {
            LeaseQuery::Renew { id, answer } => {
                let renewal = self.applier.lessor.renew(id, self.applier.next_ms());
                match renewal {
                    Renewal::Renewed { clear_checkpoint: true, .. } => {
                        let checkpoints = vec![pb::LeaseCheckpoint { id, remaining_ttl: 0 }];
                        let request = self.propose(None, &pb::LeaseCheckpointRequest { checkpoints });
                        let noted = self.applier.lessor.noted(id);
                        let clearing = Clearing { lease: id, noted, renewal, answer };
                        self.clearing_renewals.insert(request, clearing);
                    }
                    Renewal::Expired => self.waiting_renewals.push((id, answer)),
                    _ => drop(answer.send(renewal)),
                }
            }
            LeaseQuery::TimeToLive { id, keys, answer } => {
                let keys = if keys { self.applier.lessor.keys(id).unwrap_or_default() } else { Vec::new() };
                let _ = answer.send((self.applier.lessor.time_to_live(id, now_ms), keys));
            }
            LeaseQuery::List { answer } => {
                let _ = answer.send(self.applier.lessor.list());
            }
            LeaseQuery::ListWithKeys { answer } => {
                let lessor = &self.applier.lessor;
                let leases = lessor.list();
                let keys = leases.iter().flat_map(|id| lessor.keys(*id).unwrap_or_default()).collect();
                let _ = answer.send((leases, keys));
            }
        }
    }

    /// Renewals of expired leases are over when the lease is.
    fn answer_renewals(&mut self) {
        self.clearing_renewals.retain(|_, clearing| !clearing.answer.is_closed());
        let lessor = &self.applier.lessor;
        for (_, answer) in
            self.waiting_renewals.extract_if(.., |(id, answer)| answer.is_closed() || !lessor.exists(*id))
        {
            let _ = answer.send(Renewal::NotFound);
        }
    }

    /// What time alone brings about.
    fn scan(&mut self) {
        let now_ms = self.clock.elapsed_ms();
        // A view that nobody asks for would keep what was overwritten since.
        self.refresh();
        self.shared.reader.tick(now_ms);
        *self.published.lease_stats.lock() = self.applier.lessor.stats();
        self.published.tokens.lock().expire(now_ms);
        if self.leads.is_none() {
            return;
        }
        // Time may end every lease.
        let auth = &self.applier.auth;
        let is_named = auth.is_enabled() && !mutant::on(Mutant::L9);
        let root = is_named.then(|| Identity { name: ROOT.into(), revision: auth.revision() });
        for id in self.applier.lessor.expired(now_ms, LEASE_SCAN_LIMIT) {
            self.metrics.lease_expired.fetch_add(1, Ordering::Relaxed);
            self.propose(root.as_ref(), &pb::LeaseRevokeRequest { id });
        }
        let checkpoints = self.applier.lessor.checkpoints(now_ms, LEASE_SCAN_LIMIT);
        if !checkpoints.is_empty() {
            self.propose(None, &pb::LeaseCheckpointRequest { checkpoints });
        }
    }

    /// Proposes what only the leader may, under the request's ID that it returns.
    fn propose(&self, who: Option<&Identity>, operation: &impl Operation) -> u64 {
        let id = self.ids.next();
        let data = proposal::encode(id, who, operation);
        let entry = raftpb::Entry { data: Some(data.into()), ..Default::default() };
        // A deposed leader's view of time must not end leases that the next one has extended.
        if let Some(term) = self.leads {
            let _ = self.raft.send(match mutant::on(Mutant::L2) {
                true => raft_loop::Input::Propose(vec![entry]),
                false => raft_loop::Input::ProposeInTerm { term, entry },
            });
        }
        id
    }

    /// Replaces the whole state by a received snapshot.
    fn restore(&mut self, snapshot: &raftpb::Snapshot) -> Result<(), SnapshotError> {
        let metadata = &snapshot.metadata;
        let named = Attributes::of_v2_store(snapshot.data.as_deref().unwrap_or_default());
        if metadata.index <= self.applier.consistent_index() {
            return Ok(());
        }
        tracing::info!(index = metadata.index, "applying a received snapshot");
        let lock = self.shared.tree_lock.lock();
        self.shared.replace();
        // Whatever was applied and not written is older than the snapshot.
        let batch = self.applier.take_batch(None);
        self.applier.store.settle(batch).map_err(|error| {
            SnapshotError::Backend(BackendError(format!("the writes before it failed: {error}")))
        })?;
        // It may not be there.
        let _ = self.disk.remove_file(&self.shared.tree_file);
        let path = received_path(&self.snap_dir, metadata.index);
        let shared = self.shared.clone();
        let replacing = shared.reader.replace();
        let file = self.disk.open(&path, Mode::Read)?;
        snapshot::install(&*self.backend, metadata, &named, &snapshot::Stored(&*file))?;
        self.disk.remove_file(&path)?;
        drop(lock);

        let malformed = |_| SnapshotError::Malformed("its history cannot be read");
        let loaded = load::load(&*self.backend.freeze(), None).map_err(malformed)?;
        let reader = self.shared.reader.clone();
        let settle = (self.settle)();
        let mut lessor = Lessor::new(self.lease_config.clone());
        lessor.restore(super::load_leases(&*self.backend)?);
        for (key, lease) in loaded.attached {
            let _ = lessor.attach(lease, key.into());
        }
        let membership = Membership::load(self.applier.membership.cluster_id, &*self.backend)?;
        let alarms = Alarms::load(&*self.backend)?;
        let auth = match mutant::on(Mutant::A13) {
            false => Auth::load(&*self.backend)?,
            true => self.applier.auth.clone(),
        };
        let revision = loaded.revision;
        self.tree_saved = 0;
        reader.clear_pinned();
        reader.set_written_revision(revision);
        let store = Store::new(loaded.tree, revision, loaded.compact_revision, reader, settle);
        let index = match mutant::on(Mutant::A3) {
            false => metadata.index,
            true => self.applier.consistent_index(),
        };
        let settings = self.applier.settings;
        self.applier = Applier::new(store, lessor, membership, alarms, auth, index, metadata.term);
        self.applier.settings = settings;
        // Which of them were made void is not in the snapshot.
        self.published.tokens.lock().clear();
        self.publish_auth();
        self.applier.now_ms = self.clock.elapsed_ms();
        self.members.replaced(&self.applier.membership);
        self.checkpointed = metadata.index;
        self.bytes_since_checkpoint = 0;
        self.tell(News::Skip(revision));
        self.applier.store.publish(metadata.index);
        self.tell_applied(metadata.index);
        drop(replacing);
        self.shared.written.send_replace(revision);
        match loaded.unfinished_compaction {
            Some(floor) => {
                let _ = self.backend_loop.send(backend_loop::Input::Compact(self.compaction(floor)));
            }
            None => drop(self.shared.compacted.send_replace(loaded.compact_revision)),
        }
        self.answer_reads(metadata.index);
        let _ = self.raft.send(raft_loop::Input::Event(Event::Applied { index: metadata.index }));
        Ok(())
    }
}

fn answer_readers(readers: Vec<oneshot::Sender<()>>) {
    for reader in readers {
        let _ = reader.send(());
    }
}

/// Where the data of a received snapshot waits to be installed.
pub fn received_path(snap_dir: &std::path::Path, index: u64) -> PathBuf {
    snap_dir.join(format!("{index:016x}.snap.db"))
}
