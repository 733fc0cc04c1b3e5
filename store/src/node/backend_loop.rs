//! One part writes what was applied, a short way behind; two more flush and compact.
//!
//! Batches are written in the order in which they were applied. A checkpoint makes the backend durable, tells the log
//! how far it may forget, and now and then saves the tree of the present beside it, so that the next start need not
//! build it from the history. A saved tree names the revision that was durable in the backend before it was written.

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use proto::raftpb;
use tokio::sync::watch;

use super::{
    clock::Clock,
    fatal::Fatal,
    mailbox::{self, Receiver, Sender, Wake},
    metrics::Metrics,
    part::{Part, inbox},
    status::Status,
    wal_loop,
};
use crate::{
    backend::{Backend, BackendError, Batch},
    disk::{self, Disk, Mode},
    mutant::{self, Mutant},
    mvcc::{MvccError, Reader, Settle, compact::Compaction, tree::Root, tree::Tree},
};

pub enum Input {
    /// `revision`: the newest the batch holds.
    Write {
        batch: Batch,
        revision: i64,
    },
    /// Write at once and tell.
    Settle {
        batch: Batch,
        done: mpsc::SyncSender<()>,
    },
    Checkpoint(Checkpoint),
    Compact(Compact),
    /// Somebody waits for what was handed over.
    Hurry,
    Stop,
}

pub struct Checkpoint {
    pub metadata: raftpb::SnapshotMetadata,
    /// The present at `metadata.index` and its revision, if it is to be saved.
    pub tree: Option<(Root, i64)>,
    /// Of the store that it is a checkpoint of.
    pub epoch: u64,
}

/// Remove history below `floor`, at a pace.
pub struct Compact {
    pub floor: i64,
    /// The present when the floor was set.
    pub root: Root,
    pub epoch: u64,
}

/// What the three threads share.
pub struct Shared {
    pub backend: Arc<dyn Backend>,
    pub reader: Arc<Reader>,
    pub status: Arc<Status>,
    pub fatal: Arc<Fatal>,
    pub metrics: Arc<Metrics>,
    pub wal: Sender<wal_loop::Input>,
    /// Follows the revision up to which the history can be read.
    pub written: watch::Sender<i64>,
    /// Follows the floor of the last finished compaction.
    pub compacted: watch::Sender<i64>,
    /// Changes when the store is replaced: jobs of before must end.
    pub epoch: AtomicU64,
    pub disk: Arc<dyn Disk>,
    pub clock: Clock,
    pub tree_file: PathBuf,
    /// Serialises what replaces or saves the tree file.
    pub tree_lock: parking_lot::Mutex<()>,
    pub compaction_batch: usize,
    pub compaction_sleep: Duration,
}

