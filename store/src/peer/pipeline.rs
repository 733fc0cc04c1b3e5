//! Messages as single POSTs, for as long as a peer has not attached a stream: four kept connections that take
//! from one queue. Source: etcd `server/etcdserver/api/rafthttp/pipeline.go`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use prost::Message as _;
use proto::raftpb::MessageType;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use crate::peer::client::{Channel, Error};
use crate::peer::transport::{Peer, Queued, Shared, request_timeout};

/// Longest answer we read.
const ANSWER_LIMIT: usize = 4096;

/// One of a peer's pipeline connections.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, queue: Arc<Mutex<mpsc::Receiver<Queued>>>) {
    let mut channel = Channel::new(shared.dialer.clone());
    loop {
        let Some(queued) = queue.lock().await.recv().await else { return };
        post(&shared, &peer, &mut channel, queued).await;
    }
}

async fn post(shared: &Shared, peer: &Peer, channel: &mut Channel, queued: Queued) {
    let body = Bytes::from(queued.message.encode_to_vec());
    let size = body.len();
    let mut headers = shared.identity.request_headers();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
    let url = peer.picker.pick();
    let call = channel.call(&url, Method::POST, "/raft", headers, body, ANSWER_LIMIT);
    let answer =
        timeout(request_timeout(shared.config.read_timeout, size), call).await.unwrap_or(Err(Error::Timeout));
    let failure = match answer {
        Ok((StatusCode::NO_CONTENT, _)) => {
            peer.status.activate();
            peer.stats.sent_bytes.fetch_add(size as u64, Relaxed);
            if queued.message.r#type == MessageType::MsgSnap as i32 {
                shared.handler.report_snapshot(peer.id, true);
            }
            return;
        }
        Ok((StatusCode::FORBIDDEN, _)) => {
            shared.report_removed();
            "the member has been permanently removed from the cluster".to_owned()
        }
        Ok((status, text)) => format!("{status}: {}", String::from_utf8_lossy(&text).trim()),
        Err(error) => error.to_string(),
    };
    peer.picker.failed(&url);
    peer.status.deactivate(&failure);
    peer.lost(shared, &queued.message);
}
