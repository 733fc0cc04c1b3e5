//! What peers reach on the peer listener: raft messages and snapshots for the node, and the small services that members
//! do for each other.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use prost::Message;
use proto::{etcdserverpb as pb, leasepb, raftpb};
use tokio::io::AsyncWriteExt;

use super::{
    Node, RequestError, apply_loop::received_path, caller::Caller, mailbox::Sender, raft_loop, reconfigure,
    snapshot,
};
use crate::{
    apply::ApplyError,
    auth::AuthError,
    config,
    lease::TimeToLive,
    membership::{ChangeError, Member, v2},
    peer::{self, Body, BoxError, BoxFuture, snapshot::SnapshotStream},
    raft::driver::Event,
};

/// Inputs that may wait for the raft thread before peers are slowed down, and how often they look again.
const MAX_WAITING_MESSAGES: usize = 4096;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);
/// Bodies of requests between members.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Names the cluster, in a question the one that is meant.
pub(super) const CLUSTER_ID: &str = "x-etcd-cluster-id";
pub(super) const HASH_KV: &str = "/members/hashkv";
const PROMOTE: &str = "/members/promote/";

pub struct PeerHandler {
    pub raft: Sender<raft_loop::Input>,
    pub snap_dir: std::path::PathBuf,
    pub published: Arc<super::apply_loop::Published>,
    /// Snapshots received or begun.
    pub transfers: AtomicU64,
    /// Set once the node is built: it owns the transport, which owns this.
    pub node: OnceLock<Weak<Node>>,
}

impl PeerHandler {
    fn event(&self, event: Event) {
        let _ = self.raft.send(raft_loop::Input::Event(event));
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.get().and_then(Weak::upgrade)
    }

    async fn save(&self, index: u64, mut database: SnapshotStream) -> Result<(), BoxError> {
        let path = received_path(&self.snap_dir, index);
        // Two transfers may overlap.
        let transfer = self.transfers.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("db.tmp{transfer}"));
        let mut file = tokio::fs::File::create(&temporary).await?;
        let received = async {
            while let Some(chunk) = database.next().await? {
                file.write_all(&chunk).await?;
            }
            file.flush().await?;
            file.sync_data().await?;
            let check = temporary.clone();
            let whole = tokio::task::spawn_blocking(move || snapshot::verify(&std::fs::File::open(check)?));
            whole.await??;
            tokio::fs::rename(&temporary, &path).await?;
            tokio::fs::File::open(&self.snap_dir).await?.sync_all().await?;
            Ok::<(), BoxError>(())
        };
        let outcome = received.await;
        if outcome.is_err() {
            let _ = tokio::fs::remove_file(&temporary).await;
        }
        outcome
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(node) = self.node() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "etcdserver: server stopped")
                .map(peer::client::full);
        };
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let headers = request.headers().clone();
        if method == Method::GET && path == HASH_KV && is_for_another(&headers, node.cluster_id) {
            return text(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch").map(peer::client::full);
        }
        let body = match Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return text(StatusCode::BAD_REQUEST, "error reading body").map(peer::client::full),
        };
        serve(&node, &method, &path, &headers, body).await.map(peer::client::full)
    }
}

