//! The simulated world: one queue of events, in order of time; what happens is drawn from the seed.
//!
//! Each concern has a stream of randomness of its own (network, disks, faults, every client), so that a change to one
//! leaves the others as they were.

use std::{
    any::Any,
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    panic::AssertUnwindSafe,
    task::{Context, Poll, Waker},
};

use proto::raftpb::{Message, MessageType};
use rand::{Rng, SeedableRng, rngs::StdRng};
use store::raft::Role;

use super::{
    client::{Client, Numbers},
    member::{APPLY, BACKEND, Member, PARTS, RAFT, WAL},
    wire::{Book, key_bytes},
};
use crate::{
    check::{Rules, Verdict, headers, linear},
    history::{
        Fate, History, Member as MemberName, OpId, Outcome as ToldOutcome, Request,
        request::{End, Range, Span},
    },
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// Clients give a request up after so long.
const PATIENCE_NS: u64 = 3 * SECOND;
/// The cluster must agree and serve this long after the last fault.
const RECOVERY_NS: u64 = 60 * SECOND;
/// How often members look for requests whose time is over.
const SWEEP_NS: u64 = 100 * MS;

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub failure: Option<Failure>,
    pub members: usize,
    pub operations: usize,
    pub faults: u64,
    pub virtual_ns: u64,
    pub events: u64,
    /// The same for the same seed.
    pub trace_hash: u64,
    pub history: History,
}

#[derive(Debug)]
pub struct Failure {
    pub what: String,
    pub at_ns: u64,
    pub step: u64,
}

#[derive(Debug)]
enum Event {
    /// A part has something to do. Stale if the member lives another life, or the part was turned meanwhile.
    Turn {
        member: usize,
        life: u64,
        part: usize,
    },
    Deliver {
        to: usize,
        message: Box<Message>,
        data: Option<Box<[u8]>>,
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
    Sweep,
    Fault,
    Start {
        member: usize,
    },
    Heal,
}

struct Queued {
    at_ns: u64,
    /// Breaks ties: in order of making.
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        (self.at_ns, self.number) == (other.at_ns, other.number)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Queued) -> std::cmp::Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}

/// The weather of the network.
#[derive(Clone, Default)]
struct Network {
    /// Messages from the first to the second are lost.
    blocked: Vec<(usize, usize)>,
    loss: f64,
    duplicates: f64,
    /// Longest delay.
    delay_ns: u64,
}

struct World {
    now_ns: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    pushed: u64,
    step: u64,
    trace: DefaultHasher,
    members: Vec<Member>,
    /// When each part is to be turned next; what is queued for another time is stale.
    next_turn: Vec<[Option<u64>; PARTS]>,
    /// A member is frozen until then.
    frozen_until: Vec<u64>,
    /// Its disk answers nothing until then.
    stalled_until: Vec<u64>,
    network: Network,
    clients: Vec<Client>,
    numbers: Numbers,
    book: Book,
    by_id: HashMap<u64, usize>,
    network_random: StdRng,
    disk_random: StdRng,
    fault_random: StdRng,
    faults: u64,
    /// No more faults, and clients only read what is left.
    calm: bool,
    /// Digest of what an entry did, by whoever applied it first.
    digests: HashMap<u64, (usize, u64)>,
    /// The revision that a request made; `None` if it changed nothing.
    made: HashMap<u64, Option<i64>>,
    /// Leader of each term.
    leaders: HashMap<u64, u64>,
    plot: Option<Plot>,
    /// Members whose power goes in the middle of their next writes.
    cut: Vec<bool>,
}

/// A voter whose disk is slow elects a successor, and then forgets it: the power goes. The old leader asks it next.
#[derive(Clone, Copy)]
struct Plot {
    old: usize,
    voter: usize,
}

type Outcome<T = ()> = Result<T, String>;

