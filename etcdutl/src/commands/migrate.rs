//! `migrate`: the version that a stock member's database says it has, up or down between 3.5 and 3.6.
//!
//! 3.6 notes it under `storageVersion`; that is all that differs. A database without it is of 3.5 if it has what 3.5
//! began to note. Going down is refused while the log holds what only the newer version understands.
//! Source: etcd `etcdutl/etcdutl/migrate_command.go`, `server/storage/schema/{schema,migration}.go`.

use std::path::PathBuf;

use prost::Message;
use proto::{
    etcdserverpb::InternalRaftRequest,
    raftpb::{Entry, EntryType},
};
use store::{
    backend::{Bucket, schema::meta},
    disk::Os,
    wal::{self, frame::Kind, segment},
};

use super::defrag;
use crate::{
    buckets::{Stock, entries},
    cli::{Command, Flag, Invocation},
    data_dir::DataDir,
    exit::{Exit, Outcome},
    log,
    member::database::Changes,
    version::Version,
};

pub static COMMAND: Command = Command {
    usage: "migrate",
    short: "Migrates schema of etcd data dir files to make them compatible with different etcd version",
    flags: &[
        Flag::text("data-dir", "", "Path to the etcd data dir").required(),
        Flag::bool(
            "force",
            "Ignore migration failure and forcefully override storage version. Not recommended.",
        ),
        Flag::text(
            "target-version",
            "",
            "Target etcd version to migrate contents of data dir. Minimal value 3.5. Format \"X.Y\" for example 3.6.",
        )
        .required(),
    ],
    run: Some(run),
    ..Command::EMPTY
};

const STORAGE_VERSION: &[u8] = b"storageVersion";

const V3_5: Version = Version { major: 3, minor: 5 };
const V3_6: Version = Version { major: 3, minor: 6 };

fn target(text: &str) -> Outcome<Version> {
    if text.matches('.').count() != 1 {
        return Err(Exit::bad_args(format!("wrong target version format, expected \"X.Y\", got {text:?}")));
    }
    let version = Version::parse(text).ok_or_else(|| {
        Exit::bad_args(format!("failed to parse target version: {text:?} is not a version"))
    })?;
    match version < V3_5 {
        true => Err(Exit::bad_args(format!("target version \"{version}\" not supported. Minimal \"3.5\""))),
        false => Ok(version),
    }
}

fn run(invocation: &Invocation) -> Outcome {
    let flags = &invocation.flags;
    let target = target(&flags.text("target-version"))?;
    let dir = DataDir::new(flags.path("data-dir"), PathBuf::new());
    let _held = dir.lock()?;
    if !dir.is_stock() && dir.own_database().exists() {
        return Err(Exit::failed(format!(
            "{} is Keelson's own database, which has no storage version: `etcdutl export` makes a stock one",
            dir.own_database().display()
        )));
    }
    let stock = Stock::open(&dir.stock_database())?;
    let meta = entries(&stock, Bucket::Meta.name().as_bytes())?;
    let text = |key: &[u8]| meta.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
    let term = meta.get(meta::TERM).is_some_and(|term| term.iter().any(|byte| *byte != 0));
    let current = detect(text(STORAGE_VERSION).as_deref(), meta.contains_key(meta::CONF_STATE), term)?;
    if current == target {
        log::info("storage version up-to-date", &[("storage-version", current.to_string().into())]);
        return Ok(());
    }
    let allowed = plan(current, target).and_then(|()| match target < current {
        true => fits_log(newest_in_log(&dir)?, target),
        false => Ok(()),
    });
    let forced = match allowed {
        Err(exit) if flags.bool("force") => {
            let error = exit.message.unwrap_or_default();
            log::info("normal migrate failed, trying with force", &[("error", error.into())]);
            true
        }
        allowed => allowed.map(|()| false)?,
    };
    let mut changes = Changes::none();
    changes.meta(&stock, |meta| {
        match target < V3_6 {
            true => meta.remove(STORAGE_VERSION),
            false => meta.insert(STORAGE_VERSION.into(), format!("{target}.0").into()),
        };
    })?;
    drop(stock);
    defrag::rewrite(&dir, &changes)?;
    match (forced, target < V3_6) {
        (true, true) => log::warn("forcefully cleared storage version", &[]),
        (true, false) => {
            log::warn("forcefully set storage version", &[("storage-version", target.to_string().into())]);
        }
        _ => log::info("updated storage version", &[("new-storage-version", format!("{target}.0").into())]),
    }
    Ok(())
}

/// The version of a database that says `stored`, and has a configuration and a term or not.
fn detect(stored: Option<&str>, conf_state: bool, term: bool) -> Outcome<Version> {
    match stored {
        Some(text) => Version::parse(text)
            .ok_or_else(|| Exit::failed(format!("cannot detect storage schema version: malformed {text:?}"))),
        None if !conf_state => Err(Exit::failed("missing confstate information")),
        None if !term => Err(Exit::failed("missing term information")),
        None => Ok(V3_5),
    }
}

