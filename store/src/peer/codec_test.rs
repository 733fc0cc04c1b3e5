//! Round trips, every split point, and hostile bytes.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use prost::Message as _;
use proto::raftpb::{ConfState, SnapshotMetadata};

use super::*;

const LOCAL: u64 = 1;
const REMOTE: u64 = 2;

fn append(term: u64, log_term: u64, index: u64, count: u64, commit: u64) -> Message {
    let entries = (1..=count)
        .map(|n| Entry { term, index: index + n, data: Some(Bytes::from(vec![7; n as usize])), r#type: 0 })
        .collect();
    Message {
        r#type: MessageType::MsgApp as i32,
        from: REMOTE,
        to: LOCAL,
        term,
        log_term,
        index,
        commit,
        entries,
        ..Message::default()
    }
}

fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (0..3i32, any::<u64>(), any::<u64>(), any_bytes()).prop_map(|(r#type, term, index, data)| Entry {
        r#type,
        term,
        index,
        data,
    })
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    (any_bytes(), proptest::collection::vec(any::<u64>(), 0..4), any::<u64>()).prop_map(
        |(data, voters, index)| {
            let conf_state = ConfState { voters, ..ConfState::default() };
            Snapshot { data, metadata: SnapshotMetadata { conf_state, index, term: 3 } }
        },
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    let scalars = (1..19i32, any::<[u64; 7]>(), any::<bool>(), proptest::option::of(any::<u64>()));
    (scalars, proptest::collection::vec(any_entry(), 0..5), any_snapshot(), any_bytes(), 0..2usize).prop_map(
        |(
            (r#type, [to, from, term, log_term, index, commit, reject_hint], reject, vote),
            entries,
            snapshot,
            context,
            nested,
        )| {
            let responses = vec![append(1, 1, 1, 1, 1); nested];
            Message {
                r#type,
                to,
                from,
                term,
                log_term,
                index,
                entries,
                commit,
                snapshot,
                reject,
                reject_hint,
                context,
                vote,
                responses,
            }
        },
    )
}

/// Appends as a leader sends them: mostly contiguous, sometimes from elsewhere or in a new term.
fn append_run() -> impl Strategy<Value = Vec<Message>> {
    proptest::collection::vec((0..10u8, 0..6u64, 0..50u64), 1..30).prop_map(|steps| {
        let (mut term, mut index) = (1, 0);
        steps
            .into_iter()
            .map(|(kind, count, commit)| {
                let log_term = term;
                match kind {
                    0 => term += 1,
                    1 => index = commit,
                    _ => {}
                }
                let message = append(term, log_term, index, count, commit);
                index += count;
                message
            })
            .collect()
    })
}

fn encode(kind: StreamKind, messages: &[Message]) -> BytesMut {
    let mut encoder = Encoder::new(kind);
    let mut out = BytesMut::new();
    for message in messages {
        encoder.message(message, &mut out);
        encoder.heartbeat(&mut out);
    }
    out
}

/// Feeds `bytes` cut at `cuts`; heartbeats are counted apart.
fn decode(kind: StreamKind, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<Message>, usize), Error> {
    let mut decoder = Decoder::new(kind, LOCAL, REMOTE);
    let (mut messages, mut heartbeats, mut from) = (Vec::new(), 0, 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    for end in ends {
        decoder.feed(&bytes[from..end]);
        from = end;
        while let Some(frame) = decoder.next_frame()? {
            match frame {
                Frame::Heartbeat => heartbeats += 1,
                Frame::Message(message) => messages.push(*message),
            }
        }
    }
    Ok((messages, heartbeats))
}

proptest! {
    #[test]
    fn message_stream_round_trips_at_any_split(
        messages in proptest::collection::vec(any_message(), 1..5),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let bytes = encode(StreamKind::Message, &messages);
        prop_assert_eq!(decode(StreamKind::Message, &bytes, &cuts), Ok((messages.clone(), messages.len())));
    }

    #[test]
    fn msgapp_stream_round_trips_at_any_split(
        messages in append_run(),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let bytes = encode(StreamKind::MsgApp, &messages);
        prop_assert_eq!(decode(StreamKind::MsgApp, &bytes, &cuts), Ok((messages.clone(), messages.len())));
    }

    #[test]
    fn msgapp_stream_loses_no_field_of_odd_messages(messages in proptest::collection::vec(any_message(), 1..6)) {
        let bytes = encode(StreamKind::MsgApp, &messages);
        prop_assert_eq!(decode(StreamKind::MsgApp, &bytes, &[]), Ok((messages.clone(), messages.len())));
    }

    #[test]
    fn mutated_streams_never_panic(
        messages in append_run(),
        msgapp in any::<bool>(),
        flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
    ) {
        let kind = if msgapp { StreamKind::MsgApp } else { StreamKind::Message };
        let mut bytes = encode(kind, &messages);
        let len = bytes.len();
        for (at, value) in flips {
            bytes[at % len] = value;
        }
        // Whole or cut, the same bytes mean the same.
        prop_assert_eq!(decode(kind, &bytes, &cuts).is_ok(), decode(kind, &bytes, &[]).is_ok());
    }

    #[test]
    fn noise_never_panics(msgapp in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let kind = if msgapp { StreamKind::MsgApp } else { StreamKind::Message };
        let _ = decode(kind, &bytes, &[1, 9]);
        let _ = decode_message(Bytes::from(bytes));
    }
}

#[test]
fn every_single_split_of_a_short_stream() {
    let messages =
        [append(2, 1, 4, 2, 3), append(2, 2, 6, 3, 6), append(2, 2, 9, 0, 9), append(3, 2, 9, 1, 9)];
    for kind in [StreamKind::MsgApp, StreamKind::Message] {
        let bytes = encode(kind, &messages);
        for cut in 0..=bytes.len() {
            assert_eq!(decode(kind, &bytes, &[cut]), Ok((messages.to_vec(), messages.len())), "cut at {cut}");
        }
    }
}

#[test]
fn contiguous_appends_take_the_short_form() {
    let mut encoder = MsgAppEncoder::default();
    let types =
        [append(5, 5, 10, 2, 9), append(5, 5, 12, 1, 12), append(5, 5, 20, 1, 12), append(6, 5, 21, 1, 12)]
            .map(|message| {
                let mut out = BytesMut::new();
                encoder.encode(&message, &mut out);
                out[0]
            });
    assert_eq!(types, [APP_MESSAGE, APP_ENTRIES, APP_MESSAGE, APP_MESSAGE]);
}

#[test]
fn short_append_bytes() {
    let mut encoder = MsgAppEncoder { term: 1, index: 5 };
    let mut message = append(1, 1, 5, 1, 4);
    message.entries[0].data = None;
    let mut out = BytesMut::new();
    encoder.encode(&message, &mut out);
    let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 6];
    expected.extend_from_slice(&[0x08, 0, 0x10, 1, 0x18, 6]);
    expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 4]);
    assert_eq!(out.as_ref(), expected);
}

#[test]
fn claimed_sizes_are_refused_or_awaited_without_allocating() {
    let over = STREAM_LIMIT + 1;
    let refused = Err(Error::TooLong { size: over, limit: STREAM_LIMIT });
    assert_eq!(decode(StreamKind::Message, &over.to_be_bytes(), &[]), refused);

    let mut frame = vec![APP_MESSAGE];
    frame.put_u64(over);
    assert_eq!(decode(StreamKind::MsgApp, &frame, &[]), refused);

    let mut frame = vec![APP_ENTRIES];
    frame.put_u64(ELEMENT_LIMIT + 1);
    assert_eq!(decode(StreamKind::MsgApp, &frame, &[]), Err(Error::TooMany { limit: ELEMENT_LIMIT }));

    let mut decoder = Decoder::new(StreamKind::Message, LOCAL, REMOTE);
    decoder.feed(&STREAM_LIMIT.to_be_bytes());
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.buffer.capacity() < 1 << 16);

    let mut buffer = BytesMut::from(&(MESSAGE_LIMIT + 1).to_be_bytes()[..]);
    assert!(matches!(take_message(&mut buffer, MESSAGE_LIMIT), Err(Error::TooLong { .. })));
}

