//! `user`: who may log in, with what password, and in which roles.

use std::io::{self, Write};

use proto::authpb::UserAddOptions;
use proto::etcdserverpb::*;

use super::words::text;
use crate::cli::flags::{Kind, Word};
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Flags, Invocation, prompt};
use crate::exit::{Exit, Outcome};

pub static COMMAND: Command = Command {
    usage: "user <subcommand>",
    short: "User related commands",
    children: &[&ADD, &DELETE, &GET, &LIST, &PASSWD, &GRANT_ROLE, &REVOKE_ROLE],
    ..Command::EMPTY
};

const fn interactive(usage: &'static str) -> Flag {
    Flag { name: "interactive", short: None, kind: Kind::Bool, default: "true", usage }
}

static ADD: Command = Command {
    usage: "add <user name or user:password> [options]",
    short: "Adds a new user",
    flags: &[
        // The texts have it the wrong way round; they are etcdctl's.
        interactive("Read password from stdin instead of interactive terminal"),
        Flag::text("new-user-password", "", "Supply password from the command line flag"),
        Flag::bool("no-password", "Create a user without password (CN based auth only)"),
    ],
    run: Some(|invocation| Box::pin(add(invocation))),
    ..Command::EMPTY
};

static DELETE: Command = Command {
    usage: "delete <user name>",
    short: "Deletes a user",
    run: Some(|invocation| Box::pin(delete(invocation))),
    ..Command::EMPTY
};

static GET: Command = Command {
    usage: "get <user name> [options]",
    short: "Gets detailed information of a user",
    flags: &[Flag::bool("detail", "Show permissions of roles granted to the user")],
    run: Some(|invocation| Box::pin(get(invocation))),
    ..Command::EMPTY
};

static LIST: Command = Command {
    usage: "list",
    short: "Lists all users",
    run: Some(|invocation| Box::pin(list(invocation))),
    ..Command::EMPTY
};

static PASSWD: Command = Command {
    usage: "passwd <user name> [options]",
    short: "Changes password of user",
    flags: &[interactive("If true, read password from stdin instead of interactive terminal")],
    run: Some(|invocation| Box::pin(passwd(invocation))),
    ..Command::EMPTY
};

static GRANT_ROLE: Command = Command {
    usage: "grant-role <user name> <role name>",
    short: "Grants a role to a user",
    run: Some(|invocation| Box::pin(grant_role(invocation))),
    ..Command::EMPTY
};

static REVOKE_ROLE: Command = Command {
    usage: "revoke-role <user name> <role name>",
    short: "Revokes a role from a user",
    run: Some(|invocation| Box::pin(revoke_role(invocation))),
    ..Command::EMPTY
};

fn one_name(invocation: &Invocation, command: &str) -> Result<String, Exit> {
    match invocation.args.words.as_slice() {
        [name] => Ok(text(name)),
        _ => Err(Exit::bad_args(format!("user {command} command requires user name as its argument"))),
    }
}

async fn add(mut invocation: Invocation) -> Outcome {
    one_name(&invocation, "add")?;
    let request = new_user(&invocation.args.words[0], &invocation.flags)?;
    let session = Session::new(&mut invocation.flags).await?;
    let name = request.name.clone();
    let response = session.client.user_add(request).await.map_err(Exit::failed)?;
    session.printer.done(&mut io::stdout().lock(), &format!("User {name} created"), &response.header)
}

/// The password comes from its flag, after a colon in the argument, or is asked for.
fn new_user(word: &Word, flags: &Flags) -> Result<AuthUserAddRequest, Exit> {
    let (word, no_password) = (text(word), flags.bool("no-password"));
    let from_flag = flags.text("new-user-password");
    let (name, password) = match word.split_once(':') {
        _ if no_password => (word, String::new()),
        _ if !from_flag.is_empty() => (word, from_flag.to_owned()),
        Some(("", _)) => return Err(Exit::bad_args("empty user name is not allowed")),
        Some((name, password)) => (name.to_owned(), password.to_owned()),
        None => {
            let password = new_password(&word, flags)?;
            (word, password)
        }
    };
    let options = Some(UserAddOptions { no_password });
    Ok(AuthUserAddRequest { name, password, options, hashed_password: String::new() })
}

/// Asked for twice, or read once where nobody can be asked.
fn new_password(name: &str, flags: &Flags) -> Result<String, Exit> {
    if !flags.bool("interactive") {
        return Ok(prompt::word_of_stdin());
    }
    let password = prompt::password(&format!("Password of {name}: "))?;
    if password.is_empty() {
        return Err(Exit::bad_args("empty password"));
    }
    if prompt::password(&format!("Type password of {name} again for confirmation: "))? != password {
        return Err(Exit::bad_args("given passwords are different"));
    }
    Ok(password)
}

