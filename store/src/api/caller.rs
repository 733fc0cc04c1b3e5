//! Who calls, and whether they may: the one check that every method passes.
//!
//! `rule` has no wildcard: a method without a rule does not compile. What a rule cannot decide by itself its handler
//! does with the `Caller` it is given: reads here, with the rules as published; writes at apply, with those of their entry.
//! While authentication is off, a call pays for one look at the published rules.
//! Source: etcd `server/auth/store.go` (`AuthInfoFromCtx`), `server/etcdserver/v3_server.go`.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use tonic::Status;

use super::router::Method;
use crate::{
    auth::{Auth, AuthError, Identity},
    node::{Node, RequestError},
};

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

/// What a call brought to show who calls.
#[derive(Debug)]
struct Credentials {
    token: Option<HeaderValue>,
    /// Of the client's certificate.
    common_name: Option<Arc<str>>,
}

/// Who calls, as far as the call tells.
#[derive(Clone, Debug, Default)]
pub struct Caller(Option<Arc<Credentials>>);

/// A read that was permitted by the rules of this auth revision; 0 while authentication is off.
#[must_use]
pub struct Permit(u64);

/// The header of calls that the JSON gateway makes for others, with a certificate of its own.
const GATEWAY: &str = "grpcgateway-accept";

impl Caller {
    /// Looks at what the call brought: its headers, and the common name of its connection's certificate. A stream may
    /// outlive the time in which nobody asked for it.
    pub fn of(node: &Node, common_name: Option<&Arc<str>>, method: Method, headers: &HeaderMap) -> Caller {
        let is_stream = matches!(method, Method::Watch | Method::LeaseKeepAlive);
        if !is_stream && !node.published.auth.load().is_enabled() {
            return Caller::default();
        }
        let token = headers.get("token").or_else(|| headers.get(AUTHORIZATION)).cloned();
        let common_name = match token {
            None if !headers.contains_key(GATEWAY) => common_name.cloned(),
            _ => None,
        };
        if token.is_none() && common_name.is_none() {
            return Caller::default();
        }
        Caller(Some(Arc::new(Credentials { token, common_name })))
    }

    /// Who it is; `None` if nobody says, or nobody asks. A token that is not valid is refused.
    pub async fn identity(&self, node: &Node) -> Result<Option<Identity>, RequestError> {
        let revision = {
            let auth = node.published.auth.load();
            if !auth.is_enabled() {
                return Ok(None);
            }
            auth.revision()
        };
        let Some(credentials) = &self.0 else { return Ok(None) };
        let Some(token) = &credentials.token else {
            let named = credentials.common_name.as_ref().filter(|name| !name.is_empty());
            return Ok(named.map(|name| Identity { name: name.clone(), revision }));
        };
        let token = token.to_str().map_err(|_| AuthError::InvalidToken)?;
        let token = token.strip_prefix("Bearer ").unwrap_or(token);
        let unix_seconds = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        node.token_holder(token, unix_seconds).await.map(Some)
    }

    /// Checks with the rules of now. The permit tells later whether they still are.
    pub async fn permit(
        &self,
        node: &Node,
        check: impl FnOnce(&Auth, Option<&Identity>) -> Result<(), AuthError>,
    ) -> Result<Permit, RequestError> {
        if !node.published.auth.load().is_enabled() {
            return Ok(Permit(0));
        }
        let who = self.identity(node).await?;
        check(&node.published.auth.load(), who.as_ref())?;
        Ok(Permit(who.map_or(0, |who| who.revision)))
    }

    pub async fn permit_root(&self, node: &Node) -> Result<(), RequestError> {
        self.permit(node, |auth, who| auth.check_root(who)).await.map(drop)
    }

    pub async fn permit_user(&self, node: &Node) -> Result<(), RequestError> {
        self.permit(node, |auth, who| auth.check_user(who)).await.map(drop)
    }
}

impl Permit {
    /// Whether what was read meanwhile may be told.
    pub fn holds(&self, node: &Node) -> Result<(), AuthError> {
        match self.0 == 0 || node.published.auth.load().revision() == self.0 {
            true => Ok(()),
            false => Err(AuthError::OldRevision),
        }
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
