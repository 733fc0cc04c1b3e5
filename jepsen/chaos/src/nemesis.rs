//! What goes wrong in a run: a random subset of the kinds of faults, each again and again, overlapping.
//!
//! | module | kinds |
//! |---|---|
//! | `kind` | their names, and what this machine and the server under test can do |
//! | `process` | `kill`, `pause`, `restart`, `transfer`, `snapshot` |
//! | `members` | `replace` |
//! | `network` | `partition`, `delay`, `loss`, `duplicate` |
//! | `disk` | `power`, `full`, `slow-disk`, `failing-disk` |
//! | `clock` | `clock-jump`, `clock-drift` |
//!
//! Each kind drawn has a task of its own with its own random numbers. What needs a member's process for itself claims
//! the member first; if it is taken, that fault does not take place. Every fault undoes itself, and `heal` undoes all.
//! A member that ends by itself fails the run, but where its disk was made to fail: then it is started again.

mod clock;
mod disk;
mod kind;
mod members;
mod network;
mod process;

pub use clock::MAX_DRIFT_PARTS_PER_MILLION;
pub use kind::{Kind, Machine};

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    rc::Rc,
    time::Duration,
};

use faults::forgetfs::ForgetFs;
use rand::{Rng, rngs::StdRng};
use tokio::{
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, sleep_until},
};

use crate::world::{World, stream_of};

/// How often members are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(50);
/// The first fault of a kind comes within.
const FIRST_WITHIN_MS: u64 = 1500;

/// A kind that was drawn, and how often it comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    pub kind: Kind,
    /// Mean time from the end of one to the begin of the next.
    pub gap_ms: u64,
}

/// What was done to whom, and when.
#[derive(Clone, Debug)]
pub struct Band {
    pub kind: Kind,
    pub what: String,
    pub from_ns: u64,
    pub to_ns: u64,
}

/// Draws kinds for a seed: each by itself, so that leaving one out changes nothing of the others.
pub fn draw(seed: u64, size: usize, wanted: &[Kind], machine: &Machine) -> Vec<Drawn> {
    let possible = |kind: &Kind| kind.fits(size) && machine.refuses(*kind).is_none();
    let asked = |kind: &Kind| wanted.is_empty() || wanted.contains(kind);
    let mut drawn = Vec::new();
    let mut spare = Vec::new();
    for (number, kind) in (0..).zip(Kind::ALL).filter(|(_, kind)| possible(kind) && asked(kind)) {
        let mut random = stream_of(seed, "plan", number);
        let likely = if wanted.is_empty() { kind.likely() } else { 0.75 };
        let taken = random.random_bool(likely);
        let gap_ms = random.random_range(300..2500);
        if taken { &mut drawn } else { &mut spare }.push(Drawn { kind, gap_ms });
    }
    let mut random = stream_of(seed, "spare", 0);
    loop {
        // A disk that has lied about a sync may rightly lose it with the power.
        if drawn.iter().any(|it| it.kind == Kind::Power) {
            drawn.retain(|it| it.kind != Kind::FailingDisk);
        }
        // One more member whose data are gone is one more than the others can do without.
        if drawn.iter().any(|it| it.kind == Kind::FailingDisk) {
            drawn.retain(|it| it.kind != Kind::Replace);
        }
        if drawn.len() >= 2 || spare.is_empty() {
            return drawn;
        }
        drawn.push(spare.remove(random.random_range(0..spare.len())));
    }
}

pub struct Nemesis {
    world: Rc<World>,
    drawn: Vec<Drawn>,
    deadline: Cell<Instant>,
    bands: RefCell<Vec<Band>>,
    /// Faults that could not take place, by kind and reason.
    missed: RefCell<BTreeMap<(Kind, &'static str), u64>>,
    /// Members whose process a fault has for itself.
    claimed: Vec<Cell<bool>>,
    /// Members whose process has met a failing disk: it may end for that, at once or when it finds out.
    disk_fails: Vec<Cell<bool>>,
    /// Members whose disk failed at some time.
    disk_failed: Vec<Cell<bool>>,
    disk_claimed: Vec<Cell<bool>>,
}

/// A member's process, for one fault.
struct Claim<'a>(&'a Cell<bool>);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Nemesis {
    pub fn new(world: &Rc<World>, drawn: Vec<Drawn>) -> Nemesis {
        let cells = || world.cluster.servers.iter().map(|_| Cell::new(false)).collect();
        Nemesis {
            world: world.clone(),
            drawn,
            deadline: Cell::new(Instant::now()),
            bands: RefCell::default(),
            missed: RefCell::default(),
            claimed: cells(),
            disk_fails: cells(),
            disk_failed: cells(),
            disk_claimed: cells(),
        }
    }

