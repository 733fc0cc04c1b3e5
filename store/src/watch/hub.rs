//! The hub itself: requests, publishes, catch-up and progress over the streams of one runtime thread.
//! The shell calls `publish` for each block, `request` for each message of a client, `catch_up` after either
//! until it answers false, sends off `loads` and hands their answers to `loaded`, and writes `take_output`
//! for the streams in `readable`.

use bytes::Bytes;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::index::Index;
use super::range::KeyRange;
use super::response::{Header, Tail, View, push_message};
use super::ring::{Bounds, Ring};
use super::slab::{Handle, Slab};
use super::stream::{State, Stream, Watcher};
use super::{Block, Compacted, Config, Event, LoadRequest, Loaded, Stats, StreamId};
use crate::mutant::{self, Mutant};

/// The watch id of answers that belong to no watcher.
const NO_WATCHER: i64 = -1;
/// Distinct revisions in one catch-up response.
const CATCH_UP_REVISIONS: usize = 1000;
/// Watchers of one stream that may wait for history at once.
const LOADS_PER_STREAM: usize = 8;
/// Room above `output_bytes` for answers to requests.
const CONTROL_BYTES: usize = 64 << 10;
/// Scratch buffers above this are given back after use.
const SCRATCH_BYTES: usize = 1 << 20;

const REASON_COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const REASON_EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const REASON_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const REASON_STREAM_LIMIT: &str = "etcdserver: too many watchers on the watch stream";
const REASON_LIMIT: &str = "etcdserver: too many watchers";

/// All watchers of one range.
#[derive(Debug)]
struct Group {
    range: KeyRange,
    /// The synced ones.
    members: Vec<Member>,
    watchers: usize,
    /// Places in the block of this range's events of the revision being published.
    matched: Vec<usize>,
}

/// What a publish needs to know of a synced watcher, kept together.
#[derive(Clone, Copy, Debug)]
struct Member {
    watcher: Handle,
    stream: Handle,
    watch_id: i64,
    /// Takes revisions from here on.
    from: i64,
    view: View,
    fragment: bool,
    progress_notify: bool,
}

/// A load under way and who waits for it; watchers that want the same share one.
#[derive(Debug)]
struct Load {
    group: Handle,
    from: i64,
    want_prev: bool,
    waiters: Vec<Handle>,
}

#[derive(Debug)]
pub struct Hub {
    config: Config,
    header: Header,
    current: i64,
    compacted: i64,
    ring: Ring,
    streams: Slab<Stream>,
    watchers: Slab<Watcher>,
    groups: Slab<Group>,
    index: Index<Handle>,
    /// Streams with room and watchers behind.
    queue: VecDeque<Handle>,
    /// Streams whose next watcher waits for one of the `max_loads` places.
    starved: VecDeque<Handle>,
    /// Watchers that need from history what history does not have yet.
    early: Vec<Handle>,
    loads: HashMap<u64, Load>,
    load_tickets: HashMap<(Handle, i64, bool), u64>,
    next_ticket: u64,
    asked: Vec<LoadRequest>,
    readable: Vec<StreamId>,
    due: BTreeSet<(u64, Handle)>,
    synced: usize,
    prev_watchers: usize,
    events_total: u64,
    tails: [Tail; View::COUNT],
    found: Vec<Handle>,
    touched: Vec<Handle>,
}

impl Hub {
    /// A hub that knows of everything up to revision `current`; history has all of that.
    pub fn new(config: Config, current: i64) -> Self {
        let config = Config { max_loads: config.max_loads.max(1), ..config };
        Hub {
            header: Header::new(config.cluster_id, config.member_id),
            current,
            compacted: 0,
            ring: Ring::new(config.ring_bytes, current),
            streams: Slab::new(),
            watchers: Slab::new(),
            groups: Slab::new(),
            index: Index::new(config.seed),
            queue: VecDeque::new(),
            starved: VecDeque::new(),
            early: Vec::new(),
            loads: HashMap::new(),
            load_tickets: HashMap::new(),
            next_ticket: 1,
            asked: Vec::new(),
            readable: Vec::new(),
            due: BTreeSet::new(),
            synced: 0,
            prev_watchers: 0,
            events_total: 0,
            tails: Default::default(),
            found: Vec::new(),
            touched: Vec::new(),
            config,
        }
    }

    // ---- facts about the store

