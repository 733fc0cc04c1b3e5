//! Watch responses as bytes: gRPC messages (one byte 0, big-endian u32 length, message), ready for the wire.
//! The events of a response, its *tail*, are encoded once and copied behind each watcher's own few bytes.
//! A tail is the repeated field `events` of WatchResponse, the last in field order.

use bytes::{BufMut, BytesMut};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use proto::etcdserverpb::{ResponseHeader, WatchResponse};

use super::{Event, EventKind};

const HEADER_TAG: u8 = 0x0a; // field 1, length-delimited
const WATCH_ID_TAG: u8 = 0x10; // field 2, varint
const FRAGMENT: [u8; 2] = [0x38, 1]; // field 7, true
const EVENT_TAG: u8 = 0x5a; // field 11, length-delimited
const PREV_KV_TAG: u8 = 0x1a; // field 3 of Event, length-delimited

/// What a watcher wants to see of an event; watchers of one range and one view share their tails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
}

impl View {
    pub const COUNT: usize = 8;

    pub fn index(self) -> usize {
        usize::from(self.prev_kv) | usize::from(self.no_put) << 1 | usize::from(self.no_delete) << 2
    }

    pub fn shows(self, event: &Event) -> bool {
        match event.kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }

    /// A live change of an existing key that carries no previous value, for a watcher that wants it.
    pub fn misses_prev(self, event: &Event) -> bool {
        self.prev_kv && self.shows(event) && !event.is_create && event.prev.is_none()
    }
}

/// The encoded events of one response.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub bytes: Vec<u8>,
    pub events: usize,
}

impl Tail {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.events = 0;
    }

    pub fn push(&mut self, view: View, event: &Event) {
        if !view.shows(event) {
            return;
        }
        let prev = if view.prev_kv { event.prev.as_ref() } else { None };
        let prev_len = prev.map_or(0, |prev| 1 + encoded_len_varint(prev.len() as u64) + prev.len());
        self.bytes.push(EVENT_TAG);
        encode_varint((event.body.len() + prev_len) as u64, &mut self.bytes);
        self.bytes.extend_from_slice(&event.body);
        if let Some(prev) = prev {
            self.bytes.push(PREV_KV_TAG);
            encode_varint(prev.len() as u64, &mut self.bytes);
            self.bytes.extend_from_slice(prev);
        }
        self.events += 1;
    }
}

/// The header field of responses, encoded anew only when revision or term change.
#[derive(Debug)]
pub(super) struct Header {
    pub message: ResponseHeader,
    field: Vec<u8>,
}

impl Header {
    pub fn new(cluster_id: u64, member_id: u64) -> Self {
        let message = ResponseHeader { cluster_id, member_id, revision: 0, raft_term: 0 };
        let mut header = Header { message, field: Vec::new() };
        header.encode();
        header
    }

    fn encode(&mut self) {
        self.field.clear();
        self.field.push(HEADER_TAG);
        encode_varint(self.message.encoded_len() as u64, &mut self.field);
        self.message.encode_raw(&mut self.field);
    }

    pub fn set_term(&mut self, term: u64) {
        self.message.raft_term = term;
        self.encode();
    }

    pub fn field(&mut self, revision: i64) -> &[u8] {
        if self.message.revision != revision {
            self.message.revision = revision;
            self.encode();
        }
        &self.field
    }
}

pub(super) fn push_message(out: &mut BytesMut, response: &WatchResponse) {
    let len = response.encoded_len();
    out.reserve(5 + len);
    out.put_u8(0);
    out.put_u32(wire_len(len));
    response.encode_raw(out);
}

pub(super) fn push_events(out: &mut BytesMut, header: &[u8], watch_id: i64, tail: &[u8]) {
    push_piece(out, header, watch_id, false, tail);
}

/// Like `push_events`, but in pieces below `max_bytes` each, cut between events; an event is never cut.
pub(super) fn push_fragments(
    out: &mut BytesMut,
    header: &[u8],
    watch_id: i64,
    tail: &Tail,
    max_bytes: usize,
) {
    let own = header.len() + watch_id_len(watch_id);
    let mut rest = &tail.bytes[..];
    if own + rest.len() < max_bytes || tail.events < 2 {
        return push_piece(out, header, watch_id, false, rest);
    }
    let own = own + FRAGMENT.len();
    while !rest.is_empty() {
        let mut cut = first_event_len(rest);
        while cut < rest.len() {
            let next = cut + first_event_len(&rest[cut..]);
            if own + next >= max_bytes {
                break;
            }
            cut = next;
        }
        let (piece, after) = rest.split_at(cut);
        push_piece(out, header, watch_id, !after.is_empty(), piece);
        rest = after;
    }
}

#[inline]
fn push_piece(out: &mut BytesMut, header: &[u8], watch_id: i64, more: bool, tail: &[u8]) {
    let fragment = if more { &FRAGMENT[..] } else { &[] };
    let len = header.len() + watch_id_len(watch_id) + fragment.len() + tail.len();
    out.reserve(5 + len);
    out.put_u8(0);
    out.put_u32(wire_len(len));
    out.put_slice(header);
    if watch_id != 0 {
        out.put_u8(WATCH_ID_TAG);
        encode_varint(watch_id as u64, out);
    }
    out.put_slice(fragment);
    out.put_slice(tail);
}

fn watch_id_len(watch_id: i64) -> usize {
    if watch_id == 0 { 0 } else { 1 + encoded_len_varint(watch_id as u64) }
}

fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("a revision is far below 4 GiB: requests and loads are bounded")
}

/// Bytes of the first event of a tail, tag and length included.
fn first_event_len(tail: &[u8]) -> usize {
    let mut rest = &tail[1..];
    let len = decode_varint(&mut rest).expect("a tail is written by `Tail::push`");
    tail.len() - rest.len() + len as usize
}
