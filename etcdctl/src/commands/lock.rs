//! `lock`: holds a named lock while a program runs, or until interrupted. One who holds it is found by its key, which
//! is printed or told to the program.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;

use bytes::Bytes;
use tokio::task::LocalSet;

use super::program;
use super::signals::Signals;
use crate::cli::flags::Word;
use crate::cli::globals;
use crate::cli::{Command, Flag, Invocation};
use crate::client::queue::{Place, Session};
use crate::exit::{Exit, Outcome};
use crate::printers::Printer;

pub static COMMAND: Command = Command {
    usage: "lock <lockname> [exec-command arg1 arg2 ...]",
    short: "Acquires a named lock",
    flags: &[Flag::int64("ttl", "timeout for session").default("10")],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

/// For a time to live that is none.
const DEFAULT_TTL_SECONDS: i64 = 60;

async fn run(mut invocation: Invocation) -> Outcome {
    let words = invocation.args.words.clone();
    let Some((name, program)) = words.split_first() else {
        return Err(Exit::bad_args("lock takes a lock name argument and an optional command to execute"));
    };
    let ttl = Some(invocation.flags.int64("ttl")).filter(|ttl| *ttl > 0).unwrap_or(DEFAULT_TTL_SECONDS);
    let globals::Session { client, printer, .. } = globals::Session::patient(&mut invocation.flags).await?;
    LocalSet::new()
        .run_until(async {
            let session = Session::start(Rc::new(client), ttl).await.map_err(Exit::failed)?;
            let signals = Signals::catch()?;
            lock(session, signals, name, program, printer.as_ref()).await
        })
        .await
}

async fn lock(
    mut session: Session,
    mut signals: Signals,
    name: &[u8],
    program: &[Word],
    printer: &dyn Printer,
) -> Outcome {
    let place = session.join(name, Bytes::new()).await.map_err(Exit::failed)?;
    let waited = tokio::select! {
        waited = place.wait() => waited.map_err(Exit::failed),
        () = signals.next() => Err(Exit::failed("context canceled")),
    };
    let waited = match waited {
        Ok(waited) => waited,
        Err(exit) => {
            // Whoever waits behind must not wait for the lease to run out.
            let _ = place.leave().await;
            return Err(exit);
        }
    };
    let held = place.read().await.map_err(Exit::failed)?;
    if held.kvs.is_empty() {
        return Err(Exit::failed("mutex: session is expired"));
    }
    if !program.is_empty() {
        let now = held.header.map_or(0, |header| header.revision);
        let revision = if waited { now } else { place.revision };
        return run_program(&place, revision, program).await;
    }
    if let Err(exit) = printer.get(&mut io::stdout().lock(), &held) {
        // etcdctl leaves the key to its lease, and with it whoever waits.
        let _ = place.leave().await;
        return Err(exit);
    }
    tokio::select! {
        () = signals.next() => place.leave().await.map_err(Exit::failed),
        () = session.ended() => Err(Exit::failed("session expired")),
    }
}

/// The program runs with the lock's key and revision in its environment, and we end as it did.
async fn run_program(place: &Place, revision: i64, program: &[Word]) -> Outcome {
    let variables = [
        ("ETCD_LOCK_KEY", OsString::from_vec(place.key.to_vec())),
        ("ETCD_LOCK_REV", revision.to_string().into()),
    ];
    let ran = program::run(program, &variables).await;
    let left = place.leave().await;
    ran.map_err(|failure| Exit::new(failure.code, failure.reason))?;
    left.map_err(Exit::failed)
}
