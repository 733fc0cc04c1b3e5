//! What etcd's store answers, as a value: a copy costs nothing, and two states can be told apart by a fingerprint.
//!
//! Written from the description of the API, wider than the model of etcd's robustness tests: ranges with every option
//! and of the past (`range`), nested transactions with all compares (`txn`), the state-independent refusals
//! (`validate`), leases, compaction. Every version of every key is kept, the older ones in one list that only grows;
//! states that come from one another share all but what was changed. Knows no clock: times are arguments.
//!
//! Where etcd leaves an answer open (order of equals in a sort, the ID of a lease), `apply` is shown the answer that
//! was observed and gives that one if it is among the possible.
//!
//! Source: etcd `server/etcdserver/{apply,txn}`, `server/storage/mvcc`, `server/lease`. Left out: alarms, members.
//! Users and roles are a model of their own (`rights`).

mod fingerprint;
mod range;
pub mod rights;
mod txn;
mod validate;

use std::num::NonZeroU32;

use imbl::{OrdMap, OrdSet, Vector};

use crate::history::{
    Answer, Key, LeaseId, Refusal, Request, Response, Revision,
    request::{Delete, Deleted, Kv, Put},
    watch::{Event, EventKind},
};
pub(crate) use fingerprint::mix;

pub use validate::validate;

/// The longest time that can be granted, in seconds.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Settings of the servers that answers depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Shorter leases get this: 1.5 election timeouts, rounded up.
    pub min_ttl_seconds: i64,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// What a new leader adds to all leases: an election timeout, rounded up.
    pub extension_seconds: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { min_ttl_seconds: 2, max_txn_ops: 128, extension_seconds: 1 }
    }
}

/// The store between two operations.
#[derive(Clone, Debug)]
pub struct State {
    settings: Settings,
    revision: Revision,
    /// -1 before the first compaction, as in etcd.
    compacted: Revision,
    /// The newest version of each key that ever was.
    keys: OrdMap<Key, Stored>,
    /// All versions that another one replaced, in the order in which that happened. Places begin at 1.
    past: Vector<Stored>,
    leases: OrdMap<LeaseId, Lease>,
    /// Of all versions and leases: each adds its own hash.
    fingerprint: u128,
}

/// A version of a key. A deleted one has version 0, as in the event that tells of it.
#[derive(Clone, Copy, Debug)]
struct Stored {
    kv: Kv,
    /// The place of the version before in `State::past`.
    older: Option<NonZeroU32>,
}

#[derive(Clone, Debug)]
struct Lease {
    ttl_seconds: i64,
    /// The server cannot have counted from earlier than this.
    renewed_ns: u64,
    keys: OrdSet<Key>,
}

