//! Raft drivers under messages that no member would send, and on a network that a member may well have.
//!
//! A driver keeps its own rules whatever arrives: terms and commit index never fall, entries are handed out in order,
//! once, and none is taken back. Among drivers that only lose, repeat and reorder messages, and forget what was not
//! yet durable, one leads a term and all apply the same.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{self, MessageType};
use store::raft::{
    Driver, convert,
    driver::{Event, Persist, Role, Settings},
    log::Log,
};

use crate::input::{Input, Script};

const VOTERS: [u64; 3] = [1, 2, 3];
const ELECTION_TICKS: usize = 10;
/// A longer script is cut.
const MAX_STEPS: usize = 400;

/// What would be found after a crash.
#[derive(Clone, Default)]
struct Durable {
    hard_state: raftpb::HardState,
    snapshot: raftpb::SnapshotMetadata,
    entries: Vec<raftpb::Entry>,
    /// The state machine: index, term, configuration.
    applied: (u64, u64, raftpb::ConfState),
}

struct Node {
    driver: Driver,
    durable: Durable,
    held: VecDeque<Persist>,
    slow: bool,
    /// Highest term and commit index seen in this life.
    seen: (u64, u64),
}

impl Node {
    fn start(id: u64, mut durable: Durable) -> Node {
        let (applied, applied_term, conf_state) = durable.applied.clone();
        // The commit index is written lazily; what was applied was committed.
        durable.hard_state.commit = durable.hard_state.commit.max(applied).max(durable.snapshot.index);
        let mut log = Log::new(
            convert::hard_state_to_raft(&durable.hard_state),
            convert::conf_state_to_raft(&conf_state),
            (durable.snapshot.index, durable.snapshot.term),
        );
        log.append(&durable.entries.iter().cloned().map(convert::entry_to_raft).collect::<Vec<_>>());
        if applied > 0 {
            log.applied = (applied, applied_term, convert::conf_state_to_raft(&conf_state));
        }
        let settings = Settings {
            id,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: 1,
            pre_vote: true,
            max_message_bytes: 1 << 10,
            max_inflight_messages: 4,
            max_waiting_bytes: 1 << 10,
            max_waiting_ticks: 70,
            applied,
        };
        let mut turn = id;
        let random = move |bound| {
            turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(id);
            (turn >> 33) % bound
        };
        let driver = Driver::new(&settings, log, Box::new(random)).expect("what a member wrote starts");
        Node { driver, durable, held: VecDeque::new(), slow: false, seen: (0, 0) }
    }

    fn founded(id: u64) -> Node {
        let conf_state = raftpb::ConfState { voters: VOTERS.to_vec(), ..Default::default() };
        Node::start(id, Durable { applied: (0, 0, conf_state), ..Durable::default() })
    }
}

#[derive(Default)]
struct Cluster {
    nodes: BTreeMap<u64, Node>,
    network: VecDeque<raftpb::Message>,
    /// Term and content by index, of everything that anybody applied.
    applied: BTreeMap<u64, (u64, Bytes)>,
    leaders: BTreeMap<u64, u64>,
    /// No message is forged: then members agree with each other, not only with themselves.
    honest: bool,
    proposed: u64,
}

impl Cluster {
    fn new(ids: &[u64], honest: bool) -> Cluster {
        let nodes = ids.iter().map(|id| (*id, Node::founded(*id))).collect();
        Cluster { nodes, honest, ..Cluster::default() }
    }

