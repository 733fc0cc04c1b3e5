//! Buckets in memory: the engine of unit tests and of the simulator.
//!
//! Behaves as `rocks` does, crash included: `crash` keeps the batches up to a chosen one, never fewer than were
//! flushed.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Backend, BackendError, Batch, Bucket, Cursor, Fill, Op, Read, Result, Visit};

type Buckets = BTreeMap<(Bucket, Vec<u8>), Vec<u8>>;

#[derive(Default)]
struct State {
    /// Shared with cursors and frozen views while they last.
    buckets: Arc<Buckets>,
    durable: Buckets,
    unflushed: Vec<Change>,
    /// So many more changes and flushes, then the power is off.
    power: Option<u64>,
}

enum Change {
    Batch(Batch),
    Clear(Bucket),
}

#[derive(Default)]
pub struct Memory(Mutex<State>);

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes that a crash may lose.
    pub fn unflushed(&self) -> usize {
        self.state().unflushed.len()
    }

    /// Lets so many more changes and flushes happen; all after them fail until `crash`.
    pub fn power_off_after(&self, operations: u64) {
        self.state().power = Some(operations);
    }

    pub fn is_powered_off(&self) -> bool {
        self.state().power == Some(0)
    }

    /// The engine as found after a crash that kept `keep` of the unflushed changes.
    pub fn crash(&self, keep: usize) -> Memory {
        let state = self.state();
        let mut buckets = state.durable.clone();
        for change in state.unflushed.iter().take(keep) {
            apply(&mut buckets, change);
        }
        let durable = buckets.clone();
        Memory(Mutex::new(State { durable, buckets: Arc::new(buckets), ..State::default() }))
    }
}

impl State {
    fn change(&mut self, change: Change) -> Result<()> {
        self.powered()?;
        apply(Arc::make_mut(&mut self.buckets), &change);
        self.unflushed.push(change);
        Ok(())
    }

    fn powered(&mut self) -> Result<()> {
        match &mut self.power {
            Some(0) => return Err(BackendError("the power is off".to_owned())),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

fn apply(buckets: &mut Buckets, change: &Change) {
    match change {
        Change::Batch(batch) => {
            for op in batch.ops() {
                match op {
                    Op::Put { bucket, key, value } => buckets.insert((bucket, key.to_vec()), value.to_vec()),
                    Op::Delete { bucket, key } => buckets.remove(&(bucket, key.to_vec())),
                };
            }
        }
        Change::Clear(bucket) => buckets.retain(|(of, _), _| of != bucket),
    }
}

impl Read for Arc<Buckets> {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(BTreeMap::get(self, &(bucket, key.to_vec())).cloned())
    }

    fn scan(&self, bucket: Bucket, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        for ((of, key), value) in self.range((bucket, start.to_vec())..) {
            if *of != bucket || end.is_some_and(|end| key.as_slice() >= end) {
                break;
            }
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn cursor(&self, bucket: Bucket) -> Box<dyn Cursor + '_> {
        Box::new(Position { buckets: self.clone(), bucket, at: None })
    }
}

struct Position {
    buckets: Arc<Buckets>,
    bucket: Bucket,
    at: Option<(Vec<u8>, Vec<u8>)>,
}

impl Position {
    fn go(&mut self, from: Bound<(Bucket, Vec<u8>)>) {
        self.at = self
            .buckets
            .range((from, Bound::Unbounded))
            .next()
            .filter(|((of, _), _)| *of == self.bucket)
            .map(|((_, key), value)| (key.clone(), value.clone()));
    }
}

impl Cursor for Position {
    fn seek(&mut self, start: &[u8]) -> Result<()> {
        self.go(Bound::Included((self.bucket, start.to_vec())));
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        if let Some((key, _)) = self.at.take() {
            self.go(Bound::Excluded((self.bucket, key)));
        }
        Ok(())
    }

    fn item(&self) -> Option<(&[u8], &[u8])> {
        self.at.as_ref().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

impl Read for Memory {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Read::get(&self.state().buckets, bucket, key)
    }

    fn scan(&self, bucket: Bucket, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        let buckets = self.state().buckets.clone();
        buckets.scan(bucket, start, end, visit)
    }

    fn cursor(&self, bucket: Bucket) -> Box<dyn Cursor + '_> {
        Box::new(Position { buckets: self.state().buckets.clone(), bucket, at: None })
    }
}

struct Filling<'a> {
    memory: &'a Memory,
    bucket: Bucket,
    keys: Batch,
}

impl Fill for Filling<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keys.put(self.bucket, key, value);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.memory.write(&self.keys)?;
        self.memory.flush()
    }
}

impl Backend for Memory {
    fn write(&self, batch: &Batch) -> Result<()> {
        self.state().change(Change::Batch(batch.clone()))
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.state();
        state.powered()?;
        let State { durable, unflushed, .. } = &mut *state;
        for change in unflushed.drain(..) {
            apply(durable, &change);
        }
        Ok(())
    }

    fn clear(&self, bucket: Bucket) -> Result<()> {
        self.state().change(Change::Clear(bucket))
    }

    fn fill(&self, bucket: Bucket) -> Result<Box<dyn Fill + '_>> {
        Ok(Box::new(Filling { memory: self, bucket, keys: Batch::default() }))
    }

    fn defragment(&self) -> Result<()> {
        Ok(())
    }

    fn freeze(&self) -> Box<dyn Read + '_> {
        Box::new(self.state().buckets.clone())
    }

    fn size_bytes(&self) -> u64 {
        self.state().buckets.iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum()
    }

    fn size_in_use_bytes(&self) -> u64 {
        self.size_bytes()
    }
}
