//! The raft driver: events in, outputs out, no I/O.
//!
//! Owns the `raft` crate's state machine, the in-memory log and proposals that wait for a leader. `step` takes one
//! event; `poll` then gives what is to be done until it returns `None`. The caller performs outputs in order and
//! reports back with `Persisted` and `Applied`.
//!
//! What may leave before the disk: `Output::messages` (a leader's appends and heartbeats, once its term is durable).
//! What may not: `Persist::messages` (votes, acknowledgements, what a lone voter sends in a term that is not durable
//! yet), which belong to the persist they come with and to all before it.
//! Entries in `Output::committed` are durable on a quorum.
//!
//! Source: the asynchronous `Ready` of tikv/raft-rs `raw_node.rs`; etcd `server/etcdserver/raft.go`.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message;
use proto::raftpb;
use raft::{
    Config, RawNode, StateRole, Storage,
    eraftpb::{self, MessageType},
};

use super::{convert, log::Log};
use crate::mutant::{self, Mutant};

/// Give a bound, get a number below it; seeded by whoever builds the driver.
pub type Random = Box<dyn FnMut(u64) -> u64 + Send>;

pub struct Settings {
    pub id: u64,
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub pre_vote: bool,
    /// Data bytes of one append message.
    pub max_message_bytes: u64,
    pub max_inflight_messages: usize,
    /// Data bytes of proposals held while there is no leader; further ones are refused.
    pub max_waiting_bytes: usize,
    /// How long they are held: nobody wants any more what was proposed before.
    pub max_waiting_ticks: u64,
    /// The last index that the state machine durably holds.
    pub applied: u64,
}

