//! `member`: who is in the cluster, and who is to be. Ids are hexadecimal.

use std::io::{self, Write};

use proto::etcdserverpb::*;

use super::get::is_serializable;
use super::words::text;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Flags, Invocation};
use crate::exit::{Exit, Outcome};
use crate::go::number::parse_hex_id;
use crate::go::quote::quote;
use crate::go::url::check_peer_urls;

pub static COMMAND: Command = Command {
    usage: "member <subcommand>",
    short: "Membership related commands",
    children: &[&ADD, &REMOVE, &UPDATE, &LIST, &PROMOTE],
    ..Command::EMPTY
};

static ADD: Command = Command {
    usage: "add <memberName> [options]",
    short: "Adds a member into the cluster",
    flags: &[
        Flag::text("peer-urls", "", "comma separated peer URLs for the new member."),
        Flag::bool("learner", "indicates if the new member is raft learner"),
    ],
    run: Some(|invocation| Box::pin(add(invocation))),
    ..Command::EMPTY
};

static REMOVE: Command = Command {
    usage: "remove <memberID>",
    short: "Removes a member from the cluster",
    run: Some(|invocation| Box::pin(remove(invocation))),
    ..Command::EMPTY
};

static UPDATE: Command = Command {
    usage: "update <memberID> [options]",
    short: "Updates a member in the cluster",
    flags: &[Flag::text("peer-urls", "", "comma separated peer URLs for the updated member.")],
    run: Some(|invocation| Box::pin(update(invocation))),
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

static PROMOTE: Command = Command {
    usage: "promote <memberID>",
    short: "Promotes a non-voting member in the cluster",
    long: "Promotes a non-voting learner member to a voting one in the cluster.",
    run: Some(|invocation| Box::pin(promote(invocation))),
    ..Command::EMPTY
};

fn one_id(invocation: &Invocation) -> Result<u64, Exit> {
    let [id] = invocation.args.words.as_slice() else {
        return Err(Exit::bad_args("member ID is not provided"));
    };
    parse_hex_id(&text(id))
        .map_err(|error| Exit::bad_args(format!("bad member ID arg ({error}), expecting ID in Hex")))
}

fn peer_urls(flags: &Flags) -> Result<Vec<String>, Exit> {
    match flags.text("peer-urls") {
        "" => Err(Exit::bad_args("member peer urls not provided")),
        urls => Ok(urls.split(',').map(str::to_owned).collect()),
    }
}

async fn add(mut invocation: Invocation) -> Outcome {
    let name = match invocation.args.words.as_slice() {
        [] => return Err(Exit::bad_args("member name not provided")),
        [name] => text(name),
        words => return Err(Exit::bad_args(too_many(words.iter().map(|word| text(word))))),
    };
    let urls = peer_urls(&invocation.flags)?;
    let session = Session::new(&mut invocation.flags).await?;
    check_peer_urls(&urls).map_err(Exit::failed)?;
    let is_learner = invocation.flags.bool("learner");
    let request = MemberAddRequest { peer_ur_ls: urls, is_learner };
    let added = session.client.member_add(request).await.map_err(Exit::failed)?;
    let mut out = io::stdout();
    session.printer.member_added(&mut out, &added)?;
    if session.printer.format() == "simple" {
        // The answer has the members as they are now. No further question: a second voter that has not started leaves
        // the first without a quorum to answer it.
        let id = added.member.map_or(0, |member| member.id);
        let urls = invocation.flags.text("peer-urls");
        out.write_all(settings(&name, id, urls, &added.members).as_bytes())?;
    }
    Ok(())
}

/// URLs after the name are a common mistake.
fn too_many(words: impl Iterator<Item = String>) -> String {
    let mut refusal = String::from("too many arguments");
    for url in words.filter(|word| word.to_lowercase().starts_with("http")) {
        refusal.push_str(&format!(", did you mean --peer-urls={url}"));
    }
    refusal
}

/// What to start the new member with. Members that have not started yet have no name.
fn settings(name: &str, id: u64, urls: &str, members: &[Member]) -> String {
    let entries = members.iter().flat_map(|member| {
        let name = if member.id == id { name } else { member.name.as_str() };
        member.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
    });
    let cluster = entries.collect::<Vec<_>>().join(",");
    let quoted = |text: &str| quote(text.as_bytes());
    format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quoted(name),
        quoted(&cluster),
        quoted(urls)
    )
}

/// `change`: what was done, as in `removed from`.
fn changed(session: &Session, id: u64, change: &str, members: &MemberListResponse) -> Outcome {
    let cluster = members.header.as_ref().map_or(0, |header| header.cluster_id);
    let line = format!("Member {id:16x} {change} cluster {cluster:16x}");
    session.printer.members_changed(&mut io::stdout().lock(), &line, members)
}

async fn remove(mut invocation: Invocation) -> Outcome {
    let id = one_id(&invocation)?;
    let session = Session::new(&mut invocation.flags).await?;
    let request = MemberRemoveRequest { id };
    let MemberRemoveResponse { header, members } =
        session.client.member_remove(request).await.map_err(Exit::failed)?;
    changed(&session, id, "removed from", &MemberListResponse { header, members })
}

async fn update(mut invocation: Invocation) -> Outcome {
    let id = one_id(&invocation)?;
    let urls = peer_urls(&invocation.flags)?;
    let session = Session::new(&mut invocation.flags).await?;
    check_peer_urls(&urls).map_err(Exit::failed)?;
    let request = MemberUpdateRequest { id, peer_ur_ls: urls };
    let MemberUpdateResponse { header, members } =
        session.client.member_update(request).await.map_err(Exit::failed)?;
    changed(&session, id, "updated in", &MemberListResponse { header, members })
}

async fn promote(mut invocation: Invocation) -> Outcome {
    let id = one_id(&invocation)?;
    let session = Session::new(&mut invocation.flags).await?;
    let request = MemberPromoteRequest { id };
    let MemberPromoteResponse { header, members } =
        session.client.member_promote(request).await.map_err(Exit::failed)?;
    changed(&session, id, "promoted in", &MemberListResponse { header, members })
}

async fn list(mut invocation: Invocation) -> Outcome {
    let linearizable = !is_serializable(&invocation.flags)?;
    let session = Session::new(&mut invocation.flags).await?;
    let response =
        session.client.member_list(MemberListRequest { linearizable }).await.map_err(Exit::failed)?;
    session.printer.member_list(&mut io::stdout().lock(), &response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_new_member() {
        let member = |id: u64, name: &str, urls: &[&str]| Member {
            id,
            name: name.into(),
            peer_ur_ls: urls.iter().map(|url| (*url).into()).collect(),
            ..Default::default()
        };
        let members = [member(1, "a", &["u1"]), member(2, "", &["u2", "u3"]), member(3, "", &["u4"])];
        assert_eq!(
            settings("new \"b\"", 2, "u2,u3", &members),
            "\nETCD_NAME=\"new \\\"b\\\"\"\nETCD_INITIAL_CLUSTER=\"a=u1,new \\\"b\\\"=u2,new \\\"b\\\"=u3,=u4\"\n\
             ETCD_INITIAL_ADVERTISE_PEER_URLS=\"u2,u3\"\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n"
        );
    }

    #[test]
    fn urls_after_the_name() {
        let words = ["a", "HTTP://b", "c"].map(String::from).into_iter();
        assert_eq!(too_many(words), "too many arguments, did you mean --peer-urls=HTTP://b");
    }
}