fn plan(current: Version, target: Version) -> Outcome {
    if current.major != target.major {
        return Err(Exit::failed(
            "cannot create migration plan: changing major storage version is not supported",
        ));
    }
    // Each step is described by the newer of its two versions, of which only 3.6 is known.
    let steps = current.min(target).minor + 1..=current.max(target).minor;
    let unknown = match current < target {
        true => steps.clone().find(|minor| *minor != V3_6.minor),
        false => steps.rev().find(|minor| *minor != V3_6.minor),
    };
    match unknown {
        None => Ok(()),
        Some(minor) => Err(Exit::failed(format!(
            "cannot create migration plan: version \"{}.{minor}.0\" is not supported",
            current.major
        ))),
    }
}

fn fits_log(newest: Option<Version>, target: Version) -> Outcome {
    match newest.filter(|newest| target < *newest) {
        None => Ok(()),
        Some(newest) => Err(Exit::failed(format!(
            "cannot downgrade storage, WAL contains newer entries, as the target version ({target}.0) is lower than the \
             version ({newest}.0) detected from WAL logs"
        ))),
    }
}

/// The newest version that an entry behind the newest snapshot needs to be understood.
fn newest_in_log(dir: &DataDir) -> Outcome<Option<Version>> {
    let markers = wal::valid_snapshots(&Os, &dir.wal).map_err(Exit::failed)?;
    let begin = markers.iter().map(|marker| marker.index).max().unwrap_or(0);
    let names = segment::list(&Os, &dir.wal).map_err(Exit::failed)?;
    let mut newest = None;
    let scanned = segment::scan(&Os, &dir.wal, &names, &mut |at, kind, data| {
        if kind == Kind::Entry {
            let entry = Entry::decode(data).map_err(|_| at.corrupt("malformed entry"))?;
            if entry.index > begin {
                newest = newest.max(needed_by(&entry));
            }
        }
        Ok(())
    });
    scanned.map_err(Exit::failed)?;
    Ok(newest)
}

fn needed_by(entry: &Entry) -> Option<Version> {
    if entry.r#type != EntryType::EntryNormal as i32 {
        return None;
    }
    let request = InternalRaftRequest::decode(entry.data.clone().unwrap_or_default()).ok()?;
    let set = request.cluster_version_set.and_then(|it| Version::parse(&it.ver));
    let test = request.downgrade_version_test.and_then(|it| Version::parse(&it.ver));
    set.max(test)
}

#[cfg(test)]
mod tests {
    use proto::membershippb::ClusterVersionSetRequest;

    use super::*;

    fn text(outcome: Outcome<impl std::fmt::Debug>) -> String {
        outcome.unwrap_err().message.unwrap()
    }

    #[test]
    fn targets_are_major_and_minor() {
        assert_eq!(target("3.6").unwrap(), V3_6);
        assert_eq!(text(target("3.6.0")), "wrong target version format, expected \"X.Y\", got \"3.6.0\"");
        assert_eq!(text(target("3.4")), "target version \"3.4\" not supported. Minimal \"3.5\"");
        assert!(text(target("3.x")).starts_with("failed to parse target version: "));
    }

    #[test]
    fn versions_are_detected() {
        assert_eq!(detect(Some("3.6.0"), false, false).unwrap(), V3_6);
        assert_eq!(detect(None, true, true).unwrap(), V3_5);
        assert_eq!(text(detect(None, false, true)), "missing confstate information");
        assert_eq!(text(detect(None, true, false)), "missing term information");
        assert!(detect(Some("?"), true, true).is_err());
    }

    #[test]
    fn only_the_step_to_3_6_and_back_is_known() {
        let v = |minor| Version { major: 3, minor };
        assert!(plan(V3_5, V3_6).is_ok() && plan(V3_6, V3_5).is_ok());
        let refused =
            |minor| format!("cannot create migration plan: version \"3.{minor}.0\" is not supported");
        assert_eq!(text(plan(V3_5, v(8))), refused(7));
        assert_eq!(text(plan(v(7), V3_5)), refused(7));
        assert_eq!(
            text(plan(V3_5, Version { major: 4, minor: 0 })),
            "cannot create migration plan: changing major storage version is not supported"
        );
    }

    #[test]
    fn newer_entries_forbid_the_way_down() {
        let set = InternalRaftRequest {
            cluster_version_set: Some(ClusterVersionSetRequest { ver: "3.6.0".into() }),
            ..Default::default()
        };
        let entry = Entry { r#type: 0, term: 1, index: 1, data: Some(set.encode_to_vec().into()) };
        assert_eq!(needed_by(&entry), Some(V3_6));
        assert!(
            text(fits_log(Some(V3_6), V3_5))
                .starts_with("cannot downgrade storage, WAL contains newer entries")
        );
        assert!(fits_log(Some(V3_5), V3_5).is_ok() && fits_log(None, V3_5).is_ok());
    }
}