    pub fn set_term(&mut self, term: u64) {
        self.header.set_term(term);
    }

    pub fn revision(&self) -> i64 {
        self.current
    }

    /// Whether blocks should carry previous values.
    pub fn wants_prev(&self) -> bool {
        self.prev_watchers > 0
    }

    /// Loads can now be answered up to `revision`; the ring may forget up to there.
    pub fn history_through(&mut self, revision: i64) {
        self.ring.set_history_through(revision);
        for watcher in std::mem::take(&mut self.early) {
            self.enqueue(watcher);
        }
    }

    /// Revisions below `revision` are gone: new watchers cannot start there.
    pub fn compacted(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }

    /// The store was replaced by a snapshot at `revision`, all of it in history. Watchers go on where they
    /// were: they read the revisions in between, or learn that these are compacted.
    pub fn restored(&mut self, revision: i64) {
        let behind: Vec<(Handle, i64)> = self
            .watchers
            .handles()
            .filter_map(|handle| {
                let watcher = self.watchers.get(handle)?;
                let next = match mutant::on(Mutant::W2) {
                    true => watcher.start.max(self.current - 3).max(1),
                    false => watcher.start.max(self.current + 1),
                };
                let falls = matches!(watcher.state, State::Synced { .. }) && next <= revision;
                falls.then_some((handle, next))
            })
            .collect();
        for (watcher, next) in behind {
            self.fall_behind(watcher, next);
        }
        self.current = revision;
        self.ring.clear(revision);
        for watcher in std::mem::take(&mut self.early) {
            self.enqueue(watcher);
        }
    }

    // ---- streams

    /// `jitter`: milliseconds added to the progress interval of this stream, up to a tenth of it.
    pub fn open_stream(&mut self, now: u64, jitter: u64) -> StreamId {
        let interval = self.config.progress_interval.max(100).saturating_add(jitter);
        self.streams.insert(Stream::new(now, interval))
    }

    pub fn close_stream(&mut self, stream: StreamId) {
        let Some(open) = self.streams.get(stream) else { return };
        for watch_id in open.watchers.keys().copied().collect::<Vec<_>>() {
            self.remove_watcher(stream, watch_id);
        }
        self.streams.remove(stream);
    }

    /// Whether the stream has room for the answer to one more request. While it has not, its client does not
    /// read, and the shell leaves further requests on the connection.
    pub fn accepts(&self, stream: StreamId) -> bool {
        self.streams
            .get(stream)
            .is_some_and(|stream| stream.out.len() < self.config.output_bytes + CONTROL_BYTES)
    }

    /// Streams that have output since the last call.
    pub fn readable(&mut self) -> Vec<StreamId> {
        let mut readable = std::mem::take(&mut self.readable);
        readable.retain(|&id| match self.streams.get_mut(id) {
            Some(stream) => {
                stream.listed = false;
                !stream.out.is_empty()
            }
            None => false,
        });
        readable
    }

    pub fn pending_bytes(&self, stream: StreamId) -> usize {
        self.streams.get(stream).map_or(0, |stream| stream.out.len())
    }

    /// The next bytes for the wire; may end within a message.
    pub fn take_output(&mut self, id: StreamId, max_bytes: usize) -> Bytes {
        let Some(stream) = self.streams.get_mut(id) else { return Bytes::new() };
        let bytes = stream.take_output(max_bytes);
        // Half the room, so that a slow reader is not fed message by message.
        if stream.out.len() <= self.config.output_bytes / 2 {
            stream.borrowed = false;
            self.queue_stream(id);
        }
        bytes
    }

    // ---- requests

    /// Performs one message of a client. The caller has checked permission, has published all blocks whose
    /// writes were answered, and asked `accepts`. A request without content is ignored, as in etcd.
    pub fn request(&mut self, stream: StreamId, request: WatchRequest, now: u64) {
        if self.streams.get(stream).is_none() {
            return;
        }
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(stream, create, now),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(stream, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => {
                if let Some(open) = self.streams.get_mut(stream) {
                    open.progress_wanted = true;
                }
                self.answer_progress(stream);
            }
            None => {}
        }
    }

    /// Answers a create request that permission or authentication forbids.
    pub fn refuse(&mut self, stream: StreamId, create: &WatchCreateRequest, reason: &str) {
        let reason = if create.start_revision < 0 { REASON_COMPACTED } else { reason };
        self.control(stream, |header| refusal(header, reason));
    }

