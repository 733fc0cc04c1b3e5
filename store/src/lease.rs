//! The lessor: which leases exist, which keys hang on them, and on the leader when they end.
//!
//! Two parts. The *replicated* part (grant, revoke, attach, detach, checkpoint, restore) is driven by apply on
//! every member in log order and decides nothing by time, so all members agree. The *leader's* part counts:
//! between `promote` and `demote` it keeps a deadline per lease, renews, and says which leases have expired.
//! Only a committed revoke ends a lease: a deposed leader that still believes in itself can at most propose
//! one, and the shell proposes it under the term in which the lessor was promoted.
//!
//! Pure: no clock, thread, lock or I/O. Time is monotonic milliseconds, passed in. What must be on disk comes
//! out as a list of changes, which the caller writes in the same batch as the entry that caused it.
//!
//! Invariants: a key hangs on at most one lease, and `keys` and the leases' own sets agree; a lease never
//! expires before its granted (or checkpointed) TTL has passed since the grant, last renewal or promotion,
//! and one election timeout more after a promotion; an expired lease is never renewed.
//!
//! TTL rounding: granted in whole seconds, at least the configured minimum; a remaining TTL is truncated for
//! `time_to_live` and rounded up in checkpoints. Expiry is noticed up to one wheel tick late, never early.
//!
//! Follows etcd's `server/lease/lessor.go`. Differences: a lease has at most one checkpoint scheduled, and
//! keeps having one while it is long enough; leases that pile up at a promotion are spread by the rate of
//! revokes alone. `wheel` is the time wheel, `keys` the keys of one lease.

mod keys;
#[cfg(test)]
#[path = "lease/lessor_test.rs"]
mod lessor_test;
mod wheel;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::LeaseCheckpoint;
use proto::leasepb;
use std::collections::{HashMap, VecDeque};

use crate::mutant::{self, Mutant};
use keys::Keys;
use wheel::Wheel;

/// The greatest TTL that may be asked for, in seconds.
pub const MAX_TTL: i64 = 9_000_000_000;

#[derive(Clone, Debug)]
pub struct Config {
    /// Seconds; shorter requests get this much. etcd: 1.5 election timeouts, rounded up.
    pub min_ttl: i64,
    /// Milliseconds between checkpoints of a lease that has longer than this to live; `None` for none.
    pub checkpoint_interval: Option<u64>,
    /// Milliseconds after which an expired lease that still exists is handed out again.
    pub revoke_retry: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { min_ttl: 2, checkpoint_interval: None, revoke_retry: 3000 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// The id is taken.
    Exists,
    /// More than `MAX_TTL`.
    TtlTooLarge,
    /// Id 0 names no lease; the proposer must choose an id.
    NoId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFound;

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Lives for `ttl` seconds from now. With `clear_checkpoint` the next leader may not know: the caller proposes a
    /// checkpoint of remaining TTL 0, and promises nothing until that is applied (`cleared`).
    Renewed {
        ttl: i64,
        clear_checkpoint: bool,
    },
    /// Past its expiry but not yet revoked: the caller waits until it is revoked (then `NotFound`) or this
    /// member is no longer leader.
    Expired,
    NotFound,
    /// Only the leader renews: ask it.
    NotLeader,
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeToLive {
    /// Seconds left, truncated, negative once past its expiry by a second; and seconds granted.
    Left {
        remaining: i64,
        granted: i64,
    },
    NotFound,
    /// Only the leader counts: ask it.
    NotLeader,
}

/// One change of the persisted leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write the encoded `leasepb.Lease` under this id.
    Put(i64, Bytes),
    Delete(i64),
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub leases: usize,
    pub attached_keys: usize,
    pub granted_total: u64,
    pub revoked_total: u64,
    pub renewed_total: u64,
    /// Leases handed out as expired, retries not counted.
    pub expired_total: u64,
}

/// How far the leader is with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Counting down; the wheel looks at it no later than its deadline.
    Counting,
    /// Past its deadline; waits to be handed out.
    Due,
    /// Handed out to be revoked; the wheel looks at it again after the retry time.
    Revoking,
}

#[derive(Debug)]
struct Lease {
    id: i64,
    /// Seconds granted.
    ttl: i64,
    /// Seconds left at the last checkpoint; 0 for none since the last renewal.
    remaining_ttl: i64,
    /// The number of the last checkpoint handed out that no clearing is known to follow; 0 for none.
    noted: u64,
    keys: Keys,
    /// Milliseconds; counts on the leader only.
    deadline: u64,
    phase: Phase,
}

