//! `defrag`: rewrites the database of a stopped stock member without its holes. Ours has none to remove.

use std::{
    fs,
    path::{Path, PathBuf},
};

use store::disk::{Disk, Os};

use crate::{
    buckets::Stock,
    cli::{Command, Flag, Invocation},
    data_dir::DataDir,
    exit::{Exit, Outcome},
    log,
    member::database::{self, Changes},
    printer::size,
};

pub static COMMAND: Command = Command {
    usage: "defrag",
    short: "Defragments the storage of the etcd",
    flags: &[
        Flag::text("data-dir", "", "Required. Defragments a data directory not in use by etcd.").required()
    ],
    run: Some(run),
    ..Command::EMPTY
};

/// A stock server removes files of such names.
const UNFINISHED: &str = "db.tmp.etcdutl";

fn run(invocation: &Invocation) -> Outcome {
    let root = invocation.flags.path("data-dir");
    defragment(&root).map_err(|exit| match exit.message {
        Some(message) => {
            Exit::failed(format!("Failed to defragment etcd data[{}] ({message})", root.display()))
        }
        None => exit,
    })
}

fn defragment(root: &Path) -> Outcome {
    let dir = DataDir::new(root.into(), PathBuf::new());
    let _held = dir.lock()?;
    let path = dir.stock_database();
    if !dir.is_stock() && dir.own_database().exists() {
        log::info(
            "nothing to defragment: this database gives space back by itself",
            &[("path", log::path(&dir.own_database()))],
        );
        return Ok(());
    }
    let before = fs::metadata(&path).map_err(Exit::io("open", &path))?.len();
    let sizes = |bytes: u64| {
        [
            ("path", log::path(&path)),
            ("current-db-size-bytes", bytes.into()),
            ("current-db-size", size(bytes).into()),
        ]
    };
    log::info("defragmenting", &sizes(before));
    rewrite(&dir, &Changes::none())?;
    let after = fs::metadata(&path).map_err(Exit::io("stat", &path))?.len();
    log::info("finished defragmenting directory", &sizes(after));
    Ok(())
}

/// Puts a changed copy in the place of a stock database that the caller holds, in one step.
pub fn rewrite(dir: &DataDir, changes: &Changes) -> Outcome {
    let (path, unfinished) = (dir.stock_database(), dir.snap.join(UNFINISHED));
    let stock = Stock::open(&path)?;
    if unfinished.exists() {
        Os.remove_file(&unfinished).map_err(Exit::io("remove", &unfinished))?;
    }
    database::write(&stock, changes, &unfinished).inspect_err(|_| {
        // The error at hand is the one to tell.
        let _ = Os.remove_file(&unfinished);
    })?;
    Os.rename(&unfinished, &path).map_err(Exit::io("rename", &unfinished))?;
    Os.sync_dir(&dir.snap).map_err(Exit::io("sync", &dir.snap))
}
