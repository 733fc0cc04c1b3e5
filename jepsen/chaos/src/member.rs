//! One member: a place for a server process, over any number of ends and starts.
//!
//! Owns the process, its data directory, its log and the connection that clients share. Each start is an incarnation
//! with a number of its own; connections are to one incarnation. Who may end or stop it is the nemesis' to arrange.
//! Processes die with the thread that started them, and with the `Server`.

use std::{
    cell::{Cell, RefCell},
    ffi::OsString,
    fs::OpenOptions,
    io,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    rc::Rc,
    time::Duration,
};

use oracle::history::Member;
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout},
};

use crate::rpc::{Connection, Failure, Token};

/// Every member has an address of its own, so all have one port.
pub const PEER_PORT: u16 = 2380;
/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_millis(400);
/// Unread bytes of a stream before the member has to wait.
const WINDOW_BYTES: u32 = 4 << 20;

pub struct Server {
    pub index: usize,
    pub name: String,
    pub client: SocketAddr,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    pub environment: Vec<(OsString, OsString)>,
    /// `header.member_id` of its answers, once known.
    pub id: Cell<u64>,
    /// Whether it starts as a new member of the cluster that is there.
    pub joins: Cell<bool>,
    /// Of all members of a run; connections show it.
    pub token: Rc<RefCell<Token>>,
    /// Bytes that the log had when its process was started.
    log_before: Cell<u64>,
    process: RefCell<Process>,
    link: tokio::sync::Mutex<Link>,
}

enum Process {
    /// Not started, or ended by us.
    Down,
    Up(Running),
    /// A task waits for its end.
    Ending {
        pid: i32,
    },
}

struct Running {
    child: Child,
    pid: i32,
    member: Member,
}

/// The connection that clients share.
#[derive(Default)]
struct Link {
    connection: Option<Rc<Connection>>,
    failed_at: Option<Instant>,
}

impl Server {
    pub fn new(index: usize, name: String, client: SocketAddr, data_dir: PathBuf, log: PathBuf) -> Server {
        Server {
            index,
            name,
            client,
            data_dir,
            log,
            command: Vec::new(),
            environment: Vec::new(),
            id: Cell::new(0),
            joins: Cell::new(false),
            token: Rc::default(),
            log_before: Cell::new(0),
            process: RefCell::new(Process::Down),
            link: tokio::sync::Mutex::default(),
        }
    }

    /// Where the other members reach it.
    pub fn peer_url(&self) -> String {
        format!("http://{}:{PEER_PORT}", self.client.ip())
    }

    /// The number of the running incarnation.
    pub fn member(&self) -> Option<Member> {
        match &*self.process.borrow() {
            Process::Up(running) => Some(running.member),
            _ => None,
        }
    }

    pub fn is_up(&self) -> bool {
        self.member().is_some()
    }

    /// Neither running nor about to end.
    pub fn is_down(&self) -> bool {
        matches!(*self.process.borrow(), Process::Down)
    }

