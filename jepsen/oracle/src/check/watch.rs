//! Watches against the replay: what a watcher is told is what happened, in order, once, whole, and to the end.
//!
//! | guarantee | here |
//! |---|---|
//! | ordered, unique, reliable, resumable | the events delivered are the replay's, filtered, from the start on, none left out |
//! | atomic | a revision is in one response, or in the fragments of one |
//! | bookmarkable | after a notice of revision R no event up to R is outstanding |
//! | filter, `prev_kv` | as asked; a previous value is missing only if it can have been compacted away |
//! | no future | nothing is told before it can have been there, nothing below a start in the future |
//! | created, canceled | created first, canceled once and for a reason, nothing afterwards |
//!
//! A stream that breaks off owes nothing more: `check_complete` is for the end of a run, when all must have arrived.
//! Source: etcd, "API guarantees"; `server/etcdserver/api/v3rpc/watch.go`.

use std::collections::BTreeMap;

use super::{Replay, Verdict, Violation};
use crate::history::{
    History, Revision, Stream,
    request::End,
    watch::{Asked, Event, EventKind, WatchCommand, WatchCreate, WatchResponse},
};

/// Judges every stream of the history.
pub fn check(history: &History, replay: &Replay) -> Verdict {
    Verdict::of(history.streams.iter().enumerate().try_for_each(|(at, stream)| {
        walk(stream, replay).map(|_| ()).map_err(|what| violation(at, stream, &what))
    }))
}

/// Judges every stream, and that each watcher left on the streams of `at_end` was told all up to `revision`.
pub fn check_complete(history: &History, replay: &Replay, at_end: &[usize], revision: Revision) -> Verdict {
    let complete = |&at: &usize| {
        let stream = &history.streams[at];
        let watchers = walk(stream, replay).map_err(|what| violation(at, stream, &what))?;
        for (id, mut watcher) in watchers {
            if let Some(event) = watcher.next()
                && event.kv.mod_revision <= revision
            {
                let what = format!("watcher {id} was never told of revision {}", event.kv.mod_revision);
                return Err(violation(at, stream, &what));
            }
        }
        Ok(())
    };
    match check(history, replay) {
        Verdict::Ok => Verdict::of(at_end.iter().try_for_each(complete)),
        other => other,
    }
}

fn violation(at: usize, stream: &Stream, what: &str) -> Violation {
    Violation::new(format!("stream {at} of {:?} to {:?}: {what}", stream.client, stream.member), [])
}

/// A watcher between two responses.
struct Watcher<'a> {
    create: &'a WatchCreate,
    /// The first revision it must be told of.
    first: Revision,
    /// What it has not been told yet; begins with what it does not watch, perhaps.
    rest: &'a [Event],
    /// The last revision told of, by an event or a notice.
    last: Revision,
    in_fragments: bool,
    cancel_asked: bool,
}

impl<'a> Watcher<'a> {
    fn wants(&self, event: &Event) -> bool {
        let dropped = match event.kind {
            EventKind::Put => self.create.no_put,
            EventKind::Delete => self.create.no_delete,
        };
        !dropped && self.create.span.contains(event.kv.key)
    }

    /// The next event it must be told of.
    fn next(&mut self) -> Option<&'a Event> {
        while let [first, rest @ ..] = self.rest {
            if self.wants(first) {
                return Some(first);
            }
            self.rest = rest;
        }
        None
    }
}

type Watchers<'a> = BTreeMap<i64, Watcher<'a>>;

/// Takes the responses of a stream in turn; the watchers that are left.
fn walk<'a>(stream: &'a Stream, replay: &'a Replay) -> Result<Watchers<'a>, String> {
    let mut watchers: Watchers = BTreeMap::new();
    let mut creates = stream.asked.iter().filter_map(|asked| match &asked.command {
        WatchCommand::Create(create) => Some((asked.sent_ns, create)),
        _ => None,
    });
    let mut notices = 0;
    for (at, response) in stream.responses.iter().enumerate() {
        let sent = |asked: &&Asked| asked.sent_ns <= response.received_ns;
        if response.revision > replay.perhaps_at(response.received_ns) {
            return Err(format!("response {at} has revision {} of the future", response.revision));
        }
        if response.created {
            let (sent_ns, create) = creates.next().ok_or("more watchers were created than asked for")?;
            if sent_ns > response.received_ns {
                return Err("a watcher was created before it was asked for".to_string());
            }
            created(&mut watchers, create, response, replay)?;
            continue;
        }
        if response.id == -1 {
            notices += 1;
            let asked = stream.asked.iter().filter(sent).filter(|it| it.command == WatchCommand::Progress);
            if notices > asked.count() {
                return Err(format!("response {at} is a notice that nobody asked for"));
            }
            for (id, watcher) in &mut watchers {
                notice(watcher, response.revision).map_err(|what| format!("watcher {id}: {what}"))?;
            }
            continue;
        }
        let Some(watcher) = watchers.get_mut(&response.id) else {
            return Err(format!("response {at} is for watcher {}, which is not there", response.id));
        };
        let told = if response.canceled {
            let cancel = WatchCommand::Cancel { id: response.id };
            watcher.cancel_asked = stream.asked.iter().filter(sent).any(|asked| asked.command == cancel);
            canceled(watcher, response, replay)
        } else if response.events.is_empty() {
            single_notice(watcher, response.revision)
        } else {
            events(watcher, response, replay)
        };
        told.map_err(|what| format!("watcher {}, response {at}: {what}", response.id))?;
        if response.canceled {
            watchers.remove(&response.id);
        }
    }
    Ok(watchers)
}

