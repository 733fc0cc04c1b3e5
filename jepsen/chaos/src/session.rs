//! A client: asks one member at a time, waits, and writes down what it was told.
//!
//! It retries nothing. After an unknown outcome it goes on under a new number, mostly at another member. Reads that
//! nobody answered prove nothing and are left out, as is what never left.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use oracle::{
    history::{
        Answer, Client, Fate, Key, Member, NEVER_NS, Operation, Outcome, Refusal, Request, Value,
        request::{Put, Range, Span},
    },
    wire::{self, Book},
};
use proto::etcdserverpb as pb;
use rand::{Rng, rngs::StdRng};

use crate::{
    rpc::{self, Failure, Token},
    world::World,
};

/// Clients give a request up after so long.
pub const PATIENCE: Duration = Duration::from_millis(1500);
/// Waits after a call that came to nothing.
const PAUSE_MS: std::ops::Range<u64> = 5..40;

pub struct Session {
    pub world: Rc<World>,
    pub random: StdRng,
    pub client: Client,
    /// The index of the member that it asks.
    pub at: usize,
    /// It stays there whatever happens.
    pub pinned: bool,
    /// A user's own; without, it shows what all show.
    pub token: Token,
    /// The last call that was sent, when it ended, and the text of a refusal.
    pub last: Option<LastCall>,
    patience: Duration,
}

/// When a session last asked, and how it was refused.
#[derive(Clone, Debug)]
pub struct LastCall {
    pub called_ns: u64,
    pub returned_ns: u64,
    pub refusal: Option<String>,
}

/// Whom a request went to, and when.
struct Call {
    member: Member,
    /// The member's ID.
    id: u64,
    called_ns: u64,
    returned_ns: u64,
}

/// What came of asking.
#[derive(Debug)]
pub enum Told {
    Answer(Answer),
    Refused(Refusal),
    /// Of a write.
    Unknown,
    /// Nobody was reached, or a read was not answered.
    Nothing,
}

impl Told {
    pub fn answer(self) -> Option<Answer> {
        match self {
            Told::Answer(answer) => Some(answer),
            _ => None,
        }
    }
}

impl Session {
    /// Client `number` of a kind; they are spread over the members.
    pub fn new(world: &Rc<World>, kind: &str, number: u64) -> Session {
        let client = world.notes.borrow_mut().next_client();
        let at = number as usize % world.cluster.servers.len();
        let random = world.random(kind, number);
        Session {
            world: world.clone(),
            random,
            client,
            at,
            pinned: false,
            token: None,
            last: None,
            patience: PATIENCE,
        }
    }

    pub fn is_over(&self) -> bool {
        self.world.is_over()
    }

    pub fn key(&self, name: &str) -> Key {
        self.world.key(name)
    }

    /// A value that nobody else writes.
    pub fn value(&self) -> Value {
        self.world.notes.borrow_mut().next_value()
    }

    /// A plain put of a new value.
    pub fn put(&self, key: Key) -> Put {
        Put::plain(key, self.value())
    }

    /// Asks, waits, and writes it down.
    pub async fn ask(&mut self, request: Request) -> Told {
        if !self.pinned && self.random.random_bool(0.005) {
            self.move_on();
        }
        let server = &self.world.cluster.servers[self.at];
        let connection = match server.connection().await {
            Ok(connection) => connection,
            Err(_) => {
                self.move_on();
                self.pause().await;
                return Told::Nothing;
            }
        };
        let (path, frame) = encode(&self.world.notes.borrow().book, &request);
        let called_ns = self.world.now_ns();
        let token = self.token.clone().or_else(|| connection.token.borrow().clone());
        let answered = connection.call_as(token, path, frame, self.patience).await;
        let returned_ns = self.world.now_ns();
        let call = Call { member: connection.member, id: server.id.get(), called_ns, returned_ns };
        if let Err(Failure::NotSent | Failure::Lost) = answered {
            server.distrust(&connection);
        }
        if let Err(Failure::NotSent) = answered {
            self.move_on();
            self.pause().await;
            return Told::Nothing;
        }
        let refusal = match &answered {
            Err(Failure::Refused(status)) => Some(status.message().to_owned()),
            _ => None,
        };
        self.last = Some(LastCall { called_ns, returned_ns, refusal });
        let (told, unknown) = self.write_down(request, answered, &call);
        if unknown {
            self.move_on();
            self.pause().await;
        }
        told
    }

