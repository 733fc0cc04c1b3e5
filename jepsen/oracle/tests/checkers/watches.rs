//! Watches: streams of what happened pass, and every way to break one is found.

use oracle::{
    check::{
        Replay, Rules, Verdict,
        watch::{check, check_complete},
        witness::{Witnessed, witness},
    },
    history::{
        Key, Stream,
        request::{End, Span},
        watch::{WatchCommand, WatchCreate, WatchResponse},
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::generate::{ALL, PLAIN, Run, Shape, run};

fn create(rng: &mut StdRng) -> WatchCreate {
    let start = Key(rng.random_range(1..4));
    let end = match rng.random_range(0..3) {
        0 => End::Single,
        1 => End::Before(Key(start.0 + 2)),
        _ => End::Open,
    };
    WatchCreate {
        id: 3,
        span: Span { start, end },
        start: *[0, 1, 20, 60].get(rng.random_range(0..4_usize)).expect("one of four"),
        prev_kv: rng.random_bool(0.5),
        progress_notify: rng.random_bool(0.5),
        fragment: false,
        no_put: rng.random_bool(0.1),
        no_delete: rng.random_bool(0.1),
    }
}

/// A run with a watch of everything, which settles what happened, and the replay.
fn known_run(shape: &Shape, seed: u64) -> (Run, Replay) {
    let run = run(shape, seed).with_watch(seed);
    match witness(&run.history, &Rules::default()) {
        Witnessed::Ordered(replay) => (run, *replay),
        refuted => panic!("{refuted:?}"),
    }
}

#[test]
fn what_happened_is_accepted() {
    for seed in 0..30 {
        for shape in [PLAIN, Shape { compactions: true, ..PLAIN }, Shape { leases: true, ..PLAIN }] {
            let (mut run, replay) = known_run(&Shape { operations: 400, ..shape }, seed);
            assert_eq!(check_complete(&run.history, &replay, &[0], replay.last()), Verdict::Ok);
            let mut rng = StdRng::seed_from_u64(seed);
            for _ in 0..10 {
                let at_ns = rng.random_range(0..200_000_000);
                let stream = run.stream(create(&mut rng), at_ns, &mut rng);
                run.history.streams.push(stream);
            }
            assert_eq!(check(&run.history, &replay), Verdict::Ok, "seed {seed} of {shape:?}");
        }
    }
}

type Breakage = fn(&mut Stream, &mut StdRng) -> bool;

/// A response with events that satisfies a condition.
fn response(stream: &mut Stream, rng: &mut StdRng, fits: impl Fn(&WatchResponse) -> bool) -> Option<usize> {
    let fitting: Vec<usize> = (0..stream.responses.len()).filter(|&at| fits(&stream.responses[at])).collect();
    (!fitting.is_empty()).then(|| fitting[rng.random_range(0..fitting.len())])
}

fn events(stream: &mut Stream, rng: &mut StdRng, change: impl Fn(&mut WatchResponse) -> bool) -> bool {
    let Some(at) = response(stream, rng, |it| change(&mut it.clone())) else { return false };
    change(&mut stream.responses[at])
}

/// Not the last of a stream: nobody knows what would have followed there.
fn inner(stream: &mut Stream, rng: &mut StdRng) -> Option<usize> {
    let last = stream.responses.iter().rposition(|it| !it.events.is_empty())?;
    let at = response(stream, rng, |it| !it.events.is_empty())?;
    (at < last).then_some(at)
}

const BREAKAGES: &[(&str, Breakage)] = &[
    ("two events swapped", |stream, rng| {
        events(stream, rng, |it| {
            let revisions: Vec<i64> = it.events.iter().map(|event| event.kv.mod_revision).collect();
            it.events.reverse();
            revisions.first() != revisions.last()
        })
    }),
    ("two events of a revision swapped", |stream, rng| {
        events(stream, rng, |it| {
            let pair = it.events.windows(2).position(|two| two[0].kv.mod_revision == two[1].kv.mod_revision);
            pair.is_some_and(|at| {
                it.events.swap(at, at + 1);
                true
            })
        })
    }),
    ("two responses swapped", |stream, rng| {
        inner(stream, rng).is_some_and(|at| {
            stream.responses.swap(at, at + 1);
            true
        })
    }),
    ("event left out", |stream, rng| {
        events(stream, rng, |it| {
            let whole = it.events.len();
            it.events = it.events.iter().skip(1).copied().collect();
            whole > 1
        })
    }),
    ("response left out", |stream, rng| {
        inner(stream, rng).is_some_and(|at| {
            stream.responses.remove(at);
            true
        })
    }),
    ("event twice", |stream, rng| {
        events(stream, rng, |it| {
            it.events = it.events.iter().take(1).chain(it.events.iter()).copied().collect();
            !it.events.is_empty()
        })
    }),
    ("response twice", |stream, rng| {
        let Some(at) = response(stream, rng, |it| !it.events.is_empty()) else { return false };
        let copy = stream.responses[at].clone();
        stream.responses.insert(at, copy);
        true
    }),
    ("revision split", |stream, rng| {
        let splits = |it: &WatchResponse| {
            it.events.len() > 1 && it.events[0].kv.mod_revision == it.events[1].kv.mod_revision
        };
        let Some(at) = response(stream, rng, splits) else { return false };
        let mut first = stream.responses[at].clone();
        first.events = first.events[..1].into();
        stream.responses[at].events = stream.responses[at].events[1..].into();
        stream.responses.insert(at, first);
        true
    }),
    ("progress ahead of events", |stream, rng| {
        let Some(at) = response(stream, rng, |it| !it.events.is_empty()) else { return false };
        let notice = WatchResponse { events: Box::default(), id: -1, ..stream.responses[at].clone() };
        stream.responses.insert(at, notice);
        true
    }),
    ("progress behind events", |stream, rng| {
        let Some(at) = response(stream, rng, |it| !it.events.is_empty()) else { return false };
        let events = &stream.responses[at].events;
        let revision = events[events.len() - 1].kv.mod_revision - 1;
        let notice =
            WatchResponse { events: Box::default(), id: -1, revision, ..stream.responses[at].clone() };
        stream.responses.insert(at + 1, notice);
        true
    }),
    ("previous value wrong", |stream, rng| {
        events(stream, rng, |it| {
            let event = it.events.iter_mut().find(|event| event.prev.is_some());
            event.and_then(|event| event.prev.as_mut()).is_some_and(|prev| {
                prev.version += 1;
                true
            })
        })
    }),
    ("previous value missing", |stream, rng| {
        events(stream, rng, |it| it.events.iter_mut().any(|event| event.prev.take().is_some()))
    }),
    ("delete as put", |stream, rng| {
        events(stream, rng, |it| {
            it.events.first_mut().is_some_and(|event| {
                event.kind = match event.kind {
                    oracle::history::watch::EventKind::Put => oracle::history::watch::EventKind::Delete,
                    oracle::history::watch::EventKind::Delete => oracle::history::watch::EventKind::Put,
                };
                true
            })
        })
    }),
    ("filter not kept", |stream, _| {
        let WatchCommand::Create(create) = &mut stream.asked[0].command else { return false };
        create.no_put = true;
        true
    }),
    ("before it happened", |stream, rng| {
        events(stream, rng, |it| {
            it.received_ns = 0;
            !it.events.is_empty()
        })
    }),
    ("header behind the events", |stream, rng| {
        events(stream, rng, |it| {
            it.revision = it.events.last().map_or(0, |event| event.kv.mod_revision - 1);
            !it.events.is_empty()
        })
    }),
    ("events below the start", |stream, _| {
        let WatchCommand::Create(create) = &mut stream.asked[0].command else { return false };
        create.start = 30;
        true
    }),
    ("late start", |stream, rng| {
        let first = response(stream, rng, |it| !it.events.is_empty()).map(|_| 1);
        first.is_some_and(|at| {
            stream.responses.remove(at);
            stream.responses.len() > 2
        })
    }),
    ("canceled for no reason", |stream, rng| {
        let Some(at) = inner(stream, rng) else { return false };
        let end = WatchResponse { events: Box::default(), canceled: true, ..stream.responses[at].clone() };
        stream.responses.truncate(at);
        stream.responses.push(end);
        true
    }),
    ("canceled for a compaction that never was", |stream, rng| {
        let Some(at) = inner(stream, rng) else { return false };
        let last = WatchResponse { events: Box::default(), canceled: true, ..stream.responses[at].clone() };
        stream.responses.truncate(at);
        stream.responses.push(WatchResponse { compact_revision: 90, ..last });
        true
    }),
    ("alive after its end", |stream, rng| {
        let Some(at) = inner(stream, rng) else { return false };
        let sent_ns = stream.asked[0].sent_ns;
        stream.asked.push(oracle::history::watch::Asked { sent_ns, command: WatchCommand::Cancel { id: 5 } });
        let end = WatchResponse { events: Box::default(), canceled: true, ..stream.responses[at].clone() };
        stream.responses.insert(at, end);
        true
    }),
    ("events before the creation", |stream, _| {
        let created = stream.responses.remove(0);
        stream.responses.insert(1, created);
        true
    }),
    ("fragment that nobody asked for", |stream, rng| {
        events(stream, rng, |it| {
            it.fragment = true;
            !it.events.is_empty()
        })
    }),
    ("another watcher's", |stream, rng| {
        events(stream, rng, |it| {
            it.id = 4;
            !it.events.is_empty()
        })
    }),
];

#[test]
fn every_breakage_is_refused() {
    for (name, breakage) in BREAKAGES {
        let mut applied = 0;
        for seed in 0..15 {
            let (mut run, replay) = known_run(&Shape { operations: 250, ..PLAIN }, seed);
            if breakage(&mut run.history.streams[0], &mut StdRng::seed_from_u64(seed)) {
                applied += 1;
                assert!(!check(&run.history, &replay).is_ok(), "{name}, seed {seed}");
            }
        }
        assert!(applied >= 5, "{name} was applied {applied} times");
    }
}

#[test]
fn fragments_are_put_together() {
    let (mut run, replay) = known_run(&Shape { operations: 250, ..PLAIN }, 3);
    let stream = &mut run.history.streams[0];
    let WatchCommand::Create(create) = &mut stream.asked[0].command else { panic!("it was asked for") };
    create.fragment = true;
    let mut pieces = Vec::new();
    for whole in std::mem::take(&mut stream.responses) {
        let count = whole.events.len();
        for (at, event) in whole.events.iter().enumerate() {
            let fragment = at + 1 < count;
            pieces.push(WatchResponse { events: [*event].into(), fragment, ..whole.clone() });
        }
        if count == 0 {
            pieces.push(whole);
        }
    }
    stream.responses = pieces;
    assert_eq!(check(&run.history, &replay), Verdict::Ok);
}

#[test]
fn the_end_must_arrive() {
    let (mut run, replay) = known_run(&Shape { operations: 250, ..PLAIN }, 4);
    run.history.streams[0].responses.pop();
    assert_eq!(check(&run.history, &replay), Verdict::Ok);
    assert!(!check_complete(&run.history, &replay, &[0], replay.last()).is_ok());
}

/// What a stream showed takes part in the order: an unknown write that it shows did happen.
#[test]
fn streams_settle_unknown_writes() {
    for seed in 0..20 {
        let (run, replay) = known_run(&Shape { operations: 300, ..ALL }, seed);
        assert_eq!(replay.last() as usize, run.log.len() + 1);
        assert_eq!(check(&run.history, &replay), Verdict::Ok, "seed {seed}");
    }
}