impl Shared {
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Ends the jobs of the store as it was.
    pub fn replace(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

/// A store at least this many revisions newer than its saved tree, and half as many as it has keys, saves it again.
pub const SAVE_TREE_REVISIONS: i64 = 50_000;
/// The saved tree, beside etcd's snapshot files.
pub const TREE_FILE: &str = "tree";
/// How long batches are gathered while they keep coming.
const GATHER: Duration = Duration::from_millis(5);
/// A backlog of this size is written at once.
pub const HURRY_BYTES: u64 = 1 << 20;
/// Batches are joined up to this size.
const JOIN_BYTES: usize = 1 << 20;

/// How `mvcc::Store` asks for its pending batch to be readable.
pub struct SettleThrough {
    pub sender: Sender<Input>,
    pub status: Arc<Status>,
    /// Turns the backend part where it has no thread.
    pub drive: Option<Drive>,
}

/// Turns a part.
pub type Drive = Arc<dyn Fn() + Send + Sync>;

impl Settle for SettleThrough {
    fn settle(&mut self, batch: &mut Batch) -> Result<(), MvccError> {
        let (done, wait) = mpsc::sync_channel(1);
        let batch = std::mem::take(batch);
        self.status.backlog_bytes.fetch_add(batch.size_bytes() as u64, Ordering::Relaxed);
        let stopped = || MvccError::Backend(BackendError("the backend has stopped".into()));
        self.sender.send(Input::Settle { batch, done }).map_err(|_| stopped())?;
        if let Some(drive) = &self.drive {
            drive();
        }
        wait.recv().map_err(|_| stopped())
    }
}

/// Writes what was applied.
pub struct BackendLoop {
    shared: Arc<Shared>,
    inputs: Receiver<Input>,
    taken: Vec<Input>,
    checkpoints: Sender<Option<Checkpoint>>,
    compactions: Sender<Option<Compact>>,
    joined: Batch,
    revision: i64,
    /// What trickles in is gathered until then; only after a pause does the next batch wake this part.
    gathers_until: Option<Instant>,
}

/// Makes the backend durable.
pub struct CheckpointLoop {
    shared: Arc<Shared>,
    inputs: Receiver<Option<Checkpoint>>,
}

/// Removes what was compacted, a slice at a turn.
pub struct CompactionLoop {
    shared: Arc<Shared>,
    inputs: Receiver<Option<Compact>>,
    job: Option<Job>,
    waiting: Option<Compact>,
}

struct Job {
    work: Compaction,
    floor: i64,
    epoch: u64,
    started: Instant,
    next: Instant,
}

/// The parts that write the backend.
pub fn parts(shared: &Arc<Shared>, inputs: Receiver<Input>) -> (BackendLoop, CheckpointLoop, CompactionLoop) {
    let (checkpoints, checkpoint_inputs) = mailbox::mailbox();
    let (compactions, compaction_inputs) = mailbox::mailbox();
    let backend = BackendLoop {
        shared: shared.clone(),
        inputs,
        taken: Vec::new(),
        checkpoints,
        compactions,
        joined: Batch::default(),
        revision: 0,
        gathers_until: None,
    };
    let checkpoint = CheckpointLoop { shared: shared.clone(), inputs: checkpoint_inputs };
    (
        backend,
        checkpoint,
        CompactionLoop { shared: shared.clone(), inputs: compaction_inputs, job: None, waiting: None },
    )
}

impl Part for BackendLoop {
    inbox!();

    fn wake(&self) -> Wake {
        self.gathers_until.map_or(Wake::Never, |deadline| Wake::At { deadline, expects: false })
    }

    fn turn(&mut self) -> bool {
        self.serve().unwrap_or_else(|error| {
            self.shared.fatal.set(error.to_string());
            false
        })
    }
}

/// However it ends, those who wait for it do too.
impl Drop for BackendLoop {
    fn drop(&mut self) {
        self.shared.replace();
        let _ = self.checkpoints.send(None);
        let _ = self.compactions.send(None);
    }
}

impl BackendLoop {
    /// False once it was told to stop.
    fn serve(&mut self) -> Result<bool, BackendError> {
        let mut taken = std::mem::take(&mut self.taken);
        self.inputs.take(&mut taken);
        self.gathers_until = (!taken.is_empty()).then(|| self.shared.clock.now() + GATHER);
        let mut stop = false;
        for input in taken.drain(..) {
            match input {
                Input::Hurry => {}
                Input::Write { batch, revision: newest } => {
                    if self.joined.is_empty() {
                        self.joined = batch;
                    } else {
                        self.joined.append(&batch);
                    }
                    self.revision = newest;
                    if self.joined.size_bytes() >= JOIN_BYTES {
                        self.write()?;
                    }
                }
                Input::Settle { batch, done } => {
                    self.joined.append(&batch);
                    self.write()?;
                    let _ = done.send(());
                }
                Input::Checkpoint(checkpoint) => {
                    self.write()?;
                    let _ = self.checkpoints.send(Some(checkpoint));
                }
                Input::Compact(compact) => {
                    self.write()?;
                    let _ = self.compactions.send(Some(compact));
                }
                Input::Stop => stop = true,
            }
        }
        self.taken = taken;
        self.write()?;
        if stop {
            self.shared.backend.flush()?;
        }
        Ok(!stop)
    }

    fn write(&mut self) -> Result<(), BackendError> {
        let shared = &self.shared;
        if self.joined.is_empty() {
            return Ok(());
        }
        let started = shared.clock.now();
        shared.backend.write(&self.joined)?;
        shared.metrics.backend_commit.observe(shared.clock.now() - started);
        shared.status.backlog_bytes.fetch_sub(self.joined.size_bytes() as u64, Ordering::Relaxed);
        self.joined.clear();
        if self.revision > shared.reader.written_revision() {
            shared.reader.set_written_revision(self.revision);
            shared.written.send_replace(self.revision);
        }
        Ok(())
    }
}

impl Part for CheckpointLoop {
    inbox!();

    fn wake(&self) -> Wake {
        Wake::Never
    }

    fn turn(&mut self) -> bool {
        self.serve().unwrap_or_else(|error| {
            self.shared.fatal.set(error.to_string());
            false
        })
    }
}

impl CheckpointLoop {
    fn serve(&mut self) -> Result<bool, BackendError> {
        let shared = &self.shared;
        let mut taken = Vec::new();
        self.inputs.take(&mut taken);
        let goes_on = taken.iter().all(Option::is_some);
        let Some(checkpoint) = taken.into_iter().flatten().last() else { return Ok(goes_on) };
        if checkpoint.epoch != shared.epoch() {
            return Ok(goes_on);
        }
        if !mutant::on(Mutant::D8) {
            shared.backend.flush()?;
        }
        let _ = shared.wal.send(wal_loop::Input::Marker(checkpoint.metadata));
        if let Some((root, revision)) = checkpoint.tree {
            let lock = shared.tree_lock.lock();
            if shared.epoch() == checkpoint.epoch
                && let Err(error) = save_tree(&*shared.disk, &shared.tree_file, &root, revision)
            {
                // Without it the next start is slower, nothing else.
                tracing::warn!(%error, "failed to save the tree of the present");
            }
            drop(lock);
        }
        Ok(goes_on)
    }
}

fn save_tree(disk: &dyn Disk, path: &Path, root: &Root, revision: i64) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let file = disk.create(&temporary)?;
    let mut out = BufWriter::with_capacity(1 << 20, disk::Writer::new(&*file));
    root.save(&mut out, &revision.to_be_bytes())?;
    out.flush()?;
    drop(out);
    file.sync_data()?;
    disk.rename(&temporary, path)
}

/// The saved tree with its revision, if there is one that can be read.
pub fn load_tree(disk: &dyn Disk, path: &Path) -> Option<(i64, Tree)> {
    let file = disk.open(path, Mode::Read).ok()?;
    let mut reader = std::io::BufReader::with_capacity(1 << 20, disk::Reader::new(&*file));
    match Tree::load(&mut reader) {
        Ok((header, tree)) => Some((i64::from_be_bytes(header.try_into().ok()?), tree)),
        Err(error) => {
            tracing::warn!(%error, "the saved tree is unreadable; building it from the history");
            None
        }
    }
}

impl Part for CompactionLoop {
    inbox!();