    fn step(&mut self, id: u64, event: Event) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        // Refusals are answers.
        let _ = node.driver.step(event);
        self.work(id);
    }

    /// Performs what the driver asks for, as the node's threads do.
    fn work(&mut self, id: u64) {
        while let Some(output) = self.nodes.get_mut(&id).and_then(|node| node.driver.poll()) {
            let promises = |message: &raftpb::Message| {
                !message.reject
                    && (message.r#type == MessageType::MsgVoteResp as i32
                        || message.r#type == MessageType::MsgAppResp as i32 && message.index > 0)
            };
            assert!(!output.messages.iter().any(promises), "a promise left before the disk had it");
            self.network.extend(output.messages);
            if let Some(persist) = output.persist {
                self.nodes.get_mut(&id).expect("it was polled").held.push_back(persist);
            }
            for entry in output.committed {
                self.apply(id, entry);
            }
        }
        self.check(id);
        if self.nodes.get(&id).is_some_and(|node| !node.slow) {
            self.sync(id);
        }
    }

    /// Everything that the disk was given is durable.
    fn sync(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(number) = node.held.back().map(|persist| persist.number) else { return };
        for persist in std::mem::take(&mut node.held) {
            if let Some(hard_state) = persist.hard_state {
                node.durable.hard_state = hard_state;
            }
            if let Some(snapshot) = &persist.snapshot {
                node.durable.snapshot = snapshot.metadata.clone();
                node.durable.entries.clear();
            }
            if let Some(first) = persist.entries.first() {
                node.durable.entries.retain(|entry| entry.index < first.index);
                node.durable.entries.extend(persist.entries);
            }
            self.network.extend(persist.messages);
            if let Some(snapshot) = persist.snapshot {
                let raftpb::SnapshotMetadata { index, term, conf_state } = snapshot.metadata;
                node.durable.applied = (index, term, conf_state);
                node.driver.step(Event::Applied { index }).expect("the state took the snapshot over");
            }
        }
        self.step(id, Event::Persisted { number });
    }

    fn apply(&mut self, id: u64, entry: raftpb::Entry) {
        let node = self.nodes.get_mut(&id).expect("it was polled");
        let data = entry.data.clone().unwrap_or_default();
        assert_eq!(entry.index, node.durable.applied.0 + 1, "entries are handed out in order, once");
        assert!(entry.term >= node.durable.applied.1, "terms of committed entries never fall");
        if self.honest {
            let known = self.applied.entry(entry.index).or_insert((entry.term, data.clone()));
            assert_eq!(*known, (entry.term, data.clone()), "members differ at {}", entry.index);
        }
        let change = match entry.r#type {
            1 => raftpb::ConfChange::decode(data).ok().map(|change| {
                let single = raftpb::ConfChangeSingle { r#type: change.r#type, node_id: change.node_id };
                raftpb::ConfChangeV2 { changes: vec![single], ..Default::default() }
            }),
            2 => raftpb::ConfChangeV2::decode(data).ok(),
            _ => None,
        };
        if let Some(change) = change {
            let _ = node.driver.step(Event::ConfChange(change));
        }
        node.driver.step(Event::Applied { index: entry.index }).expect("what was handed out is applied");
        node.durable.applied = (entry.index, entry.term, node.driver.conf_state());
    }

    fn check(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("it was polled");
        let (state, commit) = (node.driver.soft_state(), node.driver.commit_index());
        assert!(state.term >= node.seen.0, "the term fell from {} to {}", node.seen.0, state.term);
        assert!(commit >= node.seen.1, "the commit index fell from {} to {commit}", node.seen.1);
        assert!(commit <= node.driver.log().last(), "committed what is not there");
        node.seen = (state.term, commit);
        if self.honest && state.role == Role::Leader {
            let leader = *self.leaders.entry(state.term).or_insert(id);
            assert_eq!(leader, id, "two leaders of term {}", state.term);
        }
    }

    fn deliver(&mut self, at: usize) {
        let Some(message) = self.network.remove(at) else { return };
        let (from, to) = (message.from, message.to);
        let snapshot = message.r#type == MessageType::MsgSnap as i32;
        self.step(to, Event::Message(Box::new(message)));
        if snapshot {
            self.step(from, Event::SnapshotStatus { peer: to, ok: true });
        }
    }

    fn crash(&mut self, id: u64) {
        if let Some(node) = self.nodes.remove(&id) {
            self.nodes.insert(id, Node::start(id, node.durable));
        }
    }

    fn propose(&mut self, id: u64, kind: i32, data: Vec<u8>) {
        let entry = raftpb::Entry { r#type: kind, data: Some(data.into()), ..Default::default() };
        self.step(id, Event::Propose(vec![entry]));
    }

    /// A leader with two entries applied everywhere.
    fn settle(&mut self) {
        self.step(1, Event::Campaign);
        for data in ["a", "b"] {
            self.drain();
            self.propose(1, 0, data.into());
        }
        self.drain();
    }

    fn drain(&mut self) {
        for _ in 0..1000 {
            if self.network.is_empty() {
                return;
            }
            self.deliver(0);
        }
    }
}

fn forged(input: &mut Input<'_>) -> raftpb::Message {
    let entries = (0..input.choice(4))
        .map(|_| raftpb::Entry {
            r#type: i32::from(input.byte() % 4),
            term: input.number(),
            index: input.number(),
            data: Some(Bytes::copy_from_slice(input.bytes())),
        })
        .collect();
    let contexts: [&[u8]; 4] = [b"", b"12345678", b"CampaignTransfer", b"CampaignPreElection"];
    let snapshot = match input.flag() {
        false => raftpb::Snapshot::default(),
        true => {
            let mut ids = || (0..input.choice(4)).map(|_| input.number()).collect::<Vec<_>>();
            let (voters, learners, voters_outgoing, learners_next) = (ids(), ids(), ids(), ids());
            let auto_leave = input.flag();
            let conf_state =
                raftpb::ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
            let (index, term) = (input.number(), input.number());
            raftpb::Snapshot { data: None, metadata: raftpb::SnapshotMetadata { index, term, conf_state } }
        }
    };
    raftpb::Message {
        r#type: i32::from(input.byte() % 26) - 1,
        from: input.number(),
        to: 1,
        term: input.number(),
        log_term: input.number(),
        index: input.number(),
        commit: input.number(),
        reject_hint: input.number(),
        reject: input.flag(),
        entries,
        snapshot,
        context: Some(Bytes::from_static(contexts[input.choice(4)])),
        ..Default::default()
    }
}

/// Byte 0: whether member 1 leads a settled cluster, follows in one, or is new. Then events at member 1, and
/// messages of the others, changed or made up.
pub fn message(data: &[u8]) {
    let mut input = Input::new(data);
    let begin = input.choice(3);
    let mut cluster = Cluster::new(&VOTERS, false);
    if begin < 2 {
        cluster.settle();
    }
    if begin == 1 {
        cluster.step(2, Event::Campaign);
        cluster.drain();
    }
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            return;
        }
        match input.choice(16) {
            0 => (0..input.choice(16)).for_each(|_| cluster.step(1, Event::Tick)),
            1 => cluster.propose(1, i32::from(input.byte() % 4), input.bytes().to_vec()),
            2 => cluster.step(1, Event::ReadIndex { context: input.number() }),
            3 => cluster.step(1, Event::TransferLeader { to: input.number() }),
            4 => cluster.step(1, Event::Compact { index: input.number() }),
            5 => cluster.step(1, Event::Unreachable { peer: input.number() }),
            6 => cluster.step(1, Event::SnapshotStatus { peer: input.number(), ok: input.flag() }),
            7 => cluster.step(1, Event::Campaign),
            8 => cluster.drain(),
            9 => cluster.crash(1),
            10 => (0..input.choice(16)).for_each(|_| cluster.step(2, Event::Tick)),
            11 => {
                // One on its way, with one number changed.
                if let Some(mut message) = cluster.network.pop_front() {
                    let numbers = [
                        &mut message.term,
                        &mut message.log_term,
                        &mut message.index,
                        &mut message.commit,
                        &mut message.reject_hint,
                        &mut message.from,
                    ];
                    let at = input.choice(numbers.len());
                    if let Some(number) = numbers.into_iter().nth(at) {
                        *number = number.wrapping_add(input.number());
                    }
                    message.reject ^= input.flag();
                    cluster.step(1, Event::Message(Box::new(message)));
                }
            }
            12 => {
                let bytes = Bytes::copy_from_slice(input.bytes());
                if let Ok(message) = store::peer::codec::decode_message(bytes) {
                    cluster.step(1, Event::Message(Box::new(message)));
                }
            }
            _ => {
                let message = forged(&mut input);
                cluster.step(1, Event::Message(Box::new(message)));
            }
        }
    }
}

