//! Histories of each kind of traffic, right and broken, through the checkers that are for them.

use oracle::{
    check::{Rules, Violation},
    history::{
        Answer, Client, Fate, History, Key, Member, NEVER_NS, Operation, Outcome, Request, Response, Value,
        record::Recorder,
        request::{
            Compare, Delete, Deleted, End, Kv, Put, Range, Ranged, Relation, SortOrder, SortTarget, Span,
            Txn, TxnResponse, Wanted,
        },
    },
};

use super::{Case, judge};
use crate::workload::Workload;

const MS: u64 = 1_000_000;

/// A history in the making: each operation takes a millisecond, one after the other.
#[derive(Default)]
struct Story {
    recorder: Recorder,
    now_ns: u64,
}

impl Story {
    fn key(&mut self, name: &str) -> Key {
        self.recorder.key(name.as_bytes())
    }

    fn value(&mut self, name: &str) -> Value {
        self.recorder.value(name.as_bytes())
    }

    fn kv(&mut self, key: &str, value: &str, create: i64, modified: i64, version: i64) -> Kv {
        let (key, value) = (self.key(key), self.value(value));
        Kv { key, value, create_revision: create, mod_revision: modified, version, lease: 0 }
    }

    fn ok(&mut self, request: Request, revision: i64, response: Response) {
        self.end(request, Outcome::Ok(Answer { revision, member: Member(0), response }));
    }

    fn end(&mut self, request: Request, outcome: Outcome) {
        let called_ns = self.now_ns;
        self.now_ns += MS;
        let unknown = matches!(outcome, Outcome::Unknown(_));
        let returned_ns = if unknown { NEVER_NS } else { self.now_ns };
        self.now_ns += MS;
        let (client, member) = (Client(0), Member(0));
        self.recorder.operation(Operation { client, member, called_ns, returned_ns, request, outcome });
    }

    fn put(&mut self, key: &str, value: &str, revision: i64) {
        let put = Put::plain(self.key(key), self.value(value));
        self.ok(Request::Put(put), revision, Response::Put { prev: None });
    }

    fn get(&mut self, key: &str, revision: i64, found: Option<Kv>) {
        let range = Range::newest(Span::key(self.key(key)));
        self.ok(Request::Range(range), revision, Response::Range(ranged(found.into_iter().collect())));
    }

    fn judge(self, workload: Workload) -> Result<(), Violation> {
        judge(&self.history(), &case(workload))
    }

    fn history(self) -> History {
        self.recorder.finish().0
    }
}

fn ranged(kvs: Vec<Kv>) -> Ranged {
    Ranged { count: kvs.len() as i64, kvs: kvs.into(), more: false }
}

fn case(workload: Workload) -> Case {
    Case { workload, rules: Rules::default(), lease_grace_ns: 0, complete: Vec::new(), last: 1 }
}

/// The checker that complained.
fn complaint(verdict: Result<(), Violation>) -> String {
    verdict.expect_err("it is broken").what.split(':').next().unwrap_or_default().to_owned()
}

#[test]
fn registers_are_told_from_other_keys() {
    let mut story = Story::default();
    story.put("register/0/0", "a", 2);
    story.put("~heal/0", "b", 3);
    let kv = story.kv("register/0/0", "a", 2, 2, 1);
    story.get("register/0/0", 3, Some(kv));
    assert_eq!(story.judge(Workload::Register), Ok(()));
}

#[test]
fn a_register_that_goes_back_is_noticed_without_revisions() {
    let mut story = Story::default();
    story.put("register/0/0", "a", 2);
    story.put("register/0/0", "b", 3);
    let kv = story.kv("register/0/0", "a", 2, 2, 1);
    story.get("register/0/0", 3, Some(kv));
    let history = story.history();
    assert_eq!(complaint(super::registers(&history, &Rules::default())), "register");
    assert_eq!(complaint(judge(&history, &case(Workload::Register))), "linearizability");
}

fn append(story: &mut Story, guard: i64, value: &str, revision: Option<i64>) {
    let list = story.key("list/0/0");
    let compare = Compare { span: Span::key(list), wanted: Wanted::Mod(guard), relation: Relation::Equal };
    let success = vec![Request::Put(Put::plain(list, story.value(value)))];
    let txn = Txn { compares: vec![compare], success, failure: Vec::new() };
    let request = Request::Txn(Box::new(txn));
    match revision {
        Some(revision) => {
            let answers = vec![(revision, Response::Put { prev: None })];
            let told = Response::Txn(Box::new(TxnResponse { succeeded: true, answers }));
            story.ok(request, revision, told);
        }
        None => story.end(request, Outcome::Unknown(Fate::Open)),
    }
}