    fn wake(&self) -> Wake {
        self.job.as_ref().map_or(Wake::Never, |job| Wake::At { deadline: job.next, expects: false })
    }

    fn turn(&mut self) -> bool {
        let mut taken = Vec::new();
        self.inputs.take(&mut taken);
        let goes_on = taken.iter().all(Option::is_some);
        // One at a time; a newer floor covers the older ones that wait.
        self.waiting = taken.into_iter().flatten().last().or(self.waiting.take());
        if self.job.is_none() {
            self.begin();
        }
        match self.step() {
            Ok(()) => goes_on,
            Err(MvccError::Backend(error)) => {
                self.shared.fatal.set(error.to_string());
                false
            }
            Err(error) => {
                tracing::warn!(%error, "compaction ended early");
                self.begin();
                goes_on
            }
        }
    }
}

impl CompactionLoop {
    /// Takes up what waits, in place of the job.
    fn begin(&mut self) {
        let now = self.shared.clock.now();
        self.job = self.waiting.take().map(|Compact { floor, root, epoch }| Job {
            work: Compaction::new(floor, root),
            floor,
            epoch,
            started: now,
            next: now,
        });
    }

    fn step(&mut self) -> Result<(), MvccError> {
        let shared = &self.shared;
        let Some(job) = &mut self.job else { return Ok(()) };
        if shared.epoch() != job.epoch {
            self.begin();
            return Ok(());
        }
        let now = shared.clock.now();
        if now < job.next {
            return Ok(());
        }
        let (batch, done) = job.work.step(&*shared.backend, shared.compaction_batch)?;
        shared.backend.write(&batch)?;
        shared.metrics.compacted_keys.fetch_add(batch.len() as u64 / 2, Ordering::Relaxed);
        // A pause, however long the slice took.
        job.next = shared.clock.now() + shared.compaction_sleep;
        if done {
            shared.compacted.send_replace(job.floor);
            let took = now - job.started;
            tracing::info!(revision = job.floor, ?took, "finished scheduled compaction");
            self.begin();
        }
        Ok(())
    }
}