pub fn message_seeds() -> Vec<Vec<u8>> {
    let led = Script::default().byte(0).byte(1).byte(0).bytes(b"c").byte(8);
    let heartbeat = raftpb::Message {
        r#type: MessageType::MsgHeartbeat as i32,
        from: 2,
        to: 1,
        term: 3,
        commit: 3,
        ..Default::default()
    };
    let beaten = Script::default().byte(1).byte(12).bytes(&heartbeat.encode_to_vec()).byte(0).byte(15);
    let append = raftpb::Message {
        r#type: MessageType::MsgApp as i32,
        from: 3,
        to: 1,
        term: 4,
        log_term: 2,
        index: 4,
        commit: 5,
        entries: vec![raftpb::Entry { r#type: 0, term: 4, index: 5, data: Some("x".into()) }],
        ..Default::default()
    };
    let appended = Script::default().byte(1).byte(12).bytes(&append.encode_to_vec()).byte(8).byte(9);
    let snapshot = raftpb::Message {
        r#type: MessageType::MsgSnap as i32,
        from: 2,
        to: 1,
        term: 5,
        snapshot: raftpb::Snapshot {
            data: None,
            metadata: raftpb::SnapshotMetadata {
                index: 20,
                term: 4,
                conf_state: raftpb::ConfState { voters: vec![1, 2, 3], ..Default::default() },
            },
        },
        ..Default::default()
    };
    let installed = Script::default().byte(2).byte(12).bytes(&snapshot.encode_to_vec()).byte(0).byte(15);
    let change = raftpb::ConfChange { r#type: 1, node_id: 3, ..Default::default() };
    let changed = Script::default().byte(0).byte(1).byte(1).bytes(&change.encode_to_vec()).byte(8);
    let read =
        Script::default().byte(0).byte(2).number(9).byte(8).byte(4).number(2).byte(3).number(2).byte(8);
    [led, beaten, appended, installed, changed, read].map(Script::done).to_vec()
}

/// A script of ticks, proposals, deliveries, losses, repetitions, slow disks and crashes.
pub fn cluster(data: &[u8]) {
    let mut input = Input::new(data);
    let mut cluster = Cluster::new(&VOTERS, true);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let action = input.byte();
        let id = VOTERS[usize::from(action >> 6) % VOTERS.len()];
        let waiting = cluster.network.len().max(1);
        match action & 15 {
            0 => cluster.step(id, Event::Tick),
            1 => (0..2 * ELECTION_TICKS).for_each(|_| cluster.step(id, Event::Tick)),
            2 => {
                cluster.proposed += 1;
                let data = cluster.proposed.to_string().into_bytes();
                cluster.propose(id, 0, data);
            }
            3 => cluster.deliver(0),
            4 => cluster.deliver(input.choice(waiting)),
            5 => drop(cluster.network.remove(input.choice(waiting))),
            6 => {
                if let Some(message) = cluster.network.get(input.choice(waiting)).cloned() {
                    // A transport sends a snapshot's data once.
                    if message.r#type != MessageType::MsgSnap as i32 {
                        cluster.network.push_back(message);
                    }
                }
            }
            7 => cluster.crash(id),
            8 => {
                if let Some(node) = cluster.nodes.get_mut(&id) {
                    node.slow = !node.slow;
                }
            }
            9 => cluster.sync(id),
            10 => cluster.drain(),
            11 => cluster.step(id, Event::Compact { index: u64::MAX }),
            12 => cluster.step(id, Event::TransferLeader { to: VOTERS[input.choice(VOTERS.len())] }),
            13 => cluster.step(id, Event::ReadIndex { context: u64::from(input.byte()) }),
            14 => cluster.step(id, Event::Campaign),
            _ => cluster.network.clear(),
        }
    }
}

pub fn cluster_seeds() -> Vec<Vec<u8>> {
    vec![
        vec![14, 10, 2, 2, 10, 0, 10],
        vec![14, 10, 2, 3, 3, 7, 65, 10, 66, 10, 1, 10],
        vec![14, 10, 2, 10, 11, 8, 2, 15, 2, 10, 7, 65, 10],
        vec![14, 10, 72, 2, 2, 10, 73, 10, 12, 1, 10, 13, 5, 10],
    ]
}
