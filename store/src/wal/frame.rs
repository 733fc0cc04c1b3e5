//! The record codec of the log: frames to bytes and back, over slices only; it never touches a file.
//! Frame: `i64` little-endian header, `walpb.Record`, zero bytes up to a multiple of 8. The header's low 56 bits are
//! the record's length; its top byte is 0 without padding, else `0x80 | pad`. An all-zero header ends a segment.
//! `walpb.Record{type, crc, data}`: crc is CRC-32C over the data of all records so far, this one included.
//! Called by the log's writer and segment reader, by fuzzers and dump tools.
//! Torn or corrupt: disks write 512-byte sectors whole, so a record that a crash tore has a sector of zeros or runs
//! past the end of the file. Anything else that does not add up is corruption. A length that contradicts the
//! lengths inside its own record is corruption too, wherever it points: etcd, which asks only for a sector of
//! zeros, takes such a frame for a torn tail and drops valid records after it.

use std::ops::Range;

use proto::raftpb::HardState;

use super::EntryRef;
use crate::mutant::{self, Mutant};

pub const HEADER_BYTES: usize = 8;
const SECTOR_BYTES: u64 = 512;
/// No raft entry comes near; a longer frame is a damaged length.
const MAX_RECORD_BYTES: u64 = 256 << 20;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `etcdserverpb.Metadata`
    Metadata = 1,
    /// `raftpb.Entry`
    Entry = 2,
    /// `raftpb.HardState`
    State = 3,
    /// No data; its crc is the running checksum.
    Crc = 4,
    /// `walpb.Snapshot`
    Snapshot = 5,
}

/// Where a frame starts and what is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Bytes from the start of the file; a multiple of 8.
    pub offset: u64,
    /// The running checksum before the frame; `None` at the first record that is read, which sets it.
    pub crc: Option<u32>,
}

/// The outcome of decoding one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    Record {
        kind: Kind,
        /// Within the bytes given.
        data: Range<usize>,
        frame_bytes: usize,
        /// The running checksum after this record.
        crc: u32,
    },
    /// No record starts here: the rest of the sector is zeros, or the file ends.
    End,
    /// The frame needs this many bytes from its start.
    Incomplete {
        need_bytes: usize,
    },
    /// A write that a crash cut short, if this is the tail of the last segment.
    Torn,
    Corrupt(&'static str),
}

/// Decodes the frame at the start of `bytes`. `at_end`: nothing follows `bytes` in the file.
pub fn decode(bytes: &[u8], position: Position, at_end: bool) -> Decoded {
    let incomplete = |need_bytes| Decoded::Incomplete { need_bytes };
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return match at_end {
            false => incomplete(HEADER_BYTES),
            true if is_zero(bytes) => Decoded::End,
            true => Decoded::Torn,
        };
    };
    let header = u64::from_le_bytes(*header);
    if header == 0 {
        let rest = (SECTOR_BYTES - position.offset % SECTOR_BYTES) as usize;
        return match bytes.get(..rest).or(at_end.then_some(bytes)) {
            None => incomplete(rest),
            Some(sector) if is_zero(sector) => Decoded::End,
            Some(_) => Decoded::Corrupt("length zero with data behind it"),
        };
    }
    let record_bytes = header & ((1 << 56) - 1);
    let pad_bytes = record_bytes.wrapping_neg() % 8;
    if header >> 56 != if pad_bytes == 0 { 0 } else { 0x80 | pad_bytes } {
        return Decoded::Corrupt("length and padding disagree");
    }
    if !(2..=MAX_RECORD_BYTES).contains(&record_bytes) {
        return Decoded::Corrupt("record length out of range");
    }
    let end = HEADER_BYTES + record_bytes as usize;
    let frame_bytes = end + pad_bytes as usize;
    let payload = &bytes[HEADER_BYTES..bytes.len().min(end)];

    let (record, data_at) = match RecordHead::parse(payload, record_bytes) {
        Ok(found) => found,
        Err(HeadError::Short) if bytes.len() < end && !at_end => {
            return incomplete(frame_bytes.min(HEADER_BYTES + RecordHead::MAX_BYTES));
        }
        Err(HeadError::Short) if bytes.len() < end => return Decoded::Torn,
        Err(e) => {
            // The header's own sector was written, so only the next one may be missing.
            let written = (SECTOR_BYTES - HEADER_BYTES as u64 - position.offset % SECTOR_BYTES) as usize;
            let written = &payload[..payload.len().min(written)];
            let cut = matches!(RecordHead::parse(written, record_bytes), Err(HeadError::Short));
            return match cut && has_zero_sector(payload, written.len()) {
                true => Decoded::Torn,
                false => Decoded::Corrupt(e.reason()),
            };
        }
    };
    if bytes.len() < frame_bytes {
        return if at_end { Decoded::Torn } else { incomplete(frame_bytes) };
    }

    let data = HEADER_BYTES + data_at..end;
    let crc = match record.kind {
        Kind::Crc if !data.is_empty() => return Decoded::Corrupt("checksum record with data"),
        Kind::Crc => position.crc.unwrap_or(record.crc),
        _ => match position.crc {
            Some(crc) => crc32c::crc32c_append(crc, &bytes[data.clone()]),
            None => return Decoded::Corrupt("segment does not begin with a checksum record"),
        },
    };
    if mutant::on(Mutant::D5) {
        return Decoded::Record { kind: record.kind, data, frame_bytes, crc: record.crc };
    }
    if crc != record.crc {
        // A lost sector is zero to its end, behind the record too.
        let start = position.offset % SECTOR_BYTES;
        let sectors_end = ((start + end as u64).next_multiple_of(SECTOR_BYTES) - start) as usize;
        if bytes.len() < sectors_end && !at_end {
            return incomplete(sectors_end);
        }
        let sectors = &bytes[HEADER_BYTES..bytes.len().min(sectors_end)];
        let written = (SECTOR_BYTES - HEADER_BYTES as u64 - start) as usize;
        return match has_zero_sector(sectors, written) {
            true => Decoded::Torn,
            false => Decoded::Corrupt("crc mismatch"),
        };
    }
    if !is_zero(&bytes[end..frame_bytes]) {
        return Decoded::Corrupt("padding is not zero");
    }
    Decoded::Record { kind: record.kind, data, frame_bytes, crc }
}

