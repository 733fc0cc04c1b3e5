//! Compactions: their headers name a revision that was there at the end, and what they refuse is explained by them.

use std::collections::HashMap;

use oracle::{
    check::{Rules, Verdict, headers, linear, witness},
    history::{
        Answer, Client, Fate, History, Key, Member, Operation, Outcome, Refusal, Request, Response, Revision,
        Value,
        record::Recorder,
        request::{Compare, Kv, Put, Range, Ranged, Relation, Span, Txn, Wanted},
        watch::EventKind,
    },
};

use crate::generate::{ALL, Run, Shape, run};

#[derive(Default)]
struct Story {
    recorder: Recorder,
    clients: u32,
}

impl Story {
    /// An operation of a client of its own that member `member` answered.
    fn ask(&mut self, member: u32, (called_ns, returned_ns): (u64, u64), request: Request, outcome: Outcome) {
        let client = Client(self.clients);
        self.clients += 1;
        let member = Member(member);
        let operation = Operation { client, member, called_ns, returned_ns, request, outcome };
        self.recorder.operation(operation);
    }

    fn ok(
        &mut self,
        member: u32,
        time: (u64, u64),
        request: Request,
        revision: Revision,
        response: Response,
    ) {
        let answer = Answer { revision, member: Member(member), response };
        self.ask(member, time, request, Outcome::Ok(answer));
    }

    fn put(&mut self, key: &str, time: (u64, u64), revision: Revision) {
        let put = Put::plain(self.key(key), self.value(key));
        self.ok(0, time, Request::Put(put), revision, Response::Put { prev: None });
    }

    fn compact(&mut self, floor: Revision, time: (u64, u64), revision: Revision) {
        self.ok(0, time, Request::Compact { revision: floor }, revision, Response::Compact);
    }

    fn key(&mut self, name: &str) -> Key {
        self.recorder.key(name.as_bytes())
    }

    fn value(&mut self, name: &str) -> Value {
        self.recorder.value(name.as_bytes())
    }

    /// Member 1 finds the key as it was written at `revision`, the newest one.
    fn get(&mut self, key: &str, time: (u64, u64), revision: Revision) {
        self.get_of(key, 0, time, (revision, revision));
    }

    /// The same in the state of `past`: written at the first revision, found at the second.
    fn get_of(
        &mut self,
        key: &str,
        past: Revision,
        time: (u64, u64),
        (written, found): (Revision, Revision),
    ) {
        let (key, value) = (self.key(key), self.value(key));
        let kv = Kv { key, value, create_revision: written, mod_revision: written, version: 1, lease: 0 };
        let ranged = Ranged { kvs: vec![kv].into(), count: 1, more: false };
        let range = Range { revision: past, ..Range::newest(Span::key(key)) };
        self.ok(1, time, Request::Range(range), found, Response::Range(ranged));
    }

    fn history(self) -> History {
        self.recorder.finish().0
    }
}

#[test]
fn nothing_is_older_than_what_an_earlier_compaction_named() {
    let story = |named: Revision| {
        let mut story = Story::default();
        story.put("a", (0, 10), 2);
        story.put("b", (5, 100), 3);
        story.compact(2, (20, 30), named);
        story.get("a", (40, 50), 2);
        story.history()
    };
    assert_eq!(headers::check(&story(2)), Verdict::Ok);
    assert!(!headers::check(&story(3)).is_ok(), "a stale read");
    assert!(!headers::check(&story(1_000_000)).is_ok());
}

#[test]
fn a_refusal_is_explained_by_the_later_of_two_compactions() {
    let mut story = Story::default();
    let last = 8;
    for revision in 2..=last {
        story.put(&format!("k{revision}"), (revision as u64, revision as u64), revision);
    }
    story.compact(5, (10, 40), last);
    story.compact(7, (11, 41), last);
    let key = story.key("k2");
    let past = Range { revision: 6, ..Range::newest(Span::key(key)) };
    story.ask(0, (12, 20), Request::Range(past), Outcome::Refused(Refusal::Compacted));
    story.get("k8", (25, 30), last);
    let judged = linear::check(&story.history(), &Rules::default());
    assert_eq!((judged.verdict, judged.searched), (Verdict::Ok, false));
}

#[test]
fn a_compaction_may_have_come_long_before_its_answer() {
    let mut story = Story::default();
    for (revision, key) in [(2, "a"), (3, "b"), (4, "c")] {
        story.put(key, (revision as u64, revision as u64), revision);
    }
    let (old, new) = (Span::key(story.key("a")), Span::key(story.key("d")));
    // It reads the past only while "d" is not there.
    let txn = Txn {
        compares: vec![Compare { span: new, wanted: Wanted::Version(0), relation: Relation::Equal }],
        success: vec![Request::Range(Range { revision: 2, ..Range::newest(old) })],
        failure: vec![],
    };
    story.ask(0, (15, 60), Request::Txn(Box::new(txn)), Outcome::Refused(Refusal::Compacted));
    story.compact(3, (20, 50), 5);
    story.put("d", (30, 40), 5);
    story.get("d", (70, 80), 5);
    // Another comes later than a read that was asked after it.
    story.compact(4, (85, 110), 6);
    story.put("e", (86, 99), 6);
    story.get_of("a", 3, (87, 105), (2, 6));
    let judged = linear::check(&story.history(), &Rules::default());
    assert_eq!((judged.verdict, judged.searched), (Verdict::Ok, false));
}

/// Many at once, some of unknown outcome: no search is needed, which would give up on histories of this length.
#[test]
fn the_claimed_order_of_busy_histories_is_found() {
    for (clients, unknown_per_mille, regrants) in
        [(64, 0, false), (64, 20, false), (16, 20, false), (8, 60, true)]
    {
        for seed in 0..60 {
            let shape = Shape { clients, operations: 4_000, keys: 40, regrants, unknown_per_mille, ..ALL };
            let mut run = run(&shape, seed).with_watch(1);
            if seed % 2 == 1 {
                tell_fates(&mut run);
            }
            let witnessed = witness::witness(&run.history, &Rules::default());
            let is_ordered = matches!(witnessed, witness::Witnessed::Ordered(_));
            assert!(
                is_ordered,
                "{clients} clients, {unknown_per_mille} of 1,000 unknown, seed {seed}: {witnessed:?}"
            );
        }
    }
}

/// As the members' logs tell of puts that nobody was answered.
fn tell_fates(run: &mut Run) {
    let mut made: HashMap<Value, Revision> = HashMap::new();
    for (revision, (_, events)) in (2..).zip(&run.log) {
        for event in events.iter().filter(|event| event.kind == EventKind::Put) {
            // A later put may keep the value.
            made.entry(event.kv.value).or_insert(revision);
        }
    }
    for operation in run.history.operations.iter_mut().filter(|it| matches!(it.outcome, Outcome::Unknown(_)))
    {
        if let Some(&at) = first_value(&operation.request).and_then(|value| made.get(&value)) {
            operation.outcome = Outcome::Unknown(Fate::At(at));
        }
    }
}

fn first_value(request: &Request) -> Option<Value> {
    match request {
        Request::Put(put) if !put.ignore_value && put.value != Value::EMPTY => Some(put.value),
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).find_map(first_value),
        _ => None,
    }
}
