//! Interoperation with a real etcd: a stock member of a cluster of two, whose other member is this transport
//! and a voter that grants and acknowledges everything. The stock member can become leader and commit only if
//! messages pass both ways. Skipped where no `etcd` is found in `ETCD_PEER_DIR` or on the PATH.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::support::{Event, Member, eventually, patiently, streams_attached};
use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb::{InternalRaftRequest, PutRequest};
use proto::raftpb::{Entry, Message, MessageType};
use sha1::{Digest, Sha1};
use store::peer::client::Client;
use store::peer::net::Plain;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

const TOKEN: &str = "etcd-cluster";

fn etcd() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs =
        std::env::var_os("ETCD_PEER_DIR").map(PathBuf::from).into_iter().chain(std::env::split_paths(&path));
    dirs.map(|dir| dir.join("etcd")).find(|etcd| etcd.is_file())
}

fn first_eight(hash: &[u8]) -> u64 {
    u64::from_be_bytes(*hash.first_chunk().unwrap())
}

fn member_id(url: &str) -> u64 {
    first_eight(&Sha1::digest(format!("{url}{TOKEN}")))
}

fn cluster_id(mut members: [u64; 2]) -> u64 {
    members.sort_unstable();
    first_eight(&Sha1::digest(members.map(u64::to_be_bytes).concat()))
}

/// A follower without a log: enough for the leader to see a quorum.
fn answer(message: &Message) -> Option<Message> {
    let kind = match message.r#type() {
        MessageType::MsgPreVote => MessageType::MsgPreVoteResp,
        MessageType::MsgVote => MessageType::MsgVoteResp,
        MessageType::MsgApp => MessageType::MsgAppResp,
        MessageType::MsgHeartbeat => MessageType::MsgHeartbeatResp,
        _ => return None,
    };
    let index = match kind {
        MessageType::MsgAppResp => message.index + message.entries.len() as u64,
        _ => 0,
    };
    Some(Message {
        r#type: kind as i32,
        to: message.from,
        from: message.to,
        term: message.term,
        index,
        context: message.context.clone(),
        ..Message::default()
    })
}

async fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

struct Stock {
    process: Child,
    id: u64,
    peer_url: String,
    client_url: String,
    data: tempfile::TempDir,
}

async fn start(etcd: &Path, peer_address: String, our_url: &str) -> Stock {
    let data = tempfile::tempdir().unwrap();
    let peer_url = format!("http://{peer_address}");
    let client_url = format!("http://{}", free_address().await);
    let log = std::fs::File::create(data.path().join("log")).unwrap();
    let process = Command::new(etcd)
        .args(["--name", "a", "--initial-cluster-token", TOKEN])
        .arg("--data-dir")
        .arg(data.path().join("a"))
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--snapshot-count", "100", "--logger", "zap"])
        .args(["--initial-cluster", &format!("a={peer_url},b={our_url}")])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    Stock { process, id: member_id(&peer_url), peer_url, client_url, data }
}

/// Our member and a stock one, which know each other; `None` without an etcd.
async fn pair() -> Option<(Member, Stock)> {
    let Some(etcd) = etcd() else {
        let skipped = "skipped: no etcd in ETCD_PEER_DIR or PATH (Debian's package etcd-server has one)";
        assert!(std::env::var_os("KEELSON_REQUIRE_PEER").is_none(), "{skipped}");
        println!("{skipped}");
        return None;
    };
    let our_address = free_address().await;
    let our_url = format!("http://{our_address}");
    let our_id = member_id(&our_url);
    let stock_address = free_address().await;
    let stock_id = member_id(&format!("http://{stock_address}"));
    let cluster = cluster_id([our_id, stock_id]);
    let us = Member::start_with(our_id, &our_address, |config| config.cluster_id = cluster).await;
    let stock = start(&etcd, stock_address, &our_url).await;
    us.transport.add_peer(stock.id, std::slice::from_ref(&stock.peer_url)).unwrap();
    Some((us, stock))
}

