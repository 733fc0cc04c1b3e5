//! Watch streams as a client saw them: what it asked, and every response in the order of delivery.
//!
//! The n-th `created` response of a stream answers the n-th `Create` on it, as etcd's streams do.

use serde::{Deserialize, Serialize};

use super::{Client, Member, Revision, names::Name, request::Kv, request::Span};

/// One watch stream of one client to one member; a broken one is continued as another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    pub client: Client,
    pub member: Member,
    /// In the order of sending.
    pub asked: Vec<Asked>,
    /// In the order of delivery.
    pub responses: Vec<WatchResponse>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub sent_ns: u64,
    pub command: WatchCommand,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WatchCommand {
    Create(WatchCreate),
    Cancel { id: i64 },
    Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchCreate {
    /// 0: the server chooses.
    pub id: i64,
    pub span: Span,
    /// 0: what comes after the creation.
    pub start: Revision,
    pub prev_kv: bool,
    pub progress_notify: bool,
    pub fragment: bool,
    pub no_put: bool,
    pub no_delete: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchResponse {
    pub received_ns: u64,
    /// -1: for the stream as a whole.
    pub id: i64,
    /// `header.revision`.
    pub revision: Revision,
    pub created: bool,
    pub canceled: bool,
    pub fragment: bool,
    pub compact_revision: Revision,
    pub events: Box<[Event]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    /// Of a deleted key: its name and `mod_revision`, the rest is zero.
    pub kv: Kv,
    pub prev: Option<Kv>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    Put,
    Delete,
}

impl Event {
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }
}

impl Stream {
    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(Name)) {
        for asked in &mut self.asked {
            if let WatchCommand::Create(create) = &mut asked.command {
                create.span.visit(visit);
            }
        }
        for event in self.responses.iter_mut().flat_map(|response| &mut response.events) {
            event.kv.visit(visit);
            if let Some(prev) = &mut event.prev {
                prev.visit(visit);
            }
        }
    }
}
