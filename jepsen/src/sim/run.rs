//! A run: faults, recovery, the last look at every member, and the verdict on what the clients saw.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hasher,
    panic::AssertUnwindSafe,
    task::{Context, Poll, Waker},
};

use oracle::{
    check::{Rules, Verdict, Violation, headers, lease, linear, members, watch},
    history::{
        Answer, Client, Fate, History, Member, OpId, Operation, Outcome, Request, Response, Revision,
        request::{End, Put, Range, Span},
    },
    wire::Book,
};

use super::{
    auth::Rights,
    client::{Notes, key_bytes},
    member::Effect,
    plan::Plan,
    world::{End as LeaseEnd, MS, SECOND, Stand, Struck, World},
};

/// The cluster must agree and serve this long after the last fault.
const RECOVERY_NS: u64 = 60 * SECOND;
/// What watchers may take to be told of the last write.
const WATCH_NS: u64 = 5 * SECOND;
/// The longest time to live of leases that a long look waits for, and what it may last: a leader that is new grants
/// the whole time again, and looks for expired leases now and then.
const SHORT_TTL_SECONDS: i64 = 8;
const EXPIRY_NS: u64 = (2 * SHORT_TTL_SECONDS as u64 + 4) * SECOND;
/// Of the lease that one leader leaves to the next, and how long the first counts.
const COUNTED_TTL_SECONDS: i64 = 60;
const COUNTED_NS: u64 = 20 * SECOND;

/// What must happen sometimes.
pub const PROBES: [&str; 74] = [
    "alone",
    "authentication in the end",
    "bad disk refused a start",
    "bad disk stopped a member",
    "bad-sync",
    "behind",
    "blackout",
    "change of rights",
    "change of rights by somebody else",
    "change of rights by somebody else refused",
    "change of rights refused",
    "change of members refused",
    "client gave up",
    "compaction",
    "compaction refused",
    "crash",
    "cut",
    "deaf",
    "events together",
    "forget",
    "fragment",
    "freeze",
    "full",
    "keepalive",
    "keepalive of an ended lease",
    "leader cut off as it hands over",
    "leader elected",
    "lease counted on by the next leader",
    "lease forwarded to the leader",
    "learner promoted",
    "leases ended",
    "local read",
    "login",
    "login refused",
    "lossy",
    "no authentication in the end",
    "member added",
    "member joined",
    "member lost its disk",
    "member moved",
    "member removed",
    "notice",
    "notice on demand",
    "other request refused",
    "outcome never known",
    "power lost in a write",
    "power lost in recovery",
    "power-loss",
    "put refused",
    "range refused",
    "read of the past",
    "removed member stopped",
    "removed member told by others",
    "rot",
    "rotten log did no harm",
    "rotten log refused",
    "short-write",
    "skew",
    "snapshot arrived",
    "snapshot at a bad moment",
    "snapshot could not be saved",
    "snapshot sent",
    "split",
    "stall",
    "time of an ended lease",
    "transaction failed",
    "transaction succeeded",
    "transfer",
    "unknown write took effect",
    "unknown write was lost",
    "vote forgotten",
    "watcher canceled",
    "watcher canceled by a compaction",
    "watcher read history",
];

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    pub plan: Plan,
    pub failure: Option<Failure>,
    pub operations: usize,
    pub faults: u64,
    pub virtual_ns: u64,
    pub events: u64,
    /// The same for the same plan.
    pub trace_hash: u64,
    pub history: History,
    pub stands: Vec<Stand>,
    pub struck: Vec<Struck>,
    /// How often each thing happened that must happen sometimes.
    pub probes: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
pub struct Failure {
    pub what: String,
    pub at_ns: u64,
    pub step: u64,
    /// The impossible one first.
    pub ops: Vec<OpId>,
}

impl Failure {
    /// What kind of failure it is: what a smaller run must show too.
    pub fn invariant(&self) -> &str {
        self.what.split(':').next().unwrap_or_default()
    }
}

/// Of a run that goes on: an error ends it.
type Lived<T = ()> = Result<T, String>;
/// Why a run failed, and the operations that show it.
type Told<T = ()> = Result<T, (String, Vec<OpId>)>;

