//! The watch hub under scripts of commands, commits, slow readers and late history, against a replay.
//!
//! Each watcher is owed the events of its range from its start on: in order, once, whole. Behind the script everything
//! is read, and nothing may be missing.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc};

use bytes::Bytes;
use prost::Message as _;
use proto::{
    etcdserverpb::{
        WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        watch_request::RequestUnion,
    },
    mvccpb::{self, KeyValue, event::EventType},
};
use store::watch::{
    Block, Compacted, Config, Event, EventKind, Hub, KeyRange, LoadRequest, Loaded, StreamId,
};

use crate::input::{Input, Script};

const STREAMS: usize = 3;
const KEYS: [&[u8]; 4] = [b"a", b"ab", b"abc", b"b"];
/// Rounds after which everything must have been delivered.
const MAX_ROUNDS: usize = 100_000;

/// One watcher as its client sees it.
struct Watcher {
    create: WatchCreateRequest,
    range: KeyRange,
    start: i64,
    /// Place in the history behind the last event it was told of.
    next: usize,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let kind = if event.kind == EventKind::Put { 0 } else { 1 };
        event.revision >= self.start
            && self.range.contains(&event.key)
            && !self.create.filters.contains(&kind)
    }

    /// The place of the next event that it is owed.
    fn owed(&self, history: &[Event]) -> Option<usize> {
        (self.next..history.len()).find(|place| self.wants(&history[*place]))
    }
}

#[derive(Default)]
struct Client {
    asked: VecDeque<WatchCreateRequest>,
    watchers: BTreeMap<i64, Watcher>,
    partial: Vec<u8>,
}

struct World {
    hub: Hub,
    history: Vec<Event>,
    present: BTreeMap<&'static [u8], KeyValue>,
    revision: i64,
    compacted: i64,
    now: u64,
    streams: Vec<(StreamId, Client)>,
    loads: Vec<LoadRequest>,
}

impl World {
    fn new() -> World {
        let config = Config {
            output_bytes: 200,
            ring_bytes: 1500,
            catch_up_bytes: 150,
            fragment_bytes: 120,
            progress_interval: 100,
            max_watchers_per_stream: 6,
            max_watchers: 10,
            max_loads: 2,
            ..Config::new(7, 8, 1)
        };
        let mut hub = Hub::new(config, 1);
        let streams = (0..STREAMS).map(|at| (hub.open_stream(0, at as u64), Client::default())).collect();
        World {
            hub,
            history: Vec::new(),
            present: BTreeMap::new(),
            revision: 1,
            compacted: 0,
            now: 0,
            streams,
            loads: Vec::new(),
        }
    }