pub enum Event {
    /// One heartbeat interval has passed.
    Tick,
    /// From a peer. Snapshots arrive here only after their data was received.
    Message(Box<raftpb::Message>),
    /// Entries to append, in order. Without a leader they wait for one.
    Propose(Vec<raftpb::Entry>),
    /// Ask for a commit index that is safe to read at; `context` must never have been used before.
    ReadIndex {
        context: u64,
    },
    /// Everything up to the `Persist` of this number is durable.
    Persisted {
        number: u64,
    },
    /// The state machine has applied everything up to `index`.
    Applied {
        index: u64,
    },
    /// A committed configuration change was accepted by the state machine.
    ConfChange(raftpb::ConfChangeV2),
    TransferLeader {
        to: u64,
    },
    Unreachable {
        peer: u64,
    },
    SnapshotStatus {
        peer: u64,
        ok: bool,
    },
    /// Forget log entries up to `index`.
    Compact {
        index: u64,
    },
    /// Stand for election now.
    Campaign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftState {
    pub role: Role,
    /// 0 while there is none.
    pub leader: u64,
    pub term: u64,
}

#[derive(Default)]
pub struct Persist {
    pub number: u64,
    pub hard_state: Option<raftpb::HardState>,
    pub entries: Vec<raftpb::Entry>,
    pub snapshot: Option<raftpb::Snapshot>,
    /// False when only the commit index moved: then it may be written without a sync.
    pub must_sync: bool,
    /// To be sent once this, and all persists before it, are durable.
    pub messages: Vec<raftpb::Message>,
}

#[derive(Default)]
pub struct Output {
    /// Once all that it asks for is durable, `Persisted` may name it.
    pub number: u64,
    pub soft_state: Option<SoftState>,
    pub messages: Vec<raftpb::Message>,
    pub persist: Option<Persist>,
    pub committed: Vec<raftpb::Entry>,
    /// Contexts of `ReadIndex` events with the index at which they may read.
    pub reads: Vec<(u64, u64)>,
}

/// Terms and indexes stay far below: the crate adds to them unchecked.
const MAX_NUMBER: u64 = i64::MAX as u64;

pub struct Driver {
    node: RawNode<Log>,
    random: Random,
    election_ticks: usize,
    /// What the last election timeout was drawn for, and the draw.
    drawn_for: SoftState,
    drawn_timeout: usize,
    reported: SoftState,
    /// The output whose vote or term is not durable yet, if there is one.
    unsaved_term: Option<u64>,
    saved_term: u64,
    /// What the state machine has applied; the crate hears of it once it knows that to be durable.
    applied: u64,
    ticks: u64,
    /// With the tick in which each was proposed.
    waiting: VecDeque<(u64, raftpb::Entry)>,
    waiting_bytes: usize,
    max_waiting_bytes: usize,
    max_waiting_ticks: u64,
}

/// Why a step had no effect.
#[derive(Debug, PartialEq, Eq)]
pub enum StepError {
    /// A message that a correct peer never sends; it was dropped.
    BadMessage(&'static str),
    /// No leader, and too many proposals wait for one already.
    TooManyProposals,
    /// Raft refused: a message from a peer that is no longer a member, a proposal during a leadership transfer.
    Refused,
}

/// Terms grow by elections, one at a time: no log holds a larger step, and ours refuses to load one.
const MAX_TERM_STEP: u64 = u32::MAX as u64;

impl Driver {
    /// `log` holds every entry recovered from disk and the configuration as of `settings.applied`.
    pub fn new(settings: &Settings, log: Log, random: Random) -> raft::Result<Driver> {
        let config = Config {
            id: settings.id,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: settings.applied,
            max_size_per_msg: settings.max_message_bytes,
            max_inflight_msgs: settings.max_inflight_messages,
            check_quorum: true,
            pre_vote: settings.pre_vote,
            ..Default::default()
        };
        let log_term = log.initial_state()?.hard_state.term;
        let node = RawNode::new(&config, log, &slog::Logger::root(slog::Discard, slog::o!()))?;
        let none = SoftState { role: Role::Follower, leader: 0, term: u64::MAX };
        let mut driver = Driver {
            node,
            random,
            election_ticks: settings.election_ticks,
            drawn_for: none,
            drawn_timeout: settings.election_ticks,
            reported: none,
            unsaved_term: None,
            saved_term: log_term,
            applied: settings.applied,
            ticks: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            max_waiting_bytes: settings.max_waiting_bytes,
            max_waiting_ticks: settings.max_waiting_ticks,
        };
        driver.draw_election_timeout();
        Ok(driver)
    }

