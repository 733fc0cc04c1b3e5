//! The backend thread writes what was applied, a short way behind; two helpers of it flush and compact.
//!
//! Batches are written in the order in which they were applied. A checkpoint makes the backend durable, tells the log
//! how far it may forget, and now and then saves the tree of the present beside it, so that the next start need not
//! build it from the history. A saved tree names the revision that was durable in the backend before it was written.

use std::{
    io::BufWriter,
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
    fatal::Fatal,
    mailbox::{self, Receiver, Sender},
    metrics::Metrics,
    status::Status,
    wal_loop,
};
use crate::{
    backend::{Backend, BackendError, Batch},
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
    /// Remove history below `floor`, at a pace.
    Compact {
        floor: i64,
        root: Root,
    },
    /// Somebody waits for what was handed over.
    Hurry,
    Stop,
}

pub struct Checkpoint {
    pub metadata: raftpb::SnapshotMetadata,
    /// The present at `metadata.index` and its revision, if it is to be saved.
    pub tree: Option<(Root, i64)>,
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
    pub tree_file: PathBuf,
    /// Serialises what replaces or saves the tree file.
    pub tree_lock: parking_lot::Mutex<()>,
    pub compaction_batch: usize,
    pub compaction_sleep: Duration,
}

/// A store at least this many revisions newer than its saved tree, and half as many as it has keys, saves it again.
pub const SAVE_TREE_REVISIONS: i64 = 50_000;
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
}

impl Settle for SettleThrough {
    fn settle(&mut self, batch: &mut Batch) -> Result<(), MvccError> {
        let (done, wait) = mpsc::sync_channel(1);
        let batch = std::mem::take(batch);
        self.status.backlog_bytes.fetch_add(batch.size_bytes() as u64, Ordering::Relaxed);
        let stopped = || MvccError::Backend(BackendError("the backend has stopped".into()));
        self.sender.send(Input::Settle { batch, done }).map_err(|_| stopped())?;
        wait.recv().map_err(|_| stopped())
    }
}

pub fn run(shared: Arc<Shared>, inputs: Receiver<Input>) {
    let (checkpoints, checkpoint_inputs) = mailbox::mailbox();
    let (compactions, compaction_inputs) = mailbox::mailbox();
    let helpers = [
        spawn("checkpoint", shared.clone(), move |shared| checkpoint_loop(shared, &checkpoint_inputs)),
        spawn("compaction", shared.clone(), move |shared| compaction_loop(shared, &compaction_inputs)),
    ];
    if let Err(error) = serve(&shared, &inputs, &checkpoints, &compactions) {
        shared.fatal.set(error.to_string());
    }
    shared.epoch.fetch_add(1, Ordering::SeqCst);
    let _ = checkpoints.send(None);
    let _ = compactions.send(None);
    for helper in helpers {
        let _ = helper.join();
    }
}

fn spawn(
    name: &str,
    shared: Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<(), BackendError> + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let run = move || {
        if let Err(error) = work(&shared) {
            shared.fatal.set(error.to_string());
        }
    };
    std::thread::Builder::new().name(name.into()).spawn(run).expect("a thread can be started")
}

fn serve(
    shared: &Shared,
    inputs: &Receiver<Input>,
    checkpoints: &Sender<Option<Checkpoint>>,
    compactions: &Sender<Option<(i64, Root)>>,
) -> Result<(), BackendError> {
    let mut taken = Vec::new();
    let mut joined = Batch::default();
    let mut revision = 0;
    // What trickles in is gathered; only after a pause does the next batch wake this thread.
    let mut busy = false;
    loop {
        inputs.take(&mut taken, busy.then(|| Instant::now() + GATHER));
        busy = !taken.is_empty();
        let mut stop = false;
        for input in taken.drain(..) {
            match input {
                Input::Hurry => {}
                Input::Write { batch, revision: newest } => {
                    if joined.is_empty() {
                        joined = batch;
                    } else {
                        joined.append(&batch);
                    }
                    revision = newest;
                    if joined.size_bytes() >= JOIN_BYTES {
                        write(shared, &mut joined, revision)?;
                    }
                }
                Input::Settle { batch, done } => {
                    joined.append(&batch);
                    write(shared, &mut joined, revision)?;
                    let _ = done.send(());
                }
                Input::Checkpoint(checkpoint) => {
                    write(shared, &mut joined, revision)?;
                    let _ = checkpoints.send(Some(checkpoint));
                }
                Input::Compact { floor, root } => {
                    write(shared, &mut joined, revision)?;
                    let _ = compactions.send(Some((floor, root)));
                }
                Input::Stop => stop = true,
            }
        }
        write(shared, &mut joined, revision)?;
        if stop {
            return shared.backend.flush();
        }
    }
}

