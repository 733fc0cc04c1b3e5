//! The order that answers claim: every header names the revision at which the operation took effect.
//!
//! Operations are sorted by that revision, what made the revision first, and walked once: the model must give every
//! answer, and no operation may have returned before one that is placed ahead of it was called. Success is a proof of
//! strict serializability, whoever proposed the order; it takes O(n log n).
//!
//! What headers leave open is settled on the way:
//! - What shares a revision goes by the time of its call; a grant or a revoke among it comes as late as its return
//!   allows, or when another answer needs it.
//! - The header of a compaction says only how late it can have been. It comes as soon as its time allows and no answer
//!   further on needs what it removes.
//! - A refusal, a keepalive, a question for a lease (`floating`) has no revision: it is placed at the first state that
//!   explains it, within its time.
//! - A revision that nobody claims is a gap. It was made by a write of unknown outcome, a revoke, or the end of a
//!   lease: by what the members' logs say, else by what watches and reads show of that revision. If several fit, the
//!   first is taken, and taken back when the rest of the history contradicts it.
//! - What changes no revision (a grant, a compaction, the end of a lease without keys) and was not acknowledged is
//!   assumed where an answer needs it.
//!
//! A failure where nothing was left open is final. Else `linear` has a search confirm it.

use std::collections::{BTreeMap, HashMap};

use imbl::OrdSet;

use super::{Replay, Rules, Violation, replay::Compaction, steps::is_step};
use crate::{
    history::{
        Fate, History, Key, LeaseId, NEVER_NS, OpId, Operation, Outcome, Refusal, Request, Response,
        Revision, Value,
        request::{Kv, Put, Txn},
        watch::{Event, EventKind},
    },
    model::{State, has_revision},
};

/// What came of a walk.
#[derive(Clone, Debug, PartialEq)]
pub enum Witnessed {
    Ordered(Box<Replay>),
    /// The claimed order is impossible; `certain` if nothing was assumed on the way, so that no other order can be.
    Refuted {
        violation: Violation,
        certain: bool,
    },
}

/// Why a walk cannot go on.
struct Stuck {
    violation: Violation,
    /// What shares a revision was put into one of several orders, or a write that no answer shows was left out.
    another_order_might_help: bool,
}

impl From<Violation> for Stuck {
    fn from(violation: Violation) -> Stuck {
        Stuck { violation, another_order_might_help: false }
    }
}

/// Walks the history in the order that its answers claim.
pub fn witness(history: &History, rules: &Rules) -> Witnessed {
    let plan = Plan::of(history, rules);
    let mut replay =
        Replay::with_capacity(plan.claims.iter().filter(|claim| claim.rank == Rank::Wrote).count());
    let mut walk = Walk::new(rules);
    let mut choices: Vec<Choice> = Vec::new();
    let (mut retries, mut assumed) = (0, false);
    let mut deepest: Option<(usize, Violation)> = None;
    let mut events = Vec::new();
    loop {
        match walk.advance(&plan, &mut replay, &mut choices, &mut events) {
            Ok(true) => continue,
            Ok(false) => break,
            Err(Stuck { violation, another_order_might_help }) => {
                assumed |= walk.assumed
                    || walk.trusts_a_header(&plan)
                    || !choices.is_empty()
                    || another_order_might_help;
                if deepest.as_ref().is_none_or(|(next, _)| *next <= walk.next) {
                    deepest = Some((walk.next, violation));
                }
                let Some(choice) = choices.last_mut().filter(|_| retries < rules.max_retries) else {
                    let (_, violation) = deepest.expect("it was just set");
                    return Witnessed::Refuted { violation, certain: !assumed };
                };
                retries += 1;
                walk = choice.walk.clone();
                replay.truncate(walk.state.revision(), walk.compactions);
                let taken = choice.others.pop().expect("a choice has another way");
                if choice.others.is_empty() {
                    choices.pop();
                }
                walk.fill(&plan, taken, &mut replay);
            }
        }
    }
    for claim in &plan.claims {
        replay.prove(claim.revision, claim.returned_ns);
    }
    for response in history.streams.iter().flat_map(|stream| &stream.responses) {
        if let Some(last) = response.events.last() {
            replay.prove(last.kv.mod_revision, response.received_ns);
        }
    }
    replay.finish();
    Witnessed::Ordered(Box::new(replay))
}

/// An answer with the revision that it claims, and what is asked of it often: operations are far apart in memory.
#[derive(Clone, Copy)]
struct Claim {
    revision: Revision,
    rank: Rank,
    /// It changes the state without a revision of its own, perhaps.
    silent_change: bool,
    op: OpId,
    called_ns: u64,
    returned_ns: u64,
}

/// An answered compaction.
struct Compacting {
    /// What it removes is older.
    floor: Revision,
    op: OpId,
    called_ns: u64,
    returned_ns: u64,
    /// The revision that it named when it was done.
    header: Revision,
    /// The first claim from which on none needs what it removes.
    unneeded_at: usize,
}

/// The order of what shares a revision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It made the revision.
    Wrote,
    /// From a member's own state, perhaps before what follows.
    Serializable,
    Other,
}

