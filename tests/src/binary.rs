//! Which server and client programs the tests run.
//! `ours` comes from `KEELSON_ETCD`, else from the build directory of the running test. The stock peer comes
//! from `ETCD_PEER_DIR`, else from `PATH`. A test whose peer is missing prints `skipped: ...` and passes,
//! unless `KEELSON_REQUIRE_PEER=1` makes that a failure.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A server program and what its `--version` says.
#[derive(Clone, Debug)]
pub struct Binary {
    pub path: PathBuf,
    pub version: String,
}

impl Binary {
    fn at(path: PathBuf) -> Option<Binary> {
        let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "))?.trim().to_string();
        Some(Binary { path, version })
    }

    /// `--name=value`, in the spelling this program knows: older lines say `experimental-<name>`, or have no
    /// such flag.
    pub fn flag(&self, name: &str, value: &str) -> Option<String> {
        let spellings = [format!("--{name}={value}"), format!("--experimental-{name}={value}")];
        spellings.into_iter().find(|flag| {
            let output = Command::new(&self.path).args([flag, "--version"]).stdin(Stdio::null()).output();
            output.is_ok_and(|output| output.status.success())
        })
    }
}

/// The server under test.
pub fn ours() -> Binary {
    if let Some(path) = std::env::var_os("KEELSON_ETCD") {
        let path = PathBuf::from(path);
        return Binary::at(path.clone())
            .unwrap_or_else(|| panic!("KEELSON_ETCD={} does not run", path.display()));
    }
    let mut places = Vec::new();
    // The test executable is <target>/<profile>/deps/<name>.
    if let Some(profile) =
        std::env::current_exe().ok().as_deref().and_then(Path::parent).and_then(Path::parent)
    {
        places.push(profile.join("etcd"));
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    places.extend(["release", "debug"].map(|profile| target.join(profile).join("etcd")));
    places.iter().cloned().find_map(Binary::at).unwrap_or_else(|| {
        panic!("no server to test: build it with `cargo build -p store` or set KEELSON_ETCD (looked at {places:?})")
    })
}

/// A stock etcd of the given line (`3.5.`), or none after saying so.
pub fn peer(line: &str) -> Option<Binary> {
    let found = find("etcd").into_iter().filter_map(Binary::at).find(|b| b.version.starts_with(line));
    if found.is_none() {
        missing(&format!("no stock etcd {line}x (`tools/setup --peers` installs one, or set ETCD_PEER_DIR)"));
    }
    found
}

/// Stock `etcdctl` programs: of `ETCD_PEER_DIR`, and of `PATH`.
pub fn etcdctls() -> Vec<PathBuf> {
    let found = find("etcdctl");
    if found.is_empty() {
        missing("no stock etcdctl (`tools/setup --peers` installs one, or set ETCD_PEER_DIR)");
    }
    found
}

/// A stock `etcdutl` of the given line (`3.5.`), or none after saying so.
pub fn etcdutl(line: &str) -> Option<PathBuf> {
    let is_of_line = |path: &PathBuf| {
        let output = Command::new(path).arg("version").stdin(Stdio::null()).output();
        let prefix = format!("etcdutl version: {line}");
        output.is_ok_and(|output| output.stdout.starts_with(prefix.as_bytes()))
    };
    let found = find("etcdutl").into_iter().find(is_of_line);
    if found.is_none() {
        missing(&format!(
            "no stock etcdutl {line}x (`tools/setup --peers` installs one, or set ETCD_PEER_DIR)"
        ));
    }
    found
}

/// Says why a test does not run; fails it where peers are required.
pub fn missing(reason: &str) {
    if std::env::var("KEELSON_REQUIRE_PEER").is_ok_and(|value| value == "1") {
        panic!("required by KEELSON_REQUIRE_PEER=1: {reason}");
    }
    println!("skipped: {reason}");
}

fn find(name: &str) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("ETCD_PEER_DIR").map(PathBuf::from).into_iter().collect();
    if let Some(path) = std::env::var_os("PATH") {
        places.extend(std::env::split_paths(&path));
    }
    // One file may be on several places of the path.
    let mut found: Vec<PathBuf> = Vec::new();
    for path in places.iter().filter_map(|place| place.join(name).canonicalize().ok()) {
        if path.is_file() && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}
