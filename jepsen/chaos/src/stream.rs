//! A watch stream on a connection of its own, written down as it goes.
//!
//! `WatchStream` keeps what was asked and told; dropping it hands that to the history, so nothing that was seen is
//! lost when a task is cancelled. A reader that does not call `next` makes the member wait, or drop it.

use std::rc::Rc;

use oracle::history::{
    Client, Stream,
    watch::{Asked, WatchCommand, WatchResponse},
};
use prost::Message;
use proto::etcdserverpb as pb;

use crate::{
    rpc::{self, Connection, Duplex, Failure},
    world::World,
};

pub struct WatchStream {
    world: Rc<World>,
    duplex: Duplex,
    /// Streams end with their connection.
    _connection: Connection,
    record: Stream,
}

impl WatchStream {
    /// Opens a stream to a member, which may leave `window_bytes` unread before it has to wait.
    pub async fn open(
        world: &Rc<World>,
        client: Client,
        at: usize,
        window_bytes: u32,
    ) -> Result<WatchStream, Failure> {
        let connection = world.cluster.servers[at].connect(window_bytes).await?;
        let duplex = connection.stream(rpc::WATCH).await?;
        let member = connection.member;
        let record = Stream { client, member, asked: Vec::new(), responses: Vec::new() };
        Ok(WatchStream { world: world.clone(), duplex, _connection: connection, record })
    }

    pub fn ask(&mut self, command: WatchCommand) -> Result<(), Failure> {
        let frame = rpc::frame(&self.world.notes.borrow().book.watch(&command));
        self.record.asked.push(Asked { sent_ns: self.world.now_ns(), command });
        if self.duplex.send(frame) { Ok(()) } else { Err(Failure::Lost) }
    }

    /// The next response, already written down.
    pub async fn next(&mut self) -> Result<&WatchResponse, Failure> {
        let message = self.duplex.next().await?.ok_or(Failure::Lost)?;
        let response = pb::WatchResponse::decode(message).map_err(|_| Failure::Lost)?;
        let received_ns = self.world.now_ns();
        let mut notes = self.world.notes.borrow_mut();
        let response = notes.book.watched(&response, received_ns);
        notes.seen = notes.seen.max(response.revision);
        self.record.responses.push(response);
        Ok(&self.record.responses[self.record.responses.len() - 1])
    }

    /// Leaves it out of the history: it was refused, and nothing was told.
    pub fn forget(mut self) {
        self.record.asked.clear();
    }

    /// Ends it; its place in `History::streams`.
    pub fn finish(mut self) -> usize {
        self.hand_over()
    }

    fn hand_over(&mut self) -> usize {
        let (client, member) = (self.record.client, self.record.member);
        let empty = Stream { client, member, asked: Vec::new(), responses: Vec::new() };
        let record = std::mem::replace(&mut self.record, empty);
        self.world.notes.borrow_mut().stream(record)
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        if !self.record.asked.is_empty() {
            self.hand_over();
        }
    }
}
