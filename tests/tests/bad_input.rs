//! Input no well-behaved peer sends: on the client port, on the peer port, and in the data directory.
//! Each case ends with the server serving, or refusing to start with a reason.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use integration::binary;
use integration::bounded;
use integration::client::{Client, put_op};
use integration::cluster::{Cluster, Host, Member, START_LIMIT, copy_dir, free_port};
use integration::http;
use prost::Message;
use proto::etcdserverpb::{PutRequest, RangeRequest, TxnRequest};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const LIMIT: Duration = Duration::from_secs(120);
/// How long an answer that must not come is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn assert_serves(client: &Client, after: &str) {
    let written = client.put("serves", after).await;
    let revision = written.unwrap_or_else(|status| panic!("no longer writes after {after}: {status}"));
    let read = client.get("serves").await;
    let kv = read
        .unwrap_or_else(|status| panic!("no longer reads after {after}: {status}"))
        .expect("just written");
    assert_eq!((kv.value, kv.mod_revision), (after.as_bytes().to_vec().into(), revision));
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const CONTINUATION: u8 = 9;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A header block of literals without indexing.
fn headers(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("shorter than 127"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A connection with one call whose request body is `data`.
fn call(path: &str, data: &[u8]) -> Vec<u8> {
    let parts = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, b""),
        frame(HEADERS, END_HEADERS, 1, &headers(path)),
        frame(DATA, END_STREAM, 1, data),
    ];
    parts.concat()
}

/// Byte sequences, each sent on a connection of its own.
fn garbage(rng: &mut StdRng) -> Vec<(&'static str, Vec<u8>)> {
    let opened =
        |frames: &[Vec<u8>]| [PREFACE.to_vec(), frame(SETTINGS, 0, 0, b""), frames.concat()].concat();
    let range = "/etcdserverpb.KV/Range";
    let mut list = vec![
        ("nothing", Vec::new()),
        ("half a preface", PREFACE[..12].to_vec()),
        ("a wrong preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
        ("a preface and garbage", [PREFACE, &[0xff; 64]].concat()),
        ("a frame above the limit", opened(&[[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1].to_vec()])),
        ("a torn frame", opened(&[[0, 0, 100, HEADERS, END_HEADERS, 0, 0, 0, 1, 0].to_vec()])),
        ("settings of a wrong size", opened(&[frame(SETTINGS, 0, 0, &[1, 2, 3])])),
        ("headers on stream 0", opened(&[frame(HEADERS, END_HEADERS, 0, &headers(range))])),
        ("undecodable headers", opened(&[frame(HEADERS, END_HEADERS, 1, &[0xff; 32])])),
        ("continuation of nothing", opened(&[frame(CONTINUATION, END_HEADERS, 1, b"")])),
        ("data on an idle stream", opened(&[frame(DATA, 0, 1, b"data")])),
        ("an overflowing window", opened(&vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]); 3])),
        ("a message longer than 4 GiB says", call(range, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3])),
        ("a message cut short", call(range, &[0, 0, 0, 0, 100, 1, 2, 3])),
        ("a prefix cut short", call(range, &[0, 0, 0])),
        ("an unknown compression", call(range, &[1, 0, 0, 0, 1, 0])),
        ("no HTTP", b"\r\n\r\n\r\n".to_vec()),
        ("HTTP/1 without a version", b"GET /\r\n\r\n".to_vec()),
        ("HTTP/9", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_vec()),
        ("a header without a colon", b"GET /version HTTP/1.1\r\nHost x\r\n\r\n".to_vec()),
        (
            "a negative length",
            b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_vec(),
        ),
        (
            "bad chunks",
            b"POST /raft HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        ),
        ("endless headers", [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; 4 << 20]].concat()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
    ];
    for _ in 0..20 {
        let mut bytes = vec![0; rng.random_range(1..4096)];
        rng.fill_bytes(&mut bytes);
        list.push(("random bytes", bytes));
    }
    for _ in 0..20 {
        let mut bytes = call(range, &[0, 0, 0, 0, 3, 10, 1, b'a']);
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(PREFACE.len()..bytes.len());
            bytes[at] = rng.random();
        }
        list.push(("a mutated call", bytes));
    }
    list
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_ports_is_survived() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    bounded(LIMIT, async {
        let cluster = Cluster::start(&binary::ours(), 1).await;
        let member = &cluster.members[0];
        let client = cluster.client(0);
        let mut rng = StdRng::seed_from_u64(seed);
        for (what, bytes) in garbage(&mut rng) {
            for address in [member.client_address(), member.peer_address()] {
                let closed = http::exchange(address, &bytes).await;
                assert!(closed.is_ok(), "{what} to {address}: {closed:?}: {bytes:02x?}");
            }
            assert_serves(&client, what).await;
        }
        // Connections that never say what they want.
        let mut idle = Vec::new();
        for n in 0..200 {
            for address in [member.client_address(), member.peer_address()] {
                let mut stream = TcpStream::connect(address).await.expect("connect");
                stream.write_all(&PREFACE[..n % PREFACE.len()]).await.expect("write");
                idle.push(stream);
            }
        }
        assert_serves(&client, "idle connections").await;
    })
    .await;
}

