//! Authentication and authorization at apply: entries about users and roles, and whether others were permitted.
//!
//! A request is checked with the rules as of its entry, not as of when it was proposed; every member comes to the same
//! answer. Alarms come first, as in etcd, and never instead.
//! Source: etcd `server/etcdserver/apply/apply_auth.go`.

use proto::etcdserverpb as pb;

use super::{Applier, ApplyError, Response};
use crate::auth::{
    Auth, AuthError, Identity,
    change::{Change, Changed, Circumstances},
    request::Asking,
};

/// Who proposed an entry; `None` if it was nobody in particular.
pub(super) fn proposer(header: Option<&pb::RequestHeader>) -> Option<Identity> {
    let header = header.filter(|header| !header.username.is_empty() || header.auth_revision != 0)?;
    Some(Identity { name: header.username.as_str().into(), revision: header.auth_revision })
}

impl Applier {
    pub(super) fn auth_change(
        &mut self,
        change: Change,
        who: Option<&Identity>,
    ) -> Result<Response, ApplyError> {
        if change.needs_root() {
            self.auth.check_root(who)?;
        }
        let at = Circumstances {
            index: self.consistent_index(),
            bcrypt_cost: self.settings.bcrypt_cost,
            refuses_empty_ranges: self.membership.all_are_new(),
        };
        let before = (self.auth.is_enabled(), self.auth.revision());
        let changed = self.auth.apply(change, &at, self.store.batch())?;
        self.auth_changed |= before != (self.auth.is_enabled(), self.auth.revision());
        let response = match &changed {
            Changed::LoggedIn { token, .. } => Response::LoggedIn {
                revision: self.store.revision(),
                token: token.clone(),
                auth_revision: self.auth.revision(),
            },
            _ => Response::AuthChanged { revision: self.store.revision() },
        };
        if changed != Changed::Rules {
            self.logins.push(changed);
        }
        Ok(response)
    }

    pub(super) fn permit(
        &self,
        who: Option<&Identity>,
        check: impl FnOnce(&Auth, &Asking<'_>) -> Result<(), AuthError>,
    ) -> Result<(), ApplyError> {
        if !self.auth.is_enabled() {
            return Ok(());
        }
        let lease_keys = |id| self.lessor.keys(id).unwrap_or_default();
        let asking = Asking { who, lease_keys: &lease_keys, root_at_once: self.membership.all_are_new() };
        Ok(check(&self.auth, &asking)?)
    }

    /// Whether the rules have changed since the last call.
    pub fn take_auth_changed(&mut self) -> bool {
        std::mem::take(&mut self.auth_changed)
    }

    /// What has become of tokens since the last call, in order.
    pub fn take_logins(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.logins)
    }
}
