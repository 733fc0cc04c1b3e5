//! Drivers on a network and disks that exist only here: stories of what they do, and bad messages they must survive.
//!
//! Commands of the stories (`testdata`):
//! `cluster N [seed S]` starts voters 1 to N, `join I` one more member, `restart I` one from its disk.
//! `tick I [N]`, `propose I DATA`, `read I CONTEXT`, `transfer I TO`, `campaign I`, `compact I INDEX`, and
//! `change I v1|v2 KIND MEMBER...` (`voter`, `learner`, `remove`) are events; `wait I leads|follows` ticks until it is
//! so. `deliver` gives everybody what is under way, once; `run` until nothing is. `cut I` and `heal` are the network's.
//! `slow I` lets a disk hold back what it is given until `sync I`; `crash I` forgets what it holds back.
//! `show` tells everybody's log. Output: messages delivered (by `deliver` only), what a slow disk is given, who leads
//! whom, what is applied, what may be read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use proptest::{prelude::*, sample};
use prost::Message;
use proto::raftpb::{self, ConfChangeType, MessageType};

use super::{
    Driver, Output, Persist, Role, convert,
    driver::{Event, Settings, StepError},
    log::Log,
};
use crate::story;

const ELECTION_TICKS: usize = 10;

fn random(seed: u64) -> super::driver::Random {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Box::new(move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) % bound
    })
}

/// What would be found after a crash.
#[derive(Clone, Default)]
struct Disk {
    hard_state: raftpb::HardState,
    snapshot: raftpb::SnapshotMetadata,
    entries: Vec<raftpb::Entry>,
    /// The state machine: index, term, configuration.
    applied: (u64, u64, raftpb::ConfState),
}

impl Disk {
    fn write(&mut self, persist: &Persist) {
        if let Some(hard_state) = &persist.hard_state {
            self.hard_state = *hard_state;
        }
        if let Some(snapshot) = &persist.snapshot {
            self.snapshot = snapshot.metadata.clone();
            self.entries.clear();
        }
        if let Some(first) = persist.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(persist.entries.iter().cloned());
        }
    }
}

struct Node {
    driver: Driver,
    disk: Disk,
    slow: bool,
    held: VecDeque<Persist>,
}

impl Node {
    fn start(id: u64, disk: Disk, seed: u64) -> Node {
        let (applied, applied_term, conf_state) = disk.applied.clone();
        let mut log = Log::new(
            convert::hard_state_to_raft(&disk.hard_state),
            convert::conf_state_to_raft(&conf_state),
            (disk.snapshot.index, disk.snapshot.term),
        );
        log.append(&disk.entries.iter().cloned().map(convert::entry_to_raft).collect::<Vec<_>>());
        if applied > 0 {
            log.applied = (applied, applied_term, convert::conf_state_to_raft(&conf_state));
        }
        let settings = Settings {
            id,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: 1,
            pre_vote: true,
            max_message_bytes: 1 << 20,
            max_inflight_messages: 16,
            max_waiting_bytes: 1 << 10,
            max_waiting_ticks: 70,
            applied,
        };
        let driver = Driver::new(&settings, log, random(seed.wrapping_mul(1000) + id)).unwrap();
        Node { driver, disk, slow: false, held: VecDeque::new() }
    }
}

#[derive(Default)]
struct Cluster {
    nodes: BTreeMap<u64, Node>,
    network: VecDeque<raftpb::Message>,
    cut: BTreeSet<u64>,
    seed: u64,
    founders: raftpb::ConfState,
    output: String,
}

fn name(kind: i32) -> &'static str {
    MessageType::try_from(kind).map_or("?", |kind| kind.as_str_name())
}