/// Runs a plan.
pub fn run(plan: &Plan) -> Report {
    #[cfg(feature = "mutants")]
    store::mutant::set(store::mutant::named(&plan.mutant));
    let mut world = World::new(plan);
    // A panic of a member is a failure of its run.
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| live(&mut world, plan)))
        .unwrap_or_else(|panic| Err(format!("panic: a member panicked: {}", text_of(&*panic))));
    let (at_ns, step, faults) = (world.now_ns, world.step, world.struck.len() as u64);
    let trace_hash = world.trace.finish();
    let (stands, struck) = (std::mem::take(&mut world.stands), std::mem::take(&mut world.struck));
    let mut probes = std::mem::take(&mut world.probes);
    let rights = world.take_rights();
    let Notes { mut book, mut proposals, .. } = std::mem::take(&mut world.notes);
    let effects = std::mem::take(&mut world.effects);
    let ends = std::mem::take(&mut world.ends);
    let configurations = std::mem::take(&mut world.roster.applied);
    drop(world);
    write_ends(&mut book, &mut proposals, &ends, &effects);
    let (mut history, places) = book.recorder.finish();
    tell_fates(&mut history, &places, &proposals, &effects, at_ns);
    count(&history, &mut probes);
    let judged = match outcome {
        Ok(last) => judge_rights(rights, &places, &history)
            .and_then(|()| judge(&history, plan, &last, &configurations)),
        Err(what) => Err((what, Vec::new())),
    };
    Report {
        plan: plan.clone(),
        failure: judged.err().map(|(what, ops)| Failure { what, at_ns, step, ops }),
        operations: history.operations.len(),
        faults,
        virtual_ns: at_ns,
        events: step,
        trace_hash,
        history,
        stands,
        struck,
        probes,
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}

/// What stood at the end.
struct Last {
    revision: Revision,
    /// Watch streams that were open.
    streams: Vec<usize>,
}

fn live(world: &mut World, plan: &Plan) -> Lived<Last> {
    world.begin(plan)?;
    world.run_until(plan.chaos_ms * MS)?;
    world.end_faults()?;
    let limit = world.now_ns + RECOVERY_NS;
    let mut serves_since = None;
    while world.now_ns < limit {
        world.run_until(world.now_ns + 100 * MS)?;
        match (world.agrees() && world.now_ns >= world.late_until, serves_since) {
            (false, _) => serves_since = None,
            (true, None) => serves_since = Some(world.now_ns),
            (true, Some(since)) if world.now_ns - since > SECOND => return last_look(world, plan),
            _ => {}
        }
    }
    Err(format!(
        "recovery: no agreement {} s after the last fault: {}",
        RECOVERY_NS / SECOND,
        world.describe()
    ))
}

/// Members must be equal to the byte, watchers must hear all, and everything is read once more.
fn last_look(world: &mut World, plan: &Plan) -> Lived<Last> {
    for client in 0..world.clients.len() {
        world.clients[client].give_up(world.now_ns, &mut world.notes);
    }
    // Some runs wait for the end of all leases that nobody renews.
    if plan.seed.is_multiple_of(16) {
        world.run_until(world.now_ns + EXPIRY_NS)?;
        leases_ended(world)?;
    }
    if plan.lease_notes_ms > 0 {
        lease_keeps_counting(world, plan)?;
    }
    let members: Vec<usize> = world.serving().collect();
    equal_members(world, &members)?;
    let revision = equal_hashes(world, &members)?;
    world.run_until(world.now_ns + WATCH_NS)?;
    world.last_look_at_rights(&members)?;
    let mut streams = Vec::new();
    for watcher in &mut world.watchers {
        streams.extend(watcher.disconnect(None, &mut world.notes));
    }
    // After the watchers: leases may have ended meanwhile, and these answers show it.
    let start = world.notes.book.key(&key_bytes(0));
    let everything = Request::Range(Range::newest(Span { start, end: End::Open }));
    for &member in &members {
        ask_and_wait(world, member, everything.clone())?;
    }
    // Last: a write might free a member that waits for no reason.
    for &member in &members {
        takes_a_write(world, member, plan)?;
    }
    Ok(Last { revision, streams })
}