impl State {
    pub fn new(settings: Settings) -> State {
        State {
            settings,
            revision: 1,
            compacted: -1,
            keys: OrdMap::new(),
            past: Vector::new(),
            leases: OrdMap::new(),
            fingerprint: 0,
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The newest compaction; -1 before the first.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Equal for states that no request can tell apart, different for all others but by a chance of 2^-128.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint ^ mix(&[1, self.revision as u64, self.compacted as u64])
    }

    pub fn get(&self, key: Key) -> Option<&Kv> {
        self.version_at(self.keys.get(&key)?, Revision::MAX)
    }

    pub fn has_lease(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    /// Leases that a key hangs on.
    pub fn leases_with_keys(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.iter().filter(|(_, lease)| !lease.keys.is_empty()).map(|(id, _)| *id)
    }

    /// Whether revoking it would change a key; false if there is no such lease.
    pub fn lease_has_keys(&self, lease: LeaseId) -> bool {
        self.leases.get(&lease).is_some_and(|lease| !lease.keys.is_empty())
    }

    /// The earliest time at which a lease can expire.
    pub fn expires_ns(&self, lease: LeaseId) -> Option<u64> {
        let lease = self.leases.get(&lease)?;
        Some(lease.renewed_ns.saturating_add((lease.ttl_seconds as u64).saturating_mul(NS_PER_SECOND)))
    }

    /// Carries out a request that was called at `called_ns`; what changes is added to `events`, in order.
    ///
    /// `observed` is the answer that was seen, if any: it settles what etcd leaves open. The revision answered is
    /// that of the state afterwards. A refused request changes nothing.
    pub fn apply(
        &mut self,
        request: &Request,
        observed: Option<&Response>,
        called_ns: u64,
        events: &mut Vec<Event>,
    ) -> Result<(Revision, Response), Refusal> {
        validate(request, self.settings.max_txn_ops)?;
        let main = self.revision + 1;
        let before = events.len();
        let response = match request {
            Request::Put(put) => {
                // Unlike in a transaction, the lease is looked for first.
                if put.lease != 0 && !self.has_lease(put.lease) {
                    return Err(Refusal::LeaseNotFound);
                }
                self.check_put(put)?;
                self.put(put, main, events)
            }
            Request::Delete(delete) => self.delete(delete, main, events),
            Request::Range(range) => {
                let observed =
                    if let Some(Response::Range(observed)) = observed { Some(observed) } else { None };
                self.check_revision(range.revision.max(0))?;
                Response::Range(self.range(range, self.revision, observed))
            }
            Request::Txn(txn) => self.txn(txn, observed, main, events)?,
            Request::Compact { revision } => self.compact(*revision)?,
            Request::Grant { lease, ttl_seconds } => self.grant(*lease, *ttl_seconds, observed, called_ns)?,
            Request::Revoke { lease } => {
                self.revoke(*lease, main, events)?;
                Response::Revoke
            }
            Request::KeepAlive { lease } => self.keep_alive(*lease, called_ns),
            Request::TimeToLive { lease, keys } => self.time_to_live(*lease, *keys, observed),
            Request::Leases => Response::Leases(self.leases.keys().copied().collect()),
        };
        if events.len() > before {
            self.revision = main;
        }
        Ok((self.revision, response))
    }

    /// Whether `answer` is what the request would be answered now; changes the state if so.
    pub fn agrees(
        &mut self,
        request: &Request,
        answer: &Answer,
        called_ns: u64,
        events: &mut Vec<Event>,
    ) -> Result<(), String> {
        match self.apply(request, Some(&answer.response), called_ns, events) {
            Ok((_, response)) if response != answer.response => {
                Err(format!("expected {response:?}, observed {:?}", answer.response))
            }
            // etcd looks for what to name once a compaction is done: others may have written meanwhile.
            Ok((revision, _)) if matches!(request, Request::Compact { .. }) && revision < answer.revision => {
                Ok(())
            }
            Ok((revision, _)) if has_revision(request) && revision != answer.revision => {
                Err(format!("expected revision {revision}, observed {}", answer.revision))
            }
            Ok(_) => Ok(()),
            Err(refusal) => Err(format!("expected {refusal:?}, observed {:?}", answer.response)),
        }
    }

    /// Ends a lease that nobody revoked: only after its time, and `latest_ns` is the latest that it can be.
    /// Returns whether it was there and could end.
    pub fn expire(&mut self, lease: LeaseId, latest_ns: u64, events: &mut Vec<Event>) -> bool {
        let due = self.expires_ns(lease).is_some_and(|due_ns| due_ns <= latest_ns);
        let before = events.len();
        let main = self.revision + 1;
        if !due || self.revoke(lease, main, events).is_err() {
            return false;
        }
        if events.len() > before {
            self.revision = main;
        }
        true
    }

    fn check_put(&self, put: &Put) -> Result<(), Refusal> {
        if (put.ignore_value || put.ignore_lease) && self.get(put.key).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        if put.lease != 0 && !self.has_lease(put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &Put, main: Revision, events: &mut Vec<Event>) -> Response {
        let before = self.get(put.key).copied();
        let (create_revision, version) = before.map_or((main, 1), |kv| (kv.create_revision, kv.version + 1));
        let kv = Kv {
            key: put.key,
            value: before.filter(|_| put.ignore_value).map_or(put.value, |kv| kv.value),
            create_revision,
            mod_revision: main,
            version,
            lease: before.filter(|_| put.ignore_lease).map_or(put.lease, |kv| kv.lease),
        };
        let old_lease = before.map_or(0, |kv| kv.lease);
        if old_lease != kv.lease {
            self.detach(old_lease, put.key);
            if kv.lease != 0
                && let Some(lease) = self.leases.get_mut(&kv.lease)
            {
                lease.keys.insert(put.key);
            }
        }
        events.push(Event { kind: EventKind::Put, kv, prev: self.before(put.key, main) });
        self.push(kv);
        Response::Put { prev: before.filter(|_| put.prev_kv).map(Box::new) }
    }

    fn delete(&mut self, delete: &Delete, main: Revision, events: &mut Vec<Event>) -> Response {
        let found: Vec<Kv> = self.live(&delete.span, Revision::MAX).copied().collect();
        for kv in &found {
            self.detach(kv.lease, kv.key);
            self.remove(kv.key, main, events);
        }
        let deleted = found.len() as i64;
        Response::Delete(Deleted {
            deleted,
            prev: if delete.prev_kv { found.into() } else { Box::default() },
        })
    }

    fn detach(&mut self, lease: LeaseId, key: Key) {
        if lease != 0
            && let Some(lease) = self.leases.get_mut(&lease)
        {
            lease.keys.remove(&key);
        }
    }

    fn remove(&mut self, key: Key, main: Revision, events: &mut Vec<Event>) {
        let kv = Kv {
            key,
            value: crate::history::Value::EMPTY,
            create_revision: 0,
            mod_revision: main,
            version: 0,
            lease: 0,
        };
        events.push(Event { kind: EventKind::Delete, kv, prev: self.before(key, main) });
        self.push(kv);
    }

    /// What a watcher is told was there before revision `main`.
    fn before(&self, key: Key, main: Revision) -> Option<Kv> {
        self.version_at(self.keys.get(&key)?, main - 1).copied()
    }

    /// The version that was the newest at revision `at`, of those from `newest` on; `None` if there was none.
    fn version_at<'a>(&'a self, newest: &'a Stored, at: Revision) -> Option<&'a Kv> {
        let mut stored = newest;
        while stored.kv.mod_revision > at {
            stored = &self.past[stored.older?.get() as usize - 1];
        }
        (stored.kv.version > 0).then_some(&stored.kv)
    }

    /// Makes `kv` the newest version of its key.
    fn push(&mut self, kv: Kv) {
        self.fingerprint ^= mix(&[
            2,
            u64::from(kv.key.0),
            u64::from(kv.value.0),
            kv.mod_revision as u64,
            kv.create_revision as u64,
            kv.version as u64,
            kv.lease as u64,
        ]);
        match self.keys.get_mut(&kv.key) {
            Some(newest) => {
                self.past.push_back(*newest);
                let place = u32::try_from(self.past.len()).expect("fewer than 2^32 versions");
                *newest = Stored { kv, older: NonZeroU32::new(place) };
            }
            None => {
                self.keys.insert(kv.key, Stored { kv, older: None });
            }
        }
    }

    fn compact(&mut self, revision: Revision) -> Result<Response, Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.compacted = revision;
        Ok(Response::Compact)
    }

    fn grant(
        &mut self,
        lease: LeaseId,
        ttl_seconds: i64,
        observed: Option<&Response>,
        called_ns: u64,
    ) -> Result<Response, Refusal> {
        if ttl_seconds > MAX_TTL_SECONDS {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        let lease = match observed {
            Some(&Response::Grant { lease: chosen, .. }) if lease == 0 => chosen,
            _ => lease,
        };
        if self.has_lease(lease) {
            return Err(Refusal::LeaseExists);
        }
        let ttl_seconds = ttl_seconds.max(self.settings.min_ttl_seconds);
        // The server chose an ID that nobody was told: nobody can ask for it.
        if lease != 0 {
            self.set_lease(lease, Some(Lease { ttl_seconds, renewed_ns: called_ns, keys: OrdSet::new() }));
        }
        Ok(Response::Grant { lease, ttl_seconds })
    }

    fn revoke(&mut self, lease: LeaseId, main: Revision, events: &mut Vec<Event>) -> Result<(), Refusal> {
        let ended = self.leases.get(&lease).ok_or(Refusal::LeaseNotFound)?.clone();
        self.set_lease(lease, None);
        for key in &ended.keys {
            self.remove(*key, main, events);
        }
        Ok(())
    }

    fn keep_alive(&mut self, lease: LeaseId, called_ns: u64) -> Response {
        let Some(mut found) = self.leases.get(&lease).cloned() else {
            return Response::KeepAlive { ttl_seconds: 0 };
        };
        let ttl_seconds = found.ttl_seconds;
        found.renewed_ns = found.renewed_ns.max(called_ns);
        self.set_lease(lease, Some(found));
        Response::KeepAlive { ttl_seconds }
    }

    /// The seconds left are the clock's: any number up to those granted is right.
    fn time_to_live(&self, lease: LeaseId, keys: bool, observed: Option<&Response>) -> Response {
        let Some(lease) = self.leases.get(&lease) else {
            return Response::TimeToLive { ttl_seconds: -1, granted_seconds: 0, keys: Box::default() };
        };
        let ttl_seconds = match observed {
            Some(&Response::TimeToLive { ttl_seconds, .. }) => {
                // Below 0: its time is over, and its end is not in the log yet.
                ttl_seconds.min(lease.ttl_seconds + self.settings.extension_seconds)
            }
            _ => lease.ttl_seconds,
        };
        let keys = if keys { lease.keys.iter().copied().collect() } else { Box::default() };
        Response::TimeToLive { ttl_seconds, granted_seconds: lease.ttl_seconds, keys }
    }

    fn set_lease(&mut self, id: LeaseId, lease: Option<Lease>) {
        let hash = |lease: &Lease| mix(&[4, id as u64, lease.ttl_seconds as u64, lease.renewed_ns]);
        let new = lease.as_ref().map_or(0, hash);
        let old = match lease {
            Some(lease) => self.leases.insert(id, lease),
            None => self.leases.remove(&id),
        };
        self.fingerprint ^= new ^ old.as_ref().map_or(0, hash);
    }
}

/// Whether the header of an answer is filled as the request takes effect. A keepalive's is filled before, those of
/// questions about leases by whichever member is asked.
pub fn has_revision(request: &Request) -> bool {
    !matches!(request, Request::KeepAlive { .. } | Request::TimeToLive { .. } | Request::Leases)
}