    pub fn step(&mut self, event: Event) -> Result<(), StepError> {
        if let Event::Tick = event {
            self.ticks += 1;
            self.give_up_waiting();
        }
        let result = match event {
            // An election looks at the entries that are not applied yet: those that a snapshot stands for are gone.
            Event::Tick if self.is_installing() => Ok(()),
            Event::Tick => {
                self.node.tick();
                Ok(())
            }
            Event::Message(message) => self.message(*message),
            Event::Propose(entries) => self.propose(entries),
            Event::ReadIndex { context } => {
                self.node.read_index(context.to_be_bytes().to_vec());
                Ok(())
            }
            Event::Persisted { number } => {
                self.node.on_persist_ready(number);
                self.unsaved_term.take_if(|unsaved| *unsaved <= number);
                self.advance_applied();
                Ok(())
            }
            Event::Applied { index } => {
                let log = self.node.mut_store();
                if let Some(term) = log.term_of(index)
                    && index > log.applied.0
                {
                    (log.applied.0, log.applied.1) = (index, term);
                }
                self.applied = self.applied.max(index);
                self.advance_applied();
                Ok(())
            }
            Event::ConfChange(mut change) => {
                if mutant::on(Mutant::M2) {
                    let removal = raftpb::ConfChangeType::ConfChangeRemoveNode as i32;
                    change.changes.retain(|single| single.r#type != removal);
                }
                let change = convert::conf_change_to_raft(&change);
                match self.node.apply_conf_change(&change) {
                    Ok(conf_state) => {
                        self.node.mut_store().applied.2 = conf_state;
                        let raft = &mut self.node.raft;
                        if raft.state == StateRole::Leader && raft.prs().get(raft.id).is_none() {
                            // Removed, it could only stumble over its own absence.
                            raft.become_follower(raft.term, 0);
                        }
                        Ok(())
                    }
                    Err(_) => Err(StepError::Refused),
                }
            }
            Event::TransferLeader { to } => {
                self.node.transfer_leader(to);
                Ok(())
            }
            Event::Unreachable { peer } => {
                self.node.report_unreachable(peer);
                Ok(())
            }
            Event::SnapshotStatus { peer, ok } => {
                let status = if ok { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
                self.node.report_snapshot(peer, status);
                Ok(())
            }
            Event::Compact { index } => {
                let index = index.min(self.node.raft.raft_log.applied);
                self.node.mut_store().compact(index);
                Ok(())
            }
            Event::Campaign if self.is_installing() => Err(StepError::Refused),
            Event::Campaign => self.node.campaign().map_err(|_| StepError::Refused),
        };
        self.draw_election_timeout();
        if self.node.raft.leader_id != 0 && !self.waiting.is_empty() {
            self.waiting_bytes = 0;
            let waiting = self.waiting.drain(..).map(|(_, entry)| entry).collect();
            self.propose(waiting)?;
        }
        result
    }

    /// The next thing to do, in order; `None` when there is nothing.
    pub fn poll(&mut self) -> Option<Output> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let mut output = Output { number: ready.number(), ..Output::default() };
        let soft_state = self.soft_state();
        if soft_state != self.reported {
            self.reported = soft_state;
            output.soft_state = Some(soft_state);
        }
        output.reads = ready
            .take_read_states()
            .into_iter()
            .filter_map(|read| {
                Some((u64::from_be_bytes(read.request_ctx.as_slice().try_into().ok()?), read.index))
            })
            .collect();
        output.committed = ready.take_committed_entries().into_iter().map(convert::entry_to_etcd).collect();

        let mut persist = Persist {
            number: ready.number(),
            hard_state: ready.hs().map(convert::hard_state_to_etcd),
            must_sync: ready.must_sync() || !ready.snapshot().is_empty(),
            messages: ready.take_persisted_messages().into_iter().map(convert::message_to_etcd).collect(),
            ..Default::default()
        };
        if let Some(state) = &persist.hard_state
            && state.term != self.saved_term
        {
            (self.saved_term, self.unsaved_term) = (state.term, Some(ready.number()));
        }
        let messages = ready.take_messages().into_iter().map(convert::message_to_etcd);
        // A lone voter leads as soon as it votes for itself. After a crash it might lead the same term again, and
        // learners would hold other entries of it than those that it then writes.
        if self.unsaved_term.is_some() && !mutant::on(Mutant::K4) {
            persist.messages.extend(messages);
        } else {
            output.messages = messages.collect();
        }
        if !ready.snapshot().is_empty() {
            let snapshot = ready.snapshot().clone();
            let metadata = snapshot.get_metadata();
            self.node.mut_store().restore(metadata.index, metadata.term, metadata.get_conf_state().clone());
            persist.snapshot = Some(convert::snapshot_to_etcd(snapshot));
        }
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        persist.entries = entries.into_iter().map(convert::entry_to_etcd).collect();
        if persist.hard_state.is_some() || persist.must_sync || !persist.messages.is_empty() {
            output.persist = Some(persist);
        }
        self.node.advance_append_async(ready);
        if mutant::on(Mutant::M1)
            && let Some(persist) = &output.persist
        {
            let kind = raftpb::EntryType::EntryConfChange as i32;
            for entry in persist.entries.iter().filter(|entry| entry.r#type == kind) {
                if let Ok(change) = raftpb::ConfChange::decode(entry.data.clone().unwrap_or_default()) {
                    let _ = self.step(Event::ConfChange(convert::conf_change_v2(&change)));
                }
            }
        }
        Some(output)
    }

    pub fn soft_state(&self) -> SoftState {
        let raft = &self.node.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower => Role::Follower,
        };
        SoftState { role, leader: raft.leader_id, term: raft.term }
    }