    /// The faults, each kind as a task; they end after `time`.
    pub fn start(self: &Rc<Nemesis>, local: &LocalSet, time: Duration) -> JoinSet<()> {
        self.deadline.set(Instant::now() + time);
        let mut tasks = JoinSet::new();
        for (number, drawn) in (0..).zip(self.drawn.clone()) {
            let nemesis = self.clone();
            let random = self.world.random(drawn.kind.name(), number);
            tasks.spawn_local_on(async move { nemesis.repeat(drawn, random).await }, local);
        }
        tasks
    }

    /// Looks after the members: who leads, and who ended. Returns once something is wrong outside the history.
    pub async fn supervise(&self) -> String {
        let mut round = 0usize;
        loop {
            for server in &self.world.cluster.servers {
                // Who claimed it knows what it did.
                if !self.claimed[server.index].get()
                    && let Some(status) = server.ended_by_itself()
                {
                    self.ended(server.index, status);
                }
            }
            self.start_ended();
            let at = round % self.world.cluster.servers.len();
            if round.is_multiple_of(2) && self.world.cluster.servers[at].is_up() {
                // Who does not answer is no news here.
                let _ = self.world.cluster.status(at).await;
            }
            if let Some(failure) = self.world.failure() {
                return failure;
            }
            round += 1;
            sleep(WATCH_EVERY).await;
        }
    }

    fn ended(&self, at: usize, status: std::process::ExitStatus) {
        if !self.is_excused(at, status) {
            self.world.fail(format!("m{at} ended by itself: {status}"));
        }
    }

    fn disk_refuses(&self, at: usize) -> bool {
        self.world.cluster.disks.get(at).is_some_and(ForgetFs::refuses)
    }

    /// Whether a process that ended may have done so: its disk failed, and it says so.
    fn is_excused(&self, at: usize, status: std::process::ExitStatus) -> bool {
        self.disk_fails[at].get()
            && status.signal().is_none()
            && disk::is_blamed(&self.world.cluster.servers[at].last_words())
    }

    async fn repeat(&self, drawn: Drawn, mut random: StdRng) {
        let mut wait_ms = random.random_range(0..FIRST_WITHIN_MS);
        loop {
            let begin = Instant::now() + Duration::from_millis(wait_ms);
            if begin >= self.deadline.get() {
                return;
            }
            sleep_until(begin).await;
            let kind = drawn.kind;
            let from_ns = self.world.now_ns();
            let done = match kind {
                Kind::Kill => self.kill(&mut random).await,
                Kind::Pause => self.pause(&mut random).await,
                Kind::Restart => self.restart(&mut random).await,
                Kind::Transfer => self.transfer(&mut random).await,
                Kind::Snapshot => self.leave_behind(&mut random).await,
                Kind::Partition => self.partition(&mut random).await,
                Kind::Delay => self.delay(&mut random).await,
                Kind::Loss => self.lose(&mut random).await,
                Kind::Duplicate => self.duplicate(&mut random).await,
                Kind::Power => self.lose_power(&mut random).await,
                Kind::Full => self.fill(&mut random).await,
                Kind::SlowDisk => self.slow_disk(&mut random).await,
                Kind::FailingDisk => self.fail_disk(&mut random).await,
                Kind::ClockJump => self.jump(&mut random).await,
                Kind::ClockDrift => self.drift(&mut random).await,
                Kind::Replace => self.replace(&mut random).await,
            };
            match done {
                Ok(what) => {
                    let to_ns = self.world.now_ns();
                    self.bands.borrow_mut().push(Band { kind, what, from_ns, to_ns });
                }
                Err(why) => *self.missed.borrow_mut().entry((kind, why)).or_insert(0) += 1,
            }
            wait_ms = random.random_range(drawn.gap_ms / 2..drawn.gap_ms * 3 / 2);
        }
    }

