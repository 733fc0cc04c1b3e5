//! A server of etcd's API under faults: on the file system that forgets it keeps what it acknowledged, killed and
//! without power; it goes through the preloaded library.
//!
//! The server is `etcd` of the build directory, or `KEELSON_ETCD`; the client `etcdctl` beside it. It runs in a
//! namespace of its own, so its ports are free. `FAULTS_ROUNDS` and `FAULTS_PUTS` (of each round) make it longer.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use faults::forgetfs::{self, DirectorySync, ForgetFs, Options};
use faults::nudge::{self, Nudge, Times};
use faults::switch::{self, Switch};

use crate::can;

const CLIENT_PORT: u16 = 2379;
const WORKERS: usize = 4;
const START_LIMIT: Duration = Duration::from_secs(60);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// (Server, client), or why there are none.
fn programs() -> Result<(PathBuf, PathBuf), String> {
    let executable = std::env::current_exe().map_err(|error| error.to_string())?;
    let built = executable.ancestors().nth(2).ok_or("no build directory")?;
    let server = std::env::var_os("KEELSON_ETCD").map_or_else(|| built.join("etcd"), PathBuf::from);
    let client = built.join("etcdctl");
    for program in [&server, &client] {
        if !program.is_file() {
            return Err(format!("{} is not built", program.display()));
        }
    }
    Ok((server, client))
}

/// A running server; killed on drop.
struct Server {
    child: Child,
}

impl Server {
    fn start(program: &Path, switch: &Switch, dir: &Path, nudge: Option<&Nudge>) -> Server {
        let place = switch.member(0);
        let (client, peer) =
            (format!("http://{}:{CLIENT_PORT}", place.address), format!("http://{}:2380", place.address));
        let mut command = Command::new(program);
        command
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--name=a", &format!("--initial-cluster=a={peer}")])
            .args([&format!("--listen-client-urls={client}"), &format!("--advertise-client-urls={client}")])
            .args([&format!("--listen-peer-urls={peer}"), &format!("--initial-advertise-peer-urls={peer}")])
            .arg("--snapshot-count=200")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let (Some(nudge), Some(library)) = (nudge, nudge::find_library()) {
            command.envs(nudge.env(&library));
        }
        place.enter(&mut command).expect("a descriptor");
        let mut child = command.spawn().expect("start the server");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let last = Arc::<Mutex<Vec<String>>>::default();
        let lines = Arc::clone(&last);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let mut last = lines.lock().expect("not poisoned");
                last.push(line);
                let excess = last.len().saturating_sub(20);
                last.drain(..excess);
            }
        });
        let mut server = Server { child };
        let limit = Instant::now() + START_LIMIT;
        while TcpStream::connect((place.address, CLIENT_PORT)).is_err() {
            let ended = server.child.try_wait().expect("a child");
            let log = || last.lock().expect("not poisoned").join("\n");
            assert!(ended.is_none() && Instant::now() < limit, "it does not serve ({ended:?}):\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the client prints, if it succeeds.
fn ask(client: &Path, switch: &Switch, arguments: &[&str]) -> Option<String> {
    let endpoint = format!("http://{}:{CLIENT_PORT}", switch.member(0).address);
    let output = Command::new(client)
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &endpoint, "--command-timeout=5s"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("run the client");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Stock etcd does not pass this one: it does not sync the directory that holds its data directory.
#[test]
fn a_server_keeps_what_it_acknowledged_where_names_need_a_sync() {
    keeps_what_it_acknowledged(DirectorySync::Strict);
}

#[test]
fn a_server_keeps_what_it_acknowledged_on_a_journal() {
    keeps_what_it_acknowledged(DirectorySync::Journal);
}

fn keeps_what_it_acknowledged(directory_sync: DirectorySync) {
    let programs = programs();
    if !can(forgetfs::available().and_then(|()| switch::available()).and(programs.clone().map(drop))) {
        return;
    }
    let (program, client) = programs.expect("just seen");
    let at = tempfile::tempdir().expect("a directory");
    let switch = Switch::new(1, 1).expect("a switch");
    let disk = ForgetFs::mount(at.path(), Options { directory_sync, capacity: None }).expect("mount");
    let run = |arguments: &[&str]| ask(&client, &switch, arguments);
    let (rounds, puts) = (setting("FAULTS_ROUNDS", 3), setting("FAULTS_PUTS", 120));
    let mut acknowledged: Vec<String> = Vec::new();
    let mut lost = Vec::new();
    for round in 0..=rounds {
        let running = Server::start(&program, &switch, disk.path(), None);
        let keys = run(&["get", "k", "--prefix", "--keys-only"]).expect("read");
        let keys: HashSet<&str> = keys.lines().collect();
        let missing: Vec<_> = acknowledged.iter().filter(|key| !keys.contains(key.as_str())).collect();
        assert!(missing.is_empty(), "{directory_sync:?}, round {round}: lost {missing:?}; {lost:?}");
        if round == rounds {
            break;
        }
        let new: Vec<String> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let run = &run;
                    scope.spawn(move || {
                        let keys = (0..puts / WORKERS).map(|n| format!("k{round}-{worker}-{n}"));
                        keys.filter(|key| run(&["put", key, "value"]).is_some()).collect::<Vec<String>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
        });
        assert_eq!(new.len(), puts / WORKERS * WORKERS, "every put is acknowledged");
        acknowledged.extend(new);
        running.kill();
        lost.push(disk.lose_power(round as u64));
    }
    println!("{directory_sync:?}: {} puts, {:?}, {lost:?}", acknowledged.len(), disk.stats());
}

/// Not so a stock etcd, which is written in Go.
#[test]
fn a_server_goes_through_the_preloaded_library() {
    let programs = programs();
    if !can(nudge::available().and_then(|()| switch::available()).and(programs.clone().map(drop))) {
        return;
    }
    let (program, client) = programs.expect("just seen");
    let dir = tempfile::tempdir().expect("a directory");
    let switch = Switch::new(1, 1).expect("a switch");
    let nudge = Nudge::new(&dir.path().join("page")).expect("a page");
    let _running = Server::start(&program, &switch, dir.path(), Some(&nudge));
    let put = |value| ask(&client, &switch, &["put", "k", value]);
    assert!(put("1").is_some());
    let before = nudge.counts();
    assert!(before.clock_reads > 0 && before.syncs > 0 && before.writes > 0, "{before:?}");
    let hour = 3_600_000_000_000;
    for by in [hour, -2 * hour, hour] {
        nudge.jump(by);
        assert!(put("2").is_some(), "after a jump by {by} ns");
    }
    nudge.delay_syncs(Duration::from_millis(20));
    let began = Instant::now();
    assert!(put("3").is_some());
    assert!(began.elapsed() >= Duration::from_millis(20));
    nudge.calm();
    nudge.fail_syncs(libc::EIO, Times::Next(1));
    // Its answer is its own matter; that the sync failed must show.
    let _ = put("4");
    let after = nudge.counts();
    assert!(after.syncs_delayed > 0 && after.syncs_failed == 1, "{after:?}");
    println!("{after:?}");
}