/// Sends request messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

async fn raw_call(channel: &Channel, path: &'static str, message: Bytes) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    Ok(grpc.unary(tonic::Request::new(message), path, Raw).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_messages_get_an_error() {
    bounded(LIMIT, async {
        let cluster = Cluster::start(&binary::ours(), 1).await;
        let member = &cluster.members[0];
        let client = cluster.client(0);
        let channel = Endpoint::from_shared(member.client_url.clone()).expect("URL").connect_lazy();

        let put = PutRequest { key: "key".into(), value: vec![1; 100].into(), ..Default::default() };
        let whole = Bytes::from(put.encode_to_vec());
        let paths = ["/etcdserverpb.KV/Put", "/etcdserverpb.KV/Txn", "/etcdserverpb.Lease/LeaseGrant"];
        for path in paths {
            for bad in [whole.slice(..50), Bytes::from_static(&[0xff; 20]), Bytes::from_static(&[0x0a, 0xff])]
            {
                let status = raw_call(&channel, path, bad).await.expect_err("undecodable");
                assert_eq!(status.code(), Code::Internal, "{path}: {status:?}");
            }
        }
        // Fields of the future are skipped.
        let future = [whole.as_ref(), &[0xfa, 0x7f, 3, 1, 2, 3]].concat();
        raw_call(&channel, "/etcdserverpb.KV/Put", future.into()).await.expect("unknown fields are skipped");
        for path in ["/etcdserverpb.KV/Nothing", "/etcdserverpb.Nothing/Put"] {
            let status = raw_call(&channel, path, Bytes::new()).await.expect_err("no such method");
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
        }

        let error = |status: Status| (status.code(), status.message().to_string());
        let too_large = (Code::InvalidArgument, "etcdserver: request is too large".to_string());
        assert_eq!(client.put("key", vec![0; 1536 << 10]).await.map_err(error), Err(too_large.clone()));
        let success = (0..3).map(|n| put_op(format!("key/{n}"), vec![0; 600 << 10])).collect();
        let txn = TxnRequest { success, ..Default::default() };
        assert_eq!(client.kv.clone().txn(txn).await.map(drop).map_err(error), Err(too_large));
        let above = client.put("key", vec![0; 3 << 20]).await.expect_err("above the receive limit");
        assert_eq!(above.code(), Code::ResourceExhausted, "{above:?}");
        assert!(above.message().contains("message larger than max"), "{above:?}");
        let largest = vec![7; (1536 << 10) - 1024];
        client.put("large", largest.clone()).await.expect("below the limit");
        assert_eq!(client.get("large").await.expect("get").expect("key").value, largest);

        let no_key = (Code::InvalidArgument, "etcdserver: key is not provided".to_string());
        assert_eq!(client.put("", "x").await.map_err(error), Err(no_key.clone()));
        assert_eq!(client.get("").await.map_err(error), Err(no_key.clone()));
        assert_eq!(client.delete("").await.map_err(error), Err(no_key.clone()));
        let txn = TxnRequest { failure: vec![put_op("", "x")], ..Default::default() };
        assert_eq!(client.kv.clone().txn(txn).await.map(drop).map_err(error), Err(no_key));
        let everything = RangeRequest { key: vec![0].into(), limit: i64::MIN, ..Default::default() };
        client.range(everything).await.expect("a negative limit is none");
        assert_serves(&client, "wrong messages").await;
    })
    .await;
}