    fn create(&mut self, id: StreamId, create: WatchCreateRequest, now: u64) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let range = KeyRange::from_request(create.key, create.range_end);
        let reason = if create.start_revision < 0 && !mutant::on(Mutant::W9) {
            Some(REASON_COMPACTED)
        } else if range.is_none() {
            Some(REASON_EMPTY_RANGE)
        } else if create.watch_id != 0 && stream.watchers.contains_key(&create.watch_id) {
            Some(REASON_DUPLICATE_ID)
        } else if stream.watchers.len() >= self.config.max_watchers_per_stream {
            Some(REASON_STREAM_LIMIT)
        } else if self.watchers.len() >= self.config.max_watchers {
            Some(REASON_LIMIT)
        } else {
            None
        };
        let range = match (reason, range) {
            (None, Some(range)) => range,
            (reason, _) => {
                return self.control(id, |header| refusal(header, reason.unwrap_or(REASON_EMPTY_RANGE)));
            }
        };

        let watch_id = if create.watch_id == 0 { stream.take_id() } else { create.watch_id };
        self.control(id, |header| WatchResponse { header, watch_id, created: true, ..Default::default() });
        let start = create.start_revision;
        let news = if mutant::on(Mutant::W11) { self.current } else { self.current + 1 };
        let next = if start <= 0 { news } else { start };
        if next < self.compacted && !mutant::on(Mutant::W10) {
            return self.control_compacted(id, watch_id, self.compacted);
        }