/// A client writes by a member, which tells it a new revision. Where there are users it may be refused.
fn takes_a_write(world: &mut World, member: usize, plan: &Plan) -> Lived {
    let revision =
        |world: &World| world.members[member].life.as_ref().map(|life| life.node.reader.view().revision);
    let before = revision(world);
    let key = world.notes.book.key(&key_bytes(0));
    let value = world.notes.next_value();
    ask_and_wait(world, member, Request::Put(Put::plain(key, value)))?;
    if revision(world) <= before && !plan.auth {
        return Err(format!("recovery: member {member} takes no write: {}", world.describe()));
    }
    Ok(())
}

/// A client asks, and is answered in time.
fn ask_and_wait(world: &mut World, member: usize, request: Request) -> Lived {
    world.ask_this(0, member, request);
    let limit = world.now_ns + 5 * SECOND;
    while !world.clients[0].is_idle() {
        if world.now_ns >= limit {
            return Err(format!("recovery: member {member} does not answer a client: {}", world.describe()));
        }
        world.run_until(world.now_ns + 10 * MS)?;
    }
    Ok(())
}

/// All know the same members, by their names, addresses and votes.
fn equal_members(world: &World, members: &[usize]) -> Lived {
    let known = |member: usize| {
        let life = world.members[member].life.as_ref()?;
        Some((member, life.node.published.membership.load_full()))
    };
    let mut all = members.iter().filter_map(|member| known(*member));
    let Some((first, expected)) = all.next() else { return Ok(()) };
    match all.find(|(_, known)| *known != expected) {
        None => Ok(()),
        Some((other, known)) => Err(format!("members: {first} knows {expected:?}, and {other} {known:?}")),
    }
}

/// The revision at which the history of all members is equal.
fn equal_hashes(world: &mut World, members: &[usize]) -> Lived<Revision> {
    world.run_until(world.now_ns + SECOND)?;
    let mut first = None;
    for &member in members {
        let Some(life) = &world.members[member].life else { continue };
        let node = life.node.clone();
        // At the revision of the first: a lease may end meanwhile.
        let wanted = first.map_or(0, |(_, (_, revision))| revision);
        let hash = answer_of(world, member, async move { node.hash_kv(wanted).await });
        let hash = hash?.map_err(|error| format!("hash: member {member} has none: {error:?}"))?;
        let hash = (hash.0, hash.3);
        let (of, expected) = *first.get_or_insert((member, hash));
        if hash != expected {
            return Err(format!(
                "hash: members {of} and {member} differ: (hash, revision) {expected:?} and {hash:?}"
            ));
        }
    }
    first.map(|(_, (_, revision))| revision).ok_or_else(|| "hash: no member runs".into())
}

/// What a member answers, in time.
fn answer_of<T>(world: &mut World, member: usize, asked: impl Future<Output = T>) -> Lived<T> {
    let mut asked = std::pin::pin!(asked);
    let limit = world.now_ns + 5 * SECOND;
    while world.now_ns < limit {
        if let Poll::Ready(answer) = asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Ok(answer);
        }
        world.schedule(member);
        world.run_until(world.now_ns + 10 * MS)?;
    }
    Err(format!("recovery: member {member} does not answer: {}", world.describe()))
}

/// Short leases that nobody renewed for long are gone at every member.
fn leases_ended(world: &mut World) -> Lived {
    for member in world.serving().collect::<Vec<_>>() {
        let Some(life) = &world.members[member].life else { continue };
        let node = life.node.clone();
        let left = answer_of(world, member, async move { node.leases().await });
        let left = left?.map_err(|error| format!("leases: {error:?}"))?;
        if let Some(lease) = left.iter().find(|lease| world.notes.is_short(**lease, SHORT_TTL_SECONDS)) {
            return Err(format!("leases: lease {lease} lives on at member {member}, and nobody renewed it"));
        }
    }
    world.probe("leases ended");
    Ok(())
}

