//! A stock etcd that runs as long as it is held.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{AlarmRequest, AlarmType, LeaseGrantRequest, MemberListRequest, StatusRequest};

/// Set up on both twins by hand, since etcdctl lets the server choose the id.
const LEASE: i64 = 0x77;
const LEASE_TTL_SECONDS: i64 = 100_000;

pub struct Server {
    process: Child,
    pub port: u16,
    settings: Settings,
    data: tempfile::TempDir,
}

/// What a server is started with, a second time too.
#[derive(Clone)]
struct Settings {
    etcd: PathBuf,
    args: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody listens on and that was not handed out before. It lies below those of outgoing connections, so
/// that it stays free until it is bound.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 10_000..30_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97);
    loop {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + number % (PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Settings {
    /// Returns when it serves.
    fn spawn(&self, data: &Path) -> Child {
        let mut process = Command::new(&self.etcd)
            .env_clear()
            .arg("--data-dir")
            .arg(data)
            .args(&self.args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let ready = log.any(|line| {
            said = line.unwrap();
            // Over TLS it says the like in other words.
            said.contains("ready to serve client requests")
        });
        assert!(ready, "etcd ended before it was ready: {said}");
        std::thread::spawn(move || log.for_each(drop));
        process
    }
}

impl Server {
    /// Ids come from the advertised peer URL, which twins share and nobody dials.
    pub fn start(etcd: &Path, scheme: &str, more: &[&str]) -> Self {
        let (url, cluster) = ("http://127.0.0.1:1", "default=http://127.0.0.1:1");
        let cheap_passwords = ["--bcrypt-cost", "4"];
        let more = [&cheap_passwords[..], more].concat();
        Self::start_member(etcd, "default", (scheme, free_port()), url, cluster, &more)
    }

    pub fn start_cluster(etcd: &Path) -> Vec<Self> {
        let members = ["a", "b", "c"].map(|name| (name, free_port()));
        let cluster = members.map(|(name, port)| format!("{name}=http://127.0.0.1:{port}")).join(",");
        std::thread::scope(|scope| {
            let starting = members.map(|(name, port)| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let url = format!("http://127.0.0.1:{port}");
                    Self::start_member(etcd, name, ("http", port), &url, cluster, &[])
                })
            });
            starting.map(|member| member.join().unwrap()).into()
        })
    }

    /// `scheme`: of the clients' URL; the peers' is plain.
    pub fn start_member(
        etcd: &Path,
        name: &str,
        (scheme, peer_port): (&str, u16),
        advertised: &str,
        cluster: &str,
        more: &[&str],
    ) -> Self {
        let port = free_port();
        let client = format!("{scheme}://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let urls = [
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
        ];
        let members =
            ["--name", name, "--initial-advertise-peer-urls", advertised, "--initial-cluster", cluster];
        let args = [&urls[..], &members[..], more].concat().into_iter().map(str::to_owned).collect();
        let (data, settings) = (tempfile::tempdir().unwrap(), Settings { etcd: etcd.into(), args });
        let process = settings.spawn(data.path());
        Self { process, port, settings, data }
    }

    /// Loses what the server had in memory, such as logins.
    pub fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = self.settings.spawn(self.data.path());
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn channel(&self) -> tonic::transport::Channel {
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{}", self.endpoint())).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub async fn grant_lease(&self) {
        let request = LeaseGrantRequest { ttl: LEASE_TTL_SECONDS, id: LEASE };
        LeaseClient::new(self.channel().await).lease_grant(request).await.unwrap();
    }

    /// The ids of the member and of its leader.
    pub async fn ids(&self) -> (u64, u64) {
        let status = MaintenanceClient::new(self.channel().await).status(StatusRequest {}).await;
        let status = status.unwrap().into_inner();
        (status.header.unwrap().member_id, status.leader)
    }

    pub async fn raise_alarm(&self) {
        let mut client = MaintenanceClient::new(self.channel().await);
        let (action, alarm) = (AlarmAction::Activate.into(), AlarmType::Nospace.into());
        let (member_id, _) = self.ids().await;
        client.alarm(AlarmRequest { action, member_id, alarm }).await.unwrap();
    }

    /// The id of the member that was added and has not started.
    pub async fn added_member(&self) -> Option<u64> {
        let request = MemberListRequest { linearizable: false };
        let list = ClusterClient::new(self.channel().await).member_list(request).await;
        list.unwrap()
            .into_inner()
            .members
            .iter()
            .find(|member| member.name.is_empty())
            .map(|member| member.id)
    }
}
