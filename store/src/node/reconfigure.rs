//! Changes of the cluster's members: checked for what they would do to the quorum, then put through the log.
//!
//! A change is answered once it is applied here and raft has been told. Whether it holds is decided when it is applied,
//! by all members alike; the checks before that (`--strict-reconfig-check`) look at what only this member knows: who is
//! connected, how far a learner is.
//! Source: etcd `server/etcdserver/server.go` (AddMember and its like).

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header::AUTHORIZATION};
use prost::Message;
use proto::{etcdserverpb as pb, raftpb, raftpb::ConfChangeType};
use tokio::sync::oneshot;

use super::{LEADER_RETRY, Node, RequestError, caller::Caller, raft_loop};
use crate::{
    apply::{ApplyError, Response},
    auth::AuthError,
    ids,
    membership::{self, ChangeError, Member},
    mutant::{self, Mutant},
    raft::driver::Event,
};

/// A connection counts once it has held for so long.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// A learner may vote when it has this share of the leader's log, in percent.
const READY_PERCENT: u128 = 90;

/// What `/members/promote/` answers; the members of a mixed cluster compare the texts.
pub const NOT_FOUND_TEXT: &str = "membership: ID not found";
pub const NOT_LEARNER_TEXT: &str = "membership: can only promote a learner member";
pub const NOT_READY_TEXT: &str = "etcdserver: can only promote a learner member which is in sync with leader";

