//! `dump-db`: the buckets of a database, and what is in one of them, of a stock member, of ours, or of a saved file.
//! Source: etcd `tools/etcd-dump-db`; entries come in ascending order here.

use std::{
    io::{self, BufWriter, Write},
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
};

use prost::Message;
use proto::{
    authpb::{Role, User, permission},
    leasepb,
    mvccpb::KeyValue,
};
use store::backend::schema::{Revision, meta};

use crate::{
    cli::{Command, Flag, Invocation},
    data_dir,
    exit::{Exit, Outcome},
    request::quoted,
};

pub static COMMAND: Command = Command {
    usage: "dump-db <data dir or db file> [bucket]",
    short: "Prints the buckets of a database, or the entries of one",
    flags: &[
        Flag::bool("decode", "Print entries in words instead of as they are stored"),
        Flag::uint64("limit", "0", "Number of entries to print at most (0: all)"),
    ],
    run: Some(run),
    ..Command::EMPTY
};

fn run(invocation: &Invocation) -> Outcome {
    let (path, bucket) = match invocation.args.as_slice() {
        [path] => (path, None),
        [path, bucket] => (path, Some(bucket.as_bytes())),
        args => {
            return Err(Exit::bad_args(format!(
                "dump-db takes one or two arguments, received {}",
                args.len()
            )));
        }
    };
    let (_held, buckets) = data_dir::open(path.as_ref())?;
    let mut out = BufWriter::new(io::stdout().lock());
    let names = buckets.names()?;
    let Some(bucket) = bucket else {
        for name in names {
            writeln!(out, "{}", name.escape_ascii())?;
        }
        return Ok(out.flush()?);
    };
    if !names.iter().any(|name| name == bucket) {
        let names: Vec<String> = names.iter().map(|name| name.escape_ascii().to_string()).collect();
        let bucket = bucket.escape_ascii();
        return Err(Exit::failed(format!("there is no bucket {bucket}, but {}", names.join(", "))));
    }
    let (decode, limit) = (invocation.flags.bool("decode"), invocation.flags.uint64("limit"));
    let mut shown = 0;
    buckets.scan(bucket, &[], &mut |key, value| {
        let words = decode.then(|| decoded(bucket, key, value)).flatten();
        let line = words.unwrap_or_else(|| format!("key={}, value={}", quoted(key), quoted(value)));
        writeln!(out, "{line}")?;
        shown += 1;
        Ok(if shown == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(out.flush()?)
}

/// An entry in words; none if it is malformed, or of a bucket that is words already.
fn decoded(bucket: &[u8], key: &[u8], value: &[u8]) -> Option<String> {
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some(match bucket {
        b"key" => {
            let (Revision { main, sub }, tombstone) = Revision::decode(key)?;
            let KeyValue { key, value, create_revision, mod_revision, version, lease } =
                KeyValue::decode(value).ok()?;
            let (key, value) = (quoted(&key), quoted(&value));
            let mut line = format!(
                "rev={{main:{main} sub:{sub}}}, value=[key {key} | val {value} | created {create_revision} \
                                    | mod {mod_revision} | ver {version}]"
            );
            if lease != 0 {
                line.push_str(&format!(", lease={lease:x}"));
            }
            if tombstone {
                line.push_str(", tombstone");
            }
            line
        }
        b"lease" => {
            let leasepb::Lease { ttl, remaining_ttl, .. } = leasepb::Lease::decode(value).ok()?;
            format!("lease ID={:016x}, TTL={ttl}s, remaining TTL={remaining_ttl}s", number(key)?)
        }
        b"meta" if key == meta::CONSISTENT_INDEX || key == meta::TERM => {
            format!("key={}, value={}", quoted(key), number(value)?)
        }
        b"meta" if key == meta::SCHEDULED_COMPACT || key == meta::FINISHED_COMPACT => {
            format!("key={}, value={}", quoted(key), Revision::decode(value)?.0.main)
        }
        b"auth" if key == b"authRevision" => format!("key={}, value={}", quoted(key), number(value)?),
        b"auth" => format!("key={}, value={value:?}", quoted(key)),
        b"authUsers" => {
            let User { name, roles, options, .. } = User::decode(value).ok()?;
            let no_password = options.is_some_and(|options| options.no_password);
            format!("user={}, roles={roles:?}, no_password={no_password}", quoted(&name))
        }
        b"authRoles" => {
            let Role { name, key_permission } = Role::decode(value).ok()?;
            let permissions: Vec<String> = key_permission
                .iter()
                .map(|it| {
                    let kind =
                        permission::Type::try_from(it.perm_type).map_or("???", |kind| kind.as_str_name());
                    format!("{kind} {}..{}", quoted(&it.key), quoted(&it.range_end))
                })
                .collect();
            format!("role={}, keyPermission=[{}]", quoted(&name), permissions.join(", "))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_put_into_words() {
        let kv = KeyValue {
            key: "k".into(),
            value: "v".into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0,
        };
        let line = decoded(b"key", &Revision::new(3, 1).encode(false), &kv.encode_to_vec()).unwrap();
        assert_eq!(line, "rev={main:3 sub:1}, value=[key \"k\" | val \"v\" | created 2 | mod 3 | ver 2]");
        let lease = leasepb::Lease { id: 7, ttl: 60, remaining_ttl: 5 };
        let line = decoded(b"lease", &7_u64.to_be_bytes(), &lease.encode_to_vec()).unwrap();
        assert_eq!(line, "lease ID=0000000000000007, TTL=60s, remaining TTL=5s");
        assert_eq!(decoded(b"meta", b"term", &2_u64.to_be_bytes()).unwrap(), "key=\"term\", value=2");
        for (bucket, key, value) in
            [(&b"key"[..], &b"x"[..], &b""[..]), (b"meta", b"term", b"x"), (b"members", b"1", b"{}")]
        {
            assert_eq!(decoded(bucket, key, value), None);
        }
    }
}