    /// Whether a proposal goes to a leader at once; otherwise it waits for one.
    pub fn takes_proposals(&self) -> bool {
        self.node.raft.leader_id != 0 && self.node.raft.lead_transferee.is_none()
    }

    /// Whether a ReadIndex can be answered: a leader must first have committed in its own term.
    pub fn can_read_index(&self) -> bool {
        let raft = &self.node.raft;
        raft.leader_id != 0 && (raft.state != StateRole::Leader || raft.commit_to_current_term())
    }

    /// True while this member is the leader of a cluster in which it alone votes and has committed in its term:
    /// nobody else can commit, so what it has applied is the newest state there is.
    pub fn is_sole_leader(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader
            && raft.prs().is_singleton()
            && raft.commit_to_current_term()
            && raft.lead_transferee.is_none()
    }

    pub fn commit_index(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    pub fn conf_state(&self) -> raftpb::ConfState {
        convert::conf_state_to_etcd(&self.node.store().applied.2)
    }

    pub fn log(&self) -> &Log {
        self.node.store()
    }

    /// True for the only voter there is, while it does not lead.
    pub fn is_alone(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Follower && raft.promotable() && raft.prs().is_singleton()
    }

    /// (match index of `peer`, own last index), on the leader only.
    pub fn progress(&self, peer: u64) -> Option<(u64, u64)> {
        let progress = self.node.raft.prs().get(peer)?;
        (self.node.raft.state == StateRole::Leader)
            .then(|| (progress.matched, self.node.raft.raft_log.last_index()))
    }

    /// The voter that has most of the log, other than this one.
    pub fn best_transferee(&self) -> Option<u64> {
        let raft = &self.node.raft;
        let (id, _) = raft
            .prs()
            .iter()
            .filter(|(id, progress)| {
                **id != raft.id && progress.recent_active && raft.prs().conf().voters().contains(**id)
            })
            .max_by_key(|(id, progress)| (progress.matched, **id))?;
        Some(*id)
    }

    /// Whether the state has yet to take over a received snapshot.
    fn is_installing(&self) -> bool {
        let raft_log = &self.node.raft.raft_log;
        !mutant::on(Mutant::K2) && raft_log.applied + 1 < raft_log.store.first()
    }

    /// A snapshot may be taken over before the word arrives that its mark in the log is durable.
    fn advance_applied(&mut self) {
        let log = &self.node.raft.raft_log;
        let index = self.applied.min(log.committed).min(log.persisted);
        if index > log.applied {
            self.node.advance_apply_to(index);
        }
    }

    fn propose(&mut self, entries: Vec<raftpb::Entry>) -> Result<(), StepError> {
        if entries.is_empty() {
            return Ok(());
        }
        if !self.takes_proposals() {
            let size: usize = entries.iter().map(waiting_size).sum();
            if self.waiting_bytes + size > self.max_waiting_bytes {
                return Err(StepError::TooManyProposals);
            }
            self.waiting_bytes += size;
            self.waiting.extend(entries.into_iter().map(|entry| (self.ticks, entry)));
            return Ok(());
        }
        let (entries, successor) = self.without_own_removal(entries);
        let outcome = if entries.is_empty() { Err(StepError::Refused) } else { self.step_proposal(entries) };
        self.hand_over(successor);
        outcome
    }

    fn give_up_waiting(&mut self) {
        let mut given_up = 0;
        for (since, entry) in &self.waiting {
            if since + self.max_waiting_ticks >= self.ticks {
                break;
            }
            given_up += 1;
            self.waiting_bytes -= waiting_size(entry);
        }
        self.waiting.drain(..given_up);
    }

    fn step_proposal(&mut self, entries: Vec<raftpb::Entry>) -> Result<(), StepError> {
        let mut message = eraftpb::Message {
            msg_type: MessageType::MsgPropose,
            from: self.node.raft.id,
            ..Default::default()
        };
        message.set_entries(entries.into_iter().map(convert::entry_to_raft).collect::<Vec<_>>().into());
        self.node.step(message).map_err(|_| StepError::Refused)
    }

    /// What may be proposed of `entries`, and who is to lead then. A leader of two voters that carries out its own
    /// removal stops, perhaps before the other has learned that it is alone, which would then wait for it for ever: it
    /// lets the other lead instead.
    fn without_own_removal(&self, mut entries: Vec<raftpb::Entry>) -> (Vec<raftpb::Entry>, Option<u64>) {
        let raft = &self.node.raft;
        let own = raft.id;
        let voters: Vec<u64> = raft.prs().conf().voters().ids().iter().collect();
        let [one, other] = voters[..] else { return (entries, None) };
        let before = entries.len();
        if raft.state == StateRole::Leader && (one == own || other == own) {
            entries.retain(|entry| !removes(entry, own));
        }
        let successor = if one == own { other } else { one };
        let hands_over = entries.len() < before;
        (entries, hands_over.then_some(successor))
    }

    /// Behind what was proposed together with it: nothing is, once a hand-over has begun.
    fn hand_over(&mut self, successor: Option<u64>) {
        if let Some(successor) = successor {
            self.node.transfer_leader(successor);
        }
    }

    fn message(&mut self, mut message: raftpb::Message) -> Result<(), StepError> {
        let mut successor = None;
        if message.r#type == raftpb::MessageType::MsgProp as i32 {
            let is_empty = message.entries.is_empty();
            (message.entries, successor) = self.without_own_removal(message.entries);
            if message.entries.is_empty() && !is_empty {
                self.hand_over(successor);
                return Err(StepError::Refused);
            }
        }
        let message =
            convert::message_to_raft(message).ok_or(StepError::BadMessage("unknown message type"))?;
        self.check(&message).map_err(StepError::BadMessage)?;
        if message.msg_type == MessageType::MsgTimeoutNow && self.is_installing() {
            return Ok(());
        }
        let outcome = self.node.step(message).map_err(|_| StepError::Refused);
        self.hand_over(successor);
        outcome
    }

