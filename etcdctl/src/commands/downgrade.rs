//! `downgrade`: lets members of an older minor version join a running cluster. etcdctl has it since 3.6.

use std::io;

use proto::etcdserverpb::DowngradeRequest;
use proto::etcdserverpb::downgrade_request::DowngradeAction;

use super::words::text;
use crate::cli::globals::Session;
use crate::cli::{Command, Invocation};
use crate::exit::{Exit, Outcome};

pub static COMMAND: Command = Command {
    usage: "downgrade <TARGET_VERSION>",
    short: "Downgrade related commands",
    children: &[&VALIDATE, &ENABLE, &CANCEL],
    ..Command::EMPTY
};

static VALIDATE: Command = Command {
    usage: "validate <TARGET_VERSION>",
    short: "Validate downgrade capability before starting downgrade",
    run: Some(|invocation| Box::pin(to_version(invocation, DowngradeAction::Validate, "validate"))),
    ..Command::EMPTY
};

static ENABLE: Command = Command {
    usage: "enable <TARGET_VERSION>",
    short: "Start a downgrade action to cluster",
    run: Some(|invocation| Box::pin(to_version(invocation, DowngradeAction::Enable, "enable"))),
    ..Command::EMPTY
};

static CANCEL: Command = Command {
    usage: "cancel",
    short: "Cancel the ongoing downgrade action to cluster",
    run: Some(|invocation| Box::pin(ask(invocation, DowngradeAction::Cancel, "cancel", String::new()))),
    ..Command::EMPTY
};

async fn to_version(invocation: Invocation, action: DowngradeAction, step: &str) -> Outcome {
    let version = match invocation.args.words.as_slice() {
        [] => return Err(Exit::bad_args("TARGET_VERSION not provided")),
        [version] if version.is_empty() => return Err(Exit::bad_args("target version not provided")),
        [version] => text(version),
        _ => return Err(Exit::bad_args("too many arguments")),
    };
    ask(invocation, action, step, version).await
}

async fn ask(mut invocation: Invocation, action: DowngradeAction, step: &str, version: String) -> Outcome {
    let session = Session::new(&mut invocation.flags).await?;
    let request = DowngradeRequest { action: action.into(), version };
    let response = session.client.downgrade(request).await.map_err(Exit::failed)?;
    session.printer.downgrade(&mut io::stdout().lock(), step, &response)
}
