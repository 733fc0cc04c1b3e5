//! What watches deliver, on both sides: live during the run, replayed from several revisions after it, and
//! the answers to watches that are refused.
//! Responses may group events differently, so sequences are compared; that a revision is never split over two
//! responses is checked on each side.

use std::time::Duration;

use bytes::Bytes;
use integration::client::{Client, WatchStream, prefix_end, put_op};
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    CompactionRequest, TxnRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest,
    WatchResponse,
};
use proto::mvccpb::{Event, event::EventType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tonic::Status;

/// Written last; the generator does not know it.
const END: &[u8] = b"\xff\xff\xffend";
const WATCHES: usize = 32;
/// Writes between creating the watches and closing them, so that some may start in the future.
const FUTURE: i64 = 10;

/// Longest wait for the next event of a replay.
const REPLAY_LIMIT: Duration = Duration::from_secs(20);

type Live = JoinHandle<Vec<Event>>;

fn everything(start_revision: i64, prev_kv: bool) -> WatchCreateRequest {
    let all = Bytes::from_static(b"\0");
    WatchCreateRequest { key: all.clone(), range_end: all, start_revision, prev_kv, ..Default::default() }
}

fn position(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn is_delete(event: &Event) -> bool {
    event.r#type() == EventType::Delete
}

/// The events of one watch, in order, with the check that responses do not split revisions.
struct Events {
    stream: WatchStream,
    last: i64,
    fragmented: bool,
}

impl Events {
    async fn open(client: &Client, request: WatchCreateRequest) -> Result<Events, Status> {
        let mut stream = client.open_watch(request).await?;
        let created = stream.next().await?;
        assert!(
            created.created && !created.canceled && created.events.is_empty(),
            "not created: {created:?}"
        );
        Ok(Events { stream, last: 0, fragmented: false })
    }

    async fn next(&mut self) -> Result<Vec<Event>, Status> {
        let answer = self.stream.wait().await?;
        assert!(!answer.canceled && !answer.created, "watch ended: {answer:?}");
        if let Some(first) = answer.events.first() {
            assert!(position(first) > self.last || self.fragmented, "revision {} split", self.last);
        }
        for event in &answer.events {
            assert!(position(event) >= self.last, "revision {} after {}", position(event), self.last);
            self.last = position(event);
        }
        self.fragmented = answer.fragment;
        Ok(answer.events)
    }

    /// Events up to the first one `is_last` accepts.
    async fn until(mut self, is_last: impl Fn(&Event) -> bool) -> Result<Vec<Event>, Status> {
        let mut events = Vec::new();
        loop {
            let batch = tokio::time::timeout(REPLAY_LIMIT, self.next()).await;
            for event in batch.map_err(|_| Status::deadline_exceeded(format!("after {events:#?}")))?? {
                let done = is_last(&event);
                events.push(event);
                if done {
                    return Ok(events);
                }
            }
        }
    }
}

/// Follows all changes from now on until `END` is written.
pub async fn follow(client: Client) -> Live {
    let mut events = Events::open(&client, everything(0, false)).await.expect("live watch");
    tokio::spawn(async move {
        let mut all = Vec::new();
        loop {
            all.extend(events.next().await.expect("live watch"));
            if all.last().and_then(|event| event.kv.as_ref()).is_some_and(|kv| kv.key == END) {
                return all;
            }
        }
    })
}

/// Random watches: ranges, starts from the compacted revision to the future, filters, prev_kv, fragments.
fn watches(rng: &mut StdRng, compacted: i64, current: i64) -> Vec<WatchCreateRequest> {
    let oldest = compacted.max(1);
    let mut list = vec![everything(oldest, true), everything(oldest, false)];
    while list.len() < WATCHES {
        let (key, range_end): (Bytes, Bytes) = match rng.random_range(0..6) {
            0 => (Bytes::from_static(b"a"), Bytes::new()),
            1 => (Bytes::from_static(b"a/"), prefix_end(b"a/").into()),
            2 => (Bytes::from_static(b"a/b/"), prefix_end(b"a/b/").into()),
            3 => (Bytes::from_static(b"c"), Bytes::from_static(b"\0")),
            4 => (Bytes::from_static(b"\xff"), prefix_end(b"\xff").into()),
            _ => (Bytes::new(), Bytes::from_static(b"b")),
        };
        let filters = match rng.random_range(0..4) {
            0 => vec![FilterType::Noput as i32],
            1 => vec![FilterType::Nodelete as i32],
            _ => Vec::new(),
        };
        list.push(WatchCreateRequest {
            key,
            range_end,
            start_revision: match rng.random_range(0..8) {
                0 => 0,
                1 => oldest,
                2 => current + rng.random_range(1..FUTURE),
                _ => rng.random_range(oldest..=current),
            },
            filters,
            prev_kv: rng.random(),
            fragment: rng.random(),
            ..Default::default()
        });
    }
    list
}

/// Compares live and replayed histories. Ends each watch with a put and a delete of its first key.
pub async fn compare(seed: u64, compacted: i64, clients: (&Client, &Client), live: (Live, Live)) {
    let current = clients.0.revision().await.expect("revision");
    let watches = watches(&mut StdRng::seed_from_u64(seed), compacted, current);
    let both = [clients.0, clients.1];
    let mut opened = [Vec::new(), Vec::new()];
    for (client, opened) in both.into_iter().zip(&mut opened) {
        for watch in &watches {
            opened.push(Events::open(client, watch.clone()).await.expect("watch"));
        }
    }
    for client in both {
        for n in 0..FUTURE {
            client.put("a/future", n.to_string()).await.expect("put");
        }
    }
    let mut ends = Vec::new();
    for watch in &watches {
        let key = if watch.key.is_empty() { Bytes::from_static(b"\0") } else { watch.key.clone() };
        let mut revisions = Vec::new();
        for client in both {
            let put = client.put(key.clone(), "end").await.expect("put");
            let delete = client.delete(key.clone()).await.expect("delete");
            let no_delete = watch.filters.contains(&(FilterType::Nodelete as i32));
            revisions.push(if no_delete { put } else { delete });
        }
        assert_eq!(revisions[0], revisions[1]);
        ends.push(revisions[0]);
    }
    for client in both {
        client.put(END, "").await.expect("put");
    }
    let [stock, ours] = opened;
    let mut replays = Vec::new();
    for (((watch, &end), stock), ours) in watches.iter().zip(&ends).zip(stock).zip(ours) {
        let last = |event: &Event| position(event) >= end;
        let (stock, ours) = tokio::join!(stock.until(last), ours.until(last));
        let stock = stock.unwrap_or_else(|status| panic!("seed {seed}: stock: {status} for {watch:?}"));
        let ours = ours.unwrap_or_else(|status| panic!("seed {seed}: ours: {status} for {watch:?}"));
        // Releases differ in whether compaction keeps a deletion at exactly its revision.
        let lasting = |event: &Event| !(is_delete(event) && position(event) == compacted);
        let [stock, ours] =
            [stock, ours].map(|events| events.into_iter().filter(lasting).collect::<Vec<_>>());
        assert_equal(seed, &format!("{watch:?}"), &stock, &ours);
        replays.push(ours);
    }
    let (stock, ours) = (live.0.await.expect("live watch"), live.1.await.expect("live watch"));
    assert_equal(seed, "live watch", &stock, &ours);
    // What was seen live is what is replayed (the second watch is the whole history without prev_kv).
    let end = ends[1];
    let kept = |event: &&Event| {
        position(event) >= compacted.max(1)
            && position(event) <= end
            && !(is_delete(event) && position(event) == compacted)
    };
    let live: Vec<Event> = ours.iter().filter(kept).cloned().collect();
    assert_equal(seed, "live (as stock) and replay (as ours)", &live, &replays[1]);
}

fn assert_equal(seed: u64, what: &str, stock: &[Event], ours: &[Event]) {
    if let Some(n) = stock.iter().zip(ours).position(|(stock, ours)| stock != ours) {
        panic!("seed {seed}: {what}: event {n} differs\nstock: {:#?}\nours:  {:#?}", stock[n], ours[n]);
    }
    assert_eq!(stock.len(), ours.len(), "seed {seed}: {what}: number of events, stock left, ours right");
}

/// Replays more than one response may hold with `fragment`; gives all events, put together again.
pub async fn fragments(client: &Client) -> Vec<Event> {
    // Below the request limit each, and with the previous values above the response limit.
    for batch in 0..8 {
        let success = (0..14).map(|n| put_op(format!("big/{n:02}"), vec![n + batch; 100 << 10])).collect();
        client.kv.clone().txn(TxnRequest { success, ..Default::default() }).await.expect("txn");
    }
    let last = client.put("big/end", "").await.expect("put");
    let request = WatchCreateRequest { fragment: true, ..everything(1, true) };
    let mut stream = client.open_watch(request).await.expect("watch");
    assert!(stream.next().await.expect("created").created);
    let (mut events, mut fragments): (Vec<Event>, u32) = (Vec::new(), 0);
    loop {
        let answer = stream.next().await.expect("events");
        let size: usize = answer
            .events
            .iter()
            .flat_map(|event| [&event.kv, &event.prev_kv])
            .flatten()
            .map(|kv| kv.value.len())
            .sum();
        assert!(size <= 2 << 20, "a fragment of {size} bytes");
        fragments += u32::from(answer.fragment);
        events.extend(answer.events);
        let done = events.last().is_some_and(|event| position(event) >= last);
        if done {
            assert!(!answer.fragment, "the last part says that more follows");
            assert!(fragments > 0, "nothing was split");
            return events;
        }
    }
}

/// Creates watches that are refused, on one stream with one that lives, and cancels; gives every answer.
pub async fn refusals(client: &Client) -> Vec<WatchResponse> {
    for n in 0..20 {
        client.put("key", n.to_string()).await.expect("put");
    }
    client.kv.clone().compact(CompactionRequest { revision: 10, physical: true }).await.expect("compact");
    let watch = |key: &'static [u8], range_end: &'static [u8], watch_id, start_revision| WatchCreateRequest {
        key: Bytes::from_static(key),
        range_end: Bytes::from_static(range_end),
        watch_id,
        start_revision,
        ..Default::default()
    };
    // Each request with the number of answers it gets.
    let requests = [
        // Compacted start: created, then canceled with the compacted revision.
        (RequestUnion::CreateRequest(watch(b"key", b"", 9, 3)), 2),
        (RequestUnion::CreateRequest(watch(b"key", b"", 11, 9)), 2),
        // The compacted revision itself is legal, and is replayed.
        (RequestUnion::CreateRequest(watch(b"key", b"", 10, 10)), 2),
        (RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 10 }), 1),
        // The id of a living watch, and an empty range.
        (RequestUnion::CreateRequest(watch(b"key", b"", 7, 0)), 1),
        (RequestUnion::CreateRequest(watch(b"key", b"", 7, 0)), 1),
        (RequestUnion::CreateRequest(watch(b"key", b"key", 0, 0)), 1),
        (RequestUnion::CreateRequest(watch(b"key", b"a", 0, 0)), 1),
        (RequestUnion::CreateRequest(watch(b"", b"\0", 0, 0)), 1),
        (RequestUnion::CreateRequest(watch(b"key", b"\0", 0, 0)), 1),
        // Unknown ids get no answer, so the next answer is the progress report.
        (RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 999 }), 0),
        (RequestUnion::ProgressRequest(WatchProgressRequest {}), 1),
        (RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 7 }), 1),
        // Free again.
        (RequestUnion::CreateRequest(watch(b"key", b"", 7, 0)), 1),
    ];
    let mut stream = client.open_watch(watch(b"first", b"", 0, 0)).await.expect("watch");
    let mut answers = vec![stream.next().await.expect("first watch")];
    for (request, count) in requests {
        stream.send(request.clone()).await.expect("request");
        for n in 0..count {
            let answer = stream.next().await;
            answers.push(answer.unwrap_or_else(|status| panic!("answer {n} to {request:?}: {status}")));
        }
    }
    for answer in &mut answers {
        if let Some(header) = &mut answer.header {
            header.raft_term = 0;
        }
    }
    answers
}
