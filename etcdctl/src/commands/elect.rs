//! `elect`: stands for an election until interrupted, or watches who is elected.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, WatchCreateRequest, WatchResponse};
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::signals::Signals;
use crate::cli::globals;
use crate::cli::{Command, Flag, Invocation};
use crate::client::queue::{Session, prefix_of};
use crate::client::watch::{Update, Watcher};
use crate::client::{Client, Error};
use crate::exit::{Exit, Outcome};
use crate::printers::Printer;
use crate::range::prefix_end;

pub static COMMAND: Command = Command {
    usage: "elect <election-name> [proposal]",
    short: "Observes and participates in leader election",
    flags: &[Flag::bool("listen", "observation mode").short('l')],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

const TTL_SECONDS: i64 = 60;

async fn run(mut invocation: Invocation) -> Outcome {
    let words = invocation.args.words.clone();
    let listen = invocation.flags.bool("listen");
    let (name, proposal) = match words.as_slice() {
        [name] => (name, None),
        [name, proposal] => (name, Some(proposal)),
        _ => {
            let refusal = "elect takes one election name argument and an optional proposal argument";
            return Err(Exit::bad_args(refusal));
        }
    };
    let globals::Session { client, printer, .. } = globals::Session::patient(&mut invocation.flags).await?;
    let client = Rc::new(client);
    let work = async {
        match proposal {
            None if !listen => Err(Exit::bad_args("no proposal argument but -l not set")),
            None => observe(client, name, printer.as_ref()).await,
            Some(_) if listen => Err(Exit::bad_args("proposal given but -l is set")),
            Some(proposal) => campaign(client, name, proposal.clone().into(), printer.as_ref()).await,
        }
    };
    LocalSet::new().run_until(work).await
}

async fn campaign(client: Rc<Client>, name: &[u8], proposal: Bytes, printer: &dyn Printer) -> Outcome {
    let mut session = Session::start(client, TTL_SECONDS).await.map_err(Exit::failed)?;
    let mut signals = Signals::catch()?;
    let place = session.join(name, proposal).await.map_err(Exit::failed)?;
    let waited = tokio::select! {
        waited = place.wait() => waited.map_err(Exit::failed),
        () = signals.next() => Err(Exit::failed("context canceled")),
    };
    if let Err(exit) = waited {
        // Whoever waits behind must not wait for the lease to run out.
        let _ = place.leave().await;
        return Err(exit);
    }
    let held = place.read().await.map_err(Exit::failed)?;
    if let Err(exit) = printer.get(&mut io::stdout().lock(), &held) {
        let _ = place.leave().await;
        return Err(exit);
    }
    tokio::select! {
        () = signals.next() => place.leave().await.map_err(Exit::failed),
        () = session.ended() => Err(Exit::failed("elect: session expired")),
    }
}

async fn observe(client: Rc<Client>, name: &[u8], printer: &dyn Printer) -> Outcome {
    let mut signals = Signals::catch()?;
    let prefix = prefix_of(name);
    tokio::select! {
        followed = follow(client, &prefix, printer) => {
            followed?;
            Err(Exit::failed("elect: observer lost"))
        }
        () = signals.next() => Ok(()),
    }
}

/// Prints the leader and each change of its value, one leader after the other. Returns when the cluster cannot be
/// followed any more.
async fn follow(client: Rc<Client>, prefix: &Bytes, printer: &dyn Printer) -> Outcome {
    loop {
        let Ok(found) = leader(&client, prefix).await else { return Ok(()) };
        let seen = found.header.map_or(0, |header| header.revision);
        let (header, kv) = match found.kvs.into_iter().next() {
            Some(kv) => (found.header, kv),
            None => match first_candidate(&client, prefix, seen).await {
                Some(candidate) => candidate,
                None => return Ok(()),
            },
        };
        let (key, shown) = (kv.key.clone(), header.map_or(0, |header| header.revision));
        print(printer, header, kv, 0)?;
        let mut updates = watch(&client, key, Bytes::new(), shown + 1).await;
        'leader: loop {
            let Some(response) = next(&mut updates).await else { return Ok(()) };
            for event in response.events {
                if event.r#type == EventType::Delete as i32 {
                    break 'leader;
                }
                let kv = event.kv.unwrap_or_default();
                print(printer, at(response.header, kv.mod_revision), kv, 1)?;
            }
        }
    }
}

/// The oldest of the candidates' keys.
async fn leader(client: &Client, prefix: &Bytes) -> Result<RangeResponse, Error> {
    let request = RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix).into(),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    };
    client.range(request).await
}

/// Waits for the first key to be put where there was none.
async fn first_candidate(
    client: &Rc<Client>,
    prefix: &Bytes,
    start: i64,
) -> Option<(Option<ResponseHeader>, KeyValue)> {
    let mut updates = watch(client, prefix.clone(), prefix_end(prefix).into(), start).await;
    loop {
        let response = next(&mut updates).await?;
        let put = response.events.into_iter().find(|event| event.r#type == EventType::Put as i32);
        if let Some(kv) = put.and_then(|event| event.kv) {
            return Some((at(response.header, kv.mod_revision), kv));
        }
    }
}

/// A response can tell of several revisions; what is shown is of one.
fn at(header: Option<ResponseHeader>, revision: i64) -> Option<ResponseHeader> {
    header.map(|header| ResponseHeader { revision, ..header })
}

fn print(printer: &dyn Printer, header: Option<ResponseHeader>, kv: KeyValue, count: i64) -> Outcome {
    let shown = RangeResponse { header, kvs: vec![kv], count, more: false };
    printer.get(&mut io::stdout().lock(), &shown)
}

async fn watch(
    client: &Rc<Client>,
    key: Bytes,
    range_end: Bytes,
    start_revision: i64,
) -> mpsc::Receiver<Update> {
    let request = WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
    Watcher::start(Rc::clone(client)).create(request).await
}

/// The next response with events; `None` when the watch has ended.
async fn next(updates: &mut mpsc::Receiver<Update>) -> Option<WatchResponse> {
    match updates.recv().await? {
        Update::Response(response) if !response.canceled && response.compact_revision == 0 => Some(response),
        Update::Response(_) | Update::Failed(_) => None,
    }
}