/// What a lease had left when it was last noted is what the next leader gives it, and not all of its time again.
fn lease_keeps_counting(world: &mut World, plan: &Plan) -> Lived {
    let leads = |world: &World| world.leader().filter(|member| world.serving().any(|it| it == *member));
    let (Some(leader), ttl_seconds) = (leads(world), COUNTED_TTL_SECONDS) else { return Ok(()) };
    let Some(life) = &world.members[leader].life else { return Ok(()) };
    let voters = life.node.published.membership.load_full();
    let Some(next) = world.serving().find(|it| {
        *it != leader && voters.get(world.members[*it].id).is_some_and(|member| !member.is_learner)
    }) else {
        return Ok(());
    };
    let lease = world.notes.next_lease(ttl_seconds);
    ask_and_wait(world, leader, Request::Grant { lease, ttl_seconds })?;
    // Users whose token has ended are refused.
    let Some(granted) = seconds_left(world, leader, lease)?.filter(|left| *left > 0) else { return Ok(()) };
    let granted_ns = world.now_ns;
    world.run_until(granted_ns + COUNTED_NS)?;
    world.hand_over(leader, next);
    world.run_until(world.now_ns + 3 * SECOND)?;
    let Some(successor) = leads(world).filter(|it| *it != leader) else { return Ok(()) };
    let Some(left) = seconds_left(world, successor, lease)? else { return Ok(()) };
    // The leader before may have ended without its last note; a new one adds an election timeout.
    let counted = (world.now_ns - granted_ns) / SECOND;
    let noted = counted.saturating_sub(3 + 2 * plan.lease_notes_ms.div_ceil(1000) + 3) as i64;
    // Both ends are told in whole seconds.
    if left > ttl_seconds - noted || left < granted - counted as i64 - 2 {
        return Err(format!(
            "leases: lease {lease} with {granted} of {ttl_seconds} s left has {left} s after {counted} s and a \
             change of leaders"
        ));
    }
    world.probe("lease counted on by the next leader");
    Ok(())
}

/// What a member says a lease has left, below zero if there is none; `None` if it does not answer.
fn seconds_left(world: &mut World, member: usize, lease: i64) -> Lived<Option<i64>> {
    let Some(life) = &world.members[member].life else { return Ok(None) };
    let node = life.node.clone();
    let left = answer_of(world, member, async move { node.lease_time_to_live(lease, false).await });
    Ok(left?.ok().map(|left| left.ttl))
}

/// Ends of leases that no client asked for, as if the cluster had revoked them.
fn write_ends(
    book: &mut Book,
    proposals: &mut Vec<Option<u64>>,
    ends: &[LeaseEnd],
    effects: &HashMap<u64, Effect>,
) {
    let asked: HashSet<u64> = proposals.iter().flatten().copied().collect();
    let own = ends.iter().filter(|end| !asked.contains(&end.request));
    for (number, end) in (0..).zip(own) {
        let answer = Answer {
            revision: effects[&end.request].revision,
            member: Member::CLUSTER,
            response: Response::Revoke,
        };
        book.recorder.operation(Operation {
            client: Client(u32::MAX - number),
            member: Member::CLUSTER,
            called_ns: 0,
            returned_ns: end.at_ns,
            request: Request::Revoke { lease: end.lease },
            outcome: Outcome::Ok(answer),
        });
        proposals.push(Some(end.request));
    }
}

/// Tells what became of writes whose clients never learned it: all that was proposed is applied by now, or lost.
fn tell_fates(
    history: &mut History,
    places: &[OpId],
    proposals: &[Option<u64>],
    effects: &HashMap<u64, Effect>,
    end_ns: u64,
) {
    for (place, proposal) in places.iter().zip(proposals) {
        let operation = &mut history.operations[place.0 as usize];
        let Outcome::Unknown(fate) = &mut operation.outcome else { continue };
        // It is not in the log.
        if matches!(operation.request, Request::KeepAlive { .. }) {
            continue;
        }
        let effect = proposal.and_then(|proposal| effects.get(&proposal)).filter(|effect| !effect.refused);
        *fate = match effect {
            None => Fate::Never,
            Some(effect) if effect.made_revision => Fate::At(effect.revision),
            Some(effect) => {
                // What changes the state and makes no revision is as if its client had been told in the end.
                let response = match operation.request {
                    Request::Grant { lease, ttl_seconds } => Response::Grant { lease, ttl_seconds },
                    Request::Compact { .. } => Response::Compact,
                    Request::Revoke { .. } => Response::Revoke,
                    _ => {
                        *fate = Fate::Never;
                        continue;
                    }
                };
                let answer = Answer { revision: effect.revision, member: operation.member, response };
                operation.outcome = Outcome::Ok(answer);
                operation.returned_ns = end_ns;
                continue;
            }
        };
    }
}