    /// One revision of changes to different keys; none if nothing changes.
    fn commit(&mut self, input: &mut Input<'_>) {
        let revision = self.revision + 1;
        let changes = input.byte();
        let mut events = Vec::new();
        for (at, key) in KEYS.into_iter().enumerate() {
            let old = self.present.get(key).cloned();
            let (kind, kv) = match changes >> (2 * at) & 3 {
                1 | 2 => {
                    let value = Bytes::from(vec![b'v'; usize::from(input.byte() % 64)]);
                    let kv = KeyValue {
                        key: Bytes::from_static(key),
                        create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                        mod_revision: revision,
                        version: old.as_ref().map_or(0, |old| old.version) + 1,
                        value,
                        lease: 0,
                    };
                    self.present.insert(key, kv.clone());
                    (EventKind::Put, kv)
                }
                3 if old.is_some() => {
                    self.present.remove(key);
                    let key = Bytes::from_static(key);
                    (EventKind::Delete, KeyValue { key, mod_revision: revision, ..Default::default() })
                }
                _ => continue,
            };
            let kind_number = if kind == EventKind::Put { EventType::Put } else { EventType::Delete };
            let event = mvccpb::Event { r#type: kind_number as i32, kv: Some(kv), prev_kv: None };
            events.push(Event {
                key: Bytes::from_static(key),
                revision,
                sub: events.len() as i64,
                kind,
                is_create: old.is_none(),
                body: event.encode_to_vec().into(),
                prev: old.map(|old| old.encode_to_vec().into()),
            });
        }
        if events.is_empty() {
            return;
        }
        self.revision = revision;
        self.history.extend(events.iter().cloned());
        if !self.hub.wants_prev() {
            events.iter_mut().for_each(|event| event.prev = None);
        }
        self.hub.publish(&Arc::new(Block { first_revision: revision, last_revision: revision, events }));
    }

    fn create(&mut self, at: usize, create: WatchCreateRequest) {
        let (stream, client) = &mut self.streams[at];
        if self.hub.accepts(*stream) {
            client.asked.push_back(create.clone());
            let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            self.hub.request(*stream, request, self.now);
        }
    }

    fn answer(&mut self, at: usize) {
        if self.loads.is_empty() {
            return;
        }
        let load = self.loads.swap_remove(at % self.loads.len());
        if load.from_revision < self.compacted {
            return self.hub.loaded(load.ticket, Err(Compacted(self.compacted)));
        }
        let mut events: Vec<Event> = Vec::new();
        let mut through_revision = self.revision;
        let (mut revisions, mut bytes) = (0, 0);
        for event in &self.history {
            if event.revision < load.from_revision || !load.range.contains(&event.key) {
                continue;
            }
            if events.last().is_none_or(|last| last.revision < event.revision) {
                if revisions == load.max_revisions || bytes >= load.max_bytes {
                    through_revision = event.revision - 1;
                    break;
                }
                revisions += 1;
            }
            let mut event = event.clone();
            if !load.want_prev || event.revision - 1 < self.compacted {
                event.prev = None;
            }
            bytes += event.body.len();
            events.push(event);
        }
        self.hub.loaded(load.ticket, Ok(Loaded { events, through_revision }));
    }

    fn catch_up(&mut self, budget: usize) -> bool {
        let more = self.hub.catch_up(budget);
        self.loads.extend(self.hub.loads());
        assert!(self.loads.len() <= 2, "more loads than allowed");
        more
    }

    /// Takes bytes off a stream and checks the messages that are whole; whether there were any bytes.
    fn read(&mut self, at: usize, max_bytes: usize) -> bool {
        let (stream, client) = &mut self.streams[at];
        let bytes = self.hub.take_output(*stream, max_bytes);
        assert!(bytes.len() <= max_bytes);
        client.partial.extend_from_slice(&bytes);
        while let Some(head) = client.partial.first_chunk::<5>() {
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if client.partial.len() < 5 + len {
                break;
            }
            let message: Vec<u8> = client.partial.drain(..5 + len).skip(5).collect();
            let response = WatchResponse::decode(&message[..]).expect("a response");
            client.check(&response, &self.history, self.compacted);
        }
        !bytes.is_empty()
    }

    /// Everybody reads and all history is there, until nothing moves.
    fn drain(&mut self) {
        for _ in 0..MAX_ROUNDS {
            self.hub.history_through(self.revision);
            let mut moved = self.catch_up(1000);
            while !self.loads.is_empty() {
                self.answer(0);
                moved = true;
            }
            for at in 0..STREAMS {
                moved |= self.read(at, 1 << 20);
            }
            if !moved {
                return;
            }
        }
        panic!("the hub never rests");
    }
}

impl Client {
    fn check(&mut self, response: &WatchResponse, history: &[Event], compacted: i64) {
        let header = response.header.as_ref().expect("every response has a header");
        if response.created {
            let create = self.asked.pop_front().expect("one answer for each create");
            if response.canceled {
                assert!(response.watch_id == -1 && !response.cancel_reason.is_empty());
                return;
            }
            let range =
                KeyRange::from_request(create.key.clone(), create.range_end.clone()).expect("a range");
            let start = if create.start_revision > 0 { create.start_revision } else { header.revision + 1 };
            let watcher = Watcher { create, range, start, next: 0 };
            let old = self.watchers.insert(response.watch_id, watcher);
            assert!(old.is_none(), "a watch ID in use was given away");
            return;
        }
        if response.canceled {
            let gone = self.watchers.remove(&response.watch_id);
            assert!(gone.is_some(), "canceled twice, or before it was created");
            assert!(response.compact_revision <= compacted);
            return;
        }
        if response.events.is_empty() {
            for (id, watcher) in &self.watchers {
                if response.watch_id == -1 || response.watch_id == *id {
                    let owed = watcher.owed(history).map(|place| history[place].revision);
                    assert!(owed.is_none_or(|owed| owed > header.revision), "progress ahead of an event");
                }
            }
            return;
        }
        let watcher = self.watchers.get_mut(&response.watch_id).expect("events of a watcher that is there");
        for event in &response.events {
            let place = watcher.owed(history).expect("an event that is owed");
            watcher.next = place + 1;
            let bare = mvccpb::Event { prev_kv: None, ..event.clone() };
            assert_eq!(Bytes::from(bare.encode_to_vec()), history[place].body, "another event was due");
            match event.prev_kv.as_ref().map(|prev| Bytes::from(prev.encode_to_vec())) {
                Some(prev) => {
                    assert!(watcher.create.prev_kv);
                    assert_eq!(Some(prev), history[place].prev);
                }
                None => assert!(
                    !watcher.create.prev_kv
                        || history[place].is_create
                        || history[place].revision - 1 < compacted,
                    "a previous value is missing"
                ),
            }
        }
        assert!(!response.fragment || watcher.create.fragment);
    }
}

pub fn hub(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        let at = input.choice(STREAMS);
        match input.choice(14) {
            0..3 => world.commit(&mut input),
            3 => {
                let options = input.byte();
                let ends: [&[u8]; 6] = [b"", b"\0", b"b", b"ac", b"c", b"a"];
                let start = match options >> 6 {
                    0 | 1 => 0,
                    2 => (world.revision - i64::from(input.byte() % 40)).max(1),
                    _ => world.revision + i64::from(input.byte() % 6) - 1,
                };
                world.create(
                    at,
                    WatchCreateRequest {
                        key: Bytes::from_static(KEYS[input.choice(KEYS.len())]),
                        range_end: Bytes::from_static(ends[input.choice(ends.len())]),
                        start_revision: start,
                        progress_notify: options & 1 != 0,
                        filters: if options & 6 == 6 {
                            vec![i32::from(options >> 3 & 1)]
                        } else {
                            Vec::new()
                        },
                        prev_kv: options & 16 != 0,
                        watch_id: i64::from(input.byte() % 8),
                        fragment: options & 32 != 0,
                    },
                );
            }
            4 => {
                // Whatever a client may send.
                let (stream, _) = world.streams[at];
                match WatchRequest::decode(input.bytes()).map(|request| request.request_union) {
                    Ok(Some(RequestUnion::CreateRequest(create))) => world.create(at, create),
                    Ok(request_union) => {
                        world.hub.request(stream, WatchRequest { request_union }, world.now);
                    }
                    Err(_) => {}
                }
            }
            5 => {
                let cancel = WatchCancelRequest { watch_id: i64::from(input.byte() % 8) };
                let request = WatchRequest { request_union: Some(RequestUnion::CancelRequest(cancel)) };
                world.hub.request(world.streams[at].0, request, world.now);
            }
            6 => {
                let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
                let request = WatchRequest { request_union: Some(progress) };
                world.hub.request(world.streams[at].0, request, world.now);
            }
            7 => drop(world.read(at, 1 + usize::from(input.byte()))),
            8 => drop(world.catch_up(1 + input.choice(16))),
            9 => world.answer(usize::from(input.byte())),
            10 => world.hub.history_through((world.revision - i64::from(input.byte() % 12)).max(0)),
            11 => {
                let revision = world.revision - i64::from(input.byte() % 30);
                world.compacted = world.compacted.max(revision);
                world.hub.compacted(world.compacted);
            }
            12 => {
                world.now = world.now.saturating_add(input.number().min(1 << 40));
                world.hub.tick(world.now);
            }
            _ => {
                world.hub.close_stream(world.streams[at].0);
                world.streams[at] = (world.hub.open_stream(world.now, 3), Client::default());
            }
        }
    }
    world.drain();
    for (_, client) in &world.streams {
        assert!(client.asked.is_empty() && client.partial.is_empty(), "an answer is missing");
        for (id, watcher) in &client.watchers {
            let owed = watcher.owed(&world.history).map(|place| world.history[place].revision);
            assert_eq!(owed, None, "watcher {id} was never told of a revision");
        }
    }
    let stats = world.hub.stats();
    assert_eq!((stats.streams, stats.pending_events), (STREAMS, 0));
}

