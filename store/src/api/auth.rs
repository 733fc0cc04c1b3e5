//! Auth: logging in, users, roles.
//!
//! What changes goes through the log and is decided there, as of its entry; what only looks is answered from the
//! published rules, after a read index. Passwords are hashed here, before they could reach the log.
//! Source: etcd `server/etcdserver/v3_server.go`, `api/v3rpc/auth.go`.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use tonic::Status;

use super::{caller::Caller, error, grpc, kv};
use crate::{
    apply::Response,
    auth::{AuthError, Identity, is_valid_range},
    node::{Node, logins::Provider, proposal::Operation},
};

/// How often a login is tried while users and roles keep changing under it.
const LOGIN_TRIES: usize = 16;
/// Longer names are not logged.
const MAX_LOGGED: usize = 128;

/// Puts a change through the log. All are answered by a header alone.
pub async fn change<O: Operation>(node: &Arc<Node>, caller: &Caller, request: O) -> Result<Bytes, Status> {
    let who = caller.identity(node).await?;
    match node.propose_as(who.as_ref(), request).await? {
        Response::AuthChanged { revision } => {
            Ok(grpc::frame(&pb::AuthEnableResponse { header: Some(node.header(revision)) }))
        }
        other => Err(kv::unexpected(&other)),
    }
}

/// Refuses what apply would refuse, before it costs a hash; by rules that are not older than the call.
async fn before_hashing(node: &Arc<Node>, caller: &Caller) -> Result<(), Status> {
    if caller.permit_root(node).await.is_err() {
        node.read_index().await?;
        caller.permit_root(node).await?;
    }
    Ok(())
}

async fn hashed(node: &Arc<Node>, password: String) -> Result<String, Status> {
    Ok(STANDARD.encode(node.logins.hash(&node.runtime, password).await?))
}

/// Names are keys of databases, which a snapshot could not be saved to and stock members would not survive otherwise.
fn check_name(name: &str) -> Result<(), Status> {
    if name.len() > bbolt::MAX_KEY_BYTES { Err(error::request_too_large()) } else { Ok(()) }
}

pub async fn role_add(
    node: &Arc<Node>,
    caller: &Caller,
    request: pb::AuthRoleAddRequest,
) -> Result<Bytes, Status> {
    check_name(&request.name)?;
    change(node, caller, request).await
}

pub async fn user_add(
    node: &Arc<Node>,
    caller: &Caller,
    mut request: pb::AuthUserAddRequest,
) -> Result<Bytes, Status> {
    check_name(&request.name)?;
    // It must not reach the log, not even where it is not wanted.
    let password = std::mem::take(&mut request.password);
    if !request.options.is_some_and(|options| options.no_password) {
        before_hashing(node, caller).await?;
        request.hashed_password = hashed(node, password).await?;
    }
    change(node, caller, request).await
}

pub async fn user_change_password(
    node: &Arc<Node>,
    caller: &Caller,
    mut request: pb::AuthUserChangePasswordRequest,
) -> Result<Bytes, Status> {
    let password = std::mem::take(&mut request.password);
    if !password.is_empty() {
        before_hashing(node, caller).await?;
        request.hashed_password = hashed(node, password).await?;
    }
    change(node, caller, request).await
}

pub async fn role_grant_permission(
    node: &Arc<Node>,
    caller: &Caller,
    request: pb::AuthRoleGrantPermissionRequest,
) -> Result<Bytes, Status> {
    // Among members of before 3.6 apply has to accept it.
    if request.perm.as_ref().is_some_and(|perm| !is_valid_range(&perm.key, &perm.range_end)) {
        before_hashing(node, caller).await?;
        return Err(error::invalid_auth_management());
    }
    change(node, caller, request).await
}

