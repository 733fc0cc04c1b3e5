//! Whether a caller may: the one check that every method passes.
//!
//! `rule` has no wildcard: a method without a rule does not compile. What a rule cannot decide by itself its handler
//! does with the `Caller` it is given. While authentication is off, a call pays for one look at the published rules.

use std::sync::Arc;

use http::HeaderMap;
use tonic::Status;

use super::router::Method;
use crate::node::Node;
pub use crate::node::caller::{Caller, Permit};

/// Who may call a method while authentication is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anybody, known or not.
    Open,
    /// Every user.
    User,
    /// Holders of role root.
    Root,
    /// Users, by the keys that a request names: decided by its handler, at apply if it goes through the log.
    Keys,
    /// Every user, and by the keys attached to leases: those are decided by its handler or at apply.
    Leases,
    /// Decided by its handler, as it depends on what is asked.
    Asked,
    /// Holders of role root, decided at apply.
    Managed,
}

pub fn rule(method: Method) -> Rule {
    match method {
        Method::Range | Method::RangeStream | Method::Watch => Rule::Keys,
        Method::Put | Method::DeleteRange | Method::Txn => Rule::Keys,
        Method::Compact => Rule::Root,
        Method::LeaseGrant => Rule::User,
        Method::LeaseRevoke | Method::LeaseKeepAlive | Method::LeaseTimeToLive | Method::LeaseLeases => {
            Rule::Leases
        }
        Method::MemberList | Method::Status => Rule::User,
        // Looking is for users, setting for root.
        Method::Alarm => Rule::Asked,
        Method::MemberAdd | Method::MemberRemove | Method::MemberUpdate | Method::MemberPromote => Rule::Root,
        Method::Defragment | Method::Hash | Method::HashKv | Method::Snapshot => Rule::Root,
        Method::MoveLeader | Method::Downgrade => Rule::Root,
        Method::AuthStatus | Method::Authenticate => Rule::Open,
        // Users see themselves and their roles.
        Method::UserGet | Method::RoleGet => Rule::Asked,
        Method::UserList | Method::RoleList => Rule::Root,
        Method::AuthEnable | Method::AuthDisable => Rule::Managed,
        Method::UserAdd | Method::UserDelete | Method::UserChangePassword => Rule::Managed,
        Method::UserGrantRole | Method::UserRevokeRole => Rule::Managed,
        Method::RoleAdd | Method::RoleDelete => Rule::Managed,
        Method::RoleGrantPermission | Method::RoleRevokePermission => Rule::Managed,
        Method::HealthCheck | Method::HealthWatch => Rule::Open,
    }
}

/// Who makes a call; nobody looks while authentication is off, but a stream may outlive that.
pub fn of(node: &Node, common_name: Option<&Arc<str>>, method: Method, headers: &HeaderMap) -> Caller {
    let is_stream = matches!(method, Method::Watch | Method::LeaseKeepAlive);
    match is_stream || node.published.auth.load().is_enabled() {
        true => Caller::of(common_name, headers),
        false => Caller::default(),
    }
}

/// Applies the rule of a method, as far as it goes without looking at the request.
pub async fn admit(node: &Node, method: Method, caller: &Caller) -> Result<(), Status> {
    let admitted = match rule(method) {
        Rule::Open | Rule::Keys | Rule::Asked | Rule::Managed => return Ok(()),
        Rule::Root => Box::pin(caller.permit_root(node)).await,
        Rule::User | Rule::Leases => Box::pin(caller.permit_user(node)).await,
    };
    Ok(admitted?)
}
