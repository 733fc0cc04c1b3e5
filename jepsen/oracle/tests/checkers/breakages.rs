//! Valid histories with one thing broken: all must be refused. And changes that break nothing: none may be.

use oracle::{
    check::{Rules, Verdict, headers, linear},
    history::{
        Answer, Client, Fate, History, Member, NEVER_NS, Operation, Outcome, Refusal, Request, Response,
        Value,
        request::{Kv, Put, SortTarget, Span},
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};

use crate::generate::{ALL, PLAIN, Shape, run};

/// Changes a history so that it is wrong; false if there is nothing in it to break so.
type Breakage = fn(&mut History, &mut StdRng) -> bool;

/// Gives a random operation to which `change` applies to it.
fn one(history: &mut History, rng: &mut StdRng, change: impl Fn(&mut Operation) -> bool) -> bool {
    let len = history.operations.len();
    let applies = |at: &usize| change(&mut history.operations[*at].clone());
    let Some(at) = (0..len).filter(applies).choose(rng) else { return false };
    change(&mut history.operations[at])
}

fn answer(operation: &mut Operation) -> Option<&mut Answer> {
    match &mut operation.outcome {
        Outcome::Ok(answer) => Some(answer),
        _ => None,
    }
}

/// The pairs of a range that shows them whole.
fn shown(operation: &mut Operation) -> Option<&mut Box<[Kv]>> {
    let whole = matches!(&operation.request, Request::Range(range) if !range.keys_only);
    match &mut answer(operation)?.response {
        Response::Range(ranged) if whole && !ranged.kvs.is_empty() => Some(&mut ranged.kvs),
        _ => None,
    }
}

fn change_kv(history: &mut History, rng: &mut StdRng, change: impl Fn(&mut Kv)) -> bool {
    one(history, rng, |operation| {
        shown(operation).is_some_and(|kvs| {
            change(&mut kvs[0]);
            true
        })
    })
}

fn wrote(operation: &Operation) -> bool {
    matches!(&operation.outcome, Outcome::Ok(answer) if answer.response.wrote())
}

fn revision(operation: &Operation) -> i64 {
    match &operation.outcome {
        Outcome::Ok(answer) => answer.revision,
        _ => 0,
    }
}

fn last_revision(history: &History) -> i64 {
    history.operations.iter().map(revision).max().unwrap_or(0)
}

/// A write with a later one, by place.
fn inner_write(history: &History, rng: &mut StdRng) -> Option<usize> {
    let last = last_revision(history);
    let writes = history.operations.iter().enumerate().filter(|(_, it)| wrote(it) && revision(it) < last);
    writes.map(|(at, _)| at).choose(rng)
}

fn resort(history: &mut History) {
    history.operations.sort_by_key(|operation| operation.called_ns);
}

const BREAKAGES: &[(&str, Breakage)] = &[
    ("stale value", |history, rng| change_kv(history, rng, |kv| kv.value = Value(kv.value.0 - 1))),
    ("mod revision + 1", |history, rng| change_kv(history, rng, |kv| kv.mod_revision += 1)),
    ("mod revision - 1", |history, rng| change_kv(history, rng, |kv| kv.mod_revision -= 1)),
    ("create revision - 1", |history, rng| change_kv(history, rng, |kv| kv.create_revision -= 1)),
    ("version not reset", |history, rng| change_kv(history, rng, |kv| kv.version += 1)),
    ("lease appears", |history, rng| change_kv(history, rng, |kv| kv.lease += 99)),
    ("lost lease", |history, rng| {
        one(history, rng, |operation| {
            let kvs = shown(operation);
            kvs.and_then(|kvs| kvs.iter_mut().find(|kv| kv.lease != 0)).is_some_and(|kv| {
                kv.lease = 0;
                true
            })
        })
    }),
    ("key left out", |history, rng| {
        one(history, rng, |operation| {
            shown(operation).is_some_and(|kvs| {
                *kvs = kvs[1..].into();
                true
            })
        })
    }),
    ("order of keys", |history, rng| {
        one(history, rng, |operation| {
            let by_key =
                matches!(&operation.request, Request::Range(range) if range.target == SortTarget::Key);
            by_key
                && shown(operation).is_some_and(|kvs| {
                    kvs.reverse();
                    kvs.len() > 1
                })
        })
    }),
    ("count + 1", |history, rng| {
        one(history, rng, |operation| match answer(operation).map(|it| &mut it.response) {
            Some(Response::Range(ranged)) => {
                ranged.count += 1;
                true
            }
            _ => false,
        })
    }),
    ("more", |history, rng| {
        one(history, rng, |operation| match answer(operation).map(|it| &mut it.response) {
            Some(Response::Range(ranged)) => {
                ranged.more = !ranged.more;
                true
            }
            _ => false,
        })
    }),
    ("deleted + 1", |history, rng| {
        one(history, rng, |operation| match answer(operation).map(|it| &mut it.response) {
            Some(Response::Delete(deleted)) => {
                deleted.deleted += 1;
                true
            }
            _ => false,
        })
    }),
    ("previous value forgotten", |history, rng| {
        one(history, rng, |operation| match answer(operation).map(|it| &mut it.response) {
            Some(Response::Put { prev }) => prev.take().is_some(),
            _ => false,
        })
    }),
    ("other branch", |history, rng| {
        one(history, rng, |operation| match answer(operation).map(|it| &mut it.response) {
            Some(Response::Txn(txn)) => {
                txn.succeeded = !txn.succeeded;
                true
            }
            _ => false,
        })
    }),
    ("split revision in a transaction", |history, rng| {
        one(history, rng, |operation| match answer(operation).map(|it| &mut it.response) {
            Some(Response::Txn(txn)) => txn.answers.last_mut().is_some_and(|(revision, _)| {
                *revision += 1;
                true
            }),
            _ => false,
        })
    }),
    ("revision of a write + 1", |history, rng| {
        let Some(at) = inner_write(history, rng) else { return false };
        answer(&mut history.operations[at]).expect("it was answered").revision += 1;
        true
    }),
    ("revision of a write - 1", |history, rng| {
        let Some(at) = inner_write(history, rng) else { return false };
        answer(&mut history.operations[at]).expect("it was answered").revision -= 1;
        true
    }),
    ("write not in the history", |history, rng| {
        let Some(at) = inner_write(history, rng) else { return false };
        history.operations.remove(at);
        true
    }),
    ("write twice", |history, rng| {
        let Some(at) = inner_write(history, rng) else { return false };
        let copy = Operation { client: Client(9_999), ..history.operations[at].clone() };
        history.operations.insert(at, copy);
        true
    }),
    ("write after what follows it", |history, rng| {
        let Some(at) = inner_write(history, rng) else { return false };
        let made = revision(&history.operations[at]);
        let later = history.operations.iter().filter(|it| revision(it) > made && wrote(it));
        let Some(after_ns) = later.map(|it| it.returned_ns).min() else { return false };
        let write = &mut history.operations[at];
        (write.called_ns, write.returned_ns) = (after_ns + 1, after_ns + 2);
        resort(history);
        true
    }),
    ("stale read", |history, rng| {
        let reads = history.operations.iter().enumerate().filter(|(_, it)| {
            matches!(it.outcome, Outcome::Ok(_))
                && matches!(it.request, Request::Range(_))
                && !it.is_serializable()
        });
        let Some(at) = reads.map(|(at, _)| at).choose(rng) else { return false };
        let seen = revision(&history.operations[at]);
        let later = history.operations.iter().filter(|it| revision(it) > seen && wrote(it));
        let Some(after_ns) = later.map(|it| it.returned_ns).min() else { return false };
        let read = &mut history.operations[at];
        (read.called_ns, read.returned_ns) = (after_ns + 1, after_ns + 2);
        resort(history);
        true
    }),
    ("read of the future", |history, rng| {
        let writes = history.operations.iter().filter(|it| wrote(it)).map(|it| (revision(it), it.called_ns));
        let Some((made, called_ns)) = writes.choose(rng) else { return false };
        let reads = history.operations.iter().enumerate();
        let reads = reads.filter(|(_, it)| revision(it) >= made && matches!(it.request, Request::Range(_)));
        let Some(at) = reads.map(|(at, _)| at).choose(rng) else { return false };
        let read = &mut history.operations[at];
        (read.called_ns, read.returned_ns) = (called_ns.saturating_sub(2), called_ns.saturating_sub(1));
        resort(history);
        true
    }),
    ("answers of two reads swapped", |history, rng| {
        let plain = |it: &Operation| matches!(&it.request, Request::Range(range) if !range.keys_only && !range.count_only);
        let reads = history.operations.iter().enumerate().filter(|(_, it)| plain(it) && revision(it) > 0);
        let two: Vec<usize> = reads.map(|(at, _)| at).choose_multiple(rng, 2);
        let &[a, b] = &two[..] else { return false };
        let (first, second) = (history.operations[a].outcome.clone(), history.operations[b].outcome.clone());
        let kvs = |outcome: &Outcome| match outcome {
            Outcome::Ok(Answer { response: Response::Range(ranged), .. }) => {
                ranged.kvs.first().map(|kv| kv.key)
            }
            _ => None,
        };
        if kvs(&first).is_none() || kvs(&first) == kvs(&second) {
            return false;
        }
        (history.operations[a].outcome, history.operations[b].outcome) = (second, first);
        true
    }),
    ("refused for no reason", |history, rng| {
        one(history, rng, |operation| {
            let refused = matches!(
                operation.request,
                Request::Put(Put { lease: 0, ignore_lease: false, ignore_value: false, .. })
            );
            operation.outcome = Outcome::Refused(Refusal::LeaseNotFound);
            refused && operation.returned_ns != NEVER_NS
        })
    }),
    ("accepted against the rules", |history, rng| {
        one(history, rng, |operation| match (&operation.outcome, &operation.request) {
            (Outcome::Refused(Refusal::KeyNotFound | Refusal::LeaseNotFound), Request::Put(_)) => {
                let response = Response::Put { prev: None };
                operation.outcome = Outcome::Ok(Answer { revision: 2, member: operation.member, response });
                true
            }
            _ => false,
        })
    }),
    ("compacted read answered", |history, rng| {
        let last = last_revision(history);
        one(history, rng, |operation| match (&operation.outcome, &operation.request) {
            (Outcome::Refused(Refusal::Compacted), Request::Range(range)) if !range.serializable => {
                let response = Response::Range(oracle::history::request::Ranged::default());
                operation.outcome =
                    Outcome::Ok(Answer { revision: last, member: operation.member, response });
                true
            }
            _ => false,
        })
    }),
    ("keepalive of a lease that never was", |history, rng| {
        one(history, rng, |operation| match operation.request {
            Request::KeepAlive { .. } => {
                operation.request = Request::KeepAlive { lease: 1_000_000 };
                matches!(&operation.outcome, Outcome::Ok(answer) if answer.response != Response::KeepAlive { ttl_seconds: 0 })
            }
            _ => false,
        })
    }),
];

#[test]
fn every_breakage_is_refused() {
    let rules = Rules::default();
    for (name, breakage) in BREAKAGES {
        let mut applied = 0;
        for seed in 0..40 {
            let calm = Shape { unknown_per_mille: 0, leases: false, ..ALL };
            // Without unknown outcomes and ends of leases, so that nothing else can explain what is wrong.
            let granted = Shape { operations: 120, leases: true, ..calm };
            let needs_leases = name.contains("lease") || name.contains("rules");
            let shape = if needs_leases { granted } else { Shape { operations: 250, ..calm } };
            let mut history = run(&shape, seed).history;
            assert!(linear::check(&history, &rules).verdict.is_ok());
            if !breakage(&mut history, &mut StdRng::seed_from_u64(seed)) {
                continue;
            }
            applied += 1;
            let judged = linear::check(&history, &rules);
            assert!(
                matches!(judged.verdict, Verdict::Violation(_)),
                "{name}, seed {seed}: {:?}",
                judged.verdict
            );
        }
        assert!(applied >= 10, "{name} was applied {applied} times");
    }
}

#[test]
fn headers_are_checked() {
    for seed in 0..20 {
        let mut history = run(&Shape { operations: 300, ..ALL }, seed).history;
        assert_eq!(headers::check(&history), Verdict::Ok);
        let mut other = history.clone();
        assert!(one(&mut other, &mut StdRng::seed_from_u64(seed), |operation| {
            answer(operation).is_some_and(|answer| {
                answer.member = Member(77);
                true
            })
        }));
        assert!(!headers::check(&other).is_ok());
        let last = last_revision(&history);
        let late =
            history.operations.iter_mut().rev().find(|it| it.is_serializable() && revision(it) > last / 2);
        answer(late.expect("a late read")).expect("it was answered").revision = 1;
        assert!(!headers::check(&history).is_ok());
    }
}

/// Renaming clients, longer intervals and unknown operations without effect never make a valid history invalid.
#[test]
fn harmless_changes_are_accepted() {
    let rules = Rules::default();
    for seed in 0..100 {
        let mut rng = StdRng::seed_from_u64(seed);
        let shape = if seed % 2 == 0 { PLAIN } else { Shape { operations: 60, ..ALL } };
        let mut history = run(&shape, seed).history;
        for operation in &mut history.operations {
            operation.client = Client(1_000 - operation.client.0);
            operation.called_ns = operation.called_ns.saturating_sub(rng.random_range(0..3_000_000));
            if operation.returned_ns != NEVER_NS {
                operation.returned_ns += rng.random_range(0..3_000_000);
            }
        }
        let never = Operation {
            client: Client(5_000),
            member: Member(0),
            called_ns: rng.random_range(0..50_000_000),
            returned_ns: NEVER_NS,
            request: Request::Delete(oracle::history::request::Delete {
                span: Span::key(oracle::history::Key(1)),
                prev_kv: false,
            }),
            outcome: Outcome::Unknown(Fate::Open),
        };
        history.operations.push(never);
        resort(&mut history);
        let judged = linear::check(&history, &rules);
        assert_eq!(judged.verdict, Verdict::Ok, "seed {seed}");
    }
}

/// What the logs say of a write settles it.
#[test]
fn fates_are_believed_and_checked() {
    let rules = Rules::default();
    let key = oracle::history::Key(1);
    let op = |called_ns: u64, outcome: Outcome| Operation {
        client: Client(called_ns as u32),
        member: Member(0),
        called_ns,
        returned_ns: if matches!(outcome, Outcome::Ok(_)) { called_ns + 5 } else { NEVER_NS },
        request: Request::Put(Put::plain(key, Value(called_ns as u32))),
        outcome,
    };
    let put = |revision| {
        Outcome::Ok(Answer { revision, member: Member(0), response: Response::Put { prev: None } })
    };
    let judge = |fate: Fate| {
        let operations = vec![op(10, put(2)), op(20, Outcome::Unknown(fate)), op(30, put(4))];
        linear::check(&History { operations, ..History::default() }, &rules).verdict.is_ok()
    };
    assert!(judge(Fate::Open) && judge(Fate::At(3)));
    assert!(!judge(Fate::Never) && !judge(Fate::At(5)));
}
