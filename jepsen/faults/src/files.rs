//! Damage to the files of a server that does not run: flipped bits, cut tails.
//!
//! The file is chosen by a seed among those that match, the places by the same seed. What was done is returned, so
//! that a report can say it. Sizes and offsets are in bytes. What is cut or flipped is synced, so that a later loss of
//! power does not mend it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// One flipped bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flip {
    pub offset: u64,
    /// 0 = the lowest.
    pub bit: u8,
}

/// Files can be damaged wherever they can be written.
pub fn available() -> Result<(), String> {
    Ok(())
}

/// All regular files below `dir` whose path, from `dir` on, `matches` accepts; sorted. Links are not followed.
pub fn matching(dir: &Path, matches: impl Fn(&Path) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![dir.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let (path, file_type) = (entry.path(), entry.file_type()?);
            if file_type.is_dir() {
                directories.push(path);
            } else if file_type.is_file() && path.strip_prefix(dir).is_ok_and(&matches) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// One of `files` that is not empty, each as probable; `None` if there is none.
pub fn choose(files: &[PathBuf], seed: u64) -> io::Result<Option<&PathBuf>> {
    let mut filled = Vec::new();
    for file in files {
        if fs::metadata(file)?.len() > 0 {
            filled.push(file);
        }
    }
    Ok(filled.choose(&mut StdRng::seed_from_u64(seed)).copied())
}

/// Flips `count` different bits of a file, or all of them if it has fewer, and syncs it. Returns them sorted.
pub fn flip_bits(path: &Path, count: usize, seed: u64) -> io::Result<Vec<Flip>> {
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut random = StdRng::seed_from_u64(seed);
    let mut flips = BTreeSet::new();
    while (flips.len() as u64) < (count as u64).min(length.saturating_mul(8)) {
        flips.insert(Flip { offset: random.random_range(0..length), bit: random.random_range(0..8) });
    }
    for flip in &flips {
        let mut byte = [0];
        file.read_exact_at(&mut byte, flip.offset)?;
        byte[0] ^= 1 << flip.bit;
        file.write_all_at(&byte, flip.offset)?;
    }
    file.sync_all()?;
    Ok(flips.into_iter().collect())
}

/// Cuts 1 to `at_most` bytes from the end of a file, and syncs it. Returns how many; 0 if there was nothing to cut.
pub fn cut_tail(path: &Path, at_most: u64, seed: u64) -> io::Result<u64> {
    let file = File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    let at_most = at_most.min(length);
    if at_most == 0 {
        return Ok(0);
    }
    let cut = StdRng::seed_from_u64(seed).random_range(1..=at_most);
    file.set_len(length - cut)?;
    file.sync_all()?;
    Ok(cut)
}
