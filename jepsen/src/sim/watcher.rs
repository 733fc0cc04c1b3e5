//! Watchers of a simulated cluster: each holds a stream to one member at a time and writes down all it is told.
//!
//! The first of a run follows everything from revision 1 on, and goes on where it was when its stream breaks; the
//! others watch what comes to their minds. A stream that breaks is continued as another, to another member perhaps.

use bytes::{Buf, Bytes, BytesMut};
use oracle::history::{
    Member, Revision, Stream,
    request::{End, Span},
    watch::{Asked, WatchCommand, WatchCreate, WatchResponse},
};
use prost::Message;
use proto::etcdserverpb as pb;
use rand::{Rng, rngs::StdRng};
use store::{api::watch::Shard, watch::StreamId};

use super::client::{KEYS, Notes, key_bytes};

/// Bytes of a gRPC frame before its message: a flag and the length.
const FRAME_HEADER: usize = 5;

pub struct Watcher {
    random: StdRng,
    /// Follows everything, from the beginning to the end.
    follows: bool,
    /// The next revision that it must be told of, if it follows.
    next: Revision,
    open: Option<Open>,
}

struct Open {
    member: usize,
    id: StreamId,
    /// As it will stand in the history.
    stream: Stream,
    /// What arrived of the next frame.
    buffer: BytesMut,
    /// It reads nothing until then.
    reads_from_ns: u64,
    /// IDs of watchers that were created and not canceled.
    watching: Vec<i64>,
}

impl Watcher {
    pub fn new(random: StdRng, follows: bool) -> Watcher {
        Watcher { random, follows, next: 1, open: None }
    }

    pub fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    pub fn member(&self) -> Option<usize> {
        self.open.as_ref().map(|open| open.member)
    }

    /// Opens a stream to a member.
    pub fn connect(
        &mut self,
        (member, name): (usize, Member),
        shard: &Shard,
        now_ns: u64,
        notes: &mut Notes,
    ) {
        let stream =
            Stream { client: notes.next_id(), member: name, asked: Vec::new(), responses: Vec::new() };
        let (buffer, watching) = (BytesMut::new(), Vec::new());
        self.open = Some(Open { member, id: shard.open(), stream, buffer, reads_from_ns: 0, watching });
        if self.follows {
            let span = Span { start: notes.book.key(&Bytes::from_static(b"\0")), end: End::Open };
            let create = WatchCreate { start: self.next, prev_kv: true, ..plain(span) };
            self.ask(shard, now_ns, notes, WatchCommand::Create(create));
        }
    }

    /// The stream broke, or is left if there is a `shard`. Its place among the streams that were written down.
    pub fn disconnect(&mut self, shard: Option<&Shard>, notes: &mut Notes) -> Option<usize> {
        let open = self.open.take()?;
        if let Some(shard) = shard {
            shard.close(open.id);
        }
        notes.book.recorder.stream(open.stream);
        notes.streams += 1;
        Some(notes.streams - 1)
    }

    /// Does something with its stream, or leaves it (`false`).
    pub fn act(&mut self, shard: &Shard, now_ns: u64, seen: Revision, notes: &mut Notes) -> bool {
        let Some(open) = &mut self.open else { return false };
        if !shard.accepts(open.id) {
            return true;
        }
        let random = &mut self.random;
        if self.follows {
            // A notice on demand must not run ahead of events.
            if random.random_bool(0.1) {
                self.ask(shard, now_ns, notes, WatchCommand::Progress);
            }
            return true;
        }
        let command = match random.random_range(0..20) {
            0 => return false,
            1 | 2 => {
                open.reads_from_ns = now_ns + random.random_range(100_000_000..3_000_000_000);
                return true;
            }
            3 => WatchCommand::Progress,
            4 => match open.watching.pop() {
                Some(id) => WatchCommand::Cancel { id },
                None => return true,
            },
            _ if open.watching.len() >= 6 => return true,
            _ => {
                let start = notes.book.key(&key_bytes(random.random_range(0..KEYS)));
                let end = match random.random_range(0..3) {
                    0 => End::Single,
                    1 => End::Open,
                    _ => End::Before(notes.book.key(&key_bytes(random.random_range(0..=KEYS)))),
                };
                let filter = random.random_range(0..8);
                WatchCommand::Create(WatchCreate {
                    start: match random.random_range(0..4) {
                        0 | 1 => 0,
                        // Below zero at times, which must be refused.
                        2 => seen - random.random_range(0..60),
                        _ => seen + random.random_range(0..40),
                    },
                    prev_kv: random.random_bool(0.5),
                    progress_notify: random.random_bool(0.2),
                    fragment: random.random_bool(0.2),
                    no_put: filter == 0,
                    no_delete: filter == 1,
                    ..plain(Span { start, end })
                })
            }
        };
        self.ask(shard, now_ns, notes, command);
        true
    }

    fn ask(&mut self, shard: &Shard, now_ns: u64, notes: &Notes, command: WatchCommand) {
        let Some(open) = &mut self.open else { return };
        shard.request(open.id, notes.book.watch(&command));
        open.stream.asked.push(Asked { sent_ns: now_ns, command });
    }

    /// It reads slowly no longer.
    pub fn hurry(&mut self) {
        if let Some(open) = &mut self.open {
            open.reads_from_ns = 0;
        }
    }

    /// Takes what the member has for it; true if it did.
    pub fn read(&mut self, shard: &Shard, now_ns: u64, notes: &mut Notes) -> bool {
        let Some(open) = &mut self.open else { return false };
        if open.reads_from_ns > now_ns {
            return false;
        }
        let bytes = shard.take_output(open.id, self.random.random_range(1..4096));
        if bytes.is_empty() {
            return false;
        }
        open.buffer.extend_from_slice(&bytes);
        while let Some(message) = frame(&mut open.buffer) {
            let response = pb::WatchResponse::decode(message).expect("our own message");
            let response = notes.book.watched(&response, now_ns);
            if self.follows {
                self.next = follow(self.next, &response);
            }
            if response.created && !response.canceled {
                open.watching.push(response.id);
            }
            if response.canceled {
                open.watching.retain(|id| *id != response.id);
            }
            open.stream.responses.push(response);
        }
        true
    }

    /// It follows everything, and its watcher was canceled: it has to begin again.
    pub fn is_cut_off(&self) -> bool {
        self.follows
            && self
                .open
                .as_ref()
                .is_some_and(|open| open.stream.responses.last().is_some_and(|response| response.canceled))
    }
}

/// The next revision to follow after a response.
fn follow(next: Revision, response: &WatchResponse) -> Revision {
    let told = response.events.last().map_or(next, |event| event.kv.mod_revision + 1);
    match response {
        // What is compacted cannot be had any more.
        WatchResponse { canceled: true, compact_revision, .. } => next.max(*compact_revision),
        // The rest of the revision is to come.
        WatchResponse { fragment: true, .. } => next,
        _ => next.max(told),
    }
}

fn plain(span: Span) -> WatchCreate {
    WatchCreate {
        id: 0,
        span,
        start: 0,
        prev_kv: false,
        progress_notify: false,
        fragment: false,
        no_put: false,
        no_delete: false,
    }
}

/// The next whole message, without its frame.
fn frame(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(buffer.get(1..FRAME_HEADER)?.try_into().ok()?) as usize;
    if buffer.len() < FRAME_HEADER + length {
        return None;
    }
    buffer.advance(FRAME_HEADER);
    Some(buffer.split_to(length).freeze())
}
