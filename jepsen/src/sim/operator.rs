//! The operator: makes the cluster grow, shrink and move as a plan's jobs say, through the server's own requests.
//!
//! It looks at the list of members, decides what to do next, asks some member for it, and looks again; so an answer
//! that never comes does no harm. What was begun is finished first: a member that was added is started, one that lost
//! its disk is removed, a learner is promoted. Once faults are over that is all it does.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use prost::Message as _;
use proto::etcdserverpb as pb;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use store::{
    api::{caller::Caller, cluster, grpc},
    config::Url,
    membership::minor,
    node::{handler, leader},
    server::join,
};
use tonic::Status;

use super::{
    client::Called,
    member::{Member, peer_url},
    plan::{Fault, Kind, Plan, Whom},
    world::{Event, MS, Outcome, SECOND, World},
};

/// An operator gives a request up after so long, and a member what it does by itself.
const PATIENCE_NS: u64 = 8 * SECOND;
/// How long the operator thinks between two steps.
const PAUSE_NS: std::ops::Range<u64> = 50 * MS..600 * MS;
/// Members that a run may have in all, those that are gone included.
const MAX_MEMBERS: usize = 20;

type Call<T> = Pin<Box<dyn Future<Output = T>>>;

pub(super) struct Operator {
    random: StdRng,
    plan: Plan,
    jobs: VecDeque<Kind>,
    /// As some member told.
    listed: Option<Vec<pb::Member>>,
    asking: Option<Asking>,
    /// Addresses of members that lost their disks, for those that replace them.
    addresses: Vec<Url>,
    moves: u64,
}

struct Asking {
    member: usize,
    call: Call<Result<Bytes, Status>>,
    since_ns: u64,
}

/// What a member does on its own account.
pub(super) struct Chore {
    member: usize,
    life: u64,
    since_ns: u64,
    called: Arc<Called>,
    /// It tells its name; otherwise it leads, and decides the cluster's version.
    names: bool,
    call: Call<()>,
}

/// What to do next.
enum Step {
    List,
    Add { url: Url, is_learner: bool },
    Start(pb::Member),
    Promote(u64),
    Remove(u64),
    Update { id: u64, url: Url },
}

impl Operator {
    pub fn new(plan: &Plan, random: StdRng) -> Operator {
        Operator {
            random,
            plan: plan.clone(),
            jobs: VecDeque::new(),
            listed: None,
            asking: None,
            addresses: Vec::new(),
            moves: 0,
        }
    }
}

impl World {
    /// The operator is asked for something.
    pub fn add_job(&mut self, job: &Fault) {
        if let Some(operator) = &mut self.operator {
            operator.jobs.push_back(job.kind.clone());
        }
    }

    pub fn operate(&mut self) -> Outcome {
        let Some(mut operator) = self.operator.take() else { return Ok(()) };
        self.hear(&mut operator);
        if operator.asking.is_none()
            && let Some(step) = self.next_step(&mut operator)
        {
            self.take_step(&mut operator, step);
        }
        let pause = operator.random.random_range(PAUSE_NS);
        self.push(self.now_ns + pause, Event::Operate);
        self.operator = Some(operator);
        Ok(())
    }

