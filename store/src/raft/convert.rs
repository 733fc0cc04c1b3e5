//! Translation between etcd's raft messages (`proto::raftpb`) and those of the `raft` crate.
//!
//! Field numbers agree but for a handful, which is why nothing is passed through as bytes: Message 13 to 16 and
//! Entry 5 and 6 mean other things, and conf change types 2 and 3 are swapped around. Entry data is shared, not copied.
//! Called by `driver` only.

use bytes::Bytes;
use prost::Message;
use proto::raftpb;
use raft::eraftpb;

pub fn entry_to_etcd(entry: eraftpb::Entry) -> raftpb::Entry {
    raftpb::Entry {
        r#type: entry.entry_type as i32,
        term: entry.term,
        index: entry.index,
        data: Some(if entry.context.is_empty() { entry.data } else { entry.context })
            .filter(|data| !data.is_empty()),
    }
}

/// The crate reads the data of conf changes that are proposed, and knows not all of etcd's: it gets a stand-in, which
/// tells it only whether anything changes, and carries the true data beside it.
pub fn entry_to_raft(entry: raftpb::Entry) -> eraftpb::Entry {
    let data = entry.data.unwrap_or_default();
    let one_change = Bytes::from_static(&[0x12, 0]);
    let (data, context) = match entry.r#type {
        1 if raftpb::ConfChange::decode(data.clone()).is_ok() => (Bytes::new(), data),
        2 => match raftpb::ConfChangeV2::decode(data.clone()) {
            Ok(change) if change.changes.is_empty() => (Bytes::new(), data),
            Ok(_) => (one_change, data),
            Err(_) => (data, Bytes::new()),
        },
        _ => (data, Bytes::new()),
    };
    eraftpb::Entry {
        entry_type: match entry.r#type {
            1 => eraftpb::EntryType::EntryConfChange,
            2 => eraftpb::EntryType::EntryConfChangeV2,
            _ => eraftpb::EntryType::EntryNormal,
        },
        term: entry.term,
        index: entry.index,
        data,
        context,
        ..Default::default()
    }
}

pub fn hard_state_to_etcd(state: &eraftpb::HardState) -> raftpb::HardState {
    raftpb::HardState { term: state.term, vote: state.vote, commit: state.commit }
}

pub fn hard_state_to_raft(state: &raftpb::HardState) -> eraftpb::HardState {
    eraftpb::HardState { term: state.term, vote: state.vote, commit: state.commit, ..Default::default() }
}

pub fn conf_state_to_etcd(state: &eraftpb::ConfState) -> raftpb::ConfState {
    raftpb::ConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave,
    }
}

pub fn conf_state_to_raft(state: &raftpb::ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave,
        ..Default::default()
    }
}

pub fn snapshot_to_etcd(snapshot: eraftpb::Snapshot) -> raftpb::Snapshot {
    let metadata = snapshot.get_metadata();
    raftpb::Snapshot {
        metadata: raftpb::SnapshotMetadata {
            conf_state: conf_state_to_etcd(metadata.get_conf_state()),
            index: metadata.index,
            term: metadata.term,
        },
        data: (!snapshot.data.is_empty()).then_some(snapshot.data),
    }
}

pub fn snapshot_to_raft(snapshot: &raftpb::Snapshot) -> eraftpb::Snapshot {
    let mut raft = eraftpb::Snapshot::default();
    let metadata = raft.mut_metadata();
    metadata.index = snapshot.metadata.index;
    metadata.term = snapshot.metadata.term;
    metadata.set_conf_state(conf_state_to_raft(&snapshot.metadata.conf_state));
    raft.data = snapshot.data.clone().unwrap_or_default();
    raft
}

pub fn message_to_etcd(mut message: eraftpb::Message) -> raftpb::Message {
    raftpb::Message {
        // Types 0 to 18 have the same numbers on both sides.
        r#type: message.msg_type as i32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        entries: message.take_entries().into_iter().map(entry_to_etcd).collect(),
        snapshot: if message.has_snapshot() {
            snapshot_to_etcd(message.take_snapshot())
        } else {
            Default::default()
        },
        context: (!message.context.is_empty()).then_some(message.context),
        vote: None,
        responses: Vec::new(),
    }
}

