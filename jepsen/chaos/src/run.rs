//! One run: a fresh cluster, traffic, faults, healing, what must hold afterwards, the verdict.
//!
//! | phase | ends |
//! |---|---|
//! | start | all members serve |
//! | faults | after `FAULT_TIME`, with clients at work |
//! | healing | a write through each member is acknowledged, within `HEAL_LIMIT` |
//! | last reads | each member has answered a linearizable read of everything and has the same HashKV |
//! | verdict | the observers have seen the last revision; members are gone; all checkers agree |
//!
//! Everything is drawn from the seed, but for the times at which things happen.

use std::{rc::Rc, time::Duration};

use faults::forgetfs::DirectorySync;
use oracle::{
    check::{Rules, Violation},
    history::{
        History, OpId, Request, Revision,
        request::{End, Range, Span},
    },
    model::Settings as Model,
};
use rand::Rng;
use tokio::{
    sync::watch,
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, timeout},
};

use crate::{
    binary::Binary,
    cluster::{Around, Cluster, Settings},
    fates::{self, Settled},
    judge::{self, Case},
    nemesis::{self, Band, Drawn, Kind, Machine, Nemesis},
    observer::{self, FIRST_KEY},
    session::{Session, Told},
    workload::Workload,
    world::{World, stream_of},
};

const FAULT_TIME: Duration = Duration::from_secs(8);
const START_LIMIT: Duration = Duration::from_secs(30);
/// After the last fault the cluster must serve within this time.
const HEAL_LIMIT: Duration = Duration::from_secs(30);
/// Clients end their last call, members catch up, observers see the end.
const CALM_LIMIT: Duration = Duration::from_secs(15);
const HASH_LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(50);
/// The server looks for leases that are over about twice a second, and a follower learns of it later.
const LEASE_SCAN_NS: u64 = 1_500_000_000;
const LONGEST_TTL_SECONDS: u64 = 5;
/// What a member says when it ends by a mistake of its own, in Rust and in Go.
const PANICS: [&str; 5] =
    ["panicked at", "panic:", "fatal error:", "SIGSEGV", "the member stops: its storage failed"];

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub workload: Workload,
    pub settings: Settings,
    pub drawn: Vec<Drawn>,
    around: Around,
}

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    pub plan: Plan,
    pub bands: Vec<Band>,
    /// Faults that did not take place: kind, reason, how often.
    pub missed: Vec<(Kind, &'static str, u64)>,
    pub operations: usize,
    pub events: usize,
    /// Requests whose answer the rules of the moment leave no choice, and hashes that were compared with others.
    pub by_rights: u64,
    pub hashes: u64,
    pub settled: Settled,
    pub elections: u64,
    pub failure: Option<String>,
    pub took: Duration,
    /// From the end of the faults until every member served.
    pub healed: Option<Duration>,
    /// Of a run that failed: what was seen, and the log of each member.
    pub evidence: Option<Evidence>,
}

#[derive(Debug)]
pub struct Evidence {
    pub history: History,
    pub logs: Vec<(String, String)>,
    /// Names of the members' incarnations, by the numbers that the history has.
    pub lives: Vec<String>,
    /// The impossible operation first; empty if none is known.
    pub suspects: Vec<OpId>,
}

impl Plan {
    pub fn draw(seed: u64, workload: Workload, wanted: &[Kind], machine: &Machine, binary: &Binary) -> Plan {
        let mut random = stream_of(seed, "cluster", 0);
        let size = [1, 3, 3, 3, 3, 3, 3, 5][random.random_range(0..8)];
        let (heartbeat_ms, election_ms) = [(100, 1000), (50, 500)][random.random_range(0..2)];
        let drawn = nemesis::draw(seed, size, wanted, machine);
        let leaves_behind = drawn.iter().any(|it| it.kind == Kind::Snapshot);
        let snapshot_count =
            if leaves_behind { 100 } else { [20, 100, 1000, 10_000][random.random_range(0..4)] };
        let settings = Settings {
            size,
            heartbeat_ms,
            election_ms,
            snapshot_count,
            catchup_entries: random.random_range(5..100),
            compaction_batch: random.random_range(5..100),
            progress_ms: random.random_range(100..1000),
        };
        let needs = |need: fn(Kind) -> bool| drawn.iter().any(|it| need(it.kind));
        // etcd never syncs the directory that holds its data: by the strict rule the first loss of power takes it all.
        let directory_sync = match random.random_bool(0.5) && !binary.is_go {
            true => DirectorySync::Strict,
            false => DirectorySync::Journal,
        };
        let around = Around {
            switch: needs(Kind::needs_network).then(|| random.random()),
            disks: needs(Kind::needs_disk).then_some(directory_sync),
            clocks: machine.library.clone().filter(|_| needs(Kind::needs_clock)),
        };
        Plan { seed, workload, settings, drawn, around }
    }