        let group = match self.index.get(&range) {
            Some(group) => group,
            None => {
                let group =
                    Group { range: range.clone(), members: Vec::new(), watchers: 0, matched: Vec::new() };
                let group = self.groups.insert(group);
                self.index.insert(&range, group);
                group
            }
        };
        if let Some(group) = self.groups.get_mut(group) {
            group.watchers += 1;
        }
        let filters = |filter: FilterType| create.filters.contains(&(filter as i32));
        let view = View {
            prev_kv: create.prev_kv,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
        };
        let watcher = self.watchers.insert(Watcher {
            stream: id,
            watch_id,
            group,
            view,
            fragment: create.fragment,
            progress_notify: create.progress_notify,
            quiet: true,
            start,
            state: State::Behind { next },
        });
        self.prev_watchers += usize::from(view.prev_kv);
        if let Some(stream) = self.streams.get_mut(id) {
            stream.watchers.insert(watch_id, watcher);
            stream.max_start = stream.max_start.max(start);
            stream.slow += 1;
            if create.progress_notify {
                stream.progress_watchers += 1;
                if stream.due.is_none() {
                    let intervals = now.saturating_sub(stream.opened) / stream.interval + 1;
                    let due = stream.opened.saturating_add(intervals.saturating_mul(stream.interval));
                    stream.due = Some(due);
                    self.due.insert((due, id));
                }
            }
        }
        if next > self.current { self.sync(watcher) } else { self.enqueue(watcher) }
    }

    fn cancel(&mut self, stream: StreamId, watch_id: i64) {
        if self.remove_watcher(stream, watch_id) {
            self.control(stream, |header| WatchResponse {
                header,
                watch_id,
                canceled: true,
                ..Default::default()
            });
            // It may have been the one a progress request waited for.
            self.answer_progress(stream);
        }
    }

    /// Forgets a watcher; queues that still name it skip it.
    fn remove_watcher(&mut self, id: StreamId, watch_id: i64) -> bool {
        let Some(handle) = self.streams.get_mut(id).and_then(|stream| stream.watchers.remove(&watch_id))
        else {
            return false;
        };
        if let Some(Watcher { state: State::Synced { place }, group, .. }) = self.watchers.get(handle) {
            let (group, place) = (*group, *place);
            self.leave_group(group, place);
            self.synced -= 1;
            self.streams.get_mut(id).expect("looked up above").slow += 1;
        }
        let Some(watcher) = self.watchers.remove(handle) else { return false };
        self.prev_watchers -= usize::from(watcher.view.prev_kv);
        if let Some(group) = self.groups.get_mut(watcher.group) {
            group.watchers -= 1;
            if group.watchers == 0 {
                self.index.remove(&group.range);
                self.groups.remove(watcher.group);
            }
        }
        let Some(stream) = self.streams.get_mut(id) else { return true };
        stream.slow -= 1;
        stream.loading -= usize::from(matches!(watcher.state, State::Loading { .. }));
        if watcher.progress_notify {
            stream.progress_watchers -= 1;
            if stream.progress_watchers == 0
                && let Some(due) = stream.due.take()
            {
                self.due.remove(&(due, id));
            }
        }
        if watcher.start > self.current && watcher.start == stream.max_start {
            let starts = stream.watchers.values().filter_map(|&other| self.watchers.get(other));
            stream.max_start = starts.map(|other| other.start).max().unwrap_or(0);
        }
        true
    }

    fn control(&mut self, id: StreamId, response: impl FnOnce(Option<ResponseHeader>) -> WatchResponse) {
        let header = ResponseHeader { revision: self.current, ..self.header.message };
        if let Some(stream) = self.streams.get_mut(id) {
            push_message(&mut stream.out, &response(Some(header)));
            list(&mut self.readable, id, stream);
        }
    }

    fn control_compacted(&mut self, id: StreamId, watch_id: i64, compact_revision: i64) {
        self.control(id, |header| WatchResponse {
            header: header.map(|header| ResponseHeader { revision: 0, ..header }),
            watch_id,
            canceled: true,
            compact_revision,
            ..Default::default()
        });
    }

    // ---- live events

    /// Tells the synced watchers. Blocks come without gaps.
    pub fn publish(&mut self, block: &Arc<Block>) {
        assert_eq!(block.first_revision, self.current + 1, "a published block must follow the one before");
        let events = if self.synced > 0 { &block.events[..] } else { &[] };
        let mut at = 0;
        while at < events.len() {
            let revision = events[at].revision;
            while at < events.len() && events[at].revision == revision {
                self.index.find(&events[at].key, &mut self.found);
                for handle in self.found.drain(..) {
                    let Some(group) = self.groups.get_mut(handle) else { continue };
                    if group.members.is_empty() {
                        continue;
                    }
                    if group.matched.is_empty() {
                        self.touched.push(handle);
                    }
                    group.matched.push(at);
                }
                at += 1;
                if mutant::on(Mutant::W4) {
                    break;
                }
            }
            let mut touched = std::mem::take(&mut self.touched);
            for group in touched.drain(..) {
                self.deliver(group, events, revision);
            }
            self.touched = touched;
        }
        self.current = block.last_revision;
        self.ring.push(block.clone());
    }

    /// Gives one revision's events to the synced watchers of a group.
    fn deliver(&mut self, id: Handle, events: &[Event], revision: i64) {
        /// What a view of this revision came to.
        #[derive(Clone, Copy)]
        enum Seen {
            NotYet,
            /// Its filters drop all events.
            Nothing,
            /// A previous value is missing: to be read from history.
            Missing,
            Encoded,
        }
        let group = self.groups.get_mut(id).expect("a touched group exists");
        let mut members = std::mem::take(&mut group.members);
        let mut matched = std::mem::take(&mut group.matched);
        let mut tails = std::mem::take(&mut self.tails);
        let mut seen = [Seen::NotYet; View::COUNT];
        let header = self.header.field(revision);

        let mut at = 0;
        while let Some(member) = members.get(at) {
            if member.from > revision && !mutant::on(Mutant::W5) {
                at += 1;
                continue;
            }
            let view = member.view;
            if let Seen::NotYet = seen[view.index()] {
                let tail = &mut tails[view.index()];
                tail.clear();
                let missing = matched.iter().any(|&event| view.misses_prev(&events[event]));
                if !missing {
                    if mutant::on(Mutant::W6) {
                        matched.reverse();
                    }
                    matched.iter().for_each(|&event| tail.push(view, &events[event]));
                }
                seen[view.index()] = match (missing, tail.events) {
                    (true, _) => Seen::Missing,
                    (false, 0) => Seen::Nothing,
                    (false, _) => Seen::Encoded,
                };
            }
            let stream = self.streams.get_mut(member.stream).expect("a member's stream is open");
            let full = stream.out.len() >= self.config.output_bytes;
            match seen[view.index()] {
                Seen::Nothing => at += 1,
                Seen::Encoded if full && mutant::on(Mutant::W1) => at += 1,
                Seen::Encoded if !full => {
                    let tail = &tails[view.index()];
                    let fragment = member.fragment.then_some(self.config.fragment_bytes);
                    stream.push(header, member.watch_id, tail, fragment);
                    list(&mut self.readable, member.stream, stream);
                    self.events_total += tail.events as u64;
                    if member.progress_notify
                        && let Some(watcher) = self.watchers.get_mut(member.watcher)
                    {
                        watcher.quiet = false;
                    }
                    at += 1;
                }
                Seen::Encoded | Seen::Missing | Seen::NotYet => {
                    let member = members.swap_remove(at);
                    if let Some(moved) = members.get(at) {
                        self.watchers.get_mut(moved.watcher).expect("a member is a watcher").state =
                            State::Synced { place: at };
                    }
                    let watcher = self.watchers.get_mut(member.watcher).expect("a member is a watcher");
                    watcher.state = State::Behind { next: revision };
                    self.synced -= 1;
                    stream.slow += 1;
                    stream.behind.push_back(member.watcher);
                    if !full && !stream.queued {
                        stream.queued = true;
                        self.queue.push_back(member.stream);
                    }
                }
            }
        }

        matched.clear();
        for tail in &mut tails {
            tail.bytes.clear();
            tail.bytes.shrink_to(SCRATCH_BYTES);
        }
        self.tails = tails;
        let group = self.groups.get_mut(id).expect("a touched group exists");
        group.members = members;
        group.matched = matched;
    }

    // ---- between synced and behind

    fn sync(&mut self, handle: Handle) {
        let watcher = self.watchers.get_mut(handle).expect("the caller looked it up");
        let group = self.groups.get_mut(watcher.group).expect("a watcher has a group");
        watcher.state = State::Synced { place: group.members.len() };
        group.members.push(Member {
            watcher: handle,
            stream: watcher.stream,
            watch_id: watcher.watch_id,
            from: watcher.start.max(self.current + 1),
            view: watcher.view,
            fragment: watcher.fragment,
            progress_notify: watcher.progress_notify,
        });
        self.synced += 1;
        let stream = watcher.stream;
        self.streams.get_mut(stream).expect("a watcher's stream is open").slow -= 1;
        self.answer_progress(stream);
    }

    fn fall_behind(&mut self, handle: Handle, next: i64) {
        let Some(watcher) = self.watchers.get_mut(handle) else { return };
        let (group, stream) = (watcher.group, watcher.stream);
        if let State::Synced { place } = watcher.state {
            watcher.state = State::Behind { next };
            self.leave_group(group, place);
            self.synced -= 1;
            self.streams.get_mut(stream).expect("a watcher's stream is open").slow += 1;
            self.enqueue(handle);
        }
    }

    fn leave_group(&mut self, group: Handle, place: usize) {
        let group = self.groups.get_mut(group).expect("a watcher has a group");
        group.members.swap_remove(place);
        if let Some(moved) = group.members.get(place) {
            self.watchers.get_mut(moved.watcher).expect("a member is a watcher").state =
                State::Synced { place };
        }
    }

    /// Lets a watcher that is behind wait for its turn.
    fn enqueue(&mut self, handle: Handle) {
        let Some(watcher) = self.watchers.get(handle) else { return };
        let stream = watcher.stream;
        self.streams.get_mut(stream).expect("a watcher's stream is open").behind.push_back(handle);
        self.queue_stream(stream);
    }

    fn queue_stream(&mut self, id: Handle) {
        if let Some(stream) = self.streams.get_mut(id)
            && !stream.queued
            && !stream.behind.is_empty()
            && stream.out.len() < self.config.output_bytes
        {
            stream.queued = true;
            self.queue.push_back(id);
        }
    }

    // ---- catch-up

    /// Serves watchers that are behind, streams taking turns, until about `max_events` events were looked
    /// at. True if there is more to do now.
    pub fn catch_up(&mut self, max_events: usize) -> bool {
        let mut budget = max_events.max(1);
        let mut tail = Tail::default();
        loop {
            let Some(id) = self.queue.pop_front() else {
                match self.starved.pop_front() {
                    Some(id) if self.loads.len() < self.config.max_loads => self.queue.push_back(id),
                    Some(id) => {
                        self.starved.push_front(id);
                        return false;
                    }
                    None => return false,
                }
                continue;
            };
            if budget == 0 {
                self.queue.push_front(id);
                return true;
            }
            let Some(stream) = self.streams.get_mut(id) else { continue };
            stream.queued = false;
            if stream.out.len() >= self.config.output_bytes || stream.loading >= LOADS_PER_STREAM {
                // Queued again by `take_output` or `loaded`.
                continue;
            }
            let Some(watcher) = stream.behind.pop_front() else { continue };
            budget -= 1;
            if self.advance(watcher, &mut budget, &mut tail) {
                self.queue_stream(id);
            } else if let Some(stream) = self.streams.get_mut(id) {
                stream.behind.push_front(watcher);
                stream.queued = true;
                self.starved.push_back(id);
            }
        }
    }

    /// Takes one watcher a step forward. False if it must wait for a place among the loads.
    fn advance(&mut self, handle: Handle, budget: &mut usize, tail: &mut Tail) -> bool {
        let Some(watcher) = self.watchers.get(handle) else { return true };
        let State::Behind { next } = watcher.state else { return true };
        if next > self.current {
            self.sync(handle);
            return true;
        }
        let (group, want_prev) = (watcher.group, watcher.view.prev_kv);
        if self.ring.first_revision().is_some_and(|first| first <= next) {
            let bounds = Bounds {
                revisions: CATCH_UP_REVISIONS,
                bytes: self.config.catch_up_bytes,
                events: (*budget).max(1),
            };
            let range = &self.groups.get(group).expect("a watcher has a group").range;
            tail.clear();
            let from = if mutant::on(Mutant::W7) { next.saturating_sub(1).max(1) } else { next };
            let replay = self.ring.replay(range, watcher.view, from, &bounds, tail);
            *budget = budget.saturating_sub(replay.scanned);
            if replay.through >= next {
                self.give(handle, tail, replay.through + 1);
                return true;
            }
            if replay.misses_prev && self.ring.history_through() < next {
                self.early.push(handle);
                return true;
            }
        }
        self.load(handle, group, next, want_prev)
    }

    /// Hands a catch-up response to a watcher, which then continues at `next`.
    fn give(&mut self, handle: Handle, tail: &Tail, next: i64) {
        let watcher = self.watchers.get_mut(handle).expect("the caller looked it up");
        if tail.events > 0 {
            watcher.quiet = false;
            let stream = self.streams.get_mut(watcher.stream).expect("a watcher's stream is open");
            let fragment = watcher.fragment.then_some(self.config.fragment_bytes);
            stream.push(self.header.field(self.current), watcher.watch_id, tail, fragment);
            list(&mut self.readable, watcher.stream, stream);
            self.events_total += tail.events as u64;
        }
        if next > self.current {
            self.sync(handle);
        } else {
            watcher.state = State::Behind { next };
            self.enqueue(handle);
        }
    }

    fn load(&mut self, handle: Handle, group: Handle, from: i64, want_prev: bool) -> bool {
        let key = (group, from, want_prev);
        let ticket = match self.load_tickets.get(&key) {
            Some(&ticket) => ticket,
            None if self.loads.len() >= self.config.max_loads => return false,
            None => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.load_tickets.insert(key, ticket);
                self.loads.insert(ticket, Load { group, from, want_prev, waiters: Vec::new() });
                self.asked.push(LoadRequest {
                    ticket,
                    range: self.groups.get(group).expect("a watcher has a group").range.clone(),
                    from_revision: from,
                    want_prev,
                    max_revisions: CATCH_UP_REVISIONS,
                    max_bytes: self.config.catch_up_bytes,
                });
                ticket
            }
        };
        self.loads.get_mut(&ticket).expect("tickets name loads").waiters.push(handle);
        let watcher = self.watchers.get_mut(handle).expect("the caller looked it up");
        watcher.state = State::Loading { next: from, ticket };
        self.streams.get_mut(watcher.stream).expect("a watcher's stream is open").loading += 1;
        true
    }

    /// Loads to start. Each is answered once by `loaded`, in any order.
    pub fn loads(&mut self) -> Vec<LoadRequest> {
        std::mem::take(&mut self.asked)
    }

    pub fn loaded(&mut self, ticket: u64, result: Result<Loaded, Compacted>) {
        let Some(load) = self.loads.remove(&ticket) else { return };
        self.load_tickets.remove(&(load.group, load.from, load.want_prev));
        if let Ok(loaded) = &result {
            assert!(loaded.through_revision >= load.from, "a load must answer at least its first revision");
        }
        let mut tails: [Option<Tail>; View::COUNT] = Default::default();
        let current = self.current;
        for handle in load.waiters {
            let Some(watcher) = self.watchers.get_mut(handle) else { continue };
            let State::Loading { next, ticket: waits_for } = watcher.state else { continue };
            debug_assert_eq!(waits_for, ticket);
            let (id, view, watch_id) = (watcher.stream, watcher.view, watcher.watch_id);
            watcher.state = State::Behind { next };
            let stream = self.streams.get_mut(id).expect("a watcher's stream is open");
            stream.loading -= 1;
            match &result {
                Ok(loaded) => {
                    let tail = tails[view.index()].get_or_insert_with(|| {
                        let mut tail = Tail::default();
                        loaded.events.iter().for_each(|event| tail.push(view, event));
                        tail
                    });
                    // A first answer is taken even without room: live events would else keep it out for ever.
                    let full = stream.out.len() >= self.config.output_bytes;
                    if !full || !stream.borrowed {
                        stream.borrowed |= full;
                        let through = match mutant::on(Mutant::W12) {
                            true => current,
                            false => loaded.through_revision,
                        };
                        self.give(handle, tail, through + 1);
                    } else {
                        self.enqueue(handle);
                    }
                }
                Err(Compacted(revision)) => {
                    self.remove_watcher(id, watch_id);
                    self.control_compacted(id, watch_id, *revision);
                    self.answer_progress(id);
                }
            }
            // A place among the stream's loads is free again.
            self.queue_stream(id);
        }
    }

    // ---- progress

    /// Answers a waiting progress request if every watcher of the stream has all events up to now.
    fn answer_progress(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if !stream.progress_wanted || (stream.slow > 0 && !mutant::on(Mutant::W3)) {
            return;
        }
        stream.progress_wanted = false;
        // Not below a future start revision, and not without watchers; etcd forgets such requests too.
        if !stream.watchers.is_empty() && stream.max_start <= self.current {
            self.control(id, |header| WatchResponse { header, watch_id: NO_WATCHER, ..Default::default() });
        }
    }

    /// When `tick` has something to do.
    pub fn next_tick(&self) -> Option<u64> {
        self.due.first().map(|&(due, _)| due)
    }

    /// Sends due progress notifications: to each watcher that wants them, is synced, not before its start
    /// revision and had no events since the last ones. Full streams are left out.
    pub fn tick(&mut self, now: u64) {
        while let Some(&(due, id)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            let stream = self.streams.get_mut(id).expect("a closed stream is not due");
            let next =
                due.saturating_add(((now - due) / stream.interval + 1).saturating_mul(stream.interval));
            stream.due = Some(next);
            self.due.insert((next, id));
            for (&watch_id, &handle) in &stream.watchers {
                let Some(watcher) = self.watchers.get_mut(handle) else { continue };
                let synced = matches!(watcher.state, State::Synced { .. }) || mutant::on(Mutant::W3);
                let full = stream.out.len() >= self.config.output_bytes;
                if watcher.progress_notify
                    && std::mem::replace(&mut watcher.quiet, true)
                    && synced
                    && !full
                    && watcher.start <= self.current
                {
                    let header = ResponseHeader { revision: self.current, ..self.header.message };
                    let response = WatchResponse { header: Some(header), watch_id, ..Default::default() };
                    push_message(&mut stream.out, &response);
                    if !std::mem::replace(&mut stream.listed, true) {
                        self.readable.push(id);
                    }
                }
            }
        }
    }

    pub fn stats(&self) -> Stats {
        Stats {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            slow_watchers: self.watchers.len() - self.synced,
            pending_events: self.streams.values().map(|stream| stream.pending_events).sum(),
            events_total: self.events_total,
        }
    }
}

/// The answer to a create request that failed.
fn refusal(header: Option<ResponseHeader>, reason: &str) -> WatchResponse {
    WatchResponse {
        header,
        watch_id: NO_WATCHER,
        created: true,
        canceled: true,
        cancel_reason: reason.to_owned(),
        ..Default::default()
    }
}

#[inline]
fn list(readable: &mut Vec<StreamId>, id: StreamId, stream: &mut Stream) {
    if !stream.listed {
        stream.listed = true;
        readable.push(id);
    }
}