/// `None` for a type that this implementation does not know; such messages are dropped, as raft allows.
pub fn message_to_raft(message: raftpb::Message) -> Option<eraftpb::Message> {
    use eraftpb::MessageType::*;
    let types = [
        MsgHup,
        MsgBeat,
        MsgPropose,
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgSnapshot,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgUnreachable,
        MsgSnapStatus,
        MsgCheckQuorum,
        MsgTransferLeader,
        MsgTimeoutNow,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ];
    let msg_type = *types.get(usize::try_from(message.r#type).ok()?)?;
    let mut raft = eraftpb::Message {
        msg_type,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.unwrap_or_default(),
        ..Default::default()
    };
    raft.set_entries(message.entries.into_iter().map(entry_to_raft).collect::<Vec<_>>().into());
    if msg_type == MsgSnapshot {
        raft.set_snapshot(snapshot_to_raft(&message.snapshot));
    }
    Some(raft)
}

/// A change of one member as one of several.
pub fn conf_change_v2(change: &raftpb::ConfChange) -> raftpb::ConfChangeV2 {
    let changes = vec![raftpb::ConfChangeSingle { r#type: change.r#type, node_id: change.node_id }];
    raftpb::ConfChangeV2 { changes, ..Default::default() }
}

/// A conf change of either version as the `raft` crate applies it; an update of URLs changes nothing there.
pub fn conf_change_to_raft(change: &raftpb::ConfChangeV2) -> eraftpb::ConfChangeV2 {
    use eraftpb::{ConfChangeTransition, ConfChangeType};
    let mut raft = eraftpb::ConfChangeV2::default();
    raft.set_transition(match change.transition {
        1 => ConfChangeTransition::Implicit,
        2 => ConfChangeTransition::Explicit,
        _ => ConfChangeTransition::Auto,
    });
    let singles = change.changes.iter().filter_map(|single| {
        let change_type = match raftpb::ConfChangeType::try_from(single.r#type).ok()? {
            raftpb::ConfChangeType::ConfChangeAddNode => ConfChangeType::AddNode,
            raftpb::ConfChangeType::ConfChangeRemoveNode => ConfChangeType::RemoveNode,
            raftpb::ConfChangeType::ConfChangeAddLearnerNode => ConfChangeType::AddLearnerNode,
            raftpb::ConfChangeType::ConfChangeUpdateNode => return None,
        };
        let mut single_change = eraftpb::ConfChangeSingle::default();
        single_change.set_change_type(change_type);
        single_change.node_id = single.node_id;
        Some(single_change)
    });
    raft.set_changes(singles.collect::<Vec<_>>().into());
    raft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_both_ways() {
        let message = raftpb::Message {
            r#type: raftpb::MessageType::MsgApp as i32,
            to: 1,
            from: 2,
            term: 3,
            log_term: 4,
            index: 5,
            commit: 6,
            entries: vec![raftpb::Entry {
                r#type: 1,
                term: 3,
                index: 6,
                data: Some(bytes::Bytes::from_static(b"x")),
            }],
            reject: true,
            reject_hint: 7,
            context: Some(bytes::Bytes::from_static(b"c")),
            ..Default::default()
        };
        assert_eq!(message_to_etcd(message_to_raft(message.clone()).unwrap()), message);
    }

    #[test]
    fn unknown_message_types_are_dropped() {
        assert!(message_to_raft(raftpb::Message { r#type: 23, ..Default::default() }).is_none());
        assert!(message_to_raft(raftpb::Message { r#type: -1, ..Default::default() }).is_none());
    }

    #[test]
    fn learner_changes_keep_their_meaning() {
        let change = raftpb::ConfChangeV2 {
            changes: vec![raftpb::ConfChangeSingle {
                r#type: raftpb::ConfChangeType::ConfChangeAddLearnerNode as i32,
                node_id: 9,
            }],
            ..Default::default()
        };
        let raft = conf_change_to_raft(&change);
        assert_eq!(raft.changes[0].get_change_type(), eraftpb::ConfChangeType::AddLearnerNode);
    }
}
