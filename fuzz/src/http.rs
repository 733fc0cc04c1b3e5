//! What clients send: bytes of a connection to the client port of a member that leads itself.
//!
//! Time stands still while anything can move and jumps ahead when nothing does, so no input waits for a timeout.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use store::api::{
    caller::Caller,
    edge::{self, Serves},
    kv,
    router::{Context, Method},
    watch::{Shard, Shards},
};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    runtime::Runtime,
    sync::watch,
};

use crate::{
    input::{Input, Script},
    member::Member,
};

/// How often connection and member take turns before the client hangs up.
const TURNS: usize = 24;
/// Longer than any timeout of a connection.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}

/// Sends bytes, reads whatever comes, and hangs up.
pub async fn talk(member: &mut Member, client: DuplexStream, bytes: &[u8]) {
    let (mut answers, mut requests) = tokio::io::split(client);
    let reading = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut tokio::io::sink()).await });
    // It fails where the other side was first to hang up.
    let _ = requests.write_all(bytes).await;
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
        member.settle();
    }
    let _ = requests.shutdown().await;
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
        member.settle();
    }
    reading.abort();
}

fn connection(bytes: &[u8], http2: bool) {
    runtime().block_on(async {
        let mut member = Member::leading();
        let node = member.node.clone();
        let shard = Shard::new(node.clone(), &Shards::default(), Shard::config(&node, 1));
        let context =
            Context { node: node.clone(), counters: Arc::default(), shard: shard.clone(), common_name: None };
        tokio::spawn(shard.clone().run());
        let (client, server) = tokio::io::duplex(1 << 20);
        let (_stop, stopping) = watch::channel(false);
        let shards = Arc::new(vec![shard]);
        let serving = edge::connection_task(context, shards, server, http2, Serves::Everything, stopping);
        let serving = tokio::spawn(serving);
        talk(&mut member, client, bytes).await;
        let ended = tokio::time::timeout(PATIENCE, serving).await;
        ended.expect("a connection ends with its client").expect("the connection's task");
        assert_eq!(node.fatal.reason(), None, "no client stops a member");
        let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
        member
            .call(kv::range(&node, &Caller::default(), range))
            .expect("an answer")
            .expect("the member serves others");
    });
}

pub fn http1(data: &[u8]) {
    connection(data, false);
}

pub fn http1_seeds() -> Vec<Vec<u8>> {
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: m0\r\nOrigin: http://a\r\n\r\n").into_bytes();
    let mut seeds: Vec<_> = [
        "/health",
        "/health?serializable=true&exclude=NOSPACE",
        "/livez/serializable_read?verbose",
        "/readyz?verbose&exclude=data_corruption",
        "/version",
        "/metrics",
        "/v2/keys/a",
    ]
    .map(get)
    .to_vec();
    seeds.push([get("/health"), get("/version")].concat());
    let chunked =
        b"POST /v3/kv/range HTTP/1.1\r\nHost: m0\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    seeds.push(chunked.to_vec());
    seeds.push(b"OPTIONS * HTTP/1.0\r\n\r\n".to_vec());
    seeds
}

pub fn http2(data: &[u8]) {
    connection(data, true);
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    into.extend_from_slice(&[kind, flags]);
    into.extend_from_slice(&stream.to_be_bytes());
    into.extend_from_slice(payload);
}

/// Headers as literals that are not indexed.
fn header_block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8 & 0x7f);
            block.extend_from_slice(&text.as_bytes()[..text.len().min(0x7f)]);
        }
    }
    block
}

