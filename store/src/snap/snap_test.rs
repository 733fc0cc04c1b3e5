//! Snapshot files: etcd's bytes, damage, crashes.

use super::*;
use crate::disk::{Fault, Sim};

fn dir() -> &'static Path {
    Path::new("/m/snap")
}

fn snapshot(term: u64, index: u64) -> raftpb::Snapshot {
    let conf_state = raftpb::ConfState { voters: vec![1, 2], ..Default::default() };
    let metadata = raftpb::SnapshotMetadata { conf_state, index, term };
    raftpb::Snapshot { data: Some(vec![index as u8; 2000].into()), metadata }
}

fn mark(term: u64, index: u64) -> walpb::Snapshot {
    walpb::Snapshot { index, term, conf_state: None }
}

fn sim() -> Sim {
    let sim = Sim::new();
    sim.create_dir_all(dir()).unwrap();
    sim
}

#[test]
fn an_etcd_3_5_1_file_is_read() {
    let bytes = Bytes::from_static(include_bytes!("testdata/0000000000000002-0000000000000009.snap"));
    let snapshot = decode(bytes.clone()).unwrap();
    assert_eq!((snapshot.metadata.term, snapshot.metadata.index), (2, 9));
    assert_eq!(snapshot.metadata.conf_state.voters.len(), 1);
    assert_eq!(encode(&snapshot), bytes);
    for at in (0..bytes.len()).step_by(13) {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x10;
        assert!(decode(damaged.into()).is_err(), "byte {at}");
    }
    assert_eq!(decode(Bytes::new()), Err(Unreadable::Empty));
}

#[test]
fn the_newest_marked_and_readable_one_is_loaded() {
    let sim = sim();
    for index in [3, 5, 7, 9] {
        save(&sim, dir(), &snapshot(1, index)).unwrap();
    }
    sim.create(&dir().join("0000000000000001-000000000000000b.snap.tmp")).unwrap();
    sim.create(&dir().join("db")).unwrap();
    sim.flip(&dir().join("0000000000000001-0000000000000007.snap"), 900, 1).unwrap();
    let valid = [mark(0, 0), mark(1, 3), mark(1, 5), mark(1, 7), mark(2, 9)];
    let loaded = load_newest(&sim, dir(), &valid).unwrap();
    assert_eq!(loaded.snapshot, Some(snapshot(1, 5)));
    let broken = dir().join("0000000000000001-0000000000000007.snap.broken");
    assert_eq!(loaded.broken, [(broken, "snap: crc mismatch".to_string())]);
    let names = sim.list(dir()).unwrap();
    assert!(names.iter().any(|n| n == "db") && !names.iter().any(|n| n.ends_with(".tmp")), "{names:?}");
    assert_eq!(load_newest(&sim, dir(), &[]).unwrap().snapshot, None);
    assert_eq!(purge(&sim, dir(), 0).unwrap(), [] as [PathBuf; 0]);
    assert_eq!(purge(&sim, dir(), 2).unwrap(), [dir().join("0000000000000001-0000000000000003.snap")]);
}

#[test]
fn every_crash_leaves_the_old_or_the_new_one() {
    for keep in [false, true] {
        for point in 0..5 {
            let sim = sim();
            save(&sim, dir(), &snapshot(1, 3)).unwrap();
            sim.power_off_after(point);
            let saved = save(&sim, dir(), &snapshot(1, 5));
            sim.crash(&mut |_| keep);
            let loaded = load_newest(&sim, dir(), &[mark(1, 3), mark(1, 5)]).unwrap();
            let found = loaded.snapshot.unwrap().metadata.index;
            assert!(found == 5 || (found == 3 && saved.is_err()), "point {point}, keep {keep}");
            assert!(loaded.broken.is_empty());
        }
    }
}

#[test]
fn a_failed_save_is_an_error_and_leaves_nothing() {
    let sim = sim();
    sim.inject(Fault::Sync { after: 0 });
    assert!(save(&sim, dir(), &snapshot(1, 3)).is_err());
    sim.set_capacity_bytes(100);
    let error = save(&sim, dir(), &snapshot(1, 3)).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
    assert_eq!(sim.list(dir()).unwrap(), [] as [String; 0]);
}