/// Checks the password, and lets every member know the token.
pub async fn authenticate(node: &Arc<Node>, request: pb::AuthenticateRequest) -> Result<Bytes, Status> {
    node.read_index().await?;
    for _ in 0..LOGIN_TRIES {
        let checked = match check_password(node, &request).await {
            Ok(revision) => revision,
            Err(status) => {
                if status.message() == error::auth_failed().message() {
                    let user = if request.name.len() > MAX_LOGGED { "" } else { &request.name };
                    tracing::warn!(user, "invalid authentication was requested");
                }
                return Err(status);
            }
        };
        let simple_token = node.logins.token_prefix(&node.runtime).map_err(Status::from)?;
        let login = pb::InternalAuthenticateRequest {
            name: request.name.clone(),
            simple_token,
            ..Default::default()
        };
        let (revision, token, auth_revision) = match node.propose(login).await? {
            Response::LoggedIn { revision, token, auth_revision } => (revision, token, auth_revision),
            other => return Err(kv::unexpected(&other)),
        };
        // The password may be another by now.
        if node.published.auth.load().revision() != checked {
            continue;
        }
        let token = match token {
            Some(token) => token,
            None => {
                let who = Identity { name: request.name.as_str().into(), revision: auth_revision };
                signed_token(node, who).await?
            }
        };
        return Ok(grpc::frame(&pb::AuthenticateResponse { header: Some(node.header(revision)), token }));
    }
    Err(error::too_many_requests())
}

/// Signing takes about as long as fifty puts.
async fn signed_token(node: &Arc<Node>, who: Identity) -> Result<String, Status> {
    let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let signer = node.clone();
    let sign = move || match signer.logins.provider() {
        Provider::Jwt(jwt) => jwt.sign(&who, unix_seconds, &signer.logins.random),
        Provider::Simple | Provider::Off => Err(AuthError::Failed),
    };
    Ok(node.runtime.work(sign).await.ok_or_else(error::stopped)??)
}

/// The auth revision at which the password was right.
async fn check_password(node: &Arc<Node>, request: &pb::AuthenticateRequest) -> Result<u64, Status> {
    let (stored, revision) = {
        let auth = node.published.auth.load();
        let stored = auth.password_of(&request.name).map_err(Status::from)?;
        (stored.map(<[u8]>::to_vec), auth.revision())
    };
    let password = request.password.clone();
    match node.logins.check(&node.runtime, &request.name, stored, password).await? {
        true => Ok(revision),
        false => Err(error::auth_failed()),
    }
}

fn header(node: &Node) -> Option<pb::ResponseHeader> {
    Some(node.header(node.reader.revision()))
}

pub async fn status(node: &Arc<Node>, _: pb::AuthStatusRequest) -> Result<Bytes, Status> {
    node.read_index().await?;
    let auth = node.published.auth.load();
    let (enabled, auth_revision) = (auth.is_enabled(), auth.revision());
    Ok(grpc::frame(&pb::AuthStatusResponse { header: header(node), enabled, auth_revision }))
}

pub async fn user_get(
    node: &Arc<Node>,
    caller: &Caller,
    request: pb::AuthUserGetRequest,
) -> Result<Bytes, Status> {
    node.read_index().await?;
    let who = caller.identity(node).await?;
    let auth = node.published.auth.load();
    let roles = auth.user_roles(who.as_ref(), &request.name).map_err(Status::from)?.to_vec();
    Ok(grpc::frame(&pb::AuthUserGetResponse { header: header(node), roles }))
}

pub async fn role_get(
    node: &Arc<Node>,
    caller: &Caller,
    request: pb::AuthRoleGetRequest,
) -> Result<Bytes, Status> {
    node.read_index().await?;
    let who = caller.identity(node).await?;
    let auth = node.published.auth.load();
    let perm = auth.role_permissions(who.as_ref(), &request.role).map_err(Status::from)?;
    Ok(grpc::frame(&pb::AuthRoleGetResponse { header: header(node), perm }))
}

pub async fn user_list(
    node: &Arc<Node>,
    caller: &Caller,
    _: pb::AuthUserListRequest,
) -> Result<Bytes, Status> {
    node.read_index().await?;
    caller.permit_root(node).await?;
    let users = node.published.auth.load().user_names().map(str::to_owned).collect();
    Ok(grpc::frame(&pb::AuthUserListResponse { header: header(node), users }))
}

pub async fn role_list(
    node: &Arc<Node>,
    caller: &Caller,
    _: pb::AuthRoleListRequest,
) -> Result<Bytes, Status> {
    node.read_index().await?;
    caller.permit_root(node).await?;
    let roles = node.published.auth.load().role_names().map(str::to_owned).collect();
    Ok(grpc::frame(&pb::AuthRoleListResponse { header: header(node), roles }))
}
