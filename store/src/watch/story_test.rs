//! Stories of the hub: `testdata/*.txt`. Commands:
//! `hub NAME=N...` starts over; `open S`, `close S`, `create S KEY [END] [start=N] [id=N] [prev] [progress]
//! [fragment] [noput] [nodelete]` (`\0` for the zero byte, `-` for an empty key), `refuse S REASON [start=N]`, `cancel
//! S ID`,
//! `progress S`, `empty S`; `put KEY VALUE...` one revision, `txn OP...` one revision of `KEY=VALUE` and
//! `KEY` (delete) operations, `batch OP...` one block with a revision per operation; `noprev OP...` a batch
//! without previous values; `read S [BYTES]`; `loads`; `answer TICKET`; `history N`; `compact N`;
//! `restore OP...`; `term N`; `tick MS`; `stats`.

use std::collections::BTreeMap;

use proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use proto::mvccpb::KeyValue;

use super::hub_test::{Op, World};
use super::{Config, LoadRequest, StreamId};
use crate::story;

fn text(bytes: &[u8]) -> String {
    if bytes.len() > 40 { format!("<{} bytes>", bytes.len()) } else { bytes.escape_ascii().to_string() }
}

fn key(word: &str) -> Vec<u8> {
    match word {
        "-" => Vec::new(),
        word => word.replace("\\0", "\0").into_bytes(),
    }
}

fn op(word: &str) -> Op {
    match word.split_once('=') {
        // `KEY=*N`: a value of N bytes.
        Some((k, v)) if v.starts_with('*') => Op::Put(key(k), vec![b'x'; v[1..].parse().expect("a length")]),
        Some((k, v)) => Op::Put(key(k), v.into()),
        None => Op::Delete(key(word)),
    }
}

fn show(response: &WatchResponse) -> String {
    let header = response.header.expect("every response has a header");
    let mut line = format!("rev={} id={}", header.revision, response.watch_id);
    if header.raft_term != 0 {
        line += &format!(" term={}", header.raft_term);
    }
    for (flag, name) in [
        (response.created, " created"),
        (response.canceled, " canceled"),
        (response.fragment, " fragment"),
        (response.compact_revision != 0, &format!(" compact={}", response.compact_revision)),
    ] {
        line += if flag { name } else { "" };
    }
    if !response.cancel_reason.is_empty() {
        line += &format!(" \"{}\"", response.cancel_reason);
    }
    let kv = |kv: &KeyValue| format!("{}={} v{}", text(&kv.key), text(&kv.value), kv.version);
    for event in &response.events {
        let new = event.kv.as_ref().expect("an event has a kv");
        line += &format!("\n  {} ", new.mod_revision);
        line += &match event.r#type {
            0 => format!("PUT {}", kv(new)),
            _ => format!("DELETE {}", text(&new.key)),
        };
        if let Some(prev) = &event.prev_kv {
            line += &format!(" (was {})", kv(prev));
        }
    }
    line + "\n"
}

#[derive(Default)]
struct Runner {
    world: Option<World>,
    streams: BTreeMap<String, StreamId>,
    loads: BTreeMap<u64, LoadRequest>,
    now: u64,
}

