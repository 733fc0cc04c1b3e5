//! `check v2store`: whether a member holds anything that users wrote through the v2 API, which 3.6 and ours do not
//! have.
//!
//! Source: etcd `etcdutl/etcdutl/check_command.go`, `server/etcdserver/api/membership/storev2.go`. Differs: a server
//! that uses the directory is told to be stopped first, and a directory without a log is an error.

use proto::etcdserverpb::Request;
use store::membership::v2;

use super::dump_log::{Log, newest_snapshot};
use crate::{
    cli::{Command, Flag, Invocation},
    data_dir::DataDir,
    exit::{Exit, Outcome},
    request::Content,
};

pub static COMMAND: Command = Command {
    usage: "check <subcommand>",
    short: "commands for checking properties",
    children: &[&V2_STORE],
    ..Command::EMPTY
};

static V2_STORE: Command = Command {
    usage: "v2store",
    short: "Check custom content in v2store",
    flags: &[
        Flag::text("data-dir", "", "Required. A data directory not in use by etcd.").required(),
        Flag::text("wal-dir", "", "Optional. A dedicated WAL directory."),
    ],
    run: Some(run),
    ..Command::EMPTY
};

fn run(invocation: &Invocation) -> Outcome {
    let flags = &invocation.flags;
    let dir = DataDir::new(flags.path("data-dir"), flags.path("wal-dir"));
    let _held = dir.lock()?;
    let snapshot = newest_snapshot(&dir.snap)?;
    let in_store = match &snapshot {
        Some(snapshot) => has_users_keys(snapshot.data.as_deref().unwrap_or_default())?,
        None => false,
    };
    let first = snapshot.map_or(1, |snapshot| snapshot.metadata.index.saturating_add(1));
    let mut in_log = false;
    Log::survey(&dir.wal, first)?.visit(&mut |entry, is_replaced| {
        if let Content::V2(request) = Content::decode(entry) {
            in_log |= !is_replaced && !is_members(&request);
        }
        Ok(())
    })?;
    match (in_store, in_log) {
        (true, true) => Err(Exit::failed("detected custom v2 content in both v2store and WAL records")),
        (true, false) => Err(Exit::failed("detected custom content in v2store")),
        (false, true) => Err(Exit::failed("detected custom v2 content in WAL records")),
        (false, false) => {
            println!("No custom content found in both v2store and WAL records.");
            Ok(())
        }
    }
}

/// Keys, users or roles of the v2 API.
fn has_users_keys(store: &[u8]) -> Outcome<bool> {
    v2::holds_more_than_members(store)
        .map_err(|error| Exit::failed(format!("failed to recover v2store from snapshot: {error}")))
}

/// What members themselves write up to 3.5: their names and addresses, and the cluster's version.
fn is_members(request: &Request) -> bool {
    let path: Vec<&str> = request.path.split('/').collect();
    request.method == "PUT"
        && match path.as_slice() {
            ["", "0", "members", id, "attributes"] => {
                (1..=16).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit())
            }
            ["", "0", "version"] => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_members_write_is_no_content() {
        let is_ours = |method: &str, path: &str| {
            is_members(&Request { method: method.into(), path: path.into(), ..Request::default() })
        };
        assert!(is_ours("PUT", "/0/members/1f/attributes") && is_ours("PUT", "/0/version"));
        for (method, path) in [
            ("PUT", "/1/a"),
            ("PUT", "/0/members/x/attributes"),
            ("PUT", "/0/members//attributes"),
            ("DELETE", "/0/version"),
            ("SYNC", ""),
        ] {
            assert!(!is_ours(method, path), "{method} {path}");
        }
    }

    #[test]
    fn keys_of_users_are_content() {
        let store = |children: &str| format!("{{\"Root\":{{\"Children\":{children}}}}}").into_bytes();
        for (children, found) in [
            ("null", false),
            (r#"{"0":{"Children":{"version":{}}},"1":{"Children":{}},"2":{"Children":{"users":{}}}}"#, false),
            (r#"{"1":{"Children":{"a":{"Value":"b"}}}}"#, true),
            (r#"{"2":{"Children":{"users":{"Children":{"alice":{}}}}}}"#, true),
        ] {
            assert_eq!(has_users_keys(&store(children)).ok(), Some(found), "{children}");
        }
        assert_eq!(has_users_keys(b"").ok(), Some(false));
        assert!(has_users_keys(b"x").is_err());
    }
}
