//! The steps that an order of a history is made of, and when each may be taken.
//!
//! A step is an operation with its outcome, or the end of a lease that nobody revoked. Reads of unknown outcome, and
//! what is answered from a member's own view of leases, are no steps: they prove nothing.
//! A serializable read may show any state that was there before it returned: it counts as called at the start.

use super::{Rules, search::Problem};
use crate::{
    history::{Fate, History, LeaseId, NEVER_NS, OpId, Operation, Outcome, Refusal, Request},
    model::State,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: Kind,
    pub called_ns: u64,
    pub returned_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Op(OpId),
    /// The end of a lease; nobody asked for it.
    Expiry(LeaseId),
}

/// A history as a problem for `search`.
pub struct Steps<'a> {
    history: &'a History,
    rules: Rules,
    pub steps: Vec<Step>,
}

/// The store, and what real time says of the next step.
#[derive(Clone)]
pub struct Position {
    pub state: State,
    /// A lease ended, so this late it was at least.
    pub not_before_ns: u64,
}

/// Whether an operation is a step at all.
pub fn is_step(operation: &Operation) -> bool {
    match &operation.outcome {
        _ if operation.request == Request::Leases => false,
        Outcome::Ok(_) => true,
        Outcome::Refused(Refusal::Unmodelled) => false,
        // A member that lags refuses what others know.
        Outcome::Refused(Refusal::FutureRevision) => !operation.is_serializable(),
        Outcome::Refused(_) => true,
        Outcome::Unknown(Fate::Never) => false,
        // That a lease was kept alive longer than anybody knows forbids nothing.
        Outcome::Unknown(_) => {
            operation.request.writes() && !matches!(operation.request, Request::KeepAlive { .. })
        }
    }
}

/// The earliest time a lease that was granted so can end, with the seconds it may be short of.
fn earliest_end_ns(called_ns: u64, ttl_seconds: i64, rules: &Rules) -> u64 {
    let seconds = ttl_seconds.max(rules.model.min_ttl_seconds) as u64;
    called_ns.saturating_add(seconds.saturating_mul(1_000_000_000)).saturating_sub(rules.clock_error_ns)
}

impl<'a> Steps<'a> {
    pub fn of(history: &'a History, rules: &Rules) -> Steps<'a> {
        let mut steps = Vec::new();
        for (at, operation) in (0..).zip(&history.operations) {
            if !is_step(operation) {
                continue;
            }
            let called_ns = if operation.is_serializable() { 0 } else { operation.called_ns };
            steps.push(Step { kind: Kind::Op(OpId(at)), called_ns, returned_ns: operation.returned_ns });
            if let Some((lease, ttl_seconds)) = granted(operation) {
                let called_ns = earliest_end_ns(operation.called_ns, ttl_seconds, rules);
                steps.push(Step { kind: Kind::Expiry(lease), called_ns, returned_ns: NEVER_NS });
            }
        }
        Steps { history, rules: *rules, steps }
    }

    fn operation_step(&self, position: &mut Position, operation: &Operation) -> Option<()> {
        let (request, called_ns) = (&operation.request, operation.called_ns);
        let state = &mut position.state;
        let before = state.fingerprint();
        let mut events = Vec::new();
        match &operation.outcome {
            Outcome::Ok(answer) => state.agrees(request, answer, called_ns, &mut events).ok(),
            Outcome::Refused(refusal) => {
                (state.apply(request, None, called_ns, &mut events).err() == Some(*refusal)).then_some(())
            }
            Outcome::Unknown(fate) => {
                let (revision, _) = state.apply(request, None, called_ns, &mut events).ok()?;
                let fated = match fate {
                    Fate::At(at) => revision == *at && !events.is_empty(),
                    _ => true,
                };
                (fated && state.fingerprint() != before).then_some(())
            }
        }
    }
}

/// The lease that an operation granted or may have granted, and the seconds asked for.
fn granted(operation: &Operation) -> Option<(LeaseId, i64)> {
    let Request::Grant { lease, ttl_seconds } = operation.request else { return None };
    match &operation.outcome {
        Outcome::Ok(answer) => match answer.response {
            crate::history::Response::Grant { lease, .. } => Some((lease, ttl_seconds)),
            _ => None,
        },
        Outcome::Unknown(_) if lease != 0 => Some((lease, ttl_seconds)),
        _ => None,
    }
}

impl Problem for Steps<'_> {
    type State = Position;

    fn len(&self) -> usize {
        self.steps.len()
    }

    fn called_ns(&self, step: usize) -> u64 {
        self.steps[step].called_ns
    }

    fn returned_ns(&self, step: usize) -> u64 {
        self.steps[step].returned_ns
    }

    fn only_looks(&self, step: usize) -> bool {
        use Request::{Compact, Grant, KeepAlive, Revoke};
        let Kind::Op(op) = self.steps[step].kind else { return false };
        let operation = self.history.op(op);
        match &operation.outcome {
            Outcome::Ok(answer) => {
                let silent = matches!(
                    operation.request,
                    Compact { .. } | Grant { .. } | KeepAlive { .. } | Revoke { .. }
                );
                !silent && !answer.response.wrote()
            }
            Outcome::Refused(_) => true,
            Outcome::Unknown(_) => false,
        }
    }

    fn start(&self) -> Position {
        Position { state: State::new(self.rules.model), not_before_ns: 0 }
    }

    fn step(&self, position: &Position, step: usize) -> Option<Position> {
        let step = &self.steps[step];
        if step.returned_ns < position.not_before_ns {
            return None;
        }
        let mut next = position.clone();
        match step.kind {
            Kind::Op(id) => self.operation_step(&mut next, self.history.op(id))?,
            Kind::Expiry(lease) => {
                let due_ns = next.state.expires_ns(lease)?.saturating_sub(self.rules.clock_error_ns);
                next.state.expire(lease, NEVER_NS, &mut Vec::new());
                next.not_before_ns = next.not_before_ns.max(due_ns);
            }
        }
        Some(next)
    }

    fn fingerprint(&self, position: &Position) -> u128 {
        position.state.fingerprint() ^ (u128::from(position.not_before_ns) << 64)
    }
}