fn write(shared: &Shared, batch: &mut Batch, revision: i64) -> Result<(), BackendError> {
    if batch.is_empty() {
        return Ok(());
    }
    let started = Instant::now();
    shared.backend.write(batch)?;
    shared.metrics.backend_commit.observe(started.elapsed());
    shared.status.backlog_bytes.fetch_sub(batch.size_bytes() as u64, Ordering::Relaxed);
    batch.clear();
    if revision > shared.reader.written_revision() {
        shared.reader.set_written_revision(revision);
        shared.written.send_replace(revision);
    }
    Ok(())
}

fn checkpoint_loop(shared: &Shared, inputs: &Receiver<Option<Checkpoint>>) -> Result<(), BackendError> {
    let mut taken = Vec::new();
    loop {
        inputs.take(&mut taken, None);
        let stop = taken.iter().any(Option::is_none);
        let Some(checkpoint) = taken.drain(..).flatten().last() else {
            if stop {
                return Ok(());
            }
            continue;
        };
        let epoch = shared.epoch.load(Ordering::SeqCst);
        shared.backend.flush()?;
        let _ = shared.wal.send(wal_loop::Input::Marker(checkpoint.metadata));
        if let Some((root, revision)) = checkpoint.tree {
            let lock = shared.tree_lock.lock();
            if shared.epoch.load(Ordering::SeqCst) == epoch
                && let Err(error) = save_tree(&shared.tree_file, &root, revision)
            {
                // Without it the next start is slower, nothing else.
                tracing::warn!(%error, "failed to save the tree of the present");
            }
            drop(lock);
        }
        if stop {
            return Ok(());
        }
    }
}

fn save_tree(file: &Path, root: &Root, revision: i64) -> std::io::Result<()> {
    let temporary = file.with_extension("tmp");
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(&temporary)?);
    root.save(&mut out, &revision.to_be_bytes())?;
    out.into_inner()?.sync_data()?;
    std::fs::rename(&temporary, file)
}

/// The saved tree with its revision, if there is one that can be read.
pub fn load_tree(file: &Path) -> Option<(i64, Tree)> {
    let opened = std::fs::File::open(file).ok()?;
    let mut reader = std::io::BufReader::with_capacity(1 << 20, opened);
    match Tree::load(&mut reader) {
        Ok((header, tree)) => Some((i64::from_be_bytes(header.try_into().ok()?), tree)),
        Err(error) => {
            tracing::warn!(%error, "the saved tree is unreadable; building it from the history");
            None
        }
    }
}

fn compaction_loop(shared: &Shared, inputs: &Receiver<Option<(i64, Root)>>) -> Result<(), BackendError> {
    let mut taken = Vec::new();
    loop {
        inputs.take(&mut taken, None);
        let stop = taken.iter().any(Option::is_none);
        // A newer floor covers the older ones.
        if let Some((floor, root)) = taken.drain(..).flatten().last() {
            match compact(shared, floor, root) {
                Ok(()) => {}
                Err(MvccError::Backend(error)) => return Err(error),
                Err(error) => tracing::warn!(%error, floor, "compaction ended early"),
            }
        }
        if stop {
            return Ok(());
        }
    }
}

fn compact(shared: &Shared, floor: i64, root: Root) -> Result<(), MvccError> {
    let epoch = shared.epoch.load(Ordering::SeqCst);
    let started = Instant::now();
    let mut job = Compaction::new(floor, root);
    loop {
        if shared.epoch.load(Ordering::SeqCst) != epoch {
            return Ok(());
        }
        let (batch, done) = job.step(&*shared.backend, shared.compaction_batch)?;
        shared.backend.write(&batch)?;
        shared.metrics.compacted_keys.fetch_add(batch.len() as u64 / 2, Ordering::Relaxed);
        if done {
            break;
        }
        std::thread::sleep(shared.compaction_sleep);
    }
    shared.compacted.send_replace(floor);
    tracing::info!(revision = floor, took = ?started.elapsed(), "finished scheduled compaction");
    Ok(())
}
