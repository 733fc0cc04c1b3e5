//! Transports of this crate over loopback: order, loss, reconnection, refusals, bounds, snapshots.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::support::{Event, Member, eventually, stats, streams_attached};
use bytes::Bytes;
use http::{Method, Request, Response};
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};
use store::peer::client::Client;
use store::peer::net::Plain;
use store::peer::snapshot::database;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

fn message(kind: MessageType, from: &Member, to: &Member, index: u64) -> Message {
    Message { r#type: kind as i32, from: from.id, to: to.id, term: 2, index, ..Message::default() }
}

fn append(from: &Member, to: &Member, index: u64, size: usize) -> Message {
    let entry = Entry { term: 2, index: index + 1, data: Some(vec![9; size].into()), r#type: 0 };
    Message { log_term: 2, entries: vec![entry], ..message(MessageType::MsgApp, from, to, index) }
}

async fn pair() -> (Member, Member) {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.add(&b);
    b.add(&a);
    streams_attached(&a, 2).await;
    streams_attached(&b, 1).await;
    (a, b)
}

#[tokio::test]
async fn messages_of_each_stream_arrive_in_order_both_ways() {
    let (mut a, mut b) = pair().await;
    const COUNT: u64 = 2000;
    for index in 0..COUNT {
        let heartbeat = message(MessageType::MsgHeartbeat, &a, &b, index);
        a.transport.send(vec![append(&a, &b, index, 100), heartbeat]);
        b.transport.send(vec![message(MessageType::MsgAppResp, &b, &a, index)]);
    }
    let (mut appends, mut heartbeats) = (Vec::new(), Vec::new());
    for _ in 0..2 * COUNT {
        let message = b.next_message().await;
        match message.r#type() {
            MessageType::MsgApp => {
                assert_eq!(message, append(&a, &b, message.index, 100));
                appends.push(message.index);
            }
            MessageType::MsgHeartbeat => heartbeats.push(message.index),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(appends.into_iter().eq(0..COUNT));
    assert!(heartbeats.into_iter().eq(0..COUNT));
    for index in 0..COUNT {
        assert_eq!(a.next_message().await, message(MessageType::MsgAppResp, &b, &a, index));
    }
    assert!(a.transport.active_since(2).is_some() && b.transport.active_since(1).is_some());
    assert_eq!(stats(&a, 2).sent_failures.load(Relaxed), 0);
    let round_trip = stats(&a, 2);
    eventually(|| round_trip.round_trip.count() > 0).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn messages_flow_before_streams_are_attached() {
    let mut a = Member::start(1).await;
    let b = Member::start(2).await;
    // Only b knows the other, so nobody asks it for a stream.
    b.add(&a);
    b.transport.send((0..50).map(|index| append(&b, &a, index, 10)).collect());
    let mut indexes = BTreeSet::new();
    for _ in 0..50 {
        indexes.insert(a.next_message().await.index);
    }
    assert!(indexes.into_iter().eq(0..50));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_restarted_member_is_connected_again() {
    let (mut a, b) = pair().await;
    let address = b.address().to_owned();
    b.stop().await;
    a.wait_for(|event| matches!(event, Event::Unreachable(2)).then_some(())).await;
    eventually(|| a.transport.active_since(2).is_none()).await;
    assert!(stats(&a, 2).disconnected.load(Relaxed) > 0);

    let mut b = Member::start_with(2, &address, |_| {}).await;
    b.add(&a);
    streams_attached(&b, 1).await;
    eventually(|| a.transport.active_since(2).is_some()).await;
    b.transport.send(vec![message(MessageType::MsgHeartbeat, &b, &a, 1)]);
    assert_eq!(a.next_message().await.index, 1);
    a.transport.send(vec![append(&a, &b, 7, 10)]);
    assert_eq!(b.next_message().await, append(&a, &b, 7, 10));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_removed_peer_gets_nothing_more() {
    let (a, b) = pair().await;
    let stats = stats(&a, 2);
    a.transport.remove_peer(2);
    assert!(a.transport.active_since(2).is_none());
    let sent = stats.sent_bytes.load(Relaxed);
    a.transport.send(vec![append(&a, &b, 1, 10)]);
    eventually(|| b.transport.active_since(1).is_none()).await;
    assert_eq!(stats.sent_bytes.load(Relaxed), sent);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn new_urls_are_dialled() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let a = Member::start(1).await;
    let mut b = Member::start(2).await;
    b.add(&a);
    a.transport.add_peer(2, &[format!("http://{dead}")]).unwrap();
    a.transport.update_peer(2, std::slice::from_ref(&b.url)).unwrap();
    streams_attached(&b, 1).await;
    a.transport.send(vec![message(MessageType::MsgHeartbeat, &a, &b, 3)]);
    assert_eq!(b.next_message().await.index, 3);
    assert!(a.transport.update_peer(9, std::slice::from_ref(&b.url)).is_err());
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_waiting_proposal_holds_up_no_other_message() {
    let (a, mut b) = pair().await;
    b.recorder.rules.lock().hold_proposals = true;
    for index in 0..200 {
        a.transport.send(vec![message(MessageType::MsgProp, &a, &b, index)]);
    }
    a.transport.send(vec![message(MessageType::MsgHeartbeat, &a, &b, 1000)]);
    while b.next_message().await.index != 1000 {}
    a.stop().await;
    b.stop().await;
}

async fn call(
    member: &Member,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Response<Bytes> {
    let client = Client::new(std::sync::Arc::new(Plain), crate::support::PATIENCE, 1 << 20);
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.call(&member.url, request.body(body).unwrap()).await.unwrap()
}

const SENDER: [(&str, &str); 5] = [
    ("X-Server-From", "2"),
    ("X-Server-Version", "3.5.1"),
    ("X-Min-Cluster-Version", "3.0.0"),
    ("X-Etcd-Cluster-ID", "c1"),
    ("X-Raft-To", "1"),
];

/// `SENDER` with one header changed; an empty value leaves it out.
fn sender_but(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    SENDER
        .map(|(n, v)| if n == name { (n, value) } else { (n, v) })
        .into_iter()
        .filter(|(_, v)| !v.is_empty())
        .collect()
}

#[tokio::test]
async fn refusals_are_those_of_etcd() {
    let a = Member::start(1).await;
    a.transport.add_peer(2, &["http://127.0.0.1:1".to_owned()]).unwrap();
    a.recorder.rules.lock().removed.insert(3);
    let message_stream = "/raft/stream/message/2";
    let cases = [
        (message_stream, sender_but("X-Etcd-Cluster-ID", "c2"), 412, "cluster ID mismatch\n"),
        (message_stream, sender_but("X-Server-Version", ""), 412, "incompatible version\n"),
        (message_stream, sender_but("X-Server-Version", "2.3.0"), 412, "incompatible version\n"),
        (message_stream, sender_but("X-Min-Cluster-Version", "3.6.0"), 412, "incompatible version\n"),
        (message_stream, sender_but("X-Raft-To", "9"), 412, "to field mismatch\n"),
        (message_stream, sender_but("X-Raft-To", ""), 412, "to field mismatch\n"),
        ("/raft/stream/msgapp/3", SENDER.to_vec(), 410, "removed member\n"),
        ("/raft/stream/msgapp/4", SENDER.to_vec(), 404, "error sender not found\n"),
        ("/raft/stream/msgapp/x", SENDER.to_vec(), 404, "invalid from\n"),
        ("/raft/stream/other/2", SENDER.to_vec(), 404, "invalid path\n"),
        ("/raft/stream/2", SENDER.to_vec(), 404, "invalid path\n"),
    ];
    for (path, headers, status, text) in cases {
        let answer = call(&a, Method::GET, path, &headers, Bytes::new()).await;
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_ref()),
            (status, text.as_bytes()),
            "{path} {headers:?}"
        );
        assert_eq!(answer.headers()["x-etcd-cluster-id"], "c1");
        assert_eq!(answer.headers()["x-server-version"], "3.5.1");
    }
    for (method, path, allow) in [
        (Method::GET, "/raft", "POST"),
        (Method::GET, "/raft/snapshot", "POST"),
        (Method::POST, message_stream, "GET"),
    ] {
        let answer = call(&a, method, path, &SENDER, Bytes::new()).await;
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (405, &b"Method Not Allowed\n"[..]));
        assert_eq!(answer.headers()["allow"], allow);
    }
    let encoded = |from, to| Bytes::from(Message { from, to, ..Message::default() }.encode_to_vec());
    let posts = [
        ("/raft", encoded(3, 1), 403, r#"{"message":"cannot process message from removed member"}"#),
        ("/raft", encoded(2, 9), 403, r#"{"message":"cannot process message to mismatch member"}"#),
        ("/raft", Bytes::from_static(b"\xff"), 400, "error unmarshalling raft message\n"),
        ("/raft", encoded(2, 1), 204, ""),
        (
            "/raft/snapshot",
            Bytes::from_static(b"\xff"),
            400,
            "failed to decode raft message (unexpected EOF)\n",
        ),
        ("/raft/snapshot", Bytes::from_static(&[0; 8]), 400, "wrong raft message type\n"),
    ];
    for (path, body, status, text) in posts {
        let answer = call(&a, Method::POST, path, &SENDER, body).await;
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (status, text.as_bytes()), "{path}");
        assert_eq!(answer.headers()["x-etcd-cluster-id"], "c1");
    }
    let answer = call(&a, Method::POST, "/raft", &sender_but("X-Etcd-Cluster-ID", "c2"), encoded(2, 1)).await;
    assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (412, &b"cluster ID mismatch\n"[..]));

    let probe = call(&a, Method::GET, "/raft/probing", &[], Bytes::new()).await;
    assert!(probe.body().starts_with(br#"{"OK":true,"Now":"2"#), "{probe:?}");
    let other = call(&a, Method::GET, "/members", &[], Bytes::new()).await;
    assert_eq!(other.body().as_ref(), b"handler: /members");
    a.stop().await;
}

#[tokio::test]
async fn a_removed_member_is_told() {
    let a = Member::start(1).await;
    let mut by_stream = Member::start(2).await;
    a.recorder.rules.lock().removed.extend([2, 3]);
    by_stream.add(&a);
    by_stream.wait_for(|event| matches!(event, Event::Removed).then_some(())).await;

    // A remote has no streams: it learns it from its POST.
    let mut by_post = Member::start(3).await;
    by_post.transport.add_remote(1, std::slice::from_ref(&a.url)).unwrap();
    by_post.transport.send(vec![message(MessageType::MsgAppResp, &by_post, &a, 1)]);
    by_post.wait_for(|event| matches!(event, Event::Removed).then_some(())).await;
    for member in [a, by_stream, by_post] {
        member.stop().await;
    }
}

#[tokio::test]
async fn clusters_do_not_mix() {
    let a = Member::start(1).await;
    let mut b = Member::start_with(2, "127.0.0.1:0", |config| config.cluster_id = 0xc2).await;
    a.add(&b);
    b.add(&a);
    b.transport.send(vec![message(MessageType::MsgHeartbeat, &b, &a, 1)]);
    b.wait_for(|event| matches!(event, Event::Unreachable(1)).then_some(())).await;
    assert!(a.transport.active_since(2).is_none() && b.transport.active_since(1).is_none());
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn an_unknown_sender_can_be_answered() {
    let a = Member::start(1).await;
    let mut b = Member::start(2).await;
    // a does not know b yet; b's dials carry its URLs.
    b.add(&a);
    eventually(|| !a.transport.remote_stats().is_empty()).await;
    a.transport.send(vec![message(MessageType::MsgAppResp, &a, &b, 5)]);
    assert_eq!(b.next_message().await.index, 5);
    // Once a member, it gets streams.
    a.add(&b);
    assert!(a.transport.remote_stats().is_empty());
    streams_attached(&a, 2).await;
    a.stop().await;
    b.stop().await;
}

/// A message stream of member 2 that is never read.
async fn attach_without_reading(member: &Member) -> TcpStream {
    let mut stream = TcpStream::connect(member.address()).await.unwrap();
    let mut request = "GET /raft/stream/message/2 HTTP/1.1\r\nHost: a\r\n".to_owned();
    for (name, value) in SENDER {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
    let stats = stats(member, 2);
    eventually(|| stats.sent_bytes.load(Relaxed) > 0).await;
    stream
}

#[tokio::test]
async fn a_peer_that_reads_nothing_costs_a_bounded_queue() {
    let mut a = Member::start_with(1, "127.0.0.1:0", |config| config.queue_bytes = 1 << 20).await;
    // Accepts our dials and never answers; asks for a stream and never reads it.
    let black_hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    a.transport.add_peer(2, &[format!("http://{}", black_hole.local_addr().unwrap())]).unwrap();
    let _stream = attach_without_reading(&a).await;
    let stats = stats(&a, 2);

    // Sockets hold some megabytes on top of the queue.
    const TOTAL: u64 = 256;
    let b = Member::start(2).await;
    for index in 0..TOTAL {
        a.transport.send(vec![append(&a, &b, index, 1 << 20)]);
        tokio::task::yield_now().await;
    }
    a.wait_for(|event| matches!(event, Event::Unreachable(2)).then_some(())).await;
    let lost = stats.sent_failures.load(Relaxed);
    assert!(lost > TOTAL / 2, "only {lost} of {TOTAL} were dropped");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_peer_that_answers_no_post_costs_a_bounded_queue() {
    let mut a = Member::start(1).await;
    let black_hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    a.transport.add_peer(2, &[format!("http://{}", black_hole.local_addr().unwrap())]).unwrap();
    let b = Member::start(2).await;
    a.transport.send((0..100).map(|index| append(&a, &b, index, 10)).collect());
    a.wait_for(|event| matches!(event, Event::Unreachable(2)).then_some(())).await;
    assert!(stats(&a, 2).sent_failures.load(Relaxed) >= 100 - 64 - 4);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_stalled_stream_is_closed() {
    let mut a =
        Member::start_with(1, "127.0.0.1:0", |config| config.write_timeout = Duration::from_millis(300))
            .await;
    let b = Member::start(2).await;
    a.transport.add_peer(2, &["http://127.0.0.1:1".to_owned()]).unwrap();
    let _stream = attach_without_reading(&a).await;
    let stats = stats(&a, 2);
    a.transport.send((0..60).map(|index| append(&a, &b, index, 1 << 20)).collect());
    // Nothing was dropped at the queue, so the report comes from the broken stream.
    a.wait_for(|event| matches!(event, Event::Unreachable(2)).then_some(())).await;
    assert!(stats.sent_failures.load(Relaxed) > 0);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn snapshots_of_known_and_unknown_length_arrive() {
    let (mut a, mut b) = pair().await;
    let bytes: Vec<u8> = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
    for length in [Some(bytes.len() as u64), None] {
        let mut snapshot = message(MessageType::MsgSnap, &a, &b, 0);
        snapshot.snapshot.metadata.index = 77;
        snapshot.snapshot.data = Some(Bytes::from_static(b"v2"));
        a.transport.send_snapshot(2, snapshot.clone(), database(std::io::Cursor::new(bytes.clone()), length));
        let (received, database) = b
            .wait_for(|event| match event {
                Event::SnapshotReceived(message, database) => Some((message, database.unwrap())),
                _ => None,
            })
            .await;
        assert_eq!(received, snapshot);
        assert!(database == bytes);
        assert!(a.wait_for(snapshot_outcome).await);
    }
    let (sent, received) = (stats(&a, 2), stats(&b, 1));
    assert_eq!(
        (sent.snapshot_send.success.load(Relaxed), received.snapshot_receive.success.load(Relaxed)),
        (2, 2)
    );
    assert_eq!(
        (sent.snapshot_send.inflight.load(Relaxed), received.snapshot_receive.inflight.load(Relaxed)),
        (0, 0)
    );
    a.stop().await;
    b.stop().await;
}

fn snapshot_outcome(event: Event) -> Option<bool> {
    match event {
        Event::SnapshotSent(2, ok) => Some(ok),
        _ => None,
    }
}

#[tokio::test]
async fn a_snapshot_that_breaks_off_fails_on_both_sides() {
    let (mut a, mut b) = pair().await;
    let short = database(std::io::Cursor::new(vec![1; 1_000_000]), Some(1_000_001));
    a.transport.send_snapshot(2, message(MessageType::MsgSnap, &a, &b, 0), short);
    let received = b
        .wait_for(|event| match event {
            Event::SnapshotReceived(_, database) => Some(database),
            _ => None,
        })
        .await;
    assert!(received.is_err());
    assert!(!a.wait_for(snapshot_outcome).await);
    assert_eq!(stats(&a, 2).snapshot_send.failures.load(Relaxed), 1);

    a.transport.send_snapshot(
        9,
        message(MessageType::MsgSnap, &a, &b, 0),
        database(tokio::io::empty(), None),
    );
    let unknown = a.wait_for(|event| matches!(event, Event::SnapshotSent(9, false)).then_some(()));
    unknown.await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_snapshot_without_database_goes_through_the_pipeline() {
    let (mut a, mut b) = pair().await;
    a.transport.send(vec![message(MessageType::MsgSnap, &a, &b, 4)]);
    assert_eq!(b.next_message().await.r#type(), MessageType::MsgSnap);
    assert!(a.wait_for(snapshot_outcome).await);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn nothing_can_be_added_to_a_stopped_transport() {
    let (a, b) = pair().await;
    a.transport.stop();
    assert!(a.transport.add_peer(3, std::slice::from_ref(&b.url)).is_err());
    assert!(a.transport.peer_stats().is_empty());
    a.transport.send(vec![append(&a, &b, 1, 1)]);
    a.stop().await;
    b.stop().await;
}
