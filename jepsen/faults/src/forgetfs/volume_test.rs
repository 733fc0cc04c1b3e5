//! Names and files over losses of power, without a kernel.

use std::ffi::OsStr;

use super::*;

const OWNER: Owner = Owner { uid: 0, gid: 0, mode: libc::S_IFREG | 0o644 };

fn volume(directory_sync: DirectorySync) -> Volume {
    Volume::new(directory_sync, None, Owner { mode: libc::S_IFDIR | 0o755, ..OWNER })
}

/// A seed that keeps nothing.
fn nothing_kept() -> u64 {
    let draws = |seed: &u64| StdRng::seed_from_u64(*seed).random_range(0..8) < 2;
    (0..).find(draws).expect("a quarter of all seeds")
}

fn file(volume: &mut Volume, parent: Number, name: &str, bytes: &[u8]) -> Number {
    let number =
        volume.create(parent, OsStr::new(name), Body::File(Content::default()), OWNER).expect("a new file");
    volume.write(number, 0, bytes).expect("room");
    number
}

fn directory(volume: &mut Volume, parent: Number, name: &str) -> Number {
    let body = Body::Directory(Directory::default());
    volume.create(parent, OsStr::new(name), body, OWNER).expect("a new directory")
}

fn names(volume: &Volume, number: Number) -> Vec<String> {
    let names = volume.list(number).expect("a directory");
    names.iter().skip(2).map(|(name, _)| name.to_string_lossy().into_owned()).collect()
}

#[test]
fn a_synced_file_without_a_synced_name_is_gone() {
    let mut volume = volume(DirectorySync::Strict);
    let number = file(&mut volume, ROOT, "a", b"bytes");
    volume.sync(number).expect("sync");
    let lost = volume.lose_power(nothing_kept());
    assert_eq!((lost.entries, names(&volume, ROOT)), (1, vec![]));
    assert_eq!((volume.used, volume.inodes.len()), (0, 1));
}

#[test]
fn with_a_journal_any_sync_saves_all_names() {
    let mut volume = volume(DirectorySync::Journal);
    file(&mut volume, ROOT, "a", b"bytes");
    let inner = directory(&mut volume, ROOT, "d");
    let synced = file(&mut volume, inner, "b", b"bytes");
    volume.sync(synced).expect("sync");
    volume.lose_power(nothing_kept());
    assert_eq!(
        (names(&volume, ROOT), names(&volume, inner)),
        (vec!["a".into(), "d".into()], vec!["b".into()])
    );
    assert_eq!(volume.read(synced, 0, 10), Ok(b"bytes".to_vec()));
    let unsynced = volume.find(ROOT, OsStr::new("a")).expect("there");
    assert_eq!(volume.read(unsynced, 0, 10), Ok(vec![]));
}

#[test]
fn a_rename_without_a_directory_sync_vanishes_as_a_whole() {
    let mut volume = volume(DirectorySync::Strict);
    let old = file(&mut volume, ROOT, "a", b"old");
    volume.sync(old).expect("sync");
    volume.sync(ROOT).expect("sync");
    let new = file(&mut volume, ROOT, "tmp", b"new");
    volume.sync(new).expect("sync");
    volume.sync(ROOT).expect("sync");
    volume.rename((ROOT, OsStr::new("tmp")), (ROOT, OsStr::new("a")), 0).expect("rename");
    assert_eq!((names(&volume, ROOT), volume.find(ROOT, OsStr::new("a"))), (vec!["a".into()], Ok(new)));
    volume.lose_power(nothing_kept());
    assert_eq!(names(&volume, ROOT), ["a", "tmp"]);
    assert_eq!(volume.find(ROOT, OsStr::new("a")), Ok(old));
    assert_eq!(volume.read(old, 0, 10), Ok(b"old".to_vec()));

    volume.rename((ROOT, OsStr::new("tmp")), (ROOT, OsStr::new("a")), 0).expect("rename");
    volume.sync(ROOT).expect("sync");
    volume.lose_power(nothing_kept());
    assert_eq!((names(&volume, ROOT), volume.find(ROOT, OsStr::new("a"))), (vec!["a".into()], Ok(new)));
    assert!(volume.inode(old).is_err(), "nothing names it");
}

