//! Runs our etcdctl beside the real one of etcd 3.5 and compares what they print, byte for byte: standard output,
//! standard error and exit code.
//! Two real servers start as twins, with the same cluster and member ids; each command of `against_etcd.txt` goes to
//! one twin through theirs and to the other through ours, so that commands that write leave both equal.
//! Needs `etcd` and `etcdctl` 3.5 in the directory `ETCD_PEER_DIR` names, or on the PATH; without them it skips, or
//! fails where `KEELSON_REQUIRE_PEER=1`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{AlarmRequest, AlarmType, LeaseGrantRequest, StatusRequest};

const OURS: &str = env!("CARGO_BIN_EXE_etcdctl");
const STORY: &str = include_str!("against_etcd.txt");

/// A command that hangs is killed, which shows as a difference.
const LONGEST_RUN: Duration = Duration::from_secs(30);

/// Set up on both twins by hand, since etcdctl lets the server choose the id.
const LEASE: i64 = 0x77;
const LEASE_TTL_SECONDS: i64 = 100_000;

struct Server {
    process: Child,
    port: u16,
    _data: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Ids come from the advertised peer URL, which twins share and nobody dials.
    fn start(etcd: &Path) -> Self {
        Self::start_member(etcd, "default", free_port(), "http://127.0.0.1:1", "default=http://127.0.0.1:1")
    }

    fn start_cluster(etcd: &Path) -> Vec<Self> {
        let members = ["a", "b", "c"].map(|name| (name, free_port()));
        let cluster = members.map(|(name, port)| format!("{name}=http://127.0.0.1:{port}")).join(",");
        std::thread::scope(|scope| {
            let starting = members.map(|(name, port)| {
                let cluster = &cluster;
                scope.spawn(move || {
                    Self::start_member(etcd, name, port, &format!("http://127.0.0.1:{port}"), cluster)
                })
            });
            starting.map(|member| member.join().unwrap()).into()
        })
    }

    fn start_member(etcd: &Path, name: &str, peer_port: u16, advertised: &str, cluster: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let port = free_port();
        let client = format!("http://127.0.0.1:{port}");
        let mut process = Command::new(etcd)
            .env_clear()
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer_port}")])
            .args(["--name", name, "--initial-advertise-peer-urls", advertised, "--initial-cluster", cluster])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let ready = log.any(|line| line.unwrap().contains("ready to serve client requests"));
        assert!(ready, "etcd ended before it was ready");
        std::thread::spawn(move || log.for_each(drop));
        Self { process, port, _data: data }
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn channel(&self) -> tonic::transport::Channel {
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{}", self.endpoint())).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn grant_lease(&self) {
        let request = LeaseGrantRequest { ttl: LEASE_TTL_SECONDS, id: LEASE };
        LeaseClient::new(self.channel().await).lease_grant(request).await.unwrap();
    }

    /// The ids of the member and of its leader.
    async fn ids(&self) -> (u64, u64) {
        let status = MaintenanceClient::new(self.channel().await).status(StatusRequest {}).await;
        let status = status.unwrap().into_inner();
        (status.header.unwrap().member_id, status.leader)
    }

    async fn raise_alarm(&self) {
        let mut client = MaintenanceClient::new(self.channel().await);
        let (action, alarm) = (AlarmAction::Activate.into(), AlarmType::Nospace.into());
        let (member_id, _) = self.ids().await;
        client.alarm(AlarmRequest { action, member_id, alarm }).await.unwrap();
    }
}

/// One line of the story.
struct Case {
    line: &'static str,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    stdin: String,
    /// Both clients ask the first twin: for what differs between twins and changes nothing.
    same_server: bool,
    /// A command that does not end is stopped after so many lines.
    lines: Option<usize>,
    masks: Vec<&'static str>,
    without_endpoints: bool,
    /// Ours alone is given `--range`, which 3.5 does not know and 3.6 asks for.
    range: bool,
    /// Help is compared up to its options: our list differs.
    usage: bool,
    /// Only the last line of standard error is compared: before it the real one explains at length.
    last_line: bool,
}

