//! Valid histories, by running random clients against the model.
//!
//! Time is virtual. Each client calls, its request takes effect somewhat later, and it is told still later, or never.
//! Members other than the leader lag, for reads that are not linearizable. Keys and values are interned in their order,
//! so that the recorder's numbers are those of the model.

use std::{cmp::Reverse, collections::BinaryHeap};

use oracle::{
    history::{
        Answer, Client, Fate, History, Key, LeaseId, Member, NEVER_NS, Operation, Outcome, Request, Revision,
        Stream, Value,
        record::Recorder,
        request::{
            Bounds, Compare, Delete, End, Kv, Put, Range, Relation, SortOrder, SortTarget, Span, Txn, Wanted,
        },
        watch::{Asked, Event, EventKind, WatchCommand, WatchCreate, WatchResponse},
    },
    model::{Settings, State},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// What kind of history to make.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub clients: usize,
    pub operations: usize,
    pub keys: usize,
    /// Of a thousand writes, how many nobody hears of.
    pub unknown_per_mille: u32,
    pub leases: bool,
    /// IDs of leases that ended, or did not yet, are granted again.
    pub regrants: bool,
    pub compactions: bool,
    pub past_reads: bool,
    pub serializable: bool,
    /// Weight of transactions; that of puts is 35, as is that of reads of one key.
    pub txns: u32,
    /// Weight of ranges with limits, sorts and filters.
    pub ranges: u32,
}

pub const PLAIN: Shape = Shape {
    clients: 4,
    operations: 200,
    keys: 5,
    unknown_per_mille: 0,
    leases: false,
    regrants: false,
    compactions: false,
    past_reads: false,
    serializable: false,
    txns: 15,
    ranges: 10,
};

pub const ALL: Shape = Shape {
    unknown_per_mille: 60,
    leases: true,
    regrants: true,
    compactions: true,
    past_reads: true,
    serializable: true,
    ..PLAIN
};

/// A history and what really happened in it.
pub struct Run {
    pub history: History,
    /// By revision: the time at which it came to be, and its events.
    pub log: Vec<(u64, Vec<Event>)>,
    pub compactions: Vec<(u64, Revision)>,
}

impl Run {
    /// A stream with one watcher, created at `created_ns`, that is told of all that happens, in batches.
    pub fn stream(&self, create: WatchCreate, created_ns: u64, rng: &mut StdRng) -> Stream {
        let known = |at_ns: u64| self.log.partition_point(|(made_ns, _)| *made_ns <= at_ns);
        let revision = |made: usize| made as Revision + 1;
        let id = create.id;
        let response = |received_ns: u64, revision: Revision| WatchResponse {
            received_ns,
            id,
            revision,
            created: false,
            canceled: false,
            fragment: false,
            compact_revision: 0,
            events: Box::default(),
        };
        let mut now_ns = created_ns;
        let at_creation = revision(known(now_ns));
        let mut responses = vec![WatchResponse { created: true, ..response(now_ns, at_creation) }];
        let mut told = if create.start > 0 { (create.start - 2).max(0) as usize } else { known(now_ns) };
        let asked = [WatchCommand::Create(create), WatchCommand::Progress].into_iter();
        let asked = asked.map(|command| Asked { sent_ns: created_ns, command }).collect();
        while told < self.log.len() {
            now_ns += rng.random_range(1..50_000_000);
            let up_to = known(now_ns).min(told + rng.random_range(1..5));
            if up_to <= told {
                continue;
            }
            let compacted =
                self.compactions.iter().filter(|(at_ns, _)| *at_ns <= now_ns).map(|it| it.1).max();
            let compacted = compacted.unwrap_or(0);
            if compacted > revision(told + 1) {
                let canceled = true;
                responses.push(WatchResponse {
                    canceled,
                    compact_revision: compacted,
                    ..response(now_ns, 0)
                });
                break;
            }
            let mut events: Vec<Event> =
                self.log[told..up_to].iter().flat_map(|(_, events)| events).copied().collect();
            events.retain(|event| {
                let dropped = if event.kind == EventKind::Put { create.no_put } else { create.no_delete };
                !dropped && create.span.contains(event.kv.key)
            });
            for event in &mut events {
                let gone = compacted > event.kv.mod_revision - 1 && rng.random_bool(0.5);
                event.prev = event.prev.filter(|_| create.prev_kv && !gone);
            }
            told = up_to;
            if !events.is_empty() {
                responses.push(WatchResponse {
                    events: events.into(),
                    ..response(now_ns, revision(known(now_ns)))
                });
            } else if create.progress_notify && revision(told) >= create.start {
                responses.push(response(now_ns, revision(told)));
            }
        }
        Stream { client: Client(1_000_000), member: Member(0), asked, responses }
    }

