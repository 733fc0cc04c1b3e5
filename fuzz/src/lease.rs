//! The lessor against a plain model: which leases and keys there are, and that none ends early.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use proto::leasepb;
use store::lease::{Change, Config, Lessor, MAX_TTL, Renewal, TimeToLive};

use crate::input::{Input, Script};

const MIN_TTL: i64 = 2;

fn config(checkpoints: bool) -> Config {
    Config { min_ttl: MIN_TTL, checkpoint_interval: checkpoints.then_some(10_000), ..Config::default() }
}

#[derive(Clone, Debug)]
struct Lease {
    ttl: i64,
    /// At the last checkpoint; 0 or less: all of it.
    remaining: i64,
    keys: BTreeSet<Bytes>,
    /// While a leader counts: it lives at least so long, in milliseconds.
    not_before: u64,
}

#[derive(Default)]
struct Model {
    leases: BTreeMap<i64, Lease>,
    /// What the changes left on disk.
    disk: BTreeMap<i64, leasepb::Lease>,
}

/// Byte 0: whether remaining times are checkpointed. Then operations.
pub fn lessor(data: &[u8]) {
    let mut input = Input::new(data);
    let config = config(input.flag());
    let mut lessor = Lessor::new(config.clone());
    let mut model = Model::default();
    let mut now = 0_u64;
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        step(&mut input, &mut lessor, &mut model, &mut now);
        check(&mut lessor, &mut model, now);
    }
    let mut again = Lessor::new(config);
    again.restore(model.disk.values().cloned());
    for (id, lease) in &model.leases {
        for key in &lease.keys {
            again.attach(*id, key.clone()).expect("the lease is on disk");
        }
    }
    let sorted = |lessor: &Lessor| {
        let mut leases = lessor.snapshot();
        leases.sort_by_key(|lease| lease.id);
        leases
    };
    let persisted: Vec<leasepb::Lease> = model.disk.values().cloned().collect();
    assert_eq!(sorted(&again), persisted, "a start finds the leases that were written");
    assert_eq!(again.list().len(), lessor.list().len());
}

fn step(input: &mut Input<'_>, lessor: &mut Lessor, model: &mut Model, now: &mut u64) {
    let id =
        |input: &mut Input<'_>| if input.byte() < 250 { i64::from(input.byte() % 6) } else { input.signed() };
    let key = |input: &mut Input<'_>| Bytes::copy_from_slice(&[input.byte() % 8]);
    let after = |now: u64, seconds: i64| now.saturating_add((seconds.max(0) as u64).saturating_mul(1000));
    match input.choice(12) {
        0 | 1 => {
            let (id, ttl) = (id(input), input.signed());
            let granted = lessor.grant(id, ttl, *now);
            let possible = id != 0 && ttl <= MAX_TTL && !model.leases.contains_key(&id);
            assert_eq!(granted.is_ok(), possible, "grant of {id} for {ttl}: {granted:?}");
            if let Ok(granted) = granted {
                assert_eq!(granted, ttl.max(MIN_TTL));
                let not_before = after(*now, granted);
                model
                    .leases
                    .insert(id, Lease { ttl: granted, remaining: 0, keys: BTreeSet::new(), not_before });
            }
        }
        2 => {
            let id = id(input);
            let mut keys = lessor.revoke(id).ok();
            let mut expected = model.leases.remove(&id).map(|it| it.keys.into_iter().collect::<Vec<_>>());
            for keys in [&mut keys, &mut expected].into_iter().flatten() {
                keys.sort();
            }
            assert_eq!(keys, expected, "revoke of {id}");
        }
        3 | 4 => {
            let (id, key) = (id(input), key(input));
            let attached = lessor.attach(id, key.clone()).is_ok();
            assert_eq!(attached, model.leases.contains_key(&id), "attach to {id}");
            if attached {
                for (other, lease) in &mut model.leases {
                    if *other == id {
                        lease.keys.insert(key.clone());
                    } else {
                        lease.keys.remove(&key);
                    }
                }
            }
        }
        5 => {
            let key = key(input);
            lessor.detach(&key);
            model.leases.values_mut().for_each(|lease| lease.keys.retain(|it| *it != key));
        }
        6 => {
            let (id, remaining, persist) = (id(input), input.signed(), input.flag());
            lessor.checkpoint(id, remaining, persist, *now);
            if let Some(lease) = model.leases.get_mut(&id) {
                lease.remaining = remaining;
            }
        }
        7 => *now = now.saturating_add(input.number().min(1 << 40)),
        8 => {
            let extend = input.number().min(1 << 40);
            lessor.promote(*now, extend);
            for lease in model.leases.values_mut() {
                let seconds = if lease.remaining > 0 { lease.remaining } else { lease.ttl };
                lease.not_before = after(*now, seconds).saturating_add(extend);
            }
        }
        9 => lessor.demote(),
        10 => {
            let id = id(input);
            match (lessor.renew(id, *now), model.leases.get_mut(&id)) {
                (Renewal::NotLeader, _) => assert!(!lessor.is_leader()),
                (Renewal::NotFound, found) => assert!(found.is_none(), "{id} exists"),
                (Renewal::Expired, found) => {
                    let lease = found.expect("what expired exists");
                    assert!(*now >= lease.not_before, "{id} expired early");
                }
                (Renewal::Renewed { ttl, .. }, found) => {
                    let lease = found.expect("what is renewed exists");
                    assert_eq!(ttl, lease.ttl);
                    lease.not_before = after(*now, ttl);
                }
            }
        }
        _ => {
            for id in lessor.expired(*now, 1 + input.choice(4)) {
                // Revoked ones are not handed out.
                let lease = model.leases.get(&id).expect("what expires exists");
                assert!(*now >= lease.not_before, "{id} expired at {now}, before {}", lease.not_before);
            }
            for checkpoint in lessor.checkpoints(*now, 1 + input.choice(4)) {
                let lease = model.leases.get(&checkpoint.id).expect("what is checkpointed exists");
                assert!((0..=lease.ttl).contains(&checkpoint.remaining_ttl));
            }
        }
    }
}