impl Case {
    fn parse(line: &'static str) -> Self {
        let (command, stdin) = line.split_once(" <<<").unwrap_or((line, ""));
        let mut case = Self {
            line,
            args: Vec::new(),
            environment: Vec::new(),
            stdin: stdin.trim_start().replace('~', "\n"),
            same_server: false,
            lines: None,
            masks: Vec::new(),
            without_endpoints: false,
            range: false,
            usage: false,
            last_line: false,
        };
        for word in command.split_whitespace() {
            match word.strip_prefix('@') {
                Some("same") => case.same_server = true,
                Some("usage") => case.usage = true,
                Some("last") => case.last_line = true,
                Some("nowhere") => case.without_endpoints = true,
                Some("range") => case.range = true,
                Some(directive) => match directive.split_once('=') {
                    Some(("lines", count)) => case.lines = Some(count.parse().unwrap()),
                    Some(("mask", what)) => case.masks.push(what),
                    Some(("env", setting)) => {
                        let (name, value) = setting.split_once('=').unwrap();
                        case.environment.push((name.into(), value.into()));
                    }
                    _ => panic!("unknown directive @{directive}"),
                },
                None if word == "''" => case.args.push(String::new()),
                None => case.args.push(word.replace('_', " ").replace("\\ ", "_")),
            }
        }
        case
    }

    fn run(&self, program: &Path, server: &Server) -> Output {
        let mut command = Command::new(program);
        let port = server.port.to_string();
        command.args(self.args.iter().map(|word| word.replace("PORT", &port)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("PATH", "/usr/bin:/bin");
        if !self.without_endpoints {
            command.env("ETCDCTL_ENDPOINTS", server.endpoint());
        }
        command.envs(self.environment.iter().cloned());
        if self.range && program == Path::new(OURS) {
            command.arg("--range");
        }
        let mut child = command.spawn().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let mut stdin = child.stdin.take().unwrap();
        let child = Mutex::new(child);
        let (done, waiting) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let kill = || child.lock().unwrap().kill().unwrap();
            scope.spawn(move || {
                if waiting.recv_timeout(LONGEST_RUN) == Err(RecvTimeoutError::Timeout) {
                    kill();
                }
            });
            let errors = scope.spawn(move || {
                let mut bytes = Vec::new();
                stderr.read_to_end(&mut bytes).unwrap();
                bytes
            });
            // A command that ends without reading its input closes the pipe.
            let _ = stdin.write_all(self.stdin.as_bytes());
            let mut printed = Vec::new();
            match self.lines {
                None => {
                    drop(stdin);
                    stdout.read_to_end(&mut printed).unwrap();
                }
                Some(count) => {
                    let mut reader = BufReader::new(stdout);
                    for _ in 0..count {
                        reader.read_until(b'\n', &mut printed).unwrap();
                    }
                    kill();
                }
            }
            let errors = errors.join().unwrap();
            let status = child.lock().unwrap().wait().unwrap();
            drop(done);
            self.output(printed, &errors, status.code(), server)
        })
    }

    fn output(&self, stdout: Vec<u8>, stderr: &[u8], code: Option<i32>, server: &Server) -> Output {
        let port = server.port.to_string();
        let replaced = |bytes: &[u8]| {
            let mut text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
            text = text.replace(&port, "<PORT>");
            for mask in &self.masks {
                text = masked(&text, mask);
            }
            text
        };
        let stderr = replaced(stderr);
        let error = match self.last_line {
            true => stderr.lines().last().unwrap_or_default().into(),
            false => stderr.lines().filter_map(error_line).collect(),
        };
        let mut stdout = replaced(&stdout);
        if self.usage
            && let Some(options) = stdout.find("\nOPTIONS:\n")
        {
            stdout.truncate(options);
        }
        Output { stdout, error, code }
    }
}

/// A line of standard error, with log lines cut to their level and message. The real one logs retries; we do not.
fn error_line(line: &str) -> Option<String> {
    if line.contains("\"msg\":\"retrying of unary invoker failed\"") {
        return None;
    }
    let cut =
        line.split_once(",\"ts\":").and_then(|(level, rest)| Some((level, rest.split_once(",\"msg\":")?.1)));
    let Some((level, message)) = cut else { return Some(format!("{line}\n")) };
    let message = message.split(",\"stacktrace\":").next().unwrap_or_default();
    Some(format!("{level} {}\n", message.trim_end_matches('}')))
}

