//! A network of which every frame passes through this process.
//!
//! Each member has a network namespace of its own with one interface (a TAP) whose other end is here; the clients'
//! interface is in the namespace of the caller, so they connect as usual. One thread forwards frames and does to them
//! what the `Link` of that direction says. Namespaces have no names: they are held by file descriptors and vanish with
//! this process, as the interfaces do.
//!
//! | module | owns |
//! |---|---|
//! | `link` | what happens to a frame, as a pure function |
//! | `forward` | the thread |
//! | `tap` | namespaces and interfaces |
//!
//! A network is 32 addresses of 198.18.0.0/15, which is reserved for tests of networks: members from .1 on, the clients
//! at .30 (plus a multiple of 32). It is chosen so that no interface of the caller has an address in it. Hardware
//! addresses are known to all ends from the start, so no address resolution can fail or be delayed. IPv6 is not
//! carried.

mod forward;
mod link;
mod tap;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use forward::{Directions, Forwarder, Shared, hardware_address, lock};
use tap::{Addresses, Tap};

const MAX_MEMBERS: usize = 28;
const FIRST_NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const NETWORKS: u32 = 4096;
const NETWORK_SIZE: u32 = 32;
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 224);
/// The clients' address within the network.
const CLIENTS: u32 = 30;
/// Networks tried before giving up.
const ATTEMPTS: u32 = 64;

/// One end of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// 0 to members - 1.
    Member(usize),
    Clients,
}

/// What happens to frames in one direction. The default does nothing to them. Probabilities are 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// Dropped in silence.
    pub blocked: bool,
    pub delay: Duration,
    /// Up to so much more, uniformly; without `reorder` frames still arrive in order.
    pub jitter: Duration,
    pub loss: f64,
    pub duplicate: f64,
    /// Held back so that later ones overtake.
    pub reorder: f64,
    /// One bit flipped.
    pub corrupt: f64,
    pub bytes_per_second: Option<u64>,
}

/// What was done to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub forwarded: u64,
    pub blocked: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
    pub delayed: u64,
    /// Dropped because too many waited, or the receiver's end is gone.
    pub overflowed: u64,
}

/// A member's place in the network.
#[derive(Debug)]
pub struct Member {
    pub address: Ipv4Addr,
    namespace: OwnedFd,
}

/// The network; dropping it ends the thread and takes the interfaces away.
#[derive(Debug)]
pub struct Switch {
    members: Vec<Member>,
    client_address: Ipv4Addr,
    directions: Shared,
    _forwarder: Forwarder,
}

/// Why there can be none here, if so: a small one is made to find out.
pub fn available() -> Result<(), String> {
    Switch::new(1, 0).map(drop).map_err(|error| format!("no network of namespaces and TAPs: {error}"))
}

impl Member {
    /// The command's process will run in the member's namespace. For tokio's: `command.as_std_mut()`.
    pub fn enter(&self, command: &mut Command) -> io::Result<()> {
        let namespace = self.namespace.try_clone()?;
        // SAFETY: the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || tap::enter(namespace.as_fd())) };
        Ok(())
    }

    /// For `nsenter --net=PATH`, while this process lives.
    pub fn namespace_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()).into()
    }

    /// For `setns`.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Runs `work` on a thread inside the namespace and waits for it; sockets made there belong to it.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        tap::on_a_thread(|| tap::enter(self.namespace.as_fd()).map(|()| work()))?
    }
}

/// The `attempt`th network of this switch: another than that of switches made at the same time.
fn network(attempt: u32) -> Ipv4Addr {
    static SWITCHES: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let here = std::process::id().wrapping_mul(2_654_435_761) ^ time;
    let chosen =
        here.wrapping_add(SWITCHES.fetch_add(1, Ordering::Relaxed)).wrapping_add(attempt * 97) % NETWORKS;
    Ipv4Addr::from(u32::from(FIRST_NETWORK) + chosen * NETWORK_SIZE)
}