/// What is known before the walk.
struct Plan<'a> {
    history: &'a History,
    rules: &'a Rules,
    claims: Vec<Claim>,
    /// The earliest return among claims from each on; one more at the end.
    next_return_ns: Vec<u64>,
    /// In the order of their floors, which is that in which they took effect.
    compactions: Vec<Compacting>,
    /// Without a revision, by call.
    floating: Vec<OpId>,
    /// Writes of unknown outcome, by call.
    open: Vec<OpId>,
    /// Of those: by a value that they would write, what keeps the value of a key, and by a lease that they would grant
    /// or revoke.
    open_by_value: HashMap<Value, Vec<OpId>>,
    open_keeping_value: Vec<OpId>,
    open_by_lease: HashMap<LeaseId, Vec<OpId>>,
    /// Of those, and of `fated`: what they would read of the past, by revision.
    open_reads: Vec<(Revision, OpId)>,
    fated: HashMap<Revision, OpId>,
    /// The call of the last operation that found each lease alive.
    last_alive_ns: HashMap<LeaseId, u64>,
    /// What was seen of revisions that nobody claims: keys, with what they were set to or as deleted.
    seen: BTreeMap<Revision, Vec<(Key, Option<Kv>)>>,
}

impl<'a> Plan<'a> {
    fn of(history: &'a History, rules: &'a Rules) -> Plan<'a> {
        let mut plan = Plan {
            history,
            rules,
            claims: Vec::with_capacity(history.operations.len()),
            next_return_ns: Vec::new(),
            compactions: Vec::new(),
            floating: Vec::new(),
            open: Vec::new(),
            open_by_value: HashMap::new(),
            open_keeping_value: Vec::new(),
            open_by_lease: HashMap::new(),
            open_reads: Vec::new(),
            fated: HashMap::new(),
            last_alive_ns: HashMap::new(),
            seen: BTreeMap::new(),
        };
        for (at, operation) in (0..).zip(&history.operations) {
            if is_step(operation) {
                plan.add(OpId(at), operation);
            }
        }
        plan.claims.sort_by_key(|claim| (claim.revision, claim.rank));
        plan.open_reads.sort_unstable();
        plan.delay_silent_changes();
        plan.date_compactions();
        plan.next_return_ns = vec![NEVER_NS; plan.claims.len() + 1];
        for (at, claim) in plan.claims.iter().enumerate().rev() {
            plan.next_return_ns[at] = plan.next_return_ns[at + 1].min(claim.returned_ns);
        }
        plan.look_for_gaps();
        plan
    }

    fn add(&mut self, op: OpId, operation: &Operation) {
        match &operation.outcome {
            Outcome::Ok(answer) if has_revision(&operation.request) => {
                let rank = match answer.response.wrote() {
                    true => Rank::Wrote,
                    false if operation.is_serializable() => Rank::Serializable,
                    false => Rank::Other,
                };
                use Request::{Compact, Grant, Revoke};
                if let Compact { revision: floor } = operation.request {
                    let Operation { called_ns, returned_ns, .. } = *operation;
                    let (header, unneeded_at) = (answer.revision, 0);
                    let compaction = Compacting { floor, op, called_ns, returned_ns, header, unneeded_at };
                    self.compactions.push(compaction);
                }
                self.claims.push(Claim {
                    revision: answer.revision,
                    rank,
                    silent_change: matches!(operation.request, Compact { .. } | Grant { .. } | Revoke { .. }),
                    op,
                    called_ns: operation.called_ns,
                    returned_ns: operation.returned_ns,
                });
            }
            Outcome::Ok(answer) => {
                if let Request::KeepAlive { lease } | Request::TimeToLive { lease, .. } = operation.request
                    && shows_alive(&answer.response)
                {
                    self.last_alive_ns.insert(lease, operation.called_ns);
                }
                self.floating.push(op);
            }
            Outcome::Refused(_) => self.floating.push(op),
            Outcome::Unknown(fate) => {
                each_read(&operation.request, &mut |revision| self.open_reads.push((revision, op)));
                if let Fate::At(revision) = fate {
                    self.fated.insert(*revision, op);
                    return;
                }
                self.open.push(op);
                each_put(&operation.request, &mut |put| {
                    if put.ignore_value {
                        self.open_keeping_value.push(op);
                    } else {
                        self.open_by_value.entry(put.value).or_default().push(op);
                    }
                });
                if let Request::Grant { lease, .. } | Request::Revoke { lease } = operation.request {
                    self.open_by_lease.entry(lease).or_default().push(op);
                }
            }
        }
    }

    /// Orders compactions, and finds from where on nobody needs what each removes.
    fn date_compactions(&mut self) {
        if self.compactions.is_empty() {
            return;
        }
        self.compactions.sort_by_key(|compaction| (compaction.floor, compaction.called_ns));
        let needs = self.claims.iter().enumerate().filter_map(|(at, claim)| {
            let operation = self.history.op(claim.op);
            let Outcome::Ok(answer) = &operation.outcome else { return None };
            Some((oldest_read(&operation.request, &answer.response)?, at + 1))
        });
        let mut needs: Vec<(Revision, usize)> = needs.collect();
        needs.sort_unstable();
        let mut needs = needs.into_iter().peekable();
        let mut unneeded_at = 0;
        for compaction in &mut self.compactions {
            while let Some((_, after)) = needs.next_if(|(revision, _)| *revision < compaction.floor) {
                unneeded_at = unneeded_at.max(after);
            }
            compaction.unneeded_at = unneeded_at;
        }
    }

    /// Among claims of one revision, what changes the state all the same comes after all that were called before it
    /// returned. Whatever needs it earlier has it placed ahead (`Walk::assume`).
    fn delay_silent_changes(&mut self) {
        for window in self.claims.chunk_by_mut(|a, b| a.revision == b.revision) {
            if window.len() > 1 && window.iter().any(|claim| claim.silent_change) {
                window.sort_by_key(|claim| {
                    (claim.rank, if claim.silent_change { claim.returned_ns } else { claim.called_ns })
                });
            }
        }
    }

    /// Notes what was seen of revisions that no claim made.
    fn look_for_gaps(&mut self) {
        let writes = self.claims.iter().filter(|claim| claim.rank == Rank::Wrote);
        // Sorted, as the claims are.
        let claimed: Vec<Revision> = writes.map(|claim| claim.revision).collect();
        let last = self.claims.last().map_or(1, |claim| claim.revision);
        let complete =
            claimed.len() as Revision == last - 1 && claimed.first().is_none_or(|&first| first == 2);
        let mut see = |revision: Revision, key: Key, kv: Option<Kv>| {
            let known = (complete && revision <= last) || claimed.binary_search(&revision).is_ok();
            let seen = if known { return } else { self.seen.entry(revision).or_default() };
            if !seen.contains(&(key, kv)) {
                seen.push((key, kv));
            }
        };
        for event in
            self.history.streams.iter().flat_map(|stream| &stream.responses).flat_map(|it| &it.events)
        {
            see(event.kv.mod_revision, event.kv.key, (event.kind == EventKind::Put).then_some(event.kv));
        }
        if complete {
            return;
        }
        for operation in &self.history.operations {
            let Outcome::Ok(answer) = &operation.outcome else { continue };
            let keys_only = matches!(&operation.request, Request::Range(range) if range.keys_only);
            if !keys_only && !matches!(operation.request, Request::Txn(_)) {
                answer.response.each_kv(&mut |kv| see(kv.mod_revision, kv.key, Some(*kv)));
            }
        }
    }

    /// What can have made a revision, the likeliest first.
    fn explain(&self, walk: &Walk, revision: Revision) -> Vec<Filling> {
        if let Some(&op) = self.fated.get(&revision) {
            return self.try_filling(walk, revision, Maker::Op(op)).into_iter().collect();
        }
        let mut makers = Vec::new();
        let window = self.claims[walk.next..].iter().take_while(|claim| claim.revision <= revision);
        for claim in window.filter(|claim| !walk.ahead.contains(&claim.op)) {
            if let Request::Revoke { .. } = self.history.op(claim.op).request
                && claim.revision == revision
            {
                makers.push(Maker::Op(claim.op));
            }
        }
        let seen = self.seen.get(&revision).map_or(&[][..], Vec::as_slice);
        let of_value = seen.iter().find_map(|(_, kv)| kv.map(|kv| kv.value));
        let (open, more) = match of_value {
            Some(value) => {
                (self.open_by_value.get(&value).map_or(&[][..], Vec::as_slice), &self.open_keeping_value[..])
            }
            None => (&self.open[..], &[][..]),
        };
        let open = open.iter().chain(more).copied();
        makers.extend(open.filter(|op| !walk.used.contains(op)).map(Maker::Op));
        if of_value.is_none() {
            makers.extend(walk.state.leases_with_keys().map(Maker::Expiry));
        }
        let mut fillings: Vec<Filling> = Vec::new();
        for maker in makers {
            let Some(filling) = self.try_filling(walk, revision, maker) else { continue };
            let same = |other: &Filling| match (other.maker, maker) {
                (Maker::Op(a), Maker::Op(b)) => self.history.op(a).request == self.history.op(b).request,
                _ => false,
            };
            if !fillings.iter().any(same) {
                fillings.push(filling);
            }
        }
        // What changes more than was seen is less likely.
        fillings.sort_by_key(|filling| filling.events.len());
        fillings
    }

    /// The state if `maker` made `revision`; `None` if it cannot have.
    fn try_filling(&self, walk: &Walk, revision: Revision, maker: Maker) -> Option<Filling> {
        let mut state = walk.state.clone();
        let mut events = Vec::new();
        let called_ns = match maker {
            Maker::Op(op) => {
                let operation = self.history.op(op);
                if operation.returned_ns < walk.latest.0 {
                    return None;
                }
                let observed = match &operation.outcome {
                    Outcome::Ok(answer) => Some(&answer.response),
                    _ => None,
                };
                state.apply(&operation.request, observed, operation.called_ns, &mut events).ok()?;
                operation.called_ns
            }
            Maker::Expiry(lease) => {
                let due_ns = state.expires_ns(lease)?.saturating_sub(self.rules.clock_error_ns);
                state.expire(lease, NEVER_NS, &mut events);
                due_ns
            }
        };
        let seen = self.seen.get(&revision).map_or(&[][..], Vec::as_slice);
        let shows = |key: Key, kv: Option<Kv>| {
            events.iter().any(|event| {
                let made = (event.kind == EventKind::Put).then_some(event.kv);
                event.kv.key == key && made == kv
            })
        };
        let fits = state.revision() == revision
            && called_ns <= self.next_return_ns[walk.next]
            && seen.iter().all(|&(key, kv)| shows(key, kv));
        fits.then_some(Filling { maker, state, events, called_ns })
    }

    fn op(&self, op: OpId) -> &'a Operation {
        self.history.op(op)
    }

    fn is_compaction(&self, op: OpId) -> bool {
        matches!(self.op(op).request, Request::Compact { .. })
    }
}