impl Node {
    /// Adds a member that is to be started afterwards. `peer_urls`: checked, sorted.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<(Member, Vec<pb::Member>), RequestError> {
        let added_at = (self.started_unix_ms + self.clock.elapsed_ms()) / 1000;
        let id = ids::member_id(&peer_urls, "", Some(added_at as i64));
        let member = Member { id, peer_urls, is_learner, ..Member::default() };
        self.check_addition(&member)?;
        let kind = match is_learner {
            true => ConfChangeType::ConfChangeAddLearnerNode,
            false => ConfChangeType::ConfChangeAddNode,
        };
        let members = self.configure(kind, id, member.to_json()).await?;
        Ok((member, members))
    }

    /// Removes a member for ever.
    pub async fn member_remove(&self, id: u64) -> Result<Vec<pb::Member>, RequestError> {
        self.check_removal(id)?;
        self.succeed(id).await?;
        self.configure(ConfChangeType::ConfChangeRemoveNode, id, String::new()).await
    }

    /// Lets the other of two voters lead. A leader that carries out its own removal stops, perhaps before the last
    /// voter has learned that it is alone now; which would then wait for it for ever. Of more than two, the rest can
    /// elect.
    async fn succeed(&self, leader: u64) -> Result<(), RequestError> {
        let membership = self.published.membership.load_full();
        let others: Vec<u64> = membership.voters().map(|it| it.id).filter(|id| *id != leader).collect();
        let [successor] = others[..] else { return Ok(()) };
        let leads = membership.get(leader).is_some() && self.status.leader() == leader;
        if !leads || !self.is_connected_to(successor) {
            return Ok(());
        }
        self.check_load()?;
        let mut changes = self.status.watch();
        self.event(Event::TransferLeader { to: successor })?;
        let limit = Duration::from_millis(self.config.election_timeout_ms * 3 / 2);
        let handed_over = changes.wait_for(|state| state.leader != 0 && state.leader != leader);
        match self.runtime.within(limit, handed_over).await.map(|it| it.is_ok()) {
            // Until it has committed in its term, the new leader drops changes of members.
            Some(true) => self.read_index().await,
            Some(false) => Err(RequestError::Stopped),
            None => Ok(()),
        }
    }

    /// Gives a member other peer URLs. `peer_urls`: checked.
    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<Vec<pb::Member>, RequestError> {
        let context = Member { id, peer_urls, ..Member::default() }.to_json();
        self.configure(ConfChangeType::ConfChangeUpdateNode, id, context).await
    }

    /// Makes a learner a voter. Only the leader knows whether it is ready: another member asks it.
    pub async fn member_promote(&self, id: u64, caller: &Caller) -> Result<Vec<pb::Member>, RequestError> {
        match self.member_promote_here(id).await {
            Err(RequestError::NotLeader) => {}
            outcome => return outcome,
        }
        let ask = async {
            loop {
                if let Some(outcome) = self.promote_at_leader(id, caller).await {
                    return outcome;
                }
                self.runtime.pause(LEADER_RETRY).await;
            }
        };
        let timeout = self.config.request_timeout();
        self.runtime.within(timeout, ask).await.unwrap_or(Err(RequestError::Timeout))
    }

    /// As `member_promote`, on the leader only.
    pub async fn member_promote_here(&self, id: u64) -> Result<Vec<pb::Member>, RequestError> {
        self.check_promotion(id).await?;
        self.configure(ConfChangeType::ConfChangeAddNode, id, membership::promotion(id)).await
    }

    /// `None` if it is worth another try.
    async fn promote_at_leader(
        &self,
        id: u64,
        caller: &Caller,
    ) -> Option<Result<Vec<pb::Member>, RequestError>> {
        let leader = self.status.leader();
        // This member may have been elected meanwhile.
        if leader == self.id {
            return Some(self.member_promote_here(id).await).filter(|it| *it != Err(RequestError::NotLeader));
        }
        let membership = self.published.membership.load_full();
        for url in &membership.get(leader)?.peer_urls {
            let request = Request::post(format!("/members/promote/{id}")).body(Bytes::new());
            let mut request = request.expect("an ID makes a path");
            if let Some(token) = caller.token() {
                request.headers_mut().insert(AUTHORIZATION, token.clone());
            }
            let Some(answer) = self.others.ask(url, request).await else { continue };
            let text = String::from_utf8_lossy(answer.body());
            let refused = |error| Some(Err(RequestError::Apply(ApplyError::Membership(error))));
            match answer.status() {
                StatusCode::OK => {
                    let members: Vec<Member> = serde_json::from_str(&text).ok()?;
                    return Some(Ok(members.iter().map(Member::to_proto).collect()));
                }
                StatusCode::UNAUTHORIZED => return Some(Err(AuthError::InvalidToken.into())),
                StatusCode::FORBIDDEN => return Some(Err(AuthError::PermissionDenied.into())),
                StatusCode::NOT_FOUND => return refused(ChangeError::IdNotFound),
                StatusCode::PRECONDITION_FAILED if text.contains(NOT_READY_TEXT) => {
                    return Some(Err(RequestError::LearnerNotReady));
                }
                StatusCode::PRECONDITION_FAILED if text.contains(NOT_LEARNER_TEXT) => {
                    return refused(ChangeError::NotLearner);
                }
                _ => {}
            }
        }
        None
    }

    async fn configure(
        &self,
        kind: ConfChangeType,
        node_id: u64,
        context: String,
    ) -> Result<Vec<pb::Member>, RequestError> {
        self.check_load()?;
        let id = self.ids.next();
        let context = (!context.is_empty()).then(|| context.into());
        let change = raftpb::ConfChange { id, r#type: kind as i32, node_id, context };
        let entry = raftpb::Entry {
            r#type: raftpb::EntryType::EntryConfChange as i32,
            data: Some(self.check_size(change.encode_to_vec())?.into()),
            ..Default::default()
        };
        match self.wait_for(id, entry).await? {
            Response::Members(members) => Ok(members),
            _ => Err(RequestError::Apply(ApplyError::Unknown)),
        }
    }

    fn check_addition(&self, member: &Member) -> Result<(), RequestError> {
        if !self.config.strict_reconfig_check {
            return Ok(());
        }
        let membership = self.published.membership.load();
        let refusal = if !member.is_learner && !membership.may_add_voter() {
            RequestError::NotEnoughStarted
        } else {
            let voters = membership.voters().count();
            // The new member is not there yet. A cluster of one may always grow.
            if voters <= 1 || self.connected_voters(&membership) >= membership::quorum(voters + 1) {
                return Ok(());
            }
            RequestError::Unhealthy
        };
        tracing::warn!(?refusal, peer_urls = ?member.peer_urls, "rejecting member add request");
        Err(refusal)
    }

    fn check_removal(&self, id: u64) -> Result<(), RequestError> {
        let membership = self.published.membership.load();
        if !self.config.strict_reconfig_check || membership.get(id).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        let refusal = if !membership.may_remove_voter(id) {
            RequestError::NotEnoughStarted
        } else {
            // One that is down takes nothing from those who are up.
            let is_down = !self.is_connected_to(id);
            let left = membership.voters().count().saturating_sub(1);
            if is_down || self.connected_voters(&membership) > membership::quorum(left) {
                return Ok(());
            }
            RequestError::Unhealthy
        };
        tracing::warn!(?refusal, id = format!("{id:x}"), "rejecting member remove request");
        Err(refusal)
    }

    async fn check_promotion(&self, id: u64) -> Result<(), RequestError> {
        let progress = async |id| {
            let (answer, progress) = oneshot::channel();
            self.raft.send(raft_loop::Input::Progress(id, answer)).map_err(|_| RequestError::Stopped)?;
            progress.await.map_err(|_| RequestError::Stopped)
        };
        if !self.status.is_leader() {
            return Err(RequestError::NotLeader);
        }
        let Some((matched, last)) = progress(id).await? else {
            return Err(match self.status.is_leader() {
                true => RequestError::Apply(ApplyError::Membership(ChangeError::IdNotFound)),
                false => RequestError::NotLeader,
            });
        };
        let membership = self.published.membership.load();
        let is_behind = u128::from(matched) * 100 < u128::from(last) * READY_PERCENT;
        let refusal = if is_behind && !mutant::on(Mutant::M3) {
            RequestError::LearnerNotReady
        } else if self.config.strict_reconfig_check && !membership.may_promote() {
            RequestError::NotEnoughStarted
        } else {
            return Ok(());
        };
        tracing::warn!(?refusal, id = format!("{id:x}"), matched, last, "rejecting learner promotion");
        Err(refusal)
    }

    /// Voters that this member has been connected to for a while, itself included.
    fn connected_voters(&self, membership: &membership::Membership) -> usize {
        let now = self.clock.now();
        let is_connected = |id| {
            let since = self.connections.active_since(id);
            id == self.id || since.is_some_and(|it| now.saturating_duration_since(it) > HEALTH_INTERVAL)
        };
        membership.voters().filter(|member| is_connected(member.id)).count()
    }
}