fn check(lessor: &mut Lessor, model: &mut Model, now: u64) {
    for change in lessor.take_changes() {
        match change {
            Change::Put(id, bytes) => {
                let lease = leasepb::Lease::decode(bytes).expect("our own encoding");
                assert_eq!(lease.id, id);
                model.disk.insert(id, lease);
            }
            Change::Delete(id) => drop(model.disk.remove(&id)),
        }
    }
    assert!(model.disk.keys().eq(model.leases.keys()), "leases on disk are those that exist");
    let mut listed = lessor.list();
    listed.sort_unstable();
    assert!(listed.iter().eq(model.leases.keys()));
    for (id, lease) in &model.leases {
        assert!(lessor.exists(*id));
        let keys: BTreeSet<Bytes> = lessor.keys(*id).expect("it exists").into_iter().collect();
        assert_eq!(keys, lease.keys, "keys of {id}");
        assert!(lease.keys.iter().all(|key| lessor.lease_of(key) == Some(*id)));
        if let TimeToLive::Left { remaining, granted } = lessor.time_to_live(*id, now) {
            assert_eq!(granted, lease.ttl);
            let least = (lease.not_before.saturating_sub(now) / 1000) as i64;
            let promised = now <= lease.not_before;
            assert!(!promised || remaining >= least, "{id} has {remaining} s left of at least {least}");
        }
    }
    assert_eq!(lessor.stats().leases, model.leases.len());
}

pub fn lessor_seeds() -> Vec<Vec<u8>> {
    fn grant(script: Script, id: u8, ttl: u64) -> Script {
        script.byte(0).byte(0).byte(id).number(ttl)
    }
    let held = grant(Script::default().byte(0).byte(8).number(0), 1, 5).byte(3).byte(0).byte(1).byte(3);
    let renewed = held.clone().byte(7).number(4000).byte(10).byte(0).byte(1).byte(7).number(6000);
    let expired = renewed.clone().byte(11).byte(3).byte(3).byte(2).byte(0).byte(1);
    let moved = grant(held.clone(), 2, 60)
        .byte(3)
        .byte(0)
        .byte(2)
        .byte(3)
        .byte(5)
        .byte(3)
        .byte(9)
        .byte(8)
        .number(1000);
    let checkpointed = grant(Script::default().byte(1).byte(8).number(0), 3, 100)
        .byte(7)
        .number(20_000)
        .byte(11)
        .byte(3)
        .byte(3)
        .byte(6)
        .byte(0)
        .byte(3)
        .number(80)
        .byte(1)
        .byte(9)
        .byte(8)
        .number(0);
    [held, renewed, expired, moved, checkpointed].map(Script::done).to_vec()
}