fn describe(message: &raftpb::Message) -> String {
    let mut text = format!("{}->{} {} term {}", message.from, message.to, name(message.r#type), message.term);
    if message.index > 0 || message.log_term > 0 {
        text += &format!(", after {}/{}", message.log_term, message.index);
    }
    if let (Some(first), Some(last)) = (message.entries.first(), message.entries.last()) {
        text += &format!(", entries {}..{}", first.index, last.index);
    }
    if message.commit > 0 {
        text += &format!(", commit {}", message.commit);
    }
    if message.reject {
        text += ", rejected";
    }
    if message.snapshot.metadata.index > 0 {
        text += &format!(", snapshot at {}", message.snapshot.metadata.index);
    }
    text
}

impl Cluster {
    fn say(&mut self, text: String) {
        self.output += &text;
        self.output.push('\n');
    }

    fn step(&mut self, id: u64, event: Event) {
        let result = self.nodes.get_mut(&id).expect("a known member").driver.step(event);
        match result {
            Ok(()) => {}
            Err(StepError::BadMessage(why)) => self.say(format!("{id} drops it: {why}")),
            Err(StepError::TooManyProposals) => self.say(format!("{id} has too many proposals waiting")),
            Err(StepError::Refused) => self.say(format!("{id} refuses")),
        }
        self.work(id);
    }

    /// Performs what the driver asks for, as the node's threads do.
    fn work(&mut self, id: u64) {
        while let Some(output) = self.nodes.get_mut(&id).and_then(|node| node.driver.poll()) {
            let Output { soft_state, messages, persist, committed, reads, .. } = output;
            if let Some(state) = soft_state {
                let role = match state.role {
                    Role::Leader => "leads".into(),
                    Role::Candidate => "campaigns".into(),
                    Role::Follower if state.leader == 0 => "follows nobody".into(),
                    Role::Follower => format!("follows {}", state.leader),
                };
                self.say(format!("{id} {role} in term {}", state.term));
            }
            let promises = |message: &raftpb::Message| match name(message.r#type) {
                "MsgVoteResp" => !message.reject,
                "MsgAppResp" => !message.reject && message.index > 0,
                _ => false,
            };
            assert!(!messages.iter().any(promises), "left before the disk had it: {messages:?}");
            self.network.extend(messages);
            if let Some(persist) = persist {
                let node = self.nodes.get_mut(&id).unwrap();
                let slow = node.slow;
                let text = format!(
                    "{id} persists {} entries{}, then sends {}",
                    persist.entries.len(),
                    if persist.hard_state.is_some() { " and its state" } else { "" },
                    persist.messages.len()
                );
                node.held.push_back(persist);
                if slow { self.say(text) } else { self.sync(id) }
            }
            for entry in committed {
                self.apply(id, entry);
            }
            for (context, index) in reads {
                self.say(format!("{id} may read for {context} at {index}"));
            }
        }
    }

    /// Everything the disk was given is durable.
    fn sync(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(number) = node.held.back().map(|persist| persist.number) else { return };
        let held = std::mem::take(&mut node.held);
        for persist in held {
            let node = self.nodes.get_mut(&id).unwrap();
            node.disk.write(&persist);
            self.network.extend(persist.messages);
            if let Some(snapshot) = persist.snapshot {
                let raftpb::SnapshotMetadata { index, term, conf_state } = snapshot.metadata;
                node.disk.applied = (index, term, conf_state);
                self.say(format!("{id} takes over the snapshot at {index}"));
                self.nodes.get_mut(&id).unwrap().driver.step(Event::Applied { index }).unwrap();
            }
        }
        self.step(id, Event::Persisted { number });
    }

    fn apply(&mut self, id: u64, entry: raftpb::Entry) {
        let data = entry.data.clone().unwrap_or_default();
        let change = match entry.r#type {
            1 => raftpb::ConfChange::decode(data.clone()).ok().map(|change| {
                let single = raftpb::ConfChangeSingle { r#type: change.r#type, node_id: change.node_id };
                raftpb::ConfChangeV2 { changes: vec![single], ..Default::default() }
            }),
            2 => raftpb::ConfChangeV2::decode(data.clone()).ok(),
            _ => None,
        };
        let driver = &mut self.nodes.get_mut(&id).unwrap().driver;
        let text = match change {
            Some(change) => {
                let refused = driver.step(Event::ConfChange(change)).err();
                assert!(refused.is_none_or(|error| error == StepError::Refused));
                let state = driver.conf_state();
                format!("a change: voters {}, learners {}", list(&state.voters), list(&state.learners))
            }
            None if data.is_empty() => "nothing".into(),
            None => String::from_utf8_lossy(&data).into_owned(),
        };
        driver.step(Event::Applied { index: entry.index }).unwrap();
        let conf_state = driver.conf_state();
        self.nodes.get_mut(&id).unwrap().disk.applied = (entry.index, entry.term, conf_state);
        self.say(format!("{id} applies {}: {text}", entry.index));
    }

    fn deliver(&mut self, tell: bool) {
        for message in std::mem::take(&mut self.network) {
            let (from, to) = (message.from, message.to);
            if self.cut.contains(&from) || self.cut.contains(&to) || !self.nodes.contains_key(&to) {
                if message.r#type == MessageType::MsgSnap as i32 {
                    self.step(from, Event::SnapshotStatus { peer: to, ok: false });
                } else if self
                    .nodes
                    .get(&from)
                    .is_some_and(|node| node.driver.soft_state().role == Role::Leader)
                {
                    self.step(from, Event::Unreachable { peer: to });
                }
                continue;
            }
            if tell {
                self.say(describe(&message));
            }
            let snapshot = message.r#type == MessageType::MsgSnap as i32;
            self.step(to, Event::Message(Box::new(message)));
            if snapshot {
                self.step(from, Event::SnapshotStatus { peer: to, ok: true });
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..100 {
            if self.network.is_empty() {
                return;
            }
            self.deliver(false);
        }
        panic!("messages never end");
    }

    fn propose(&mut self, id: u64, kind: i32, data: Vec<u8>) {
        let entry = raftpb::Entry { r#type: kind, data: Some(data.into()), ..Default::default() };
        self.step(id, Event::Propose(vec![entry]));
    }

    fn change(&mut self, id: u64, version: &str, changes: &[&str]) {
        let single = |pair: &[&str]| raftpb::ConfChangeSingle {
            r#type: match pair[0] {
                "voter" => ConfChangeType::ConfChangeAddNode,
                "learner" => ConfChangeType::ConfChangeAddLearnerNode,
                "remove" => ConfChangeType::ConfChangeRemoveNode,
                other => panic!("change {other}"),
            } as i32,
            node_id: number(pair[1]),
        };
        let changes: Vec<_> = changes.chunks(2).map(single).collect();
        if version == "v1" {
            let raftpb::ConfChangeSingle { r#type, node_id } = changes[0];
            let change = raftpb::ConfChange { r#type, node_id, ..Default::default() };
            self.propose(id, 1, change.encode_to_vec());
        } else {
            self.propose(id, 2, raftpb::ConfChangeV2 { changes, ..Default::default() }.encode_to_vec());
        }
    }

    fn start(&mut self, id: u64, disk: Disk) {
        self.nodes.insert(id, Node::start(id, disk, self.seed));
        self.work(id);
    }

    fn command(&mut self, command: &str, words: &[&str]) -> String {
        let first = words.first().map_or(0, |word| number(word));
        match (command, words) {
            ("cluster", [_, rest @ ..]) => {
                self.seed = if let ["seed", seed] = rest { number(seed) } else { 1 };
                let conf_state = raftpb::ConfState { voters: (1..=first).collect(), ..Default::default() };
                self.founders = conf_state.clone();
                for id in 1..=first {
                    self.start(id, Disk { applied: (0, 0, conf_state.clone()), ..Disk::default() });
                }
            }
            ("join", _) => {
                // It knows the first voters only; all later changes are in the log.
                let conf_state = self.founders.clone();
                self.start(first, Disk { applied: (0, 0, conf_state), ..Disk::default() });
            }
            ("restart" | "crash", _) => {
                let disk = self.nodes.remove(&first).unwrap().disk;
                self.network.retain(|message| message.from != first && message.to != first);
                self.start(first, disk);
            }
            ("tick", [_, rest @ ..]) => {
                for _ in 0..rest.first().map_or(1, |word| number(word)) {
                    self.step(first, Event::Tick);
                }
            }
            ("wait", [_, what]) => {
                let done = |cluster: &Cluster| {
                    let state = cluster.nodes[&first].driver.soft_state();
                    if *what == "leads" { state.role == Role::Leader } else { state.leader != 0 }
                };
                let mut ticks = 0;
                while !done(self) {
                    assert!(ticks < 100 * ELECTION_TICKS, "it never does");
                    ticks += 1;
                    for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                        self.step(id, Event::Tick);
                    }
                    self.run();
                }
            }
            ("propose", [_, data]) => self.propose(first, 0, data.as_bytes().to_vec()),
            ("read", [_, context]) => self.step(first, Event::ReadIndex { context: number(context) }),
            ("transfer", [_, to]) => self.step(first, Event::TransferLeader { to: number(to) }),
            ("campaign", _) => self.step(first, Event::Campaign),
            ("compact", [_, index]) => self.step(first, Event::Compact { index: number(index) }),
            ("change", [_, version, changes @ ..]) => self.change(first, version, changes),
            ("deliver", _) => self.deliver(true),
            ("run", _) => self.run(),
            ("cut", _) => {
                self.cut.insert(first);
            }
            ("heal", _) => self.cut.clear(),
            ("slow", _) => self.nodes.get_mut(&first).unwrap().slow = true,
            ("sync", _) => {
                self.sync(first);
            }
            ("show", _) => {
                for (id, node) in &self.nodes {
                    let driver = &node.driver;
                    self.output += &format!(
                        "{id}: log {}..{}, commit {}, applied {}\n",
                        driver.log().first(),
                        driver.log().last(),
                        driver.commit_index(),
                        node.disk.applied.0
                    );
                }
            }
            _ => panic!("command {command} {words:?}"),
        }
        std::mem::take(&mut self.output)
    }
}

fn list(ids: &[u64]) -> String {
    let ids: BTreeSet<u64> = ids.iter().copied().collect();
    format!("{ids:?}")
}

fn number(word: &str) -> u64 {
    word.parse().expect("a number")
}

fn tell(name: &str, text: &str) {
    let mut cluster = Cluster::default();
    story::run(name, text, |command, words| cluster.command(command, words));
}

macro_rules! stories {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            tell(stringify!($name), include_str!(concat!("testdata/", stringify!($name), ".txt")));
        }
    )*};
}

stories! { election group_commit reads transfer members snapshot restart waiting }

/// The whole course of a cluster that elects, loses and replaces leaders.
fn trace(seed: u64) -> String {
    let mut cluster = Cluster::default();
    let seed = seed.to_string();
    let mut trace = cluster.command("cluster", &["3", "seed", &seed]);
    for round in 0..6 {
        let mut leader = None;
        for _ in 0..200 {
            for id in 1..=3 {
                trace += &cluster.command("tick", &[&id.to_string()]);
            }
            trace += &cluster.command("deliver", &[]);
            let leads = |id: &u64| {
                cluster.nodes[id].driver.soft_state().role == Role::Leader && !cluster.cut.contains(id)
            };
            leader = [1, 2, 3].into_iter().find(leads);
            if leader.is_some() {
                break;
            }
        }
        let leader = leader.expect("a leader").to_string();
        trace += &cluster.command("propose", &[&leader, &format!("x{round}")]);
        trace += &cluster.command("deliver", &[]);
        trace += &cluster.command("heal", &[]);
        trace += &cluster.command("cut", &[&leader]);
    }
    trace
}

#[test]
fn a_seed_replays() {
    let traces: BTreeSet<String> = (1..20).map(trace).collect();
    assert!(traces.len() > 10, "seeds make a difference: {}", traces.len());
    for seed in 1..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

/// A cluster of three, 1 leading in term 2 with entries up to 3, all applied.
fn settled() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.command("cluster", &["3"]);
    cluster.command("campaign", &["1"]);
    cluster.command("run", &[]);
    for data in ["a", "b"] {
        cluster.command("propose", &["1", data]);
        cluster.command("run", &[]);
    }
    cluster
}

#[test]
fn a_leader_of_two_hands_over_instead_of_removing_itself() {
    for asked in ["1", "2"] {
        let mut cluster = Cluster::default();
        cluster.command("cluster", &["2"]);
        cluster.command("campaign", &["1"]);
        cluster.command("run", &[]);
        for leader in [2, 1] {
            cluster.command("change", &[asked, "v1", "remove", if leader == 2 { "1" } else { "2" }]);
            cluster.command("run", &[]);
            let driver = &cluster.nodes[&leader].driver;
            assert_eq!(driver.soft_state().role, Role::Leader, "asked {asked}");
            assert_eq!(driver.conf_state().voters, [1, 2]);
        }
        cluster.command("change", &[asked, "v1", "remove", "2"]);
        cluster.command("run", &[]);
        assert_eq!(cluster.nodes[&1].driver.conf_state().voters, [1]);
    }
}

#[test]
fn a_member_that_installs_a_snapshot_does_not_stand_for_election() {
    let conf_state = raftpb::ConfState { voters: vec![1, 2, 3], ..Default::default() };
    let disk = Disk { applied: (0, 0, conf_state.clone()), ..Disk::default() };
    let mut driver = Node::start(2, disk, 1).driver;
    let poll = |driver: &mut Driver| {
        let (mut kinds, mut numbers) = (Vec::new(), Vec::new());
        while let Some(output) = driver.poll() {
            let persisted = output.persist.unwrap_or_default();
            kinds.extend(output.messages.iter().chain(&persisted.messages).map(|it| it.r#type));
            numbers.push(persisted.number);
        }
        (kinds, numbers)
    };
    let metadata = raftpb::SnapshotMetadata { conf_state, index: 10, term: 2 };
    let snapshot = raftpb::Message {
        r#type: MessageType::MsgSnap as i32,
        to: 2,
        from: 1,
        term: 2,
        snapshot: raftpb::Snapshot { data: None, metadata },
        ..Default::default()
    };
    driver.step(Event::Message(Box::new(snapshot))).unwrap();
    let (_, numbers) = poll(&mut driver);
    let wait = |driver: &mut Driver| (0..100).for_each(|_| driver.step(Event::Tick).unwrap());
    wait(&mut driver);
    assert!(poll(&mut driver).0.is_empty(), "the log does not hold what the state still lacks");

    numbers.into_iter().for_each(|number| driver.step(Event::Persisted { number }).unwrap());
    wait(&mut driver);
    let timeout_now = raftpb::Message {
        r#type: MessageType::MsgTimeoutNow as i32,
        to: 2,
        from: 1,
        term: 2,
        ..Default::default()
    };
    driver.step(Event::Message(Box::new(timeout_now))).unwrap();
    assert_eq!(driver.step(Event::Campaign), Err(StepError::Refused));
    assert!(
        !poll(&mut driver).0.contains(&(MessageType::MsgPreVote as i32)),
        "durable, and still not applied"
    );

    driver.step(Event::Applied { index: 10 }).unwrap();
    wait(&mut driver);
    assert!(poll(&mut driver).0.contains(&(MessageType::MsgPreVote as i32)));
}

fn entry(term: u64, index: u64) -> raftpb::Entry {
    raftpb::Entry { term, index, data: Some(Bytes::from_static(b"z")), ..Default::default() }
}

#[test]
fn bad_messages_are_dropped() {
    use MessageType::*;
    let cluster = settled();
    let state = cluster.nodes[&2].driver.soft_state();
    assert_eq!((state.leader, cluster.nodes[&2].driver.log().last()), (1, 3));
    let term = state.term;
    let message = |kind: MessageType| raftpb::Message {
        r#type: kind as i32,
        from: 1,
        to: 2,
        term,
        ..Default::default()
    };
    let snapshot = |index, voters: &[u64], learners: &[u64]| {
        let conf_state =
            raftpb::ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..Default::default() };
        let metadata = raftpb::SnapshotMetadata { index, term, conf_state };
        raftpb::Message { snapshot: raftpb::Snapshot { data: None, metadata }, ..message(MsgSnap) }
    };
    let bad = [
        (2, raftpb::Message { r#type: 77, ..message(MsgApp) }),
        (2, raftpb::Message { commit: 99, ..message(MsgHeartbeat) }),
        (2, raftpb::Message { term: term + (1 << 33), ..message(MsgHeartbeat) }),
        (2, raftpb::Message { log_term: term, index: 3, entries: vec![entry(term, 5)], ..message(MsgApp) }),
        (2, raftpb::Message { log_term: 0, index: 0, entries: vec![entry(term + 1, 1)], ..message(MsgApp) }),
        (1, raftpb::Message { from: 2, to: 1, term: 0, ..message(MsgProp) }),
        (1, raftpb::Message { from: 2, to: 1, term: 0, ..message(MsgReadIndex) }),
        (2, message(MsgReadIndexResp)),
        (2, message(MsgSnap)),
        (2, snapshot(9, &[], &[])),
        (2, snapshot(9, &[2, 2], &[])),
        (2, snapshot(9, &[1, 2], &[2])),
        (2, message(MsgHup)),
        (2, message(MsgBeat)),
        (1, raftpb::Message { from: 2, to: 1, ..message(MsgUnreachable) }),
        (1, raftpb::Message { from: 2, to: 1, ..message(MsgSnapStatus) }),
        (1, raftpb::Message { from: 2, to: 1, ..message(MsgCheckQuorum) }),
        (1, raftpb::Message { from: 2, to: 1, index: 99, ..message(MsgAppResp) }),
    ];
    for (to, message) in bad {
        let mut cluster = settled();
        let node = cluster.nodes.get_mut(&to).unwrap();
        let text = describe(&message);
        let before = (node.driver.soft_state(), node.driver.commit_index(), node.driver.log().last());
        let refused = node.driver.step(Event::Message(Box::new(message)));
        assert!(matches!(refused, Err(StepError::BadMessage(_))), "{text}: {refused:?}");
        cluster.work(to);
        let driver = &cluster.nodes[&to].driver;
        assert_eq!((driver.soft_state(), driver.commit_index(), driver.log().last()), before, "{text}");
        // And it works on.
        cluster.command("propose", &["1", "c"]);
        cluster.command("run", &[]);
        assert_eq!(cluster.nodes[&to].disk.applied.0, 4, "{text}");
    }
}

// ---- messages out of order, out of place and out of their mind

#[derive(Clone, Debug)]
enum Chaos {
    Tick(u64),
    Propose(u64),
    Read(u64),
    Deliver,
    /// Delivers what is under way, changed.
    Mangle(Vec<Mangle>),
    Forge(Box<raftpb::Message>),
    Compact(u64, u64),
    Crash(u64),
    Change(u64, u64, bool),
    Transfer(u64, u64),
}

#[derive(Clone, Debug)]
enum Mangle {
    Term(i64),
    LogTerm(i64),
    Index(i64),
    Commit(i64),
    Reject,
    Hint(i64),
    Kind(i32),
    From(u64),
    To(u64),
    NoEntries,
    NoContext,
    EntryIndex(i64),
    EntryTerm(i64),
    Twice,
}

fn small() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..8_u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => 8..1000_u64]
}

fn forged() -> impl Strategy<Value = raftpb::Message> {
    let entries = proptest::collection::vec((0..4, small(), small()), 0..3).prop_map(|entries| {
        let entry = |(kind, term, index)| raftpb::Entry {
            r#type: kind,
            term,
            index,
            data: Some(Bytes::from_static(b"?")),
        };
        entries.into_iter().map(entry).collect::<Vec<_>>()
    });
    let ids = || proptest::collection::vec(0..5_u64, 0..4);
    let snapshot =
        (small(), small(), ids(), ids(), ids(), ids(), any::<bool>()).prop_map(|it| raftpb::Snapshot {
            data: None,
            metadata: raftpb::SnapshotMetadata {
                index: it.0,
                term: it.1,
                conf_state: raftpb::ConfState {
                    voters: it.2,
                    learners: it.3,
                    voters_outgoing: it.4,
                    learners_next: it.5,
                    auto_leave: it.6,
                },
            },
        });
    let context = sample::select(vec![&b""[..], b"12345678", b"CampaignTransfer", b"CampaignPreElection"]);
    let numbers = (small(), small(), small(), small(), small());
    ((-1..24, 0..5_u64, 1..4_u64), numbers, any::<bool>(), entries, snapshot, context).prop_map(
        |((kind, from, to), numbers, reject, entries, snapshot, context)| raftpb::Message {
            r#type: kind,
            from,
            to,
            term: numbers.0,
            log_term: numbers.1,
            index: numbers.2,
            commit: numbers.3,
            reject_hint: numbers.4,
            reject,
            entries,
            snapshot,
            context: Some(Bytes::from_static(context)),
            ..Default::default()
        },
    )
}

fn mangle() -> impl Strategy<Value = Mangle> {
    let by = || prop_oneof![Just(-1_i64), Just(1), Just(1000), Just(-1000)];
    prop_oneof![
        by().prop_map(Mangle::Term),
        by().prop_map(Mangle::LogTerm),
        by().prop_map(Mangle::Index),
        by().prop_map(Mangle::Commit),
        Just(Mangle::Reject),
        by().prop_map(Mangle::Hint),
        (-1..24).prop_map(Mangle::Kind),
        (0..5_u64).prop_map(Mangle::From),
        (1..4_u64).prop_map(Mangle::To),
        Just(Mangle::NoEntries),
        Just(Mangle::NoContext),
        by().prop_map(Mangle::EntryIndex),
        by().prop_map(Mangle::EntryTerm),
        Just(Mangle::Twice),
    ]
}

fn chaos() -> impl Strategy<Value = Chaos> {
    prop_oneof![
        4 => (1..4_u64).prop_map(Chaos::Tick),
        3 => (1..4_u64).prop_map(Chaos::Propose),
        2 => (1..4_u64).prop_map(Chaos::Read),
        8 => Just(Chaos::Deliver),
        4 => proptest::collection::vec(mangle(), 1..3).prop_map(Chaos::Mangle),
        4 => forged().prop_map(|message| Chaos::Forge(Box::new(message))),
        1 => (1..4_u64, 0..8_u64).prop_map(|(id, index)| Chaos::Compact(id, index)),
        1 => (1..4_u64).prop_map(Chaos::Crash),
        1 => (1..4_u64, 1..5_u64, any::<bool>()).prop_map(|(id, of, add)| Chaos::Change(id, of, add)),
        1 => (1..4_u64, 0..5_u64).prop_map(|(id, to)| Chaos::Transfer(id, to)),
    ]
}

fn mangled(mut message: raftpb::Message, mangles: &[Mangle], into: &mut Vec<raftpb::Message>) {
    for mangle in mangles {
        match *mangle {
            Mangle::Term(by) => message.term = message.term.saturating_add_signed(by),
            Mangle::LogTerm(by) => message.log_term = message.log_term.saturating_add_signed(by),
            Mangle::Index(by) => message.index = message.index.saturating_add_signed(by),
            Mangle::Commit(by) => message.commit = message.commit.saturating_add_signed(by),
            Mangle::Reject => message.reject = !message.reject,
            Mangle::Hint(by) => message.reject_hint = message.reject_hint.saturating_add_signed(by),
            Mangle::Kind(kind) => message.r#type = kind,
            Mangle::From(from) => message.from = from,
            Mangle::To(to) => message.to = to,
            Mangle::NoEntries => message.entries.clear(),
            Mangle::NoContext => message.context = None,
            Mangle::EntryIndex(by) => {
                message.entries.iter_mut().for_each(|it| it.index = it.index.saturating_add_signed(by))
            }
            Mangle::EntryTerm(by) => {
                message.entries.iter_mut().for_each(|it| it.term = it.term.saturating_add_signed(by))
            }
            Mangle::Twice => into.push(message.clone()),
        }
    }
    into.push(message);
}

fn cause(cluster: &mut Cluster, chaos: &Chaos) {
    match chaos {
        Chaos::Tick(id) => (0..4).for_each(|_| cluster.step(*id, Event::Tick)),
        Chaos::Propose(id) => cluster.propose(*id, 0, b"x".to_vec()),
        Chaos::Read(id) => cluster.step(*id, Event::ReadIndex { context: 7 }),
        Chaos::Deliver => cluster.deliver(false),
        Chaos::Mangle(mangles) => {
            let mut messages = Vec::new();
            for message in std::mem::take(&mut cluster.network) {
                mangled(message, mangles, &mut messages);
            }
            for message in messages {
                if cluster.nodes.contains_key(&message.to) {
                    cluster.step(message.to, Event::Message(Box::new(message)));
                }
            }
        }
        Chaos::Forge(message) => cluster.step(message.to, Event::Message(message.clone())),
        Chaos::Compact(id, index) => cluster.step(*id, Event::Compact { index: *index }),
        Chaos::Crash(id) => {
            cluster.command("crash", &[&id.to_string()]);
        }
        Chaos::Change(id, of, add) => {
            let kind = if *add { "learner" } else { "remove" };
            cluster.change(*id, "v1", &[kind, &of.to_string()]);
        }
        Chaos::Transfer(id, to) => cluster.step(*id, Event::TransferLeader { to: *to }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What peers send, however wrong, is answered or dropped.
    #[test]
    fn no_message_stops_a_driver(events in proptest::collection::vec(chaos(), 1..60)) {
        let mut cluster = settled();
        for event in &events {
            cause(&mut cluster, event);
        }
    }
}