impl Runner {
    fn run(&mut self, command: &str, words: &[&str]) -> String {
        if command == "hub" {
            let mut config = Config { progress_interval: 1000, ..Config::new(1, 2, 3) };
            for word in words {
                let (name, value) = word.split_once('=').expect("NAME=N");
                let value: usize = value.parse().expect("a number");
                match name {
                    "output" => config.output_bytes = value,
                    "ring" => config.ring_bytes = value,
                    "fragment" => config.fragment_bytes = value,
                    "catchup" => config.catch_up_bytes = value,
                    "per_stream" => config.max_watchers_per_stream = value,
                    "watchers" => config.max_watchers = value,
                    "loads" => config.max_loads = value,
                    name => panic!("no setting {name}"),
                }
            }
            *self = Runner { world: Some(World::new(config)), ..Runner::default() };
            return String::new();
        }
        let world = self.world.as_mut().expect("a story begins with `hub`");
        let number = |at: usize| words[at].parse::<i64>().expect("a number");
        let ops = || words.iter().map(|word| vec![op(word)]).collect::<Vec<_>>();
        let flag = |name: &str| words.contains(&name);
        let named = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let stream = |streams: &BTreeMap<String, StreamId>| streams[words[0]];
        match command {
            "open" => {
                self.streams.insert(words[0].into(), world.hub.open_stream(self.now, 0));
            }
            "close" => world.hub.close_stream(stream(&self.streams)),
            "create" => {
                let end = words.get(2).filter(|end| {
                    !end.contains('=')
                        && !["prev", "progress", "fragment", "noput", "nodelete"].contains(*end)
                });
                let mut filters = Vec::new();
                filters.extend(flag("noput").then_some(0));
                filters.extend(flag("nodelete").then_some(1));
                let create = WatchCreateRequest {
                    key: key(words[1]).into(),
                    range_end: end.map(|end| key(end)).unwrap_or_default().into(),
                    start_revision: named("start").map_or(0, |start| start.parse().expect("a revision")),
                    progress_notify: flag("progress"),
                    filters,
                    prev_kv: flag("prev"),
                    watch_id: named("id").map_or(0, |id| id.parse().expect("an id")),
                    fragment: flag("fragment"),
                };
                world.create(stream(&self.streams), create, self.now);
            }
            "refuse" => {
                let start_revision = named("start").map_or(0, |start| start.parse().expect("a revision"));
                let create = WatchCreateRequest { start_revision, ..Default::default() };
                world.hub.refuse(stream(&self.streams), &create, words[1]);
            }
            "cancel" => world.cancel(stream(&self.streams), number(1)),
            "progress" => world.progress(stream(&self.streams)),
            "empty" => world.hub.request(stream(&self.streams), WatchRequest::default(), self.now),
            "put" => world.publish(&[vec![op(&format!("{}={}", words[0], words[1]))]], true),
            "txn" => world.publish(&[words.iter().map(|word| op(word)).collect()], true),
            "batch" => world.publish(&ops(), true),
            "noprev" => world.publish(&ops(), false),
            "restore" => {
                world.commit(&ops());
                world.hub.restored(world.revision);
            }
            "read" => {
                while world.hub.catch_up(1000) {}
                let max = if words.len() > 1 { number(1) as usize } else { usize::MAX };
                let responses = world.read(stream(&self.streams), max);
                while world.hub.catch_up(1000) {}
                return responses.iter().map(show).collect();
            }
            "loads" => {
                while world.hub.catch_up(1000) {}
                let mut lines = String::new();
                for load in world.hub.loads() {
                    lines += &format!(
                        "{} {} from={}{}\n",
                        load.ticket,
                        text(&load.range.key),
                        load.from_revision,
                        if load.want_prev { " prev" } else { "" }
                    );
                    self.loads.insert(load.ticket, load);
                }
                return lines;
            }
            "answer" => {
                let Some(load) = self.loads.remove(&(number(0) as u64)) else { return "no such load".into() };
                world.answer(&load);
            }
            "history" => world.hub.history_through(number(0)),
            "compact" => {
                world.compacted = number(0);
                world.hub.compacted(number(0));
            }
            "term" => world.hub.set_term(number(0) as u64),
            "tick" => {
                self.now = number(0) as u64;
                world.hub.tick(self.now);
                return format!("next {:?}", world.hub.next_tick());
            }
            "stats" => {
                let stats = world.hub.stats();
                return format!(
                    "streams={} watchers={} slow={} pending={} total={}",
                    stats.streams,
                    stats.watchers,
                    stats.slow_watchers,
                    stats.pending_events,
                    stats.events_total
                );
            }
            command => panic!("no command {command}"),
        }
        String::new()
    }
}

#[test]
fn stories() {
    for (name, story) in [
        ("requests", include_str!("testdata/requests.txt")),
        ("history", include_str!("testdata/history.txt")),
        ("slow", include_str!("testdata/slow.txt")),
        ("progress", include_str!("testdata/progress.txt")),
    ] {
        let mut runner = Runner::default();
        story::run(name, story, |command, words| runner.run(command, words));
    }
}
