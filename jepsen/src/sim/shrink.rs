//! A failing plan made smaller: what can be left out while the same invariant still breaks.
//!
//! Faults go in halves, quarters and so on, then one by one; then clients, watchers and time. Each try is a whole run,
//! so the work is bounded by the number of tries. What is left is a plan, whose text can be kept.

use super::{Plan, Report, run};

/// The smallest plan found, and what it showed. `told` hears of each step: tries so far and faults left.
pub fn shrink(failed: Report, tries: usize, mut told: impl FnMut(usize, &Plan)) -> Report {
    let mut best = failed;
    let mut left = tries;
    let mut attempt = |plan: Plan, best: &mut Report| -> bool {
        if left == 0 || plan == best.plan {
            return false;
        }
        left -= 1;
        let report = run(&plan);
        let same = match (&report.failure, &best.failure) {
            (Some(now), Some(before)) => now.invariant() == before.invariant(),
            _ => false,
        };
        if same {
            told(tries - left, &plan);
            *best = report;
        }
        same
    };
    // What comes after the failure had no part in it.
    if let Some(failure) = &best.failure {
        let chaos_ms = (failure.at_ns / 1_000_000 + 1).min(best.plan.chaos_ms);
        let mut plan = best.plan.clone();
        plan.chaos_ms = chaos_ms;
        plan.faults.retain(|fault| fault.at_ms <= chaos_ms);
        attempt(plan, &mut best);
    }
    let mut length = best.plan.faults.len().div_ceil(2);
    while length > 0 {
        let mut at = 0;
        while at < best.plan.faults.len() {
            let mut plan = best.plan.clone();
            let end = (at + length).min(plan.faults.len());
            plan.faults.drain(at..end);
            if !attempt(plan, &mut best) {
                at += length;
            }
        }
        length /= 2;
    }
    attempt(Plan { auth: false, ..best.plan.clone() }, &mut best);
    while best.plan.watchers > 0 {
        let plan = Plan { watchers: best.plan.watchers - 1, ..best.plan.clone() };
        if !attempt(plan, &mut best) {
            break;
        }
    }
    while best.plan.clients > 1 {
        let plan = Plan { clients: best.plan.clients - 1, ..best.plan.clone() };
        if !attempt(plan, &mut best) {
            break;
        }
    }
    for part in [2, 4, 8] {
        let chaos_ms = best.plan.chaos_ms - best.plan.chaos_ms / part;
        let mut plan = Plan { chaos_ms, ..best.plan.clone() };
        plan.faults.retain(|fault| fault.at_ms <= chaos_ms);
        attempt(plan, &mut best);
    }
    best
}
