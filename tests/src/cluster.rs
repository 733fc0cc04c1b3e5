//! Clusters of real server processes on loopback (or in network namespaces).
//! A member keeps its ports, data directory and log for its whole life, over any number of kills and restarts.
//! Dropping a cluster kills its processes and removes its directory; when a test is failing, the end of each
//! member's log is printed first. Processes also die with the thread that started them.
//! The flags used are etcd's standard ones, so each member may be any server.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binary::Binary;
use crate::client::Client;

/// Longest wait for a member to serve after its start, and to exit after a signal.
pub const START_LIMIT: Duration = Duration::from_secs(30);
const LOG_LINES_SHOWN: usize = 50;

/// Where a member runs: its address and what its command line is prefixed with.
#[derive(Clone)]
pub struct Host {
    pub address: IpAddr,
    pub prefix: Vec<String>,
}

impl Host {
    pub fn loopback() -> Host {
        Host { address: IpAddr::V4(Ipv4Addr::LOCALHOST), prefix: Vec::new() }
    }
}

pub struct Builder {
    binaries: Vec<Binary>,
    hosts: Vec<Host>,
    args: Vec<String>,
    peer_scheme: &'static str,
}

impl Builder {
    /// Adds flags to every member.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Builder {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Members talk to each other by TLS; its flags are up to the caller.
    pub fn secure_peers(mut self) -> Builder {
        self.peer_scheme = "https";
        self
    }

    /// Places member `n` on `hosts[n]`.
    pub fn hosts(mut self, hosts: Vec<Host>) -> Builder {
        assert_eq!(hosts.len(), self.binaries.len());
        self.hosts = hosts;
        self
    }

    /// Lays the cluster out without starting it.
    pub fn build(self) -> Cluster {
        let dir = tempfile::Builder::new().prefix("keelson-test-").tempdir().expect("temporary directory");
        let names: Vec<String> = (0..self.binaries.len()).map(|n| format!("m{n}")).collect();
        let url = |scheme: &str, host: &Host| format!("{scheme}://{}:{}", host.address, free_port(host));
        let urls: Vec<(String, String)> =
            self.hosts.iter().map(|host| (url("http", host), url(self.peer_scheme, host))).collect();
        let initial: Vec<String> =
            names.iter().zip(&urls).map(|(name, (_, peer))| format!("{name}={peer}")).collect();
        let initial = initial.join(",");
        let members = names.into_iter().zip(urls).zip(self.binaries.iter().zip(&self.hosts));
        let members = members.map(|((name, (client_url, peer_url)), (binary, host))| {
            let args = [
                format!("--name={name}"),
                format!("--listen-client-urls={client_url}"),
                format!("--advertise-client-urls={client_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster={initial}"),
                "--initial-cluster-state=new".to_string(),
                "--initial-cluster-token=keelson-test".to_string(),
            ];
            let args = args.into_iter().chain(self.args.iter().cloned()).collect();
            Member::new(binary, host, dir.path(), &name, client_url, peer_url, args)
        });
        Cluster { members: members.collect(), dir }
    }

    /// Starts all members and waits until each serves.
    pub async fn start(self) -> Cluster {
        let mut cluster = self.build();
        cluster.start_all().await;
        cluster
    }
}

pub struct Cluster {
    pub members: Vec<Member>,
    dir: TempDir,
}

impl Cluster {
    pub fn of(binaries: &[Binary]) -> Builder {
        let hosts = vec![Host::loopback(); binaries.len()];
        Builder { binaries: binaries.to_vec(), hosts, args: Vec::new(), peer_scheme: "http" }
    }

    /// `size` members of one program.
    pub fn builder(binary: &Binary, size: usize) -> Builder {
        Cluster::of(&vec![binary.clone(); size])
    }

    pub async fn start(binary: &Binary, size: usize) -> Cluster {
        Cluster::builder(binary, size).start().await
    }

