//! Leases in time: gone when their time is over, and never listed before they were granted.
//!
//! That none ends early, that its keys die in one revision and that a keepalive after its end answers 0 is the model's
//! to say, in the order that `witness` accepts. What the order cannot show is a lease that lives on: here nobody may
//! see one alive longer than its time after the last moment at which it can have been renewed.
//! A keepalive of unknown outcome renews at any time, so it ends what can be said of its lease.

use std::collections::HashMap;

use super::{Verdict, Violation};
use crate::history::{Fate, History, LeaseId, Member, NEVER_NS, OpId, Operation, Outcome, Request, Response};

/// A moment at which a lease was there, by an answer.
#[derive(Clone, Copy)]
struct Alive {
    op: OpId,
    called_ns: u64,
    /// If this renewed it: until when that can have happened, and for how long.
    renewed: Option<(u64, i64)>,
}

/// `grace_ns` is how much longer than its time a lease may live: a second for the server's scan, and what the leaders
/// that changed in the run add, each at most one time to live.
pub fn check(history: &History, grace_ns: u64) -> Verdict {
    let mut leases: HashMap<LeaseId, Vec<Alive>> = HashMap::new();
    for (at, operation) in (0..).zip(&history.operations) {
        observe(OpId(at), operation, &mut leases);
    }
    let late = leases.iter().filter_map(|(&lease, alive)| outlived(lease, alive, grace_ns).err());
    let first = late.min_by_key(|violation| violation.ops.first().copied());
    Verdict::of(first.map_or(Ok(()), Err).and_then(|()| listed(history)))
}

/// Judges the ends of leases that the cluster brought about by itself: none comes before the time that was promised
/// last is over. `fast_percent`: by how much clocks may have gone too fast.
pub fn check_ends(history: &History, fast_percent: u64) -> Verdict {
    let mut promises: HashMap<LeaseId, Vec<(OpId, u64, u64)>> = HashMap::new();
    for (at, operation) in (0..).zip(&history.operations) {
        let Outcome::Ok(answer) = &operation.outcome else { continue };
        let (lease, ttl_seconds) = match (&operation.request, &answer.response) {
            (_, &Response::Grant { lease, ttl_seconds }) => (lease, ttl_seconds),
            (&Request::KeepAlive { lease }, &Response::KeepAlive { ttl_seconds }) => (lease, ttl_seconds),
            _ => continue,
        };
        let ttl_ns = (ttl_seconds.max(0) as u64).saturating_mul(1_000_000_000);
        let until_ns = operation.called_ns.saturating_add(ttl_ns / (100 + fast_percent) * 100);
        promises.entry(lease).or_default().push((OpId(at), operation.called_ns, until_ns));
    }
    for (at, operation) in (0..).zip(&history.operations) {
        let Request::Revoke { lease } = operation.request else { continue };
        if operation.member != Member::CLUSTER {
            continue;
        }
        let ended_ns = operation.returned_ns;
        let broken = promises
            .get(&lease)
            .into_iter()
            .flatten()
            .find(|(_, called_ns, until_ns)| *called_ns < ended_ns && ended_ns < *until_ns);
        if let Some((promise, _, until_ns)) = broken {
            let what = format!("lease {lease} ended at {ended_ns} ns, promised until {until_ns} ns");
            return Verdict::Violation(Violation::new(what, [OpId(at), *promise]));
        }
    }
    Verdict::Ok
}

/// Notes the leases that an operation shows or may renew.
fn observe(op: OpId, operation: &Operation, leases: &mut HashMap<LeaseId, Vec<Alive>>) {
    let called_ns = operation.called_ns;
    let mut note = |lease: LeaseId, renewed: Option<(u64, i64)>| {
        leases.entry(lease).or_default().push(Alive { op, called_ns, renewed });
    };
    match (&operation.request, &operation.outcome) {
        (Request::Grant { lease, ttl_seconds }, Outcome::Unknown(Fate::Open | Fate::At(_))) => {
            note(*lease, Some((NEVER_NS, *ttl_seconds)));
        }
        (Request::KeepAlive { lease }, Outcome::Unknown(_)) => note(*lease, Some((NEVER_NS, 0))),
        (request, Outcome::Ok(answer)) => match (request, &answer.response) {
            (_, &Response::Grant { lease, ttl_seconds }) => {
                note(lease, Some((operation.returned_ns, ttl_seconds)));
            }
            (Request::KeepAlive { lease }, &Response::KeepAlive { ttl_seconds }) if ttl_seconds > 0 => {
                note(*lease, Some((operation.returned_ns, ttl_seconds)));
            }
            (Request::TimeToLive { lease, .. }, &Response::TimeToLive { ttl_seconds, .. })
                if ttl_seconds >= 0 =>
            {
                note(*lease, None);
            }
            (Request::Range(range), Response::Range(ranged))
                if !range.serializable && range.revision <= 0 =>
            {
                for kv in ranged.kvs.iter().filter(|kv| kv.lease != 0) {
                    note(kv.lease, None);
                }
            }
            _ => {}
        },
        _ => {}
    }
}

