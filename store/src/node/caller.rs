//! Who calls, by the token or the certificate that the call brought, and whether they may.
//!
//! Used for clients' calls (`api`), and for what members ask on their behalf (`handler`). Reads are checked here, with
//! the rules as published; writes at apply, with those of their entry. Source: etcd `server/auth/store.go`
//! (`AuthInfoFromCtx`), `server/etcdserver/v3_server.go`.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use super::{Node, RequestError};
use crate::auth::{Auth, AuthError, Identity};

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
    /// Looks at what the call brought: its headers, and the common name of its connection's certificate.
    pub fn of(common_name: Option<&Arc<str>>, headers: &HeaderMap) -> Caller {
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

    /// What to show another member that is asked on the caller's behalf.
    pub fn token(&self) -> Option<&HeaderValue> {
        self.0.as_ref()?.token.as_ref()
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
            let named = credentials.common_name.clone();
            return Ok(named.map(|name| Identity { name, revision }));
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
