//! Stories of the lessor (`testdata/*.txt`), a model test of its replicated part and of "never early", and
//! the cost of a million leases. Story commands, `at MS` setting the time of all that follow:
//! `lessor [min=S] [checkpoint=MS] [retry=MS]`, `grant ID TTL`, `revoke ID`, `attach ID KEY...`,
//! `detach KEY...`, `checkpoint ID S [persist]`, `noted ID`, `cleared ID NUMBER`, `promote EXTEND`, `demote`,
//! `renew ID`, `ttl ID`, `expired LIMIT`, `checkpoints LIMIT`, `keys ID`, `list`, `changes`, `restore` (from
//! its own snapshot, keys lost), `snapshot`, `stats`.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use proto::leasepb;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{Change, Config, GrantError, Lessor, MAX_TTL, Renewal};
use crate::story;

struct Runner {
    lessor: Lessor,
    now: u64,
}

impl Runner {
    fn run(&mut self, command: &str, words: &[&str]) -> String {
        let now = self.now;
        let number = |at: usize| words[at].parse::<i64>().expect("a number");
        let id = || number(0);
        let key = |word: &&str| Bytes::copy_from_slice(word.as_bytes());
        let lessor = &mut self.lessor;
        let lease =
            |lease: leasepb::Lease| format!("{} ttl={} left={}", lease.id, lease.ttl, lease.remaining_ttl);
        match command {
            "at" => self.now = number(0) as u64,
            "lessor" => {
                let mut config = Config::default();
                for word in words {
                    let (name, value) = word.split_once('=').expect("NAME=N");
                    let value: u64 = value.parse().expect("a number");
                    match name {
                        "min" => config.min_ttl = value as i64,
                        "checkpoint" => config.checkpoint_interval = Some(value),
                        "retry" => config.revoke_retry = value,
                        name => panic!("no setting {name}"),
                    }
                }
                *self = Runner { lessor: Lessor::new(config), now: 0 };
            }
            "grant" => return format!("{:?}", lessor.grant(id(), number(1), now)),
            "revoke" => return format!("{:?}", lessor.revoke(id())),
            "attach" => {
                let attached: Result<Vec<()>, _> =
                    words[1..].iter().map(|k| lessor.attach(id(), key(k))).collect();
                return if attached.is_ok() { String::new() } else { "NotFound".into() };
            }
            "detach" => words.iter().for_each(|key| lessor.detach(key.as_bytes())),
            "checkpoint" => lessor.checkpoint(id(), number(1), words.contains(&"persist"), now),
            "noted" => return format!("{}\n", lessor.noted(id())),
            "cleared" => lessor.cleared(id(), number(1) as u64),
            "promote" => lessor.promote(now, number(0) as u64),
            "demote" => lessor.demote(),
            "renew" => return format!("{:?}", lessor.renew(id(), now)),
            "ttl" => return format!("{:?}", lessor.time_to_live(id(), now)),
            "expired" => return format!("{:?}", lessor.expired(now, number(0) as usize)),
            "checkpoints" => {
                let due = lessor.checkpoints(now, number(0) as usize);
                return due.iter().map(|c| format!("{} left={}\n", c.id, c.remaining_ttl)).collect();
            }
            "keys" => return format!("{:?}", lessor.keys(id())),
            "list" => return format!("{:?}", lessor.list()),
            "changes" => {
                let show = |change| match change {
                    Change::Put(_, bytes) => {
                        format!("put {}\n", lease(leasepb::Lease::decode(bytes).expect("a Lease")))
                    }
                    Change::Delete(id) => format!("delete {id}\n"),
                };
                return lessor.take_changes().into_iter().map(show).collect();
            }
            "restore" => lessor.restore(lessor.snapshot()),
            "snapshot" => return lessor.snapshot().into_iter().map(|l| lease(l) + "\n").collect(),
            "stats" => return format!("{:?}", lessor.stats()),
            command => panic!("no command {command}"),
        }
        String::new()
    }
}

