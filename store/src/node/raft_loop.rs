//! The raft thread: turns the driver's outputs into sends, writes, applies and answers.
//!
//! It alone touches the driver. Proposals that arrive while it works become its next append. A leader's appends leave
//! at once; whatever acknowledges or votes goes with the write that must be durable first. Reads that wait share one
//! ReadIndex round; a round that is not answered is asked again with a fresh context, never an old one.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use proto::raftpb::{self, MessageType};
use tokio::sync::oneshot;

use super::{
    apply_loop,
    clock::Clock,
    fatal::Fatal,
    mailbox::{Receiver, Sender, Wake},
    part::{Part, inbox},
    status::Status,
    transport::Outbound,
    wal_loop,
};
use crate::{
    mutant::{self, Mutant},
    raft::{
        Driver, Output, Role, SoftState,
        driver::{Event, StepError},
        retention::Retention,
    },
};

/// Reads wait this long for the answer to a round.
const READ_RETRY_MS: u64 = 500;

pub enum Input {
    /// Encoded requests.
    Propose(Vec<raftpb::Entry>),
    /// As `Propose`, if this member still leads in `term`; dropped otherwise.
    ProposeInTerm {
        term: u64,
        entry: raftpb::Entry,
    },
    /// Answered once what must be visible to the read is applied.
    ReadIndex(oneshot::Sender<()>),
    Event(Event),
    /// Asks for what only the driver knows of a member's progress: (match, last index).
    Progress(u64, oneshot::Sender<Option<(u64, u64)>>),
    /// Hands leadership to the best voter, if there is another and this member leads; answers whom it was offered to.
    TransferAway(oneshot::Sender<Option<u64>>),
    Stop,
}

pub struct RaftLoop {
    pub driver: Driver,
    pub inputs: Receiver<Input>,
    /// Kept for its space.
    pub taken: Vec<Input>,
    pub wal: Sender<wal_loop::Input>,
    pub apply: Sender<apply_loop::Input>,
    pub outbound: Arc<dyn Outbound>,
    pub status: Arc<Status>,
    pub fatal: Arc<Fatal>,
    pub clock: Clock,
    pub tick: Duration,
    pub next_tick: Instant,
    pub retention: Retention,
    /// Persists handed to the log thread and not yet durable.
    pub persisting: usize,
    /// Of the last output.
    pub last_number: u64,
    /// A hard state in which only the commit index is new: written with what comes next, or at the next tick.
    pub unwritten_commit: Option<raftpb::HardState>,
    pub reads: ReadRounds,
    /// The commit index when this member became the only voter that leads.
    pub sole_since: Option<u64>,
}

/// Reads waiting for an index: one round is under way, the rest wait for the next.
#[derive(Default)]
pub struct ReadRounds {
    waiting: Vec<oneshot::Sender<()>>,
    under_way: Option<Round>,
    last_context: u64,
}

struct Round {
    context: u64,
    ticks: u64,
    readers: Vec<oneshot::Sender<()>>,
}

impl ReadRounds {
    /// `first_context` must differ from all contexts that this member ever used: contexts travel to the leader.
    pub fn new(first_context: u64) -> ReadRounds {
        ReadRounds { last_context: first_context, ..ReadRounds::default() }
    }

    /// Starts a round if there is none and somebody waits.
    fn start(&mut self) -> Option<u64> {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return None;
        }
        if !mutant::on(Mutant::R2) {
            self.last_context += 1;
        }
        let readers = std::mem::take(&mut self.waiting);
        self.under_way = Some(Round { context: self.last_context, ticks: 0, readers });
        Some(self.last_context)
    }

    fn answered(&mut self, context: u64) -> Vec<oneshot::Sender<()>> {
        match self.under_way.take_if(|round| round.context == context) {
            Some(round) => round.readers,
            None => Vec::new(),
        }
    }

    /// Abandons a round that took too long; its readers go into the next.
    fn tick(&mut self, limit: u64) -> bool {
        let Some(round) = &mut self.under_way else { return false };
        round.ticks += 1;
        if round.ticks < limit {
            return false;
        }
        self.abandon();
        true
    }

    fn abandon(&mut self) {
        if let Some(mut round) = self.under_way.take() {
            round.readers.retain(|reader| !reader.is_closed());
            self.waiting.append(&mut round.readers);
        }
    }
}

impl Part for RaftLoop {
    inbox!();