/// `alive` is in the order of the calls.
fn outlived(lease: LeaseId, alive: &[Alive], grace_ns: u64) -> Result<(), Violation> {
    let mut over: Option<(u64, OpId)> = None;
    for it in alive {
        if let Some((over_ns, last)) = over
            && it.called_ns > over_ns
        {
            let what = format!("lease {lease} is alive at {} ns, over since {over_ns} ns", it.called_ns);
            return Err(Violation::new(what, [it.op, last]));
        }
        if let Some((renewed_ns, ttl_seconds)) = it.renewed {
            let ttl_ns = (ttl_seconds.max(0) as u64).saturating_mul(1_000_000_000);
            let over_ns = renewed_ns.saturating_add(ttl_ns).saturating_add(grace_ns);
            over = over.max(Some((over_ns, it.op)));
        }
    }
    Ok(())
}

/// A member's own list may be old, but holds nothing that nobody granted.
fn listed(history: &History) -> Result<(), Violation> {
    let mut granted: HashMap<LeaseId, u64> = HashMap::new();
    let mut server_chose = false;
    for operation in &history.operations {
        let lease = match (&operation.request, &operation.outcome) {
            (Request::Grant { .. }, Outcome::Ok(answer)) => match answer.response {
                Response::Grant { lease, .. } => lease,
                _ => continue,
            },
            (Request::Grant { lease, .. }, Outcome::Unknown(_)) => *lease,
            _ => continue,
        };
        server_chose |= lease == 0;
        granted.entry(lease).or_insert(operation.called_ns);
    }
    for (at, operation) in (0..).zip(&history.operations) {
        let Outcome::Ok(answer) = &operation.outcome else { continue };
        let Response::Leases(leases) = &answer.response else { continue };
        for lease in leases.iter().filter(|_| !server_chose) {
            if granted.get(lease).is_none_or(|&called_ns| called_ns > operation.returned_ns) {
                return Err(Violation::new(format!("nobody granted lease {lease}"), [OpId(at)]));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::history::{
        Answer, Client, Fate, History, Member, NEVER_NS, Operation, Outcome, Request, Response,
    };

    const SECOND: u64 = 1_000_000_000;

    fn op(called: u64, request: Request, response: Option<Response>) -> Operation {
        let called_ns = called * SECOND;
        let outcome = match response {
            Some(response) => Outcome::Ok(Answer { revision: 1, member: Member(0), response }),
            None => Outcome::Unknown(Fate::Open),
        };
        let returned_ns = if matches!(outcome, Outcome::Ok(_)) { called_ns + SECOND } else { NEVER_NS };
        Operation { client: Client(0), member: Member(0), called_ns, returned_ns, request, outcome }
    }

    fn granted(called: u64) -> Operation {
        let response = Response::Grant { lease: 7, ttl_seconds: 5 };
        op(called, Request::Grant { lease: 7, ttl_seconds: 5 }, Some(response))
    }

    fn kept(called: u64, ttl_seconds: i64) -> Operation {
        op(called, Request::KeepAlive { lease: 7 }, Some(Response::KeepAlive { ttl_seconds }))
    }

    fn left(called: u64, ttl_seconds: i64) -> Operation {
        let response = Response::TimeToLive { ttl_seconds, granted_seconds: 5, keys: Box::default() };
        op(called, Request::TimeToLive { lease: 7, keys: false }, Some(response))
    }

    fn is_ok(operations: Vec<Operation>) -> bool {
        check(&History { operations, ..History::default() }, SECOND).is_ok()
    }

    #[test]
    fn a_lease_is_gone_when_its_time_is_over() {
        // Granted until 1 s, so over at 7 s with the grace.
        assert!(is_ok(vec![granted(0), left(7, 1)]));
        assert!(!is_ok(vec![granted(0), left(8, 1)]));
        assert!(is_ok(vec![granted(0), left(8, -1)]));
        assert!(!is_ok(vec![granted(0), kept(8, 5)]));
        assert!(is_ok(vec![granted(0), kept(8, 0)]));
    }

    #[test]
    fn keeping_alive_moves_the_end() {
        assert!(is_ok(vec![granted(0), kept(4, 5), left(11, 1)]));
        assert!(!is_ok(vec![granted(0), kept(4, 5), left(12, 1)]));
        assert!(is_ok(vec![granted(0), op(4, Request::KeepAlive { lease: 7 }, None), left(99, 1)]));
    }

    #[test]
    fn lists_hold_what_was_granted() {
        let list = |lease| op(3, Request::Leases, Some(Response::Leases([lease].into())));
        assert!(is_ok(vec![granted(0), list(7)]));
        assert!(!is_ok(vec![granted(0), list(8)]));
    }
}