#[test]
fn stories() {
    for (name, story) in [
        ("replicated", include_str!("testdata/replicated.txt")),
        ("expiry", include_str!("testdata/expiry.txt")),
        ("checkpoints", include_str!("testdata/checkpoints.txt")),
    ] {
        let mut runner = Runner { lessor: Lessor::new(Config::default()), now: 0 };
        story::run(name, story, |command, words| runner.run(command, words));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Grant(i64, i64),
    Revoke(i64),
    Attach(i64, u8),
    Detach(u8),
    Renew(i64),
    Pause(u64),
    Expired(usize),
    Promote,
    Demote,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let id = -2i64..8;
    prop_oneof![
        4 => (id.clone(), prop_oneof![-1i64..40, Just(100_000i64), Just(MAX_TTL)])
            .prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => id.clone().prop_map(Step::Revoke),
        4 => (id.clone(), 0u8..60).prop_map(|(id, key)| Step::Attach(id, key)),
        2 => (0u8..60).prop_map(Step::Detach),
        3 => id.prop_map(Step::Renew),
        5 => prop_oneof![0u64..3_000, 0u64..100_000].prop_map(Step::Pause),
        5 => (0usize..4).prop_map(Step::Expired),
        1 => Just(Step::Promote),
        1 => Just(Step::Demote),
        1 => Just(Step::Restore),
    ]
}

#[derive(Debug, PartialEq)]
struct Modelled {
    ttl: i64,
    deadline: u64,
    expired: bool,
    keys: std::collections::BTreeSet<Vec<u8>>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..Default::default() })]

    /// Keys hang where the model says; no lease expires early, none is renewed once expired, each expired one
    /// is handed out in the end; what was persisted restores to the same leases.
    #[test]
    fn agrees_with_a_model(steps in proptest::collection::vec(step(), 1..200)) {
        const EXTEND: u64 = 1000;
        let mut lessor = Lessor::new(Config::default());
        let mut model: BTreeMap<i64, Modelled> = BTreeMap::new();
        let mut disk: BTreeMap<i64, Bytes> = BTreeMap::new();
        let (mut now, mut leader) = (5_000, false);
        for step in steps {
            match step {
                Step::Grant(id, ttl) => {
                    let granted = lessor.grant(id, ttl, now);
                    if id == 0 {
                        prop_assert_eq!(granted, Err(GrantError::NoId));
                    } else if let Entry::Vacant(free) = model.entry(id) {
                        let ttl = ttl.max(2);
                        prop_assert_eq!(granted, Ok(ttl));
                        let deadline = now + ttl as u64 * 1000;
                        free.insert(Modelled { ttl, deadline, expired: false, keys: Default::default() });
                    } else {
                        prop_assert_eq!(granted, Err(GrantError::Exists));
                    }
                }
                Step::Revoke(id) => {
                    let keys = model.remove(&id).map(|lease| lease.keys.into_iter().map(Bytes::from).collect());
                    prop_assert_eq!(lessor.revoke(id).ok(), keys);
                }
                Step::Attach(id, key) => {
                    let key = vec![key];
                    let found = lessor.attach(id, key.clone().into()).is_ok();
                    prop_assert_eq!(found, model.contains_key(&id));
                    if found {
                        model.values_mut().for_each(|lease| { lease.keys.remove(&key); });
                        model.get_mut(&id).expect("found").keys.insert(key);
                    }
                }
                Step::Detach(key) => {
                    lessor.detach(&[key]);
                    model.values_mut().for_each(|lease| { lease.keys.remove(&vec![key]); });
                }
                Step::Renew(id) => {
                    let wanted = match model.get_mut(&id) {
                        _ if !leader => Renewal::NotLeader,
                        None => Renewal::NotFound,
                        Some(lease) if lease.expired || lease.deadline <= now => Renewal::Expired,
                        Some(lease) => {
                            lease.deadline = lease.deadline.max(now + lease.ttl as u64 * 1000);
                            Renewal::Renewed { ttl: lease.ttl, clear_checkpoint: false }
                        }
                    };
                    prop_assert_eq!(lessor.renew(id, now), wanted);
                }
                Step::Pause(pause) => now += pause,
                Step::Expired(limit) => {
                    let expired = lessor.expired(now, limit);
                    prop_assert!(expired.len() <= limit && (leader || expired.is_empty()));
                    for id in expired {
                        let lease = model.get_mut(&id).expect("only leases that exist expire");
                        prop_assert!(lease.deadline <= now, "expired early");
                        lease.expired = true;
                    }
                }
                Step::Promote => {
                    lessor.promote(now, EXTEND);
                    leader = true;
                    for lease in model.values_mut() {
                        lease.deadline = now + lease.ttl as u64 * 1000 + EXTEND;
                        lease.expired = false;
                    }
                }
                Step::Demote => {
                    lessor.demote();
                    leader = false;
                }
                Step::Restore => {
                    let leases = disk.values().map(|bytes| leasepb::Lease::decode(&bytes[..]).expect("a Lease"));
                    lessor.restore(leases.collect::<Vec<_>>());
                    leader = false;
                    for (id, lease) in &model {
                        for key in &lease.keys {
                            prop_assert!(lessor.attach(*id, key.clone().into()).is_ok());
                        }
                    }
                }
            }
            for change in lessor.take_changes() {
                match change {
                    Change::Put(id, bytes) => disk.insert(id, bytes),
                    Change::Delete(id) => disk.remove(&id),
                };
            }
            prop_assert_eq!(disk.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
            for (id, lease) in &model {
                let keys: Vec<Bytes> = lease.keys.iter().map(|key| key.clone().into()).collect();
                prop_assert_eq!(lessor.keys(*id).ok(), Some(keys));
                prop_assert!(lease.keys.iter().all(|key| lessor.lease_of(key) == Some(*id)));
            }
            prop_assert_eq!(lessor.stats().attached_keys, model.values().map(|lease| lease.keys.len()).sum::<usize>());
        }
        if leader {
            now += 10_000;
            let mut due: Vec<i64> =
                model.iter().filter(|(_, lease)| lease.deadline + 100 <= now).map(|(id, _)| *id).collect();
            let mut expired = lessor.expired(now, usize::MAX);
            due.sort_unstable();
            expired.sort_unstable();
            expired.retain(|id| due.contains(id));
            prop_assert_eq!(expired, due, "an expired lease is handed out, again after the retry time");
        }
    }
}