#[test]
fn a_removal_that_was_not_synced_comes_back_with_its_bytes() {
    let mut volume = volume(DirectorySync::Strict);
    let inner = directory(&mut volume, ROOT, "d");
    let number = file(&mut volume, inner, "a", b"bytes");
    for number in [number, inner, ROOT] {
        volume.sync(number).expect("sync");
    }
    volume.unlink(inner, OsStr::new("a"), false).expect("unlink");
    assert_eq!(volume.unlink(ROOT, OsStr::new("d"), false), Err(libc::EISDIR));
    volume.unlink(ROOT, OsStr::new("d"), true).expect("rmdir");
    assert_eq!((volume.used, names(&volume, ROOT)), (0, vec![]));
    volume.lose_power(nothing_kept());
    assert_eq!((names(&volume, ROOT), names(&volume, inner)), (vec!["d".into()], vec!["a".into()]));
    assert_eq!(volume.read(number, 0, 10), Ok(b"bytes".to_vec()));
    assert_eq!(volume.used, 4096);
}

#[test]
fn a_synced_removal_frees_all() {
    let mut volume = volume(DirectorySync::Strict);
    let number = file(&mut volume, ROOT, "a", b"bytes");
    volume.looked_up(number);
    volume.sync(ROOT).expect("sync");
    volume.unlink(ROOT, OsStr::new("a"), false).expect("unlink");
    volume.sync(ROOT).expect("sync");
    assert_eq!((volume.used, volume.inodes.len()), (0, 2), "still open");
    volume.write(number, 0, b"more").expect("room");
    volume.forget(number, 1);
    assert_eq!((volume.used, volume.inodes.len()), (0, 1));
}

#[test]
fn a_full_volume_refuses_and_recovers() {
    let mut volume = volume(DirectorySync::Strict);
    volume.capacity = Some(8192);
    let number = file(&mut volume, ROOT, "a", &[1; 4096]);
    assert_eq!(volume.write(number, 4096, &[1; 4097]), Err(libc::ENOSPC));
    assert_eq!(volume.fallocate(number, 0, 3 * 4096, 0), Err(libc::ENOSPC));
    volume.write(number, 0, &[2; 8192]).expect("just fits");
    assert_eq!(volume.space(), (8192, 0));
    volume.unlink(ROOT, OsStr::new("a"), false).expect("unlink");
    assert_eq!((volume.space(), volume.stats.refused_full), ((8192, 8192), 2));
}

/// Random changes of names and syncs of directories; after a loss of power that keeps nothing, the names are those of
/// a plain model, and everything that is not named is freed.
#[test]
fn names_agree_with_a_model() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut volume = volume(DirectorySync::Strict);
        let mut durable = names(&volume, ROOT);
        for _ in 0..60 {
            let mut name = || OsString::from(format!("n{}", random.random_range(0..5)));
            let (a, b) = (name(), name());
            match random.random_range(0..6) {
                0 | 1 => {
                    if let Ok(number) = volume.create(ROOT, &a, Body::File(Content::default()), OWNER) {
                        volume.write(number, 0, b"x").expect("room");
                    }
                }
                2 => drop(volume.unlink(ROOT, &a, false)),
                3 => drop(volume.rename((ROOT, &a), (ROOT, &b), 0)),
                4 => {
                    volume.sync(ROOT).expect("sync");
                    durable = names(&volume, ROOT);
                }
                _ => drop(volume.rename((ROOT, &a), (ROOT, &b), libc::RENAME_EXCHANGE)),
            }
            let seen = volume.inodes.values().filter(|inode| inode.links > 0).map(Inode::used).sum::<u64>();
            assert_eq!(volume.used, seen, "seed {seed}");
        }
        volume.lose_power(nothing_kept());
        assert_eq!(names(&volume, ROOT), durable, "seed {seed}");
        assert_eq!(volume.inodes.len(), durable.len() + 1, "seed {seed}");
    }
}
