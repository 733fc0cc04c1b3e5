//! `role`: which keys a role may read and write.

use std::io;

use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb::*;

use super::words::text;
use crate::cli::flags::Word;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Flags, Invocation};
use crate::exit::{Exit, Outcome};
use crate::range::{OPEN, prefix_end};

pub static COMMAND: Command = Command {
    usage: "role <subcommand>",
    short: "Role related commands",
    children: &[&ADD, &DELETE, &GET, &LIST, &GRANT, &REVOKE],
    ..Command::EMPTY
};

static ADD: Command = Command {
    usage: "add <role name>",
    short: "Adds a new role",
    run: Some(|invocation| Box::pin(add(invocation))),
    ..Command::EMPTY
};

static DELETE: Command = Command {
    usage: "delete <role name>",
    short: "Deletes a role",
    run: Some(|invocation| Box::pin(delete(invocation))),
    ..Command::EMPTY
};

static GET: Command = Command {
    usage: "get <role name>",
    short: "Gets detailed information of a role",
    run: Some(|invocation| Box::pin(get(invocation))),
    ..Command::EMPTY
};

static LIST: Command = Command {
    usage: "list",
    short: "Lists all roles",
    run: Some(|invocation| Box::pin(list(invocation))),
    ..Command::EMPTY
};

static GRANT: Command = Command {
    usage: "grant-permission [options] <role name> <permission type> <key> [endkey]",
    short: "Grants a key to a role",
    flags: &[
        Flag::bool("prefix", "grant a prefix permission"),
        Flag::bool(
            "from-key",
            "grant a permission of keys that are greater than or equal to the given key using byte compare",
        ),
    ],
    run: Some(|invocation| Box::pin(grant(invocation))),
    ..Command::EMPTY
};

static REVOKE: Command = Command {
    usage: "revoke-permission <role name> <key> [endkey]",
    short: "Revokes a key from a role",
    flags: &[
        Flag::bool("prefix", "revoke a prefix permission"),
        Flag::bool(
            "from-key",
            "revoke a permission of keys that are greater than or equal to the given key using byte compare",
        ),
    ],
    run: Some(|invocation| Box::pin(revoke(invocation))),
    ..Command::EMPTY
};

fn one_name(invocation: &Invocation, command: &str) -> Result<String, Exit> {
    match invocation.args.words.as_slice() {
        [name] => Ok(text(name)),
        _ => Err(Exit::bad_args(format!("role {command} command requires role name as its argument"))),
    }
}

async fn add(mut invocation: Invocation) -> Outcome {
    let name = one_name(&invocation, "add")?;
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.role_add(AuthRoleAddRequest { name: name.clone() }).await;
    let header = response.map_err(Exit::failed)?.header;
    session.printer.done(&mut io::stdout().lock(), &format!("Role {name} created"), &header)
}

async fn delete(mut invocation: Invocation) -> Outcome {
    let role = one_name(&invocation, "delete")?;
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.role_delete(AuthRoleDeleteRequest { role: role.clone() }).await;
    let header = response.map_err(Exit::failed)?.header;
    session.printer.done(&mut io::stdout().lock(), &format!("Role {role} deleted"), &header)
}

async fn get(mut invocation: Invocation) -> Outcome {
    let role = one_name(&invocation, "get")?;
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.role_get(AuthRoleGetRequest { role: role.clone() }).await;
    session.printer.role(&mut io::stdout().lock(), &role, &response.map_err(Exit::failed)?)
}

async fn list(mut invocation: Invocation) -> Outcome {
    if !invocation.args.words.is_empty() {
        return Err(Exit::bad_args("role list command requires no arguments"));
    }
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.role_list(AuthRoleListRequest {}).await.map_err(Exit::failed)?;
    session.printer.roles(&mut io::stdout().lock(), &response)
}

async fn grant(mut invocation: Invocation) -> Outcome {
    let [role, kind, keys @ ..] = invocation.args.words.as_slice() else {
        return Err(too_few_to_grant());
    };
    if keys.is_empty() {
        return Err(too_few_to_grant());
    }
    let name = text(role);
    let perm_type = permission_type(&text(kind))?.into();
    let (key, range_end) = range(keys, &invocation.flags)?;
    let perm = Some(Permission { perm_type, key: key.into(), range_end: range_end.into() });
    let session = Session::new(&mut invocation.flags).await?;
    let request = AuthRoleGrantPermissionRequest { name: name.clone(), perm };
    let response = session.client.role_grant_permission(request).await.map_err(Exit::failed)?;
    session.printer.done(&mut io::stdout().lock(), &format!("Role {name} updated"), &response.header)
}