/// Of an answer about a lease.
fn shows_alive(response: &Response) -> bool {
    match response {
        Response::KeepAlive { ttl_seconds } => *ttl_seconds > 0,
        Response::TimeToLive { ttl_seconds, .. } => *ttl_seconds >= 0,
        _ => false,
    }
}

/// The oldest revision that an answered request asked for by its number.
fn oldest_read(request: &Request, response: &Response) -> Option<Revision> {
    match (request, response) {
        (Request::Range(range), _) => Some(range.revision).filter(|revision| *revision > 0),
        (Request::Txn(txn), Response::Txn(answered)) => {
            let branch = if answered.succeeded { &txn.success } else { &txn.failure };
            let reads = branch.iter().zip(&answered.answers);
            reads.filter_map(|(op, (_, answer))| oldest_read(op, answer)).min()
        }
        _ => None,
    }
}

/// The newest revision that a request might ask for by its number.
fn newest_asked(request: &Request) -> Revision {
    let mut newest = if let Request::Compact { revision } = request { *revision } else { 0 };
    each_read(request, &mut |revision| newest = newest.max(revision));
    newest
}

/// Each revision of the past that a request may read.
fn each_read(request: &Request, each: &mut dyn FnMut(Revision)) {
    match request {
        Request::Range(range) if range.revision > 0 => each(range.revision),
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).for_each(|op| each_read(op, each)),
        _ => {}
    }
}