fn look(story: &mut Story, value: &str, revision: i64, version: i64) {
    let kv = story.kv("list/0/0", value, 2, revision, version);
    let success = vec![Request::Range(Range::newest(Span::key(kv.key)))];
    let txn = Txn { compares: Vec::new(), success, failure: Vec::new() };
    let answers = vec![(revision, Response::Range(ranged(vec![kv])))];
    let told = Response::Txn(Box::new(TxnResponse { succeeded: true, answers }));
    story.ok(Request::Txn(Box::new(txn)), revision, told);
}

#[test]
fn lists_are_read_from_guarded_writes() {
    let mut story = Story::default();
    append(&mut story, 0, "1", Some(2));
    append(&mut story, 2, "1,2", None);
    look(&mut story, "1,2", 3, 2);
    append(&mut story, 3, "1,2,3", Some(4));
    look(&mut story, "1,2,3", 4, 3);
    assert_eq!(story.judge(Workload::Append), Ok(()));
}

#[test]
fn a_lost_append_is_noticed_without_revisions() {
    let mut story = Story::default();
    append(&mut story, 0, "1", Some(2));
    append(&mut story, 2, "1,2", Some(3));
    append(&mut story, 2, "1,3", Some(4));
    look(&mut story, "1,3", 4, 3);
    let history = story.history();
    let txns = super::transactions(&history);
    assert_eq!(txns.len(), 4);
    assert_eq!(complaint(super::tell(&history, "cycle", oracle::check::cycle::check(&txns))), "cycle");
}

fn members(story: &mut Story, found: Vec<Kv>, revision: i64) {
    let span = Span { start: story.key("set/0/"), end: End::Before(story.key("set/00")) };
    let told = Response::Range(ranged(found));
    story.ok(Request::Range(Range::newest(span)), revision, told);
}

#[test]
fn sets_lose_nothing() {
    let story = |complete: bool| {
        let mut story = Story::default();
        story.put("set/0/1", "a", 2);
        story.put("set/0/2", "b", 3);
        let mut found = vec![story.kv("set/0/1", "a", 2, 2, 1)];
        if complete {
            found.push(story.kv("set/0/2", "b", 3, 3, 1));
        }
        members(&mut story, found, 3);
        story.history()
    };
    assert_eq!(judge(&story(true), &case(Workload::Set)), Ok(()));
    assert_eq!(complaint(super::sets(&story(false))), "set 0");
}

fn enter(story: &mut Story, key: &str, value: &str, revision: i64) {
    story.put(key, value, revision);
}

fn guarded(story: &mut Story, key: &str, created: i64, value: &str, revision: i64) {
    let (key, data) = (story.key(key), story.key("guarded/0"));
    let guard = Compare { span: Span::key(key), wanted: Wanted::Create(created), relation: Relation::Equal };
    let success = vec![Request::Put(Put::plain(data, story.value(value)))];
    let txn = Txn { compares: vec![guard], success, failure: Vec::new() };
    let answers = vec![(revision, Response::Put { prev: None })];
    let told = Response::Txn(Box::new(TxnResponse { succeeded: true, answers }));
    story.ok(Request::Txn(Box::new(txn)), revision, told);
}

fn oldest(story: &mut Story, found: Kv, count: i64, revision: i64) {
    let span = Span { start: story.key("lock/0/"), end: End::Before(story.key("lock/00")) };
    let (order, target) = (SortOrder::Ascend, SortTarget::Create);
    let range = Range { limit: 1, order, target, ..Range::newest(span) };
    let told = Ranged { kvs: [found].into(), count, more: count > 1 };
    story.ok(Request::Range(range), revision, Response::Range(told));
}

#[test]
fn who_holds_a_lock_may_write() {
    let mut story = Story::default();
    enter(&mut story, "lock/0/a", "1", 2);
    enter(&mut story, "lock/0/b", "2", 3);
    let first = story.kv("lock/0/a", "1", 2, 2, 1);
    oldest(&mut story, first, 2, 3);
    guarded(&mut story, "lock/0/a", 2, "3", 4);
    let delete = Delete { span: Span::key(story.key("lock/0/a")), prev_kv: false };
    story.ok(Request::Delete(delete), 5, Response::Delete(Deleted { deleted: 1, prev: [].into() }));
    guarded(&mut story, "lock/0/b", 3, "4", 6);
    assert_eq!(story.judge(Workload::Lock), Ok(()));
}

#[test]
fn who_waits_for_a_lock_may_not_write() {
    let mut story = Story::default();
    enter(&mut story, "lock/0/a", "1", 2);
    enter(&mut story, "lock/0/b", "2", 3);
    // Its guard holds, and yet it is not its turn.
    guarded(&mut story, "lock/0/b", 3, "3", 4);
    assert_eq!(complaint(story.judge(Workload::Lock)), "lock");
}