fn too_few_to_grant() -> Exit {
    Exit::bad_args("role grant command requires role name, permission type, and key [endkey] as its argument")
}

async fn revoke(mut invocation: Invocation) -> Outcome {
    let words = invocation.args.words.clone();
    let [role, keys @ ..] = words.as_slice() else { return Err(too_few_to_revoke()) };
    let Some(shown) = keys.first() else { return Err(too_few_to_revoke()) };
    let role = text(role);
    let (key, range_end) = range(keys, &invocation.flags)?;
    let line = revoked(&text(shown), &text(&range_end), &role);
    let session = Session::new(&mut invocation.flags).await?;
    let request = AuthRoleRevokePermissionRequest { role, key: key.into(), range_end: range_end.into() };
    let response = session.client.role_revoke_permission(request).await.map_err(Exit::failed)?;
    session.printer.done(&mut io::stdout().lock(), &line, &response.header)
}

fn too_few_to_revoke() -> Exit {
    Exit::bad_args("role revoke-permission command requires role name and key [endkey] as its argument")
}

/// An open range has no bracket at its end, in etcdctl too.
fn revoked(key: &str, range_end: &str, role: &str) -> String {
    match range_end {
        "" => format!("Permission of key {key} is revoked from role {role}"),
        "\0" => format!("Permission of range [{key}, <open ended> is revoked from role {role}"),
        end => format!("Permission of range [{key}, {end}) is revoked from role {role}"),
    }
}

fn permission_type(name: &str) -> Result<Type, Exit> {
    Type::from_str_name(&name.to_uppercase())
        .ok_or_else(|| Exit::bad_args(format!("invalid permission type: {name}")))
}

/// The key and the end of its range that the words and flags mean. The empty key stands for the first there can be.
fn range(words: &[Word], flags: &Flags) -> Result<(Word, Word), Exit> {
    let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    let empty = words[0].is_empty();
    if prefix && from_key && (empty || words.len() == 1) {
        return Err(Exit::bad_args("--from-key and --prefix flags are mutually exclusive"));
    }
    let end = match words.get(1) {
        _ if empty && (prefix || from_key) => OPEN.to_vec(),
        _ if empty => Word::new(),
        Some(_) if prefix => return Err(Exit::bad_args("unexpected endkey argument with --prefix flag")),
        Some(_) if from_key => return Err(Exit::bad_args("unexpected endkey argument with --from-key flag")),
        Some(end) => end.clone(),
        None if prefix => prefix_end(&words[0]),
        None if from_key => OPEN.to_vec(),
        None => Word::new(),
    };
    Ok((if empty { OPEN.to_vec() } else { words[0].clone() }, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str, words: &[&str]) -> Result<(Word, Word), Exit> {
        let given: Vec<Word> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let mut flags = Flags::new(GRANT.flags, []);
        flags.parse(&given).unwrap();
        let words: Vec<Word> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        range(&words, &flags)
    }

    #[test]
    fn ranges() {
        for (line, words, key, end) in [
            ("", &["a"][..], "a", ""),
            ("", &["a", "b"], "a", "b"),
            ("", &["a", "b", "c"], "a", "b"),
            ("--prefix", &["a"], "a", "b"),
            ("--from-key", &["a"], "a", "\0"),
            ("", &[""], "\0", ""),
            ("", &["", "b"], "\0", ""),
            ("--prefix", &[""], "\0", "\0"),
            ("--from-key", &[""], "\0", "\0"),
        ] {
            assert_eq!(of(line, words), Ok((key.into(), end.into())), "{line} {words:?}");
        }
        for (line, words, refusal) in [
            ("--prefix", &["a", "b"][..], "unexpected endkey argument with --prefix flag"),
            ("--from-key", &["a", "b"], "unexpected endkey argument with --from-key flag"),
            ("--from-key --prefix", &["a"], "--from-key and --prefix flags are mutually exclusive"),
            ("--from-key --prefix", &[""], "--from-key and --prefix flags are mutually exclusive"),
        ] {
            assert_eq!(of(line, words), Err(Exit::bad_args(refusal)));
        }
    }

    #[test]
    fn types() {
        assert_eq!(permission_type("readwrite"), Ok(Type::Readwrite));
        assert_eq!(permission_type("Read"), Ok(Type::Read));
        assert_eq!(permission_type("rw"), Err(Exit::bad_args("invalid permission type: rw")));
    }

    #[test]
    fn what_was_revoked() {
        assert_eq!(revoked("a", "", "r"), "Permission of key a is revoked from role r");
        assert_eq!(revoked("a", "b", "r"), "Permission of range [a, b) is revoked from role r");
        assert_eq!(revoked("a", "\0", "r"), "Permission of range [a, <open ended> is revoked from role r");
    }
}