fn each_put(request: &Request, each: &mut dyn FnMut(&Put)) {
    match request {
        Request::Put(put) => each(put),
        Request::Txn(txn) => {
            let Txn { success, failure, .. } = &**txn;
            success.iter().chain(failure).for_each(|op| each_put(op, each));
        }
        _ => {}
    }
}

#[derive(Clone, Copy)]
enum Maker {
    Op(OpId),
    Expiry(LeaseId),
}

/// A way to make a revision that nobody claims.
struct Filling {
    maker: Maker,
    state: State,
    events: Vec<Event>,
    called_ns: u64,
}

/// A gap that something else could fill.
struct Choice {
    walk: Walk,
    others: Vec<Filling>,
}

/// How far the order has come.
#[derive(Clone)]
struct Walk {
    state: State,
    /// The next claim.
    next: usize,
    /// Claims further on that were placed already.
    ahead: OrdSet<OpId>,
    /// Writes of unknown outcome that were placed.
    used: OrdSet<OpId>,
    next_floating: usize,
    /// Floating operations that may be placed and are not yet, by call.
    afloat: Vec<OpId>,
    /// The latest call among what was placed, and whose it was.
    latest: (u64, Option<OpId>),
    /// The same without what might as well have been placed later.
    latest_claimed_ns: u64,
    /// Of those that were answered.
    next_compaction: usize,
    /// Placed, answered or not.
    compactions: usize,
    /// Something was placed that no answer shows directly.
    assumed: bool,
}

impl Walk {
    fn new(rules: &Rules) -> Walk {
        Walk {
            state: State::new(rules.model),
            next: 0,
            ahead: OrdSet::new(),
            used: OrdSet::new(),
            next_floating: 0,
            afloat: Vec::new(),
            latest: (0, None),
            latest_claimed_ns: 0,
            next_compaction: 0,
            compactions: 0,
            assumed: false,
        }
    }

    /// Places what comes next; false at the end.
    fn advance(
        &mut self,
        plan: &Plan,
        replay: &mut Replay,
        choices: &mut Vec<Choice>,
        events: &mut Vec<Event>,
    ) -> Result<bool, Stuck> {
        self.launch(plan, replay);
        let Some(&claim) = plan.claims.get(self.next) else {
            // Watches may show more than any answer does.
            let last_seen = plan.seen.keys().next_back().copied().unwrap_or(0);
            if last_seen > self.state.revision() {
                self.before_revision(plan, self.state.revision() + 1, replay)?;
                self.fill_gap(plan, None, choices, replay)?;
                return Ok(true);
            }
            self.settle(plan, NEVER_NS, replay)?;
            return Ok(false);
        };
        if self.ahead.contains(&claim.op) {
            self.next += 1;
            return Ok(true);
        }
        let missing = claim.revision - Revision::from(claim.rank == Rank::Wrote) - self.state.revision();
        if missing > 0 || claim.rank == Rank::Wrote {
            self.before_revision(plan, self.state.revision() + 1, replay)?;
        }
        if missing > 0 {
            self.fill_gap(plan, Some(claim.op), choices, replay)?;
            return Ok(true);
        }
        if missing < 0 {
            let what = format!("two writes made revision {}", claim.revision);
            return Err(Violation::new(what, [Some(claim.op), self.latest.1].into_iter().flatten()).into());
        }
        self.place(plan, claim.op, replay, events)?;
        self.next += 1;
        Ok(true)
    }

