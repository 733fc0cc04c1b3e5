//! Faults of processes: they are killed, frozen, stopped, told to lead, or left behind.

use std::{os::unix::process::ExitStatusExt, time::Duration};

use proto::etcdserverpb as pb;
use rand::{Rng, rngs::StdRng, seq::SliceRandom};

use super::Nemesis;
use crate::rpc::{self, Failure};

/// A graceful stop takes at most so long.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// A killed process is gone after so long.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(5);
const TRANSFER_LIMIT: Duration = Duration::from_secs(3);
/// What a fault says that did not take place.
pub(super) const TAKEN: &str = "the member was in another fault's hand";
pub(super) const DOWN: &str = "the member was down";

impl Nemesis {
    /// Kills one, a minority or all, and starts them again after a while.
    pub(super) async fn kill(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let victims = self.some_members(random);
        self.take_down(&victims, random, &mut |_| {}).await.map(|names| format!("kill {names}"))
    }

    /// One, a minority, or all.
    pub(super) fn some_members(&self, random: &mut StdRng) -> Vec<usize> {
        let size = self.world.cluster.servers.len();
        let mut all: Vec<usize> = (0..size).collect();
        match random.random_range(0..10) {
            0..2 => all,
            2..4 if size > 3 => {
                all.shuffle(random);
                all.truncate((size - 1) / 2);
                all
            }
            _ => vec![self.victim(random)],
        }
    }

    /// Kills members at once, does `while_down` to each, and starts them, all or one after the other.
    pub(super) async fn take_down(
        &self,
        victims: &[usize],
        random: &mut StdRng,
        while_down: &mut dyn FnMut(usize),
    ) -> Result<String, &'static str> {
        let claims: Vec<_> = victims.iter().filter_map(|&at| Some((at, self.claim(at)?))).collect();
        if claims.is_empty() {
            return Err(TAKEN);
        }
        let names: Vec<String> = claims.iter().map(|(at, _)| self.named(*at)).collect();
        // All have the signal before the first is waited for.
        for (at, _) in &claims {
            self.world.cluster.servers[*at].signal(libc::SIGKILL);
        }
        for (at, _) in &claims {
            self.world.cluster.servers[*at].end(libc::SIGKILL, KILL_LIMIT).await;
            while_down(*at);
        }
        self.hold(random.random_range(0..1200)).await;
        let apart_ms = if random.random_bool(0.5) { 0 } else { random.random_range(0..300) };
        for (at, claim) in claims {
            self.start_member(at);
            drop(claim);
            self.hold(apart_ms).await;
        }
        Ok(names.join(", "))
    }

    pub(super) async fn pause(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let at = self.victim(random);
        let _claim = self.claim(at).ok_or(TAKEN)?;
        let server = &self.world.cluster.servers[at];
        if !server.signal(libc::SIGSTOP) {
            return Err(DOWN);
        }
        let name = self.named(at);
        let time_ms = if random.random_bool(0.8) {
            random.random_range(100..1500)
        } else {
            random.random_range(1500..5000)
        };
        self.hold(time_ms).await;
        server.signal(libc::SIGCONT);
        Ok(format!("pause {name} {time_ms} ms"))
    }

    /// Stops one with SIGTERM and starts it, or each in turn.
    pub(super) async fn restart(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let size = self.world.cluster.servers.len();
        let rolling = random.random_bool(0.3);
        let victims: Vec<usize> = if rolling { (0..size).collect() } else { vec![self.victim(random)] };
        let mut names = Vec::new();
        for at in victims {
            let Some(claim) = self.claim(at) else { continue };
            if !self.world.cluster.servers[at].is_up() {
                continue;
            }
            names.push(self.named(at));
            self.stop_cleanly(at).await;
            self.hold(random.random_range(0..300)).await;
            self.start_member(at);
            drop(claim);
            self.hold(random.random_range(0..500)).await;
        }
        if names.is_empty() { Err(TAKEN) } else { Ok(format!("restart {}", names.join(", "))) }
    }

    async fn stop_cleanly(&self, at: usize) {
        match self.world.cluster.servers[at].end(libc::SIGTERM, STOP_LIMIT).await {
            // etcd, asked to end by a signal, ends by that signal.
            Some(status) if status.success() || status.signal() == Some(libc::SIGTERM) => {}
            Some(status) if self.is_excused(at, status) => {}
            Some(status) => self.world.fail(format!("m{at} did not stop cleanly: {status}")),
            None => self.world.fail(format!("m{at} did not stop within {STOP_LIMIT:?}")),
        }
    }

    pub(super) async fn transfer(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let cluster = &self.world.cluster;
        let leader = cluster.leader.get().ok_or("no leader was known")?;
        let others: Vec<usize> = (0..cluster.servers.len()).filter(|&at| at != leader).collect();
        let to = others[random.random_range(0..others.len())];
        let connection = cluster.servers[leader].connection().await.map_err(|_| DOWN)?;
        let request = pb::MoveLeaderRequest { target_id: cluster.servers[to].id.get() };
        let moved: Result<pb::MoveLeaderResponse, Failure> =
            connection.ask(rpc::MOVE_LEADER, &request, TRANSFER_LIMIT).await;
        match moved {
            Ok(_) => Ok(format!("transfer from m{leader} to m{to}")),
            Err(Failure::Refused(_)) => Err("the transfer was refused"),
            Err(_) => Err("the transfer was not answered"),
        }
    }

    /// Keeps a member away while the others write more than their log keeps.
    pub(super) async fn leave_behind(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let leader = self.world.cluster.leader.get();
        let size = self.world.cluster.servers.len();
        let followers: Vec<usize> = (0..size).filter(|&at| Some(at) != leader).collect();
        let at = followers[random.random_range(0..followers.len())];
        let _claim = self.claim(at).ok_or(TAKEN)?;
        let server = &self.world.cluster.servers[at];
        let paused = random.random_bool(0.4);
        if paused {
            if !server.signal(libc::SIGSTOP) {
                return Err(DOWN);
            }
        } else {
            server.end(libc::SIGKILL, KILL_LIMIT).await;
        }
        let before = self.world.seen();
        let settings = self.world.cluster.settings;
        let enough = i64::try_from(settings.snapshot_count + settings.catchup_entries).unwrap_or(i64::MAX);
        for _ in 0..25 {
            self.hold(100).await;
            if self.world.seen() - before > enough {
                break;
            }
        }
        let behind = self.world.seen() - before;
        if paused {
            server.signal(libc::SIGCONT);
        } else {
            self.start_member(at);
        }
        if behind <= enough {
            return Err("the others wrote too little for a snapshot");
        }
        Ok(format!("snapshot to m{at}, {behind} revisions behind{}", if paused { ", paused" } else { "" }))
    }
}
