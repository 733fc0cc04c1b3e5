//! The traffic of runs: one file for each kind, all made of `session` and `stream`.
//!
//! | workload | traffic | judged, beside what all are |
//! |---|---|---|
//! | `register` | puts, gets, compare-and-set on keys that rotate | each key alone, by values |
//! | `kv-mix` | every KV request | |
//! | `append` | lists read and then written under a guard | cycles, by values |
//! | `set` | unique keys, reads of all | nothing lost, nothing invented |
//! | `watch` | watchers that come, go and are slow, over writes | each stream against the replay |
//! | `lease` | grants, keepalives, revokes, ends | none too early, none too late |
//! | `lock` | locks over keys and leases, writes under them | who held it |
//! | `compaction` | frequent compactions, reads around them | HashKV equal while it runs |
//! | `admin` | snapshots, hashes, alarms, defragmentation, other leaders | a snapshot has the HashKV of its revision |
//! | `auth` | users whose permissions come and go | nobody did what they could never, nobody was refused what they always could |
//! | `kube` | informers, optimistic writes, lists in pages | |
//!
//! A workload's clients end soon after `World::end`. What they write has unique values, or is counted by
//! `World::anonymous`. What a verdict needs is in the history alone, in the names of keys; but who was allowed what is
//! in `World::rights`.

mod admin;
mod append;
mod auth;
mod compaction;
mod kube;
mod lease;
mod lock;
mod mix;
mod register;
mod set;
mod watch;

pub use append::{LIST, elements};
pub use lock::LOCK;
pub use set::element;

use std::{fmt, rc::Rc, str::FromStr};

use rand::Rng;
use tokio::task::{JoinSet, LocalSet};

use crate::{session::Session, world::World};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    Register,
    Mix,
    Append,
    Set,
    Watch,
    Lease,
    Lock,
    Compaction,
    Kube,
    Auth,
    Admin,
}

impl Workload {
    pub const ALL: [Workload; 11] = [
        Workload::Register,
        Workload::Mix,
        Workload::Append,
        Workload::Set,
        Workload::Watch,
        Workload::Lease,
        Workload::Lock,
        Workload::Compaction,
        Workload::Kube,
        Workload::Auth,
        Workload::Admin,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Workload::Register => "register",
            Workload::Mix => "kv-mix",
            Workload::Append => "append",
            Workload::Set => "set",
            Workload::Watch => "watch",
            Workload::Lease => "lease",
            Workload::Lock => "lock",
            Workload::Compaction => "compaction",
            Workload::Kube => "kube",
            Workload::Auth => "auth",
            Workload::Admin => "admin",
        }
    }

    /// Starts its clients.
    pub fn start(self, world: &Rc<World>, local: &LocalSet) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        let count = world.random("clients", 0).random_range(12..=36);
        for number in 0..count {
            let session = Session::new(world, self.name(), number);
            match self {
                Workload::Register => clients.spawn_local_on(register::client(session), local),
                Workload::Mix => clients.spawn_local_on(mix::client(session), local),
                Workload::Append => clients.spawn_local_on(append::client(session), local),
                Workload::Set => clients.spawn_local_on(set::client(session), local),
                Workload::Watch => clients.spawn_local_on(watch::client(session, number), local),
                Workload::Lease => clients.spawn_local_on(lease::client(session), local),
                Workload::Lock => clients.spawn_local_on(lock::client(session, number), local),
                Workload::Compaction => clients.spawn_local_on(compaction::client(session, number), local),
                Workload::Kube => clients.spawn_local_on(kube::client(session, number), local),
                Workload::Auth => clients.spawn_local_on(auth::client(session, number), local),
                Workload::Admin => clients.spawn_local_on(admin::client(session, number), local),
            };
        }
        clients
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Workload, String> {
        let known = Workload::ALL.into_iter().find(|workload| workload.name() == name);
        known.ok_or_else(|| {
            format!("no workload {name:?}; there are {}", Workload::ALL.map(Workload::name).join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Workload, element, elements};

    #[test]
    fn names_are_read_back() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(workload));
        }
        assert!("".parse::<Workload>().is_err());
    }

    #[test]
    fn lists_and_elements_are_read_from_bytes_of_any_kind() {
        assert_eq!(elements(b"1,22,3"), Some(vec![1, 22, 3]));
        for broken in [&b""[..], b"1,", b"v1", b"\xff"] {
            assert_eq!(elements(broken), None);
        }
        assert_eq!(element(b"set/3/17"), Some((3, 17)));
        for broken in [&b"set/3"[..], b"set/3/", b"sets/3/17", b"\xff"] {
            assert_eq!(element(broken), None);
        }
    }
}
