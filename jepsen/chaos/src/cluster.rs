//! The members of one run: where they listen, what they are started with, who leads.
//!
//! Each run has addresses of its own within 127.0.0.0/8, so ports never clash, and a directory that is removed with
//! it. Where a run has faults of the network, members are in namespaces behind a switch instead; where it has faults
//! of disks, each data directory is a forgetful file system; where it has faults of clocks, each server has a page.
//! Flags are etcd's standard ones, and others where the program knows them.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use faults::{
    forgetfs::{self, DirectorySync, ForgetFs},
    nudge::Nudge,
    switch::Switch,
};
use oracle::history::{Member, Revision};
use proto::etcdserverpb as pb;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    binary::Binary,
    member::{PEER_PORT, Server},
    rpc::{self, Failure, Token},
};

/// Directories are called so, with the number of the process and something random behind it.
const PREFIX: &str = "keelson-chaos-";
const CLIENT_PORT: u16 = 2379;
const STATUS_LIMIT: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);
/// A killed process is gone after so long, or hangs in the kernel.
const END_LIMIT: Duration = Duration::from_secs(5);

/// What a run draws for its cluster.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub size: usize,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub snapshot_count: u64,
    pub catchup_entries: u64,
    pub compaction_batch: u64,
    pub progress_ms: u64,
}

/// What a cluster is made of, beside processes.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// The seed of its switch.
    pub switch: Option<u64>,
    pub disks: Option<DirectorySync>,
    /// The preloaded library.
    pub clocks: Option<PathBuf>,
}

/// Fields are dropped in this order: nothing may run when the network and the disks go.
pub struct Cluster {
    pub servers: Vec<Server>,
    pub switch: Option<Switch>,
    /// By member, or none.
    pub disks: Vec<ForgetFs>,
    pub nudges: Vec<Nudge>,
    pub settings: Settings,
    /// The last known leader.
    pub leader: Cell<Option<usize>>,
    pub highest_term: Cell<u64>,
    /// Which member each incarnation is of.
    lives: RefCell<Vec<usize>>,
    dir: Option<TempDir>,
}

impl Cluster {
    /// Lays a cluster out; nothing runs yet.
    pub fn new(binary: &Binary, settings: Settings, around: &Around) -> io::Result<Cluster> {
        let dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?;
        let switch = around.switch.map(|seed| Switch::new(settings.size, seed)).transpose()?;
        let addresses = match &switch {
            Some(switch) => switch.members().iter().map(|member| IpAddr::V4(member.address)).collect(),
            None => addresses(settings.size)?,
        };
        let (mut disks, mut nudges) = (Vec::new(), Vec::new());
        for index in 0..settings.size {
            if let Some(directory_sync) = around.disks {
                let at = dir.path().join(format!("m{index}.disk"));
                std::fs::create_dir(&at)?;
                disks.push(ForgetFs::mount(&at, forgetfs::Options { directory_sync, capacity: None })?);
            }
            if around.clocks.is_some() {
                nudges.push(Nudge::new(&dir.path().join(format!("m{index}.clock")))?);
            }
        }
        let names: Vec<String> = (0..settings.size).map(|index| format!("m{index}")).collect();
        let peer = |address: &IpAddr| format!("http://{address}:{PEER_PORT}");
        let initial = names.iter().zip(&addresses).map(|(name, at)| format!("{name}={}", peer(at)));
        let initial = initial.collect::<Vec<_>>().join(",");
        let token = Rc::<RefCell<Token>>::default();
        let servers = names.into_iter().zip(&addresses).enumerate().map(|(index, (name, address))| {
            let client = SocketAddr::new(*address, CLIENT_PORT);
            let disk = disks.get(index).map_or(dir.path(), ForgetFs::path);
            let data_dir = disk.join(format!("{name}.etcd"));
            let log = dir.path().join(format!("{name}.log"));
            let mut command = vec![
                binary.path.display().to_string(),
                format!("--name={name}"),
                format!("--data-dir={}", data_dir.display()),
                format!("--listen-client-urls=http://{client}"),
                format!("--advertise-client-urls=http://{client}"),
                format!("--listen-peer-urls={}", peer(address)),
                format!("--initial-advertise-peer-urls={}", peer(address)),
                format!("--initial-cluster={initial}"),
                "--initial-cluster-token=chaos".to_owned(),
                format!("--heartbeat-interval={}", settings.heartbeat_ms),
                format!("--election-timeout={}", settings.election_ms),
                format!("--snapshot-count={}", settings.snapshot_count),
            ];
            command.extend(binary.flag("snapshot-catchup-entries", settings.catchup_entries));
            command.extend(binary.flag("compaction-batch-limit", settings.compaction_batch));
            let interval = format!("{}ms", settings.progress_ms);
            command.extend(binary.flag("watch-progress-notify-interval", interval));
            // Logging in is no test of how long that takes.
            command.push("--bcrypt-cost=4".to_owned());
            let mut server = Server::new(index, name, client, data_dir, log);
            server.token = token.clone();
            server.command = command;
            if let (Some(nudge), Some(library)) = (nudges.get(index), &around.clocks) {
                server.environment = nudge.env(library);
            }
            server
        });
        let servers = servers.collect();
        Ok(Cluster {
            servers,
            switch,
            disks,
            nudges,
            settings,
            leader: Cell::new(None),
            highest_term: Cell::new(0),
            lives: RefCell::default(),
            dir: Some(dir),
        })
    }

