//! `--force-new-cluster`: a member whose cluster is lost goes on alone.
//!
//! The log gets changes that remove all other members, and all of it counts as committed.
//! Source: etcd `server/etcdserver/raft.go` (restartAsStandaloneNode). Differs: etcd gives up entries whose commit it
//! has not noted. What was acknowledged a moment before the end may be among them, so they are kept here.

use prost::Message;
use proto::raftpb::{self, ConfChangeType};

use super::{StartError, takeover::follow};
use crate::membership::{self, Member};

/// Commits `entries` and appends what leaves `own` alone with its vote. `state`: the configuration at `applied`.
/// Returns how many entries at the end are new.
pub fn stand_alone(
    own: &Member,
    state: &raftpb::ConfState,
    applied: u64,
    hard_state: &mut raftpb::HardState,
    entries: &mut Vec<raftpb::Entry>,
) -> Result<usize, StartError> {
    hard_state.commit = entries.last().map_or(hard_state.commit, |entry| entry.index);
    let mut state = state.clone();
    for entry in entries.iter().filter(|entry| entry.index > applied) {
        follow(&mut state, entry).map_err(StartError)?;
    }
    let mut changes = Vec::new();
    for id in state.voters.iter().chain(&state.learners).filter(|id| **id != own.id) {
        changes.push((ConfChangeType::ConfChangeRemoveNode, *id, String::new()));
    }
    if state.learners.contains(&own.id) {
        changes.push((ConfChangeType::ConfChangeAddNode, own.id, membership::promotion(own.id)));
    } else if !state.voters.contains(&own.id) {
        changes.push((ConfChangeType::ConfChangeAddNode, own.id, own.to_json()));
    }
    let new = changes.len();
    for (kind, node_id, context) in changes {
        hard_state.commit += 1;
        let context = (!context.is_empty()).then(|| context.into());
        let change = raftpb::ConfChange { r#type: kind as i32, node_id, context, ..Default::default() };
        entries.push(raftpb::Entry {
            r#type: raftpb::EntryType::EntryConfChange as i32,
            term: hard_state.term,
            index: hard_state.commit,
            data: Some(change.encode_to_vec().into()),
        });
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(index: u64, kind: ConfChangeType, node_id: u64) -> raftpb::Entry {
        let change = raftpb::ConfChange { r#type: kind as i32, node_id, ..Default::default() };
        raftpb::Entry { r#type: 1, term: 1, index, data: Some(change.encode_to_vec().into()) }
    }

    #[test]
    fn all_others_leave_and_nothing_is_given_up() {
        let own = Member { id: 1, peer_urls: vec!["http://a:1".into()], ..Member::default() };
        let state = raftpb::ConfState { voters: vec![1, 2, 3], ..Default::default() };
        let mut entries = vec![
            change(5, ConfChangeType::ConfChangeRemoveNode, 3),
            change(6, ConfChangeType::ConfChangeAddLearnerNode, 4),
            change(7, ConfChangeType::ConfChangeUpdateNode, 5),
        ];
        let mut hard_state = raftpb::HardState { term: 2, vote: 2, commit: 6 };
        let new = stand_alone(&own, &state, 4, &mut hard_state, &mut entries).unwrap();
        assert_eq!((new, hard_state.commit), (2, 9));
        let expected: Vec<raftpb::Entry> = [2, 4]
            .into_iter()
            .zip(8..)
            .map(|(id, index)| raftpb::Entry {
                term: 2,
                ..change(index, ConfChangeType::ConfChangeRemoveNode, id)
            })
            .collect();
        assert_eq!(entries[3..], expected);
    }

    #[test]
    fn a_learner_gets_its_vote() {
        let own = Member { id: 2, ..Member::default() };
        let state = raftpb::ConfState { voters: vec![1], learners: vec![2], ..Default::default() };
        let mut hard_state = raftpb::HardState { term: 2, vote: 0, commit: 4 };
        let mut entries = Vec::new();
        assert_eq!(stand_alone(&own, &state, 4, &mut hard_state, &mut entries).unwrap(), 2);
        let last = raftpb::ConfChange::decode(entries[1].data.clone().unwrap()).unwrap();
        assert_eq!((last.node_id, last.context), (2, Some(membership::promotion(2).into())));
    }
}