    /// Refuses what would make the `raft` crate panic: no peer, however broken, may stop this member.
    fn check(&self, message: &eraftpb::Message) -> Result<(), &'static str> {
        let log = &self.node.raft.raft_log;
        let current = message.term >= self.node.raft.term;
        if message.term > self.node.raft.term.saturating_add(MAX_TERM_STEP) {
            return Err("the term is implausibly far ahead");
        }
        let numbers = [message.term, message.index, message.log_term, message.commit, message.reject_hint];
        if numbers.iter().any(|number| *number > MAX_NUMBER) {
            return Err("a number beyond all bounds");
        }
        if message.from == self.node.raft.id {
            return Err("a message from this member itself");
        }
        let forwarded = [MessageType::MsgPropose, MessageType::MsgReadIndex, MessageType::MsgTransferLeader];
        match (forwarded.contains(&message.msg_type), message.term) {
            (false, 0) => return Err("a message without a term"),
            // It would be passed on, which the crate does with those only that have none.
            (true, 1..) if self.node.raft.state != StateRole::Leader => return Err("a request with a term"),
            _ => {}
        }
        match message.msg_type {
            MessageType::MsgHeartbeat if current && message.commit > log.last_index() => {
                Err("heartbeat commits entries that this member does not have")
            }
            // To the crate an entry that it does not have is one of term 0.
            MessageType::MsgAppend if message.log_term == 0 && message.index != 0 => {
                Err("entries appended to one without a term")
            }
            MessageType::MsgAppend => {
                for (entry, index) in message.entries.iter().zip(message.index + 1..) {
                    if entry.index != index {
                        return Err("appended entries are not contiguous");
                    }
                    if entry.term == 0 || entry.term > message.term {
                        return Err("appended entries of a term that never was");
                    }
                    let known = if index <= log.committed { log.term(index).ok() } else { None };
                    if current && index <= log.committed && known.is_some_and(|term| term != entry.term) {
                        return Err("appended entries contradict committed ones");
                    }
                }
                Ok(())
            }
            MessageType::MsgPropose if message.entries.is_empty() => Err("empty proposal"),
            MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => {
                Err("read index without a context")
            }
            MessageType::MsgSnapshot => check_snapshot(message.get_snapshot().get_metadata()),
            MessageType::MsgRequestVoteResponse if log.persisted < log.last_index() => {
                Err("a vote that cannot have been asked for yet")
            }
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum => Err("a local message came over the network"),
            MessageType::MsgAppendResponse if message.index > log.last_index() && !message.reject => {
                Err("acknowledges entries that do not exist")
            }
            _ => Ok(()),
        }
    }