/// The addresses of all ends: members, then clients.
fn addresses(network: Ipv4Addr, members: usize) -> Vec<(Ipv4Addr, [u8; 6])> {
    let within = (1..=members as u32).chain([CLIENTS]);
    let addresses = within.map(|number| Ipv4Addr::from(u32::from(network) + number));
    addresses.enumerate().map(|(end, address)| (address, hardware_address(end))).collect()
}

impl Switch {
    /// A network of `members` (at most 28) and the clients. `seed` draws what happens to frames.
    pub fn new(members: usize, seed: u64) -> io::Result<Switch> {
        if members > MAX_MEMBERS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("at most {MAX_MEMBERS} members"),
            ));
        }
        let (all, clients) = Switch::choose_network(members)?;
        let mut taps = Vec::new();
        let mut places = Vec::new();
        for &(own, _) in &all[..members] {
            let (namespace, tap) = tap::on_a_thread(|| {
                let namespace = tap::new_namespace()?;
                Ok::<_, io::Error>((namespace, Tap::new(&Addresses { own, mask: MASK, all: &all })?))
            })??;
            taps.push(tap);
            places.push(Member { address: own, namespace });
        }
        taps.push(clients);
        let directions = Arc::new(Mutex::new(Directions::new(members + 1)));
        let forwarder = Forwarder::start(taps, Arc::clone(&directions), seed)?;
        Ok(Switch { members: places, client_address: all[members].0, directions, _forwarder: forwarder })
    }

    /// Addresses that nobody has, and the clients' interface with its own.
    fn choose_network(members: usize) -> io::Result<(Vec<(Ipv4Addr, [u8; 6])>, Tap)> {
        for attempt in 0..ATTEMPTS {
            let network = network(attempt);
            if tap::addresses_within(network, MASK)? > 0 {
                continue;
            }
            let all = addresses(network, members);
            let clients = Tap::new(&Addresses { own: all[members].0, mask: MASK, all: &all })?;
            // Another may have chosen the same in between; then both choose again.
            if tap::addresses_within(network, MASK)? == 1 {
                return Ok((all, clients));
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no network is free"))
    }

    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The address that clients in the caller's namespace connect from.
    pub fn client_address(&self) -> Ipv4Addr {
        self.client_address
    }

    fn end(&self, port: Port) -> usize {
        match port {
            Port::Member(index) => index,
            Port::Clients => self.members.len(),
        }
    }

    /// Replaces the rules of one direction.
    pub fn set(&self, from: Port, to: Port, link: Link) {
        lock(&self.directions).get(self.end(from), self.end(to)).set(link);
    }

    /// The rules of one direction.
    pub fn link(&self, from: Port, to: Port) -> Link {
        lock(&self.directions).get(self.end(from), self.end(to)).link()
    }

    /// Changes the rules of one direction.
    pub fn change(&self, from: Port, to: Port, change: impl FnOnce(&mut Link)) {
        let mut directions = lock(&self.directions);
        let direction = directions.get(self.end(from), self.end(to));
        let mut link = direction.link();
        change(&mut link);
        direction.set(link);
    }

    /// Changes the rules of all directions.
    pub fn change_all(&self, change: impl Fn(&mut Link)) {
        for direction in lock(&self.directions).iter_mut() {
            let mut link = direction.link();
            change(&mut link);
            direction.set(link);
        }
    }

    /// Blocks or unblocks both directions.
    pub fn block(&self, a: Port, b: Port, blocked: bool) {
        self.change(a, b, |link| link.blocked = blocked);
        self.change(b, a, |link| link.blocked = blocked);
    }

    /// All directions are as at first.
    pub fn heal(&self) {
        self.change_all(|link| *link = Link::default());
    }

    pub fn counts(&self, from: Port, to: Port) -> Counts {
        lock(&self.directions).get(self.end(from), self.end(to)).counts
    }
}
