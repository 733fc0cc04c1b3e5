//! What Kubernetes does to its store: informers that list and then watch, optimistic writes, lists in pages.
//!
//! Writes compare the revision that was read and read on failure, as its storage layer does. Pages are at the
//! revision of the first one. The compactor's key is there too.

use std::time::Duration;

use oracle::history::{
    Key, Refusal, Request, Response, Revision,
    request::{Compare, Delete, End, Kv, Range, Relation, Span, Txn, Wanted},
    watch::{WatchCommand, WatchCreate},
};
use rand::Rng;
use tokio::time::timeout;

use crate::{
    session::{Session, Told},
    stream::WatchStream,
};

const OBJECTS: u64 = 60;
const PREFIX: &str = "/registry/pods/";
/// `0` follows `/`.
const PREFIX_END: &str = "/registry/pods0";
const COMPACTOR: &str = "compact_rev_key";
const PAGE: i64 = 10;
const WINDOW_BYTES: u32 = 1 << 20;

pub async fn client(session: Session, number: u64) {
    match number {
        0 => compactor(session).await,
        1..4 => informer(session).await,
        _ => writer(session).await,
    }
}

fn all(session: &Session) -> Span {
    Span { start: session.key(PREFIX), end: End::Before(session.key(PREFIX_END)) }
}

/// Lists in pages; the revision of the list, if it came to an end.
async fn list(session: &mut Session) -> Option<Revision> {
    let mut span = all(session);
    let mut revision = 0;
    loop {
        let range = Range { limit: PAGE, revision, ..Range::newest(span) };
        let answer = session.ask(Request::Range(range)).await.answer()?;
        let Response::Range(page) = answer.response else { return None };
        if revision == 0 {
            revision = answer.revision;
        }
        let Some(last) = page.kvs.last().filter(|_| page.more) else { return Some(revision) };
        let mut notes = session.world.notes.borrow_mut();
        let after = [&notes.book.recorder.key_bytes(last.key)[..], b"\0"].concat();
        span.start = notes.book.key(&after.into());
    }
}

async fn informer(mut session: Session) {
    while !session.is_over() {
        let Some(revision) = list(&mut session).await else { continue };
        let follows = Duration::from_millis(session.random.random_range(300..4000));
        // Ends with the stream, or when it is time to list again.
        let _ = timeout(follows, follow(&mut session, revision)).await;
    }
}

async fn follow(session: &mut Session, revision: Revision) -> Option<()> {
    let at = session.random.random_range(0..session.world.cluster.servers.len());
    let mut stream = WatchStream::open(&session.world, session.client, at, WINDOW_BYTES).await.ok()?;
    let create = WatchCreate {
        id: 0,
        span: all(session),
        start: revision + 1,
        prev_kv: true,
        progress_notify: true,
        fragment: false,
        no_put: false,
        no_delete: false,
    };
    stream.ask(WatchCommand::Create(create)).ok()?;
    while !session.is_over() {
        let told = tokio::select! {
            told = stream.next() => told.ok()?,
            () = session.world.rest(Duration::from_secs(1)) => continue,
        };
        if told.canceled {
            return None;
        }
    }
    Some(())
}

async fn writer(mut session: Session) {
    let mut known: Option<(Key, Option<Kv>)> = None;
    while !session.is_over() {
        let number = session.random.random_range(0..OBJECTS);
        let key = session.key(&format!("{PREFIX}default/pod-{number:03}"));
        let (key, found) = match known.take() {
            Some(known) => known,
            None => {
                let Some(answer) = session.get(key).await.answer() else { continue };
                let Response::Range(ranged) = answer.response else { continue };
                (key, ranged.kvs.first().copied())
            }
        };
        if session.random.random_bool(0.1) {
            list(&mut session).await;
            continue;
        }
        let wanted = Wanted::Mod(found.map_or(0, |kv| kv.mod_revision));
        let compares = vec![Compare { span: Span::key(key), wanted, relation: Relation::Equal }];
        let failure = vec![Request::Range(Range::newest(Span::key(key)))];
        let world = session.world.clone();
        let deletes = found.is_some() && session.random.random_bool(0.25);
        let permit = if deletes { world.anonymous.try_acquire().ok() } else { None };
        let success = vec![match permit {
            Some(_) => Request::Delete(Delete { span: Span::key(key), prev_kv: true }),
            None => Request::Put(session.put(key)),
        }];
        let txn = Txn { compares, success, failure };
        if let Told::Answer(answer) = session.ask(Request::Txn(Box::new(txn))).await
            && let Response::Txn(told) = answer.response
            && !told.succeeded
            && let Some((_, Response::Range(ranged))) = told.answers.first()
        {
            known = Some((key, ranged.kvs.first().copied()));
        }
        drop(permit);
    }
}

/// Moves a number forward under a guard, and compacts to where it was a round before.
async fn compactor(mut session: Session) {
    let key = session.key(COMPACTOR);
    let (mut version, mut revision) = (0, 0);
    while !session.is_over() {
        let compare =
            Compare { span: Span::key(key), wanted: Wanted::Version(version), relation: Relation::Equal };
        let success = vec![Request::Put(session.put(key))];
        let failure = vec![Request::Range(Range::newest(Span::key(key)))];
        let txn = Txn { compares: vec![compare], success, failure };
        if let Some(answer) = session.ask(Request::Txn(Box::new(txn))).await.answer()
            && let Response::Txn(told) = answer.response
        {
            let before = revision;
            revision = answer.revision;
            if told.succeeded {
                version += 1;
                if before > 0 {
                    let before = session.world.compactable(before);
                    let told = session.ask(Request::Compact { revision: before }).await;
                    // Nobody else compacts here, but an attempt of unknown outcome may have come first.
                    if matches!(told, Told::Refused(Refusal::FutureRevision)) {
                        session.world.fail(format!("revision {before} was there, and is of the future"));
                    }
                }
            } else if let Some((_, Response::Range(ranged))) = told.answers.first() {
                version = ranged.kvs.first().map_or(0, |kv| kv.version);
            }
        }
        session.world.rest(Duration::from_millis(1500)).await;
    }
}
