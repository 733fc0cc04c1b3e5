//! `auth`: whether members ask who is calling.

use std::io::{self, Write};

use proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthStatusRequest, AuthUserGrantRoleRequest,
};

use crate::cli::globals::Session;
use crate::cli::{Command, Invocation};
use crate::client::{Client, Error};
use crate::exit::{Exit, Outcome};

pub static COMMAND: Command = Command {
    usage: "auth <enable or disable>",
    short: "Enable or disable authentication",
    children: &[&ENABLE, &DISABLE, &STATUS],
    ..Command::EMPTY
};

static ENABLE: Command = Command {
    usage: "enable",
    short: "Enables authentication",
    run: Some(|invocation| Box::pin(enable(invocation))),
    ..Command::EMPTY
};

static DISABLE: Command = Command {
    usage: "disable",
    short: "Disables authentication",
    run: Some(|invocation| Box::pin(disable(invocation))),
    ..Command::EMPTY
};

static STATUS: Command = Command {
    usage: "status",
    short: "Returns authentication status",
    run: Some(|invocation| Box::pin(status(invocation))),
    ..Command::EMPTY
};

/// The user and the role without which authentication cannot be enabled.
const ROOT: &str = "root";

fn refuse_arguments(invocation: &Invocation, command: &str) -> Outcome {
    if invocation.args.words.is_empty() {
        return Ok(());
    }
    Err(Exit::bad_args(format!("auth {command} command does not accept any arguments")))
}

async fn enable(mut invocation: Invocation) -> Outcome {
    refuse_arguments(&invocation, "enable")?;
    let session = Session::new(&mut invocation.flags).await?;
    enable_with_root(&session.client).await.map_err(Exit::failed)?;
    Ok(writeln!(io::stdout(), "Authentication Enabled")?)
}

/// A user root who lacks the role is given it first.
async fn enable_with_root(client: &Client) -> Result<(), Error> {
    match client.auth_enable(AuthEnableRequest {}).await {
        Err(error) if error.is("etcdserver: root user does not have root role") => {}
        outcome => return outcome.map(drop),
    }
    client.role_add(AuthRoleAddRequest { name: ROOT.into() }).await?;
    client.user_grant_role(AuthUserGrantRoleRequest { user: ROOT.into(), role: ROOT.into() }).await?;
    client.auth_enable(AuthEnableRequest {}).await.map(drop)
}

async fn disable(mut invocation: Invocation) -> Outcome {
    refuse_arguments(&invocation, "disable")?;
    let session = Session::new(&mut invocation.flags).await?;
    session.client.auth_disable(AuthDisableRequest {}).await.map_err(Exit::failed)?;
    Ok(writeln!(io::stdout(), "Authentication Disabled")?)
}

async fn status(mut invocation: Invocation) -> Outcome {
    refuse_arguments(&invocation, "status")?;
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.auth_status(AuthStatusRequest {}).await.map_err(Exit::failed)?;
    session.printer.auth_status(&mut io::stdout().lock(), &response)
}