/// Prints the cost of a million leases.
/// `cargo test --release -- --ignored --nocapture million`
#[test]
#[ignore = "a measurement"]
fn million() {
    const LEASES: i64 = 1_000_000;
    let timed = |name: &str, count: i64, action: &mut dyn FnMut()| {
        let begun = std::time::Instant::now();
        action();
        let taken = begun.elapsed();
        println!(
            "{name}: {:.1} ms, {:.0} ns each",
            taken.as_secs_f64() * 1e3,
            taken.as_nanos() as f64 / count as f64
        );
    };
    let mut lessor = Lessor::new(Config { checkpoint_interval: Some(300_000), ..Config::default() });
    timed("grant on the leader", LEASES, &mut || {
        lessor.promote(0, 1000);
        for id in 1..=LEASES {
            let ttl = if id <= 100_000 { 60 } else { 600 + id % 3600 };
            assert!(lessor.grant(id, ttl, 0).is_ok());
        }
        lessor.take_changes();
    });
    timed("attach one key each", LEASES, &mut || {
        for id in 1..=LEASES {
            assert!(lessor.attach(id, Bytes::copy_from_slice(&id.to_be_bytes())).is_ok());
        }
    });
    timed("promote", LEASES, &mut || lessor.promote(0, 1000));
    timed("renew", LEASES, &mut || {
        for id in 1..=LEASES {
            assert!(matches!(lessor.renew(id, 500), Renewal::Renewed { .. }));
        }
    });
    let mut scans = 0;
    let mut now = 61_000;
    timed("100,000 expire at once: first scan", 1, &mut || {
        assert_eq!(lessor.expired(now, 500).len(), 500);
    });
    timed("and all of them, revoked 500 per scan", 100_000, &mut || {
        let mut batch: Vec<i64> = Vec::new();
        loop {
            for id in batch.drain(..) {
                assert_eq!(lessor.revoke(id).map(|keys| keys.len()), Ok(1));
            }
            now += 500;
            batch = lessor.expired(now, 500);
            scans += 1;
            if batch.is_empty() {
                break;
            }
        }
    });
    assert!(scans > 199);
    now = 310_000;
    let mut due = 0;
    timed("checkpoints of 900,000 leases", 900_000, &mut || {
        loop {
            let batch = lessor.checkpoints(now, 1000);
            due += batch.len();
            if batch.is_empty() {
                break;
            }
        }
    });
    assert!(due >= 899_000);
}