/// Bytes compare fastest in blocks; a plain `all` is not vectorised.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<32>();
    blocks.iter().all(|block| block == &[0; 32]) && rest.iter().all(|&b| b == 0)
}

/// Whether one of the sectors after the first `written` bytes holds only zeros.
fn has_zero_sector(bytes: &[u8], written: usize) -> bool {
    bytes.get(written..).unwrap_or_default().chunks(SECTOR_BYTES as usize).any(is_zero)
}

/// A record without its data.
struct RecordHead {
    kind: Kind,
    crc: u32,
}

enum HeadError {
    Short,
    Malformed,
    Kind,
    Length,
}

impl HeadError {
    fn reason(&self) -> &'static str {
        match self {
            HeadError::Short | HeadError::Malformed => "malformed record",
            HeadError::Kind => "unexpected record type",
            HeadError::Length => "length contradicts the record",
        }
    }
}

impl RecordHead {
    /// Tags, type, crc and the length of the data.
    const MAX_BYTES: usize = 3 + 10 + 5 + 10;

    /// Reads the fields before the data and says where it starts; etcd writes them in order.
    fn parse(payload: &[u8], record_bytes: u64) -> Result<(Self, usize), HeadError> {
        let mut fields = Fields { bytes: payload, at: 0, end: record_bytes };
        if fields.tag()? != Some(0x08) {
            return Err(HeadError::Malformed);
        }
        let kind = match fields.varint()? {
            1 => Kind::Metadata,
            2 => Kind::Entry,
            3 => Kind::State,
            4 => Kind::Crc,
            5 => Kind::Snapshot,
            _ => return Err(HeadError::Kind),
        };
        let mut crc = 0;
        let mut tag = fields.tag()?;
        if tag == Some(0x10) {
            crc = u32::try_from(fields.varint()?).map_err(|_| HeadError::Malformed)?;
            tag = fields.tag()?;
        }
        match tag {
            None => {}
            Some(0x1a) => {
                let data_bytes = fields.varint()?;
                if data_bytes != record_bytes.saturating_sub(fields.at as u64) {
                    return Err(HeadError::Length);
                }
            }
            Some(_) => return Err(HeadError::Malformed),
        }
        Ok((Self { kind, crc }, fields.at))
    }
}

/// A cursor over protobuf fields, of which fewer than `end` bytes may be at hand.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: u64,
}

impl Fields<'_> {
    /// The next tag, all of which fit one byte; `None` at the end of the message.
    fn tag(&mut self) -> Result<Option<u8>, HeadError> {
        if self.at as u64 == self.end {
            return Ok(None);
        }
        self.byte().map(Some)
    }

    fn byte(&mut self) -> Result<u8, HeadError> {
        let byte = *self.bytes.get(self.at).ok_or(HeadError::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, HeadError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(HeadError::Malformed);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(HeadError::Malformed)
    }
}

