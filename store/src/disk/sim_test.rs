//! What the simulated disk keeps and forgets, and that the real one agrees where both can be asked.

use std::io;
use std::path::Path;

use super::*;

fn contents(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    read_all(disk.open(path, Mode::Read).unwrap().as_ref()).unwrap()
}

fn sim() -> Sim {
    let sim = Sim::new();
    sim.create_dir_all(Path::new("/d")).unwrap();
    sim
}

/// A file of so many zeros that a crash keeps.
fn durable(sim: &Sim, path: &Path, len: u64) -> Box<dyn File> {
    let file = sim.create(path).unwrap();
    file.allocate(len).unwrap();
    file.sync_data().unwrap();
    sim.sync_dir(path.parent().unwrap()).unwrap();
    file
}

#[test]
fn a_crash_keeps_what_was_synced_and_asks_about_the_rest() {
    let sim = sim();
    let path = Path::new("/d/f");
    let file = sim.create(path).unwrap();
    file.write_at(&[1; 1024], 0).unwrap();
    file.sync_data().unwrap();
    sim.sync_dir(Path::new("/d")).unwrap();
    file.write_at(&[2; 1536], 0).unwrap();
    let mut asked = Vec::new();
    sim.crash(&mut |unsynced| {
        asked.push(format!("{unsynced:?}"));
        matches!(unsynced, Unsynced::Sector { sector: 1 | 2, .. })
    });
    assert_eq!(asked.len(), 4, "three sectors and a length: {asked:?}");
    assert_eq!(contents(&sim, path), [vec![1; 512], vec![2; 512]].concat());
    assert!(file.write_at(&[3], 0).is_err(), "handles do not outlive a crash");
}

#[test]
fn names_vanish_unless_the_directory_was_synced() {
    let sim = sim();
    let dir = Path::new("/d");
    sim.create(&dir.join("kept")).unwrap();
    sim.sync_dir(dir).unwrap();
    sim.create(&dir.join("lost")).unwrap();
    sim.rename(&dir.join("kept"), &dir.join("renamed")).unwrap();
    assert_eq!(sim.list(dir).unwrap(), ["lost", "renamed"]);
    sim.crash(&mut |_| false);
    assert_eq!(sim.list(dir).unwrap(), ["kept"]);
}

#[test]
fn a_failed_sync_forgets_pages_for_good() {
    let sim = sim();
    let path = Path::new("/d/f");
    let file = durable(&sim, path, 512);
    file.write_at(&[7; 512], 0).unwrap();
    sim.inject(Fault::Sync { after: 0 });
    assert!(file.sync_data().is_err());
    file.sync_data().expect("the next sync claims success");
    assert_eq!(contents(&sim, path), [7; 512]);
    sim.crash(&mut |_| true);
    assert_eq!(contents(&sim, path), [0; 512]);
}

#[test]
fn capacity_short_writes_and_power() {
    let sim = sim();
    let path = Path::new("/d/f");
    let file = sim.create(path).unwrap();
    sim.set_capacity_bytes(1000);
    assert_eq!(file.allocate(2000).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.allocate(1000).unwrap();
    assert_eq!(file.write_at(&[1; 10], 995).unwrap_err().kind(), io::ErrorKind::StorageFull);
    sim.inject(Fault::Write { after: 0, written: 3 });
    assert!(file.write_at(&[9; 6], 0).is_err());
    assert_eq!(contents(&sim, path)[..6], [9, 9, 9, 0, 0, 0]);
    sim.remove_file(path).unwrap();
    assert_eq!(sim.free_bytes(Path::new("/d")).unwrap(), 1000);
    sim.power_off_after(1);
    sim.create(path).unwrap();
    assert!(sim.create(path).is_err());
    assert!(sim.list(Path::new("/d")).is_err());
}

#[test]
fn no_crash_finds_half_of_a_sector_written() {
    let sim = sim();
    let path = Path::new("/d/f");
    let file = durable(&sim, path, 1024);
    sim.inject(Fault::Write { after: 0, written: 600 });
    assert!(file.write_at(&[7; 1024], 0).is_err());
    assert_eq!(contents(&sim, path), [vec![7; 600], vec![0; 424]].concat());
    sim.crash(&mut |_| true);
    assert_eq!(contents(&sim, path), [vec![7; 512], vec![0; 512]].concat());
}

fn locks_lengths_and_lists(disk: &dyn Disk, dir: &Path) {
    let dir = dir.join("a/b");
    disk.create_dir_all(&dir).unwrap();
    let path = dir.join("f");
    let file = disk.create(&path).unwrap();
    file.try_lock().unwrap();
    let other = disk.open(&path, Mode::Write).unwrap();
    assert_eq!(other.try_lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(file);
    other.try_lock().unwrap();
    other.write_at(b"hello", 0).unwrap();
    other.set_len(2).unwrap();
    other.allocate(4).unwrap();
    other.sync_data().unwrap();
    assert_eq!(contents(disk, &path), b"he\0\0");
    assert!(exists(disk, &path).unwrap());
    disk.rename(&path, &dir.join("g")).unwrap();
    disk.sync_dir(&dir).unwrap();
    assert!(!exists(disk, &path).unwrap());
    assert_eq!(disk.list(&dir).unwrap(), ["g"]);
    assert_eq!(disk.open(&path, Mode::Read).err().unwrap().kind(), io::ErrorKind::NotFound);
    assert!(disk.open(&dir.join("g"), Mode::Read).unwrap().write_at(b"x", 0).is_err());
    disk.remove_file(&dir.join("g")).unwrap();
    disk.remove_dir_all(&dir).unwrap();
    assert!(!exists(disk, &dir).unwrap());
    assert!(disk.free_bytes(Path::new("/")).unwrap() > 0);
}

#[test]
fn both_disks_behave_alike() {
    locks_lengths_and_lists(&Sim::new(), Path::new("/root"));
    let dir = tempfile::tempdir().unwrap();
    locks_lengths_and_lists(&Os, dir.path());
}
