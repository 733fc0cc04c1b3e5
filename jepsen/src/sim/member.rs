//! One simulated member: the node as the server builds it, without its threads and sockets.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::raftpb::{Entry, Message, MessageType};
use rand::{Rng, rngs::StdRng};
use store::{
    backend::{Backend, memory::Memory},
    config::{Config, Url},
    disk::{self, Disk as _},
    membership::{Change, Membership},
    node::{
        Node,
        apply_loop::{MemberChanges, Observer},
        backend_loop::BackendLoop,
        build::{self, Joints, Links},
        clock::Clock,
        mailbox::{Sender, Wake},
        part::Part,
        raft_loop,
        runtime::Runtime,
        transport::Outbound,
        wait::Answer,
    },
    raft::driver::Event,
    server::bootstrap,
    wal,
};

use crate::history::Member as MemberName;

/// Small, so that runs meet their ends.
const SEGMENT_BYTES: u64 = 64 << 10;

/// The parts in the order of `Life::parts`.
pub const RAFT: usize = 0;
pub const WAL: usize = 1;
pub const APPLY: usize = 2;
pub const BACKEND: usize = 3;
pub const PARTS: usize = 6;

pub struct Member {
    pub number: usize,
    pub id: u64,
    config: Arc<Config>,
    disk: disk::Sim,
    memory: Arc<Memory>,
    pub life: Option<Life>,
    /// How often it was started.
    pub lives: u64,
    /// Nanoseconds of the world at which its clock stands at 0.
    pub clock_from_ns: u64,
}

/// A member that runs.
pub struct Life {
    pub node: Arc<Node>,
    pub clock: Clock,
    pub parts: [Box<dyn Part>; PARTS],
    pub outbox: Arc<Outbox>,
    pub ledger: Arc<Ledger>,
    pub raft: Sender<raft_loop::Input>,
    pub backend: Arc<Memory>,
}

/// Messages on their way out.
#[derive(Default)]
pub struct Outbox(Mutex<Vec<Message>>);

impl Outbox {
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Outbound for Outbox {
    fn send(&self, mut messages: Vec<Message>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut messages);
    }
}

/// What an entry did when a member applied it.
pub struct Applied {
    pub index: u64,
    /// Of the request, 0 if it has none.
    pub request: u64,
    /// Of the entry, its result and the revisions before and after it.
    pub digest: u64,
    /// The revision that it made.
    pub made: Option<i64>,
}

/// What has been applied since somebody looked.
#[derive(Default)]
pub struct Ledger(Mutex<Vec<Applied>>);

impl Ledger {
    pub fn take(&self) -> Vec<Applied> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Ledger {
    fn applied(&self, entry: &Entry, id: u64, result: &Answer, (before, after): (i64, i64)) {
        let mut hasher = DefaultHasher::new();
        (entry.index, entry.term, entry.data.as_deref(), before, after).hash(&mut hasher);
        format!("{result:?}").hash(&mut hasher);
        let made = (after > before).then_some(after);
        let applied = Applied { index: entry.index, request: id, digest: hasher.finish(), made };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(applied);
    }
}

/// The simulated network finds members by themselves.
struct Everybody;

impl MemberChanges for Everybody {
    fn changed(&self, _: &Change) {}
    fn replaced(&self, _: &Membership) {}
}

/// The backend part where the apply part can turn it too.
#[derive(Clone)]
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

/// Address of member `number` to its peers.
fn peer_url(number: usize) -> Url {
    Url::http(&format!("m{number}"), 2380)
}

impl Member {
    /// Of a cluster of `members`, not started yet.
    pub fn new(number: usize, members: usize, random: &mut StdRng) -> Member {
        let all: Vec<String> = (0..members).map(|it| format!("m{it}={}", peer_url(it))).collect();
        let config = Config {
            name: format!("m{number}"),
            data_dir: "/data".into(),
            initial_cluster: all.join(","),
            listen_peer_urls: vec![peer_url(number)],
            initial_advertise_peer_urls: vec![peer_url(number)],
            snapshot_count: random.random_range(5..100),
            snapshot_catchup_entries: random.random_range(5..50),
            ..Config::default()
        };
        Member {
            number,
            id: 0,
            config: Arc::new(config),
            disk: disk::Sim::new(),
            memory: Arc::default(),
            life: None,
            lives: 0,
            clock_from_ns: 0,
        }
    }

