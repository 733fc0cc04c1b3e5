//! Runs of etcdutl, ours and theirs.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const OURS: &str = env!("CARGO_BIN_EXE_etcdutl");

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub out: String,
    /// Without the lines of logs, which hold times.
    pub err: String,
    pub code: Option<i32>,
}

pub fn run(program: &Path, dir: &Path, args: &[&str]) -> Answer {
    let output = Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    let is_log = |line: &&str| line.starts_with("20") && line.contains("Z\t");
    Answer {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: err.lines().filter(|line| !is_log(line)).map(|line| format!("{line}\n")).collect(),
        code: output.status.code(),
    }
}

pub fn ours(dir: &Path, args: &[&str]) -> Answer {
    run(Path::new(OURS), dir, args)
}

/// What ours prints when all went well.
pub fn succeed(dir: &Path, args: &[&str]) -> String {
    let answer = ours(dir, args);
    assert_eq!(answer.code, Some(0), "{args:?}: {}", answer.err);
    answer.out
}

/// What ours says when it did not.
pub fn fail(dir: &Path, args: &[&str]) -> String {
    let answer = ours(dir, args);
    assert_eq!(answer.code, Some(1), "{args:?} printed {}", answer.out);
    assert!(answer.err.starts_with("Error: ") && !answer.err.contains("panicked"), "{}", answer.err);
    answer.err
}

/// A stock `etcdctl` of the 3.5 line saves a snapshot.
pub fn save_snapshot(etcdctl: &Path, endpoint: &str, to: &Path) {
    let output = Command::new(etcdctl)
        .env("ETCDCTL_API", "3")
        .args([OsStr::new("--endpoints"), OsStr::new(endpoint), OsStr::new("snapshot"), OsStr::new("save")])
        .arg(to)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Programs of the 3.5 line.
pub struct Stock {
    pub etcd: integration::binary::Binary,
    pub etcdctl: PathBuf,
    pub etcdutl: PathBuf,
}

pub fn stock() -> Option<Stock> {
    let etcd = integration::binary::peer("3.5.")?;
    let etcdutl = integration::binary::etcdutl("3.5.")?;
    let etcdctl = etcdutl.parent()?.join("etcdctl");
    Some(Stock { etcd, etcdctl, etcdutl })
}