/// Runs one seed: `chaos_ns` of faults, then the recovery.
pub fn run(seed: u64, chaos_ns: u64) -> Report {
    let mut world = World::new(seed);
    // A panic of a member is a failure of its run.
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| world.live(chaos_ns)))
        .unwrap_or_else(|panic| Err(format!("a member panicked: {}", text_of(&*panic))));
    let (at_ns, step, members, faults) = (world.now_ns, world.step, world.members.len(), world.faults);
    let trace_hash = world.trace.finish();
    let book = std::mem::take(&mut world.book);
    let made = std::mem::take(&mut world.made);
    drop(world);
    let (mut history, places) = book.recorder.finish();
    if outcome.is_ok() {
        tell_fates(&mut history, &places, &book.proposals, &made);
    }
    let failure = outcome.and_then(|()| judge(&history)).err();
    Report {
        seed,
        failure: failure.map(|what| Failure { what, at_ns, step }),
        members,
        operations: history.operations.len(),
        faults,
        virtual_ns: at_ns,
        events: step,
        trace_hash,
        history,
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}

/// Tells what became of writes whose clients never learned it: all that was proposed is applied by now, or lost.
fn tell_fates(
    history: &mut History,
    places: &[OpId],
    proposals: &[Option<u64>],
    made: &HashMap<u64, Option<i64>>,
) {
    for (place, proposal) in places.iter().zip(proposals) {
        let operation = &mut history.operations[place.0 as usize];
        // A compaction has an effect, and makes no revision.
        if !matches!(operation.request, Request::Put(_) | Request::Delete(_) | Request::Txn(_)) {
            continue;
        }
        if let ToldOutcome::Unknown(fate) = &mut operation.outcome {
            let revision = proposal.and_then(|proposal| made.get(&proposal).copied()).flatten();
            *fate = revision.map_or(Fate::Never, Fate::At);
        }
    }
}

fn judge(history: &History) -> Outcome {
    let rules = Rules::default();
    let as_outcome = |name: &str, verdict: Verdict| match verdict {
        Verdict::Ok => Ok(()),
        Verdict::Violation(violation) => {
            let shown: Vec<String> =
                violation.ops.iter().take(4).map(|op| format!("\n  {op:?}: {:?}", history.op(*op))).collect();
            Err(format!("{name}: {}{}", violation.what, shown.concat()))
        }
        Verdict::Unknown { why } => Err(format!("{name}: not decided: {why}")),
    };
    as_outcome("headers", headers::check(history))?;
    as_outcome("linearizability", linear::check(history, &rules).verdict)
}