    /// A new leader gives every lease its whole time again, and until there is one none ends.
    fn lease_grace_ns(&self, report: &Report) -> u64 {
        let elections_ns = (report.elections + 1) * LONGEST_TTL_SECONDS * 1_000_000_000;
        let healing_ns = report.healed.unwrap_or_default().as_nanos() as u64;
        LEASE_SCAN_NS + elections_ns + healing_ns + self.rules().clock_error_ns
    }

    fn rules(&self) -> Rules {
        let min_ttl_seconds = (self.settings.election_ms * 3 / 2).div_ceil(1000) as i64;
        let drift = u64::from(self.around.clocks.is_some()) * nemesis::MAX_DRIFT_PARTS_PER_MILLION as u64;
        Rules {
            model: Model { min_ttl_seconds, ..Model::default() },
            clock_error_ns: LONGEST_TTL_SECONDS * 1000 * drift,
            ..Rules::default()
        }
    }
}

/// Runs it to the end. Dropping the future ends all that it started.
pub async fn run(plan: Plan, binary: &Binary) -> Report {
    let began = Instant::now();
    let local = LocalSet::new();
    let mut report = Report {
        plan: plan.clone(),
        bands: Vec::new(),
        missed: Vec::new(),
        operations: 0,
        events: 0,
        by_rights: 0,
        hashes: 0,
        settled: Settled::default(),
        elections: 0,
        failure: None,
        took: Duration::ZERO,
        healed: None,
        evidence: None,
    };
    let cluster = match Cluster::new(binary, plan.settings, &plan.around) {
        Ok(cluster) => cluster,
        Err(error) => {
            report.failure = Some(format!("cluster: {error}"));
            return report;
        }
    };
    let world = Rc::new(World::new(cluster, plan.seed));
    let nemesis = Rc::new(Nemesis::new(&world, plan.drawn.clone()));
    let lived = local.run_until(live(&world, &nemesis, plan.workload, &local, &mut report)).await;
    world.cluster.kill_all().await;
    // Streams that tasks still hold go to the history with them.
    drop(local);
    let notes = world.notes.take();
    report.hashes = notes.hashes_compared;
    let (mut history, _) = notes.book.recorder.finish();
    report.operations = history.operations.len();
    report.events = history.streams.iter().flat_map(|it| &it.responses).map(|it| it.events.len()).sum();
    report.bands = nemesis.bands();
    report.missed = nemesis.missed().into_iter().map(|((kind, why), count)| (kind, why, count)).collect();
    let unseen = |what: String| Violation::new(what, []);
    // Something may have gone wrong since the last look.
    let lived = lived.and_then(|finish| world.failure().map_or(Ok(finish), Err));
    let outcome = lived.map_err(unseen).and_then(|finish| {
        no_panics(&world, &nemesis).map_err(unseen)?;
        report.settled = fates::settle(&mut history, finish.last);
        let case = Case {
            workload: plan.workload,
            rules: plan.rules(),
            lease_grace_ns: plan.lease_grace_ns(&report),
            complete: finish.complete,
            last: finish.last,
        };
        report.by_rights = world.rights.borrow().judge()?;
        judge::judge(&history, &case)
    });
    // A panic explains whatever else went wrong.
    let violation = outcome.err().map(|found| no_panics(&world, &nemesis).err().map_or(found, unseen));
    report.took = began.elapsed();
    if let Some(Violation { what, ops: suspects }) = violation {
        let logs = world.cluster.servers.iter().map(|it| (it.name.clone(), it.log_text())).collect();
        report.failure = Some(what);
        report.evidence = Some(Evidence { history, logs, lives: world.cluster.life_names(), suspects });
    }
    report
}

/// How a run ended that came to its end.
struct Finish {
    last: Revision,
    /// The observers' last streams.
    complete: Vec<usize>,
}

