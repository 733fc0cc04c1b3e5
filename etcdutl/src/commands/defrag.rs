//! `defrag`: rewrites the database of a stopped member without its holes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use store::{
    backend::Backend,
    disk::{Disk, Os},
};

use crate::{
    buckets::Stock,
    cli::{Command, Flag, Invocation},
    data_dir::{DataDir, change_own},
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
    let held = dir.lock()?;
    if !dir.is_stock() && dir.own_database().exists() {
        let path = dir.own_database();
        let own = change_own(&path, &held)?;
        log::info("defragmenting", &sizes(&path, own.size_bytes()));
        own.defragment().map_err(Exit::at(&path))?;
        log::info("finished defragmenting directory", &sizes(&path, own.size_bytes()));
        return Ok(());
    }
    let path = dir.stock_database();
    let size = || fs::metadata(&path).map(|file| file.len()).map_err(Exit::io("stat", &path));
    log::info("defragmenting", &sizes(&path, size()?));
    rewrite(&dir, &Changes::none())?;
    log::info("finished defragmenting directory", &sizes(&path, size()?));
    Ok(())
}

fn sizes(path: &Path, bytes: u64) -> [(&'static str, Value); 3] {
    [
        ("path", log::path(path)),
        ("current-db-size-bytes", bytes.into()),
        ("current-db-size", size(bytes).into()),
    ]
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
