//! Locks over keys and leases: who was told that it holds one did hold it, and what it guarded was written by holders.
//!
//! A lock is a set of keys; the one with the lowest create revision holds it, from the moment when all older ones are
//! gone until it is deleted itself. Source: etcd `client/v3/concurrency/{key,mutex}.go`.

use std::collections::HashMap;

use super::{Replay, Verdict, Violation};
use crate::history::{Key, OpId, Revision, request::Span, watch::EventKind};

/// Somebody was told that it holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    pub op: OpId,
    /// All keys of the lock.
    pub lock: Span,
    pub key: Key,
    pub called_ns: u64,
    pub returned_ns: u64,
}

/// A write in a transaction that compared the create revision of the writer's lock key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded {
    pub op: OpId,
    pub lock: Span,
    pub key: Key,
    /// The one that it made.
    pub revision: Revision,
}

/// A key from its creation to the revision that deleted it.
#[derive(Clone, Copy)]
struct Life {
    key: Key,
    created: Revision,
    deleted: Revision,
}

/// Judges all that was acquired and all that was written under a lock.
pub fn check(acquired: &[Acquired], guarded: &[Guarded], replay: &Replay) -> Verdict {
    let lives = lives(replay);
    let told = acquired.iter().try_for_each(|it| {
        let (first, last) = (replay.surely_at(it.called_ns), replay.perhaps_at(it.returned_ns));
        let held = holds(&lives, &it.lock, it.key).any(|(from, before)| from <= last && before > first);
        if held {
            return Ok(());
        }
        let what = format!("key {} did not hold the lock in revisions {first} to {last}", it.key.0);
        Err(Violation::new(what, [it.op]))
    });
    let wrote = || {
        guarded.iter().try_for_each(|it| {
            let held = holds(&lives, &it.lock, it.key)
                .any(|(from, before)| from < it.revision && it.revision <= before);
            if held {
                return Ok(());
            }
            let what = format!("key {} did not hold the lock before revision {}", it.key.0, it.revision);
            Err(Violation::new(what, [it.op]))
        })
    };
    Verdict::of(told.and_then(|()| wrote()))
}

fn lives(replay: &Replay) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut current: HashMap<Key, usize> = HashMap::new();
    for event in replay.events(2, Revision::MAX) {
        let revision = event.kv.mod_revision;
        if event.is_create() {
            current.insert(event.kv.key, lives.len());
            lives.push(Life { key: event.kv.key, created: revision, deleted: Revision::MAX });
        } else if event.kind == EventKind::Delete
            && let Some(at) = current.remove(&event.kv.key)
        {
            lives[at].deleted = revision;
        }
    }
    lives
}

/// Revisions in which a key held a lock: from the first to before the second.
fn holds(lives: &[Life], lock: &Span, key: Key) -> impl Iterator<Item = (Revision, Revision)> {
    lives.iter().filter(move |life| life.key == key).filter_map(move |life| {
        let older = lives.iter().take_while(|other| other.created < life.created);
        let older = older.filter(|other| lock.contains(other.key)).map(|other| other.deleted);
        let from = older.max().unwrap_or(0).max(life.created);
        (from < life.deleted).then_some((from, life.deleted))
    })
}
