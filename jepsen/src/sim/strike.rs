//! Faults as they happen: what each does to the world, and how it ends.

use rand::Rng;
use store::{disk, node::raft_loop::Input, raft::driver::Event as RaftEvent};

use super::{
    member::{APPLY, BACKEND, WAL},
    plan::{Fault, Kind, Whom},
    watcher::Watcher,
    world::{Event, MS, Plot, SECOND, Struck, World},
};

/// How long a voter's disk is slow that is to forget its vote, and a member that takes over a snapshot at a bad moment.
const PLOT_NS: u64 = 5 * SECOND;
/// How long a leader is cut off that hands over: less than it takes to give that up.
const HANDOVER_NS: std::ops::Range<u64> = 200 * MS..950 * MS;
/// Bytes that fit on a disk which is nearly full.
const ROOM_BYTES: u64 = 64 << 10;

impl World {
    /// Something goes wrong, for a while.
    pub fn strike(&mut self, fault: &Fault) {
        if self.calm {
            return;
        }
        let end_ns = self.now_ns + fault.lasts_ms * MS;
        let whom = |whom: Whom, world: &World| world.whom(whom);
        self.trace((7, fault.at_ms as usize, 0));
        let struck = match &fault.kind {
            Kind::Crash(who) => {
                let member = whom(*who, self);
                self.end_process(member, false, end_ns);
                Some(member)
            }
            Kind::PowerLoss(who) => {
                let member = whom(*who, self);
                self.end_process(member, true, end_ns);
                Some(member)
            }
            Kind::Blackout => {
                for member in self.present().collect::<Vec<_>>() {
                    self.end_process(member, true, end_ns);
                }
                None
            }
            Kind::Cut(who, changes) => {
                let member = whom(*who, self);
                self.cut[member] = true;
                self.members[member].cut_power_after(*changes);
                Some(member)
            }
            Kind::Split(side) => {
                // Those that came later are on the side of a founder.
                let founders = self.founders;
                let side = |member: usize| side >> (member % founders) & 1;
                self.block(end_ns, |from, to| side(from) != side(to));
                None
            }
            Kind::Deaf(who) => {
                let member = whom(*who, self);
                self.block(end_ns, |_, to| to == member);
                Some(member)
            }
            Kind::Alone(who) => {
                let member = whom(*who, self);
                self.isolate(member, end_ns);
                Some(member)
            }
            Kind::Lossy => {
                self.faults += 1;
                self.network.lossy = Some(self.faults);
                self.push(end_ns, Event::Heal { fault: self.faults });
                None
            }
            Kind::Freeze(who) => {
                let member = whom(*who, self);
                self.frozen_until[member] = end_ns;
                Some(member)
            }
            Kind::Stall(who) => {
                let member = whom(*who, self);
                self.stall(member, end_ns);
                Some(member)
            }
            Kind::Forget(who) => {
                let voter = whom(*who, self);
                let Some(old) = self.leader().filter(|leader| *leader != voter) else { return };
                self.stall(voter, self.now_ns + PLOT_NS);
                self.isolate(old, self.now_ns + PLOT_NS);
                self.plot = Some(Plot { old, voter });
                Some(voter)
            }
            Kind::Behind(who) => {
                let member = whom(*who, self);
                self.isolate(member, end_ns);
                self.behind = Some(member);
                Some(member)
            }
            Kind::Full(who) => {
                let member = whom(*who, self);
                let room = self.fault_random.random_range(0..ROOM_BYTES);
                self.members[member].set_room(Some(room));
                self.spoil_until(member, end_ns);
                Some(member)
            }
            Kind::BadSync(who) => {
                let member = whom(*who, self);
                let after = self.fault_random.random_range(0..4);
                self.members[member].spoil(disk::Fault::Sync { after });
                self.spoil_until(member, end_ns);
                Some(member)
            }
            Kind::ShortWrite(who, written) => {
                let member = whom(*who, self);
                let after = self.fault_random.random_range(0..4);
                self.members[member].spoil(disk::Fault::Write { after, written: *written as usize });
                self.spoil_until(member, end_ns);
                Some(member)
            }
            Kind::Rot(who, flips) => {
                let member = whom(*who, self);
                if !self.may_rot(member) {
                    return;
                }
                self.end_process(member, false, end_ns);
                self.rotten[member] = Some(false);
                self.members[member].rot(*flips, &mut self.disk_random);
                Some(member)
            }
            Kind::Skew(who, percent) => {
                let member = whom(*who, self);
                self.members[member].set_pace(self.now_ns, *percent);
                // What it waits for comes at another time now.
                self.next_turn[member] = [None; super::member::PARTS];
                self.schedule(member);
                Some(member)
            }
            Kind::Resize(_) | Kind::Replace(_) | Kind::Move(_) => return self.add_job(fault),
            Kind::Transfer(who) => {
                let Some(leader) = self.leader().filter(|_| self.present().count() > 1) else { return };
                let to = match whom(*who, self) {
                    to if to == leader => {
                        self.present().find(|it| *it > to).or_else(|| self.present().next()).unwrap_or(to)
                    }
                    to => to,
                };
                self.hand_over(leader, to);
                self.handing_over = self.fault_random.random_bool(0.5).then_some(leader);
                Some(to)
            }
        };
        self.faults += 1;
        self.probe(fault.kind.name());
        let (what, from_ns) = (fault.kind.to_string(), self.now_ns);
        self.struck.push(Struck { what, from_ns, to_ns: end_ns, member: struck });
    }