/// An entry as read, its data a range of the record's data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct EntryParts {
    pub entry_type: i32,
    pub term: u64,
    pub index: u64,
    pub data: Option<Range<usize>>,
}

/// Decodes a `raftpb.Entry`. Unknown fields are refused: the checksum does not cover the record's type, and a state
/// record whose type was damaged must not pass for an entry.
pub(super) fn decode_entry(bytes: &[u8]) -> Option<EntryParts> {
    let mut fields = Fields { bytes, at: 0, end: bytes.len() as u64 };
    let mut entry = EntryParts::default();
    while let Some(tag) = fields.tag().ok()? {
        let value = fields.varint().ok()?;
        match tag {
            0x08 => entry.entry_type = i32::try_from(value).ok().filter(|t| (0..=2).contains(t))?,
            0x10 => entry.term = value,
            0x18 => entry.index = value,
            0x22 => {
                let end =
                    fields.at.checked_add(usize::try_from(value).ok()?).filter(|&end| end <= bytes.len())?;
                entry.data = Some(fields.at..end);
                fields.at = end;
            }
            _ => return None,
        }
    }
    Some(entry)
}

/// Decodes a `raftpb.HardState`, as strictly and for the same reason.
pub(super) fn decode_hard_state(bytes: &[u8]) -> Option<HardState> {
    let mut fields = Fields { bytes, at: 0, end: bytes.len() as u64 };
    let mut state = HardState::default();
    while let Some(tag) = fields.tag().ok()? {
        let value = fields.varint().ok()?;
        match tag {
            0x08 => state.term = value,
            0x10 => state.vote = value,
            0x18 => state.commit = value,
            _ => return None,
        }
    }
    Some(state)
}

/// Frames appended to one reusable buffer, and the running checksum after them.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
    crc: u32,
}

impl Encoder {
    pub fn new(crc: u32) -> Self {
        Self { buffer: Vec::new(), crc }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The running checksum.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Empties the buffer and keeps its memory, unless a huge batch made it huge.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(4 << 20);
    }

    /// Drops what was appended after `bytes().len()` and `crc()` were taken.
    pub fn rewind(&mut self, len: usize, crc: u32) {
        self.buffer.truncate(len);
        self.crc = crc;
    }

    /// The record that opens a segment.
    pub fn crc_record(&mut self) {
        self.frame(Kind::Crc, None);
    }

    pub fn record(&mut self, kind: Kind, data: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, data);
        self.frame(kind, Some((data, &[])));
    }

    pub fn hard_state(&mut self, state: &HardState) {
        let mut bytes = Short::default();
        bytes.field(0x08, state.term);
        bytes.field(0x10, state.vote);
        bytes.field(0x18, state.commit);
        self.record(Kind::State, bytes.as_slice());
    }

    pub fn entry(&mut self, entry: &EntryRef<'_>) {
        let mut head = Short::default();
        head.field(0x08, entry.entry_type as u64);
        head.field(0x10, entry.term);
        head.field(0x18, entry.index);
        if !entry.data.is_empty() {
            head.field(0x22, entry.data.len() as u64);
        }
        self.crc = crc32c::crc32c_append(self.crc, head.as_slice());
        self.crc = crc32c::crc32c_append(self.crc, entry.data);
        self.frame(Kind::Entry, Some((head.as_slice(), entry.data)));
    }

    fn frame(&mut self, kind: Kind, data: Option<(&[u8], &[u8])>) {
        let mut head = Short::default();
        head.field(0x08, kind as u64);
        head.field(0x10, u64::from(self.crc));
        let (first, second) = data.unwrap_or_default();
        let data_bytes = first.len() + second.len();
        if data.is_some() {
            head.field(0x1a, data_bytes as u64);
        }
        let record_bytes = head.as_slice().len() + data_bytes;
        let pad_bytes = record_bytes.wrapping_neg() % 8;
        let mut header = record_bytes as u64;
        if pad_bytes > 0 {
            header |= (0x80 | pad_bytes as u64) << 56;
        }
        self.buffer.reserve(HEADER_BYTES + record_bytes + pad_bytes);
        self.buffer.extend_from_slice(&header.to_le_bytes());
        self.buffer.extend_from_slice(head.as_slice());
        self.buffer.extend_from_slice(first);
        self.buffer.extend_from_slice(second);
        self.buffer.extend_from_slice(&[0; 8][..pad_bytes]);
    }
}

/// Up to four varint fields on the stack.
struct Short {
    bytes: [u8; 44],
    len: usize,
}

impl Default for Short {
    fn default() -> Self {
        Self { bytes: [0; 44], len: 0 }
    }
}

impl Short {
    fn field(&mut self, tag: u8, mut value: u64) {
        self.push(tag);
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