    /// The crate draws election timeouts from the thread's generator; replace each draw by one of ours, at exactly the
    /// moments that depend on the state alone, so that a seed replays.
    fn draw_election_timeout(&mut self) {
        let state = self.soft_state();
        if state != self.drawn_for {
            self.drawn_for = state;
            self.drawn_timeout = self.election_ticks + (self.random)(self.election_ticks as u64) as usize;
        }
        if self.node.raft.randomized_election_timeout() != self.drawn_timeout {
            self.node.raft.set_randomized_election_timeout(self.drawn_timeout);
        }
    }
}

/// What an entry counts for while it waits.
fn waiting_size(entry: &raftpb::Entry) -> usize {
    entry.data.as_ref().map_or(0, Bytes::len) + 64
}

/// Whether an entry takes a member out of the cluster.
fn removes(entry: &raftpb::Entry, id: u64) -> bool {
    let removal = raftpb::ConfChangeType::ConfChangeRemoveNode as i32;
    let data = entry.data.clone().unwrap_or_default();
    match raftpb::EntryType::try_from(entry.r#type) {
        Ok(raftpb::EntryType::EntryConfChange) => raftpb::ConfChange::decode(data)
            .is_ok_and(|change| change.r#type == removal && change.node_id == id),
        Ok(raftpb::EntryType::EntryConfChangeV2) => raftpb::ConfChangeV2::decode(data)
            .is_ok_and(|change| change.changes.iter().any(|it| it.r#type == removal && it.node_id == id)),
        _ => false,
    }
}

/// Refuses a configuration that the crate could not restore: somebody votes, and nobody is in it twice.
fn check_snapshot(metadata: &eraftpb::SnapshotMetadata) -> Result<(), &'static str> {
    let exists = |number: u64| (1..=MAX_NUMBER).contains(&number);
    if !exists(metadata.index) || !exists(metadata.term) {
        return Err("empty snapshot");
    }
    let state = metadata.get_conf_state();
    let ids: BTreeSet<u64> = state.voters.iter().chain(&state.learners).copied().collect();
    let outgoing: BTreeSet<u64> = state.voters_outgoing.iter().copied().collect();
    let next: BTreeSet<u64> = state.learners_next.iter().copied().collect();
    let sound = !state.voters.is_empty()
        && ids.len() == state.voters.len() + state.learners.len()
        && outgoing.len() == state.voters_outgoing.len()
        && next.len() == state.learners_next.len()
        && !ids.contains(&0)
        && !outgoing.contains(&0)
        && state.learners.iter().all(|id| !outgoing.contains(id))
        && next.is_subset(&outgoing)
        && next.is_disjoint(&ids)
        && (!outgoing.is_empty() || !state.auto_leave);
    if sound { Ok(()) } else { Err("a snapshot with an impossible configuration") }
}
