//! The simulated world: one queue of events, in order of time, and what follows from each.
//!
//! Each concern has a stream of randomness of its own (network, disks, faults, every client), so that a change to one
//! leaves the others as they were.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Acquire},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Response;
use oracle::history::{LeaseId, Member as MemberName, Request};
use proto::raftpb::{Message, MessageType};
use rand::{Rng, SeedableRng, rngs::StdRng};
use store::{
    membership::Membership,
    node::{Node, fatal::End as MemberEnd, handler, raft_loop::Input},
    peer::REMOVAL_DELAY,
    raft::{Role, driver::Event as RaftEvent},
};
use tokio::sync::oneshot;

use super::{
    auth::Guard,
    client::{Client, Notes, key_bytes},
    member::{APPLY, BACKEND, Call, Effect, Member, PARTS, RAFT, WAL},
    operator::{self, Chore, Operator},
    plan::{Fault, Plan},
    roster::Roster,
    watcher::Watcher,
};

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;
/// Clients give a request up after so long.
const PATIENCE_NS: u64 = 3 * SECOND;
/// How often members look for requests whose time is over.
const SWEEP_NS: u64 = 100 * MS;
/// The longest way of a message while nothing is wrong.
const DELAY_NS: u64 = 2 * MS;
/// How often a leader tries to read a snapshot that its backend is not ready for.
const SNAPSHOT_TRIES: u32 = 100;

pub(super) enum Event {
    /// A part has something to do. Stale if the member lives another life, or the part was turned meanwhile.
    Turn {
        member: usize,
        life: u64,
        part: usize,
    },
    /// The watchers of a member have something to do.
    Watch {
        member: usize,
        life: u64,
    },
    Deliver {
        to: usize,
        message: Box<Message>,
        data: Option<Box<[u8]>>,
    },
    /// A member asks another for a small service.
    Call {
        from: usize,
        to: usize,
        call: Call,
    },
    /// The answer arrives.
    Answer {
        to: usize,
        response: Response<Bytes>,
        answer: oneshot::Sender<Response<Bytes>>,
    },
    /// A leader tries to read the snapshot that a follower needs.
    Snapshot {
        from: usize,
        life: u64,
        message: Box<Message>,
        tries: u32,
    },
    /// A client asks.
    Ask {
        client: usize,
    },
    /// A client has waited long enough.
    GiveUp {
        client: usize,
        serial: u64,
    },
    /// Root changes who may do what.
    Govern,
    /// A watcher does something.
    Look {
        watcher: usize,
    },
    /// The operator goes on.
    Operate,
    /// A member that has applied its own removal ends.
    Removed {
        member: usize,
        life: u64,
    },
    Sweep,
    Fault(Fault),
    Start {
        member: usize,
    },
    /// The process ends, and comes back at once.
    Crash {
        member: usize,
        power: bool,
    },
    /// A fault of the network is over.
    Heal {
        fault: u64,
    },
    /// A fault of a disk or clock is over.
    Repair {
        member: usize,
    },
}

/// The weather of the network.
#[derive(Default)]
pub(super) struct Network {
    /// Per fault: messages from the first to the second are lost.
    pub blocked: Vec<(u64, Vec<(usize, usize)>)>,
    /// The fault that loses, repeats and delays messages.
    pub lossy: Option<u64>,
}

/// A service that a member is about to do for another.
struct Served {
    by: usize,
    to: usize,
    response: Pin<Box<dyn Future<Output = Response<Bytes>>>>,
    answer: oneshot::Sender<Response<Bytes>>,
}

/// What a member was at a moment, as it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    pub at_ns: u64,
    pub member: usize,
    /// `None`: it does not run.
    pub role: Option<Role>,
    pub term: u64,
}

/// A fault that took place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struck {
    pub what: String,
    pub from_ns: u64,
    pub to_ns: u64,
    pub member: Option<usize>,
}

