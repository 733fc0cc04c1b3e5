//! A protobuf field scanner and the gRPC message frame, for reading a few fields without decoding the rest.
//! The client shares its cores with the server it measures, so a 150 KB page is not turned into structs to
//! learn one number. Pure; used by `client` and the watch and txn workloads.
//! Source: the protobuf encoding guide; gRPC over HTTP/2, "Length-Prefixed-Message".

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// 1 byte compressed flag, 4 bytes big-endian length.
pub const FRAME_HEADER_BYTES: usize = 5;

pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(FRAME_HEADER_BYTES + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("a request of the bench is far below 4 GiB"));
    message.encode(&mut out).expect("the buffer grows");
    out.freeze()
}

/// Length of the message whose frame starts `bytes`, or `None` while the header is incomplete.
pub fn frame_length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..FRAME_HEADER_BYTES)?;
    Some(u32::from_be_bytes(length.try_into().ok()?) as usize)
}

#[derive(Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The top-level fields of a message; ends early at the first malformed one.
pub fn fields(message: &[u8]) -> impl Iterator<Item = (u32, Value<'_>)> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut rest)?),
            1 => {
                rest = rest.get(8..)?;
                Value::Fixed
            }
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let (bytes, after) = rest.split_at_checked(length)?;
                rest = after;
                Value::Bytes(bytes)
            }
            5 => {
                rest = rest.get(4..)?;
                Value::Fixed
            }
            _ => return None,
        };
        Some(((tag >> 3) as u32, value))
    })
}

pub fn bytes_field(message: &[u8], number: u32) -> Option<&[u8]> {
    fields(message).find_map(|(found, value)| match value {
        Value::Bytes(bytes) if found == number => Some(bytes),
        _ => None,
    })
}

/// The value of a varint field, 0 when absent, as proto3 has it.
pub fn varint_field(message: &[u8], number: u32) -> u64 {
    fields(message)
        .find_map(|(found, value)| match value {
            Value::Varint(number_value) if found == number => Some(number_value),
            _ => None,
        })
        .unwrap_or(0)
}

/// `header.revision` of any response: field 1, then field 3.
pub fn revision(response: &[u8]) -> i64 {
    bytes_field(response, 1).map_or(0, |header| varint_field(header, 3) as i64)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::etcdserverpb::{RangeResponse, ResponseHeader};
    use proto::mvccpb::KeyValue;

    fn response() -> RangeResponse {
        RangeResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                member_id: 7,
                revision: 300_001,
                raft_term: 2,
            }),
            kvs: vec![KeyValue { key: "a".into(), value: vec![1; 300].into(), ..Default::default() }; 3],
            more: true,
            count: 9,
        }
    }

    #[test]
    fn scanning_agrees_with_decoding() {
        let encoded = response().encode_to_vec();
        assert_eq!(revision(&encoded), 300_001);
        assert_eq!(fields(&encoded).filter(|(number, _)| *number == 2).count(), 3);
        assert_eq!(varint_field(&encoded, 4), 9);
        let kv = bytes_field(&encoded, 2).expect("there are keys");
        assert_eq!(bytes_field(kv, 5), Some(&[1u8; 300][..]));
    }

    #[test]
    fn a_cut_message_ends_the_scan() {
        let encoded = response().encode_to_vec();
        for length in 0..encoded.len() {
            assert!(fields(&encoded[..length]).count() <= 6);
        }
        assert_eq!(fields(&[0xff; 16]).count(), 0);
    }

    #[test]
    fn frames_carry_their_length() {
        let framed = frame(&response());
        assert_eq!(frame_length(&framed), Some(framed.len() - FRAME_HEADER_BYTES));
        assert_eq!(frame_length(&framed[..4]), None);
    }
}