    /// A watch of everything from the first revision on, as runs have on each member.
    pub fn with_watch(mut self, seed: u64) -> Run {
        let span = Span { start: Key(1), end: End::Open };
        let create = WatchCreate {
            id: 5,
            span,
            start: 1,
            prev_kv: true,
            progress_notify: false,
            fragment: false,
            no_put: false,
            no_delete: false,
        };
        let calm = Run { compactions: Vec::new(), history: History::default(), log: self.log.clone() };
        let stream = calm.stream(create, 0, &mut StdRng::seed_from_u64(seed));
        self.history.streams.push(stream);
        self
    }
}

const MEMBERS: u32 = 3;
const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Call,
    Effect,
    Return,
}

struct World {
    shape: Shape,
    rng: StdRng,
    recorder: Recorder,
    keys: Vec<Key>,
    value_count: u32,
    state: State,
    lagging: Vec<State>,
    next_lease: LeaseId,
    granted: Vec<LeaseId>,
    log: Vec<(u64, Vec<Event>)>,
    compactions: Vec<(u64, Revision)>,
}

/// An operation under way.
struct Pending {
    operation: Operation,
    lost: bool,
}

pub fn run(shape: &Shape, seed: u64) -> Run {
    let mut recorder = Recorder::default();
    let keys = (0..shape.keys).map(|at| recorder.key(format!("key{at:05}").as_bytes())).collect();
    let state = State::new(Settings::default());
    let mut world = World {
        shape: *shape,
        rng: StdRng::seed_from_u64(seed),
        recorder,
        keys,
        value_count: 0,
        lagging: vec![state.clone(); MEMBERS as usize],
        state,
        next_lease: 1,
        granted: Vec::new(),
        log: Vec::new(),
        compactions: Vec::new(),
    };
    let mut queue: BinaryHeap<Reverse<(u64, Moment, usize)>> = BinaryHeap::new();
    let mut pending: Vec<Option<Pending>> = Vec::new();
    let mut ids: Vec<u32> = Vec::new();
    for client in 0..shape.clients {
        queue.push(Reverse((world.rng.random_range(0..1_000_000), Moment::Call, client)));
        pending.push(None);
        ids.push(client as u32);
    }
    let mut next_id = shape.clients as u32;
    let mut called = 0;
    while let Some(Reverse((now_ns, moment, client))) = queue.pop() {
        match moment {
            Moment::Call => {
                if called == shape.operations {
                    continue;
                }
                called += 1;
                let request = world.request();
                let lost = request.writes() && world.rng.random_range(0..1000) < shape.unknown_per_mille;
                let operation = Operation {
                    client: Client(ids[client]),
                    member: Member(world.rng.random_range(0..MEMBERS)),
                    called_ns: now_ns,
                    returned_ns: NEVER_NS,
                    request,
                    outcome: Outcome::Unknown(Fate::Open),
                };
                pending[client] = Some(Pending { operation, lost });
                let delay = world.rng.random_range(1..if lost { 20_000_000 } else { 2_000_000 });
                if lost && world.rng.random_bool(0.5) {
                    queue.push(Reverse((now_ns + delay, Moment::Return, client)));
                } else {
                    queue.push(Reverse((now_ns + delay, Moment::Effect, client)));
                }
            }
            Moment::Effect => {
                world.expire(now_ns);
                let pending = pending[client].as_mut().expect("it was called");
                world.effect(&mut pending.operation, now_ns);
                let delay = world.rng.random_range(1..2_000_000);
                queue.push(Reverse((now_ns + delay, Moment::Return, client)));
            }
            Moment::Return => {
                let Pending { mut operation, lost } = pending[client].take().expect("it was called");
                if lost {
                    operation.outcome = Outcome::Unknown(Fate::Open);
                    ids[client] = next_id;
                    next_id += 1;
                } else {
                    operation.returned_ns = now_ns;
                    // As etcd, whose headers of compactions are made when those are done.
                    if let (Request::Compact { .. }, Outcome::Ok(answer)) =
                        (&operation.request, &mut operation.outcome)
                        && world.rng.random_bool(0.5)
                    {
                        answer.revision = world.state.revision();
                    }
                }
                world.recorder.operation(operation);
                // Leases last seconds: now and then a pause lets one end.
                let pause =
                    if world.shape.leases && world.rng.random_bool(0.03) { SECOND } else { 1_000_000 };
                let idle = world.rng.random_range(1..pause);
                queue.push(Reverse((now_ns + idle, Moment::Call, client)));
            }
        }
    }
    let (history, _) = world.recorder.finish();
    Run { history, log: world.log, compactions: world.compactions }
}