    /// Takes an answer, if there is one, or gives it up.
    fn hear(&mut self, operator: &mut Operator) {
        let Some(asking) = &mut operator.asking else { return };
        let is_alive = self.members[asking.member].life.is_some();
        let late = asking.since_ns + PATIENCE_NS < self.now_ns;
        let frozen = self.frozen_until[asking.member] > self.now_ns;
        let answer = match asking.call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) if is_alive && !frozen => Some(answer),
            Poll::Pending if is_alive && !late => return,
            _ => None,
        };
        operator.asking = None;
        // Whatever it was, the members may be others now.
        operator.listed = match answer {
            // Only a list has an answer that is looked at.
            Some(Ok(frame)) => {
                let list = pb::MemberListResponse::decode(frame.get(grpc::HEADER..).unwrap_or_default());
                list.ok().map(|list| list.members).filter(|members| !members.is_empty())
            }
            Some(Err(_)) => {
                self.probe("change of members refused");
                None
            }
            None => None,
        };
    }

    fn next_step(&mut self, operator: &mut Operator) -> Option<Step> {
        // Without these a cluster may have no leader who could list its members: the newest view will do.
        let known = self.newest_members();
        let slot = |id| self.by_id.get(&id).copied();
        // It goes where the others look for it.
        let moved = known.iter().find_map(|it| {
            let (at, url) = (slot(it.id)?, it.peer_ur_ls.first()?);
            (self.members[at].url != *url && !self.gone[at]).then(|| (at, url.clone()))
        });
        if let Some((member, url)) = moved {
            self.probe("member moved");
            self.relocate(member, &url);
            return None;
        }
        if self.calm
            && let Some(added) = known.iter().find(|it| slot(it.id).is_none())
        {
            return Some(Step::Start(added.clone()));
        }
        let Some(listed) = operator.listed.take() else { return Some(Step::List) };
        if let Some(added) = listed.iter().find(|it| slot(it.id).is_none()) {
            // Some do not wait, and must be refused.
            return Some(match added.is_learner && operator.random.random_bool(0.2) {
                true => Step::Promote(added.id),
                false => Step::Start(added.clone()),
            });
        }
        if let Some(lost) = listed.iter().find(|it| slot(it.id).is_some_and(|at| self.gone[at])) {
            return Some(Step::Remove(lost.id));
        }
        if let Some(learner) = listed.iter().find(|it| it.is_learner) {
            if !self.calm && operator.random.random_bool(0.25) {
                return Some(self.other_address(operator, learner.id));
            }
            return Some(Step::Promote(learner.id));
        }
        if self.calm {
            return None;
        }
        let voters: Vec<u64> = listed.iter().filter(|it| !it.is_learner).map(|it| it.id).collect();
        match operator.jobs.front()?.clone() {
            Kind::Resize(size) if (voters.len() as u64) < size && self.members.len() < MAX_MEMBERS => {
                let url = operator.addresses.pop().unwrap_or_else(|| peer_url(self.members.len()));
                Some(Step::Add { url, is_learner: operator.random.random_bool(0.7) })
            }
            // Never to one: if that one loses its power just then, it cannot know that the other, which has stopped, is
            // gone.
            Kind::Resize(size)
                if voters.len() as u64 > size && voters.len().min(self.roster.voters().len()) > 2 =>
            {
                Some(Step::Remove(*voters.choose(&mut operator.random)?))
            }
            Kind::Replace(whom) => {
                operator.jobs.pop_front();
                let at = self.whom(whom);
                if self.may_lose_disk(at) {
                    self.probe("member lost its disk");
                    self.crash(at, true);
                    self.gone[at] = true;
                    operator.addresses.extend(Url::parse(&self.members[at].url));
                    operator.jobs.push_front(Kind::Resize(voters.len() as u64));
                }
                None
            }
            Kind::Move(whom) => {
                operator.jobs.pop_front();
                let id = self.members[self.whom(whom)].id;
                Some(self.other_address(operator, id))
            }
            _ => {
                operator.jobs.pop_front();
                None
            }
        }
    }

    /// The members, as they are for whoever has applied most.
    fn newest_members(&self) -> Vec<pb::Member> {
        let lives = self.members.iter().filter_map(|it| it.life.as_ref());
        let newest = lives.max_by_key(|it| it.node.status.applied.load(Ordering::Relaxed));
        let Some(newest) = newest else { return Vec::new() };
        newest.node.published.membership.load().members().map(|it| it.to_proto()).collect()
    }

    fn other_address(&self, operator: &mut Operator, id: u64) -> Step {
        operator.moves += 1;
        Step::Update { id, url: Url::http(&format!("m{id:x}moved{}", operator.moves), 2380) }
    }

    /// As long as the other voters still have all that was acknowledged.
    fn may_lose_disk(&self, member: usize) -> bool {
        let voters = self.roster.voters();
        let is_lost = |id: &u64| self.by_id.get(id).is_some_and(|at| self.gone[*at]);
        voters.contains(&self.members[member].id) && voters.len() >= 3 && !voters.iter().any(is_lost)
    }

    fn take_step(&mut self, operator: &mut Operator, step: Step) {
        let running: Vec<usize> = self.present().filter(|it| self.members[*it].life.is_some()).collect();
        let Some(&member) = running.choose(&mut operator.random) else { return };
        if let Step::Start(added) = step {
            return self.start_added(operator, member, &added);
        }
        let Some(life) = &self.members[member].life else { return };
        let node = life.node.clone();
        let linearizable = operator.random.random_bool(0.5);
        let call: Call<Result<Bytes, Status>> = match step {
            Step::List => {
                Box::pin(
                    async move { cluster::member_list(&node, pb::MemberListRequest { linearizable }).await },
                )
            }
            Step::Add { url, is_learner } => {
                let request = pb::MemberAddRequest { peer_ur_ls: vec![url.to_string()], is_learner };
                Box::pin(async move { cluster::member_add(&node, request).await.map(|_| Bytes::new()) })
            }
            Step::Promote(id) => {
                let request = pb::MemberPromoteRequest { id };
                Box::pin(async move {
                    cluster::member_promote(&node, &Caller::default(), request).await.map(|_| Bytes::new())
                })
            }
            Step::Remove(id) => {
                let request = pb::MemberRemoveRequest { id };
                Box::pin(async move { cluster::member_remove(&node, request).await.map(|_| Bytes::new()) })
            }
            Step::Update { id, url } => {
                let request = pb::MemberUpdateRequest { id, peer_ur_ls: vec![url.to_string()] };
                Box::pin(async move { cluster::member_update(&node, request).await.map(|_| Bytes::new()) })
            }
            Step::Start(_) => return,
        };
        self.trace((8, member, 0));
        self.members[member].set_clock(self.now_ns);
        operator.asking = Some(Asking { member, call, since_ns: self.now_ns });
        self.hear(operator);
        self.schedule(member);
    }

    /// Starts a member that was added, with what `by` tells it of the cluster.
    fn start_added(&mut self, operator: &Operator, by: usize, added: &pb::Member) {
        let number = self.members.len();
        let Some(life) = &self.members[by].life else { return };
        let node = life.node.clone();
        let mut asked = Box::pin(async move {
            handler::serve(&node, &Method::GET, "/members", &HeaderMap::new(), Bytes::new()).await
        });
        let Poll::Ready(answer) = asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            return;
        };
        let (Some(cluster_id), Ok(members)) = join::read_members(&answer) else { return };
        let named = |it: &store::membership::Member| match it.id == added.id {
            true => format!("m{number}"),
            false => format!("{:x}", it.id),
        };
        let list: Vec<String> =
            members.iter().map(|it| format!("{}={}", named(it), it.peer_urls.join(","))).collect();
        let Some(Ok(url)) = added.peer_ur_ls.first().map(|url| Url::parse(url)) else { return };
        let joining = Member::joining(number, &operator.plan, &url, list.join(","), |config| {
            let initial = config.initial_cluster().ok()?;
            join::meet(config, &initial, cluster_id, members, Url::to_string).ok()
        });
        let Some(joining) = joining else { return };
        self.probe("member joined");
        self.add_member(joining);
        self.push(self.now_ns + MS, Event::Start { member: number });
    }

    /// A member starts again at another address.
    fn relocate(&mut self, member: usize, url: &str) {
        self.addresses.remove(&self.members[member].url);
        self.members[member].relocate(url);
        self.addresses.insert(url.to_owned(), member);
        self.end_process(member, false, self.now_ns + 10 * MS);
    }

    /// Whom a plan means, among those that are there.
    pub fn whom(&self, whom: Whom) -> usize {
        let present: Vec<usize> = self.present().collect();
        match whom {
            Whom::Member(number) => present[number % present.len()],
            Whom::Leader => self.leader().unwrap_or(present[0]),
        }
    }

    // ---- what members do on their own account

    /// Gives members that run what they have to do, and takes away what takes too long.
    pub fn give_chores(&mut self) {
        let (now_ns, members) = (self.now_ns, &self.members);
        self.chores.retain(|chore| {
            members[chore.member].lives == chore.life && chore.since_ns + PATIENCE_NS > now_ns
        });
        for member in 0..self.members.len() {
            if self.chores.iter().any(|chore| chore.member == member) {
                continue;
            }
            let Some(life) = &self.members[member].life else { continue };
            let node = life.node.clone();
            let undecided = node.published.membership.load().minor_version() < minor(store::config::VERSION);
            let names = !self.named[member];
            let call: Call<()> = match names {
                true => Box::pin(leader::publish(node)),
                false if undecided && node.status.is_leader() => {
                    Box::pin(async move { leader::decide_version(&node).await })
                }
                false => continue,
            };
            let called = Called::new();
            let life = self.members[member].lives;
            self.chores.push(Chore { member, life, since_ns: now_ns, called, names, call });
            self.do_chores(member);
        }
    }

    pub fn do_chores(&mut self, member: usize) {
        let mut done = None;
        self.chores.retain_mut(|chore| {
            if chore.member != member || !chore.called.take() {
                return true;
            }
            let waker = Waker::from(chore.called.clone());
            let over = chore.call.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            if over {
                done = Some(chore.names);
            }
            !over
        });
        if done == Some(true) {
            self.named[member] = true;
        }
    }

    // ---- who hears whom, and who is no member any more

    /// Looks which members are connected, and tells those that were removed.
    pub fn look_at_contacts(&mut self) {
        for member in 0..self.members.len() {
            let Some(life) = &self.members[member].life else { continue };
            let id = self.members[member].id;
            let (mut told, mut heard) = (false, false);
            for (peer, url) in life.contacts.all() {
                let there = self.addresses.get(&url).copied().filter(|at| self.members[*at].id == peer);
                let alive = there.and_then(|at| Some((at, self.members[at].life.as_ref()?)));
                heard |= alive.is_some();
                let answers = alive.filter(|(at, _)| {
                    self.frozen_until[*at] <= self.now_ns
                        && !self.is_blocked(member, *at)
                        && !self.is_blocked(*at, member)
                });
                life.contacts.note(peer, answers.is_some(), life.clock.now());
                told |=
                    answers.is_some_and(|(_, other)| other.node.published.membership.load().is_removed(id));
            }
            // One whose contacts are all gone would look for them for ever.
            let forgotten = self.calm && !heard && self.roster.is_removed(id);
            if told || forgotten {
                life.node.fatal.set_removed();
                if told {
                    self.probe("removed member told by others");
                }
                self.members_turn(member);
            }
        }
    }

    /// It was removed, and has stopped.
    pub fn retire(&mut self, member: usize) -> Outcome {
        let id = self.members[member].id;
        if !self.roster.is_removed(id) {
            return Err(format!("members: member {member} takes itself for removed, and is not"));
        }
        self.probe("removed member stopped");
        self.crash(member, false);
        self.gone[member] = true;
        Ok(())
    }
}

/// The operator of a plan that has something for it to do.
pub(super) fn of(plan: &Plan) -> Option<Operator> {
    plan.has_jobs().then(|| Operator::new(plan, StdRng::seed_from_u64(plan.seed ^ 0x6f70_6572)))
}