/// Blanks what cannot be equal: `took` (times), `remaining` (of a lease), `id` (chosen by a server).
fn masked(text: &str, what: &str) -> String {
    let starts: &[&str] = match what {
        "took" => &["took = ", "\"took\":\"", "\"Took\" : "],
        "remaining" => &["remaining(", "\"ttl\":", "\"TTL\" : "],
        "id" => &["lease ", "\"ID\":", "\"ID\" : "],
        _ => panic!("unknown mask {what}"),
    };
    let mut out = text.to_owned();
    for start in starts {
        let Some(at) = out.find(start).map(|at| at + start.len()) else { continue };
        let end = out[at..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '\u{c2}' && c != '\u{b5}');
        let end = end.map_or(out.len(), |length| at + length);
        out.replace_range(at..end, "*");
    }
    out
}

#[derive(Debug, PartialEq)]
struct Output {
    stdout: String,
    error: String,
    code: Option<i32>,
}

/// The directory's or the PATH's `etcd` and `etcdctl`, if they are of the 3.5 line; else says that the test is skipped,
/// or fails it where peers are required.
fn peer() -> Option<(PathBuf, PathBuf)> {
    let directory = std::env::var_os("ETCD_PEER_DIR").map(PathBuf::from);
    let program =
        |name: &str| directory.as_ref().map_or_else(|| name.into(), |directory| directory.join(name));
    let (etcd, etcdctl): (PathBuf, PathBuf) = (program("etcd"), program("etcdctl"));
    let version = Command::new(&etcdctl).arg("version").env("ETCDCTL_API", "3").output();
    if version.is_ok_and(|output| output.stdout.starts_with(b"etcdctl version: 3.5.")) {
        return Some((etcd, etcdctl));
    }
    let reason =
        "no etcd and etcdctl 3.5 in ETCD_PEER_DIR or on the PATH (`tools/setup --peers` installs them)";
    let required = std::env::var("KEELSON_REQUIRE_PEER").is_ok_and(|value| value == "1");
    assert!(!required, "required by KEELSON_REQUIRE_PEER=1: {reason}");
    println!("skipped: {reason}");
    None
}

#[tokio::test]
async fn prints_what_etcdctl_prints() {
    let Some((etcd, theirs)) = peer() else { return };
    let twins = [Server::start(&etcd), Server::start(&etcd)];
    let mut differences = String::new();
    let mut compared = 0;
    for line in STORY.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line {
            "= grant lease 77" => {
                twins[0].grant_lease().await;
                twins[1].grant_lease().await;
                continue;
            }
            "= raise alarm" => {
                twins[0].raise_alarm().await;
                twins[1].raise_alarm().await;
                continue;
            }
            _ => {}
        }
        let case = Case::parse(line);
        let expected = case.run(&theirs, &twins[0]);
        let found = case.run(Path::new(OURS), &twins[usize::from(!case.same_server)]);
        compared += 1;
        if expected != found {
            differences.push_str(&format!("{}\n  theirs {expected:?}\n  ours   {found:?}\n", case.line));
        }
    }
    assert!(compared > 100, "only {compared} commands compared");
    assert!(differences.is_empty(), "{differences}");
}

#[tokio::test]
async fn moves_the_leader() {
    let Some((etcd, theirs)) = peer() else { return };
    let members = Server::start_cluster(&etcd);
    let run = |program: &Path, target: u64, endpoints: &[String]| {
        let endpoints = endpoints.join(",");
        let args = ["move-leader", &format!("{target:x}"), "--endpoints", &endpoints];
        let output = Command::new(program).env_clear().args(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code())
    };
    let all: Vec<String> = members.iter().map(Server::endpoint).collect();
    for program in [Path::new(OURS), &theirs] {
        let (mut leader, mut follower, mut followers) = (0, 0, Vec::new());
        for member in &members {
            let (id, its_leader) = member.ids().await;
            // Only the leader itself is sure to know at once.
            if id == its_leader {
                leader = id;
            } else {
                follower = id;
                followers.push(member.endpoint());
            }
        }
        let refusal = format!("Error: no leader endpoint given at [{}]\n", followers.join(" "));
        assert_eq!(run(program, follower, &followers), (String::new(), refusal, Some(128)));
        let done = format!("Leadership transferred from {leader:x} to {follower:x}\n");
        assert_eq!(run(program, follower, &all), (done, String::new(), Some(0)));
    }
}