    pub fn hand_over(&mut self, leader: usize, to: usize) {
        let to = self.members[to].id;
        if let Some(life) = &self.members[leader].life {
            let _ = life.raft.send(Input::Event(RaftEvent::TransferLeader { to }));
        }
        self.schedule(leader);
    }

    pub fn end_process(&mut self, member: usize, power: bool, back_ns: u64) {
        self.crash(member, power);
        self.push(back_ns, Event::Start { member });
    }

    /// The power went in the middle of a write, as was arranged.
    pub fn lose_power(&mut self, member: usize) {
        let back_ns = self.now_ns + self.fault_random.random_range(MS..3 * SECOND);
        self.end_process(member, true, back_ns);
        // Recovery itself is cut too, now and then.
        if self.fault_random.random_bool(0.2) {
            self.cut[member] = true;
            self.members[member].cut_power_after(self.fault_random.random_range(0..8));
        }
    }

    /// What a bad disk breaks until then is its fault.
    fn spoil_until(&mut self, member: usize, end_ns: u64) {
        self.bad_until[member] = self.bad_until[member].max(end_ns);
        self.push(end_ns, Event::Repair { member });
    }

    /// Rot may take so many members as the others can do without.
    fn may_rot(&self, member: usize) -> bool {
        let rotten = self.rotten.iter().filter(|it| it.is_some()).count();
        self.rotten[member].is_none() && rotten < (self.members.len() - 1) / 2
    }

    /// Messages between these are lost until then.
    fn block(&mut self, end_ns: u64, lost: impl Fn(usize, usize) -> bool) {
        let size = self.members.len();
        let pairs = (0..size).flat_map(|from| (0..size).map(move |to| (from, to)));
        let pairs = pairs.filter(|(from, to)| from != to && lost(*from, *to)).collect();
        self.faults += 1;
        self.network.blocked.push((self.faults, pairs));
        self.push(end_ns, Event::Heal { fault: self.faults });
    }

    pub fn isolate(&mut self, alone: usize, end_ns: u64) {
        self.block(end_ns, |from, to| (from == alone) != (to == alone));
    }