fn created<'a>(
    watchers: &mut Watchers<'a>,
    create: &'a WatchCreate,
    response: &WatchResponse,
    replay: &'a Replay,
) -> Result<(), String> {
    if !response.events.is_empty() {
        return Err("events came with the creation".to_string());
    }
    let in_use = create.id != 0 && watchers.contains_key(&create.id);
    let empty = matches!(create.span.end, End::Before(end) if end <= create.span.start);
    if response.canceled {
        let refused = response.id == -1 && (in_use || empty || create.start < 0);
        return if refused { Ok(()) } else { Err(format!("{create:?} was refused")) };
    }
    if in_use || empty {
        return Err(format!("{create:?} was not refused"));
    }
    if (create.id != 0 && response.id != create.id) || watchers.contains_key(&response.id) || response.id < 0
    {
        return Err(format!("a watcher got ID {}", response.id));
    }
    let first = if create.start == 0 { response.revision + 1 } else { create.start.max(0) };
    let watcher = Watcher {
        create,
        first,
        rest: replay.events(first, Revision::MAX),
        last: 0,
        in_fragments: false,
        cancel_asked: false,
    };
    watchers.insert(response.id, watcher);
    Ok(())
}

fn events(watcher: &mut Watcher, response: &WatchResponse, replay: &Replay) -> Result<(), String> {
    if response.fragment && !watcher.create.fragment {
        return Err("a fragment that nobody asked for".to_string());
    }
    if watcher.create.start > response.revision {
        return Err(format!("revision {} is below the start", response.revision));
    }
    for event in &response.events {
        one_event(watcher, event, response.received_ns, replay)?;
    }
    if watcher.last > response.revision {
        return Err(format!("the header says {}, an event {}", response.revision, watcher.last));
    }
    watcher.in_fragments = response.fragment;
    let last = watcher.last;
    if !watcher.in_fragments && watcher.next().is_some_and(|next| next.kv.mod_revision == last) {
        return Err(format!("revision {last} is split"));
    }
    Ok(())
}

fn one_event(watcher: &mut Watcher, event: &Event, received_ns: u64, replay: &Replay) -> Result<(), String> {
    let revision = event.kv.mod_revision;
    let Some(expected) = watcher.next() else {
        return Err(format!("an event of revision {revision}, after the last there is"));
    };
    if event.kind != expected.kind || event.kv != expected.kv {
        let why = match revision {
            _ if revision < watcher.last => "goes back",
            _ if revision > expected.kv.mod_revision => "left something out",
            _ => "is not what happened",
        };
        return Err(format!("{why}: expected {expected:?}, delivered {event:?}"));
    }
    if revision > replay.perhaps_at(received_ns) {
        return Err(format!("revision {revision} is of the future"));
    }
    let prev = expected.prev.filter(|_| watcher.create.prev_kv);
    let compacted_away = event.prev.is_none() && replay.perhaps_compacted_at(received_ns) > revision - 1;
    if event.prev != prev && !compacted_away {
        return Err(format!(
            "previous value of revision {revision}: expected {prev:?}, delivered {:?}",
            event.prev
        ));
    }
    watcher.rest = &watcher.rest[1..];
    watcher.last = revision;
    Ok(())
}

/// A notice for this watcher alone.
fn single_notice(watcher: &mut Watcher, revision: Revision) -> Result<(), String> {
    if !watcher.create.progress_notify {
        return Err("a notice that nobody asked for".to_string());
    }
    if watcher.create.start > revision {
        return Err(format!("a notice of revision {revision}, below the start"));
    }
    notice(watcher, revision)
}

/// All up to `revision` was delivered.
fn notice(watcher: &mut Watcher, revision: Revision) -> Result<(), String> {
    if watcher.in_fragments {
        return Err("a notice between fragments".to_string());
    }
    if revision < watcher.last {
        return Err(format!("a notice of revision {revision} after revision {}", watcher.last));
    }
    if let Some(event) = watcher.next()
        && event.kv.mod_revision <= revision
    {
        return Err(format!("a notice of revision {revision} ahead of {event:?}"));
    }
    watcher.last = revision;
    Ok(())
}

fn canceled(watcher: &mut Watcher, response: &WatchResponse, replay: &Replay) -> Result<(), String> {
    if !response.events.is_empty() {
        return Err("events came with the end".to_string());
    }
    if response.compact_revision == 0 {
        return if watcher.cancel_asked { Ok(()) } else { Err("canceled for no reason".to_string()) };
    }
    if response.compact_revision > replay.perhaps_compacted_at(response.received_ns) {
        return Err(format!("canceled for compaction {}, which was not made", response.compact_revision));
    }
    let first = watcher.first.max(watcher.last + 1);
    if first >= response.compact_revision {
        return Err(format!(
            "canceled for compaction {}, though told up to {}",
            response.compact_revision, watcher.last
        ));
    }
    Ok(())
}
