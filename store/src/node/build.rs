//! Puts a member together: the node that requests meet, and the parts that do the work.
//!
//! What the parts share and the ends of their inboxes come first (`Joints`), as the way to the peers is built around
//! them; `build` then makes the parts. Nothing runs here: the server gives each part a thread, the simulator turns
//! them.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use super::{
    Node,
    apply_loop::{self, ApplyLoop, LEASE_SCAN, MemberChanges, Observer, Published},
    backend_loop::{self, BackendLoop, CheckpointLoop, CompactionLoop, Drive, SettleThrough},
    clock::Clock,
    fatal::Fatal,
    logins::Logins,
    mailbox::{self, Receiver, Sender},
    metrics::Metrics,
    raft_loop::{self, RaftLoop, ReadRounds},
    runtime::Runtime,
    status::Status,
    transport::{Ask, Connections, Outbound},
    wait::Waits,
    wal_loop::{self, WalLoop},
};
use crate::{
    apply::{self, Applier, alarm::Alarms},
    auth::Auth,
    backend::Backend,
    config::{Config, Feature},
    disk::Disk,
    ids::RequestIds,
    lease,
    membership::Membership,
    mutant::{self, Mutant},
    mvcc::{self, Reader, Settle, Store, View, load::Loaded},
    peer::Transport,
    raft::{
        Driver,
        driver::{Event, Random, Settings},
        log::Log,
        retention::Retention,
    },
    wal::Wal,
};

/// Raft settings as etcd's.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;
const MAX_INFLIGHT_MESSAGES: usize = 512;
/// Proposals that wait for a leader.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Log entries in memory.
const MAX_LOG_BYTES: usize = 128 << 20;
/// What a follower may take to install a received snapshot without needing another, as in etcd.
const INSTALL_LIMIT: Duration = Duration::from_secs(30);
/// Batches applied between two checkpoints.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// What a member was found with, or founded with.
pub struct Found {
    pub id: u64,
    pub cluster_id: u64,
    pub wal: Wal,
    pub log: Log,
    pub backend: Arc<dyn Backend>,
    pub loaded: Loaded,
    /// Revision of the saved tree that was found, 0 if none was.
    pub tree_saved: i64,
    pub leases: Vec<proto::leasepb::Lease>,
    pub membership: Membership,
    pub alarms: Alarms,
    pub auth: Auth,
    /// What the backend holds.
    pub applied: proto::raftpb::SnapshotMetadata,
}

/// What the parts share, and the ends of their inboxes.
pub struct Joints {
    pub status: Arc<Status>,
    pub fatal: Arc<Fatal>,
    pub metrics: Arc<Metrics>,
    pub waits: Arc<Waits>,
    pub published: Arc<Published>,
    pub ids: Arc<RequestIds>,
    pub raft: Sender<raft_loop::Input>,
    pub wal: Sender<wal_loop::Input>,
    pub apply: Sender<apply_loop::Input>,
    pub backend: Sender<backend_loop::Input>,
    unix_ms: u64,
    raft_inputs: Receiver<raft_loop::Input>,
    wal_inputs: Receiver<wal_loop::Input>,
    apply_inputs: Receiver<apply_loop::Input>,
    backend_inputs: Receiver<backend_loop::Input>,
}

impl Joints {
    /// `unix_ms`: the time, for request IDs that no earlier life of the member has used.
    pub fn new(found: &Found, unix_ms: u64) -> Joints {
        let (raft, raft_inputs) = mailbox::mailbox();
        let (wal, wal_inputs) = mailbox::mailbox();
        let (apply, apply_inputs) = mailbox::mailbox();
        let (backend, backend_inputs) = mailbox::mailbox();
        let published = Published::default();
        published.membership.store(Arc::new(found.membership.clone()));
        published.alarms.store(Arc::new(found.alarms.clone()));
        published.auth.store(Arc::new(found.auth.clone()));
        Joints {
            status: Arc::default(),
            fatal: Arc::default(),
            metrics: Arc::default(),
            waits: Arc::default(),
            published: Arc::new(published),
            ids: Arc::new(RequestIds::new(found.id, unix_ms)),
            raft,
            wal,
            apply,
            backend,
            unix_ms,
            raft_inputs,
            wal_inputs,
            apply_inputs,
            backend_inputs,
        }
    }
}