    /// The same members, from now on run by another program: their ports, flags and data directories stay.
    pub fn continued_by(mut self, binary: &Binary) -> Cluster {
        self.kill_all();
        for member in &mut self.members {
            *member.program.last_mut().expect("a program") = binary.path.display().to_string();
        }
        self
    }

    /// Lays out one more member, as an operator does who has added `peer_url` before: it joins those that are there.
    pub fn newcomer(&self, binary: &Binary, name: &str, peer_url: &str, more: &[&str]) -> Member {
        let client_url = format!("http://127.0.0.1:{}", free_port(&Host::loopback()));
        let others = self.members.iter().map(|member| format!("{}={}", member.name, member.peer_url));
        let initial: Vec<String> = others.chain([format!("{name}={peer_url}")]).collect();
        let args = [
            format!("--name={name}"),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster={}", initial.join(",")),
            "--initial-cluster-state=existing".to_string(),
        ];
        let args = args.into_iter().chain(more.iter().map(ToString::to_string)).collect();
        let host = Host::loopback();
        Member::new(binary, &host, self.dir.path(), name, client_url, peer_url.to_string(), args)
    }

    /// Space for files of the test, removed with the cluster.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the members that do not run, and waits until all serve.
    pub async fn start_all(&mut self) {
        for member in &mut self.members {
            if !member.is_running() {
                member.spawn();
            }
        }
        for member in &mut self.members {
            member.ready().await;
        }
    }

    pub fn kill_all(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    pub fn client(&self, n: usize) -> Client {
        self.members[n].client()
    }

    pub fn clients(&self) -> Vec<Client> {
        self.members.iter().map(Member::client).collect()
    }

    /// The index of the member that the members asked agree is the leader.
    pub async fn leader_among(&self, asked: &[usize]) -> usize {
        crate::eventually("agreement on a leader", START_LIMIT, || async {
            let mut leaders = Vec::new();
            let mut ids = Vec::new();
            for &n in asked {
                let status = self.client(n).status().await.map_err(|error| error.to_string())?;
                leaders.push(status.leader);
                ids.push((status.header.unwrap_or_default().member_id, n));
            }
            let agreed = leaders.iter().all(|&leader| leader == leaders[0]);
            let found = ids.iter().find(|(id, _)| *id == leaders[0]).filter(|_| agreed);
            found.map(|&(_, n)| n).ok_or_else(|| format!("leaders {leaders:x?} of members {ids:x?}"))
        })
        .await
    }

    pub async fn leader(&self) -> usize {
        self.leader_among(&(0..self.members.len()).collect::<Vec<_>>()).await
    }

    /// HashKV of every running member at one revision, waiting until each has applied it; fails when they differ.
    pub async fn assert_equal_hashes(&self) -> i64 {
        let running: Vec<&Member> = self.members.iter().filter(|member| member.child.is_some()).collect();
        let revision = crate::eventually("a revision to hash", START_LIMIT, || async {
            running[0].client().revision().await.map_err(|error| error.to_string())
        })
        .await;
        let mut hashes = Vec::new();
        for member in &running {
            let client = member.client();
            let answer = crate::eventually("HashKV", START_LIMIT, || async {
                client.hash_kv(revision).await.map_err(|error| error.to_string())
            })
            .await;
            hashes.push((&member.name, answer.hash, answer.compact_revision));
        }
        let first = (hashes[0].1, hashes[0].2);
        assert!(
            hashes.iter().all(|h| (h.1, h.2) == first),
            "HashKV at revision {revision} differs: {hashes:?}"
        );
        revision
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All before any log is shown: what members say about losing each other explains nothing.
        self.kill_all();
    }
}

pub struct Member {
    pub name: String,
    pub client_url: String,
    pub peer_url: String,
    pub data_dir: PathBuf,
    program: Vec<String>,
    pub args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Member {
    /// A member that is not part of a laid out cluster; `args` are its flags but for `--data-dir`.
    pub fn new(
        binary: &Binary,
        host: &Host,
        dir: &Path,
        name: &str,
        client_url: String,
        peer_url: String,
        args: Vec<String>,
    ) -> Member {
        let mut program = host.prefix.clone();
        program.push(binary.path.display().to_string());
        let (data_dir, log) = (dir.join(format!("{name}.etcd")), dir.join(format!("{name}.log")));
        Member { name: name.to_string(), client_url, peer_url, data_dir, program, args, log, child: None }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.client_url)
    }