    /// Places an answered operation here.
    fn place(
        &mut self,
        plan: &Plan,
        op: OpId,
        replay: &mut Replay,
        events: &mut Vec<Event>,
    ) -> Result<(), Stuck> {
        let operation = plan.op(op);
        let Outcome::Ok(answer) = &operation.outcome else { unreachable!("a claim was answered") };
        let serializable = operation.is_serializable();
        if !serializable {
            self.settle(plan, operation.called_ns, replay)?;
        }
        let is_compaction = plan.is_compaction(op);
        if let Request::Compact { revision } = operation.request {
            while let Some(next) =
                plan.compactions.get(self.next_compaction).filter(|it| it.floor <= revision)
            {
                self.place_compaction_now(plan, next, replay)?;
            }
        }
        let before = self.state.fingerprint();
        self.prepare(plan, operation, replay);
        if !self.afloat.is_empty() && self.state.fingerprint() != before {
            self.land(plan, replay);
        }
        if operation.returned_ns < self.latest.0 {
            let what = format!(
                "it returned at {} ns with revision {}, which was not there before {} ns",
                operation.returned_ns, answer.revision, self.latest.0
            );
            return Err(Violation::new(what, [Some(op), self.latest.1].into_iter().flatten()).into());
        }
        events.clear();
        if !is_compaction {
            self.state
                .agrees(&operation.request, answer, operation.called_ns, events)
                .map_err(|what| Violation::new(what, [op]))?;
        }
        if !serializable {
            self.latest_claimed_ns = self.latest_claimed_ns.max(operation.called_ns);
            if operation.called_ns > self.latest.0 {
                self.latest = (operation.called_ns, Some(op));
            }
        }
        if !is_compaction {
            self.note(operation, events, replay);
        }
        Ok(())
    }

    /// Keeps the replay up with the state.
    fn note(&mut self, operation: &Operation, events: &[Event], replay: &mut Replay) {
        if !events.is_empty() {
            replay.push(events, self.latest_claimed_ns);
        }
        if let Request::Compact { revision } = operation.request {
            let not_after_ns = operation.returned_ns;
            replay.compactions.push(Compaction {
                revision,
                not_before_ns: operation.called_ns,
                not_after_ns,
            });
            self.compactions += 1;
        }
    }

    fn fill_gap(
        &mut self,
        plan: &Plan,
        claim: Option<OpId>,
        choices: &mut Vec<Choice>,
        replay: &mut Replay,
    ) -> Result<(), Stuck> {
        let revision = self.state.revision() + 1;
        let mut fillings = plan.explain(self, revision);
        if fillings.is_empty() {
            fillings.extend(self.fill_with_lease(plan, revision, replay));
        }
        if fillings.is_empty() {
            let violation = Violation::new(format!("nothing explains revision {revision}"), claim);
            return Err(Stuck {
                violation,
                another_order_might_help: claim.is_some_and(|op| plan.is_compaction(op)),
            });
        }
        let first = fillings.remove(0);
        // What must come before this write is placed first, and may change the choice.
        if self.afloat.iter().any(|&op| plan.op(op).returned_ns < first.called_ns) {
            self.settle(plan, first.called_ns, replay)?;
            return Ok(());
        }
        if !fillings.is_empty() {
            fillings.reverse();
            choices.push(Choice { walk: self.clone(), others: fillings });
        }
        self.fill(plan, first, replay);
        Ok(())
    }

    /// A write that makes `revision` with a lease that nobody knows to be granted; the grant is assumed.
    fn fill_with_lease(&mut self, plan: &Plan, revision: Revision, replay: &mut Replay) -> Option<Filling> {
        if plan.open_by_lease.is_empty() {
            return None;
        }
        let open = plan.open.iter().filter(|op| !self.used.contains(*op));
        for &op in plan.fated.get(&revision).into_iter().chain(open) {
            let mut walk = self.clone();
            walk.prepare(plan, plan.op(op), replay);
            if walk.state.fingerprint() != self.state.fingerprint()
                && let Some(filling) = plan.try_filling(&walk, revision, Maker::Op(op))
            {
                *self = walk;
                return Some(filling);
            }
        }
        None
    }

