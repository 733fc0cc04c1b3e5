//! The server program of a run, and which of the flags that runs like to set it knows.
//!
//! Any etcd will do: flags are etcd's, in the spelling that the program takes. Used by `cluster`; probed once.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Flags that not every server has, and what they are for.
const OPTIONAL: [&str; 3] =
    ["snapshot-catchup-entries", "watch-progress-notify-interval", "compaction-batch-limit"];

#[derive(Clone, Debug)]
pub struct Binary {
    pub path: PathBuf,
    /// As `--version` says it.
    pub version: String,
    /// Go programs call the kernel themselves: what is preloaded does not reach them.
    pub is_go: bool,
    /// Of `OPTIONAL`, the known ones: name and spelling.
    known: Vec<(&'static str, String)>,
}

impl Binary {
    /// Runs `path --version` and probes the flags; an error if it is no etcd.
    pub fn at(path: &Path) -> io::Result<Binary> {
        let said = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let path = path.canonicalize().map_err(said)?;
        let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output().map_err(said)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        let is_go = text.contains("Go Version: go");
        let version = version.ok_or_else(|| said(io::Error::other("no etcd")))?.trim().to_owned();
        let known = OPTIONAL.iter().filter_map(|&name| Some((name, spelling(&path, name)?)));
        let known = known.collect();
        Ok(Binary { path, version, is_go, known })
    }

    /// The server beside the running program: `target/release/etcd` for one in `target/release` or below it.
    pub fn beside_this_program() -> io::Result<Binary> {
        let program = std::env::current_exe()?;
        let found = program.ancestors().skip(1).take(2).map(|directory| directory.join("etcd"));
        let found = found.into_iter().find(|path| path.is_file());
        Binary::at(
            &found.ok_or_else(|| io::Error::other("no etcd beside this program: build it, or name one"))?,
        )
    }

    /// `--name=value`, if the program knows it.
    pub fn flag(&self, name: &str, value: impl std::fmt::Display) -> Option<String> {
        let (_, spelling) = self.known.iter().find(|(known, _)| *known == name)?;
        Some(format!("--{spelling}={value}"))
    }
}

fn spelling(path: &Path, name: &str) -> Option<String> {
    let value = if name.ends_with("interval") { "1s" } else { "100" };
    [name.to_owned(), format!("experimental-{name}")].into_iter().find(|spelling| {
        let flag = format!("--{spelling}={value}");
        let output = Command::new(path).args([&flag, "--version"]).stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    })
}
