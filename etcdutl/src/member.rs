//! A member in etcd's format: database, `.snap` file and log, as a stock etcd and ours start from.
//!
//! `Staging` builds it beside its place, in `member.part`, and gives it its name when all of it is on disk; what fails
//! is removed, and what a crash left counts as nothing at the next try. `database` writes the database.
//! Source: etcd `etcdutl/snapshot/v3_snapshot.go`.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::{
    etcdserverpb::Metadata,
    raftpb::{Entry, HardState, Snapshot, SnapshotMetadata},
    walpb,
};
use store::{
    disk::{Disk, Os},
    snap,
    wal::{self, EntryRef, Wal},
};

use crate::exit::{Exit, Outcome};

pub mod database;

const PART: &str = "member.part";

/// What raft keeps of a member.
pub struct Raft {
    pub metadata: Metadata,
    pub hard_state: HardState,
    /// What the database stands for.
    pub marker: SnapshotMetadata,
    /// Members and version at the marker, as etcd's v2 store.
    pub v2_store: String,
    /// In order, without gaps; those up to the marker may be there.
    pub entries: Vec<Entry>,
}

/// A data directory in the making.
pub struct Staging {
    data_dir: PathBuf,
    /// Where the log will be, if not within the data directory.
    wal_elsewhere: Option<PathBuf>,
    created_data_dir: bool,
    done: bool,
}

impl Staging {
    /// Makes the directory, which must be empty or absent; so must `wal_elsewhere` be absent.
    pub fn begin(data_dir: &Path, wal_elsewhere: Option<&Path>) -> Outcome<Staging> {
        let created_data_dir = !data_dir.exists();
        let is_empty = || -> std::io::Result<bool> {
            let names = Os.list(data_dir)?;
            Ok(names.iter().all(|name| name == PART))
        };
        if !created_data_dir && !is_empty().unwrap_or(false) {
            return Err(Exit::failed(format!("data-dir {data_dir:?} not empty or could not be read")));
        }
        if let Some(dir) = wal_elsewhere.filter(|dir| dir.exists()) {
            return Err(Exit::failed(format!("wal-dir {dir:?} exists")));
        }
        let staging = Staging {
            data_dir: data_dir.into(),
            wal_elsewhere: wal_elsewhere.map(Into::into),
            created_data_dir,
            done: false,
        };
        let part = staging.part();
        if part.exists() {
            Os.remove_dir_all(&part).map_err(Exit::io("remove", &part))?;
        }
        let snap = staging.snap_dir();
        Os.create_dir_all(&snap).map_err(Exit::io("mkdir", &snap))?;
        Ok(staging)
    }

    fn part(&self) -> PathBuf {
        self.data_dir.join(PART)
    }

    fn snap_dir(&self) -> PathBuf {
        self.part().join("snap")
    }

    /// Where the database belongs.
    pub fn database(&self) -> PathBuf {
        self.snap_dir().join("db")
    }

    fn wal_dir(&self) -> PathBuf {
        self.wal_elsewhere.clone().unwrap_or_else(|| self.part().join("wal"))
    }

    /// Writes `.snap` and log.
    pub fn write_raft(&self, raft: &Raft) -> Outcome {
        let marker = &raft.marker;
        let snapshot = Snapshot { data: Some(raft.v2_store.clone().into()), metadata: marker.clone() };
        snap::save(&Os, &self.snap_dir(), &snapshot).map_err(Exit::failed)?;
        let split = raft.entries.partition_point(|entry| entry.index <= marker.index);
        let (before, after) = raft.entries.split_at(split);
        let record = walpb::Snapshot {
            index: marker.index,
            term: marker.term,
            conf_state: Some(marker.conf_state.clone()),
        };
        let write = || -> Result<(), wal::Error> {
            let options = wal::Options::default();
            let mut log = Wal::create(Arc::new(Os), &self.wal_dir(), &raft.metadata, options)?;
            log.save(Some(&raft.hard_state), before.iter().map(EntryRef::from))?;
            log.save_snapshot(&record)?;
            log.save(None, after.iter().map(EntryRef::from))?;
            log.sync()
        };
        write().map_err(Exit::failed)
    }

    /// Makes it a data directory, durable on return.
    pub fn finish(mut self) -> Outcome {
        let (part, member) = (self.part(), self.data_dir.join("member"));
        for dir in [self.snap_dir(), part.clone()] {
            Os.sync_dir(&dir).map_err(Exit::io("sync", &dir))?;
        }
        Os.rename(&part, &member).map_err(Exit::io("rename", &part))?;
        self.done = true;
        Os.sync_dir(&self.data_dir).map_err(Exit::io("sync", &self.data_dir))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // The error that led here is the one to tell.
        let _ = Os.remove_dir_all(&self.part());
        if let Some(dir) = &self.wal_elsewhere {
            let mut unfinished = OsString::from(dir);
            unfinished.push(".tmp");
            let _ = Os.remove_dir_all(dir);
            let _ = Os.remove_dir_all(Path::new(&unfinished));
        }
        if self.created_data_dir {
            let _ = fs::remove_dir(&self.data_dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        Os.list(dir).unwrap()
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let (data, log) = (home.path().join("a/data"), home.path().join("log"));
        let staging = Staging::begin(&data, Some(&log)).unwrap();
        fs::create_dir(&log).unwrap();
        drop(staging);
        assert!(!data.exists() && !log.exists());

        fs::create_dir_all(&data).unwrap();
        drop(Staging::begin(&data, None).unwrap());
        assert!(data.exists() && names(&data).is_empty());
    }

    #[test]
    fn only_an_empty_directory_is_taken() {
        let home = tempfile::tempdir().unwrap();
        // What a crash left is none of it.
        fs::create_dir_all(home.path().join(PART).join("snap/rest")).unwrap();
        Staging::begin(home.path(), None).unwrap().finish().unwrap();
        assert_eq!(names(home.path()), ["member"]);
        let Err(error) = Staging::begin(home.path(), None) else { panic!("it was taken") };
        let text = format!("data-dir {:?} not empty or could not be read", home.path());
        assert_eq!(error, Exit::failed(text));
        let Err(error) = Staging::begin(&home.path().join("new"), Some(home.path())) else { panic!("taken") };
        assert_eq!(error, Exit::failed(format!("wal-dir {:?} exists", home.path())));
    }

    #[test]
    fn a_log_begins_at_its_marker() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let entry = |index, term| Entry { r#type: 0, term, index, data: None };
        let raft = Raft {
            metadata: Metadata { node_id: 1, cluster_id: 2 },
            hard_state: HardState { term: 7, vote: 1, commit: 101 },
            marker: SnapshotMetadata { index: 100, term: 5, ..Default::default() },
            v2_store: "{}".into(),
            entries: vec![entry(101, 5), entry(102, 6)],
        };
        let staging = Staging::begin(&data, None).unwrap();
        staging.write_raft(&raft).unwrap();
        staging.finish().unwrap();

        let dir = data.join("member/wal");
        let known = wal::newest_snapshots(&Os, &dir).unwrap();
        let loaded = snap::load_newest(&Os, &data.join("member/snap"), &known).unwrap().snapshot.unwrap();
        assert_eq!((loaded.metadata.index, loaded.data.unwrap().as_ref()), (100, &b"{}"[..]));
        let from = walpb::Snapshot { index: 100, term: 5, conf_state: None };
        let (_, found) = Wal::open(Arc::new(Os), &dir, &from, wal::Options::default()).unwrap();
        assert_eq!(
            (found.metadata, found.hard_state, found.entries),
            (raft.metadata, raft.hard_state, raft.entries)
        );
    }
}
