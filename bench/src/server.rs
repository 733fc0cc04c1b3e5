//! Starts, watches, kills and removes the servers under test.
//! A `Cluster` owns its processes and its data directories: dropping it, for whatever reason, kills the first
//! and removes the second; the kernel kills the processes if this one is killed. Only flags that every etcd
//! knows are used, and `ETCD_*` variables are not passed on, so both servers run with their defaults.
//! Called by `compare`.

use crate::client::{Client, Method};
use crate::usage::{self, Probe};
use crate::wire;
use proto::etcdserverpb::RangeRequest;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const VERSION_LIMIT: Duration = Duration::from_secs(20);
const READY_LIMIT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(2);
/// Another process may take a port between its choice and its use.
const START_ATTEMPTS: u32 = 3;
const LOG_TAIL_BYTES: u64 = 2_000;
/// Below every system's range of ephemeral ports: a client that dials a server which is not up yet must not be
/// given the server's own port, or it connects to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A server binary and what it calls itself.
#[derive(Clone, Debug)]
pub struct Binary {
    pub path: PathBuf,
    pub version: String,
}

impl Binary {
    /// Asks the binary for its version.
    pub async fn probe(path: &Path) -> Result<Self, String> {
        let asked = tokio::process::Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(VERSION_LIMIT, asked)
            .await
            .map_err(|_| format!("{} --version does not end", path.display()))?
            .map_err(|e| format!("cannot run {}: {e}", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or("unknown").replace("etcd Version:", "").trim().to_owned();
        Ok(Self { path: path.to_owned(), version })
    }
}

pub struct Cluster {
    binary: PathBuf,
    members: Vec<Member>,
    // Declared after the members: removed when they are dead.
    root: TempDir,
    /// For what is saved: in memory where there is any, as it would go to another machine's disk, not to this one's.
    elsewhere: TempDir,
}

struct Member {
    arguments: Vec<String>,
    endpoint: String,
    data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `members` fresh servers on loopback, their data below `parent`, and returns once each of them
    /// answers a linearizable read.
    pub async fn start(binary: &Binary, members: usize, parent: &Path) -> Result<Self, String> {
        let mut attempt = 1;
        loop {
            let mut cluster = Self::prepare(binary, members, parent)?;
            match cluster.launch().await {
                Ok(()) => return Ok(cluster),
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    fn prepare(binary: &Binary, members: usize, parent: &Path) -> Result<Self, String> {
        let root = temporary(parent)?;
        let memory = Path::new("/dev/shm");
        let elsewhere =
            if usage::filesystem_of(memory).as_deref() == Some("tmpfs") { memory } else { parent };
        let elsewhere = temporary(elsewhere)?;
        let ports = free_ports(members * 2).map_err(|e| format!("no free ports: {e}"))?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let name = |index: usize| format!("m{}", index + 1);
        let initial: Vec<String> =
            (0..members).map(|index| format!("{}={}", name(index), url(ports[index * 2 + 1]))).collect();
        let members = (0..members)
            .map(|index| {
                let data_dir = root.path().join(name(index));
                let (client, peer) = (url(ports[index * 2]), url(ports[index * 2 + 1]));
                let arguments = [
                    ("--name", name(index)),
                    ("--data-dir", data_dir.display().to_string()),
                    ("--listen-client-urls", client.clone()),
                    ("--advertise-client-urls", client.clone()),
                    ("--listen-peer-urls", peer.clone()),
                    ("--initial-advertise-peer-urls", peer),
                    ("--initial-cluster", initial.join(",")),
                    ("--initial-cluster-state", "new".to_owned()),
                ];
                Member {
                    arguments: arguments
                        .into_iter()
                        .flat_map(|(flag, value)| [flag.to_owned(), value])
                        .collect(),
                    endpoint: client,
                    log: root.path().join(format!("{}.log", name(index))),
                    data_dir,
                    child: None,
                }
            })
            .collect();
        Ok(Self { binary: binary.path.clone(), members, root, elsewhere })
    }

    async fn launch(&mut self) -> Result<(), String> {
        for member in &mut self.members {
            member.spawn(&self.binary)?;
        }
        for member in &mut self.members {
            member.ready().await?;
        }
        Ok(())
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    pub fn probe(&self) -> Probe {
        Probe {
            pids: self.members.iter().filter_map(|member| member.child.as_ref().map(Child::id)).collect(),
            dirs: self.members.iter().map(|member| member.data_dir.clone()).collect(),
        }
    }

    /// `kill -9` of every member, then a start on the same data: the time from the start until every member
    /// has answered a linearizable read.
    pub async fn restart(&mut self) -> Result<Duration, String> {
        self.members.iter_mut().for_each(Member::kill);
        let started = Instant::now();
        self.launch().await?;
        Ok(started.elapsed())
    }

    /// Saves the first member's state with the etcdctl that lies beside the server: the time it took.
    pub async fn save(&self) -> Result<Duration, String> {
        let arguments = ["--endpoints", &self.members[0].endpoint, "snapshot", "save"].map(OsStr::new);
        let began = Instant::now();
        self.tool("etcdctl", arguments.into_iter().chain([self.saved().as_os_str()])).await?;
        Ok(began.elapsed())
    }

    /// Kills the only member, and gives it what was saved for its data: the time that took the tool.
    pub async fn unpack(&mut self) -> Result<Duration, String> {
        let member = &mut self.members[0];
        member.kill();
        let failed = |e| format!("cannot remove {}: {e}", member.data_dir.display());
        fs::remove_dir_all(&member.data_dir).map_err(failed)?;
        // Versions before 3.5 have no etcdutl.
        let tool = if self.binary.with_file_name("etcdutl").exists() { "etcdutl" } else { "etcdctl" };
        let (saved, member) = (self.saved(), &self.members[0]);
        let mut arguments = vec![OsStr::new("snapshot"), OsStr::new("restore"), saved.as_os_str()];
        const KEPT: [&str; 4] =
            ["--name", "--data-dir", "--initial-cluster", "--initial-advertise-peer-urls"];
        for pair in member.arguments.chunks(2).filter(|pair| KEPT.contains(&pair[0].as_str())) {
            arguments.extend(pair.iter().map(OsStr::new));
        }
        let began = Instant::now();
        self.tool(tool, arguments).await?;
        Ok(began.elapsed())
    }

    fn saved(&self) -> PathBuf {
        self.elsewhere.path().join("saved.db")
    }

    /// Runs a program that lies beside the server.
    async fn tool(&self, name: &str, arguments: impl IntoIterator<Item = &OsStr>) -> Result<(), String> {
        let path = self.binary.with_file_name(name);
        let mut command = tokio::process::Command::new(&path);
        // 3.4 asks for it.
        command.args(arguments).env("ETCDCTL_API", "3").stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(|e| format!("cannot run {}: {e}", path.display()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!(
                "{} ({}): {}",
                path.display(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            )),
        }
    }

    /// Kills the members and removes their data, reporting what `drop` cannot.
    pub fn stop(mut self) -> Result<(), String> {
        self.members.iter_mut().for_each(Member::kill);
        let path = self.root.path().to_owned();
        fs::remove_dir_all(&path).map_err(|e| format!("cannot remove {}: {e}", path.display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }
}

impl Member {
    fn spawn(&mut self, binary: &Path) -> Result<(), String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|e| format!("cannot write {}: {e}", self.log.display()))?;
        let mut command = Command::new(binary);
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stderr(log.try_clone().map_err(|e| e.to_string())?);
        command.stdout(log);
        for (variable, _) in std::env::vars_os() {
            // Go refuses some platforms without this one.
            if variable.to_string_lossy().starts_with("ETCD_") && variable != "ETCD_UNSUPPORTED_ARCH" {
                command.env_remove(variable);
            }
        }
        // SAFETY: prctl is async-signal-safe and touches nothing of this process.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command.spawn().map_err(|e| format!("cannot run {}: {e}", binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    async fn ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_LIMIT;
        let request = wire::frame(&RangeRequest { key: "ready".into(), ..Default::default() });
        loop {
            let answer = async {
                let mut client = Client::connect(&self.endpoint).await?;
                client.call_discarding(Method::Range, request.clone()).await
            };
            let remaining = deadline.saturating_duration_since(Instant::now());
            let error = match tokio::time::timeout(remaining, answer).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(format!("the server ended ({status}) before it was ready:\n{}", self.log_tail()));
            }
            if Instant::now() >= deadline {
                return Err(format!("not ready within {READY_LIMIT:?} ({error}):\n{}", self.log_tail()));
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log_tail(&self) -> String {
        let tail = || -> io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        tail().unwrap_or_default()
    }
}

fn temporary(parent: &Path) -> Result<TempDir, String> {
    let made = tempfile::Builder::new().prefix("bench-").tempdir_in(parent);
    made.map_err(|e| format!("cannot make a directory in {}: {e}", parent.display()))
}

fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let width = usize::from(PORTS.end - PORTS.start);
    // Benches that run at once start their search at different places.
    let first = std::process::id() as usize * 61 % width;
    let mut held = Vec::with_capacity(count);
    for step in 0..width {
        if held.len() == count {
            break;
        }
        let port = PORTS.start + ((first + step) % width) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
    }
    if held.len() < count {
        return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn free_ports_are_distinct_and_below_the_ephemeral_ones() {
        let ports = free_ports(6).expect("six free ports");
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 6);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn three_members_know_each_other_and_keep_their_data_apart() {
        let parent = tempfile::tempdir().expect("a directory");
        let binary = Binary { path: "none".into(), version: String::new() };
        let cluster = Cluster::prepare(&binary, 3, parent.path()).expect("prepared");
        let value = |index: usize, flag: &str| {
            let arguments = &cluster.members[index].arguments;
            arguments[arguments.iter().position(|found| found == flag).expect(flag) + 1].clone()
        };
        let initial = value(0, "--initial-cluster");
        assert_eq!(initial.split(',').count(), 3);
        for index in 0..3 {
            assert_eq!(value(index, "--initial-cluster"), initial);
            let own = format!("{}={}", value(index, "--name"), value(index, "--initial-advertise-peer-urls"));
            assert!(initial.split(',').any(|entry| entry == own));
        }
        assert_eq!(cluster.probe().dirs.iter().collect::<HashSet<_>>().len(), 3);
        let root = cluster.root.path().to_owned();
        cluster.stop().expect("stopped");
        assert!(!root.exists());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_that_ends_at_once_is_reported_and_leaves_nothing() {
        let parent = tempfile::tempdir().expect("a directory");
        let binary = Binary { path: "false".into(), version: String::new() };
        let start = Cluster::start(&binary, 1, parent.path());
        let error = tokio::task::LocalSet::new().run_until(start).await.err().expect("false is no server");
        assert!(error.contains("ended"), "{error}");
        assert_eq!(fs::read_dir(parent.path()).expect("still there").count(), 0);
    }
}