pub(super) struct World {
    pub now_ns: u64,
    /// By time, and among those of one time in order of making.
    queue: BTreeMap<(u64, u64), Event>,
    pushed: u64,
    pub step: u64,
    pub trace: DefaultHasher,
    pub members: Vec<Member>,
    /// How many there are in the beginning.
    pub founders: usize,
    /// Those that never come back: they were removed, or lost their disks.
    pub gone: Vec<bool>,
    /// Those that have told the others their names.
    pub named: Vec<bool>,
    /// Which member is where.
    pub addresses: HashMap<String, usize>,
    pub roster: Roster,
    /// There is one if members come and go.
    pub operator: Option<Operator>,
    pub chores: Vec<Chore>,
    /// When each part is to be turned next; what is queued for another time is stale.
    pub next_turn: Vec<[Option<u64>; PARTS]>,
    /// When the watchers of each member are to be looked at.
    next_watch: Vec<Option<u64>>,
    /// A member is frozen until then.
    pub frozen_until: Vec<u64>,
    /// Its disk answers nothing until then.
    pub stalled_until: Vec<u64>,
    /// When all has arrived that faults hold back beyond their end.
    pub late_until: u64,
    /// It applies nothing before then.
    pub applies_from: Vec<u64>,
    /// Its disk is bad until then: it may stop, and may not start.
    pub bad_until: Vec<u64>,
    /// The newest entry that each member has told others it has, of those that it knows to be committed.
    promised: Vec<u64>,
    /// The newest entry that it has told of.
    told: Vec<u64>,
    /// Members whose power goes in the middle of their next writes.
    pub cut: Vec<bool>,
    /// Members whose log rotted, and whether they refused to start with it.
    pub rotten: Vec<Option<bool>>,
    pub network: Network,
    served: Vec<Served>,
    /// What watchers of a member read from its history.
    loads: Vec<(usize, Pin<Box<dyn Future<Output = ()>>>)>,
    pub clients: Vec<Client>,
    pub watchers: Vec<Watcher>,
    pub notes: Notes,
    pub by_id: HashMap<u64, usize>,
    /// In a run with users.
    pub guard: Option<Guard>,
    network_random: StdRng,
    pub disk_random: StdRng,
    pub fault_random: StdRng,
    pub faults: u64,
    /// No more faults, and clients only read what is left.
    pub calm: bool,
    /// Digest of what an entry did, by whoever applied it first.
    digests: HashMap<u64, (usize, u64)>,
    /// What became of each request that was applied.
    pub effects: HashMap<u64, Effect>,
    /// Ends of leases, as they were first applied.
    pub ends: Vec<End>,
    /// Leader of each term.
    leaders: HashMap<u64, u64>,
    pub plot: Option<Plot>,
    /// The leader that is about to hand over.
    pub handing_over: Option<usize>,
    /// The member that is to take over a snapshot at a bad moment.
    pub behind: Option<usize>,
    pub stands: Vec<Stand>,
    pub struck: Vec<Struck>,
    /// How often each thing happened that must happen sometimes.
    pub probes: BTreeMap<&'static str, u64>,
}

/// The end of a lease, asked for or not.
pub(super) struct End {
    pub lease: LeaseId,
    pub request: u64,
    pub at_ns: u64,
}

/// Whether clients are refused there.
fn is_learner(node: &Node) -> bool {
    node.published.membership.load().get(node.id).is_some_and(|member| member.is_learner)
}

/// A voter whose disk is slow elects a successor, and then forgets it: the power goes. The old leader asks it next.
#[derive(Clone, Copy)]
pub(super) struct Plot {
    pub old: usize,
    pub voter: usize,
}

pub(super) type Outcome<T = ()> = Result<T, String>;

impl World {
    pub fn new(plan: &Plan) -> World {
        let stream = |name: u64| StdRng::seed_from_u64(plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ name);
        let mut notes = Notes::default();
        let mut guard = plan.auth.then(|| Guard::new(stream(5)));
        let client = |number: usize| {
            let badge = guard.as_mut().map(|guard| guard.badge(number));
            Client::new(stream(100 + number as u64), badge, &mut notes)
        };
        let clients = (0..plan.clients).map(client).collect();
        let watchers =
            (0..plan.watchers as u64).map(|number| Watcher::new(stream(200 + number), number == 0)).collect();
        let mut world = World {
            now_ns: 0,
            queue: BTreeMap::new(),
            pushed: 0,
            step: 0,
            trace: DefaultHasher::new(),
            next_turn: Vec::new(),
            next_watch: Vec::new(),
            frozen_until: Vec::new(),
            stalled_until: Vec::new(),
            late_until: 0,
            applies_from: Vec::new(),
            bad_until: Vec::new(),
            cut: Vec::new(),
            promised: Vec::new(),
            told: Vec::new(),
            rotten: Vec::new(),
            gone: Vec::new(),
            named: Vec::new(),
            founders: plan.members,
            addresses: HashMap::new(),
            roster: Roster::default(),
            operator: operator::of(plan),
            chores: Vec::new(),
            network: Network::default(),
            served: Vec::new(),
            loads: Vec::new(),
            members: Vec::new(),
            clients,
            watchers,
            notes,
            by_id: HashMap::new(),
            guard,
            network_random: stream(2),
            disk_random: stream(3),
            fault_random: stream(4),
            faults: 0,
            calm: false,
            digests: HashMap::new(),
            effects: HashMap::new(),
            ends: Vec::new(),
            leaders: HashMap::new(),
            plot: None,
            handing_over: None,
            behind: None,
            stands: Vec::new(),
            struck: Vec::new(),
            probes: BTreeMap::new(),
        };
        (0..plan.members).for_each(|number| world.add_member(Member::new(number, plan)));
        world
    }

