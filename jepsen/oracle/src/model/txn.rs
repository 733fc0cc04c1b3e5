//! Transactions: all branches are chosen first, then the operations on them are checked, then they are carried out.

use super::State;
use crate::history::{
    Refusal, Request, Response, Revision, Value,
    request::{Compare, Kv, Relation, Txn, TxnResponse, Wanted},
    watch::Event,
};

/// A transaction with its branch chosen, by the state before the outermost one.
struct Chosen<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Op(&'a Request),
    Nested(Chosen<'a>),
}

impl State {
    pub(super) fn txn(
        &mut self,
        txn: &Txn,
        observed: Option<&Response>,
        main: Revision,
        events: &mut Vec<Event>,
    ) -> Result<Response, Refusal> {
        let chosen = self.choose(txn);
        self.check(&chosen, &|state, op| match op {
            Request::Put(put) => state.check_put(put),
            _ => Ok(()),
        })?;
        // Only here etcd takes a revision below zero at its word.
        self.check(&chosen, &|state, op| match op {
            Request::Range(range) => state.check_revision(range.revision),
            _ => Ok(()),
        })?;
        let untouched = events.len();
        Ok(Response::Txn(Box::new(self.carry_out(&chosen, observed, main, untouched, events))))
    }

    fn choose<'a>(&self, txn: &'a Txn) -> Chosen<'a> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let steps = branch.iter().map(|op| match op {
            Request::Txn(nested) => Step::Nested(self.choose(nested)),
            op => Step::Op(op),
        });
        Chosen { succeeded, steps: steps.collect() }
    }

    fn check(
        &self,
        chosen: &Chosen,
        check_op: &dyn Fn(&State, &Request) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        chosen.steps.iter().try_for_each(|step| match step {
            Step::Op(op) => check_op(self, op),
            Step::Nested(nested) => self.check(nested, check_op),
        })
    }

    /// `untouched`: while there are only so many events, the transaction has changed nothing.
    fn carry_out(
        &mut self,
        chosen: &Chosen,
        observed: Option<&Response>,
        main: Revision,
        untouched: usize,
        events: &mut Vec<Event>,
    ) -> TxnResponse {
        let seen = |at: usize| match observed {
            Some(Response::Txn(seen)) => seen.answers.get(at).map(|(_, answer)| answer),
            _ => None,
        };
        let mut answers = Vec::with_capacity(chosen.steps.len());
        for (at, step) in chosen.steps.iter().enumerate() {
            let now = |events: &Vec<Event>| if events.len() > untouched { main } else { main - 1 };
            answers.push(match step {
                Step::Op(Request::Put(put)) => (main, self.put(put, main, events)),
                Step::Op(Request::Delete(delete)) => {
                    let response = self.delete(delete, main, events);
                    (now(events), response)
                }
                Step::Op(Request::Range(range)) => {
                    let seen = if let Some(Response::Range(seen)) = seen(at) { Some(seen) } else { None };
                    (now(events), Response::Range(self.range(range, now(events), seen)))
                }
                Step::Op(other) => unreachable!("not an operation of a transaction: {other:?}"),
                Step::Nested(nested) => {
                    let response = self.carry_out(nested, seen(at), main, untouched, events);
                    (0, Response::Txn(Box::new(response)))
                }
            });
        }
        TxnResponse { succeeded: chosen.succeeded, answers }
    }

    /// Whether every key of the range is as wanted. A missing key has no value at all, and zeros for numbers.
    fn holds(&self, compare: &Compare) -> bool {
        let mut any = false;
        let all = self.live(&compare.span, Revision::MAX).all(|kv| {
            any = true;
            satisfies(compare, kv)
        });
        let missing = Kv {
            key: compare.span.start,
            value: Value::EMPTY,
            create_revision: 0,
            mod_revision: 0,
            version: 0,
            lease: 0,
        };
        match (any, compare.wanted) {
            (true, _) => all,
            (false, Wanted::Value(_)) => false,
            (false, _) => satisfies(compare, &missing),
        }
    }
}

fn satisfies(compare: &Compare, kv: &Kv) -> bool {
    let order = match compare.wanted {
        Wanted::Version(wanted) => kv.version.cmp(&wanted),
        Wanted::Create(wanted) => kv.create_revision.cmp(&wanted),
        Wanted::Mod(wanted) => kv.mod_revision.cmp(&wanted),
        Wanted::Lease(wanted) => kv.lease.cmp(&wanted),
        Wanted::Value(wanted) => kv.value.cmp(&wanted),
    };
    match compare.relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
    }
}