async fn delete(mut invocation: Invocation) -> Outcome {
    let name = one_name(&invocation, "delete")?;
    let session = Session::new(&mut invocation.flags).await?;
    let request = AuthUserDeleteRequest { name: name.clone() };
    let response = session.client.user_delete(request).await.map_err(Exit::failed)?;
    session.printer.done(&mut io::stdout().lock(), &format!("User {name} deleted"), &response.header)
}

async fn get(mut invocation: Invocation) -> Outcome {
    let name = one_name(&invocation, "get")?;
    let session = Session::new(&mut invocation.flags).await?;
    let request = AuthUserGetRequest { name: name.clone() };
    let user = session.client.user_get(request).await.map_err(Exit::failed)?;
    let mut out = io::stdout();
    if !invocation.flags.bool("detail") {
        return session.printer.user(&mut out, &name, &user);
    }
    writeln!(out, "User: {name}")?;
    for role in user.roles {
        writeln!(out)?;
        let request = AuthRoleGetRequest { role: role.clone() };
        let permissions = session.client.role_get(request).await.map_err(Exit::failed)?;
        session.printer.role(&mut out, &role, &permissions)?;
    }
    Ok(())
}

async fn list(mut invocation: Invocation) -> Outcome {
    if !invocation.args.words.is_empty() {
        return Err(Exit::bad_args("user list command requires no arguments"));
    }
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.user_list(AuthUserListRequest {}).await.map_err(Exit::failed)?;
    session.printer.users(&mut io::stdout().lock(), &response)
}

async fn passwd(mut invocation: Invocation) -> Outcome {
    let name = one_name(&invocation, "passwd")?;
    let password = new_password(&name, &invocation.flags)?;
    let session = Session::new(&mut invocation.flags).await?;
    let request = AuthUserChangePasswordRequest { name, password, hashed_password: String::new() };
    let response = session.client.user_change_password(request).await.map_err(Exit::failed)?;
    session.printer.done(&mut io::stdout().lock(), "Password updated", &response.header)
}

fn user_and_role(invocation: &Invocation, refusal: &str) -> Result<(String, String), Exit> {
    match invocation.args.words.as_slice() {
        [user, role] => Ok((text(user), text(role))),
        _ => Err(Exit::bad_args(refusal)),
    }
}

async fn grant_role(mut invocation: Invocation) -> Outcome {
    let refusal = "user grant command requires user name and role name as its argument";
    let (user, role) = user_and_role(&invocation, refusal)?;
    let session = Session::new(&mut invocation.flags).await?;
    let request = AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
    let response = session.client.user_grant_role(request).await.map_err(Exit::failed)?;
    let line = format!("Role {role} is granted to user {user}");
    session.printer.done(&mut io::stdout().lock(), &line, &response.header)
}

async fn revoke_role(mut invocation: Invocation) -> Outcome {
    let refusal = "user revoke-role requires user name and role name as its argument";
    let (name, role) = user_and_role(&invocation, refusal)?;
    let session = Session::new(&mut invocation.flags).await?;
    let request = AuthUserRevokeRoleRequest { name: name.clone(), role: role.clone() };
    let response = session.client.user_revoke_role(request).await.map_err(Exit::failed)?;
    let line = format!("Role {role} is revoked from user {name}");
    session.printer.done(&mut io::stdout().lock(), &line, &response.header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(word: &str, line: &str) -> Result<(String, String, bool), Exit> {
        let words: Vec<Word> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let mut flags = Flags::new(ADD.flags, []);
        flags.parse(&words).unwrap();
        let request = new_user(&word.as_bytes().to_vec(), &flags)?;
        Ok((request.name, request.password, request.options.unwrap().no_password))
    }

    #[test]
    fn names_and_passwords_of_new_users() {
        for (word, line, expected) in [
            ("a:b:c", "", ("a", "b:c", false)),
            ("a:", "", ("a", "", false)),
            ("a:b", "--new-user-password c", ("a:b", "c", false)),
            ("a:b", "--no-password", ("a:b", "", true)),
            ("a", "--no-password --new-user-password c", ("a", "", true)),
        ] {
            assert_eq!(user(word, line), Ok((expected.0.into(), expected.1.into(), expected.2)), "{word}");
        }
        assert_eq!(user(":b", ""), Err(Exit::bad_args("empty user name is not allowed")));
    }
}
