//! Clients of a simulated cluster: each asks one member at a time, waits, and records what it was told.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use oracle::{
    history::{
        Client as ClientId, Fate, LeaseId, Member, NEVER_NS, Operation, Outcome, Request, Value,
        request::{Compare, Delete, End, Put, Range, Relation, Span, Txn, Wanted},
    },
    wire::{self, Book},
};
use proto::etcdserverpb as pb;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use store::{
    api::{
        caller::{self, Caller},
        kv, lease,
    },
    node::Node,
};
use tonic::Status;

use super::auth::{self, Badge, Diary, Shown};

/// Keys that clients share.
pub const KEYS: u64 = 12;
/// Leases that clients share at a time.
const LEASES: LeaseId = 4;

/// The ID of a lease by its number, from 1; every fourth is below zero, as clients may choose.
fn lease_named(number: LeaseId) -> LeaseId {
    if number % 4 == 0 { -number } else { number }
}

type Call = Pin<Box<dyn Future<Output = Result<Bytes, Status>>>>;

/// Whether somebody called.
pub(super) struct Called(AtomicBool);

impl Called {
    /// To be polled a first time.
    pub fn new() -> Arc<Called> {
        Arc::new(Called(AtomicBool::new(true)))
    }

    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub struct Client {
    id: ClientId,
    random: StdRng,
    called: Arc<Called>,
    pending: Option<Pending>,
    /// Counts its calls, so that a timeout finds its own.
    pub serial: u64,
    /// Revisions it has seen, for reads of the past and compactions.
    seen: i64,
    /// Who it is, in a run with users.
    badge: Option<Badge>,
}

struct Pending {
    call: Call,
    member: usize,
    name: Member,
    called_ns: u64,
    request: Request,
    /// The ID under which it was proposed, once it was.
    proposal: Option<u64>,
    node: Arc<Node>,
    /// In a run with users.
    shown: Option<Shown>,
}

/// What the clients of a run write down, and numbers that are given out once.
#[derive(Default)]
pub struct Notes {
    pub book: Book,
    /// Under which request ID each operation was proposed, in the order in which they were recorded.
    pub proposals: Vec<Option<u64>>,
    /// Watch streams that were written down.
    pub streams: usize,
    pub diary: Diary,
    /// The time to live of each lease asked for, in seconds; leases are numbered from 1, and named by `lease_named`.
    ttls: Vec<i64>,
    clients: u32,
    values: u64,
}

impl Notes {
    pub fn next_id(&mut self) -> ClientId {
        self.clients += 1;
        ClientId(self.clients - 1)
    }

    pub fn next_lease(&mut self, ttl_seconds: i64) -> LeaseId {
        self.ttls.push(ttl_seconds);
        lease_named(self.ttls.len() as LeaseId)
    }

    /// Whether a lease was asked for with a time to live of so many seconds at most.
    pub fn is_short(&self, lease: LeaseId, ttl_seconds: i64) -> bool {
        usize::try_from(lease.abs() - 1)
            .is_ok_and(|at| self.ttls.get(at).is_some_and(|ttl| *ttl <= ttl_seconds))
    }

    /// One that may be there still.
    fn some_lease(&self, random: &mut StdRng) -> LeaseId {
        lease_named((self.ttls.len() as LeaseId - random.random_range(0..LEASES)).max(1))
    }

    pub fn next_value(&mut self) -> Value {
        self.values += 1;
        self.book.value(&value_bytes(self.values))
    }
}

/// Names sort as their numbers do.
pub fn key_bytes(number: u64) -> Bytes {
    format!("k{number:02}").into()
}

fn value_bytes(number: u64) -> Bytes {
    format!("v{number}").into()
}

impl Client {
    pub fn new(random: StdRng, badge: Option<Badge>, notes: &mut Notes) -> Client {
        let (id, called) = (notes.next_id(), Called::new());
        Client { id, random, called, pending: None, serial: 0, seen: 1, badge }
    }

    pub fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    pub fn badge(&self) -> Option<&Badge> {
        self.badge.as_ref()
    }

    pub fn badge_mut(&mut self) -> Option<&mut Badge> {
        self.badge.as_mut()
    }

    pub fn is_idle(&self) -> bool {
        self.pending.is_none()
    }

