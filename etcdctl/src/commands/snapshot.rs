//! `snapshot save`: a member's backend as a file. It appears under its name when it is complete, checked and on disk.
//! `status` and `restore`, deprecated in etcdctl 3.5 and gone in 3.6, are left to etcdutl: they read files, not
//! clusters.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::words::text;
use crate::cli::globals::Session;
use crate::cli::{Command, Invocation};
use crate::client::{Client, Error};
use crate::exit::{BAD_FEATURE, Exit, INTERRUPTED, Outcome};
use crate::go::duration::GoDuration;
use crate::go::error::reason;
use crate::go::number::si_bytes;
use crate::log;

pub static COMMAND: Command = Command {
    usage: "snapshot <subcommand>",
    short: "Manages etcd node snapshots",
    children: &[&SAVE, &RESTORE, &STATUS],
    ..Command::EMPTY
};

static SAVE: Command = Command {
    usage: "save <filename>",
    short: "Stores an etcd node backend snapshot to a given file",
    run: Some(|invocation| Box::pin(save(invocation))),
    ..Command::EMPTY
};

static RESTORE: Command = Command {
    usage: "restore <filename>",
    short: "Restores a snapshot: a command of etcdutl",
    run: Some(|_| Box::pin(refer("restore"))),
    ..Command::EMPTY
};

static STATUS: Command = Command {
    usage: "status <filename>",
    short: "Tells what is in a snapshot: a command of etcdutl",
    run: Some(|_| Box::pin(refer("status"))),
    ..Command::EMPTY
};

async fn refer(command: &str) -> Outcome {
    let refusal =
        format!("`snapshot {command}` reads a file, not a cluster: use `etcdutl snapshot {command}`");
    Err(Exit::new(BAD_FEATURE, refusal))
}

async fn save(mut invocation: Invocation) -> Outcome {
    let [path] = invocation.args.words.as_slice() else {
        return Err(Exit::bad_args("snapshot save expects one argument"));
    };
    let (shown, path) = (path.clone(), PathBuf::from(OsString::from_vec(path.clone())));
    let session = Session::without_client(&mut invocation.flags)?;
    // Backends are of all sizes, so only a limit that was asked for counts.
    let limit = match invocation.flags.is_changed("command-timeout") {
        true => session.options.command_timeout,
        false => Duration::MAX,
    };
    let saved = timeout(limit, fetch_to(&session, &path)).await;
    saved
        .unwrap_or_else(|_| Err(Error::DeadlineExceeded.to_string()))
        .map_err(|why| Exit::new(INTERRUPTED, why))?;
    Ok(io::stdout().write_all(&[b"Snapshot saved at ", &shown[..], b"\n"].concat())?)
}

/// Everything that can go wrong has the same exit code, so texts are all there is to tell.
async fn fetch_to(session: &Session, path: &Path) -> Result<(), String> {
    let [endpoint] = session.endpoints.as_slice() else {
        let endpoints = session.endpoints.join(" ");
        return Err(format!("snapshot must be requested to one selected node, not multiple [{endpoints}]"));
    };
    let client =
        Client::new(&session.endpoints, session.options.clone()).map_err(|error| error.to_string())?;
    client.log_in().await.map_err(|error| error.to_string())?;
    let mut part = Part::create(path)?;
    tell("created temporary db file", &[("path", &part.shown())])?;
    let start = Instant::now();
    let size = fetch(&client, endpoint, &mut part.file).await?;
    part.file.sync_all().map_err(|error| failed("fsync", &part.path, &error))?;
    let took = GoDuration::from(start.elapsed()).to_string();
    tell("fetched snapshot", &[("endpoint", endpoint), ("size", &si_bytes(size)), ("took", &took)])?;
    part.publish()?;
    tell("saved", &[("path", &path.to_string_lossy())])
}

fn tell(message: &str, fields: &[(&str, &str)]) -> Result<(), String> {
    log::line("info", message, fields).map_err(|error| error.to_string())
}

/// The sizes of pages that a backend is made of are multiples of this.
const SECTOR_BYTES: u64 = 512;

