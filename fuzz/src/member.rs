//! A member without threads, sockets or time of its own: the parts that the server builds, over a disk and a backend
//! in memory, turned until nothing moves.

use std::{
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use proto::raftpb::Message;
use store::{
    backend::{Backend, memory::Memory},
    config::{Config, Url},
    disk::{Disk, Sim},
    membership::{Change, Membership},
    node::{
        Node,
        apply_loop::{MemberChanges, Published},
        backend_loop::BackendLoop,
        build::{self, Joints, Links},
        clock::Clock,
        mailbox::{Sender, Wake},
        part::Part,
        raft_loop,
        runtime::Runtime,
        transport::{Ask, Connections, Outbound},
    },
    peer::BoxFuture,
    server::bootstrap,
    wal,
};

/// Turns of all parts after which a member that still has work is taken for one that never rests.
const MAX_ROUNDS: usize = 10_000;
const OPTIONS: wal::Options = wal::Options { segment_bytes: 16 << 10 };

pub struct Member {
    pub node: Arc<Node>,
    pub raft: Sender<raft_loop::Input>,
    pub published: Arc<Published>,
    parts: [Box<dyn Part>; 6],
    clock: Clock,
    elapsed: Duration,
}

struct Nowhere;

impl Outbound for Nowhere {
    fn send(&self, _: Vec<Message>) {}
}

impl Ask for Nowhere {
    fn ask<'a>(&'a self, _: &'a str, _: Request<Bytes>) -> BoxFuture<'a, Option<Response<Bytes>>> {
        Box::pin(std::future::ready(None))
    }
}

impl Connections for Nowhere {
    fn active_since(&self, _: u64) -> Option<Instant> {
        None
    }
}

impl MemberChanges for Nowhere {
    fn changed(&self, _: &Change) {}
    fn replaced(&self, _: &Membership) {}
}

/// The backend part where the apply part can turn it too.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Option<BackendLoop>>>);

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut BackendLoop) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }
}

impl Part for Shared {
    fn wake(&self) -> Wake {
        self.with(|part| part.wake()).unwrap_or(Wake::Never)
    }

    fn waiting(&self) -> usize {
        self.with(|part| part.waiting()).unwrap_or(0)
    }

    fn wait(&self) {}

    fn turn(&mut self) -> bool {
        self.with(Part::turn).unwrap_or(false)
    }
}

/// Settings of the only member of its cluster.
pub fn config() -> Config {
    let url = Url::http("m0", 2380);
    Config {
        name: "m0".into(),
        data_dir: "/data".into(),
        initial_cluster: format!("m0={url}"),
        listen_peer_urls: vec![url.clone()],
        initial_advertise_peer_urls: vec![url],
        snapshot_count: 8,
        snapshot_catchup_entries: 4,
        ..Config::default()
    }
}

impl Member {
    /// Starts what is on the disk, or founds it there.
    pub fn start(config: Config, disk: &Sim, memory: &Arc<Memory>) -> Result<Member, String> {
        let config = Arc::new(config);
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let open = |_: &Path| Ok(memory.clone() as Arc<dyn Backend>);
        let found =
            bootstrap::member(&config, None, disk.clone(), &open, OPTIONS).map_err(|error| error.0)?;
        let joints = Joints::new(&found, 1_700_000_000_000);
        let (raft, published) = (joints.raft.clone(), joints.published.clone());
        let backend = Shared::default();
        let clock = Clock::simulated();
        let links = Links {
            disk,
            outbound: Arc::new(Nowhere),
            members: Box::new(Nowhere),
            others: Arc::new(Nowhere),
            connections: Arc::new(Nowhere),
            transport: None,
            runtime: Runtime::simulated(clock.clone(), 1),
            clock: clock.clone(),
            random: Box::new(|_| 0),
            observer: None,
            drive: Some({
                let backend = backend.clone();
                Arc::new(move || {
                    // Its end shows when its own turn comes.
                    let _ = backend.with(Part::turn);
                })
            }),
        };
        let (node, parts) = build::build(&config, found, joints, links).map_err(|error| error.to_string())?;
        *backend.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(parts.backend);
        let parts: [Box<dyn Part>; 6] = [
            Box::new(parts.raft),
            Box::new(parts.wal),
            Box::new(parts.apply),
            Box::new(backend),
            Box::new(parts.checkpoint),
            Box::new(parts.compaction),
        ];
        Ok(Member { node, raft, published, parts, clock, elapsed: Duration::ZERO })
    }

    /// A new one that leads itself.
    pub fn leading() -> Member {
        let mut member = Member::start(config(), &Sim::new(), &Arc::default()).expect("a new member starts");
        member.lead();
        member
    }

    /// Lets time pass until it leads, if it can.
    pub fn lead(&mut self) {
        for _ in 0..30 {
            self.settle();
            if self.node.status.is_leader() {
                return;
            }
            self.advance(Duration::from_millis(100));
        }
    }

    /// Turns the parts until none has anything to do now.
    pub fn settle(&mut self) {
        for _ in 0..MAX_ROUNDS {
            let now = self.clock.now();
            let mut moved = false;
            for part in &mut self.parts {
                let due = match part.wake() {
                    Wake::Never => false,
                    Wake::At { deadline, .. } => deadline <= now,
                };
                if part.waiting() > 0 || due {
                    moved = true;
                    if !part.turn() {
                        return;
                    }
                }
            }
            if !moved || self.node.fatal.is_set() {
                return;
            }
        }
        panic!("the parts of a member never rest");
    }

    pub fn advance(&mut self, time: Duration) {
        self.elapsed += time;
        self.clock.set(self.elapsed);
        self.settle();
    }

    /// Polls a request while the member works; `None` if it has no answer when nothing moves.
    pub fn call<T>(&mut self, request: impl Future<Output = T>) -> Option<T> {
        let mut request = pin!(request);
        for _ in 0..20 {
            if let Poll::Ready(answer) = request.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return Some(answer);
            }
            self.settle();
        }
        None
    }
}
