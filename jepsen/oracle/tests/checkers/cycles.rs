//! The cycle check: valid runs pass, each anomaly is found and named.

use oracle::{
    check::{
        Verdict,
        cycle::{Step, Txn, check},
    },
    history::{NEVER_NS, OpId},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;

fn append(list: u32, element: u64) -> Step {
    Step::Append { list, element }
}

fn read(list: u32, elements: &[u64]) -> Step {
    Step::Read { list, elements: elements.to_vec() }
}

/// All at the same time, but for those given times.
fn txns(all: &[(&[Step], Option<(u64, u64)>)]) -> Vec<Txn> {
    let txn = |(at, (steps, times)): (u32, &(&[Step], Option<(u64, u64)>))| {
        let (called_ns, returned_ns) = times.unwrap_or((0, 1_000));
        Txn { op: OpId(at), called_ns, returned_ns, may_have_happened: true, steps: steps.to_vec() }
    };
    (0..).zip(all).map(txn).collect()
}

fn what(txns: &[Txn]) -> String {
    match check(txns) {
        Verdict::Ok => "ok".to_string(),
        Verdict::Violation(violation) => violation.what,
        Verdict::Unknown { why, .. } => why,
    }
}

/// Transactions of `clients` that overlap, carried out one at a time.
pub fn serializable_txns(count: usize, clients: u64, seed: u64) -> Vec<Txn> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lists: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut element = 0;
    let mut done = Vec::new();
    for at in 0..count as u64 {
        // A list takes a few dozen elements, then another takes its place.
        let first_list = (at / 100) as u32 * 4;
        let steps = (0..rng.random_range(1..5)).map(|_| {
            let list = first_list + rng.random_range(0..8);
            let all = lists.entry(list).or_default();
            if rng.random_bool(0.5) {
                element += 1;
                all.push(element);
                append(list, element)
            } else {
                read(list, all)
            }
        });
        let steps: Vec<Step> = steps.collect();
        let now_ns = at * 10 + clients * 10;
        let called_ns = now_ns - rng.random_range(1..clients * 5);
        let returned_ns = now_ns + rng.random_range(1..clients * 5);
        done.push(Txn { op: OpId(at as u32), called_ns, returned_ns, may_have_happened: true, steps });
    }
    done
}

#[test]
fn valid_runs_pass() {
    for seed in 0..50 {
        let mut txns = serializable_txns(500, 8, seed);
        assert_eq!(what(&txns), "ok");
        // An outcome that nobody heard of makes no difference.
        for txn in txns.iter_mut().step_by(7) {
            txn.returned_ns = NEVER_NS;
            txn.steps.retain(|step| matches!(step, Step::Append { .. }));
        }
        assert_eq!(what(&txns), "ok");
    }
}

#[test]
fn write_cycles_are_g0() {
    let run = txns(&[
        (&[append(1, 1), append(2, 1)], None),
        (&[append(1, 2), append(2, 2)], None),
        (&[read(1, &[1, 2])], None),
        (&[read(2, &[2, 1])], None),
    ]);
    assert!(what(&run).starts_with("G0:"), "{}", what(&run));
}

#[test]
fn circular_information_is_g1c() {
    let run = txns(&[(&[append(1, 1), read(2, &[1])], None), (&[append(2, 1), read(1, &[1])], None)]);
    assert!(what(&run).starts_with("G1c:"), "{}", what(&run));
}

/// The example of the paper, section 2: T1 reads before T2 and T3 of one list, but sees T2 in another.
#[test]
fn one_missed_write_is_g_single() {
    let run = txns(&[
        (&[append(34, 2), append(34, 1)], None),
        (&[append(253, 1), append(34, 4), read(34, &[2, 1, 5, 4])], None),
        (&[append(34, 5), read(34, &[2, 1, 5])], None),
        (&[read(34, &[2, 1, 5]), read(253, &[1])], None),
    ]);
    assert!(what(&run).starts_with("G-single:"), "{}", what(&run));
}

#[test]
fn write_skew_is_g2() {
    let run = txns(&[
        (&[read(1, &[]), append(2, 1)], None),
        (&[read(2, &[]), append(1, 1)], None),
        (&[read(1, &[1]), read(2, &[1])], None),
    ]);
    assert!(what(&run).starts_with("G2:"), "{}", what(&run));
}

#[test]
fn stale_reads_and_lost_updates_need_real_time() {
    let stale = txns(&[(&[append(1, 1)], Some((0, 10))), (&[read(1, &[])], Some((20, 30)))]);
    assert!(what(&stale).starts_with("G-single-realtime:"), "{}", what(&stale));
    let overlapping = txns(&[(&[append(1, 1)], Some((0, 20))), (&[read(1, &[])], Some((20, 30)))]);
    assert_eq!(what(&overlapping), "ok");
    let lost = txns(&[
        (&[append(1, 1)], Some((0, 10))),
        (&[append(1, 2)], Some((20, 30))),
        (&[read(1, &[2])], Some((40, 50))),
    ]);
    assert!(what(&lost).starts_with("G0-realtime:"), "{}", what(&lost));
}

#[test]
fn what_nobody_wrote_is_not_read() {
    let mut aborted = txns(&[(&[append(1, 1)], None), (&[read(1, &[1])], None)]);
    assert_eq!(what(&aborted), "ok");
    aborted[0].may_have_happened = false;
    assert!(what(&aborted).starts_with("G1a:"));
    let middle = txns(&[(&[append(1, 1), append(1, 2)], None), (&[read(1, &[1])], None)]);
    assert!(what(&middle).starts_with("G1b:"));
    assert!(what(&txns(&[(&[read(1, &[9])], None)])).starts_with("nobody appended"));
    let twice = txns(&[(&[append(1, 1)], None), (&[read(1, &[1, 1])], None)]);
    assert!(what(&twice).contains("twice"));
    assert!(what(&txns(&[(&[append(1, 1), read(1, &[])], None)])).starts_with("internal"));
    let apart = txns(&[
        (&[append(1, 1)], None),
        (&[append(1, 2)], None),
        (&[read(1, &[1, 2])], None),
        (&[read(1, &[2])], None),
    ]);
    assert!(what(&apart).starts_with("incompatible"));
}

/// Runs in which one read shows a shorter list than was there are refused, unless it overlaps what it misses.
#[test]
fn shortened_reads_are_refused() {
    let (mut broken, mut refused) = (0, 0);
    for seed in 0..200 {
        let mut run = serializable_txns(300, 2, seed);
        let long = run.iter_mut().skip(60).find_map(|txn| {
            let called_ns = txn.called_ns;
            let alone = txn.steps.len() == 1;
            txn.steps.iter_mut().find_map(|step| match step {
                Step::Read { elements, .. } if alone && elements.len() > 10 => Some((elements, called_ns)),
                _ => None,
            })
        });
        let Some((elements, _)) = long else { continue };
        elements.truncate(2);
        broken += 1;
        refused += usize::from(what(&run) != "ok");
    }
    assert!(broken > 100);
    assert_eq!(broken, refused);
}