    /// A member that is not started yet.
    pub fn add_member(&mut self, member: Member) {
        self.addresses.insert(member.url.clone(), member.number);
        if member.id != 0 {
            self.by_id.insert(member.id, member.number);
        }
        self.members.push(member);
        self.roster.add_member();
        self.next_turn.push([None; PARTS]);
        self.next_watch.push(None);
        self.rotten.push(None);
        for flags in [&mut self.gone, &mut self.named, &mut self.cut] {
            flags.push(false);
        }
        let [times, others] = [
            [&mut self.frozen_until, &mut self.stalled_until, &mut self.applies_from],
            [&mut self.bad_until, &mut self.promised, &mut self.told],
        ];
        times.into_iter().chain(others).for_each(|numbers| numbers.push(0));
    }

    /// Those that are not gone for ever.
    pub fn present(&self) -> impl Iterator<Item = usize> {
        (0..self.members.len()).filter(|member| !self.gone[*member])
    }

    /// One of those that are not gone for ever, by a number drawn below how many there are.
    fn pick(&self, draw: impl FnOnce(usize) -> usize) -> usize {
        let nth = draw(self.present().count());
        self.present().nth(nth).unwrap_or(0)
    }

    pub fn push(&mut self, at_ns: u64, event: Event) {
        self.pushed += 1;
        self.queue.insert((at_ns, self.pushed), event);
    }

    pub fn probe(&mut self, what: &'static str) {
        *self.probes.entry(what).or_default() += 1;
    }

    /// Starts the members and sets the clients going.
    pub fn begin(&mut self, plan: &Plan) -> Outcome {
        // Names sort as their numbers do, for ranges.
        for key in 0..=20 {
            self.notes.book.key(&key_bytes(key));
        }
        for member in 0..self.members.len() {
            self.start(member)?;
        }
        for client in 0..self.clients.len() {
            self.push(SECOND + client as u64 * MS, Event::Ask { client });
        }
        for watcher in 0..self.watchers.len() {
            self.push(SECOND + watcher as u64 * MS, Event::Look { watcher });
        }
        self.push(SWEEP_NS, Event::Sweep);
        if self.guard.is_some() {
            self.push(SECOND, Event::Govern);
        }
        if self.operator.is_some() {
            self.push(SECOND, Event::Operate);
        }
        for fault in &plan.faults {
            self.push(fault.at_ms * MS, Event::Fault(fault.clone()));
        }
        Ok(())
    }

    pub fn run_until(&mut self, end_ns: u64) -> Outcome {
        while let Some(next) = self.queue.first_entry()
            && next.key().0 <= end_ns
        {
            let ((at_ns, _), event) = next.remove_entry();
            self.now_ns = at_ns;
            self.step += 1;
            self.handle(event)?;
        }
        self.now_ns = end_ns;
        Ok(())
    }

    pub fn trace(&mut self, what: (u8, usize, usize)) {
        (self.now_ns, what).hash(&mut self.trace);
    }

    fn handle(&mut self, event: Event) -> Outcome {
        match event {
            Event::Turn { member, life, part } => {
                if self.members[member].lives != life || self.next_turn[member][part] != Some(self.now_ns) {
                    return Ok(());
                }
                self.next_turn[member][part] = None;
                if self.frozen_until[member] > self.now_ns {
                    let at = self.frozen_until[member];
                    self.next_turn[member][part] = Some(at);
                    self.push(at, Event::Turn { member, life, part });
                    return Ok(());
                }
                self.trace((1, member, part));
                return self.turn(member, part);
            }
            Event::Watch { member, life } => {
                if self.members[member].lives == life && self.next_watch[member] == Some(self.now_ns) {
                    self.next_watch[member] = None;
                    self.watch(member);
                }
            }
            Event::Deliver { to, message, data } => return self.deliver(to, *message, data),
            Event::Call { from, to, call } => self.serve(from, to, call),
            Event::Answer { to, response, answer } => {
                let _ = answer.send(response);
                self.poll_clients(to);
                self.schedule(to);
            }
            Event::Snapshot { from, life, message, tries } => self.send_snapshot(from, life, message, tries),
            Event::Ask { client } => self.ask(client),
            Event::GiveUp { client, serial } => {
                if self.clients[client].serial == serial && !self.clients[client].is_idle() {
                    self.clients[client].give_up(self.now_ns, &mut self.notes);
                    self.probe("client gave up");
                    self.push(self.now_ns + MS, Event::Ask { client });
                }
            }
            Event::Govern => self.govern(),
            Event::Look { watcher } => self.look(watcher),
            Event::Sweep => self.sweep(),
            Event::Operate => return self.operate(),
            Event::Removed { member, life } => {
                if let Some(alive) = &self.members[member].life
                    && self.members[member].lives == life
                {
                    alive.node.fatal.set_removed();
                    self.members_turn(member);
                }
            }
            Event::Fault(fault) => self.strike(&fault),
            Event::Crash { member, power } => {
                if !self.calm && self.members[member].life.is_some() {
                    self.end_process(member, power, self.now_ns + MS);
                }
            }
            Event::Start { member } => {
                if self.members[member].life.is_none() {
                    return self.start(member);
                }
            }
            Event::Heal { fault } => self.heal(|it| it == fault),
            Event::Repair { member } => {
                if self.bad_until[member] <= self.now_ns {
                    self.members[member].set_room(None);
                    self.members[member].forgive();
                }
            }
        }
        Ok(())
    }