    fn fill(&mut self, plan: &Plan, filling: Filling, replay: &mut Replay) {
        let by = match filling.maker {
            Maker::Op(op) => {
                if matches!(plan.op(op).outcome, Outcome::Unknown(_)) {
                    self.used.insert(op);
                } else {
                    self.ahead.insert(op);
                }
                Some(op)
            }
            Maker::Expiry(_) => None,
        };
        let by_value =
            plan.seen.get(&filling.state.revision()).is_some_and(|it| it.iter().any(|(_, kv)| kv.is_some()));
        self.assumed |= !by_value;
        self.state = filling.state;
        if filling.called_ns > self.latest.0 {
            self.latest = (filling.called_ns, by);
        }
        self.latest_claimed_ns = self.latest_claimed_ns.max(filling.called_ns);
        replay.push(&filling.events, self.latest_claimed_ns);
    }

    /// Lets go of floating operations whose time has come, and places what fits here.
    fn launch(&mut self, plan: &Plan, replay: &mut Replay) {
        while let Some(&op) = plan.floating.get(self.next_floating)
            && plan.op(op).called_ns < plan.next_return_ns[self.next]
        {
            self.afloat.push(op);
            self.next_floating += 1;
        }
        loop {
            if !self.afloat.is_empty() {
                self.land(plan, replay);
            }
            if !self.compact(plan, replay) {
                return;
            }
        }
    }

    /// Whether a compaction was placed whose header is to come: what it names is not the model's to judge (`headers`).
    fn trusts_a_header(&self, plan: &Plan) -> bool {
        plan.compactions[..self.next_compaction].iter().any(|it| it.header >= self.state.revision())
    }

    /// Places the next compaction if nothing is in its way.
    fn compact(&mut self, plan: &Plan, replay: &mut Replay) -> bool {
        let Some(next) = plan.compactions.get(self.next_compaction) else { return false };
        // A write that nobody knows the end of and that this would refuse may be needed yet.
        let from = plan.open_reads.partition_point(|(revision, _)| *revision < self.state.compacted());
        let mut open = plan.open_reads[from..].iter().take_while(|(revision, _)| *revision < next.floor);
        next.unneeded_at <= self.next
            && open.all(|(_, op)| self.used.contains(op) || plan.op(*op).called_ns > next.returned_ns)
            && next.called_ns <= plan.next_return_ns[self.next]
            && self.afloat.iter().all(|&op| plan.op(op).returned_ns >= next.called_ns)
            && self.place_compaction(plan, next, replay).is_ok()
    }

    /// Places the next compaction, which can wait no longer.
    fn place_compaction_now(
        &mut self,
        plan: &Plan,
        next: &Compacting,
        replay: &mut Replay,
    ) -> Result<(), Stuck> {
        let at = self.next_compaction;
        self.settle(plan, next.called_ns, replay)?;
        if self.next_compaction == at {
            self.place_compaction(plan, next, replay)?;
        }
        Ok(())
    }

    fn place_compaction(
        &mut self,
        plan: &Plan,
        next: &Compacting,
        replay: &mut Replay,
    ) -> Result<(), Violation> {
        let operation = plan.op(next.op);
        let what = if next.returned_ns < self.latest.0 {
            format!("it returned at {} ns, before {} ns", next.returned_ns, self.latest.0)
        } else if !matches!(&operation.outcome, Outcome::Ok(answer) if answer.response == Response::Compact) {
            format!("observed {:?}", operation.outcome)
        } else if let Err(refusal) =
            self.state.apply(&operation.request, None, next.called_ns, &mut Vec::new())
        {
            format!("expected {refusal:?}")
        } else {
            self.next_compaction += 1;
            if next.called_ns > self.latest.0 {
                self.latest = (next.called_ns, Some(next.op));
            }
            self.note(operation, &[], replay);
            return Ok(());
        };
        let what = format!("a compaction at {} cannot have been then: {what}", next.floor);
        Err(Violation::new(what, [Some(next.op), self.latest.1].into_iter().flatten()))
    }

    /// What cannot come after the next revision comes now.
    fn before_revision(&mut self, plan: &Plan, revision: Revision, replay: &mut Replay) -> Result<(), Stuck> {
        for op in self.afloat.clone() {
            let operation = plan.op(op);
            if operation.outcome == Outcome::Refused(Refusal::FutureRevision)
                && newest_asked(&operation.request) == revision
                && self.refuses(operation) == Some(Refusal::FutureRevision)
            {
                self.settle(plan, operation.called_ns, replay)?;
                self.land(plan, replay);
            }
        }
        Ok(())
    }

    /// Places every floating operation that the state explains.
    fn land(&mut self, plan: &Plan, replay: &mut Replay) {
        let mut earliest_return_ns = NEVER_NS;
        let mut left = Vec::new();
        for op in std::mem::take(&mut self.afloat) {
            let operation = plan.op(op);
            let in_turn = operation.called_ns <= earliest_return_ns && operation.returned_ns >= self.latest.0;
            if in_turn && self.explains(plan, operation) {
                if operation.called_ns > self.latest.0 {
                    self.latest = (operation.called_ns, Some(op));
                }
                self.note(operation, &[], replay);
            } else {
                earliest_return_ns = earliest_return_ns.min(operation.returned_ns);
                left.push(op);
            }
        }
        self.afloat = left;
    }