impl World {
    fn effect(&mut self, operation: &mut Operation, now_ns: u64) {
        let mut events = Vec::new();
        let result = if operation.is_serializable() {
            let member = &mut self.lagging[operation.member.0 as usize];
            if self.rng.random_bool(0.5) {
                *member = self.state.clone();
            }
            member.clone().apply(&operation.request, None, now_ns, &mut events)
        } else {
            let result = self.state.apply(&operation.request, None, now_ns, &mut events);
            if let (Request::Compact { revision }, Ok(_)) = (&operation.request, &result) {
                self.compactions.push((now_ns, *revision));
            }
            // What a member has answered, it knows.
            if self.shape.serializable && result.is_ok() {
                self.lagging[operation.member.0 as usize] = self.state.clone();
            }
            result
        };
        operation.outcome = match result {
            Ok((revision, response)) => Outcome::Ok(Answer { revision, member: operation.member, response }),
            Err(refusal) => Outcome::Refused(refusal),
        };
        if !events.is_empty() {
            self.log.push((now_ns, events));
        }
    }

    fn expire(&mut self, now_ns: u64) {
        for at in (0..self.granted.len()).rev() {
            let lease = self.granted[at];
            let due = self.state.expires_ns(lease).is_some_and(|due_ns| due_ns < now_ns);
            if due && self.rng.random_bool(0.5) {
                let mut events = Vec::new();
                assert!(self.state.expire(lease, now_ns, &mut events));
                if !events.is_empty() {
                    self.log.push((now_ns, events));
                }
            }
            if !self.state.has_lease(lease) {
                self.granted.swap_remove(at);
            }
        }
    }

    fn request(&mut self) -> Request {
        let kinds: &[(u32, fn(&mut World) -> Request)] = &[
            (35, |world| Request::Put(world.put())),
            (35, World::read),
            (8, |world| Request::Delete(world.delete())),
            (self.shape.ranges, |world| Request::Range(world.range())),
            (self.shape.txns, |world| Request::Txn(Box::new(world.txn(2)))),
            (if self.shape.compactions { 3 } else { 0 }, World::compaction),
            (if self.shape.leases { 15 } else { 0 }, World::lease_request),
        ];
        let mut draw = self.rng.random_range(0..kinds.iter().map(|(weight, _)| weight).sum::<u32>());
        for (weight, make) in kinds {
            if draw < *weight {
                return make(self);
            }
            draw -= weight;
        }
        unreachable!("the draw is below the sum")
    }

    fn key(&mut self) -> Key {
        *self.keys.choose(&mut self.rng).expect("there are keys")
    }

    fn value(&mut self) -> Value {
        self.value_count += 1;
        self.recorder.value(format!("value{:09}", self.value_count).as_bytes())
    }

    fn span(&mut self) -> Span {
        let start = self.key();
        let end = match self.rng.random_range(0..4) {
            0 => End::Single,
            1 => End::Open,
            _ => End::Before(self.key()),
        };
        Span { start, end }
    }

    fn lease(&mut self) -> LeaseId {
        if !self.shape.leases || self.rng.random_bool(0.4) {
            return 0;
        }
        // Now and then one that is not there.
        let gone = self.rng.random_range(1..=self.next_lease);
        if self.rng.random_bool(0.2) {
            gone
        } else {
            self.granted.choose(&mut self.rng).copied().unwrap_or(0)
        }
    }