/// The member's surroundings.
pub struct Links {
    pub disk: Arc<dyn Disk>,
    pub outbound: Arc<dyn Outbound>,
    pub members: Box<dyn MemberChanges>,
    pub others: Arc<dyn Ask>,
    pub connections: Arc<dyn Connections>,
    /// Absent where messages go another way.
    pub transport: Option<Transport>,
    pub runtime: Runtime,
    pub clock: Clock,
    /// For election timeouts.
    pub random: Random,
    /// As `SettleThrough::drive`.
    pub drive: Option<Drive>,
    pub observer: Option<Arc<dyn Observer>>,
}

/// What does the work of a member.
pub struct Parts {
    pub raft: RaftLoop,
    pub wal: WalLoop,
    pub apply: ApplyLoop,
    pub backend: BackendLoop,
    pub checkpoint: CheckpointLoop,
    pub compaction: CompactionLoop,
}

/// Makes the member. Its parts have done nothing yet but to look at what was committed.
pub fn build(
    config: &Arc<Config>,
    found: Found,
    joints: Joints,
    links: Links,
) -> Result<(Arc<Node>, Parts), raft::Error> {
    let Found { id, cluster_id, wal, log, backend, loaded, tree_saved, leases, .. } = found;
    let Found { membership, alarms, auth, applied, .. } = found;
    let Joints { status, fatal, metrics, waits, published, ids, .. } = joints;
    let Links { disk, outbound, members, others, connections, transport, .. } = links;
    let Links { runtime, clock, random, drive, observer, .. } = links;
    let snap_dir: PathBuf = config.member_dir_path().join("snap");

    // The state, and who reads it.
    let view = View {
        root: loaded.tree.snapshot(),
        revision: loaded.revision,
        compact_revision: loaded.compact_revision,
        applied_index: applied.index,
    };
    let reader = Arc::new(Reader::new(backend.clone(), view));
    let settle = {
        let (sender, status) = (joints.backend.clone(), status.clone());
        move || -> Box<dyn Settle> {
            Box::new(SettleThrough { sender: sender.clone(), status: status.clone(), drive: drive.clone() })
        }
    };
    let store = Store::new(loaded.tree, loaded.revision, loaded.compact_revision, reader.clone(), settle());
    let lease_config = lease::Config {
        min_ttl: (config.election_timeout_ms as i64 * 3 / 2 + 999) / 1000,
        checkpoint_interval: config
            .feature_gates
            .enabled(Feature::LeaseCheckpoint)
            .then_some(config.lease_checkpoint_interval.as_millis() as u64),
        ..lease::Config::default()
    };
    let mut lessor = lease::Lessor::new(lease_config.clone());
    if !mutant::on(Mutant::L1) {
        lessor.restore(leases);
    }
    for (key, lease) in loaded.attached {
        let _ = lessor.attach(lease, key.into());
    }
    let mut applier = Applier::new(store, lessor, membership, alarms, auth, applied.index, applied.term);
    applier.settings =
        apply::Settings { bcrypt_cost: config.effective_bcrypt_cost(), max_learners: config.max_learners };
    applier.store.publish(applied.index);
    applier.take_membership_changed();
    status.applied.store(applied.index, Ordering::Release);
    members.replaced(&applier.membership);

    // The driver.
    let settings = Settings {
        id,
        election_ticks: config.election_ticks() as usize,
        heartbeat_ticks: 1,
        pre_vote: config.pre_vote,
        max_message_bytes: MAX_MESSAGE_BYTES,
        max_inflight_messages: MAX_INFLIGHT_MESSAGES,
        max_waiting_bytes: MAX_WAITING_BYTES,
        max_waiting_ticks: config.request_timeout().as_millis() as u64 / config.heartbeat_interval_ms.max(1),
        applied: applied.index,
    };
    let mut driver = Driver::new(&settings, log, random)?;
    if driver.is_alone() {
        // Has no effect while bootstrap entries are to be applied: then the raft part tries again.
        let _ = driver.step(Event::Campaign);
    }

    let shared = Arc::new(backend_loop::Shared {
        backend: backend.clone(),
        reader: reader.clone(),
        status: status.clone(),
        fatal: fatal.clone(),
        metrics: metrics.clone(),
        wal: joints.wal.clone(),
        written: tokio::sync::watch::Sender::new(loaded.revision),
        compacted: tokio::sync::watch::Sender::new(loaded.compact_revision),
        epoch: 0.into(),
        disk: disk.clone(),
        clock: clock.clone(),
        tree_file: snap_dir.join(backend_loop::TREE_FILE),
        tree_lock: parking_lot::Mutex::default(),
        compaction_batch: config.compaction_batch_revisions() as usize,
        compaction_sleep: config.compaction_sleep(),
    });
    if let Some(floor) = loaded.unfinished_compaction {
        shared.compacted.send_replace(mvcc::NEVER_COMPACTED);
        let root = applier.store.tree().snapshot();
        let compact = backend_loop::Compact { floor, root, epoch: shared.epoch() };
        let _ = joints.backend.send(backend_loop::Input::Compact(compact));
    }
    let node = Arc::new(Node {
        config: config.clone(),
        id,
        cluster_id,
        reader,
        status: status.clone(),
        published: published.clone(),
        metrics: metrics.clone(),
        fatal: fatal.clone(),
        logins: Logins::new(config.effective_bcrypt_cost(), config.simple_token_ttl()),
        waits: waits.clone(),
        ids: ids.clone(),
        raft: joints.raft.clone(),
        apply: joints.apply.clone(),
        backend_loop: joints.backend.clone(),
        shared: shared.clone(),
        transport: transport.map(OnceLock::from).unwrap_or_default(),
        others,
        connections,
        runtime,
        clock: clock.clone(),
        started_unix_ms: joints.unix_ms,
        snapshots: Arc::new(tokio::sync::Semaphore::new(super::MAX_SNAPSHOTS)),
        defragmenting: Arc::default(),
    });
    let tick = Duration::from_millis(config.heartbeat_interval_ms);
    let mut raft = RaftLoop {
        driver,
        inputs: joints.raft_inputs,
        taken: Vec::new(),
        wal: joints.wal,
        apply: joints.apply.clone(),
        outbound: outbound.clone(),
        status: status.clone(),
        fatal: fatal.clone(),
        clock: clock.clone(),
        tick,
        next_tick: clock.now() + tick,
        retention: Retention::new(
            config.snapshot_catchup_entries,
            config.snapshot_entries(),
            MAX_LOG_BYTES,
            INSTALL_LIMIT.as_millis().div_ceil(tick.as_millis().max(1)) as u64,
        ),
        persisting: 0,
        last_number: 0,
        unwritten_commit: None,
        reads: ReadRounds::new(ids.next()),
        sole_since: None,
    };
    // What was committed and not applied before the end of the last life.
    raft.work();
    let wal = WalLoop {
        wal,
        disk: disk.clone(),
        snap_dir: snap_dir.clone(),
        max_wals: config.max_wals as usize,
        inputs: joints.wal_inputs,
        taken: Vec::new(),
        filler: None,
        clock: clock.clone(),
        raft: joints.raft.clone(),
        apply: joints.apply,
        outbound,
        fatal: fatal.clone(),
        metrics: metrics.clone(),
        no_fsync: config.unsafe_no_fsync,
        prepares: true,
    };
    let apply = ApplyLoop {
        applier,
        inputs: joints.apply_inputs,
        taken: Vec::new(),
        raft: joints.raft,
        backend,
        backend_loop: joints.backend,
        shared: shared.clone(),
        waits,
        status,
        published,
        members,
        fatal,
        metrics,
        ids,
        next_scan: clock.now() + LEASE_SCAN,
        clock,
        disk,
        observer,
        settle: Box::new(settle),
        snap_dir,
        election_timeout_ms: config.election_timeout_ms,
        lease_config,
        token_ttl: config.simple_token_ttl(),
        checkpoint_entries: config.snapshot_entries(),
        checkpoint_bytes: CHECKPOINT_BYTES,
        value_cache_bytes: config.value_cache_budget_bytes(),
        slow_apply: config.warning_apply_duration,
        inboxes: Vec::new(),
        reads: Vec::new(),
        waiting_renewals: Vec::new(),
        clearing_renewals: HashMap::new(),
        checkpointed: applied.index,
        bytes_since_checkpoint: 0,
        tree_saved,
        elected: None,
        leads: None,
    };
    let (backend, checkpoint, compaction) = backend_loop::parts(&shared, joints.backend_inputs);
    Ok((node, Parts { raft, wal, apply, backend, checkpoint, compaction }))
}