    fn sweep(&mut self) {
        for member in 0..self.members.len() {
            if self.frozen_until[member] > self.now_ns {
                continue;
            }
            self.members[member].set_clock(self.now_ns);
            if let Some(life) = &self.members[member].life {
                life.node.sweep();
                self.poll_clients(member);
                self.schedule_watch(member, MS);
            }
        }
        if self.operator.is_some() {
            self.look_at_contacts();
            self.give_chores();
        }
        self.push(self.now_ns + SWEEP_NS, Event::Sweep);
    }

    /// Lets a member's raft part look at once, for what it finds wrong.
    pub fn members_turn(&mut self, member: usize) {
        self.next_turn[member][RAFT] = Some(self.now_ns + 1);
        let life = self.members[member].lives;
        self.push(self.now_ns + 1, Event::Turn { member, life, part: RAFT });
    }

    fn deliver(&mut self, to: usize, message: Message, data: Option<Box<[u8]>>) -> Outcome {
        if self.frozen_until[to] > self.now_ns {
            // It waits in the kernel: the member may do other things first when it wakes.
            let at = self.frozen_until[to] + self.network_random.random_range(0..20 * MS);
            self.push(at, Event::Deliver { to, message: Box::new(message), data });
            return Ok(());
        }
        self.trace((2, to, message.r#type as usize));
        if message.r#type == MessageType::MsgTimeoutNow as i32 {
            self.on_handover(message.from);
        }
        if let Some(life) = &self.members[to].life {
            // A connection of another member, or of one that was removed.
            if message.to != life.node.id || life.node.published.membership.load().is_removed(message.from) {
                return Ok(());
            }
            if let Some(from) = self.by_id.get(&message.from) {
                life.contacts.meet(message.from, &self.members[*from].url);
            }
        }
        self.members[to].set_clock(self.now_ns);
        if data.is_some() {
            self.probe("snapshot arrived");
            self.on_snapshot(to);
        }
        match self.members[to].receive(message, data.as_deref()) {
            Ok(()) => self.schedule(to),
            Err(_) if self.has_lost_power(to) => self.lose_power(to),
            // The transfer failed; the leader is told by nobody and tries again.
            Err(_) if self.bad_until[to] >= self.now_ns => self.probe("snapshot could not be saved"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub fn start(&mut self, member: usize) -> Outcome {
        if self.gone[member] {
            return Ok(());
        }
        let random = StdRng::seed_from_u64(self.disk_random.random());
        self.trace((3, member, 0));
        match self.members[member].start(self.now_ns, random) {
            Ok(()) => {}
            Err(_) if self.has_lost_power(member) => {
                self.probe("power lost in recovery");
                self.lose_power(member);
                return Ok(());
            }
            Err(_) if self.bad_until[member] >= self.now_ns => {
                self.probe("bad disk refused a start");
                self.crash(member, false);
                self.push(self.bad_until[member] + MS, Event::Start { member });
                return Ok(());
            }
            Err(_) if self.rotten[member].is_some() => {
                self.probe("rotten log refused");
                self.rotten[member] = Some(true);
                self.stand(member);
                return Ok(());
            }
            Err(_) if self.roster.is_removed(self.members[member].id) => return self.retire(member),
            Err(error) => return Err(error),
        }
        if let Some(life) = &self.members[member].life {
            self.roster.begins(member, life.node.published.membership.load_full());
        }
        if self.rotten[member] == Some(false) {
            self.probe("rotten log did no harm");
        }
        let last =
            self.members[member].life.as_ref().map_or(0, |life| life.node.status.last_index.load(Acquire));
        if last < self.promised[member] {
            return Err(format!(
                "durability: member {member} has told others of entry {}, which is committed, and starts with {last}",
                self.promised[member]
            ));
        }
        self.told[member] = 0;
        self.by_id.insert(self.members[member].id, member);
        self.next_turn[member] = [None; PARTS];
        self.next_watch[member] = None;
        self.stand(member);
        self.schedule(member);
        Ok(())
    }

    fn has_lost_power(&self, member: usize) -> bool {
        self.cut[member] && self.members[member].is_powered_off()
    }

    /// The process ends.
    pub fn crash(&mut self, member: usize, power: bool) {
        self.cut[member] = false;
        self.applies_from[member] = 0;
        self.trace((4, member, usize::from(power)));
        for watcher in &mut self.watchers {
            if watcher.member() == Some(member) {
                watcher.disconnect(None, &mut self.notes);
            }
        }
        self.drop_guarded(member);
        self.served.retain(|served| served.by != member);
        self.loads.retain(|(by, _)| *by != member);
        self.members[member].crash(power, &mut self.disk_random);
        self.next_turn[member] = [None; PARTS];
        for client in 0..self.clients.len() {
            if self.clients[client].waits_for(member) {
                self.clients[client].give_up(self.now_ns, &mut self.notes);
                self.push(self.now_ns + MS, Event::Ask { client });
            }
        }
        self.stand(member);
    }

    /// Queues the parts of a member that have something to do.
    pub fn schedule(&mut self, member: usize) {
        self.members[member].set_clock(self.now_ns);
        let life = self.members[member].lives;
        for part in 0..PARTS {
            let Some(due_in) = self.members[member].due_in_ns(part) else { continue };
            // Work that waits begins after the time that it takes.
            let takes = match part {
                WAL => self.disk_random.random_range(100_000..2 * MS),
                BACKEND.. => self.disk_random.random_range(50_000..5 * MS),
                _ => self.disk_random.random_range(1_000..50_000),
            };
            let mut at = self.now_ns + if due_in == 0 { takes } else { due_in };
            if part == WAL || part >= BACKEND {
                at = at.max(self.stalled_until[member]);
            }
            if part == APPLY {
                at = at.max(self.applies_from[member]);
            }
            if self.next_turn[member][part].is_none_or(|queued| queued > at) {
                // A write under way is not begun again by what comes meanwhile.
                self.next_turn[member][part] = Some(at);
                self.push(at, Event::Turn { member, life, part });
            }
        }
    }

    fn turn(&mut self, member: usize, part: usize) -> Outcome {
        self.members[member].set_clock(self.now_ns);
        let Some(life) = &mut self.members[member].life else { return Ok(()) };
        let published = (part == RAFT).then(|| life.node.published.membership.load_full());
        if !life.parts[part].turn() {
            if life.node.fatal.reason() == Some(&MemberEnd::Removed) {
                return self.retire(member);
            }
            let reason = life.node.fatal.reason().map_or("for no reason".into(), ToString::to_string);
            if self.has_lost_power(member) {
                self.probe("power lost in a write");
                self.lose_power(member);
            } else if self.bad_until[member] >= self.now_ns {
                self.probe("bad disk stopped a member");
                self.crash(member, false);
                self.push(self.bad_until[member] + MS, Event::Start { member });
            } else {
                return Err(format!("stop: member {member} stopped: {reason}"));
            }
            return Ok(());
        }
        let (messages, calls) = (life.outbox.take(), life.calls.take());
        for message in messages {
            self.send(member, message);
        }
        self.send_calls(member, calls);
        if part == APPLY {
            self.look_at_state(member)?;
        }
        if let Some(published) = published {
            self.look_at_leader(member)?;
            self.look_at_quorum(member, published)?;
        }
        if part == RAFT || part == APPLY {
            self.poll_served(member);
            self.poll_clients(member);
        }
        if part == APPLY || part == BACKEND {
            let delay = self.network_random.random_range(1_000..MS);
            self.schedule_watch(member, delay);
        }
        self.schedule(member);
        Ok(())
    }

    /// An entry does the same wherever it is applied, and the same again after a restart.
    fn look_at_state(&mut self, member: usize) -> Outcome {
        let Some(life) = &self.members[member].life else { return Ok(()) };
        let (name, removed) = (self.members[member].name(), life.contacts.take_removed());
        let ledger = life.ledger.take();
        if removed {
            let life = self.members[member].lives;
            self.push(self.now_ns + REMOVAL_DELAY.as_nanos() as u64, Event::Removed { member, life });
        }
        for applied in ledger {
            let (first, known) = *self.digests.entry(applied.index).or_insert((member, applied.digest));
            if known != applied.digest {
                return Err(format!(
                    "digest: the entry at raft index {} does something else at member {member} than it did at {first}",
                    applied.index
                ));
            }
            if let Some(guard) = &mut self.guard {
                guard.applied(&applied);
            }
            if let Some(configuration) = applied.configuration
                && let Some(what) = self.roster.applied(name, applied.index, configuration)?
            {
                self.probe(what);
            }
            if applied.request != 0 && !self.effects.contains_key(&applied.request) {
                self.effects.insert(applied.request, applied.effect);
                if let Some(lease) = applied.ended {
                    self.ends.push(End { lease, request: applied.request, at_ns: self.now_ns });
                }
            }
        }
        Ok(())
    }

    /// What a leader does has a quorum behind it.
    fn look_at_quorum(&mut self, member: usize, published: Arc<Membership>) -> Outcome {
        let Some(life) = &self.members[member].life else { return Ok(()) };
        self.roster.turned(member, life.node.id, &life.node.status, published)
    }

    /// A term has one leader.
    fn look_at_leader(&mut self, member: usize) -> Outcome {
        self.stand(member);
        let Some(life) = &self.members[member].life else { return Ok(()) };
        let committed = life.node.status.committed.load(Acquire);
        self.promised[member] = self.promised[member].max(committed.min(self.told[member]));
        let state = life.node.status.soft_state();
        if state.role != Role::Leader {
            return Ok(());
        }
        let id = self.members[member].id;
        let leader = *self.leaders.entry(state.term).or_insert(id);
        if leader == id {
            if let Some(plot) = self.plot.take_if(|plot| ![plot.old, plot.voter].contains(&member)) {
                self.forget_vote(plot, member);
            }
            return Ok(());
        }
        Err(format!("election safety: term {} has two leaders, {leader:x} and {id:x}", state.term))
    }

    /// Writes down what a member is, if it changed.
    fn stand(&mut self, member: usize) {
        let state = self.members[member].life.as_ref().map(|life| life.node.status.soft_state());
        let (role, term) = (state.map(|state| state.role), state.map_or(0, |state| state.term));
        let before = self.stands.iter().rev().find(|stand| stand.member == member);
        if before.is_none_or(|before| (before.role, before.term) != (role, term)) {
            if role == Some(Role::Leader) {
                self.probe("leader elected");
            }
            self.stands.push(Stand { at_ns: self.now_ns, member, role, term });
        }
    }

    /// The member that leads, as far as it knows.
    pub fn leader(&self) -> Option<usize> {
        let leads = |member: &Member| member.life.as_ref().is_some_and(|life| life.node.status.is_leader());
        self.members.iter().position(leads)
    }

    pub fn poll_clients(&mut self, member: usize) {
        if self.frozen_until[member] > self.now_ns {
            return;
        }
        for client in 0..self.clients.len() {
            if !self.clients[client].waits_for(member) {
                continue;
            }
            let (by_id, members) = (&self.by_id, &self.members);
            let name =
                |id| by_id.get(&id).map_or(MemberName(u32::MAX), |number: &usize| members[*number].name());
            if self.clients[client].poll(self.now_ns, &mut self.notes, name) {
                let pause = self.clients[client].random().random_range(5 * MS..80 * MS);
                self.push(self.now_ns + pause, Event::Ask { client });
            }
        }
        self.poll_guard(member);
        if !self.chores.is_empty() {
            self.do_chores(member);
        }
        if let Some(life) = &self.members[member].life {
            let calls = life.calls.take();
            self.send_calls(member, calls);
        }
    }

    fn ask(&mut self, client: usize) {
        if self.calm || !self.clients[client].is_idle() {
            return;
        }
        let present = self.present().count();
        let drawn = self.clients[client].random().random_range(0..present);
        let member = self.pick(|_| drawn);
        if self.members[member].life.as_ref().is_none_or(|life| is_learner(&life.node)) {
            // Nobody listens there, or a learner, which refuses.
            self.push(self.now_ns + 5 * MS, Event::Ask { client });
            return;
        }
        if self.logs_in_first(client, member) {
            return;
        }
        let request = self.clients[client].choose(&mut self.notes);
        let serial = self.ask_this(client, member, request);
        self.trace((5, client, member));
        self.push(self.now_ns + PATIENCE_NS, Event::GiveUp { client, serial });
    }

    /// A client asks a member that runs; the number of its call.
    pub fn ask_this(&mut self, client: usize, member: usize, request: Request) -> u64 {
        self.members[member].set_clock(self.now_ns);
        let applied = |it: &Member| it.life.as_ref().map_or(0, |life| life.node.status.applied.load(Acquire));
        let newest = self.members.iter().map(applied).max().unwrap_or(0);
        if let Some(life) = &self.members[member].life {
            let place = (member, self.members[member].name());
            self.clients[client].ask(place, &life.node, self.now_ns, &self.notes.book, newest, request);
        }
        self.poll_clients(member);
        self.schedule(member);
        self.clients[client].serial
    }

    // ---- watchers

    pub fn schedule_watch(&mut self, member: usize, delay_ns: u64) {
        if !self.watchers.iter().any(|watcher| watcher.member() == Some(member)) {
            return;
        }
        let at = (self.now_ns + delay_ns).max(self.frozen_until[member]);
        if self.next_watch[member].is_none_or(|queued| queued > at) {
            self.next_watch[member] = Some(at);
            self.push(at, Event::Watch { member, life: self.members[member].lives });
        }
    }

    fn watch(&mut self, member: usize) {
        self.members[member].set_clock(self.now_ns);
        let Some(life) = &self.members[member].life else { return };
        let shard = life.shard.clone();
        // What was asked for earlier may be here before the shard has looked at its news.
        let waiting = self.loads.len();
        self.loads.retain_mut(|(by, load)| {
            *by != member || load.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
        });
        let loaded = self.loads.len() < waiting;
        let (more, loads) = match loaded {
            true => (true, Vec::new()),
            false => shard.work(),
        };
        for request in loads {
            let shard = shard.clone();
            self.probe("watcher read history");
            self.loads.push((member, Box::pin(async move { shard.load(request).await })));
        }
        let more = more || !self.loads.is_empty();
        let mut read = false;
        for watcher in &mut self.watchers {
            if watcher.member() == Some(member) {
                read |= watcher.read(&shard, self.now_ns, &mut self.notes);
            }
        }
        if more || read {
            let delay = self.network_random.random_range(MS / 20..MS);
            self.schedule_watch(member, delay);
        }
        self.schedule(member);
    }

    fn look(&mut self, watcher: usize) {
        let pause = self.watchers[watcher].random().random_range(20 * MS..400 * MS);
        self.push(self.now_ns + pause, Event::Look { watcher });
        // In the end they only listen.
        if self.calm && watcher != 0 {
            return;
        }
        if let Some(member) = self.watchers[watcher].member() {
            let Some(life) = &self.members[member].life else { return };
            let shard = life.shard.clone();
            let seen = life.node.reader.view().revision;
            let stays = self.watchers[watcher].act(&shard, self.now_ns, seen, &mut self.notes);
            if !stays || self.watchers[watcher].is_cut_off() {
                self.watchers[watcher].disconnect(Some(&shard), &mut self.notes);
            }
            self.schedule_watch(member, MS / 10);
            return;
        }
        let present = self.present().count();
        let drawn = self.watchers[watcher].random().random_range(0..present);
        let member = self.pick(|_| drawn);
        if let Some(life) = &self.members[member].life {
            let shard = life.shard.clone();
            let place = (member, self.members[member].name());
            self.watchers[watcher].connect(place, &shard, self.now_ns, &mut self.notes);
            self.schedule_watch(member, MS / 10);
        }
    }

    // ---- the network

    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.network.blocked.iter().any(|(_, pairs)| pairs.contains(&(from, to)))
    }

    /// When what is sent now arrives; `None` if it is lost.
    fn arrival(&mut self, from: usize, to: usize) -> Option<u64> {
        if self.is_blocked(from, to) {
            return None;
        }
        let lossy = self.network.lossy.is_some();
        if lossy && self.network_random.random_bool(0.2) {
            return None;
        }
        let longest = match lossy {
            // Some come when nobody expects them any more.
            true if self.network_random.random_bool(0.05) => 2 * SECOND,
            true => 30 * DELAY_NS,
            false => DELAY_NS,
        };
        Some(self.now_ns + self.network_random.random_range(50_000..longest))
    }

    fn send(&mut self, from: usize, message: Message) {
        self.roster.sends(&message, self.by_id.get(&message.to).copied());
        if message.r#type == MessageType::MsgAppResp as i32 && !message.reject {
            self.told[from] = self.told[from].max(message.index);
        }
        if message.r#type == MessageType::MsgSnap as i32 {
            let life = self.members[from].lives;
            let event = Event::Snapshot { from, life, message: Box::new(message), tries: 0 };
            self.push(self.now_ns + MS, event);
            return;
        }
        self.transmit(from, message, None);
    }

    fn transmit(&mut self, from: usize, message: Message, data: Option<Box<[u8]>>) {
        let Some(life) = &self.members[from].life else { return };
        let at = |url: Option<String>| url.and_then(|url| self.addresses.get(&url).copied());
        // Or by the stream that the other has opened, who may know better where this one is.
        let theirs = || {
            let to = self.by_id.get(&message.to).copied()?;
            let other = self.members[to].life.as_ref()?;
            (at(other.contacts.url(message.from)) == Some(from)).then_some(to)
        };
        let Some(to) = at(life.contacts.url(message.to)).or_else(theirs) else { return };
        // Raft's own messages may come twice. A proposal may not: it would be carried out twice, and the connections
        // between members never repeat one.
        let repeatable = message.r#type != MessageType::MsgProp as i32;
        if repeatable
            && self.network.lossy.is_some()
            && self.network_random.random_bool(0.2)
            && let Some(at) = self.arrival(from, to)
        {
            self.push(at, Event::Deliver { to, message: Box::new(message.clone()), data: data.clone() });
        }
        if let Some(at) = self.arrival(from, to) {
            self.push(at, Event::Deliver { to, message: Box::new(message), data });
        }
    }

    fn send_snapshot(&mut self, from: usize, life: u64, mut message: Box<Message>, tries: u32) {
        if self.members[from].lives != life {
            return;
        }
        let Some(alive) = &self.members[from].life else { return };
        let peer = message.to;
        let data = alive.snapshot(&mut message);
        let status = |ok| Input::Event(RaftEvent::SnapshotStatus { peer, ok });
        match data {
            Some(data) => {
                let _ = alive.raft.send(status(true));
                self.probe("snapshot sent");
                self.transmit(from, *message, Some(data.into()));
            }
            None if tries < SNAPSHOT_TRIES => {
                let event = Event::Snapshot { from, life, message, tries: tries + 1 };
                self.push(self.now_ns + 2 * MS, event);
            }
            None => drop(alive.raft.send(status(false))),
        }
        self.schedule(from);
    }

    fn send_calls(&mut self, from: usize, calls: Vec<Call>) {
        for call in calls {
            // A lost request is no answer: the sender is dropped with it.
            if let Some(to) = self.addresses.get(&call.url).copied()
                && let Some(at) = self.arrival(from, to)
            {
                if call.request.uri().path().starts_with("/leases") {
                    self.probe("lease forwarded to the leader");
                }
                self.push(at, Event::Call { from, to, call });
            }
        }
    }

    fn serve(&mut self, from: usize, by: usize, call: Call) {
        if self.frozen_until[by] > self.now_ns {
            self.push(self.frozen_until[by], Event::Call { from, to: by, call });
            return;
        }
        let Some(life) = &self.members[by].life else { return };
        let node = life.node.clone();
        let (parts, body) = call.request.into_parts();
        let response = Box::pin(async move {
            handler::serve(&node, &parts.method, parts.uri.path(), &parts.headers, body).await
        });
        self.served.push(Served { by, to: from, response, answer: call.answer });
        self.members[by].set_clock(self.now_ns);
        self.poll_served(by);
        self.schedule(by);
    }

    fn poll_served(&mut self, member: usize) {
        let mut done = Vec::new();
        self.served.retain_mut(|served| {
            if served.by != member {
                return true;
            }
            match served.response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => !served.answer.is_closed(),
                Poll::Ready(response) => {
                    let answer = std::mem::replace(&mut served.answer, oneshot::channel().0);
                    done.push((served.to, response, answer));
                    false
                }
            }
        });
        for (to, response, answer) in done {
            if let Some(at) = self.arrival(member, to) {
                self.push(at, Event::Answer { to, response, answer });
            }
        }
    }