#[tokio::test]
async fn a_stock_member_is_elected_and_commits_through_this_transport() {
    let Some((mut us, mut stock)) = pair().await else { return };
    let (our_id, stock_id) = (us.id, stock.id);
    // Puts through the stock member; the value is big enough to span reads.
    let client = Client::new(Arc::new(Plain), Duration::from_secs(20), 1 << 20);
    let value = "x".repeat(400_000);
    // Keys and values are base64 there: these are.
    let put = Bytes::from(format!(r#"{{"key":"a2V5","value":"{value}"}}"#));
    let client_url = stock.client_url.clone();
    let puts = tokio::spawn(async move {
        let mut done = 0;
        while done < 5 {
            match client.post(&client_url, "/v3/kv/put", "application/json", put.clone()).await {
                Ok(answer) if answer.status() == 200 => done += 1,
                // Not listening, or without a leader yet.
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });

    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut last_index = 0;
    let mut puts = Some(puts);
    let run = async {
        while puts.as_ref().is_some_and(|puts| !puts.is_finished()) || !seen.contains_key("MsgHeartbeat") {
            let message = match us.events.recv().await.unwrap() {
                Event::Message(message) => message,
                Event::Removed => panic!("the stock member took us for removed"),
                _ => continue,
            };
            assert_eq!((message.to, message.from), (our_id, stock_id), "{message:?}");
            if message.r#type() == MessageType::MsgApp {
                for (offset, entry) in message.entries.iter().enumerate() {
                    assert_eq!(entry.index, message.index + 1 + offset as u64);
                }
                last_index = last_index.max(message.index + message.entries.len() as u64);
            }
            *seen.entry(message.r#type().as_str_name()).or_default() += 1;
            us.transport.send(answer(&message).into_iter().collect());
        }
        puts.take().unwrap().await.unwrap();
    };
    patiently(run).await;

    println!("received {seen:?}, last index {last_index}");
    assert!(seen.contains_key("MsgVote"), "{seen:?}");
    assert!(seen["MsgApp"] >= 5, "{seen:?}");
    // Two initial members, the leader's own entry, and the puts.
    assert!(last_index >= 8);
    assert!(us.transport.active_since(stock_id).is_some());
    let stats = us.transport.peer_stats().remove(0).1;
    assert!(stats.received_bytes.load(Relaxed) > 5 * 300_000);
    eventually(|| stats.round_trip.count() > 0).await;

    // The stock member says over which streams it talked, in both directions.
    let log = std::fs::read_to_string(stock.data.path().join("log")).unwrap();
    for direction in ["reader", "writer"] {
        for stream in ["stream MsgApp v2", "stream Message"] {
            let field = format!(r#""stream-{direction}-type":"{stream}""#);
            let established = |line: &str| line.contains("established") && line.contains(&field);
            assert!(
                log.lines().any(established),
                "no {direction} of {stream} in the stock member's log:\n{log}"
            );
        }
    }
    stock.process.kill().await.unwrap();
    us.stop().await;
}

/// As many entries as a stock member keeps behind its last snapshot, and some more.
const ENTRIES: u64 = 5500;
const OUR_TERM: u64 = 5;
/// A new cluster's log: one entry per initial member, at term 1.
const INITIAL_INDEX: u64 = 2;

/// A leader without a disk: what it appends is committed when the only follower has it.
struct Leader {
    us: u64,
    follower: u64,
    last: u64,
    commit: u64,
}

impl Leader {
    fn message(&self, kind: MessageType) -> Message {
        let term = OUR_TERM;
        Message {
            r#type: kind as i32,
            from: self.us,
            to: self.follower,
            term,
            commit: self.commit,
            ..Message::default()
        }
    }

    fn append(&mut self, data: Vec<Option<Bytes>>) -> Message {
        let index = self.last;
        let log_term = if index == INITIAL_INDEX { 1 } else { OUR_TERM };
        let entries = data.into_iter().zip(index + 1..).map(|(data, index)| Entry {
            r#type: 0,
            term: OUR_TERM,
            index,
            data,
        });
        let entries: Vec<_> = entries.collect();
        self.last += entries.len() as u64;
        Message { index, log_term, entries, ..self.message(MessageType::MsgApp) }
    }

    /// What the leader says to a message of its follower.
    fn step(&mut self, message: Message) -> Option<Message> {
        match message.r#type() {
            MessageType::MsgProp => {
                Some(self.append(message.entries.into_iter().map(|entry| entry.data).collect()))
            }
            MessageType::MsgAppResp if message.term == OUR_TERM => {
                assert!(!message.reject, "{message:?}");
                let news = message.index > self.commit;
                self.commit = self.commit.max(message.index);
                news.then(|| self.append(Vec::new()))
            }
            _ => None,
        }
    }
}

fn put(number: u64) -> Option<Bytes> {
    let key = Bytes::from(format!("key{number}"));
    let put = PutRequest { key, value: Bytes::from(vec![b'v'; 100]), ..PutRequest::default() };
    let request = InternalRaftRequest { id: number + 1, put: Some(put), ..InternalRaftRequest::default() };
    Some(request.encode_to_vec().into())
}

#[tokio::test]
async fn a_stock_member_follows_then_leads_and_sends_its_snapshot() {
    let Some((mut us, mut stock)) = pair().await else { return };
    streams_attached(&us, stock.id).await;
    let mut leader = Leader { us: us.id, follower: stock.id, last: INITIAL_INDEX, commit: INITIAL_INDEX };
    us.transport.send(vec![leader.append(vec![None])]);
    for batch in 0..ENTRIES / 100 {
        us.transport.send(vec![leader.append((0..100).map(|n| put(batch * 100 + n)).collect())]);
    }
    // Its own proposals come to us, and back: it serves clients once it has published its name this way.
    let client = Client::new(Arc::new(Plain), Duration::from_secs(20), 1 << 20);
    let range =
        Bytes::from_static(br#"{"key":"AA==","range_end":"AA==","serializable":true,"count_only":true}"#);
    let count = async {
        loop {
            let answer =
                client.post(&stock.client_url, "/v3/kv/range", "application/json", range.clone()).await;
            match answer {
                Ok(answer) if answer.body().ends_with(format!("\"count\":\"{ENTRIES}\"}}").as_bytes()) => {
                    return;
                }
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let mut heartbeats = tokio::time::interval(Duration::from_millis(100));
    let lead = async {
        loop {
            let reply = tokio::select! {
                _ = heartbeats.tick() => Some(leader.message(MessageType::MsgHeartbeat)),
                event = us.events.recv() => match event.unwrap() {
                    Event::Message(message) => leader.step(message),
                    _ => None,
                },
            };
            us.transport.send(reply.into_iter().collect());
        }
    };
    patiently(async {
        tokio::select! {
            () = count => {}
            () = lead => {}
        }
    })
    .await;

    // Hand over, and be a follower that has lost its log: the stock member cannot send what it has compacted.
    us.transport.send(vec![leader.message(MessageType::MsgTimeoutNow)]);
    let transport = us.transport.clone();
    let (message, database) = us
        .wait_for(|event| match event {
            Event::Message(message) => {
                let mut answer = answer(&message);
                if let Some(answer) =
                    answer.as_mut().filter(|answer| answer.r#type() == MessageType::MsgAppResp)
                {
                    (answer.reject, answer.index) = (true, message.index);
                }
                transport.send(answer.into_iter().collect());
                None
            }
            Event::SnapshotReceived(message, database) => Some((message, database.unwrap())),
            _ => None,
        })
        .await;
    assert_eq!((message.from, message.to), (stock.id, us.id));
    assert!(message.snapshot.metadata.index > ENTRIES, "{:?}", message.snapshot.metadata);
    let mut voters = message.snapshot.metadata.conf_state.voters.clone();
    voters.sort_unstable();
    assert!(voters.contains(&us.id) && voters.contains(&stock.id));
    // bbolt's magic number, in the first page.
    assert_eq!(database[16..20], 0xed0c_daed_u32.to_le_bytes());
    assert_eq!(database.len() % 4096, 0);
    stock.process.kill().await.unwrap();
    us.stop().await;
}