    /// Puts it into the history, and gives the client a new number if the outcome is unknown.
    fn write_down(
        &mut self,
        request: Request,
        answered: Result<Bytes, Failure>,
        call: &Call,
    ) -> (Told, bool) {
        let mut notes = self.world.notes.borrow_mut();
        let outcome = match answered {
            Ok(message) => {
                // Another member's answer gets a number that nobody was asked under.
                let number = |said: u64| if said == call.id { call.member } else { Member(u32::MAX) };
                match notes.book.answered(&request, message, number) {
                    Ok(answer) => Outcome::Ok(answer),
                    Err(_) => Outcome::Unknown(Fate::Open),
                }
            }
            Err(Failure::Refused(status)) => wire::refused(&status),
            Err(_) => Outcome::Unknown(Fate::Open),
        };
        let told = match &outcome {
            Outcome::Ok(answer) => {
                notes.seen = notes.seen.max(answer.revision);
                Told::Answer(answer.clone())
            }
            Outcome::Refused(refusal) => Told::Refused(*refusal),
            Outcome::Unknown(_) if request.writes() => Told::Unknown,
            Outcome::Unknown(_) => Told::Nothing,
        };
        let unknown = matches!(outcome, Outcome::Unknown(_));
        if !matches!(told, Told::Nothing) {
            notes.operation(Operation {
                client: self.client,
                member: call.member,
                called_ns: call.called_ns,
                returned_ns: if unknown { NEVER_NS } else { call.returned_ns },
                request,
                outcome,
            });
        }
        if unknown {
            self.client = notes.next_client();
        }
        (told, unknown)
    }

    /// The newest of a key.
    pub async fn get(&mut self, key: Key) -> Told {
        self.ask(Request::Range(Range::newest(Span::key(key)))).await
    }

    fn move_on(&mut self) {
        if !self.pinned {
            self.at = self.random.random_range(0..self.world.cluster.servers.len());
        }
    }

    async fn pause(&mut self) {
        let time = Duration::from_millis(self.random.random_range(PAUSE_MS));
        self.world.rest(time).await;
    }
}

/// Where a request goes, and its frame.
fn encode(book: &Book, request: &Request) -> (&'static str, Bytes) {
    match request {
        Request::Put(put) => (rpc::PUT, rpc::frame(&book.put(put))),
        Request::Delete(delete) => (rpc::DELETE_RANGE, rpc::frame(&book.delete(delete))),
        Request::Range(range) => (rpc::RANGE, rpc::frame(&book.range(range))),
        Request::Txn(txn) => (rpc::TXN, rpc::frame(&book.txn(txn))),
        &Request::Compact { revision } => {
            (rpc::COMPACT, rpc::frame(&pb::CompactionRequest { revision, physical: false }))
        }
        &Request::Grant { lease, ttl_seconds } => {
            (rpc::LEASE_GRANT, rpc::frame(&pb::LeaseGrantRequest { ttl: ttl_seconds, id: lease }))
        }
        &Request::Revoke { lease } => (rpc::LEASE_REVOKE, rpc::frame(&pb::LeaseRevokeRequest { id: lease })),
        &Request::KeepAlive { lease } => {
            (rpc::LEASE_KEEP_ALIVE, rpc::frame(&pb::LeaseKeepAliveRequest { id: lease }))
        }
        &Request::TimeToLive { lease, keys } => {
            (rpc::LEASE_TIME_TO_LIVE, rpc::frame(&pb::LeaseTimeToLiveRequest { id: lease, keys }))
        }
        Request::Leases => (rpc::LEASE_LEASES, rpc::frame(&pb::LeaseLeasesRequest {})),
    }
}
