//! What other members send: frames of the streams and posts, and whole connections to the peer port.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use proto::raftpb::{self, MessageType};
use store::{
    node::handler::PeerHandler,
    peer::{
        self, Transport,
        codec::{self, Decoder, Encoder, Frame, MESSAGE_LIMIT, StreamKind},
    },
};

use crate::{
    http::{runtime, talk},
    input::Input,
    member::Member,
};

const LOCAL: u64 = 1;
const REMOTE: u64 = 2;

/// Frames from bytes that arrive in pieces of `piece`.
fn frames(kind: StreamKind, bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<codec::Error>) {
    let mut decoder = Decoder::new(kind, LOCAL, REMOTE);
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Byte 0: bits 0-1 the framing, the others the length of the pieces. Then the bytes.
pub fn frame(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let bytes = input.rest();
    let kind = match choice & 3 {
        0 | 1 => StreamKind::MsgApp,
        2 => StreamKind::Message,
        _ => {
            let decoded = codec::decode_message(Bytes::copy_from_slice(bytes));
            let mut framed = BytesMut::new();
            if let Ok(message) = &decoded {
                codec::put_message(message, &mut framed);
                let again = codec::take_message(&mut framed, MESSAGE_LIMIT).expect("our own frame");
                assert_eq!(again.as_ref(), Some(message));
            }
            return;
        }
    };
    let (whole, error) = frames(kind, bytes, bytes.len().max(1));
    let (pieces, other_error) = frames(kind, bytes, usize::from(choice >> 2) + 1);
    assert_eq!((&whole, &error), (&pieces, &other_error), "frames depend on how they arrive");

    // What was understood is understood again; the short form of an append does not carry its ends.
    let mut encoder = Encoder::new(kind);
    let mut out = BytesMut::new();
    let own = whole.into_iter().filter(|frame| match frame {
        Frame::Heartbeat => true,
        Frame::Message(message) => {
            kind == StreamKind::Message || (message.from, message.to) == (REMOTE, LOCAL)
        }
    });
    let own: Vec<Frame> = own.collect();
    for frame in &own {
        match frame {
            Frame::Heartbeat => encoder.heartbeat(&mut out),
            Frame::Message(message) => encoder.message(message, &mut out),
        }
    }
    assert_eq!(frames(kind, &out, out.len().max(1)), (own, None));
}

fn message(index: u64, entries: u64) -> raftpb::Message {
    let entry = |number| raftpb::Entry {
        r#type: 0,
        term: 3,
        index: index + 1 + number,
        data: Some(Bytes::from_static(b"entry")),
    };
    raftpb::Message {
        r#type: MessageType::MsgApp as i32,
        from: REMOTE,
        to: LOCAL,
        term: 3,
        log_term: 3,
        index,
        commit: index,
        entries: (0..entries).map(entry).collect(),
        ..Default::default()
    }
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (choice, kind) in [(0x10, StreamKind::MsgApp), (0x42, StreamKind::Message)] {
        let mut encoder = Encoder::new(kind);
        let mut out = BytesMut::from(&[choice][..]);
        encoder.heartbeat(&mut out);
        encoder.message(&message(5, 2), &mut out);
        encoder.message(&message(7, 3), &mut out);
        encoder.message(&message(10, 0), &mut out);
        encoder.heartbeat(&mut out);
        seeds.push(out.to_vec());
    }
    let mut nested = message(5, 1);
    nested.responses = vec![message(1, 0)];
    nested.snapshot.metadata.conf_state.voters = vec![1, 2, 3];
    seeds.push([&[3][..], &nested.encode_to_vec()].concat());
    seeds
}

/// Bytes of one connection to the peer port of a member that leads itself.
pub fn port(data: &[u8]) {
    runtime().block_on(async {
        let mut member = Member::leading();
        let node = member.node.clone();
        let handler = Arc::new(PeerHandler {
            raft: member.raft.clone(),
            // Nothing is there to write a snapshot to.
            snap_dir: "/nonexistent".into(),
            published: member.published.clone(),
            transfers: Default::default(),
            node: Default::default(),
        });
        handler.node.set(Arc::downgrade(&node)).expect("set once");
        let settings = peer::Config::new(node.id, CLUSTER, "3.5.0", vec!["http://m0:2380".into()]);
        let transport = Transport::new(settings, handler).expect("sound settings");
        let (client, server) = tokio::io::duplex(1 << 20);
        let serving = {
            let transport = transport.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|request| {
                    let transport = transport.clone();
                    async move {
                        Ok::<_, std::convert::Infallible>(peer::server::answer(&transport, request).await)
                    }
                });
                let io = hyper_util::rt::TokioIo::new(server);
                // How a connection ends is the client's doing.
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            })
        };
        talk(&mut member, client, data).await;
        transport.stop();
        let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
        ended.expect("a connection ends with its client").expect("the connection's task");
        assert_eq!(node.fatal.reason(), None, "no peer stops a member");
    });
}

/// Any number does.
const CLUSTER: u64 = 0xc1;

pub fn port_seeds() -> Vec<Vec<u8>> {
    let head = |method: &str, path: &str, body: &[u8]| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: m0\r\nX-Server-From: 2\r\nX-Server-Version: 3.5.0\r\n\
             X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: c1\r\nX-Raft-To: 1\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let renewal = proto::etcdserverpb::LeaseKeepAliveRequest { id: 7 };
    let question = proto::leasepb::LeaseInternalRequest {
        lease_time_to_live_request: Some(proto::etcdserverpb::LeaseTimeToLiveRequest { id: 7, keys: true }),
    };
    let mut snapshot = BytesMut::new();
    let mut installed = message(0, 0);
    installed.r#type = MessageType::MsgSnap as i32;
    installed.snapshot.metadata.index = 9;
    installed.snapshot.metadata.term = 3;
    codec::put_message(&installed, &mut snapshot);
    snapshot.extend_from_slice(b"KEELSNP1");
    let heartbeat = raftpb::Message {
        r#type: MessageType::MsgHeartbeat as i32,
        from: REMOTE,
        to: LOCAL,
        term: 3,
        ..Default::default()
    };
    vec![
        head("POST", "/raft", &heartbeat.encode_to_vec()),
        head("POST", "/raft/snapshot", &snapshot),
        head("GET", "/raft/stream/msgapp/2", b""),
        head("GET", "/raft/probing", b""),
        head("POST", "/leases", &renewal.encode_to_vec()),
        head("POST", "/leases/internal", &question.encode_to_vec()),
        head("GET", "/members/hashkv", br#"{"revision":1}"#),
        [head("GET", "/members", b""), head("GET", "/version", b"")].concat(),
    ]
}