    fn wake(&self) -> Wake {
        // What is under way on the disk wakes this part soon; a lone voter has nobody who waits for appends.
        let expects = self.persisting > 0 && self.driver.is_sole_leader();
        Wake::At { deadline: self.next_tick, expects }
    }

    fn turn(&mut self) -> bool {
        let mut inputs = std::mem::take(&mut self.taken);
        self.inputs.take(&mut inputs);
        let mut proposals = Vec::new();
        for input in inputs.drain(..) {
            match input {
                Input::Propose(mut entries) => proposals.append(&mut entries),
                Input::ProposeInTerm { term, entry } => {
                    let state = self.driver.soft_state();
                    // One that has to wait would go to the next leader.
                    let at_once = self.driver.takes_proposals() || mutant::on(Mutant::L8);
                    if state.role == Role::Leader && state.term == term && at_once {
                        proposals.push(entry);
                    }
                }
                Input::ReadIndex(reader) => self.reads.waiting.push(reader),
                Input::Event(event) => {
                    self.propose(&mut proposals);
                    self.event(event);
                }
                Input::Progress(peer, answer) => {
                    let _ = answer.send(self.driver.progress(peer));
                }
                Input::TransferAway(answer) => {
                    self.propose(&mut proposals);
                    let target = match self.driver.soft_state().role {
                        Role::Leader => self.driver.best_transferee(),
                        _ => None,
                    };
                    if let Some(to) = target {
                        self.event(Event::TransferLeader { to });
                    }
                    let _ = answer.send(target);
                }
                Input::Stop => return false,
            }
        }
        self.taken = inputs;
        self.propose(&mut proposals);
        self.tick();
        if mutant::on(Mutant::R3) && self.status.is_leader() && !self.driver.can_read_index() {
            let (index, readers) = (self.driver.commit_index(), std::mem::take(&mut self.reads.waiting));
            let _ = self.apply.send(apply_loop::Input::ReadAt { index, readers });
        }
        if self.driver.can_read_index()
            && let Some(context) = self.reads.start()
        {
            self.event(Event::ReadIndex { context });
        }
        self.work();
        !self.fatal.is_set()
    }
}