#[test]
fn entries_of_one_append_share_the_byte_limit() {
    let mut decoder = MsgAppDecoder::new(LOCAL, REMOTE);
    decoder.state = State::Entries { left: 1, bytes: STREAM_LIMIT - 10, entries: Vec::new() };
    let mut buffer = BytesMut::from(&11u64.to_be_bytes()[..]);
    assert_eq!(decoder.decode(&mut buffer), Err(Error::TooLong { size: 11, limit: 10 }));
}

#[test]
fn element_floods_are_refused_before_they_are_decoded() {
    let flood = |field: [u8; 2]| Bytes::from(field.repeat(ELEMENT_LIMIT as usize + 1));
    let refused = Err(Error::TooMany { limit: ELEMENT_LIMIT });
    assert_eq!(decode_message(flood([0x3a, 0])), refused, "entries");
    assert_eq!(decode_message(flood([0x72, 0])), refused, "responses");

    let voters = ConfState { voters: vec![1; ELEMENT_LIMIT as usize], ..ConfState::default() };
    let mut message = Message::default();
    message.snapshot.metadata.conf_state = voters;
    assert_eq!(decode_message(Bytes::from(message.encode_to_vec())), refused, "voters");

    let mut nested = Message::default();
    for _ in 0..NESTING_LIMIT + 2 {
        nested = Message { responses: vec![nested], ..Message::default() };
    }
    assert!(
        matches!(decode_message(Bytes::from(nested.encode_to_vec())), Err(Error::Malformed(_))),
        "nesting"
    );
}

#[test]
fn an_index_at_its_end_does_not_overflow() {
    let mut message = append(1, 1, 5, 1, 4);
    message.entries[0].index = u64::MAX;
    let mut bytes = encode(StreamKind::MsgApp, &[message]);
    let next = append(1, 1, u64::MAX - 1, 1, 4);
    bytes.put_u8(APP_ENTRIES);
    bytes.put_u64(1);
    let entry = next.entries[0].encode_to_vec();
    bytes.put_u64(entry.len() as u64);
    bytes.put_slice(&entry);
    bytes.put_u64(4);
    let (messages, _) = decode(StreamKind::MsgApp, &bytes, &[]).unwrap();
    assert_eq!(messages[1].index, u64::MAX);
}