    /// `host:port` of the client listener.
    pub fn client_address(&self) -> &str {
        self.client_url.trim_start_matches("http://")
    }

    pub fn peer_address(&self) -> &str {
        self.peer_url.split_once("://").map_or(&self.peer_url, |(_, address)| address)
    }

    /// Tells it where to learn of the others, instead of who they are.
    pub fn discover(&mut self, flags: &[String]) {
        self.args.retain(|flag| !flag.starts_with("--initial-cluster="));
        self.args.extend_from_slice(flags);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts the process with its old data directory; does not wait until it serves.
    pub fn spawn(&mut self) {
        assert!(!self.is_running(), "{} already runs", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("log file");
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).args(&self.args);
        command.arg("--data-dir").arg(&self.data_dir);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log file")).stderr(log);
        // A test runner that is interrupted drops nothing; its servers must not outlive it.
        // SAFETY: prctl is async-signal-safe and touches only the new process.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        self.child =
            Some(command.spawn().unwrap_or_else(|error| panic!("start {:?}: {error}", self.program)));
    }

    /// Waits until a linearizable read succeeds, or is refused for want of a user; fails when the process exits or
    /// takes too long.
    pub async fn ready(&mut self) {
        let client = Client::with_limit(&self.client_url, Duration::from_secs(2));
        let start = Instant::now();
        loop {
            let reason = match client.revision().await {
                Ok(_) => return,
                Err(status) if status.message().ends_with("user name is empty") => return,
                Err(status) => status,
            };
            assert!(self.is_running(), "{} exited instead of serving:\n{}", self.name, self.log_end());
            assert!(
                start.elapsed() < START_LIMIT,
                "{} does not serve: {reason}\n{}",
                self.name,
                self.log_end()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn restart(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// SIGKILL, and the end of the process. Nothing if it does not run.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Failing means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and the end of the process, which must be clean: exit 0 or death by that signal.
    pub async fn stop(&mut self) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        let pid = libc::pid_t::try_from(child.id()).expect("pids fit");
        // SAFETY: kill has no memory effects; the child has not been waited for, so the pid is its own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0, "SIGTERM to {}", self.name);
        let status = self.exited().await;
        let clean = status.success() || status.signal() == Some(libc::SIGTERM);
        assert!(clean, "{} did not stop cleanly: {status}\n{}", self.name, self.log_end());
    }

    /// Waits for the process to end by itself.
    pub async fn exited(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("wait for a child") {
                return status;
            }
            if start.elapsed() > START_LIMIT {
                self.child = Some(child);
                panic!("{} does not exit:\n{}", self.name, self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The whole log over all starts.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("--- log of {}\n{}", self.name, self.log_end());
        }
    }
}

/// A peer URL on loopback that nobody else uses.
pub fn free_url() -> String {
    format!("http://127.0.0.1:{}", free_port(&Host::loopback()))
}

/// A TCP port no one listens on, not handed out before by this process. It lies below the range that
/// outgoing connections take their ports from, so it stays free while a member is down.
pub fn free_port(host: &Host) -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97) % COUNT;
    for _ in 0..COUNT {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + (start + n) % COUNT).expect("below 30,000");
        // Another namespace's address cannot be bound from here, and has no other users.
        if !host.address.is_loopback() || TcpListener::bind((host.address, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Copies a stopped member's data directory.
pub fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            let mut file = File::create(&target)?;
            file.write_all(&std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