    /// Starts a member as a new incarnation.
    pub fn start(&self, at: usize) -> io::Result<()> {
        let mut lives = self.lives.borrow_mut();
        let number = lives.len() as u32;
        lives.push(at);
        self.servers[at].start(Member(number), &|command| match &self.switch {
            Some(switch) => switch.member(at).enter(command),
            None => Ok(()),
        })
    }

    /// Names of all incarnations, by their numbers.
    pub fn life_names(&self) -> Vec<String> {
        let lives = self.lives.borrow();
        let name = |(number, &at): (usize, &usize)| {
            let before = lives[..number].iter().filter(|it| **it == at).count();
            format!("{}, start {}", self.servers[at].name, before + 1)
        };
        lives.iter().enumerate().map(name).collect()
    }

    /// Starts all, waits until each serves, and learns their IDs.
    pub async fn start_all(&self, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        for at in 0..self.servers.len() {
            self.start(at).map_err(|error| format!("start of member {at}: {error}"))?;
        }
        for server in &self.servers {
            loop {
                if let Some(status) = server.ended_by_itself() {
                    return Err(format!("{} ended at its start: {status}", server.name));
                }
                match self.status(server.index).await {
                    Ok(status) if status.leader != 0 => {
                        server.id.set(status.header.unwrap_or_default().member_id);
                        break;
                    }
                    _ if Instant::now() > deadline => {
                        return Err(format!("{} does not serve after {limit:?}", server.name));
                    }
                    _ => sleep(POLL).await,
                }
            }
        }
        Ok(())
    }

    /// Ends all processes.
    pub async fn kill_all(&self) {
        self.disks.iter().for_each(|disk| disk.stall(false));
        for server in &self.servers {
            server.signal(libc::SIGKILL);
        }
        for server in &self.servers {
            server.end(libc::SIGKILL, END_LIMIT).await;
        }
    }

    pub async fn status(&self, at: usize) -> Result<pb::StatusResponse, Failure> {
        let connection = self.servers[at].connection().await?;
        let status: Result<pb::StatusResponse, Failure> =
            connection.ask(rpc::STATUS, &pb::StatusRequest {}, STATUS_LIMIT).await;
        if let Ok(status) = &status {
            self.highest_term.set(self.highest_term.get().max(status.raft_term));
            if status.leader != 0 && status.raft_term >= self.highest_term.get() {
                let leader = self.servers.iter().position(|server| server.id.get() == status.leader);
                self.leader.set(leader.or(self.leader.get()));
            }
        }
        status
    }

    /// HashKV of a member at a revision: the hash and the compaction that it was made with.
    pub async fn hash(
        &self,
        at: usize,
        revision: Revision,
        limit: Duration,
    ) -> Result<(u32, Revision), Failure> {
        let connection = self.servers[at].connection().await?;
        let request = pb::HashKvRequest { revision };
        let answer: pb::HashKvResponse = connection.ask(rpc::HASH_KV, &request, limit).await?;
        Ok((answer.hash, answer.compact_revision))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Who hangs in a sync cannot end.
        self.disks.iter().for_each(|disk| disk.stall(false));
        for server in &self.servers {
            server.signal(libc::SIGKILL);
        }
        // The directory cannot be removed while somebody writes there.
        let deadline = std::time::Instant::now() + END_LIMIT;
        while self.servers.iter().any(Server::is_left) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        self.servers.clear();
        self.disks.clear();
        drop(self.dir.take());
    }
}

/// Removes what killed processes left behind.
pub fn sweep() -> io::Result<()> {
    for entry in std::fs::read_dir(std::env::temp_dir())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
        let Some(process) = process.and_then(|(process, _)| process.parse::<i32>().ok()) else { continue };
        // SAFETY: signal 0 only asks.
        let is_gone = unsafe { libc::kill(process, 0) } != 0
            && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
        if is_gone {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// As many loopback addresses as there are members, of a /24 that nobody else uses.
fn addresses(size: usize) -> io::Result<Vec<IpAddr>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    for _ in 0..1000 {
        let block = process.wrapping_mul(16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 60_000;
        let (second, third) = (1 + block / 250, 1 + block % 250);
        let address = |host: usize| IpAddr::V4(Ipv4Addr::new(127, second as u8, third as u8, 1 + host as u8));
        let addresses: Vec<IpAddr> = (0..size).map(address).collect();
        let free =
            |ip: &IpAddr| [CLIENT_PORT, PEER_PORT].iter().all(|&port| TcpListener::bind((*ip, port)).is_ok());
        if addresses.iter().all(free) {
            return Ok(addresses);
        }
    }
    Err(io::Error::other("no free loopback addresses"))
}