    /// All members that are not lost follow one leader, and have applied the same; those that were removed have
    /// stopped.
    pub fn agrees(&self) -> bool {
        let is_removed = |member: usize| self.roster.is_removed(self.members[member].id);
        let is_there = |id: &u64| self.by_id.get(id).is_some_and(|member| !self.gone[*member]);
        if self.present().any(is_removed) || !self.roster.members().all(is_there) {
            return false;
        }
        let mut states = self.serving().map(|member| {
            let node = &self.members[member].life.as_ref()?.node;
            let state = node.status.soft_state();
            let applied = node.status.applied.load(Acquire);
            (state.leader != 0).then_some((state.leader, state.term, applied))
        });
        let Some(Some(first)) = states.next() else { return false };
        states.all(|state| state == Some(first))
    }

    /// Members whose log is not lost to rot.
    pub fn serving(&self) -> impl Iterator<Item = usize> {
        self.present().filter(|member| self.rotten[*member] != Some(true))
    }

    pub fn describe(&self) -> String {
        let one = |member: &Member| match &member.life {
            None if self.gone[member.number] => format!("{} is gone", member.number),
            None => format!("{} is down", member.number),
            Some(life) => {
                let state = life.node.status.soft_state();
                let applied = life.node.status.applied.load(Acquire);
                format!(
                    "{}: {:x} is {:?} of {:x} in term {}, applied {applied}",
                    member.number, member.id, state.role, state.leader, state.term
                )
            }
        };
        let members = self.members.iter().map(one).collect::<Vec<_>>().join("; ");
        format!("{members}; voters {:x?}", self.roster.voters())
    }
}
