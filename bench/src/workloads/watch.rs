//! Watch fan-out: 200 watchers of one prefix on 8 streams over 4 connections, while a few writers put below it.
//! An operation is one event that reached one watcher; its latency runs from the put's start, which the value
//! carries. Writers wait while too many events are under way, so that the servers are measured at delivering,
//! not at queueing. The window ends when the last event has arrived, so its CPU covers exactly its events.

use super::{Target, Width};
use crate::client::{CallError, Client, Duplex, Method};
use crate::figure::Sample;
use crate::keys::{self, Random, Values};
use crate::load::{Load, Recorder, Step};
use crate::usage::Probe;
use crate::wire;
use bytes::{BufMut, Bytes, BytesMut};
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const CONNECTIONS: usize = 4;
const STREAMS: usize = 8;
const WATCHERS_PER_STREAM: usize = 25;
const WATCHERS: u64 = (STREAMS * WATCHERS_PER_STREAM) as u64;
/// Puts whose events may be under way at once.
const BACKLOG_PUTS: u64 = 32;
const KEYS: u64 = 1_000;
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Fields of `WatchResponse`, `Event` and `KeyValue`.
const CREATED: u32 = 3;
const CANCELED: u32 = 4;
const EVENTS: u32 = 11;
const KV: u32 = 2;
const VALUE: u32 = 5;

/// Puts begun and events received, since the watchers were created.
struct Progress {
    epoch: Instant,
    recorder: Recorder,
    puts: Cell<u64>,
    events: Cell<u64>,
    changed: Notify,
}

impl Progress {
    fn backlog(&self) -> u64 {
        (self.puts.get() * WATCHERS).saturating_sub(self.events.get())
    }

    async fn backlog_below(&self, limit: u64) {
        while self.backlog() >= limit {
            self.changed.notified().await;
        }
    }
}

pub async fn fan_out(target: &Target, width: &Width) -> Result<Sample, String> {
    let progress = Rc::new(Progress {
        epoch: Instant::now(),
        recorder: Recorder::default(),
        puts: Cell::new(0),
        events: Cell::new(0),
        changed: Notify::new(),
    });
    let clients = target.connect(width.connections.unwrap_or(CONNECTIONS)).await?;
    let mut watchers = JoinSet::new();
    for number in 0..STREAMS {
        let mut client = clients[number % clients.len()].clone();
        let stream = watch(&mut client).await.map_err(|e| e.to_string())?;
        watchers.spawn_local(receive(stream, progress.clone()));
    }

    let writers = target.connect(1).await?;
    load(&writers, width, &progress, width.warm_up()).await?;
    let measured =
        progress.recorder.window(&target.probe, load(&writers, width, &progress, width.window)).await;
    // A watcher that failed says more than the missing events that follow from it.
    if let Some(ended) = watchers.try_join_next() {
        return Err(match ended {
            Ok(error) => format!("a watch stream failed: {error}"),
            Err(error) => format!("a watcher failed: {error}"),
        });
    }
    let (measured, written) = measured?;
    written?;
    Sample::of(&measured.check()?, &target.probe).map_err(|e| e.to_string())
}

/// Puts for `duration`, then waits until every event has arrived.
async fn load(
    writers: &[Client],
    width: &Width,
    progress: &Rc<Progress>,
    duration: Duration,
) -> Result<(), String> {
    let puts = Load::start(writers, width.in_flight, |number| {
        let (progress, mut random, mut values) =
            (progress.clone(), Random::new(number as u64), Values::new());
        async move |client: &mut Client| {
            progress.backlog_below(BACKLOG_PUTS * WATCHERS).await;
            let key = keys::key(random.below(KEYS));
            progress.puts.set(progress.puts.get() + 1);
            let value = stamped(progress.epoch.elapsed(), &values.next());
            let put = super::fill::put(key, value);
            client.call_discarding(Method::Put, wire::frame(&put)).await.map(|_| Step::Continue)
        }
    });
    let (measured, ()) = puts.window(&Probe::default(), tokio::time::sleep(duration)).await?;
    puts.stop().await?;
    measured.check_complete()?;
    tokio::time::timeout(DRAIN_LIMIT, progress.backlog_below(1))
        .await
        .map_err(|_| format!("{} events never arrived", progress.backlog()))
}

async fn watch(client: &mut Client) -> Result<Duplex, CallError> {
    let mut stream = client.open(Method::Watch).await?;
    for _ in 0..WATCHERS_PER_STREAM {
        let create = WatchCreateRequest {
            key: keys::PREFIX.into(),
            range_end: keys::prefix_end(),
            ..Default::default()
        };
        stream
            .send(wire::frame(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }))?;
    }
    for _ in 0..WATCHERS_PER_STREAM {
        let answer = stream.receive().await?.unwrap_or_default();
        if wire::varint_field(&answer, CREATED) == 0 || wire::varint_field(&answer, CANCELED) != 0 {
            return Err(CallError::Unexpected("a watcher was not created".to_owned()));
        }
    }
    Ok(stream)
}

/// Counts events until the stream fails; answers why.
async fn receive(mut stream: Duplex, progress: Rc<Progress>) -> CallError {
    loop {
        let answer = match stream.receive().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return CallError::Unexpected("the watch stream ended".to_owned()),
            Err(error) => return error,
        };
        for (number, value) in wire::fields(&answer) {
            match value {
                wire::Value::Bytes(event) if number == EVENTS => {
                    progress.recorder.completed(progress.epoch + stamp_of(event));
                    progress.events.set(progress.events.get() + 1);
                }
                wire::Value::Varint(1) if number == CANCELED => {
                    return CallError::Unexpected("a watcher was cancelled".to_owned());
                }
                _ => {}
            }
        }
        progress.changed.notify_waiters();
    }
}

/// A value whose first 8 bytes say when its put began.
fn stamped(since_epoch: Duration, value: &[u8]) -> Bytes {
    let mut stamped = BytesMut::with_capacity(value.len());
    stamped.put_u64(since_epoch.as_nanos() as u64);
    stamped.extend_from_slice(&value[8..]);
    stamped.freeze()
}

fn stamp_of(event: &[u8]) -> Duration {
    wire::bytes_field(event, KV)
        .and_then(|kv| wire::bytes_field(kv, VALUE))
        .and_then(|value| value.first_chunk::<8>())
        .map_or(Duration::ZERO, |stamp| Duration::from_nanos(u64::from_be_bytes(*stamp)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::mvccpb::{Event, KeyValue};

    #[test]
    fn an_event_carries_when_its_put_began() {
        let since = Duration::from_micros(123_456);
        let value = stamped(since, &Values::new().next());
        assert_eq!(value.len(), keys::VALUE_BYTES);
        let kv = KeyValue { key: keys::key(1), value, mod_revision: 9, ..Default::default() };
        let event = Event { kv: Some(kv), ..Default::default() };
        assert_eq!(stamp_of(&event.encode_to_vec()), since);
    }
}
