//! `backup`: 3.5's copy of a data directory for a new cluster. Refused, with what does the same.

use crate::{
    cli::{Command, Flag},
    exit::Exit,
};

pub static COMMAND: Command = Command {
    usage: "backup",
    short: "[legacy] offline backup of etcd directory",
    flags: &[
        Flag::text("backup-dir", "", "Path to the backup dir"),
        Flag::text("backup-wal-dir", "", "Path to the backup wal dir"),
        Flag::text("data-dir", "", "Path to the etcd data dir"),
        Flag::text("wal-dir", "", "Path to the etcd wal dir"),
        Flag::bool("with-v3", "Backup v3 backend data"),
    ],
    run: Some(|_| {
        Err(Exit::failed(
            "backup is not supported: copy the data directory of a stopped member, or use `etcdctl snapshot save` and \
             `etcdutl snapshot restore`",
        ))
    }),
    deprecated: Some("Prefer: `etcdctl snapshot save` instead."),
    ..Command::EMPTY
};
