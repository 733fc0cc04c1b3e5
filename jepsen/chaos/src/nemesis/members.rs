//! Faults of membership: a member loses all it had, and another takes its place.

use std::{
    fs::File,
    io::{self, ErrorKind},
    time::Duration,
};

use proto::etcdserverpb as pb;
use rand::{Rng, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    Nemesis,
    process::{DOWN, KILL_LIMIT, TAKEN},
};
use crate::rpc::{self, Failure};

/// Longest wait for one answer; above the server's own.
const ASK_LIMIT: Duration = Duration::from_secs(8);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(150);
/// All other faults are over long before: then a replacement must succeed.
const REPLACE_LIMIT: Duration = Duration::from_secs(60);

impl Nemesis {
    /// Kills a member, takes its data away, has the others remove it, and starts a new one at its address: as a voter,
    /// or as a learner that is promoted.
    pub(super) async fn replace(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let at = self.victim(random);
        let as_learner = random.random_bool(0.5);
        let claim = self.claim(at).ok_or(TAKEN)?;
        let server = &self.world.cluster.servers[at];
        if !server.is_up() {
            return Err(DOWN);
        }
        let name = self.named(at);
        server.end(libc::SIGKILL, KILL_LIMIT).await;
        self.lose_data(at).await;
        let deadline = Instant::now() + REPLACE_LIMIT;
        let Some(id) = self.until(at, deadline, &|members| self.exchange(at, as_learner, members)).await
        else {
            self.world.fail(format!("m{at} was not replaced within {REPLACE_LIMIT:?}"));
            return Err("the replacement failed");
        };
        server.id.set(id);
        server.joins.set(true);
        self.start_member(at);
        // It may not know the token yet that members are asked with.
        while matches!(self.world.cluster.status(at).await, Err(Failure::NotSent | Failure::Lost)) {
            if Instant::now() > deadline {
                self.world.fail(format!("m{at} did not join within {REPLACE_LIMIT:?}"));
                break;
            }
            // Whom it asks may not know of it yet, or be down: then it ends, and has nothing that it could lose.
            if server.ended_by_itself().is_some() {
                self.lose_data(at).await;
                self.start_member(at);
            }
            sleep(RETRY).await;
        }
        // From here on it is a member as any other.
        drop(claim);
        if as_learner && self.until(at, deadline, &|members| promotion(id, members)).await.is_none() {
            self.world.fail(format!("m{at} was not promoted within {REPLACE_LIMIT:?}"));
        }
        Ok(format!("replace {name}{}", if as_learner { " by a learner" } else { "" }))
    }

    /// Removes what a member has, also from the disk that a loss of power leaves.
    async fn lose_data(&self, at: usize) {
        let data_dir = self.world.cluster.servers[at].data_dir.clone();
        let remove = move || {
            match std::fs::remove_dir_all(&data_dir) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Its disk may just be one that fails.
            let _ = data_dir.parent().map(|parent| File::open(parent)?.sync_all());
            Ok(())
        };
        let removed = tokio::task::spawn_blocking(remove).await;
        if let Err(error) = removed.unwrap_or_else(|error| Err(io::Error::other(error))) {
            self.world.fail(format!("the data of m{at} cannot be removed: {error}"));
        }
    }

    /// The next step to a new member at the address of an old one.
    fn exchange(&self, at: usize, as_learner: bool, members: &[pb::Member]) -> Step {
        let server = &self.world.cluster.servers[at];
        let url = server.peer_url();
        match members.iter().find(|member| member.peer_ur_ls.contains(&url)) {
            Some(member) if member.id != server.id.get() => Step::Done(member.id),
            Some(member) => Step::Remove(pb::MemberRemoveRequest { id: member.id }),
            None => Step::Add(pb::MemberAddRequest { peer_ur_ls: vec![url], is_learner: as_learner }),
        }
    }

    /// Takes steps through the other members until there are none left. What was not answered may have happened: each
    /// step is chosen by the members as they are.
    async fn until(
        &self,
        except: usize,
        deadline: Instant,
        next: &dyn Fn(&[pb::Member]) -> Step,
    ) -> Option<u64> {
        let size = self.world.cluster.servers.len();
        let mut through = except;
        while Instant::now() < deadline && self.world.failure().is_none() {
            through = (through + 1) % size;
            if through == except {
                continue;
            }
            if let Ok(Some(id)) = self.take_step(through, next).await {
                return Some(id);
            }
            sleep(RETRY).await;
        }
        None
    }

    async fn take_step(
        &self,
        through: usize,
        next: &dyn Fn(&[pb::Member]) -> Step,
    ) -> Result<Option<u64>, Failure> {
        let connection = self.world.cluster.servers[through].connection().await?;
        let request = pb::MemberListRequest { linearizable: true };
        let list: pb::MemberListResponse = connection.ask(rpc::MEMBER_LIST, &request, ASK_LIMIT).await?;
        match next(&list.members) {
            Step::Done(id) => return Ok(Some(id)),
            Step::Remove(request) => {
                let _: pb::MemberRemoveResponse =
                    connection.ask(rpc::MEMBER_REMOVE, &request, ASK_LIMIT).await?;
            }
            Step::Add(request) => {
                let _: pb::MemberAddResponse = connection.ask(rpc::MEMBER_ADD, &request, ASK_LIMIT).await?;
            }
            Step::Promote(request) => {
                let _: pb::MemberPromoteResponse =
                    connection.ask(rpc::MEMBER_PROMOTE, &request, ASK_LIMIT).await?;
            }
        }
        Ok(None)
    }
}

enum Step {
    Done(u64),
    Remove(pb::MemberRemoveRequest),
    Add(pb::MemberAddRequest),
    Promote(pb::MemberPromoteRequest),
}

/// The next step to a vote.
fn promotion(id: u64, members: &[pb::Member]) -> Step {
    match members.iter().any(|member| member.id == id && member.is_learner) {
        true => Step::Promote(pb::MemberPromoteRequest { id }),
        false => Step::Done(id),
    }
}