/// Copies the stream to the file and returns its size. etcdctl looks at the size alone and leaves the digest to
/// whoever restores; a backup that is found to be broken then is found too late, so it is checked here as well.
async fn fetch(client: &Client, endpoint: &str, file: &mut File) -> Result<u64, String> {
    let opened = client.snapshot().await;
    // A refusal arrives as the first thing of the stream.
    if !matches!(opened, Err(ref error) if error.is_passing()) {
        tell("opened snapshot stream; downloading", &[])?;
        tell("fetching snapshot", &[("endpoint", endpoint)])?;
    }
    let mut stream = opened.map_err(broken)?;
    let mut digest = TrailingDigest::default();
    while let Some(response) = stream.message().await.map_err(|status| broken(status.into()))? {
        digest.update(&response.blob);
        file.write_all(&response.blob).map_err(|error| format!("write: {}", reason(&error)))?;
    }
    tell("completed snapshot read; closing", &[])?;
    digest.check()
}

fn broken(error: Error) -> String {
    let text = error.to_string();
    let logged = log::line("warn", "failed to receive from snapshot stream; closing", &[("error", &text)]);
    logged.map_or_else(|error| error.to_string(), |()| text)
}

const DIGEST_BYTES: usize = 32;

/// The SHA-256 of all bytes but the last 32, and those.
#[derive(Default)]
struct TrailingDigest {
    hasher: Sha256,
    size: u64,
    tail: Vec<u8>,
}

impl TrailingDigest {
    fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let body = self.tail.len().saturating_sub(DIGEST_BYTES);
        self.hasher.update(&self.tail[..body]);
        self.tail.drain(..body);
    }

    /// The size, if the bytes end with the digest of those before.
    fn check(self) -> Result<u64, String> {
        if self.size % SECTOR_BYTES != DIGEST_BYTES as u64 {
            return Err(format!("sha256 checksum not found [bytes: {}]", self.size));
        }
        let computed = self.hasher.finalize();
        if computed[..] != self.tail[..] {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let (told, computed) = (hex(&self.tail), hex(&computed));
            return Err(format!(
                "the snapshot was damaged on its way, save it again: expected sha256 {told}, got {computed}"
            ));
        }
        Ok(self.size)
    }
}

/// A file that is not whole yet; dropped, it is removed.
struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Part {
    fn create(target: &Path) -> Result<Self, String> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|error| {
            format!("could not open {} ({})", path.display(), failed("open", &path, &error))
        })?;
        Ok(Self { file, path, target: target.to_owned() })
    }

    fn shown(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// Gives the file its name, for good even if the power goes.
    fn publish(self) -> Result<(), String> {
        let (from, to) = (self.path.display(), self.target.display());
        fs::rename(&self.path, &self.target).map_err(|error| {
            // Go looks before it renames.
            let why = if self.target.is_dir() { "file exists".into() } else { reason(&error) };
            format!("could not rename {from} to {to} (rename {from} {to}: {why})")
        })?;
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let synced = File::open(parent).and_then(|directory| directory.sync_all());
        synced.map_err(|error| failed("fsync", parent, &error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(operation: &str, path: &Path, error: &io::Error) -> String {
    format!("{operation} {}: {}", text(path.as_os_str().as_encoded_bytes()), reason(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: &[u8], tail: &[u8], step: usize) -> Result<u64, String> {
        let mut digest = TrailingDigest::default();
        [body, tail].concat().chunks(step).for_each(|chunk| digest.update(chunk));
        digest.check()
    }

    #[test]
    fn the_last_bytes_are_the_digest_of_all_others() {
        let body: Vec<u8> = (0..1024u32).map(|byte| byte as u8).collect();
        let good = Sha256::digest(&body);
        for step in [1, 31, 32, 33, 500, 5000] {
            assert_eq!(checked(&body, &good, step), Ok(1056), "{step}");
        }
        let mut bad = body.clone();
        bad[7] ^= 1;
        assert!(checked(&bad, &good, 100).unwrap_err().contains("expected sha256"));
        assert_eq!(checked(&body, b"", 100).unwrap_err(), "sha256 checksum not found [bytes: 1024]");
        assert_eq!(checked(b"", b"", 1).unwrap_err(), "sha256 checksum not found [bytes: 0]");
    }

    #[test]
    fn what_is_not_whole_does_not_stay() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("snapshot");
        let part = Part::create(&target).unwrap();
        let path = part.path.clone();
        assert!(path.exists() && path.to_string_lossy().ends_with("snapshot.part"));
        drop(part);
        assert!(!path.exists() && !target.exists());
        Part::create(&target).unwrap().publish().unwrap();
        assert!(!path.exists() && target.exists());
    }
}