impl Lease {
    /// Seconds a new leader lets it live.
    fn counted_ttl(&self) -> i64 {
        if self.remaining_ttl > 0 && !mutant::on(Mutant::L5) { self.remaining_ttl } else { self.ttl }
    }

    fn persisted(&self) -> leasepb::Lease {
        leasepb::Lease { id: self.id, ttl: self.ttl, remaining_ttl: self.remaining_ttl }
    }
}

/// The leader's part. Leases stand in the wheels by their place.
#[derive(Debug)]
struct Leader {
    expiry: Wheel,
    checkpoints: Wheel,
    /// Leases in phase `Due`, by id; may name some that are revoked meanwhile.
    due: VecDeque<i64>,
    /// Checkpoints whose time has come, by id; likewise.
    due_checkpoints: VecDeque<i64>,
}

#[derive(Debug)]
pub struct Lessor {
    config: Config,
    places: Vec<Option<Lease>>,
    free: Vec<u32>,
    by_id: HashMap<i64, u32>,
    keys: HashMap<Bytes, i64>,
    /// Present on the leader.
    leader: Option<Leader>,
    changes: Vec<Change>,
    stats: Stats,
    fired: Vec<u32>,
    /// Checkpoints handed out.
    last_note: u64,
}

fn after(now: u64, seconds: i64) -> u64 {
    now.saturating_add(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

impl Lessor {
    pub fn new(config: Config) -> Self {
        Lessor {
            config,
            places: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            keys: HashMap::new(),
            leader: None,
            changes: Vec::new(),
            stats: Stats::default(),
            fired: Vec::new(),
            last_note: 0,
        }
    }

    // ---- the replicated part

    /// Creates a lease and answers its TTL in seconds.
    pub fn grant(&mut self, id: i64, ttl: i64, now: u64) -> Result<i64, GrantError> {
        if id == 0 {
            return Err(GrantError::NoId);
        }
        if ttl > MAX_TTL {
            return Err(GrantError::TtlTooLarge);
        }
        if self.by_id.contains_key(&id) {
            return Err(GrantError::Exists);
        }
        let lease = self.insert(leasepb::Lease { id, ttl, remaining_ttl: 0 });
        self.persist(lease);
        self.count_from(lease, now, 0);
        self.stats.granted_total += 1;
        Ok(self.place(lease).ttl)
    }

    /// Ends a lease and answers its keys, sorted; the caller deletes them in one revision.
    pub fn revoke(&mut self, id: i64) -> Result<Vec<Bytes>, NotFound> {
        let at = self.by_id.remove(&id).ok_or(NotFound)?;
        let lease = self.places[at as usize].take().expect("ids name leases");
        self.free.push(at);
        if let Some(leader) = &mut self.leader {
            leader.expiry.remove(at);
            leader.checkpoints.remove(at);
        }
        let keys = lease.keys.sorted();
        for key in &keys {
            self.keys.remove(key);
        }
        self.changes.push(Change::Delete(id));
        self.stats.revoked_total += 1;
        Ok(keys)
    }

    /// Hangs a key on a lease, taking it off the one it hung on.
    pub fn attach(&mut self, id: i64, key: Bytes) -> Result<(), NotFound> {
        let at = *self.by_id.get(&id).ok_or(NotFound)?;
        let old = self.keys.insert(key.clone(), id);
        if old == Some(id) {
            return Ok(());
        }
        if let Some(old) = old.and_then(|old| self.by_id.get(&old)).copied() {
            self.place_mut(old).keys.remove(&key);
        }
        self.place_mut(at).keys.insert(key);
        Ok(())
    }

    /// Takes a key off its lease, if it has one: it was deleted, or put without lease.
    pub fn detach(&mut self, key: &[u8]) {
        if let Some(at) = self.keys.remove(key).and_then(|id| self.by_id.get(&id)).copied() {
            self.place_mut(at).keys.remove(key);
        }
    }

    /// Notes how many seconds a lease has left, for the next leader; 0 for all. Persisted only with
    /// `persist` (cluster version ≥ 3.6, or told so). Does not move the present deadline.
    pub fn checkpoint(&mut self, id: i64, remaining_ttl: i64, persist: bool, now: u64) {
        let Some(&at) = self.by_id.get(&id) else { return };
        self.place_mut(at).remaining_ttl = remaining_ttl;
        if persist {
            self.persist(at);
        }
        self.schedule_checkpoint(at, now);
    }

    /// The last checkpoint handed out of a lease that is to be cleared now.
    pub fn noted(&self, id: i64) -> u64 {
        self.by_id.get(&id).map_or(0, |&at| self.place(at).noted)
    }

    /// A checkpoint of 0 was applied that was proposed after number `noted`.
    pub fn cleared(&mut self, id: i64, noted: u64) {
        if let Some(&at) = self.by_id.get(&id) {
            let lease = self.place_mut(at);
            if lease.noted == noted {
                lease.noted = 0;
            }
        }
    }

    pub fn exists(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The lease a key hangs on.
    pub fn lease_of(&self, key: &[u8]) -> Option<i64> {
        self.keys.get(key).copied()
    }

    /// The keys of a lease, sorted.
    pub fn keys(&self, id: i64) -> Result<Vec<Bytes>, NotFound> {
        self.by_id.get(&id).map(|&at| self.place(at).keys.sorted()).ok_or(NotFound)
    }

    /// Changes to persist since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Starts over, as follower, with what was persisted or came in a snapshot. The caller then attaches
    /// the keys by the `lease` of each newest key version.
    pub fn restore(&mut self, leases: impl IntoIterator<Item = leasepb::Lease>) {
        let stats = self.stats;
        *self = Lessor { stats, ..Lessor::new(self.config.clone()) };
        for lease in leases {
            if !self.by_id.contains_key(&lease.id) {
                self.insert(lease);
            }
        }
    }

    /// All leases by id, as they are persisted.
    pub fn snapshot(&self) -> Vec<leasepb::Lease> {
        let mut leases: Vec<_> = self.places.iter().flatten().map(Lease::persisted).collect();
        leases.sort_unstable_by_key(|lease| lease.id);
        leases
    }

    // ---- the leader's part

    /// This member became leader: all leases count from now, by their full or checkpointed TTL and `extend`
    /// milliseconds (one election timeout) more, for the time nobody could renew.
    pub fn promote(&mut self, now: u64, extend: u64) {
        self.leader = Some(Leader {
            expiry: Wheel::new(now),
            checkpoints: Wheel::new(now),
            due: VecDeque::new(),
            due_checkpoints: VecDeque::new(),
        });
        for at in 0..self.places.len() as u32 {
            if self.places[at as usize].is_some() {
                self.count_from(at, now, extend);
            }
        }
    }

    pub fn demote(&mut self) {
        self.leader = None;
    }

    pub fn is_leader(&self) -> bool {
        self.leader.is_some()
    }

    pub fn renew(&mut self, id: i64, now: u64) -> Renewal {
        if self.leader.is_none() {
            return Renewal::NotLeader;
        }
        let Some(&at) = self.by_id.get(&id) else { return Renewal::NotFound };
        let checkpoints = self.config.checkpoint_interval.is_some();
        let lease = self.place_mut(at);
        if lease.phase != Phase::Counting || lease.deadline <= now {
            return Renewal::Expired;
        }
        // The wheel finds the new deadline when the old one comes.
        lease.deadline = lease.deadline.max(after(now, lease.ttl));
        let clear_checkpoint = checkpoints && (lease.remaining_ttl > 0 || lease.noted > 0);
        let renewed = Renewal::Renewed { ttl: lease.ttl, clear_checkpoint };
        self.stats.renewed_total += 1;
        renewed
    }

    pub fn time_to_live(&self, id: i64, now: u64) -> TimeToLive {
        if self.leader.is_none() {
            return TimeToLive::NotLeader;
        }
        let Some(&at) = self.by_id.get(&id) else { return TimeToLive::NotFound };
        let lease = self.place(at);
        let left = i128::from(lease.deadline) - i128::from(now);
        TimeToLive::Left { remaining: (left / 1000) as i64, granted: lease.ttl }
    }

    /// Ids of all leases: on the leader those that end first come first, elsewhere by id.
    pub fn list(&self) -> Vec<i64> {
        let leases = self.places.iter().flatten();
        let ends = |lease: &Lease| if self.leader.is_some() { lease.deadline } else { 0 };
        let mut list: Vec<(u64, i64)> = leases.map(|lease| (ends(lease), lease.id)).collect();
        list.sort_unstable();
        list.into_iter().map(|(_, id)| id).collect()
    }

    /// At most `limit` expired leases to propose revokes for. One that still exists after the retry time is
    /// handed out again. etcd asks every 500 ms for 500.
    pub fn expired(&mut self, now: u64, limit: usize) -> Vec<i64> {
        let Some(leader) = &mut self.leader else { return Vec::new() };
        let mut fired = std::mem::take(&mut self.fired);
        leader.expiry.advance(now, &mut fired);
        for at in fired.drain(..) {
            let lease = self.places[at as usize].as_mut().expect("a revoked lease leaves the wheel");
            if lease.deadline > now {
                leader.expiry.insert(at, lease.deadline);
            } else {
                self.stats.expired_total += u64::from(lease.phase == Phase::Counting);
                lease.phase = Phase::Due;
                leader.due.push_back(lease.id);
            }
        }
        self.fired = fired;
        let mut expired = Vec::new();
        while expired.len() < limit
            && let Some(id) = leader.due.pop_front()
        {
            let Some(&at) = self.by_id.get(&id) else { continue };
            let lease = self.places[at as usize].as_mut().expect("ids name leases");
            if lease.phase == Phase::Due {
                lease.phase = Phase::Revoking;
                leader.expiry.insert(at, now.saturating_add(self.config.revoke_retry));
                expired.push(id);
            }
        }
        expired
    }

    /// At most `limit` checkpoints to propose. etcd asks every 500 ms, in batches of 1000.
    pub fn checkpoints(&mut self, now: u64, limit: usize) -> Vec<LeaseCheckpoint> {
        let Some(leader) = &mut self.leader else { return Vec::new() };
        let mut fired = std::mem::take(&mut self.fired);
        leader.checkpoints.advance(now, &mut fired);
        let lease_id = |at| self.places[at as usize].as_ref().map(|lease: &Lease| lease.id);
        leader.due_checkpoints.extend(fired.drain(..).filter_map(lease_id));
        self.fired = fired;
        let mut checkpoints = Vec::new();
        while checkpoints.len() < limit
            && let Some(id) = self.leader.as_mut().and_then(|leader| leader.due_checkpoints.pop_front())
        {
            let Some(&at) = self.by_id.get(&id) else { continue };
            let lease = self.place(at);
            let remaining_ttl = lease.deadline.saturating_sub(now).div_ceil(1000) as i64;
            if remaining_ttl > 0 && remaining_ttl < lease.ttl {
                checkpoints.push(LeaseCheckpoint { id, remaining_ttl });
                self.last_note += 1;
                let number = self.last_note;
                self.place_mut(at).noted = number;
            }
            // Should the proposal be lost, there is a next one.
            self.schedule_checkpoint(at, now);
        }
        checkpoints
    }

    pub fn stats(&self) -> Stats {
        Stats { leases: self.by_id.len(), attached_keys: self.keys.len(), ..self.stats }
    }

    // ---- helpers

    fn place(&self, at: u32) -> &Lease {
        self.places[at as usize].as_ref().expect("ids name leases")
    }

    fn place_mut(&mut self, at: u32) -> &mut Lease {
        self.places[at as usize].as_mut().expect("ids name leases")
    }

    fn insert(&mut self, lease: leasepb::Lease) -> u32 {
        let leasepb::Lease { id, ttl, remaining_ttl } = lease;
        let ttl = ttl.max(self.config.min_ttl);
        let (keys, phase) = (Keys::new(), Phase::Counting);
        let lease = Lease { id, ttl, remaining_ttl, noted: 0, keys, deadline: 0, phase };
        let at = match self.free.pop() {
            Some(at) => {
                self.places[at as usize] = Some(lease);
                at
            }
            None => {
                self.places.push(Some(lease));
                u32::try_from(self.places.len() - 1).expect("fewer than 2^32 leases")
            }
        };
        self.by_id.insert(id, at);
        at
    }

    fn persist(&mut self, at: u32) {
        let lease = self.place(at).persisted();
        self.changes.push(Change::Put(lease.id, lease.encode_to_vec().into()));
    }

    /// On the leader: lets a lease begin to count.
    fn count_from(&mut self, at: u32, now: u64, extend: u64) {
        let Some(leader) = &mut self.leader else { return };
        let lease = self.places[at as usize].as_mut().expect("the caller looked it up");
        lease.deadline = match mutant::on(Mutant::L4) {
            true => now,
            false => after(now, lease.counted_ttl()).saturating_add(extend),
        };
        lease.phase = Phase::Counting;
        leader.expiry.insert(at, lease.deadline);
        self.schedule_checkpoint(at, now);
    }

    /// On the leader: lets the next checkpoint come one interval from now, if the lease lives that long.
    fn schedule_checkpoint(&mut self, at: u32, now: u64) {
        let (Some(leader), Some(interval)) = (&mut self.leader, self.config.checkpoint_interval) else {
            return;
        };
        let lease = self.places[at as usize].as_ref().expect("the caller looked it up");
        if after(0, lease.counted_ttl()) > interval {
            leader.checkpoints.insert(at, now.saturating_add(interval));
        } else {
            leader.checkpoints.remove(at);
        }
    }
}