fn call_headers(path: &str) -> Vec<u8> {
    header_block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "m0"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

fn grpc_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

fn path_of(method: usize) -> String {
    let (_, _, service, name) = Method::ALL[method];
    format!("/{service}/{name}")
}

pub fn http2_seeds() -> Vec<Vec<u8>> {
    let mut begin = PREFACE.to_vec();
    http2_frame(SETTINGS, 0, 0, &[], &mut begin);
    let mut get = begin.clone();
    let headers = [(":method", "GET"), (":scheme", "http"), (":authority", "m0"), (":path", "/health")];
    http2_frame(HEADERS, 5, 1, &header_block(&headers), &mut get);
    let mut put = begin.clone();
    http2_frame(HEADERS, 4, 1, &call_headers("/etcdserverpb.KV/Put"), &mut put);
    let message = pb::PutRequest { key: "a".into(), value: "b".into(), ..Default::default() };
    http2_frame(DATA, 1, 1, &grpc_frame(&message.encode_to_vec()), &mut put);
    http2_frame(PING, 0, 0, &[7; 8], &mut put);
    let mut windows = begin.clone();
    http2_frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1, 0, 5, 0, 0, 64, 0], &mut windows);
    http2_frame(HEADERS, 5, 3, &call_headers("/etcdserverpb.KV/Range"), &mut windows);
    http2_frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 9], &mut windows);
    http2_frame(RST_STREAM, 0, 3, &[0, 0, 0, 8], &mut windows);
    http2_frame(GOAWAY, 0, 0, &[0; 8], &mut windows);
    vec![begin, get, put, windows]
}

/// Calls of any method with any messages, cut and broken off anywhere, several at a time.
pub fn grpc(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bytes = PREFACE.to_vec();
    http2_frame(SETTINGS, 0, 0, &[], &mut bytes);
    let mut streams = 0;
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let stream = |input: &mut Input<'_>| input.choice(streams.max(1)) as u32 * 2 + 1;
        match input.choice(6) {
            0 | 1 => {
                let path = path_of(input.choice(Method::ALL.len()));
                http2_frame(HEADERS, 4, streams as u32 * 2 + 1, &call_headers(&path), &mut bytes);
                streams += 1;
            }
            2 => {
                let (to, ends) = (stream(&mut input), u8::from(input.flag()));
                http2_frame(DATA, ends, to, &grpc_frame(input.bytes()), &mut bytes);
            }
            3 => {
                let (to, ends) = (stream(&mut input), u8::from(input.flag()));
                http2_frame(DATA, ends, to, input.bytes(), &mut bytes);
            }
            4 => http2_frame(RST_STREAM, 0, stream(&mut input), &[0, 0, 0, 8], &mut bytes),
            _ => http2_frame(WINDOW_UPDATE, 0, stream(&mut input), &[0, 0, input.byte(), 1], &mut bytes),
        }
    }
    connection(&bytes, true);
}

pub fn grpc_seeds() -> Vec<Vec<u8>> {
    let range = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let put = pb::PutRequest { key: "a".into(), value: "b".into(), prev_kv: true, ..Default::default() };
    let create =
        pb::WatchCreateRequest { key: "a".into(), start_revision: 1, prev_kv: true, ..Default::default() };
    let watch =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 7 };
    let messages = |method: Method| -> Bytes {
        match method {
            Method::Range | Method::RangeStream => range.encode_to_vec(),
            Method::Put => put.encode_to_vec(),
            Method::Watch => watch.encode_to_vec(),
            Method::LeaseGrant => grant.encode_to_vec(),
            Method::LeaseKeepAlive => pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec(),
            Method::LeaseTimeToLive => pb::LeaseTimeToLiveRequest { id: 7, keys: true }.encode_to_vec(),
            Method::Compact => pb::CompactionRequest { revision: 1, physical: true }.encode_to_vec(),
            Method::HashKv => pb::HashKvRequest { revision: 1 }.encode_to_vec(),
            Method::Alarm => pb::AlarmRequest { action: 1, member_id: 1, alarm: 1 }.encode_to_vec(),
            _ => Vec::new(),
        }
        .into()
    };
    let mut all = Script::default();
    let mut seeds = Vec::new();
    for (number, (method, ..)) in Method::ALL.iter().enumerate() {
        let message = messages(*method);
        seeds.push(
            Script::default().byte(0).byte(number as u8).byte(2).byte(0).byte(1).bytes(&message).done(),
        );
        all = all.byte(0).byte(number as u8).byte(2).byte(number as u8).byte(0).bytes(&message);
    }
    seeds.push(all.done());
    seeds
}
