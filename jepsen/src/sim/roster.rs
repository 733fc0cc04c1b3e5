//! Who is a member, by what was applied, and who counts: quorums behind every leader and every commit.
//!
//! Told of each change as it is first applied, of each acknowledgement and vote as it is sent, and of each turn of a
//! raft part. A member counts by the configuration that it has applied, so what one raft part does in a turn must hold
//! by the configuration before the turn or by that after it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use oracle::{
    check::members::{Applied, Configuration},
    history::Member as MemberName,
};
use proto::raftpb::{Message, MessageType};
use store::{
    membership::{Membership, quorum},
    node::status::Status,
    raft::Role,
};

use super::{member::configuration, world::Outcome};

/// A learner may vote when it has this share of the leader's log, in percent.
const READY_PERCENT: u64 = 90;

#[derive(Default)]
pub(super) struct Roster {
    /// Every change as each member applied it, for the judge.
    pub applied: Vec<Applied>,
    /// As of the newest change that anybody has applied.
    current: Configuration,
    index: u64,
    /// All that were ever members.
    known: BTreeSet<u64>,
    /// Learners that were seen to have caught up.
    ready: BTreeSet<u64>,
    /// Per member, what its raft part counts by.
    counts_by: Vec<Option<Arc<Membership>>>,
    /// Per member, its newest leadership.
    leaderships: Vec<Leadership>,
    /// The end of what any leader has committed.
    committed: u64,
    /// Who voted for a member in a term.
    votes: HashMap<(u64, u64), BTreeSet<u64>>,
}

#[derive(Default)]
struct Leadership {
    term: u64,
    /// Who has told it of how much of the log.
    acknowledged: BTreeMap<u64, u64>,
    /// What was committed when this was last looked at; `None` before the first look.
    committed: Option<u64>,
    /// The end of its log at the last look.
    last: u64,
}

impl Roster {
    pub fn add_member(&mut self) {
        self.counts_by.push(None);
        self.leaderships.push(Leadership::default());
    }

    /// A member begins a life with these members.
    pub fn begins(&mut self, member: usize, membership: Arc<Membership>) {
        self.counts_by[member] = Some(membership);
    }

    pub fn is_member(&self, id: u64) -> bool {
        self.current.voters.contains(&id) || self.current.learners.contains(&id)
    }

    /// It was a member, and will never be one again.
    pub fn is_removed(&self, id: u64) -> bool {
        self.known.contains(&id) && !self.is_member(id)
    }

    pub fn members(&self) -> impl Iterator<Item = &u64> {
        self.current.voters.iter().chain(&self.current.learners)
    }

    pub fn voters(&self) -> &BTreeSet<u64> {
        &self.current.voters
    }

    /// A member applied a change. Returns what happened, if it is the first to.
    pub fn applied(
        &mut self,
        by: MemberName,
        index: u64,
        configuration: Configuration,
    ) -> Outcome<Option<&'static str>> {
        self.applied.push(Applied { by, index, configuration: configuration.clone() });
        if index <= self.index {
            return Ok(None);
        }
        self.index = index;
        self.known.extend(configuration.voters.iter().chain(&configuration.learners));
        let before = std::mem::replace(&mut self.current, configuration);
        let promoted = before.learners.intersection(&self.current.voters).next();
        if let Some(learner) = promoted.filter(|it| !self.ready.contains(it)) {
            return Err(format!(
                "members: the entry at raft index {index} lets learner {learner:x} vote, which has not caught up"
            ));
        }
        let size = |it: &Configuration| it.voters.len() + it.learners.len();
        Ok(match size(&self.current).cmp(&size(&before)) {
            _ if promoted.is_some() => Some("learner promoted"),
            // The founding members.
            std::cmp::Ordering::Greater if before.voters.len() as u64 == index - 1 => None,
            std::cmp::Ordering::Greater => Some("member added"),
            std::cmp::Ordering::Less => Some("member removed"),
            std::cmp::Ordering::Equal => None,
        })
    }

    /// A message leaves a member.
    pub fn sends(&mut self, message: &Message, to: Option<usize>) {
        if message.reject {
            return;
        }
        if message.r#type == MessageType::MsgVoteResp as i32 {
            self.votes.entry((message.to, message.term)).or_default().insert(message.from);
        } else if message.r#type == MessageType::MsgAppResp as i32
            && let Some(to) = to
        {
            let leadership = &mut self.leaderships[to];
            if leadership.term == message.term {
                let told = leadership.acknowledged.entry(message.from).or_default();
                *told = (*told).max(message.index);
            }
        }
    }

    /// A raft part has had a turn, with what apply had `published` before it.
    pub fn turned(&mut self, member: usize, id: u64, status: &Status, published: Arc<Membership>) -> Outcome {
        use std::sync::atomic::Ordering::Acquire;
        let before = self.counts_by[member].replace(published.clone());
        let state = status.soft_state();
        if state.role != Role::Leader {
            return Ok(());
        }
        let before = before.unwrap_or_else(|| published.clone());
        let gone = |it: &Membership| it.is_removed(id);
        if gone(&before) && gone(&published) {
            return Err(format!("members: {id:x} leads term {} after its own removal", state.term));
        }
        let leadership = &mut self.leaderships[member];
        if leadership.term != state.term {
            *leadership = Leadership { term: state.term, ..Leadership::default() };
        }
        let (committed, last) = (status.committed.load(Acquire), status.last_index.load(Acquire));
        let seen = std::mem::replace(&mut leadership.last, last);
        match leadership.committed.replace(committed) {
            None => {
                // With the entry that it begins its term with.
                if last <= self.committed {
                    return Err(format!(
                        "leader completeness: {id:x} leads term {} with a log up to {last}, and {} is committed",
                        state.term, self.committed
                    ));
                }
                let none = BTreeSet::new();
                let votes = self.votes.get(&(id, state.term)).unwrap_or(&none);
                if !decides([&before, &published], |voter| voter == id || votes.contains(&voter)) {
                    return Err(format!(
                        "election quorum: {id:x} leads term {} by the votes of {votes:x?}, of {:x?}",
                        state.term,
                        configuration(&published.conf_state()).voters
                    ));
                }
            }
            Some(known) if committed > known => {
                let told = &leadership.acknowledged;
                let has = |voter| voter == id || told.get(&voter).is_some_and(|index| *index >= committed);
                if !decides([&before, &published], has) {
                    return Err(format!(
                        "commit quorum: {id:x} commits {committed} in term {} by what {told:x?} told, of {:x?}",
                        state.term,
                        configuration(&published.conf_state()).voters
                    ));
                }
            }
            Some(_) => {}
        }
        self.committed = self.committed.max(committed);
        for learner in published.members().filter(|it| it.is_learner) {
            let has = leadership.acknowledged.get(&learner.id).copied().unwrap_or(0);
            if has > 0 && has * 100 >= seen * READY_PERCENT {
                self.ready.insert(learner.id);
            }
        }
        Ok(())
    }
}

/// Whether `has` holds for a quorum of one of two configurations, the second following the first.
fn decides(either: [&Membership; 2], has: impl Fn(u64) -> bool) -> bool {
    let voters = either.map(|membership| configuration(&membership.conf_state()).voters);
    // Before the founding entries are applied nobody is a member; those in between several changes are not known here.
    voters.iter().any(BTreeSet::is_empty)
        || voters[0].symmetric_difference(&voters[1]).count() > 1
        || voters
            .iter()
            .any(|voters| voters.iter().filter(|voter| has(**voter)).count() >= quorum(voters.len()))
}