    /// Starts the process as incarnation `member`, where `place` puts it; it serves some time later.
    pub fn start(
        &self,
        member: Member,
        place: &dyn Fn(&mut std::process::Command) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut process = self.process.borrow_mut();
        if !matches!(*process, Process::Down) {
            return Err(io::Error::other(format!("{} runs already", self.name)));
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        self.log_before.set(log.metadata()?.len());
        let mut command = Command::new(&self.command[0]);
        let state = if self.joins.get() { "existing" } else { "new" };
        command.args(&self.command[1..]).arg(format!("--initial-cluster-state={state}"));
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        // SAFETY: prctl is async-signal-safe and touches only the new process.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        place(command.as_std_mut())?;
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it was just started");
        *process = Process::Up(Running { child, pid, member });
        Ok(())
    }

    /// How it ended, if it did so without us. It is down then.
    pub fn ended_by_itself(&self) -> Option<ExitStatus> {
        let mut process = self.process.borrow_mut();
        let Process::Up(running) = &mut *process else { return None };
        let status = running.child.try_wait().ok()??;
        *process = Process::Down;
        Some(status)
    }

    /// Sends a signal and waits for the end of the process; `None` if it has not ended within `limit`, and then it is
    /// killed. Nothing is sent to one that does not run.
    pub async fn end(&self, signal: i32, limit: Duration) -> Option<ExitStatus> {
        let running = {
            let mut process = self.process.borrow_mut();
            match std::mem::replace(&mut *process, Process::Down) {
                Process::Up(running) => {
                    *process = Process::Ending { pid: running.pid };
                    running
                }
                other => {
                    *process = other;
                    return None;
                }
            }
        };
        let Running { mut child, pid, .. } = running;
        send(pid, signal);
        let status = timeout(limit, child.wait()).await.ok().and_then(Result::ok);
        if status.is_none() {
            // Failing means that it has ended.
            let _ = child.kill().await;
        }
        *self.process.borrow_mut() = Process::Down;
        status
    }

    /// Whether a process is there still.
    pub fn is_left(&self) -> bool {
        match &mut *self.process.borrow_mut() {
            Process::Up(running) => matches!(running.child.try_wait(), Ok(None)),
            // SAFETY: it is our child, and nobody else waits for it any more.
            Process::Ending { pid } => unsafe {
                libc::waitpid(*pid, std::ptr::null_mut(), libc::WNOHANG) == 0
            },
            Process::Down => false,
        }
    }

    /// Sends a signal to the running process; false if there is none.
    pub fn signal(&self, signal: i32) -> bool {
        match &*self.process.borrow() {
            Process::Up(running) => send(running.pid, signal),
            Process::Ending { pid } => send(*pid, signal),
            Process::Down => false,
        }
    }

    /// A connection to the running incarnation, shared by all who ask.
    pub async fn connection(&self) -> Result<Rc<Connection>, Failure> {
        let asked_at = Instant::now();
        let member = self.member().ok_or(Failure::NotSent)?;
        let mut link = self.link.lock().await;
        if let Some(connection) = link.connection.as_ref().filter(|it| it.member == member) {
            return Ok(connection.clone());
        }
        // Who waited for somebody else's failure does not wait for one more.
        if link.failed_at.is_some_and(|failed_at| failed_at > asked_at) {
            return Err(Failure::NotSent);
        }
        match self.connect(WINDOW_BYTES).await {
            Ok(connection) => {
                let connection = Rc::new(connection);
                link.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(failure) => {
                link.failed_at = Some(Instant::now());
                Err(failure)
            }
        }
    }

    /// A connection of the caller's own.
    pub async fn connect(&self, window_bytes: u32) -> Result<Connection, Failure> {
        let member = self.member().ok_or(Failure::NotSent)?;
        let opened = Connection::open(self.client, member, window_bytes, CONNECT_LIMIT).await;
        // A process that was replaced meanwhile may be the one that accepted.
        let mut opened = opened.ok().filter(|_| self.member() == Some(member)).ok_or(Failure::NotSent)?;
        opened.token = self.token.clone();
        Ok(opened)
    }

    /// Has the next caller open a new connection, unless somebody did so already.
    pub fn distrust(&self, connection: &Rc<Connection>) {
        if let Ok(mut link) = self.link.try_lock()
            && link.connection.as_ref().is_some_and(|current| Rc::ptr_eq(current, connection))
        {
            link.connection = None;
        }
    }

    /// The whole log, over all starts.
    pub fn log_text(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What the process that was started last has said.
    pub fn last_words(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let before = usize::try_from(self.log_before.get()).map_or(0, |before| before.min(bytes.len()));
        String::from_utf8_lossy(&bytes[before..]).into_owned()
    }
}

fn send(pid: i32, signal: i32) -> bool {
    // SAFETY: kill has no memory effects; the child was not waited for, so the pid is its own.
    unsafe { libc::kill(pid, signal) == 0 }
}