    /// Whether a floating operation is as it would be now; if so it has happened.
    fn explains(&mut self, plan: &Plan, operation: &Operation) -> bool {
        let mut state = self.state.clone();
        let (request, called_ns) = (&operation.request, operation.called_ns);
        let mut events = Vec::new();
        let explained = match &operation.outcome {
            Outcome::Ok(answer) => state.agrees(request, answer, called_ns, &mut events).is_ok(),
            Outcome::Refused(refusal) => {
                state.apply(request, None, called_ns, &mut events).err() == Some(*refusal)
            }
            Outcome::Unknown(_) => unreachable!("only what ended is afloat: {:?}", plan.rules),
        };
        if explained {
            self.state = state;
        }
        explained
    }

    /// Places all floating operations that returned before `called_ns`.
    fn settle(&mut self, plan: &Plan, called_ns: u64, replay: &mut Replay) -> Result<(), Stuck> {
        let returned_ns = |&op: &OpId| plan.op(op).returned_ns;
        while let Some(op) = self.afloat.iter().copied().min_by_key(returned_ns)
            && returned_ns(&op) < called_ns
        {
            self.land(plan, replay);
            if !self.afloat.contains(&op) {
                continue;
            }
            let before = self.state.fingerprint();
            self.assume_for(plan, plan.op(op), replay);
            if self.state.fingerprint() == before {
                let what = format!("nothing explains {:?}", plan.op(op).outcome);
                let violation = Violation::new(what, [Some(op), self.latest.1].into_iter().flatten());
                return Err(Stuck { violation, another_order_might_help: true });
            }
        }
        Ok(())
    }

    /// Assumes what an answer of a claim needs and no other answer shows.
    fn prepare(&mut self, plan: &Plan, operation: &Operation, replay: &mut Replay) {
        match &operation.request {
            Request::Put(put) if put.lease != 0 => {
                self.assume_lease(plan, operation, put.lease, true, replay)
            }
            Request::Revoke { lease } => self.assume_lease(plan, operation, *lease, true, replay),
            // Compactions only go forward.
            Request::Compact { revision } => {
                while let Some(next) = plan.compactions.get(self.next_compaction)
                    && next.floor < *revision
                    && next.called_ns <= plan.next_return_ns[self.next]
                    && self.place_compaction(plan, next, replay).is_ok()
                {}
            }
            Request::Grant { .. } => {
                if let Outcome::Ok(answer) = &operation.outcome
                    && let Response::Grant { lease, .. } = answer.response
                {
                    self.assume_lease(plan, operation, lease, false, replay);
                }
            }
            Request::Txn(txn) => {
                let mut missing = Vec::new();
                each_lease(txn, &mut |lease| missing.push(lease));
                missing.retain(|&lease| !self.state.has_lease(lease));
                for lease in missing {
                    if self.refuses(operation) != Some(Refusal::LeaseNotFound) {
                        break;
                    }
                    self.assume_lease(plan, operation, lease, true, replay);
                }
            }
            _ => {}
        }
    }

    /// What the request would be refused for now.
    fn refuses(&self, operation: &Operation) -> Option<Refusal> {
        self.state.clone().apply(&operation.request, None, operation.called_ns, &mut Vec::new()).err()
    }

    /// The same for a floating operation that must be placed now.
    fn assume_for(&mut self, plan: &Plan, operation: &Operation, replay: &mut Replay) {
        let leases: Vec<LeaseId> = match &operation.request {
            Request::Put(put) => vec![put.lease],
            Request::Grant { lease, .. }
            | Request::Revoke { lease }
            | Request::KeepAlive { lease }
            | Request::TimeToLive { lease, .. } => vec![*lease],
            Request::Txn(txn) => {
                let mut leases = Vec::new();
                each_lease(txn, &mut |lease| leases.push(lease));
                leases
            }
            _ => Vec::new(),
        };
        match &operation.outcome {
            Outcome::Refused(Refusal::Compacted) => {
                // Its puts are looked at before its ranges.
                if matches!(operation.request, Request::Txn(_)) {
                    self.prepare(plan, operation, replay);
                }
                self.assume_compaction(plan, operation, replay);
            }
            Outcome::Refused(refusal @ (Refusal::LeaseNotFound | Refusal::LeaseExists)) => {
                // Of several leases only one that is on the path taken explains it; least one that is seen later.
                let mut leases = leases;
                leases.sort_by_key(|lease| plan.last_alive_ns.get(lease));
                for lease in leases {
                    let mut walk = self.clone();
                    walk.assume_lease(plan, operation, lease, *refusal == Refusal::LeaseExists, replay);
                    if walk.refuses(operation) == Some(*refusal) {
                        *self = walk;
                        return;
                    }
                }
            }
            // It came as far as being refused for something else.
            Outcome::Refused(_) => self.prepare(plan, operation, replay),
            Outcome::Ok(answer) => {
                let alive = shows_alive(&answer.response);
                leases.iter().for_each(|&lease| self.assume_lease(plan, operation, lease, alive, replay));
            }
            _ => {}
        }
    }

