//! `member`: who is in the cluster.

use std::io;

use proto::etcdserverpb::MemberListRequest;

use super::get::is_serializable;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Invocation};
use crate::exit::{Exit, Outcome};

pub static COMMAND: Command = Command {
    usage: "member <subcommand>",
    short: "Membership related commands",
    children: &[&LIST],
    ..Command::EMPTY
};

static LIST: Command = Command {
    usage: "list",
    short: "Lists all members in the cluster",
    long: "When --write-out is set to simple, this command prints out comma-separated member lists for each endpoint.
The items in the lists are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.",
    flags: &[Flag::text("consistency", "l", "Linearizable(l) or Serializable(s)")],
    run: Some(|invocation| Box::pin(list(invocation))),
    ..Command::EMPTY
};

async fn list(mut invocation: Invocation) -> Outcome {
    let linearizable = !is_serializable(&invocation.flags)?;
    let session = Session::new(&mut invocation.flags)?;
    let response =
        session.client.member_list(MemberListRequest { linearizable }).await.map_err(Exit::failed)?;
    session.printer.member_list(&mut io::stdout().lock(), &response)
}
