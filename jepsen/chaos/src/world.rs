//! What all tasks of one run share: the cluster, the history in the making, the clock, and whether the run is over.
//!
//! One thread, so cells and no locks; no borrow of `notes` is held across an await.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use bytes::Bytes;
use oracle::{
    history::{Client, Key, Operation, Revision, Stream, Value},
    wire::Book,
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use crate::{cluster::Cluster, rights::Rights};

/// Writes in flight whose effect no value shows.
const MAX_ANONYMOUS_WRITES: usize = 3;
const HASH_LIMIT: Duration = Duration::from_secs(1);

pub struct World {
    pub cluster: Cluster,
    pub notes: RefCell<Notes>,
    /// Who was allowed what, and did what.
    pub rights: RefCell<Rights>,
    /// Deletes and the like hold a permit while they are under way.
    pub anonymous: Semaphore,
    /// All up to here was told to observers.
    observed: Cell<Revision>,
    seed: u64,
    began: Instant,
    over: Cell<bool>,
    ended: Notify,
    /// The first thing that went wrong outside the history.
    failure: RefCell<Option<String>>,
}

/// What the clients write down, and numbers that are given out once.
#[derive(Default)]
pub struct Notes {
    pub book: Book,
    /// The highest revision in any answer.
    pub seen: Revision,
    pub operations: u64,
    clients: u32,
    values: u64,
    streams: usize,
    /// HashKV by revision and compaction, and who said so.
    hashes: BTreeMap<(Revision, Revision), (u32, String)>,
    /// How often a hash was there to compare another one with.
    pub hashes_compared: u64,
}

impl World {
    pub fn new(cluster: Cluster, seed: u64) -> World {
        World {
            cluster,
            notes: RefCell::default(),
            rights: RefCell::default(),
            anonymous: Semaphore::new(MAX_ANONYMOUS_WRITES),
            observed: Cell::new(1),
            seed,
            began: Instant::now(),
            over: Cell::new(false),
            ended: Notify::new(),
            failure: RefCell::new(None),
        }
    }

    /// Random numbers of one purpose: what others draw does not shift them.
    pub fn random(&self, purpose: &str, number: u64) -> StdRng {
        stream_of(self.seed, purpose, number)
    }

    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a run is short")
    }

    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Tells clients to ask no more.
    pub fn end(&self) {
        self.over.set(true);
        self.ended.notify_waiters();
    }

    /// Waits so long, or until clients are to end.
    pub async fn rest(&self, time: Duration) {
        let ended = self.ended.notified();
        if !self.is_over() {
            let _ = tokio::time::timeout(time, ended).await;
        }
    }

    pub fn fail(&self, what: impl Into<String>) {
        self.failure.borrow_mut().get_or_insert(what.into());
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub fn key(&self, name: &str) -> Key {
        self.notes.borrow_mut().book.key(&Bytes::copy_from_slice(name.as_bytes()))
    }

    pub fn seen(&self) -> Revision {
        self.notes.borrow().seen
    }

    pub fn observed(&self, revision: Revision) {
        self.observed.set(self.observed.get().max(revision));
    }

    /// How far a compaction that would go to `revision` may go. Events that no observer will ever see would leave open
    /// what became of many writes.
    pub fn compactable(&self, revision: Revision) -> Revision {
        revision.clamp(1, self.observed.get())
    }

    /// HashKV at a revision of the members that answer, by their numbers. The run fails if any that was ever told
    /// differs. A member may not have come so far.
    pub async fn hashes(&self, revision: Revision) -> Vec<(usize, u32)> {
        let mut answers = Vec::new();
        for (at, server) in self.cluster.servers.iter().enumerate() {
            let Some(member) = server.member() else { continue };
            let Ok((hash, compacted)) = self.cluster.hash(at, revision, HASH_LIMIT).await else { continue };
            answers.push((at, hash));
            let notes = &mut *self.notes.borrow_mut();
            let said = format!("{member:?}: {hash:#010x}");
            match notes.hashes.entry((revision, compacted)) {
                Entry::Vacant(place) => drop(place.insert((hash, said))),
                Entry::Occupied(known) => {
                    notes.hashes_compared += 1;
                    if known.get().0 != hash {
                        let known = &known.get().1;
                        self.fail(format!(
                            "HashKV at revision {revision}, compacted to {compacted}: {known}, {said}"
                        ));
                    }
                }
            }
        }
        answers
    }
}

/// Random numbers of one purpose of a seed.
pub fn stream_of(seed: u64, purpose: &str, number: u64) -> StdRng {
    // FNV-1a, so that purposes need no table.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in seed.to_le_bytes().into_iter().chain(number.to_le_bytes()).chain(purpose.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    StdRng::seed_from_u64(hash)
}

impl Notes {
    pub fn next_client(&mut self) -> Client {
        self.clients += 1;
        Client(self.clients - 1)
    }

    /// A number that no other value has.
    pub fn next_number(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    /// A value that nobody else writes.
    pub fn next_value(&mut self) -> Value {
        let number = self.next_number();
        self.book.value(&format!("v{number}").into())
    }

    pub fn operation(&mut self, operation: Operation) {
        self.operations += 1;
        self.book.recorder.operation(operation);
    }

    /// Its place in `History::streams`.
    pub fn stream(&mut self, stream: Stream) -> usize {
        self.book.recorder.stream(stream);
        self.streams += 1;
        self.streams - 1
    }
}