async fn live(
    world: &Rc<World>,
    nemesis: &Rc<Nemesis>,
    workload: Workload,
    local: &LocalSet,
    report: &mut Report,
) -> Result<Finish, String> {
    let size = world.cluster.servers.len();
    world.cluster.start_all(START_LIMIT).await?;
    let first_term = world.cluster.highest_term.get();
    let (tell_last, last) = watch::channel(0);
    let mut observers = JoinSet::new();
    for at in 0..size {
        observers.spawn_local_on(observer::observe(world.clone(), at, last.clone()), local);
    }
    let mut clients = workload.start(world, local);
    let steps = async {
        let mut faults = nemesis.start(local, FAULT_TIME);
        sleep(FAULT_TIME).await;
        while let Some(ended) = faults.join_next().await {
            ended.map_err(|error| format!("a fault's task: {error}"))?;
        }
        nemesis.heal();
        let healing = Instant::now();
        serve(world, nemesis).await?;
        report.healed = Some(healing.elapsed());
        world.end();
        drain(&mut clients).await?;
        let last = last_reads(world).await?;
        tell_last.send_replace(last);
        let mut complete = Vec::new();
        let told = async {
            while let Some(place) = observers.join_next().await {
                complete.push(place.map_err(|error| format!("an observer: {error}"))?);
            }
            Ok(())
        };
        let told: Result<Result<(), String>, _> = timeout(CALM_LIMIT, told).await;
        told.map_err(|_| format!("watches of everything did not come to revision {last}"))??;
        Ok(Finish { last, complete })
    };
    let end = tokio::select! {
        end = steps => end,
        failure = nemesis.supervise() => Err(failure),
    };
    report.elections = world.cluster.highest_term.get() - first_term;
    end
}

/// Waits until a write through each member is acknowledged.
async fn serve(world: &Rc<World>, nemesis: &Nemesis) -> Result<(), String> {
    let deadline = Instant::now() + HEAL_LIMIT;
    for at in 0..world.cluster.servers.len() {
        let mut session = pinned(world, "heal", at);
        let key = session.key(&format!("~heal/{at}"));
        loop {
            nemesis.start_ended();
            let put = session.put(key);
            if let Told::Answer(_) = session.ask(Request::Put(put)).await {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("m{at} does not serve {HEAL_LIMIT:?} after the last fault"));
            }
            sleep(RETRY).await;
        }
    }
    Ok(())
}

fn pinned(world: &Rc<World>, kind: &str, at: usize) -> Session {
    let mut session = Session::new(world, kind, at as u64);
    session.pinned = true;
    session
}

async fn drain(clients: &mut JoinSet<()>) -> Result<(), String> {
    let ended = timeout(CALM_LIMIT, async {
        while let Some(ended) = clients.join_next().await {
            ended.map_err(|error| format!("a client's task: {error}"))?;
        }
        Ok(())
    });
    ended.await.map_err(|_| "clients do not end".to_owned())?
}

/// A read of everything and a last write through each member, and the same HashKV of all; the last revision.
async fn last_reads(world: &Rc<World>) -> Result<Revision, String> {
    let deadline = Instant::now() + CALM_LIMIT;
    let size = world.cluster.servers.len();
    for at in 0..size {
        let mut session = pinned(world, "last", at);
        let everything = Span { start: session.key(FIRST_KEY), end: End::Open };
        let key = session.key(&format!("~last/{at}"));
        for writes in [false, true] {
            loop {
                // A put that was not answered may come yet: each has a value of its own.
                let request = match writes {
                    false => Request::Range(Range::newest(everything)),
                    true => Request::Put(session.put(key)),
                };
                if session.ask(request.clone()).await.answer().is_some() {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(format!("m{at} does not answer at the end: {request:?}"));
                }
                sleep(RETRY).await;
            }
        }
    }
    let last = world.seen();
    let (mut hashes, mut refusal) = (Vec::new(), None);
    loop {
        hashes.clear();
        for at in 0..size {
            match world.cluster.hash(at, last, HASH_LIMIT).await {
                Ok(hash) => hashes.push(hash),
                // It may not have come so far yet.
                Err(failure) => {
                    refusal = Some(format!("m{at}: {failure:?}"));
                    break;
                }
            }
        }
        let compacted_alike = hashes.iter().all(|hash| hash.1 == hashes[0].1);
        if hashes.len() == size && compacted_alike {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("no HashKV of all members at revision {last}: {hashes:x?}, {refusal:?}"));
        }
        sleep(RETRY).await;
    }
    if hashes.iter().any(|hash| hash.0 != hashes[0].0) {
        return Err(format!("HashKV at revision {last}, by member: {hashes:x?}"));
    }
    Ok(last)
}

/// A member that ended because its disk refused may say so as it likes, but in Go only: ours must not panic.
fn no_panics(world: &World, nemesis: &Nemesis) -> Result<(), String> {
    for (at, server) in world.cluster.servers.iter().enumerate() {
        let text = server.log_text();
        let ours = |line: &&str| line.contains(PANICS[0]);
        let any = |line: &&str| PANICS.iter().any(|said| line.contains(said));
        let found = if nemesis.disk_failed(at) { text.lines().find(ours) } else { text.lines().find(any) };
        if let Some(line) = found {
            return Err(format!("m{at} ended by a mistake: {line}"));
        }
    }
    Ok(())
}