/// A member that cannot open its own files any more has to stop.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_use_up_the_file_descriptors() {
    bounded(LIMIT, async {
        let prefix = ["prlimit", "--nofile=256:256"].map(str::to_owned).into();
        let host = Host { prefix, ..Host::loopback() };
        let ours = binary::ours();
        let cluster =
            Cluster::builder(&ours, 1).hosts(vec![host]).args(["--snapshot-count=20"]).start().await;
        let address = cluster.members[0].client_address().to_owned();
        let before = cluster.client(0);
        assert_serves(&before, "nothing").await;
        let mut idle = Vec::new();
        for _ in 0..400 {
            idle.extend(TcpStream::connect(&address).await);
        }
        // Each state that is saved means new files.
        for number in 0..200 {
            before.put(format!("k{number}"), vec![7; 4096]).await.expect("a member that serves");
        }
        assert_serves(&before, "idle connections").await;
        drop(idle);
        integration::eventually("new connections", START_LIMIT, || async {
            cluster.client(0).get("k1").await.map_err(|status| status.to_string())
        })
        .await;
    })
    .await;
}

/// Puts over few keys until there is no space, as a user meets it; then what an operator does about it.
#[tokio::test(flavor = "multi_thread")]
async fn space_comes_back_by_compaction_and_defragmentation() {
    bounded(LIMIT, async {
        let quota = ["--quota-backend-bytes=40000000"];
        let cluster = Cluster::builder(&binary::ours(), 1).args(quota).start().await;
        let client = cluster.client(0);
        let mut random = StdRng::seed_from_u64(1);
        let mut value = vec![0; 1 << 20];
        let full = loop {
            random.fill_bytes(&mut value);
            if let Err(status) = client.put("large", value.clone()).await {
                break status;
            }
        };
        assert_eq!(full.message(), "etcdserver: mvcc: database space exceeded");
        let revision = client.revision().await.expect("a read");
        client.compact(revision).await.expect("a compaction");
        client.defragment().await.expect("a defragmentation");
        let status = client.status().await.expect("the status");
        assert!(status.db_size < 10_000_000 && status.db_size_in_use < 10_000_000, "{status:?}");
        client.disarm().await.expect("no alarm any more");
        assert_serves(&client, "defragmentation").await;
        client.put("large", value.clone()).await.expect("there is space");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_of_other_clusters_are_refused() {
    bounded(LIMIT, async {
        let cluster = Cluster::start(&binary::ours(), 1).await;
        let member = &cluster.members[0];
        let client = cluster.client(0);
        let header = client.status().await.expect("status").header.expect("header");
        let own = format!("{:x}", header.cluster_id);
        let peer = |cluster_id: &str, server: &str, minimum: &str| {
            [
                ("X-Etcd-Cluster-ID", cluster_id.to_string()),
                ("X-Server-From", "abc".to_string()),
                ("X-Server-Version", server.to_string()),
                ("X-Min-Cluster-Version", minimum.to_string()),
                ("Content-Type", "application/protobuf".to_string()),
            ]
        };
        let send = async |method: &str, path: &str, headers: &[(&str, String)], body: &[u8]| {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = http::request(member.peer_address(), method, path, &headers, body).await;
            let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
            if answer.body.contains("cluster ID mismatch") {
                let named = answer.headers.to_lowercase().contains(&format!("x-etcd-cluster-id: {own}"));
                assert!(named, "{method} {path}: own cluster not named: {answer:?}");
            }
            (answer.status, answer.body.trim_end().to_string())
        };
        let good = peer(&own, "3.5.1", "3.0.0");
        let stranger = peer("deadbeef", "3.5.1", "3.0.0");
        let mismatch = (412, "cluster ID mismatch".to_string());
        let incompatible = (412, "incompatible version".to_string());
        let stream = "/raft/stream/message/abc";
        assert_eq!(send("POST", "/raft", &stranger, b"").await, mismatch);
        assert_eq!(send("POST", "/raft/snapshot", &stranger, b"").await, mismatch);
        assert_eq!(send("GET", stream, &stranger, b"").await, mismatch);
        assert_eq!(send("GET", "/raft/stream/msgapp/abc", &stranger, b"").await, mismatch);
        assert_eq!(send("POST", "/raft", &peer(&own, "2.0.0", "2.0.0"), b"").await, incompatible);
        assert_eq!(send("POST", "/raft", &peer(&own, "99.0.0", "99.0.0"), b"").await, incompatible);
        for path in ["/raft", "/raft/snapshot"] {
            assert_eq!(send("GET", path, &good, b"").await.0, 405, "{path}");
            // Not a message, a message cut short, a length of 2^64 - 1.
            for body in [&[0xff; 64][..], &[0x0a, 0x7f, 1], &[0xff; 8], b""] {
                let (status, text) = send("POST", path, &good, body).await;
                assert!(status == 204 || (400..500).contains(&status), "{path} {body:x?}: {status} {text}");
            }
        }
        assert_eq!(send("POST", stream, &good, b"").await.0, 405);
        // Not a member: no stream for it.
        assert_eq!(send("GET", stream, &good, b"").await.0, 404);
        assert_eq!(send("GET", "/raft/stream/nothing/abc", &good, b"").await.0, 404);
        assert_eq!(send("GET", "/raft/stream/message/not-hex", &good, b"").await.0, 404);
        assert_eq!(send("GET", "/nothing", &good, b"").await.0, 404);
        assert_serves(&client, "strange peers").await;
        assert_eq!(client.status().await.expect("status").raft_term, header.raft_term);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_directories_are_not_mixed_up() {
    bounded(LIMIT, async {
        let server = binary::ours();
        let mut cluster = Cluster::start(&server, 3).await;
        cluster.client(0).put("key", "value").await.expect("put");

        // A second process on the directory of a running one must not serve from it.
        let mut second = twin(&server, &cluster.members[0], cluster.path());
        second.spawn();
        // It may exit or wait, but not answer.
        let asked = Client::with_limit(&second.client_url, ANSWER_LIMIT);
        let first = cluster.client(0);
        let writes = async {
            for _ in 0..100 {
                assert_serves(&first, "a second process").await;
            }
        };
        let (answer, ()) = tokio::join!(asked.get("key"), writes);
        assert!(answer.is_err(), "two processes serve one data directory: {answer:?}");
        second.kill();

        // A member on the directory of another cluster must not disturb, nor be taken for one of this.
        let mut other = Cluster::start(&server, 1).await;
        other.client(0).put("key", "foreign").await.expect("put");
        other.members[0].stop().await;
        let ours = cluster.client(0).status().await.expect("status").header.expect("header").cluster_id;
        cluster.members[2].stop().await;
        let own = cluster.path().join("own");
        fs::rename(&cluster.members[2].data_dir, &own).expect("rename");
        copy_dir(&other.members[0].data_dir, &cluster.members[2].data_dir).expect("copy");
        cluster.members[2].spawn();
        let foreign = Client::with_limit(&cluster.members[2].client_url, ANSWER_LIMIT);
        let mut asked = 0;
        while cluster.members[2].is_running() && asked < 50 {
            if let Ok(status) = foreign.status().await {
                assert_ne!(status.header.expect("header").cluster_id, ours);
            }
            assert_serves(&cluster.client(0), "a foreign member").await;
            asked += 1;
        }
        assert_eq!(cluster.client(1).get("key").await.expect("get").expect("key").value, "value");

        // With its own directory back it belongs again.
        cluster.members[2].kill();
        fs::remove_dir_all(&cluster.members[2].data_dir).expect("remove");
        fs::rename(&own, &cluster.members[2].data_dir).expect("rename");
        cluster.start_all().await;
        assert_eq!(cluster.client(2).get("key").await.expect("get").expect("key").value, "value");
        cluster.assert_equal_hashes().await;
    })
    .await;
}

/// A member like another and on its data directory, but on ports of its own.
fn twin(server: &binary::Binary, like: &Member, dir: &std::path::Path) -> Member {
    let host = Host::loopback();
    let address = || SocketAddr::new(host.address, free_port(&host)).to_string();
    let (client, peer) = (format!("http://{}", address()), format!("http://{}", address()));
    let rename = |arg: &String| match arg.split_once('=') {
        Some(("--listen-client-urls", _)) => format!("--listen-client-urls={client}"),
        Some(("--listen-peer-urls", _)) => format!("--listen-peer-urls={peer}"),
        _ => arg.clone(),
    };
    let args = like.args.iter().map(rename).collect();
    let mut twin = Member::new(server, &host, dir, "twin", client.clone(), peer.clone(), args);
    twin.data_dir.clone_from(&like.data_dir);
    twin
}

/// The log segments of a member, in order.
fn segments(member: &Member) -> Vec<PathBuf> {
    let entries = fs::read_dir(member.data_dir.join("member/wal")).expect("the log's directory");
    let paths = entries.map(|entry| entry.expect("entry").path());
    let mut segments: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "wal")).collect();
    segments.sort();
    segments
}

/// Start and length of each record's data: a little-endian length (56 bits, the top byte tells the padding)
/// before each, a length of zero after the last.
fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(field) = bytes.get(at..at + 8) {
        let field = u64::from_le_bytes(field.try_into().expect("8 bytes"));
        if field == 0 {
            break;
        }
        let length = usize::try_from(field & 0x00ff_ffff_ffff_ffff).expect("fits");
        let padding = if field >> 63 == 1 { usize::try_from(field >> 56 & 7).expect("small") } else { 0 };
        records.push((at + 8, length));
        at += 8 + length + padding;
    }
    records
}

async fn stopped_with_data(server: &binary::Binary) -> Cluster {
    let mut cluster = Cluster::start(server, 1).await;
    let client = cluster.client(0);
    for n in 0..50 {
        client.put(format!("key/{n:02}"), vec![b'v'; 700]).await.expect("put");
    }
    cluster.kill_all();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_damaged_in_the_middle_refuses_to_start() {
    bounded(LIMIT, async {
        let mut cluster = stopped_with_data(&binary::ours()).await;
        let member = &mut cluster.members[0];
        let segment = segments(member).pop().expect("a segment");
        let good = fs::read(&segment).expect("read the log");
        let records = records(&good);
        assert!(records.len() > 50, "{records:?}");
        let (at, length) = records[records.len() / 2];
        let mut bad = good.clone();
        bad[at + length / 2] ^= 0x10;
        fs::write(&segment, &bad).expect("write the log");

        let before = member.log_text().len();
        member.spawn();
        let status = member.exited().await;
        assert!(!status.success(), "started with a damaged log: {status}");
        let said = member.log_text().split_off(before).to_lowercase();
        assert!(said.contains("crc") || said.contains("checksum"), "no reason given:\n{said}");
        // Refusing must not have changed anything.
        assert!(fs::read(&segment).expect("read the log") == bad, "the damaged log was changed");

        fs::write(&segment, &good).expect("write the log");
        member.restart().await;
        assert_eq!(member.client().prefix("key/", false).await.expect("read").count, 50);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_torn_at_its_end_starts() {
    bounded(LIMIT * 2, async {
        let server = binary::ours();
        // What a crash in the middle of an append leaves: a record whose length is there and whose data is cut
        // off with the file, or is zeros from some sector on.
        for cut in [true, false] {
            let mut cluster = stopped_with_data(&server).await;
            let member = &mut cluster.members[0];
            let segment = segments(member).pop().expect("a segment");
            let mut log = fs::read(&segment).expect("read the log");
            let (at, length) = *records(&log).last().expect("records");
            let end = (at + length).next_multiple_of(8);
            let mut torn = 4000u64.to_le_bytes().to_vec();
            // Type, checksum, and data of 3992 bytes.
            torn.extend([0x08, 0x02, 0x10, 0x99, 0x01, 0x1a, 0x98, 0x1f]);
            torn.resize(700, 0xab);
            log.splice(end..end + torn.len(), torn.iter().copied());
            if cut {
                log.truncate(end + torn.len());
            }
            fs::write(&segment, &log).expect("write the log");

            member.restart().await;
            let client = member.client();
            assert_eq!(client.prefix("key/", false).await.expect("read").count, 50, "cut {cut}");
            assert_serves(&client, "a torn log").await;
            member.kill();
            member.restart().await;
            assert_eq!(member.client().get("serves").await.expect("get").expect("key").value, "a torn log");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_flags_are_refused() {
    bounded(START_LIMIT * 4, async {
        let server = binary::ours();
        let refused: [(&[&str], &str); 4] = [
            (&["--no-such-flag"], "no-such-flag"),
            (&["positional"], "positional"),
            (&["--listen-client-urls=http://127.0.0.1:0"], "advertise-client-urls"),
            (&["--election-timeout=100", "--heartbeat-interval=100"], "election"),
        ];
        for (args, named) in refused {
            let dir = tempfile::tempdir().expect("temporary directory");
            let command = std::process::Command::new(&server.path)
                .args(args)
                .arg("--data-dir")
                .arg(dir.path().join("data"))
                .output();
            let output = command.expect("run");
            let text = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            assert!(output.status.code().is_some_and(|code| code != 0), "{args:?}: {}", output.status);
            assert!(text.contains(named), "{args:?} not explained: {text}");
        }
    })
    .await;
}
