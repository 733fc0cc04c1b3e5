//! Framings of the peer wire: the message stream, the msgappv2 stream and the head of a snapshot request.
//! Parses and produces byte buffers only: no sockets, no clocks. `stream`, `server` and `snapshot` feed it.
//!
//! Invariants: a decoder answers `None` while its frame is incomplete and may be called again with more
//! bytes; it never panics and never allocates by a claimed size, only by bytes that have arrived (times a
//! small constant, kept small by the element limit). After an error the connection is out of step and must be
//! closed.
//! Source: etcd `server/etcdserver/api/rafthttp/{message,msgappv2_codec,snapshot_sender}.go`. Differs:
//! entries per message are limited, and the short form of an append is used only where it loses no field.
//!
//! | message stream, snapshot head | 8 bytes length, big endian | `raftpb.Message` |
//!
//! | msgappv2 | byte 0 | then |
//! |---|---|---|
//! | link heartbeat | 0 | nothing |
//! | append | 1 | u64 count; per entry u64 size, `raftpb.Entry`; u64 commit |
//! | message | 2 | u64 size, `raftpb.Message` |

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use proto::raftpb::{Entry, Message, MessageType, Snapshot};

/// Longest frame of a stream, in bytes.
pub const STREAM_LIMIT: u64 = 512 << 20;
/// Longest message in front of a snapshot's database, and longest body of `POST /raft`, in bytes.
pub const MESSAGE_LIMIT: u64 = 64 << 20;
/// Most elements (entries, nested responses, bytes of snapshot metadata) in one message. An empty entry takes
/// two bytes on the wire and thirty times that in memory, so the byte limits alone would not bound memory.
pub const ELEMENT_LIMIT: u64 = 1 << 20;
/// raft nests responses once.
const NESTING_LIMIT: u32 = 4;

const APP_HEARTBEAT: u8 = 0;
const APP_ENTRIES: u8 = 1;
const APP_MESSAGE: u8 = 2;

/// What a stream carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Sent at fixed intervals so that a silent connection is known to be broken.
    Heartbeat,
    Message(Box<Message>),
}

/// Why a peer's bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A length above the limit of its place.
    TooLong { size: u64, limit: u64 },
    /// More entries than one message may hold.
    TooMany { limit: u64 },
    /// A msgappv2 frame starts with an unknown byte.
    UnknownType(u8),
    /// Not a protobuf message of the expected type.
    Malformed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { size, limit } => write!(f, "frame of {size} bytes exceeds the limit of {limit}"),
            Self::TooMany { limit } => write!(f, "message holds more than {limit} elements"),
            Self::UnknownType(kind) => write!(f, "unknown msgappv2 frame type {kind}"),
            Self::Malformed(why) => write!(f, "malformed raft message: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// Which of a peer's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// msgappv2 framing: appends only.
    MsgApp,
    /// Length framing: everything else, and appends while there is no msgapp stream.
    Message,
}

impl StreamKind {
    /// The path in front of the dialling member's id.
    pub fn path(self) -> &'static str {
        match self {
            Self::MsgApp => "/raft/stream/msgapp",
            Self::Message => "/raft/stream/message",
        }
    }
}

/// The sending half of one stream connection.
pub enum Encoder {
    MsgApp(MsgAppEncoder),
    Message,
}

impl Encoder {
    pub fn new(kind: StreamKind) -> Self {
        match kind {
            StreamKind::MsgApp => Self::MsgApp(MsgAppEncoder::default()),
            StreamKind::Message => Self::Message,
        }
    }

    pub fn message(&mut self, message: &Message, out: &mut BytesMut) {
        match self {
            Self::MsgApp(encoder) => encoder.encode(message, out),
            Self::Message => put_message(message, out),
        }
    }