    /// Faults of the network are over.
    pub fn heal(&mut self, is_over: impl Fn(u64) -> bool) {
        self.trace((6, 0, 0));
        self.network.blocked.retain(|(fault, _)| !is_over(*fault));
        self.network.lossy = self.network.lossy.filter(|fault| !is_over(*fault));
    }

    /// Its disk answers nothing until then.
    pub fn stall(&mut self, member: usize, until_ns: u64) {
        self.stalled_until[member] = until_ns;
        for part in [WAL, BACKEND, BACKEND + 1, BACKEND + 2] {
            self.next_turn[member][part] = None;
        }
        self.schedule(member);
    }

    /// A voter's vote was what a leader needed: now it forgets it.
    pub fn forget_vote(&mut self, plot: Plot, leader: usize) {
        if self.members[plot.voter].life.is_none() {
            return;
        }
        self.probe("vote forgotten");
        self.crash(plot.voter, true);
        self.stalled_until[plot.voter] = 0;
        self.push(self.now_ns + MS, Event::Start { member: plot.voter });
        self.heal(|_| true);
        self.isolate(leader, self.now_ns + PLOT_NS);
    }

    /// A leader has told another to stand for election: now it does not learn for a while what came of it.
    pub fn on_handover(&mut self, leader: u64) {
        let sender = self.by_id.get(&leader).copied();
        if let Some(old) = self.handing_over.take_if(|old| Some(*old) == sender) {
            self.probe("leader cut off as it hands over");
            let lasts_ns = self.fault_random.random_range(HANDOVER_NS);
            self.isolate(old, self.now_ns + lasts_ns);
        }
    }

    /// A member that fell behind gets its snapshot, and something happens to it now and then.
    pub fn on_snapshot(&mut self, member: usize) {
        let meant = self.behind.take_if(|behind| *behind == member).is_some();
        if self.calm || !(meant || self.fault_random.random_bool(0.2)) {
            return;
        }
        self.probe("snapshot at a bad moment");
        match self.fault_random.random_range(0..3) {
            0 => {
                let crash_ns = self.now_ns + self.fault_random.random_range(MS..300 * MS);
                let power = self.fault_random.random_bool(0.5);
                self.push(crash_ns, Event::Crash { member, power });
            }
            // Its disk is slow, and its leader is gone.
            1 => {
                self.stall(member, self.now_ns + PLOT_NS);
                self.isolate(self.leader().unwrap_or(member), self.now_ns + PLOT_NS);
            }
            // It takes its time to install it, so that another may come, and then the power goes.
            _ => {
                self.applies_from[member] = self.now_ns + self.fault_random.random_range(MS..PLOT_NS);
                self.next_turn[member][APPLY] = None;
                self.cut[member] = true;
                self.members[member].cut_power_of_backend_after(self.fault_random.random_range(0..8));
                self.schedule(member);
            }
        }
    }

    /// All that is wrong ends now.
    pub fn end_faults(&mut self) -> Result<(), String> {
        self.calm = true;
        self.watchers.iter_mut().for_each(Watcher::hurry);
        self.plot = None;
        self.handing_over = None;
        self.heal(|_| true);
        let held_until = self.frozen_until.iter().chain(&self.stalled_until).copied().max();
        self.late_until = held_until.unwrap_or_default() + MS * 100;
        for member in 0..self.members.len() {
            // What was arranged for later happens now.
            if std::mem::take(&mut self.cut[member]) {
                self.crash(member, true);
            }
            self.members[member].set_room(None);
            self.members[member].set_pace(self.now_ns, 0);
            self.members[member].forgive();
            self.frozen_until[member] = 0;
            self.stalled_until[member] = 0;
            self.applies_from[member] = 0;
            self.bad_until[member] = 0;
            self.next_turn[member] = Default::default();
            if self.rotten[member] == Some(true) || self.gone[member] {
                continue;
            }
            if self.members[member].life.is_none() {
                self.start(member)?;
            } else {
                self.schedule(member);
            }
        }
        Ok(())
    }
}