impl RaftLoop {
    fn tick(&mut self) {
        let now = self.clock.now();
        if now < self.next_tick {
            return;
        }
        // Ticks missed by a stalled thread are not made up for: that would only start elections.
        self.next_tick = now + self.tick;
        if let Some(state) = self.unwritten_commit.take() {
            let _ = self.wal.send(wal_loop::Input::HardState(state));
        }
        self.event(Event::Tick);
        self.retention.tick(|peer| Some(self.driver.progress(peer)?.0));
        let retry_ticks = (READ_RETRY_MS / self.tick.as_millis().max(1) as u64).max(1);
        if self.reads.tick(retry_ticks) {
            self.status.slow_read_indexes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn propose(&mut self, proposals: &mut Vec<raftpb::Entry>) {
        if !proposals.is_empty() {
            self.event(Event::Propose(std::mem::take(proposals)));
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Persisted { number } => {
                self.persisting -= 1;
                // What came after the last write had nothing to write.
                if self.persisting == 0 {
                    return self.persisted(number.max(self.last_number));
                }
            }
            Event::Applied { index } => {
                if let Some(index) = self.retention.cut(self.driver.log(), index) {
                    let _ = self.driver.step(Event::Compact { index });
                }
            }
            Event::SnapshotStatus { peer, .. } => self.retention.sent(peer),
            _ => {}
        }
        let applied = matches!(event, Event::Applied { .. });
        let result = self.driver.step(event);
        if applied && self.driver.is_alone() {
            // Nobody to wait for.
            let _ = self.driver.step(Event::Campaign);
        }
        match result {
            Ok(()) => {}
            // What was refused times out at its proposer, or is sent again by its peer.
            Err(StepError::BadMessage(why)) => tracing::warn!(why, "dropped a raft message"),
            Err(StepError::TooManyProposals | StepError::Refused) => {}
        }
    }

    /// The driver keeps a record of each output until it hears of it.
    fn persisted(&mut self, number: u64) {
        let _ = self.driver.step(Event::Persisted { number });
    }

    /// Does what the driver wants done.
    pub fn work(&mut self) {
        // Before anything leaves: somebody else may vote from here on.
        if !self.driver.is_sole_leader() {
            self.sole_since = None;
            self.status.sole_leader.store(false, Ordering::SeqCst);
        }
        while let Some(output) = self.driver.poll() {
            self.perform(output);
        }
        self.status.committed.store(self.driver.commit_index(), Ordering::Release);
        self.status.last_index.store(self.driver.log().last(), Ordering::Release);
        if self.driver.is_sole_leader() {
            // What was committed before this member led may still be on its way through apply.
            let since = *self.sole_since.get_or_insert(self.driver.commit_index());
            let caught_up = self.status.applied.load(Ordering::Acquire) >= since;
            self.status.sole_leader.store(caught_up, Ordering::SeqCst);
        }
    }

    fn perform(&mut self, output: Output) {
        self.last_number = output.number;
        if let Some(state) = output.soft_state {
            self.soft_state(state);
        }
        let messages = output.messages.iter().chain(output.persist.iter().flat_map(|it| &it.messages));
        for message in messages.filter(|it| it.r#type == MessageType::MsgSnap as i32) {
            self.retention.sends(message.to, message.snapshot.metadata.index);
        }
        if !output.messages.is_empty() {
            self.outbound.send(output.messages);
        }
        if let Some(mut persist) = output.persist {
            let commit = self.unwritten_commit.take();
            persist.hard_state = persist.hard_state.or(commit);
            if !persist.must_sync {
                self.unwritten_commit = persist.hard_state.take();
            }
            if mutant::on(Mutant::D1) || mutant::on(Mutant::D3) {
                let votes = [MessageType::MsgVoteResp as i32, MessageType::MsgPreVoteResp as i32];
                let early =
                    |message: &mut raftpb::Message| mutant::on(Mutant::D1) || votes.contains(&message.r#type);
                self.outbound.send(persist.messages.extract_if(.., early).collect());
            }
            // Behind a write that is not durable yet nothing may leave that could acknowledge it.
            if persist.must_sync || (self.persisting > 0 && !persist.messages.is_empty()) {
                self.persisting += 1;
                let _ = self.wal.send(wal_loop::Input::Persist(persist));
                if mutant::on(Mutant::D2) && self.driver.is_sole_leader() {
                    self.persisted(output.number);
                }
            } else {
                self.outbound.send(persist.messages);
            }
        }
        if self.persisting == 0 {
            self.persisted(output.number);
        }
        if !output.committed.is_empty() {
            let _ = self.apply.send(apply_loop::Input::Entries(output.committed));
        }
        for (context, index) in output.reads {
            let readers = self.reads.answered(context);
            if !readers.is_empty() {
                let _ = self.apply.send(apply_loop::Input::ReadAt { index, readers });
            }
        }
    }

    fn soft_state(&mut self, state: SoftState) {
        let before = self.status.set_soft_state(state);
        if before.leader != state.leader {
            self.reads.abandon();
            match state.leader {
                0 => {
                    self.status.lost_leader_at_ms.store(self.clock.elapsed_ms().max(1), Ordering::Release);
                    tracing::info!(term = state.term, "raft lost its leader");
                }
                leader => {
                    let leader = format!("{leader:x}");
                    tracing::info!(leader, term = state.term, "raft elected a leader");
                }
            }
        }
        if before.role != state.role || before.term != state.term {
            let leads = state.role == Role::Leader;
            let _ = self.apply.send(apply_loop::Input::Leadership { term: leads.then_some(state.term) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retried_round_has_a_fresh_context_and_keeps_its_readers() {
        let mut rounds = ReadRounds::new(10);
        let (reader, _keep) = oneshot::channel();
        rounds.waiting.push(reader);
        assert_eq!(rounds.start(), Some(11));
        assert_eq!(rounds.start(), None);
        assert!(!rounds.tick(2));
        assert!(rounds.tick(2));
        assert_eq!(rounds.start(), Some(12));
        assert!(rounds.answered(11).is_empty());
        assert_eq!(rounds.answered(12).len(), 1);
    }

    #[test]
    fn reads_that_come_during_a_round_wait_for_the_next() {
        let mut rounds = ReadRounds::new(0);
        let (first, _keep) = oneshot::channel();
        let (second, _keep) = oneshot::channel();
        rounds.waiting.push(first);
        assert_eq!(rounds.start(), Some(1));
        rounds.waiting.push(second);
        assert_eq!(rounds.answered(1).len(), 1);
        assert_eq!(rounds.start(), Some(2));
    }
}
