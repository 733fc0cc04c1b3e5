//! The log thread: writes what the driver wants durable, syncs once for all that is waiting, then lets go what had to
//! wait for it.
//!
//! Group commit without a timer: whatever arrives during a sync joins the next. A failed write or sync is never
//! retried: the member stops.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread::Thread,
};

use proto::{raftpb, walpb};

use super::{
    apply_loop,
    clock::Clock,
    fatal::Fatal,
    mailbox::{Receiver, Sender, Wake},
    metrics::Metrics,
    part::{Part, inbox},
    raft_loop,
    transport::Outbound,
};
use crate::{
    disk::Disk,
    mutant::{self, Mutant},
    raft::{Persist, driver::Event},
    snap,
    wal::{EntryRef, Wal, ahead::Ahead},
};

pub enum Input {
    Persist(Persist),
    /// Without a sync, and nobody waits for it.
    HardState(raftpb::HardState),
    /// The backend durably holds everything up to here: older log may go.
    Marker(raftpb::SnapshotMetadata),
    Stop,
}

pub struct WalLoop {
    pub wal: Wal,
    pub disk: Arc<dyn Disk>,
    pub snap_dir: PathBuf,
    pub max_wals: usize,
    pub inputs: Receiver<Input>,
    /// Kept for its space.
    pub taken: Vec<Input>,
    /// Runs `fill`. Without it syncs only take longer.
    pub filler: Option<Thread>,
    pub clock: Clock,
    pub raft: Sender<raft_loop::Input>,
    pub apply: Sender<apply_loop::Input>,
    pub outbound: Arc<dyn Outbound>,
    pub fatal: Arc<Fatal>,
    pub metrics: Arc<Metrics>,
    pub no_fsync: bool,
    /// Whether the next segment is prepared: not again where there was no space, until some may be free.
    pub prepares: bool,
}

/// Keeps zeros ahead of the log until it is closed.
pub fn fill(ahead: &Ahead, fatal: &Fatal) {
    loop {
        match ahead.step() {
            Ok(true) => {}
            Ok(false) if ahead.is_closed() => return,
            Ok(false) => std::thread::park(),
            Err(error) => return fatal.set(format!("write-ahead log: {error}")),
        }
    }
}

/// `.snap` files kept.
const KEEP_SNAPSHOTS: usize = 5;

impl Part for WalLoop {
    inbox!();

    fn wake(&self) -> Wake {
        Wake::Never
    }

    fn turn(&mut self) -> bool {
        let goes_on = self.serve().unwrap_or_else(|error| {
            self.fatal.set(format!("write-ahead log: {error}"));
            false
        });
        if let Some(filler) = self.filler.as_ref().filter(|_| self.wal.ahead().is_low()) {
            filler.unpark();
        }
        goes_on
    }
}

/// However it ends, the filler does too.
impl Drop for WalLoop {
    fn drop(&mut self) {
        self.wal.ahead().close();
        if let Some(filler) = &self.filler {
            filler.unpark();
        }
    }
}

impl WalLoop {
    /// False once it was told to stop.
    fn serve(&mut self) -> Result<bool, Box<dyn std::error::Error>> {
        let mut inputs = std::mem::take(&mut self.taken);
        self.inputs.take(&mut inputs);
        let mut persists = VecDeque::new();
        let mut must_sync = false;
        let mut markers = Vec::new();
        let mut stop = false;
        for input in inputs.drain(..) {
            match input {
                Input::Persist(persist) => {
                    must_sync |= persist.must_sync;
                    self.write(&persist)?;
                    persists.push_back(persist);
                }
                Input::HardState(state) => self.wal.save(Some(&state), [])?,
                Input::Marker(metadata) => markers.push(metadata),
                Input::Stop => stop = true,
            }
        }
        self.taken = inputs;
        if must_sync && !self.no_fsync {
            let started = self.clock.now();
            let synced = self.wal.sync();
            if !mutant::on(Mutant::D7) {
                synced?;
            }
            self.metrics.wal_fsync.observe(self.clock.now() - started);
        }
        for persist in persists {
            if let Some(snapshot) = persist.snapshot {
                let _ = self.apply.send(apply_loop::Input::Restore(snapshot));
            }
            // The driver first: an answer to these messages must find it knowing what they claim.
            let event = Event::Persisted { number: persist.number };
            let _ = self.raft.send(raft_loop::Input::Event(event));
            self.outbound.send(persist.messages);
        }
        // After the answers: nobody waits for these.
        if let Some(metadata) = markers.pop() {
            // A reader takes a mark beyond the commit index for one that a crash left. The log has these entries.
            let state = *self.wal.hard_state();
            if state.commit < metadata.index {
                self.wal.save(Some(&raftpb::HardState { commit: metadata.index, ..state }), [])?;
            }
            self.mark(&metadata)?;
            self.wal.release_to(metadata.index);
            self.wal.purge(self.max_wals)?;
            snap::purge(&*self.disk, &self.snap_dir, KEEP_SNAPSHOTS)?;
            self.purge_received(metadata.index);
            self.prepares = true;
        }
        if self.prepares
            && let Err(error) = self.wal.prepare_next()
        {
            tracing::warn!(%error, "cannot prepare the next segment of the write-ahead log");
            self.prepares = false;
        }
        if stop {
            self.wal.sync()?;
        }
        Ok(!stop)
    }

    /// Removes received snapshots that raft had no use for.
    fn purge_received(&self, durable: u64) {
        for name in self.disk.list(&self.snap_dir).unwrap_or_default() {
            let index =
                name.split_once(".snap.db").and_then(|(index, _)| u64::from_str_radix(index, 16).ok());
            if index.is_some_and(|index| index <= durable || mutant::on(Mutant::K5)) {
                // It is tried again at the next marker.
                let _ = self.disk.remove_file(&self.snap_dir.join(&name));
            }
        }
    }

    fn write(&mut self, persist: &Persist) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(snapshot) = &persist.snapshot {
            self.mark(&snapshot.metadata)?;
        }
        let started = self.clock.now();
        let entries = persist.entries.iter().map(|entry| EntryRef {
            entry_type: entry.r#type,
            term: entry.term,
            index: entry.index,
            data: entry.data.as_deref().unwrap_or_default(),
        });
        self.wal.save(persist.hard_state.as_ref(), entries)?;
        self.metrics.wal_write.observe(self.clock.now() - started);
        Ok(())
    }

    /// A `.snap` file first, then the record that names it: a record without its file would not load.
    fn mark(&mut self, metadata: &raftpb::SnapshotMetadata) -> Result<(), Box<dyn std::error::Error>> {
        let snapshot = raftpb::Snapshot { data: None, metadata: metadata.clone() };
        snap::save(&*self.disk, &self.snap_dir, &snapshot)?;
        self.wal.save_snapshot(&walpb::Snapshot {
            index: metadata.index,
            term: metadata.term,
            conf_state: Some(metadata.conf_state.clone()),
        })?;
        self.metrics.snapshots.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
