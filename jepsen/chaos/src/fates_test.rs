//! Unknown outcomes against a watch of everything, whole and with a hole.

use oracle::history::{
    Answer, Client, Fate, History, Member, NEVER_NS, Operation, Outcome, Request, Response, Stream,
    record::Recorder,
    request::{Delete, End, Kv, Put, Span},
    watch::{Asked, Event, EventKind, WatchCommand, WatchCreate, WatchResponse},
};

use super::{Settled, settle};

#[derive(Default)]
struct Story {
    recorder: Recorder,
    operations: u64,
    events: Vec<Event>,
}

impl Story {
    fn put(&mut self, key: &str, value: &str, keeps_value: bool) -> Put {
        let (key, value) = (self.recorder.key(key.as_bytes()), self.recorder.value(value.as_bytes()));
        Put { ignore_value: keeps_value, ..Put::plain(key, value) }
    }

    fn delete(&mut self, key: &str) -> Request {
        let span = Span::key(self.recorder.key(key.as_bytes()));
        Request::Delete(Delete { span, prev_kv: false })
    }

    fn unknown(&mut self, request: Request) {
        self.end(request, NEVER_NS, Outcome::Unknown(Fate::Open));
    }

    fn told(&mut self, request: Request, revision: i64) {
        let answer = Answer { revision, member: Member(0), response: Response::Put { prev: None } };
        self.end(request, self.operations + 1, Outcome::Ok(answer));
    }

    fn end(&mut self, request: Request, returned_ns: u64, outcome: Outcome) {
        let (client, member, called_ns) = (Client(0), Member(0), self.operations);
        self.operations += 1;
        self.recorder.operation(Operation { client, member, called_ns, returned_ns, request, outcome });
    }

    fn event(&mut self, kind: EventKind, key: &str, value: &str, revision: i64) {
        let (key, value) = (self.recorder.key(key.as_bytes()), self.recorder.value(value.as_bytes()));
        let kv = Kv { key, value, create_revision: 0, mod_revision: revision, version: 0, lease: 0 };
        self.events.push(Event { kind, kv, prev: None });
    }

    /// Settled up to `last`; the fates in the order of the calls, `None` for what was answered.
    fn settle(mut self, last: i64) -> (Settled, Vec<Option<Fate>>) {
        let start = self.recorder.key(crate::observer::FIRST_KEY.as_bytes());
        let create = WatchCreate {
            id: 0,
            span: Span { start, end: End::Open },
            start: 1,
            prev_kv: false,
            progress_notify: false,
            fragment: false,
            no_put: false,
            no_delete: false,
        };
        let response = WatchResponse {
            received_ns: 0,
            id: 0,
            revision: last,
            created: false,
            canceled: false,
            fragment: false,
            compact_revision: 0,
            events: std::mem::take(&mut self.events).into(),
        };
        let asked = vec![Asked { sent_ns: 0, command: WatchCommand::Create(create) }];
        self.recorder.stream(Stream {
            client: Client(9),
            member: Member(0),
            asked,
            responses: vec![response],
        });
        let (mut history, _): (History, _) = self.recorder.finish();
        let settled = settle(&mut history, last);
        let fates = history.operations.iter().map(|operation| match operation.outcome {
            Outcome::Unknown(fate) => Some(fate),
            _ => None,
        });
        (settled, fates.collect())
    }
}

#[test]
fn a_put_is_found_by_its_value_where_it_came_first() {
    let mut story = Story::default();
    let (lost, found) = (story.put("a", "1", false), story.put("a", "2", false));
    story.unknown(Request::Put(lost));
    story.unknown(Request::Put(found));
    let touch = story.put("a", "", true);
    story.told(Request::Put(touch), 3);
    story.event(EventKind::Put, "a", "2", 2);
    story.event(EventKind::Put, "a", "2", 3);
    let (settled, fates) = story.settle(3);
    assert_eq!(fates, [Some(Fate::Never), Some(Fate::At(2)), None]);
    assert_eq!(settled, Settled { happened: 1, never: 1, open: 0 });
}

#[test]
fn a_delete_stays_open_while_an_unclaimed_revision_could_be_its_work() {
    let mut story = Story::default();
    let (a, b) = (story.delete("a"), story.delete("b"));
    story.unknown(a);
    story.unknown(b);
    let put = story.put("a", "1", false);
    story.told(Request::Put(put), 2);
    story.event(EventKind::Put, "a", "1", 2);
    story.event(EventKind::Delete, "a", "", 3);
    let (settled, fates) = story.settle(3);
    assert_eq!(fates, [Some(Fate::Open), Some(Fate::Never), None]);
    assert_eq!(settled, Settled { happened: 0, never: 1, open: 1 });
}

#[test]
fn a_watch_with_a_hole_proves_no_absence() {
    let mut story = Story::default();
    let (lost, found) = (story.put("a", "1", false), story.put("a", "2", false));
    story.unknown(Request::Put(lost));
    story.unknown(Request::Put(found));
    story.event(EventKind::Put, "a", "2", 3);
    let (settled, fates) = story.settle(3);
    assert_eq!(fates, [Some(Fate::Open), Some(Fate::At(3))]);
    assert_eq!(settled, Settled { happened: 1, never: 0, open: 1 });
}