    pub fn start(&mut self, now_ns: u64, mut random: StdRng) -> Result<(), String> {
        let disk: Arc<dyn disk::Disk> = Arc::new(self.disk.clone());
        let memory = self.memory.clone();
        let open = |_: &Path| Ok(memory.clone() as Arc<dyn Backend>);
        let options = wal::Options { segment_bytes: SEGMENT_BYTES };
        let found = bootstrap::member(&self.config, disk.clone(), &open, options)
            .map_err(|error| format!("member {} does not start: {error}", self.number))?;
        self.id = found.id;
        self.lives += 1;
        self.clock_from_ns = now_ns;
        // Request IDs of different lives must differ, as they do where time never stands still.
        let joints = Joints::new(&found, 1_700_000_000_000 + now_ns / 1_000_000 + self.lives);
        let (outbox, ledger): (Arc<Outbox>, Arc<Ledger>) = Default::default();
        let backend_slot = Shared(Arc::default());
        let clock = Clock::simulated();
        let links = Links {
            disk,
            outbound: outbox.clone(),
            members: Box::new(Everybody),
            transport: None,
            runtime: Runtime::Simulated,
            clock: clock.clone(),
            random: Box::new(move |bound| random.random_range(0..bound.max(1))),
            observer: Some(ledger.clone()),
            drive: Some({
                let slot = backend_slot.clone();
                Arc::new(move || {
                    // Its end shows when its own turn comes.
                    let _ = slot.with(Part::turn);
                })
            }),
        };
        let raft = joints.raft.clone();
        let (node, parts) = build::build(&self.config, found, joints, links)
            .map_err(|error| format!("member {} does not start: {error}", self.number))?;
        *backend_slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(parts.backend);
        self.life = Some(Life {
            node,
            clock,
            parts: [
                Box::new(parts.raft),
                Box::new(parts.wal),
                Box::new(parts.apply),
                Box::new(backend_slot),
                Box::new(parts.checkpoint),
                Box::new(parts.compaction),
            ],
            outbox,
            ledger,
            raft,
            backend: self.memory.clone(),
        });
        Ok(())
    }

    /// The power goes in the middle of things: after so many more changes on its disk.
    pub fn cut_power_after(&self, changes: u64) {
        self.disk.power_off_after(changes);
    }

    /// The process ends; with `power` gone, what was not synced may go with it.
    pub fn crash(&mut self, power: bool, random: &mut StdRng) {
        self.life = None;
        if power {
            let keeps = random.random_range(0..4);
            self.disk.crash(&mut |_| match keeps {
                0 => false,
                1 => true,
                _ => random.random_bool(0.5),
            });
        } else {
            self.disk.crash(&mut |_| true);
        }
        // The backend has no log of its own: a process that ends loses what was not flushed, power or not.
        self.memory = Arc::new(self.memory.crash(random.random_range(0..=self.memory.unflushed())));
    }

    /// Its name in a history: a life that begins anew may show older states than the one before.
    pub fn name(&self) -> MemberName {
        MemberName((self.lives * 100) as u32 + self.number as u32)
    }

    /// Sets its clock for what happens at `now_ns`.
    pub fn set_clock(&self, now_ns: u64) {
        if let Some(life) = &self.life {
            life.clock.set(Duration::from_nanos(now_ns - self.clock_from_ns));
        }
    }

    /// When a part wants to be turned: at once (0) or in so many nanoseconds.
    pub fn due_in_ns(&self, part: usize) -> Option<u64> {
        let life = self.life.as_ref()?;
        let part = &life.parts[part];
        if part.waiting() > 0 {
            return Some(0);
        }
        match part.wake() {
            Wake::Never => None,
            Wake::At { deadline, .. } => {
                Some(deadline.saturating_duration_since(life.clock.now()).as_nanos() as u64)
            }
        }
    }

    /// What a message brings: a snapshot comes with its data.
    pub fn receive(&self, message: Message, data: Option<&[u8]>) -> Result<(), String> {
        let Some(life) = &self.life else { return Ok(()) };
        if let Some(data) = data {
            let snap_dir: PathBuf = self.config.member_dir_path().join("snap");
            let path = store::node::apply_loop::received_path(&snap_dir, message.snapshot.metadata.index);
            let write = || {
                let file = self.disk.create(&path)?;
                file.write_at(data, 0)?;
                file.sync_data()?;
                self.disk.sync_dir(&snap_dir)
            };
            write().map_err(|error| format!("a received snapshot cannot be saved: {error}"))?;
        }
        let _ = life.raft.send(raft_loop::Input::Event(Event::Message(Box::new(message))));
        Ok(())
    }
}

impl Life {
    /// The data that a snapshot message takes along; `None` while the backend is behind it.
    pub fn snapshot(&self, message: &mut Message) -> Option<Vec<u8>> {
        debug_assert_eq!(message.r#type, MessageType::MsgSnap as i32);
        let (ready, mut metadata) = tokio::sync::oneshot::channel();
        let mut data = Vec::new();
        let wanted = message.snapshot.metadata.index;
        let mut send = |chunk: bytes::Bytes| {
            data.extend_from_slice(&chunk);
            true
        };
        store::node::snapshot::stream(&*self.backend, wanted, ready, &mut send).ok()?;
        message.snapshot.metadata = metadata.try_recv().ok()?;
        Some(data)
    }
}