    /// Makes a lease be there, or not, by a step that changes no revision, if there is one.
    fn assume_lease(
        &mut self,
        plan: &Plan,
        by: &Operation,
        lease: LeaseId,
        alive: bool,
        replay: &mut Replay,
    ) {
        if self.state.has_lease(lease) == alive || (!alive && self.state.lease_has_keys(lease)) {
            return;
        }
        let does = |operation: &Operation| match (&operation.request, &operation.outcome) {
            (Request::Grant { .. }, Outcome::Ok(answer)) => {
                alive && matches!(answer.response, Response::Grant { lease: granted, .. } if granted == lease)
            }
            (Request::Grant { lease: granted, .. }, _) => alive && *granted == lease,
            (Request::Revoke { lease: revoked }, _) => !alive && *revoked == lease,
            _ => false,
        };
        if self.assume(plan, by, plan.open_by_lease.get(&lease).map_or(&[], Vec::as_slice), &does, replay)
            || alive
        {
            return;
        }
        let due_ns = self.state.expires_ns(lease).map(|due| due.saturating_sub(plan.rules.clock_error_ns));
        if let Some(due_ns) = due_ns.filter(|&due| due <= plan.next_return_ns[self.next].min(by.returned_ns))
        {
            self.state.expire(lease, NEVER_NS, &mut Vec::new());
            self.assumed = true;
            if due_ns > self.latest.0 {
                self.latest = (due_ns, None);
            }
        }
    }

    /// Compacts no further than what `by` was refused for.
    fn assume_compaction(&mut self, plan: &Plan, by: &Operation, replay: &mut Replay) {
        let answered = plan.compactions[self.next_compaction..].iter();
        let answered = answered.take_while(|it| it.floor <= self.state.revision()).map(|it| it.op);
        let open = plan.open.iter().copied().filter(|op| !self.used.contains(op));
        let mut compactions: Vec<(Revision, OpId)> = Vec::new();
        for op in answered.chain(open) {
            let Request::Compact { revision } = plan.op(op).request else { continue };
            let mut state = self.state.clone();
            let mut events = Vec::new();
            let suffices = state.apply(&plan.op(op).request, None, 0, &mut events).is_ok()
                && state.apply(&by.request, None, 0, &mut events) == Err(Refusal::Compacted);
            if suffices {
                compactions.push((revision, op));
            }
        }
        compactions.sort_unstable();
        for (_, op) in compactions {
            let compaction = plan.op(op);
            let mut walk = self.clone();
            // Those that do not go so far must have come before.
            walk.prepare(plan, compaction, replay);
            let placed = match plan.compactions.get(walk.next_compaction).filter(|next| next.op == op) {
                Some(next) => {
                    next.called_ns <= plan.next_return_ns[walk.next].min(by.returned_ns)
                        && walk.place_compaction(plan, next, replay).is_ok()
                }
                None => {
                    let it = |operation: &Operation| std::ptr::eq(operation, compaction);
                    walk.assume(plan, by, &[op], &it, replay)
                }
            };
            if placed {
                *self = walk;
                return;
            }
            replay.truncate(self.state.revision(), self.compactions);
        }
    }

    /// Places one operation now that changes no revision: an answer a little further on, or one of unknown outcome.
    fn assume(
        &mut self,
        plan: &Plan,
        by: &Operation,
        open: &[OpId],
        does: &dyn Fn(&Operation) -> bool,
        replay: &mut Replay,
    ) -> bool {
        let revision = self.state.revision();
        let window = plan.claims[self.next..].iter().take_while(|claim| claim.revision == revision);
        let ahead = window.map(|claim| claim.op).filter(|op| !self.ahead.contains(op));
        let open = open.iter().copied().filter(|op| !self.used.contains(op) && !self.ahead.contains(op));
        let candidates: Vec<OpId> = ahead.chain(open).filter(|&op| does(plan.op(op))).collect();
        for op in candidates {
            let operation = plan.op(op);
            let in_time = operation.called_ns <= by.returned_ns
                && operation.called_ns <= plan.next_return_ns[self.next]
                && operation.returned_ns >= self.latest.0;
            let mut state = self.state.clone();
            let mut events = Vec::new();
            let done = match &operation.outcome {
                Outcome::Ok(answer) => {
                    state.agrees(&operation.request, answer, operation.called_ns, &mut events).is_ok()
                }
                _ => state.apply(&operation.request, None, operation.called_ns, &mut events).is_ok(),
            };
            if !in_time || !done || !events.is_empty() {
                continue;
            }
            self.state = state;
            self.assumed = true;
            if matches!(operation.outcome, Outcome::Unknown(_)) {
                self.used.insert(op);
            } else {
                self.ahead.insert(op);
            }
            if operation.called_ns > self.latest.0 {
                self.latest = (operation.called_ns, Some(op));
            }
            self.note(operation, &[], replay);
            return true;
        }
        false
    }
}

fn each_lease(txn: &Txn, each: &mut dyn FnMut(LeaseId)) {
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Request::Put(put) if put.lease != 0 => each(put.lease),
            Request::Txn(nested) => each_lease(nested, each),
            _ => {}
        }
    }
}