    pub fn heartbeat(&mut self, out: &mut BytesMut) {
        match self {
            Self::MsgApp(_) => out.put_u8(APP_HEARTBEAT),
            Self::Message => {
                let heartbeat = Message { r#type: MessageType::MsgHeartbeat as i32, ..Message::default() };
                put_message(&heartbeat, out);
            }
        }
    }
}

/// The receiving half of one stream connection, with the bytes that have not made a frame yet.
pub struct Decoder {
    framing: Framing,
    buffer: BytesMut,
}

enum Framing {
    MsgApp(MsgAppDecoder),
    Message,
}

impl Decoder {
    /// Messages go from `remote` to `local`: the short form of an append does not carry its ends.
    pub fn new(kind: StreamKind, local: u64, remote: u64) -> Self {
        let framing = match kind {
            StreamKind::MsgApp => Framing::MsgApp(MsgAppDecoder::new(local, remote)),
            StreamKind::Message => Framing::Message,
        };
        Self { framing, buffer: BytesMut::new() }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` until more bytes are fed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        match &mut self.framing {
            Framing::MsgApp(decoder) => decoder.decode(&mut self.buffer),
            Framing::Message => Ok(take_message(&mut self.buffer, STREAM_LIMIT)?.map(frame)),
        }
    }
}

fn frame(message: Message) -> Frame {
    if is_heartbeat(&message) { Frame::Heartbeat } else { Frame::Message(Box::new(message)) }
}

fn is_heartbeat(message: &Message) -> bool {
    message.r#type == MessageType::MsgHeartbeat as i32 && message.from == 0 && message.to == 0
}

/// Appends `message` to `out` behind its length.
pub fn put_message(message: &Message, out: &mut BytesMut) {
    let size = message.encoded_len();
    out.reserve(8 + size);
    out.put_u64(size as u64);
    message.encode_raw(out);
}

/// Cuts one length-framed message off `buffer`; `None` while it is incomplete.
pub fn take_message(buffer: &mut BytesMut, limit: u64) -> Result<Option<Message>, Error> {
    match take_block(buffer, limit)? {
        Some(block) => decode_message(block).map(Some),
        None => Ok(None),
    }
}

/// Decodes an unframed message, such as the body of `POST /raft`.
pub fn decode_message(bytes: Bytes) -> Result<Message, Error> {
    let mut elements_left = ELEMENT_LIMIT;
    check_elements(&bytes, NESTING_LIMIT, &mut elements_left)?;
    Message::decode(bytes).map_err(malformed)
}

fn take_block(buffer: &mut BytesMut, limit: u64) -> Result<Option<Bytes>, Error> {
    let Some(size) = peek_u64(buffer) else { return Ok(None) };
    if size > limit {
        return Err(Error::TooLong { size, limit });
    }
    // Both limits fit a usize of 32 bits.
    let size = size as usize;
    if buffer.len() - 8 < size {
        return Ok(None);
    }
    buffer.advance(8);
    Ok(Some(buffer.split_to(size).freeze()))
}

fn peek_u64(buffer: &[u8]) -> Option<u64> {
    buffer.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

fn malformed(error: prost::DecodeError) -> Error {
    Error::Malformed(error.to_string())
}

/// Walks the fields of a `Message` and refuses one whose repeated parts would take far more memory decoded.
fn check_elements(mut bytes: &[u8], nesting_left: u32, elements_left: &mut u64) -> Result<(), Error> {
    const ENTRIES: u32 = 7;
    const SNAPSHOT: u32 = 9;
    const RESPONSES: u32 = 14;
    while let Some((tag, value)) = next_field(&mut bytes)? {
        match tag {
            ENTRIES => spend(elements_left, 1)?,
            SNAPSHOT => check_snapshot(value, elements_left)?,
            RESPONSES => {
                spend(elements_left, 1)?;
                let Some(nesting_left) = nesting_left.checked_sub(1) else {
                    return Err(Error::Malformed("responses nested too deeply".into()));
                };
                check_elements(value, nesting_left, elements_left)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_snapshot(mut bytes: &[u8], elements_left: &mut u64) -> Result<(), Error> {
    const METADATA: u32 = 2;
    while let Some((tag, value)) = next_field(&mut bytes)? {
        if tag == METADATA {
            spend(elements_left, value.len() as u64)?;
        }
    }
    Ok(())
}

fn spend(elements_left: &mut u64, count: u64) -> Result<(), Error> {
    *elements_left = elements_left.checked_sub(count).ok_or(Error::TooMany { limit: ELEMENT_LIMIT })?;
    Ok(())
}

/// The next field's tag, and its content where it is length-delimited (empty otherwise).
fn next_field<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u32, &'a [u8])>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (tag, wire_type) = decode_key(bytes).map_err(malformed)?;
    let size = match wire_type {
        WireType::Varint => {
            decode_varint(bytes).map_err(malformed)?;
            return Ok(Some((tag, &[])));
        }
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::LengthDelimited => decode_varint(bytes).map_err(malformed)?,
        WireType::StartGroup | WireType::EndGroup => {
            return Err(Error::Malformed("protobuf groups are not used".into()));
        }
    };
    if size > bytes.len() as u64 {
        return Err(Error::Malformed("field runs past the end".into()));
    }
    let (value, rest) = bytes.split_at(size as usize);
    *bytes = rest;
    Ok(Some((tag, if wire_type == WireType::LengthDelimited { value } else { &[] })))
}

/// Encodes one msgappv2 stream. It remembers where the last append ended: an append that continues there in
/// the same term is sent without its term, index and ends.
#[derive(Default)]
pub struct MsgAppEncoder {
    term: u64,
    index: u64,
}

impl MsgAppEncoder {
    pub fn encode(&mut self, message: &Message, out: &mut BytesMut) {
        if is_heartbeat(message) {
            out.put_u8(APP_HEARTBEAT);
        } else if self.continues(message) {
            out.put_u8(APP_ENTRIES);
            out.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                let size = entry.encoded_len();
                out.reserve(8 + size);
                out.put_u64(size as u64);
                entry.encode_raw(out);
            }
            out.put_u64(message.commit);
            self.index += message.entries.len() as u64;
        } else {
            out.put_u8(APP_MESSAGE);
            put_message(message, out);
            self.term = message.term;
            self.index = message.entries.last().map_or(message.index, |entry| entry.index);
        }
    }

    fn continues(&self, message: &Message) -> bool {
        let count = message.entries.len() as u64;
        self.index == message.index
            && self.term == message.log_term
            && message.log_term == message.term
            && message.r#type == MessageType::MsgApp as i32
            && count <= ELEMENT_LIMIT
            && message.entries.last().is_none_or(|last| self.index.checked_add(count) == Some(last.index))
            && !message.reject
            && message.reject_hint == 0
            && message.context.is_none()
            && message.vote.is_none()
            && message.responses.is_empty()
            && message.snapshot == Snapshot::default()
    }
}

/// Decodes one msgappv2 stream; the mirror of [`MsgAppEncoder`].
pub struct MsgAppDecoder {
    local: u64,
    remote: u64,
    term: u64,
    index: u64,
    state: State,
}

enum State {
    /// At a frame's first byte.
    Type,
    /// In an append, before its entry count.
    Count,
    /// In an append. Entries are taken as they arrive, so a long frame is not parsed again with each read.
    Entries { left: u64, bytes: u64, entries: Vec<Entry> },
    /// In a full message.
    Message,
}

impl MsgAppDecoder {
    pub fn new(local: u64, remote: u64) -> Self {
        Self { local, remote, term: 0, index: 0, state: State::Type }
    }

    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        loop {
            match &mut self.state {
                State::Type => {
                    if buffer.is_empty() {
                        return Ok(None);
                    }
                    match buffer.get_u8() {
                        APP_HEARTBEAT => return Ok(Some(Frame::Heartbeat)),
                        APP_ENTRIES => self.state = State::Count,
                        APP_MESSAGE => self.state = State::Message,
                        unknown => return Err(Error::UnknownType(unknown)),
                    }
                }
                State::Count => {
                    let Some(left) = peek_u64(buffer) else { return Ok(None) };
                    if left > ELEMENT_LIMIT {
                        return Err(Error::TooMany { limit: ELEMENT_LIMIT });
                    }
                    buffer.advance(8);
                    self.state = State::Entries { left, bytes: 0, entries: Vec::new() };
                }
                State::Entries { left, bytes, entries } => {
                    while *left > 0 {
                        let Some(block) = take_block(buffer, STREAM_LIMIT - *bytes)? else { return Ok(None) };
                        *bytes += block.len() as u64;
                        *left -= 1;
                        entries.push(Entry::decode(block).map_err(malformed)?);
                    }
                    let Some(commit) = peek_u64(buffer) else { return Ok(None) };
                    buffer.advance(8);
                    let message = Message {
                        r#type: MessageType::MsgApp as i32,
                        from: self.remote,
                        to: self.local,
                        term: self.term,
                        log_term: self.term,
                        index: self.index,
                        commit,
                        entries: std::mem::take(entries),
                        ..Message::default()
                    };
                    // A hostile peer may have set the index to its end.
                    self.index = self.index.wrapping_add(message.entries.len() as u64);
                    self.state = State::Type;
                    return Ok(Some(Frame::Message(Box::new(message))));
                }
                State::Message => {
                    let Some(message) = take_message(buffer, STREAM_LIMIT)? else { return Ok(None) };
                    self.term = message.term;
                    self.index = message.entries.last().map_or(message.index, |entry| entry.index);
                    self.state = State::Type;
                    return Ok(Some(Frame::Message(Box::new(message))));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "codec_test.rs"]
mod tests;
