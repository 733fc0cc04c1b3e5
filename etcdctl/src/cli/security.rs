//! What the flags say of TLS and of the user: for the endpoints, and with other names for the destination of a mirror.

use super::Flags;
use super::prompt;
use crate::client::{Credentials, tls};
use crate::exit::Exit;

/// The settings behind `--cacert`, `--cert` and `--key`, which must not be empty if they are given.
pub fn tls_settings(flags: &Flags) -> Result<tls::Settings, Exit> {
    let file = |name: &str| match flags.text(name) {
        "" if flags.is_changed(name) => {
            Err(Exit::bad_args(format!("empty string is passed to --{name} option")))
        }
        path => Ok(path.to_owned()),
    };
    Ok(tls::Settings {
        cert_file: file("cert")?,
        key_file: file("key")?,
        ca_file: file("cacert")?,
        required: !flags.bool("insecure-transport"),
        skip_verify: flags.bool("insecure-skip-tls-verify"),
        // DNS may name any host; whoever answers there must be of the domain.
        server_name: match flags.bool("insecure-discovery") {
            true => String::new(),
            false => flags.text("discovery-srv").into(),
        },
    })
}

/// `user` is `NAME` or, without a password of its own, `NAME:PASSWORD`; a password that is missing is asked for with
/// `question`.
pub fn credentials(user: &str, password: &str, question: &str) -> Result<Option<Credentials>, Exit> {
    let (user, password) = match (user, user.split_once(':')) {
        ("", _) => return Ok(None),
        (user, _) if !password.is_empty() => (user, password.to_owned()),
        (_, Some((user, password))) => (user, password.to_owned()),
        (user, None) => (user, prompt::password(question)?),
    };
    Ok(Some(Credentials { user: user.into(), password }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords() {
        for (user, password, expected) in [
            ("root:a:b", "", ("root", "a:b")),
            ("root:a", "b", ("root:a", "b")),
            ("root", "b", ("root", "b")),
            ("root:", "", ("root", "")),
        ] {
            let found = credentials(user, password, "").unwrap().unwrap();
            assert_eq!((found.user.as_str(), found.password.as_str()), expected);
        }
        assert!(credentials("", "b", "").unwrap().is_none());
    }
}