/// What members do for each other besides raft.
pub async fn serve(
    node: &Node,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Response<Bytes> {
    if let (&Method::POST, Some(id)) = (method, path.strip_prefix(PROMOTE)) {
        return identified(node, promote(node, id, headers).await);
    }
    match (method, path) {
        (&Method::GET, "/members") => {
            let membership = node.published.membership.load();
            identified(node, members_json(membership.members()))
        }
        (&Method::GET, "/version") => typed(StatusCode::OK, "application/json", version_json(node)),
        (&Method::GET, "/downgrade/enabled") => identified(node, downgrade_enabled(node).await),
        (&Method::POST, "/leases") => renew(node, body).await,
        (&Method::POST, "/leases/internal") => time_to_live(node, body).await,
        (&Method::GET, HASH_KV) => hash_kv(node, &body).await,
        _ => unserved(path),
    }
}

/// The answer where the method is a wrong one, or the path is.
fn unserved(path: &str) -> Response<Bytes> {
    let allowed = match path {
        "/members" | "/version" | "/downgrade/enabled" | HASH_KV => "GET",
        "/leases" | "/leases/internal" => "POST",
        _ if path.starts_with(PROMOTE) => "POST",
        _ => return text(StatusCode::NOT_FOUND, "404 page not found"),
    };
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Whether a request names a cluster, and not this one.
fn is_for_another(headers: &HeaderMap, cluster_id: u64) -> bool {
    headers.get(CLUSTER_ID).is_some_and(|id| !id.is_empty() && *id != format!("{cluster_id:x}"))
}

async fn downgrade_enabled(node: &Node) -> Response<Bytes> {
    match node.read_index().await {
        Ok(()) => {
            let enabled = node.published.membership.load().downgrade().is_some();
            typed(StatusCode::OK, "text/plain", enabled.to_string())
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "etcdserver: request timed out"),
    }
}

fn members_json<'a>(members: impl Iterator<Item = &'a Member>) -> Response<Bytes> {
    let members: Vec<_> = members.collect();
    let json = serde_json::to_string(&members).expect("plain data") + "\n";
    typed(StatusCode::OK, "application/json", json)
}

/// Names the cluster: whoever asks may have come to the wrong one.
fn identified(node: &Node, mut response: Response<Bytes>) -> Response<Bytes> {
    let id = format!("{:x}", node.cluster_id).parse().expect("hex is a header value");
    response.headers_mut().insert(CLUSTER_ID, id);
    response
}

/// Asked by another member for a client, whose token it passes on; a certificate here is the member's own. To stock
/// members the statuses 401 and 403 are like any but 404 and 412: they ask until their client gives up.
async fn promote(node: &Node, id: &str, headers: &HeaderMap) -> Response<Bytes> {
    use reconfigure::{NOT_FOUND_TEXT, NOT_LEARNER_TEXT, NOT_READY_TEXT};
    let Ok(number) = id.parse() else {
        return text(StatusCode::NOT_FOUND, &format!("member {id} not found in cluster"));
    };
    let change_error = |error| Err(RequestError::Apply(ApplyError::Membership(error)));
    let promoted = async {
        Caller::of(None, headers).permit_root(node).await?;
        node.member_promote_here(number).await
    };
    match promoted.await {
        Ok(_) => members_json(node.published.membership.load().members()),
        refused if refused == change_error(ChangeError::IdNotFound) => {
            text(StatusCode::NOT_FOUND, NOT_FOUND_TEXT)
        }
        refused if refused == change_error(ChangeError::NotLearner) => {
            text(StatusCode::PRECONDITION_FAILED, NOT_LEARNER_TEXT)
        }
        Err(RequestError::Apply(ApplyError::Auth(AuthError::InvalidToken))) => {
            text(StatusCode::UNAUTHORIZED, "auth: invalid auth token")
        }
        Err(RequestError::Apply(ApplyError::Auth(_))) => {
            text(StatusCode::FORBIDDEN, "auth: permission denied")
        }
        Err(RequestError::LearnerNotReady) => text(StatusCode::PRECONDITION_FAILED, NOT_READY_TEXT),
        Err(RequestError::Timeout) => text(StatusCode::REQUEST_TIMEOUT, "etcdserver: request timed out"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
    }
}

pub fn version_json(node: &Node) -> String {
    let membership = node.published.membership.load();
    let cluster = membership.version().unwrap_or("not_decided");
    format!(r#"{{"etcdserver":"{}","etcdcluster":"{cluster}","storage":"{cluster}"}}"#, config::VERSION)
}

async fn renew(node: &Node, body: Bytes) -> Response<Bytes> {
    let Ok(request) = pb::LeaseKeepAliveRequest::decode(body) else {
        return text(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    if !node.status.is_leader() {
        return text(StatusCode::BAD_REQUEST, "lease: not primary");
    }
    match node.lease_renew(request.id).await {
        Ok(0) => text(StatusCode::NOT_FOUND, "lease not found"),
        Ok(ttl) => {
            let header = Some(node.header(node.reader.revision()));
            proto_body(&pb::LeaseKeepAliveResponse { header, id: request.id, ttl })
        }
        Err(_) => text(StatusCode::REQUEST_TIMEOUT, "lease: request timed out"),
    }
}

async fn time_to_live(node: &Node, body: Bytes) -> Response<Bytes> {
    let request =
        leasepb::LeaseInternalRequest::decode(body).ok().and_then(|it| it.lease_time_to_live_request);
    let Some(request) = request else { return text(StatusCode::BAD_REQUEST, "error unmarshalling request") };
    // The asking member has waited for its own state only; this one may be behind, or deposed.
    let found = async {
        node.read_index().await?;
        node.local_time_to_live(request.id, request.keys).await
    };
    match found.await {
        Ok((TimeToLive::Left { remaining, granted }, keys)) => {
            let response = pb::LeaseTimeToLiveResponse {
                header: Some(node.header(node.reader.revision())),
                id: request.id,
                ttl: remaining,
                granted_ttl: granted,
                keys,
            };
            proto_body(&leasepb::LeaseInternalResponse { lease_time_to_live_response: Some(response) })
        }
        Ok((TimeToLive::NotFound, _)) => text(StatusCode::NOT_FOUND, "lease not found"),
        Ok((TimeToLive::NotLeader, _)) => text(StatusCode::BAD_REQUEST, "lease: not primary"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "etcdserver: server stopped"),
    }
}

async fn hash_kv(node: &Node, body: &[u8]) -> Response<Bytes> {
    #[derive(serde::Deserialize)]
    struct Wanted {
        #[serde(default)]
        revision: i64,
    }
    let Ok(wanted) = serde_json::from_slice::<Wanted>(body) else {
        return text(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    match node.hash_kv(wanted.revision).await {
        Ok((hash, compact_revision, revision, hash_revision)) => {
            let json = format!(
                r#"{{"header":{{"revision":{revision}}},"hash":{hash},"compact_revision":{compact_revision},"hash_revision":{hash_revision}}}"#
            );
            identified(node, typed(StatusCode::OK, "application/json", json))
        }
        Err(RequestError::Apply(ApplyError::Mvcc(error))) => {
            text(StatusCode::BAD_REQUEST, &error.to_string())
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "etcdserver: server stopped"),
    }
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let response = Response::builder().status(status).header("content-type", content_type).body(body.into());
    response.expect("constant headers are valid")
}

/// A refusal as Go's `http.Error` writes it.
fn text(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = typed(status, "text/plain; charset=utf-8", format!("{text}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn proto_body(message: &impl Message) -> Response<Bytes> {
    typed(StatusCode::OK, "application/protobuf", message.encode_to_vec())
}

impl peer::Handler for PeerHandler {
    fn process(&self, message: raftpb::Message) -> BoxFuture<'_, Result<(), BoxError>> {
        // A snapshot without its data can only be one that holds nothing.
        if message.r#type != raftpb::MessageType::MsgSnap as i32 {
            self.event(Event::Message(Box::new(message)));
        }
        if self.raft.waiting() < MAX_WAITING_MESSAGES {
            return Box::pin(std::future::ready(Ok(())));
        }
        // The peer's stream is read on when this ends: a busy member slows its peers down.
        Box::pin(async {
            while self.raft.waiting() >= MAX_WAITING_MESSAGES {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            Ok(())
        })
    }

    fn is_id_removed(&self, id: u64) -> bool {
        self.published.membership.load().is_removed(id)
    }

    fn report_unreachable(&self, id: u64) {
        self.event(Event::Unreachable { peer: id });
    }

    fn report_snapshot(&self, id: u64, ok: bool) {
        self.event(Event::SnapshotStatus { peer: id, ok });
    }

    fn removed(&self) {
        if let Some(node) = self.node() {
            node.fatal.set_removed();
        }
    }

    fn receive_snapshot(
        &self,
        message: raftpb::Message,
        database: SnapshotStream,
    ) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            // Whoever took it over could lead, and send those that have the data a state without them.
            let v2_store = message.snapshot.data.as_deref().unwrap_or_default();
            // What cannot be read may hold anything.
            if v2::holds_more_than_members(v2_store).unwrap_or(true) {
                tracing::error!(
                    from = format!("{:x}", message.from),
                    "refused a snapshot: {}",
                    v2::ILLEGAL_CONTENT
                );
                return Err(v2::ILLEGAL_CONTENT.into());
            }
            self.save(message.snapshot.metadata.index, database).await?;
            self.event(Event::Message(Box::new(message)));
            Ok(())
        })
    }

    fn http(&self, request: Request<Incoming>) -> BoxFuture<'_, Response<Body>> {
        Box::pin(self.answer(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_may_name_its_cluster() {
        let asked = |id: Option<&'static str>| {
            let id = id.map(|id| (CLUSTER_ID.parse().unwrap(), HeaderValue::from_static(id)));
            is_for_another(&id.into_iter().collect(), 0xcdf8)
        };
        assert_eq!([None, Some(""), Some("cdf8"), Some("77")].map(asked), [false, false, false, true]);
    }
}