/// Answers that must be met sometimes.
fn count(history: &History, probes: &mut BTreeMap<&'static str, u64>) {
    let mut probe = |what| *probes.entry(what).or_default() += 1;
    for operation in &history.operations {
        match (&operation.outcome, &operation.request) {
            (Outcome::Refused(_), Request::Range(_)) => probe("range refused"),
            (Outcome::Refused(_), Request::Compact { .. }) => probe("compaction refused"),
            (Outcome::Refused(_), Request::Put(_)) => probe("put refused"),
            (Outcome::Refused(_), _) => probe("other request refused"),
            (Outcome::Unknown(Fate::At(_)), _) => probe("unknown write took effect"),
            (Outcome::Unknown(Fate::Never), _) => probe("unknown write was lost"),
            (Outcome::Unknown(Fate::Open), _) => probe("outcome never known"),
            (Outcome::Ok(answer), request) => match (&answer.response, request) {
                (Response::KeepAlive { ttl_seconds: 0 }, _) => probe("keepalive of an ended lease"),
                (Response::KeepAlive { .. }, _) => probe("keepalive"),
                (Response::TimeToLive { ttl_seconds: -1, .. }, _) => probe("time of an ended lease"),
                (Response::Txn(txn), _) if !txn.succeeded => probe("transaction failed"),
                (Response::Txn(_), _) => probe("transaction succeeded"),
                (Response::Range(_), Request::Range(range)) if range.revision > 0 => {
                    probe("read of the past")
                }
                (Response::Range(_), Request::Range(range)) if range.serializable => probe("local read"),
                (Response::Compact, _) => probe("compaction"),
                _ => {}
            },
        }
    }
    for stream in &history.streams {
        for response in &stream.responses {
            match response {
                it if it.canceled && it.compact_revision > 0 => probe("watcher canceled by a compaction"),
                it if it.canceled => probe("watcher canceled"),
                it if it.fragment => probe("fragment"),
                it if it.id == -1 => probe("notice on demand"),
                it if it.events.is_empty() && !it.created => probe("notice"),
                it if it.events.len() > 1 => probe("events together"),
                _ => {}
            }
        }
    }
}

fn judge_rights(rights: Option<Rights>, places: &[OpId], history: &History) -> Told {
    let Some(rights) = rights else { return Ok(()) };
    rights.judge(places).map_err(|Violation { what, ops }| {
        let shown = ops.iter().map(|op| format!("\n  {op:?}: {:?}", history.op(*op)));
        (format!("auth: {what}{}", shown.collect::<String>()), ops)
    })
}

/// How the operations of a run are judged.
pub fn rules() -> Rules {
    Rules { max_search_steps: 500_000, ..Rules::default() }
}

fn judge(history: &History, plan: &Plan, last: &Last, configurations: &[members::Applied]) -> Told {
    use super::plan::Kind;
    // Clocks that go wrong end leases too early.
    let percents = plan.faults.iter().map(|fault| match fault.kind {
        Kind::Skew(_, percent) => percent.unsigned_abs(),
        _ => 0,
    });
    let told = |name: &str, verdict: Verdict| {
        let (what, ops) = match verdict {
            Verdict::Ok => return Ok(()),
            Verdict::Violation(violation) => (violation.what, violation.ops),
            Verdict::Unknown { why, ops } => (format!("not decided: {why}"), ops),
        };
        let shown = ops.iter().take(4).map(|op| format!("\n  {op:?}: {:?}", history.op(*op)));
        Err((format!("{name}: {what}{}", shown.collect::<String>()), ops))
    };
    told("members", members::check(configurations))?;
    told("headers", headers::check(history))?;
    told("lease", lease::check_ends(history, percents.max().unwrap_or(0)))?;
    let judged = linear::check(history, &rules());
    told("linearizability", judged.verdict)?;
    let Some(replay) = judged.replay else { return Ok(()) };
    told("watch", watch::check_complete(history, &replay, &last.streams, last.revision))
}