    pub fn waits_for(&self, member: usize) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.member == member)
    }

    /// Asks a member; `newest`: the newest entry that any member has applied.
    pub fn ask(
        &mut self,
        (member, name): (usize, Member),
        node: &Arc<Node>,
        now_ns: u64,
        book: &Book,
        newest: u64,
        request: Request,
    ) {
        let asked = node.clone();
        let method = auth::method(&request);
        let caller = self.badge.as_ref().map_or_else(Caller::default, |badge| badge.caller(&asked, method));
        let (node, who) = (node.clone(), caller.clone());
        let answered: Call = match &request {
            Request::Put(put) => {
                let put = book.put(put);
                Box::pin(async move { kv::put(&node, &caller, put).await })
            }
            Request::Delete(delete) => {
                let delete = book.delete(delete);
                Box::pin(async move { kv::delete_range(&node, &caller, delete).await })
            }
            Request::Range(range) => {
                let range = book.range(range);
                Box::pin(async move { kv::range(&node, &caller, range).await })
            }
            Request::Txn(txn) => {
                let txn = book.txn(txn);
                Box::pin(async move { kv::txn(&node, &caller, txn).await })
            }
            Request::Compact { revision } => {
                let request = pb::CompactionRequest { revision: *revision, physical: false };
                Box::pin(async move { kv::compact(&node, &caller, request).await })
            }
            Request::Grant { lease, ttl_seconds } => {
                let request = pb::LeaseGrantRequest { id: *lease, ttl: *ttl_seconds };
                Box::pin(async move { lease::grant(&node, &caller, request).await })
            }
            Request::Revoke { lease } => {
                let request = pb::LeaseRevokeRequest { id: *lease };
                Box::pin(async move { lease::revoke(&node, &caller, request).await })
            }
            Request::KeepAlive { lease } => {
                let id = *lease;
                Box::pin(async move { lease::renew(&node, &caller, id).await })
            }
            Request::TimeToLive { lease, keys } => {
                let request = pb::LeaseTimeToLiveRequest { id: *lease, keys: *keys };
                Box::pin(async move { lease::time_to_live(&node, &caller, request).await })
            }
            Request::Leases => {
                Box::pin(async move { lease::leases(&node, &caller, pb::LeaseLeasesRequest {}).await })
            }
        };
        let door = asked.clone();
        let call: Call = Box::pin(async move {
            caller::admit(&door, method, &who).await?;
            answered.await
        });
        let applied = asked.status.applied.load(Ordering::Acquire);
        let shown = self.badge.as_ref().map(|badge| Shown { by: badge.by(), applied, newest });
        self.serial += 1;
        self.called.0.store(true, Ordering::Relaxed);
        self.pending = Some(Pending {
            call,
            member,
            name,
            called_ns: now_ns,
            request,
            proposal: None,
            node: asked,
            shown,
        });
    }

    /// Goes on if it was called; true once it has its answer.
    pub fn poll(&mut self, now_ns: u64, notes: &mut Notes, number: impl Fn(u64) -> Member) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        if !self.called.take() {
            return false;
        }
        let waker = Waker::from(self.called.clone());
        let before = pending.node.ids.last();
        let polled = pending.call.as_mut().poll(&mut Context::from_waker(&waker));
        let after = pending.node.ids.last();
        if after != before {
            pending.proposal = Some(after);
        }
        let Poll::Ready(answer) = polled else { return false };
        let refusal = answer.as_ref().err().map(|status| status.message().to_owned());
        let outcome = match answer {
            Ok(frame) => {
                let message = frame.slice(store::api::grpc::HEADER..);
                let answer = notes.book.answered(&pending.request, message, number).expect("our own message");
                self.seen = self.seen.max(answer.revision);
                Outcome::Ok(answer)
            }
            Err(status) => wire::refused(&status),
        };
        self.end(now_ns, outcome, refusal.as_deref(), notes);
        true
    }

    /// Nobody will answer any more.
    pub fn give_up(&mut self, now_ns: u64, notes: &mut Notes) {
        self.end(now_ns, Outcome::Unknown(Fate::Open), None, notes);
    }

    fn end(&mut self, now_ns: u64, outcome: Outcome, refusal: Option<&str>, notes: &mut Notes) {
        let Some(pending) = self.pending.take() else { return };
        if let (Some(badge), Some(shown)) = (&mut self.badge, pending.shown) {
            badge.learn(refusal);
            let told = match &outcome {
                Outcome::Ok(answer) => Ok(&answer.response),
                _ => Err(refusal.unwrap_or_default()),
            };
            let applied = pending.node.status.applied.load(Ordering::Acquire);
            let op = notes.proposals.len();
            let asked = (&pending.request, &notes.book);
            notes.diary.told(op, shown, pending.proposal, applied, asked, told);
        }
        let unknown = matches!(outcome, Outcome::Unknown(_));
        notes.proposals.push(pending.proposal);
        notes.book.recorder.operation(Operation {
            client: self.id,
            member: pending.name,
            called_ns: pending.called_ns,
            returned_ns: if unknown { NEVER_NS } else { now_ns },
            request: pending.request,
            outcome,
        });
        if unknown {
            self.id = notes.next_id();
        }
    }

    /// What to ask next.
    pub fn choose(&mut self, notes: &mut Notes) -> Request {
        let request = self.choose_plain(notes);
        if self.badge.is_some() { auth::nested(request, &mut self.random) } else { request }
    }

    fn choose_plain(&mut self, notes: &mut Notes) -> Request {
        let random = &mut self.random;
        let key = notes.book.key(&key_bytes(random.random_range(0..KEYS)));
        let other = notes.book.key(&key_bytes(random.random_range(0..KEYS)));
        let single = Span::key(key);
        let wide = {
            let end = notes.book.key(&key_bytes(random.random_range(0..=KEYS)));
            let end = if random.random_bool(0.3) { End::Open } else { End::Before(end) };
            Span { start: key, end }
        };
        let lease = notes.some_lease(random);
        let put = Put {
            prev_kv: random.random_bool(0.3),
            lease: if random.random_bool(0.15) { lease } else { 0 },
            ..Put::plain(key, notes.next_value())
        };
        let seen = self.seen;
        match random.random_range(0..112) {
            0..35 => Request::Put(put),
            35..55 => Request::Range(Range::newest(single)),
            55..60 => Request::Range(Range { serializable: true, ..Range::newest(wide) }),
            60..70 => Request::Range(Range {
                limit: random.random_range(0..4),
                keys_only: random.random_bool(0.2),
                count_only: random.random_bool(0.2),
                ..Range::newest(wide)
            }),
            70..75 => {
                let revision = (seen - random.random_range(0..20)).max(1);
                Request::Range(Range { revision, ..Range::newest(wide) })
            }
            75..82 => Request::Delete(Delete {
                span: if random.random_bool(0.3) { wide } else { single },
                prev_kv: random.random_bool(0.3),
            }),
            82..99 => {
                let wanted = match random.random_range(0..3) {
                    0 => Wanted::Mod((seen - random.random_range(0..10)).max(0)),
                    1 => Wanted::Version(random.random_range(0..4)),
                    _ => Wanted::Create(0),
                };
                let relation = [Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less]
                    [random.random_range(0..4)];
                let compares = vec![Compare { span: single, wanted, relation }];
                let past = (seen - random.random_range(0..60)).max(1);
                let revision = if random.random_bool(0.15) { past } else { 0 };
                let read = Request::Range(Range { revision, ..Range::newest(wide) });
                let change = if random.random_bool(0.3) {
                    Request::Delete(Delete { span: single, prev_kv: true })
                } else {
                    Request::Put(put)
                };
                let mut success = vec![change, read.clone()];
                if random.random_bool(0.3) && other != key {
                    success.push(Request::Put(Put::plain(other, notes.next_value())));
                }
                Request::Txn(Box::new(Txn { compares, success, failure: vec![read] }))
            }
            99 => Request::Compact { revision: (seen - random.random_range(0..50)).max(1) },
            100..102 => {
                // 2 s are the least that the servers grant.
                let ttl_seconds = *[2, 3, 5, 8, 60].choose(random).expect("not empty");
                Request::Grant { lease: notes.next_lease(ttl_seconds), ttl_seconds }
            }
            102..109 => Request::KeepAlive { lease },
            109 => Request::TimeToLive { lease, keys: random.random_bool(0.5) },
            // Seldom, so that most leases come to their own end.
            110 if random.random_bool(0.3) => Request::Revoke { lease },
            110 => Request::KeepAlive { lease },
            _ => Request::Leases,
        }
    }
}