    /// Undoes all faults and has every member run.
    pub fn heal(&self) {
        let cluster = &self.world.cluster;
        if let Some(switch) = &cluster.switch {
            switch.heal();
        }
        cluster.disks.iter().for_each(disk::calm);
        cluster.nudges.iter().for_each(clock::calm);
        for server in &cluster.servers {
            server.signal(libc::SIGCONT);
        }
        self.start_ended();
    }

    /// Starts members that are down, that no fault has in hand and whose disk is well.
    pub fn start_ended(&self) {
        for (at, server) in self.world.cluster.servers.iter().enumerate() {
            if server.is_down() && !self.claimed[at].get() && !self.disk_refuses(at) {
                self.start_member(at);
            }
        }
    }

    fn start_member(&self, at: usize) {
        // What the last process met is no excuse for this one.
        self.disk_fails[at].set(self.disk_refuses(at));
        if let Err(error) = self.world.cluster.start(at) {
            self.world.fail(format!("m{at} does not start: {error}"));
        }
    }

    /// Waits so long, or until the time of faults is over.
    async fn hold(&self, time_ms: u64) {
        sleep_until((Instant::now() + Duration::from_millis(time_ms)).min(self.deadline.get())).await;
    }

    fn claim(&self, at: usize) -> Option<Claim<'_>> {
        let claimed = &self.claimed[at];
        (!claimed.replace(true)).then(|| Claim(claimed))
    }

    /// A member, mostly the leader.
    fn victim(&self, random: &mut StdRng) -> usize {
        let any = random.random_range(0..self.world.cluster.servers.len());
        match self.world.cluster.leader.get() {
            Some(leader) if random.random_bool(0.5) => leader,
            _ => any,
        }
    }

    /// As `m1`, and whether it leads.
    fn named(&self, at: usize) -> String {
        let leads = self.world.cluster.leader.get() == Some(at);
        format!("m{at}{}", if leads { " (leader)" } else { "" })
    }

    pub fn bands(&self) -> Vec<Band> {
        let mut bands = self.bands.borrow().clone();
        bands.sort_by_key(|band| band.from_ns);
        bands
    }

    pub fn missed(&self) -> BTreeMap<(Kind, &'static str), u64> {
        self.missed.borrow().clone()
    }

    fn disk_begins_to_fail(&self, at: usize) {
        self.disk_fails[at].set(true);
        self.disk_failed[at].set(true);
    }

    /// Whether a member's disk was made to fail at some time.
    pub fn disk_failed(&self, at: usize) -> bool {
        self.disk_failed[at].get()
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Machine, draw};

    #[test]
    fn leaving_a_kind_out_changes_nothing_of_the_others() {
        let machine = Machine::default();
        for seed in 0..200 {
            let all = draw(seed, 3, &Kind::ALL, &machine);
            let fewer: Vec<Kind> = Kind::ALL.into_iter().filter(|&kind| kind != Kind::Kill).collect();
            let mut without = draw(seed, 3, &fewer, &machine);
            without.retain(|it| all.contains(it));
            let expected: Vec<_> = all.into_iter().filter(|it| it.kind != Kind::Kill).collect();
            assert_eq!(without, expected, "seed {seed}");
        }
    }

    #[test]
    fn every_run_has_faults_and_every_kind_comes() {
        let machine = Machine::default();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let drawn = draw(seed, 3, &[], &machine);
            assert!(drawn.len() >= 2, "seed {seed}: {drawn:?}");
            let has = |kind: Kind| drawn.iter().any(|it| it.kind == kind);
            assert!(!(has(Kind::Power) && has(Kind::FailingDisk)), "seed {seed}: {drawn:?}");
            seen.extend(drawn.iter().map(|it| it.kind));
        }
        assert_eq!(seen.len(), Kind::ALL.len());
    }

    #[test]
    fn single_members_have_nobody_to_lead_instead() {
        let machine = Machine::default();
        let drawn = (0..200).flat_map(|seed| draw(seed, 1, &[], &machine));
        assert!(
            drawn.into_iter().all(|it| !matches!(it.kind, Kind::Transfer | Kind::Snapshot | Kind::Replace))
        );
    }
}