impl World {
    fn new(seed: u64) -> World {
        let stream = |name: u64| StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ name);
        let mut random = stream(1);
        let size = [1, 3, 3, 3, 5][random.random_range(0..5)];
        let members: Vec<Member> = (0..size).map(|number| Member::new(number, size, &mut random)).collect();
        let mut numbers = Numbers::default();
        let clients = (0..random.random_range(3..8))
            .map(|number| Client::new(stream(100 + number), &mut numbers))
            .collect();
        World {
            now_ns: 0,
            queue: BinaryHeap::new(),
            pushed: 0,
            step: 0,
            trace: DefaultHasher::new(),
            next_turn: vec![[None; PARTS]; size],
            frozen_until: vec![0; size],
            stalled_until: vec![0; size],
            network: Network { delay_ns: 2 * MS, ..Network::default() },
            members,
            clients,
            numbers,
            book: Book::default(),
            by_id: HashMap::new(),
            network_random: stream(2),
            disk_random: stream(3),
            fault_random: stream(4),
            faults: 0,
            calm: false,
            digests: HashMap::new(),
            made: HashMap::new(),
            leaders: HashMap::new(),
            plot: None,
            cut: vec![false; size],
        }
    }

    fn push(&mut self, at_ns: u64, event: Event) {
        self.pushed += 1;
        self.queue.push(Reverse(Queued { at_ns, number: self.pushed, event }));
    }

    fn live(&mut self, chaos_ns: u64) -> Outcome {
        // Names sort as their numbers do, for ranges.
        for key in 0..=20 {
            self.book.key(&key_bytes(key));
        }
        for member in 0..self.members.len() {
            self.start(member)?;
        }
        for client in 0..self.clients.len() {
            self.push(SECOND + client as u64 * MS, Event::Ask { client });
        }
        self.push(SWEEP_NS, Event::Sweep);
        self.push(3 * SECOND, Event::Fault);
        self.run_until(chaos_ns)?;

        self.calm = true;
        self.heal();
        for member in 0..self.members.len() {
            // What was arranged for later happens now.
            if std::mem::take(&mut self.cut[member]) {
                self.crash(member, true);
            }
            self.frozen_until[member] = 0;
            self.stalled_until[member] = 0;
            if self.members[member].life.is_none() {
                self.start(member)?;
            }
        }
        let limit = self.now_ns + RECOVERY_NS;
        let mut serves_since = None;
        while self.now_ns < limit {
            self.run_until(self.now_ns + 100 * MS)?;
            match (self.agrees(), serves_since) {
                (false, _) => serves_since = None,
                (true, None) => serves_since = Some(self.now_ns),
                (true, Some(since)) if self.now_ns - since > SECOND => return self.last_look(),
                _ => {}
            }
        }
        Err(format!("no agreement {} s after the last fault: {}", RECOVERY_NS / SECOND, self.describe()))
    }

    fn run_until(&mut self, end_ns: u64) -> Outcome {
        while let Some(Reverse(next)) = self.queue.peek()
            && next.at_ns <= end_ns
        {
            let Some(Reverse(Queued { at_ns, event, .. })) = self.queue.pop() else { break };
            self.now_ns = at_ns;
            self.step += 1;
            self.handle(event)?;
        }
        self.now_ns = end_ns;
        Ok(())
    }

    fn trace(&mut self, what: (u8, usize, usize)) {
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
                self.turn(member, part)
            }
            Event::Deliver { to, message, data } => {
                self.trace((2, to, message.r#type as usize));
                self.members[to].set_clock(self.now_ns);
                match self.members[to].receive(*message, data.as_deref()) {
                    Ok(()) => self.schedule(to),
                    Err(_) if self.cut[to] => self.lose_power(to),
                    Err(error) => return Err(error),
                }
                Ok(())
            }
            Event::Snapshot { from, life, message, tries } => {
                self.send_snapshot(from, life, message, tries);
                Ok(())
            }
            Event::Ask { client } => {
                self.ask(client);
                Ok(())
            }
            Event::GiveUp { client, serial } => {
                if self.clients[client].serial == serial && !self.clients[client].is_idle() {
                    self.clients[client].give_up(self.now_ns, &mut self.book, &mut self.numbers);
                    self.push(self.now_ns + MS, Event::Ask { client });
                }
                Ok(())
            }
            Event::Sweep => {
                for member in &self.members {
                    member.set_clock(self.now_ns);
                    if let Some(life) = &member.life {
                        life.node.sweep();
                    }
                }
                self.push(self.now_ns + SWEEP_NS, Event::Sweep);
                Ok(())
            }
            Event::Fault => {
                self.fault();
                Ok(())
            }
            Event::Start { member } => {
                if self.members[member].life.is_some() {
                    return Ok(());
                }
                self.start(member)
            }
            Event::Heal => {
                self.heal();
                Ok(())
            }
        }
    }

    fn start(&mut self, member: usize) -> Outcome {
        let random = StdRng::seed_from_u64(self.disk_random.random());
        self.trace((3, member, 0));
        // Recovery itself is cut too, now and then.
        if !self.calm && self.members[member].lives > 0 && self.disk_random.random_bool(0.1) {
            self.cut[member] = true;
            self.members[member].cut_power_after(self.disk_random.random_range(0..8));
        }
        match self.members[member].start(self.now_ns, random) {
            Ok(()) => {}
            Err(_) if self.cut[member] => {
                self.lose_power(member);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.by_id.insert(self.members[member].id, member);
        self.next_turn[member] = [None; PARTS];
        self.schedule(member);
        Ok(())
    }

    /// The power went in the middle of a write, as was arranged.
    fn lose_power(&mut self, member: usize) {
        self.crash(member, true);
        let back = self.now_ns + self.fault_random.random_range(MS..3 * SECOND);
        self.push(back, Event::Start { member });
    }

    fn crash(&mut self, member: usize, power: bool) {
        self.cut[member] = false;
        self.trace((4, member, usize::from(power)));
        self.members[member].crash(power, &mut self.disk_random);
        self.next_turn[member] = [None; PARTS];
        for client in 0..self.clients.len() {
            if self.clients[client].waits_for(member) {
                self.clients[client].give_up(self.now_ns, &mut self.book, &mut self.numbers);
                self.push(self.now_ns + MS, Event::Ask { client });
            }
        }
    }

    /// Queues the parts of a member that have something to do.
    fn schedule(&mut self, member: usize) {
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
        if !life.parts[part].turn() {
            if self.cut[member] {
                self.lose_power(member);
                return Ok(());
            }
            let reason = life.node.fatal.reason().unwrap_or("for no reason").to_owned();
            return Err(format!("member {member} stopped: {reason}"));
        }
        let messages = life.outbox.take();
        for message in messages {
            self.send(member, message);
        }
        if part == APPLY {
            self.look_at_state(member)?;
        }
        if part == RAFT {
            self.look_at_leader(member)?;
        }
        if part == RAFT || part == APPLY {
            self.poll_clients(member);
        }
        self.schedule(member);
        Ok(())
    }

    /// An entry does the same wherever it is applied, and the same again after a restart.
    fn look_at_state(&mut self, member: usize) -> Outcome {
        let Some(life) = &self.members[member].life else { return Ok(()) };
        for applied in life.ledger.take() {
            let (first, known) = *self.digests.entry(applied.index).or_insert((member, applied.digest));
            if known != applied.digest {
                return Err(format!(
                    "the entry at raft index {} does something else at member {member} than it did at {first}",
                    applied.index
                ));
            }
            if applied.request != 0 {
                self.made.insert(applied.request, applied.made);
            }
        }
        Ok(())
    }

    /// A term has one leader.
    fn look_at_leader(&mut self, member: usize) -> Outcome {
        let Some(life) = &self.members[member].life else { return Ok(()) };
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
        Err(format!("term {} has two leaders, {leader:x} and {id:x}", state.term))
    }

    fn forget_vote(&mut self, plot: Plot, leader: usize) {
        if self.members[plot.voter].life.is_none() {
            return;
        }
        self.crash(plot.voter, true);
        self.stalled_until[plot.voter] = 0;
        self.push(self.now_ns + MS, Event::Start { member: plot.voter });
        self.isolate(leader);
        self.push(self.now_ns + 5 * SECOND, Event::Heal);
    }

    fn isolate(&mut self, alone: usize) {
        self.network.blocked = (0..self.members.len())
            .filter(|other| *other != alone)
            .flat_map(|other| [(alone, other), (other, alone)])
            .collect();
    }

    /// The member that leads, as far as it knows.
    fn leader(&self) -> Option<usize> {
        let leads = |member: &Member| member.life.as_ref().is_some_and(|life| life.node.status.is_leader());
        self.members.iter().position(leads)
    }

    fn poll_clients(&mut self, member: usize) {
        let (by_id, members) = (&self.by_id, &self.members);
        let name = |id: u64| by_id.get(&id).map_or(MemberName(u32::MAX), |number| members[*number].name());
        for client in 0..self.clients.len() {
            if !self.clients[client].waits_for(member) {
                continue;
            }
            if self.clients[client].poll(self.now_ns, &mut self.book, &mut self.numbers, name) {
                let pause = self.clients[client].random().random_range(MS..20 * MS);
                self.pushed += 1;
                let next =
                    Queued { at_ns: self.now_ns + pause, number: self.pushed, event: Event::Ask { client } };
                self.queue.push(Reverse(next));
            }
        }
    }

    fn ask(&mut self, client: usize) {
        if self.calm || !self.clients[client].is_idle() {
            return;
        }
        let member = self.clients[client].random().random_range(0..self.members.len());
        let Some(life) = &self.members[member].life else {
            // Nobody listens there.
            self.push(self.now_ns + 5 * MS, Event::Ask { client });
            return;
        };
        let node = life.node.clone();
        self.members[member].set_clock(self.now_ns);
        let place = (member, self.members[member].name());
        self.clients[client].ask(place, &node, self.now_ns, &mut self.book, &mut self.numbers);
        let serial = self.clients[client].serial;
        self.trace((5, client, member));
        self.push(self.now_ns + PATIENCE_NS, Event::GiveUp { client, serial });
        self.poll_clients(member);
        self.schedule(member);
    }

    fn send(&mut self, from: usize, message: Message) {
        if message.r#type == MessageType::MsgSnap as i32 {
            let life = self.members[from].lives;
            let event = Event::Snapshot { from, life, message: Box::new(message), tries: 0 };
            self.push(self.now_ns + MS, event);
            return;
        }
        self.transmit(from, message, None);
    }

    fn transmit(&mut self, from: usize, message: Message, data: Option<Box<[u8]>>) {
        let Some(&to) = self.by_id.get(&message.to) else { return };
        if self.network.blocked.contains(&(from, to))
            || (self.network.loss > 0.0 && self.network_random.random_bool(self.network.loss))
        {
            return;
        }
        // Raft's own messages may come twice. A proposal may not: it would be carried out twice, and the connections
        // between members never repeat one.
        let repeatable = message.r#type != MessageType::MsgProp as i32;
        let copies = 1 + usize::from(
            repeatable
                && self.network.duplicates > 0.0
                && self.network_random.random_bool(self.network.duplicates),
        );
        for _ in 0..copies {
            let at = self.now_ns + self.network_random.random_range(50_000..self.network.delay_ns);
            let message = Box::new(message.clone());
            self.push(at, Event::Deliver { to, message, data: data.clone() });
        }
    }

    fn send_snapshot(&mut self, from: usize, life: u64, mut message: Box<Message>, tries: u32) {
        use store::{node::raft_loop::Input, raft::driver::Event as RaftEvent};
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
                self.transmit(from, *message, Some(data.into()));
            }
            None if tries < 100 => {
                let event = Event::Snapshot { from, life, message, tries: tries + 1 };
                self.push(self.now_ns + 2 * MS, event);
            }
            None => drop(alive.raft.send(status(false))),
        }
        self.schedule(from);
    }

    fn heal(&mut self) {
        self.trace((6, 0, 0));
        self.network = Network { delay_ns: 2 * MS, ..Network::default() };
    }

    /// Something goes wrong, for a while.
    fn fault(&mut self) {
        if self.calm {
            return;
        }
        self.faults += 1;
        let size = self.members.len();
        let random = &mut self.fault_random;
        let victim = random.random_range(0..size);
        let lasts = random.random_range(100 * MS..5 * SECOND);
        let next = self.now_ns + random.random_range(200 * MS..4 * SECOND);
        let changes = random.random_range(0..40);
        let kind = random.random_range(0..13);
        let side: Vec<bool> = (0..size).map(|_| random.random_bool(0.5)).collect();
        self.push(next, Event::Fault);
        self.trace((7, kind, victim));
        match kind {
            0..3 => {
                self.crash(victim, kind > 0);
                self.push(self.now_ns + lasts, Event::Start { member: victim });
            }
            3 => {
                for member in 0..size {
                    self.crash(member, true);
                    self.push(self.now_ns + lasts / 4, Event::Start { member });
                }
            }
            4 | 5 => {
                let pairs = (0..size).flat_map(|from| (0..size).map(move |to| (from, to)));
                self.network.blocked = match kind {
                    4 => pairs.filter(|(from, to)| side[*from] != side[*to]).collect(),
                    // One hears nobody, but is heard.
                    _ => pairs.filter(|(from, to)| from != to && *to == victim).collect(),
                };
                self.push(self.now_ns + lasts, Event::Heal);
            }
            6 => {
                self.network.loss = 0.2;
                self.network.duplicates = 0.2;
                self.network.delay_ns = 60 * MS;
                self.push(self.now_ns + lasts, Event::Heal);
            }
            7 => self.frozen_until[victim] = self.now_ns + lasts,
            8 => self.stall(victim, self.now_ns + lasts),
            9 => {
                self.isolate(self.leader().unwrap_or(victim));
                self.push(self.now_ns + lasts, Event::Heal);
            }
            11.. => {
                self.cut[victim] = true;
                self.members[victim].cut_power_after(changes);
            }
            _ => {
                let Some(old) = self.leader().filter(|leader| *leader != victim && size > 1) else { return };
                self.stall(victim, self.now_ns + 5 * SECOND);
                self.isolate(old);
                self.plot = Some(Plot { old, voter: victim });
                self.push(self.now_ns + 5 * SECOND, Event::Heal);
            }
        }
    }

    /// Its disk answers nothing until then.
    fn stall(&mut self, member: usize, until_ns: u64) {
        self.stalled_until[member] = until_ns;
        for part in [WAL, BACKEND, BACKEND + 1, BACKEND + 2] {
            self.next_turn[member][part] = None;
        }
        self.schedule(member);
    }

    /// All run, follow one leader, and have applied the same.
    fn agrees(&self) -> bool {
        let mut states = self.members.iter().map(|member| {
            let node = &member.life.as_ref()?.node;
            let state = node.status.soft_state();
            let applied = node.status.applied.load(std::sync::atomic::Ordering::Acquire);
            (state.leader != 0).then_some((state.leader, state.term, applied))
        });
        let Some(Some(first)) = states.next() else { return false };
        states.all(|state| state == Some(first))
    }

    fn describe(&self) -> String {
        let one = |member: &Member| match &member.life {
            None => format!("{} is down", member.number),
            Some(life) => {
                let state = life.node.status.soft_state();
                let applied = life.node.status.applied.load(std::sync::atomic::Ordering::Acquire);
                format!(
                    "{}: {:?} of {:x} in term {}, applied {applied}",
                    member.number, state.role, state.leader, state.term
                )
            }
        };
        self.members.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// Everything is read once more, by every member, and must be equal to the byte.
    fn last_look(&mut self) -> Outcome {
        for client in 0..self.clients.len() {
            self.clients[client].give_up(self.now_ns, &mut self.book, &mut self.numbers);
        }
        let start = self.book.key(&key_bytes(0));
        let everything = Request::Range(Range::newest(Span { start, end: End::Open }));
        for member in 0..self.members.len() {
            let Some(life) = &self.members[member].life else { continue };
            let node = life.node.clone();
            let place = (member, self.members[member].name());
            self.clients[0].ask_this(place, &node, self.now_ns, &self.book, everything.clone());
            self.poll_clients(member);
            self.schedule(member);
            let limit = self.now_ns + 5 * SECOND;
            while !self.clients[0].is_idle() {
                if self.now_ns >= limit {
                    return Err(format!("member {member} does not answer a read: {}", self.describe()));
                }
                self.run_until(self.now_ns + 10 * MS)?;
            }
        }
        self.run_until(self.now_ns + SECOND)?;
        let mut first = None;
        for member in 0..self.members.len() {
            let Some(life) = &self.members[member].life else { continue };
            let node = life.node.clone();
            let hash = {
                let mut hash = std::pin::pin!(node.hash_kv(0));
                match hash.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Ok((hash, _, revision, _))) => (hash, revision),
                    Poll::Ready(Err(error)) => return Err(format!("member {member} has no hash: {error:?}")),
                    Poll::Pending => return Err(format!("member {member} has no hash in time")),
                }
            };
            let (of, expected) = *first.get_or_insert((member, hash));
            if hash != expected {
                return Err(format!(
                    "members {of} and {member} differ: (hash, revision) {expected:?} and {hash:?}"
                ));
            }
        }
        Ok(())
    }
}
