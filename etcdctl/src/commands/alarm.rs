//! `alarm`: lists and clears alarms, which stop writes until cleared.

use std::io;

use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, AlarmResponse};

use crate::cli::globals::Session;
use crate::cli::{Command, Invocation};
use crate::client::{Client, Error};
use crate::exit::{Exit, Outcome};

pub static COMMAND: Command = Command {
    usage: "alarm <subcommand>",
    short: "Alarm related commands",
    children: &[&DISARM, &LIST],
    ..Command::EMPTY
};

static DISARM: Command = Command {
    usage: "disarm",
    short: "Disarms all alarms",
    run: Some(|invocation| Box::pin(disarm(invocation))),
    ..Command::EMPTY
};

static LIST: Command = Command {
    usage: "list",
    short: "Lists all alarms",
    run: Some(|invocation| Box::pin(list(invocation))),
    ..Command::EMPTY
};

/// Alarms of all members and kinds.
pub async fn active(client: &Client) -> Result<AlarmResponse, Error> {
    client.alarm(AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() }).await
}

async fn list(mut invocation: Invocation) -> Outcome {
    if !invocation.args.words.is_empty() {
        return Err(Exit::bad_args("alarm list command accepts no arguments"));
    }
    let session = Session::new(&mut invocation.flags).await?;
    let response = active(&session.client).await.map_err(Exit::failed)?;
    session.printer.alarms(&mut io::stdout().lock(), &response)
}

/// Clears what is active one by one; the answer shown holds all that was cleared and no header.
async fn disarm(mut invocation: Invocation) -> Outcome {
    if !invocation.args.words.is_empty() {
        return Err(Exit::bad_args("alarm disarm command accepts no arguments"));
    }
    let session = Session::new(&mut invocation.flags).await?;
    let mut cleared = AlarmResponse::default();
    for alarm in active(&session.client).await.map_err(Exit::failed)?.alarms {
        let action = AlarmAction::Deactivate.into();
        let request = AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
        cleared.alarms.extend(session.client.alarm(request).await.map_err(Exit::failed)?.alarms);
    }
    session.printer.alarms(&mut io::stdout().lock(), &cleared)
}
