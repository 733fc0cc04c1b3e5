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
use rand::{Rng, rngs::StdRng};
use store::{api::kv, node::Node};
use tonic::Status;

use super::wire::{Book, key_bytes, value_bytes};
use crate::history::{
    Client as ClientId, Fate, Member, NEVER_NS, Operation, Outcome, Request,
    request::{Compare, Delete, End, Put, Range, Relation, Span, Txn, Wanted},
};

/// Keys that clients share.
const KEYS: u64 = 12;

type Call = Pin<Box<dyn Future<Output = Result<Bytes, Status>>>>;

/// Whether somebody called.
#[derive(Default)]
struct Called(AtomicBool);

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
}

/// Numbers that are given out once in a run.
#[derive(Default)]
pub struct Numbers {
    pub clients: u32,
    pub values: u64,
}

impl Client {
    pub fn new(random: StdRng, numbers: &mut Numbers) -> Client {
        Client { id: next_id(numbers), random, called: Arc::default(), pending: None, serial: 0, seen: 1 }
    }

    pub fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    pub fn is_idle(&self) -> bool {
        self.pending.is_none()
    }

    pub fn waits_for(&self, member: usize) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.member == member)
    }

    /// Asks a member something.
    pub fn ask(
        &mut self,
        (member, name): (usize, Member),
        node: &Arc<Node>,
        now_ns: u64,
        book: &mut Book,
        numbers: &mut Numbers,
    ) {
        let request = self.choose(book, numbers);
        self.ask_this((member, name), node, now_ns, book, request);
    }

    pub fn ask_this(
        &mut self,
        (member, name): (usize, Member),
        node: &Arc<Node>,
        now_ns: u64,
        book: &Book,
        request: Request,
    ) {
        let asked = node.clone();
        let node = node.clone();
        let call: Call = match &request {
            Request::Put(put) => {
                let put = book.put(put);
                Box::pin(async move { kv::put(&node, put).await })
            }
            Request::Delete(delete) => {
                let delete = book.delete(delete);
                Box::pin(async move { kv::delete_range(&node, delete).await })
            }
            Request::Range(range) => {
                let range = book.range(range);
                Box::pin(async move { kv::range(&node, range).await })
            }
            Request::Txn(txn) => {
                let txn = book.txn(txn);
                Box::pin(async move { kv::txn(&node, txn).await })
            }
            Request::Compact { revision } => {
                let request = proto::etcdserverpb::CompactionRequest { revision: *revision, physical: false };
                Box::pin(async move { kv::compact(&node, request).await })
            }
            other => unreachable!("{other:?} is not asked yet"),
        };
        self.serial += 1;
        self.called.0.store(true, Ordering::Relaxed);
        self.pending =
            Some(Pending { call, member, name, called_ns: now_ns, request, proposal: None, node: asked });
    }

    /// Goes on if it was called; true once it has its answer.
    pub fn poll(
        &mut self,
        now_ns: u64,
        book: &mut Book,
        numbers: &mut Numbers,
        number: impl Fn(u64) -> Member,
    ) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        if !self.called.0.swap(false, Ordering::Relaxed) {
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
        let outcome = book.outcome(&pending.request, answer, number);
        if let Outcome::Ok(answer) = &outcome {
            self.seen = self.seen.max(answer.revision);
        }
        self.end(now_ns, outcome, book, numbers);
        true
    }

    /// Nobody will answer any more.
    pub fn give_up(&mut self, now_ns: u64, book: &mut Book, numbers: &mut Numbers) {
        self.end(now_ns, Outcome::Unknown(Fate::Open), book, numbers);
    }

    fn end(&mut self, now_ns: u64, outcome: Outcome, book: &mut Book, numbers: &mut Numbers) {
        let Some(pending) = self.pending.take() else { return };
        let unknown = matches!(outcome, Outcome::Unknown(_));
        book.proposals.push(pending.proposal);
        book.recorder.operation(Operation {
            client: self.id,
            member: pending.name,
            called_ns: pending.called_ns,
            returned_ns: if unknown { NEVER_NS } else { now_ns },
            request: pending.request,
            outcome,
        });
        if unknown {
            self.id = next_id(numbers);
        }
    }

    fn choose(&mut self, book: &mut Book, numbers: &mut Numbers) -> Request {
        let random = &mut self.random;
        let key = book.key(&key_bytes(random.random_range(0..KEYS)));
        let single = Span::key(key);
        let wide = {
            let end = book.key(&key_bytes(random.random_range(0..=KEYS)));
            let end = if random.random_bool(0.3) { End::Open } else { End::Before(end) };
            Span { start: key, end }
        };
        let mut put = || {
            numbers.values += 1;
            let value = book.value(&value_bytes(numbers.values));
            Put { prev_kv: random.random_bool(0.3), ..Put::plain(key, value) }
        };
        let put = put();
        let seen = self.seen;
        match random.random_range(0..100) {
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
                let read = Request::Range(Range::newest(wide));
                let change = if random.random_bool(0.3) {
                    Request::Delete(Delete { span: single, prev_kv: true })
                } else {
                    Request::Put(put)
                };
                let success = vec![change, read.clone()];
                Request::Txn(Box::new(Txn { compares, success, failure: vec![read] }))
            }
            _ => Request::Compact { revision: (seen - random.random_range(0..50)).max(1) },
        }
    }
}

fn next_id(numbers: &mut Numbers) -> ClientId {
    numbers.clients += 1;
    ClientId(numbers.clients - 1)
}