pub fn hub_seeds() -> Vec<Vec<u8>> {
    fn commit(script: Script, changes: u8) -> Script {
        script.byte(0).byte(0).byte(changes).raw(&[5; 4])
    }
    fn create(script: Script, options: u8, key: u8, end: u8, id: u8) -> Script {
        script.byte(0).byte(3).byte(options).byte(key).byte(end).byte(id)
    }
    let live = commit(commit(create(Script::default(), 16, 0, 1, 0), 0x01), 0x55).byte(0).byte(6);
    let past = Script::default().byte(0).byte(3).byte(0xb0).byte(9).byte(0).byte(1).byte(0);
    let past = commit(commit(commit(Script::default(), 0x01), 0x07), 0x41).raw(&past.done());
    let slow = (0..12).fold(create(Script::default(), 32, 0, 2, 3), |script, _| commit(script, 0x15));
    let slow = slow.byte(0).byte(8).byte(3).byte(0).byte(7).byte(50).byte(0).byte(9).byte(0);
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: "a".into(),
            start_revision: 2,
            ..Default::default()
        })),
    };
    let raw = commit(Script::default().byte(1).byte(4).bytes(&request.encode_to_vec()), 0x03);
    let compacted = past.clone().byte(0).byte(11).byte(1).raw(&raw.clone().done());
    [live, past, slow, raw, compacted].map(Script::done).to_vec()
}
