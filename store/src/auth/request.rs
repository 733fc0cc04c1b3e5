//! What a request touches, asked of the rules: all of it must be permitted, also what may not be carried out.
//!
//! Both branches of a transaction count, with all that is nested in them, and each put in it needs what it would need
//! alone. Differs from etcd 3.5.1, which overlooked nested transactions, previous values and leases of puts there.

use std::collections::BTreeSet;

use bytes::Bytes;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op::Request};

use super::{Access, Auth, AuthError, Identity};
use crate::mutant::{self, Mutant};

/// The keys attached to a lease, none if there is no such lease.
pub type LeaseKeys<'a> = &'a dyn Fn(i64) -> Vec<Bytes>;

/// Who asks for something, beside the rules.
pub struct Asking<'a> {
    pub who: Option<&'a Identity>,
    pub lease_keys: LeaseKeys<'a>,
    /// Role root may use any lease, also as of an old revision. etcd up to 3.5.8 refuses that.
    pub root_at_once: bool,
}

impl Auth {
    pub fn check_put(&self, asking: &Asking<'_>, put: &PutRequest) -> Result<(), AuthError> {
        self.check_key(asking, put)?;
        self.check_lease(asking, put.lease)
    }

    fn check_key(&self, asking: &Asking<'_>, put: &PutRequest) -> Result<(), AuthError> {
        self.check(asking.who, Access::Write, &put.key, &[])?;
        if put.prev_kv { self.check(asking.who, Access::Read, &put.key, &[]) } else { Ok(()) }
    }

    pub fn check_delete(&self, asking: &Asking<'_>, delete: &DeleteRangeRequest) -> Result<(), AuthError> {
        self.check(asking.who, Access::Write, &delete.key, &delete.range_end)?;
        match delete.prev_kv {
            true => self.check(asking.who, Access::Read, &delete.key, &delete.range_end),
            false => Ok(()),
        }
    }

    /// Whether all keys of a lease may be written: its end deletes them.
    pub fn check_lease(&self, asking: &Asking<'_>, lease: i64) -> Result<(), AuthError> {
        if !self.is_enabled() || lease == 0 || asking.root_at_once && self.check_root(asking.who).is_ok() {
            return Ok(());
        }
        let keys = (asking.lease_keys)(lease);
        keys.iter().try_for_each(|key| self.check(asking.who, Access::Write, key, &[]))
    }

    pub fn check_txn(&self, asking: &Asking<'_>, txn: &TxnRequest) -> Result<(), AuthError> {
        if !self.is_enabled() {
            return Ok(());
        }
        // Each once, however many keys are put with it: one may have many.
        let mut leases = BTreeSet::new();
        self.check_ops(asking, txn, &mut leases)?;
        leases.into_iter().try_for_each(|lease| self.check_lease(asking, lease))
    }

    fn check_ops(
        &self,
        asking: &Asking<'_>,
        txn: &TxnRequest,
        leases: &mut BTreeSet<i64>,
    ) -> Result<(), AuthError> {
        for compare in &txn.compare {
            self.check(asking.who, Access::Read, &compare.key, &compare.range_end)?;
        }
        txn.success.iter().chain(&txn.failure).try_for_each(|op| self.check_op(asking, op, leases))
    }

    fn check_op(
        &self,
        asking: &Asking<'_>,
        op: &RequestOp,
        leases: &mut BTreeSet<i64>,
    ) -> Result<(), AuthError> {
        match &op.request {
            Some(Request::RequestTxn(_)) if mutant::on(Mutant::S1) => Ok(()),
            Some(Request::RequestPut(put)) if mutant::on(Mutant::S1) => {
                self.check(asking.who, Access::Write, &put.key, &[])
            }
            Some(Request::RequestRange(range)) => {
                self.check(asking.who, Access::Read, &range.key, &range.range_end)
            }
            Some(Request::RequestPut(put)) => {
                leases.insert(put.lease);
                self.check_key(asking, put)
            }
            Some(Request::RequestDeleteRange(delete)) => self.check_delete(asking, delete),
            Some(Request::RequestTxn(txn)) => self.check_ops(asking, txn, leases),
            None => Ok(()),
        }
    }
}