    fn put(&mut self) -> Put {
        let mut put = Put { lease: self.lease(), ..Put::plain(self.key(), self.value()) };
        put.prev_kv = self.rng.random_bool(0.3);
        if self.rng.random_bool(0.05) {
            (put.ignore_value, put.value) = (true, Value::EMPTY);
        }
        if self.rng.random_bool(0.05) {
            (put.ignore_lease, put.lease) = (true, 0);
        }
        put
    }

    fn delete(&mut self) -> Delete {
        let span = if self.rng.random_bool(0.7) { Span::key(self.key()) } else { self.span() };
        Delete { span, prev_kv: self.rng.random_bool(0.5) }
    }

    fn revision(&mut self) -> Revision {
        if !self.shape.past_reads || self.rng.random_bool(0.7) {
            return 0;
        }
        (self.state.revision() + self.rng.random_range(-6..=1)).max(1)
    }

    fn read(&mut self) -> Request {
        let mut range = Range::newest(Span::key(self.key()));
        range.revision = self.revision();
        range.serializable = self.shape.serializable && self.rng.random_bool(0.3);
        Request::Range(range)
    }

    fn range(&mut self) -> Range {
        let mut range = Range::newest(self.span());
        range.revision = self.revision();
        range.limit = self.rng.random_range(-1..3);
        range.order =
            *[SortOrder::None, SortOrder::Ascend, SortOrder::Descend].choose(&mut self.rng).unwrap();
        let targets =
            [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
        range.target = *targets.choose(&mut self.rng).unwrap();
        range.serializable = self.shape.serializable && self.rng.random_bool(0.3);
        range.keys_only = self.rng.random_bool(0.2);
        range.count_only = self.rng.random_bool(0.1);
        if self.rng.random_bool(0.3) {
            let middle = (self.state.revision() / 2).max(1);
            let mut bound = || if self.rng.random_bool(0.3) { middle } else { 0 };
            let bounds =
                Bounds { min_mod: bound(), max_mod: bound(), min_create: bound(), max_create: bound() };
            range.bounds = (bounds != Bounds::default()).then(|| Box::new(bounds));
        }
        range
    }

    fn txn(&mut self, depth: u32) -> Txn {
        let compares = (0..self.rng.random_range(0..3)).map(|_| self.compare()).collect();
        let branch = |world: &mut World| {
            (0..world.rng.random_range(0..4))
                .map(|_| match world.rng.random_range(0..10) {
                    0..5 => Request::Put(world.put()),
                    5 => Request::Delete(world.delete()),
                    6 if depth > 0 => Request::Txn(Box::new(world.txn(depth - 1))),
                    // Serializable for all or for none of them.
                    _ => Request::Range(Range { serializable: false, ..world.range() }),
                })
                .collect()
        };
        let (success, failure) = (branch(self), branch(self));
        Txn { compares, success, failure }
    }

    fn compare(&mut self) -> Compare {
        let span = if self.rng.random_bool(0.7) { Span::key(self.key()) } else { self.span() };
        let revision = self.state.revision() - self.rng.random_range(0..10);
        let stored = self.state.get(span.start).map(|kv: &Kv| kv.value);
        let wanted = match self.rng.random_range(0..5) {
            0 => Wanted::Version(self.rng.random_range(0..4)),
            1 => Wanted::Create(if self.rng.random_bool(0.5) { 0 } else { revision }),
            2 => Wanted::Mod(revision),
            3 => Wanted::Lease(self.rng.random_range(0..=self.next_lease)),
            _ => Wanted::Value(stored.unwrap_or(Value::EMPTY)),
        };
        let relations = [Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less];
        Compare { span, wanted, relation: *relations.choose(&mut self.rng).unwrap() }
    }

    fn compaction(&mut self) -> Request {
        Request::Compact { revision: self.state.revision() - self.rng.random_range(-1..8) }
    }

    fn lease_request(&mut self) -> Request {
        let some = if self.granted.is_empty() { self.next_lease } else { self.lease().max(1) };
        match self.rng.random_range(0..8) {
            0..3 => {
                let lease = self.next_lease;
                self.next_lease += 1;
                self.granted.push(lease);
                Request::Grant { lease, ttl_seconds: self.rng.random_range(0..5) }
            }
            3 if self.shape.regrants => Request::Grant { lease: some, ttl_seconds: 3 },
            4 => Request::Revoke { lease: some },
            5 => Request::TimeToLive { lease: some, keys: true },
            _ => Request::KeepAlive { lease: some },
        }
    }
}
