//! The recipe behind etcd's locks and elections: candidates put a key each below a common name, with a lease that
//! they keep alive, and the oldest key holds. Each of the others waits for the one before it to go, so that a key
//! that goes wakes one waiter. Names and keys are those of etcd's `client/v3/concurrency`, whose candidates may queue
//! among ours.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::*;
use proto::mvccpb::event::EventType;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::watch::{Update, Watcher, cancellation};
use super::{Client, Error, KeepAlive, RETRY_PAUSE};
use crate::range::prefix_end;

/// A lease that is kept alive as long as this process and its servers are.
pub struct Session {
    client: Rc<Client>,
    lease: i64,
    ended: oneshot::Receiver<()>,
}

impl Session {
    /// Needs a `LocalSet`, for the task that renews.
    pub async fn start(client: Rc<Client>, ttl_seconds: i64) -> Result<Self, Error> {
        let granted = client.lease_grant(LeaseGrantRequest { ttl: ttl_seconds, id: 0 }).await?;
        let (alive, ended) = oneshot::channel();
        let (renewing, lease) = (Rc::clone(&client), granted.id);
        tokio::task::spawn_local(async move {
            keep_alive(&renewing, lease, granted.ttl).await;
            drop(alive);
        });
        Ok(Self { client, lease, ended })
    }

    /// Returns when the lease is gone, or could not be renewed for as long as it lasts.
    pub async fn ended(&mut self) {
        // The sender is dropped, never used.
        let _ = (&mut self.ended).await;
    }

    /// Joins the candidates for `name` with a new key.
    pub async fn join(&self, name: &[u8], value: Bytes) -> Result<Place, Error> {
        let prefix = prefix_of(name);
        let key = Bytes::from([&prefix[..], format!("{:x}", self.lease).as_bytes()].concat());
        let put = PutRequest { key: key.clone(), value, lease: self.lease, ..Default::default() };
        let read = RangeRequest { key: key.clone(), ..Default::default() };
        let request = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(read)) }],
        };
        let response = self.client.txn(request).await?;
        let own = response.responses.first().and_then(|op| match &op.response {
            Some(response_op::Response::ResponseRange(range)) => range.kvs.first(),
            _ => None,
        });
        // An own key that is there already was put by an attempt whose answer got lost.
        let revision = match (own, &response.header) {
            (Some(kv), _) => kv.create_revision,
            (None, Some(header)) => header.revision,
            (None, None) => 0,
        };
        Ok(Place { client: Rc::clone(&self.client), prefix, key, revision })
    }
}

/// Renews three times in the time the lease lasts.
async fn keep_alive(client: &Client, lease: i64, ttl_seconds: i64) {
    let seconds = |ttl: i64| Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    let mut last = seconds(ttl_seconds);
    let mut deadline = Instant::now() + last;
    let mut stream = None;
    loop {
        sleep(last / 3).await;
        loop {
            match timeout_at(deadline, renew(client, lease, &mut stream)).await {
                Ok(Ok(response)) if response.ttl > 0 => {
                    last = seconds(response.ttl);
                    deadline = Instant::now() + last;
                    break;
                }
                Ok(Err(error)) if error.is_passing() => {
                    stream = None;
                    sleep(RETRY_PAUSE).await;
                }
                _ => return,
            }
        }
    }
}

async fn renew(
    client: &Client,
    lease: i64,
    stream: &mut Option<KeepAlive>,
) -> Result<LeaseKeepAliveResponse, Error> {
    let stream = match stream {
        Some(stream) => stream,
        None => stream.insert(client.keep_alive_stream(lease).await?),
    };
    stream.renew().await
}

/// What all keys of the candidates for `name` begin with.
pub fn prefix_of(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// One candidate's key.
pub struct Place {
    client: Rc<Client>,
    prefix: Bytes,
    pub key: Bytes,
    /// At which it was put: the smallest below the name holds.
    pub revision: i64,
}

impl Place {
    /// Returns when no older key is left: whether there was one.
    pub async fn wait(&self) -> Result<bool, Error> {
        let mut waited = false;
        loop {
            let request = RangeRequest {
                key: self.prefix.clone(),
                range_end: prefix_end(&self.prefix).into(),
                limit: 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                max_create_revision: self.revision - 1,
                ..Default::default()
            };
            let older = self.client.range(request).await?;
            let Some(kv) = older.kvs.into_iter().next() else { return Ok(waited) };
            let seen = older.header.map_or(0, |header| header.revision);
            until_deleted(Rc::clone(&self.client), kv.key, seen).await?;
            waited = true;
        }
    }

    /// The key as it is now; `None` if its lease ran out.
    pub async fn read(&self) -> Result<RangeResponse, Error> {
        self.client.range(RangeRequest { key: self.key.clone(), ..Default::default() }).await
    }

    /// Lets the next candidate pass.
    pub async fn leave(&self) -> Result<(), Error> {
        let delete = DeleteRangeRequest { key: self.key.clone(), ..Default::default() };
        let request = TxnRequest {
            compare: vec![created_at(&self.key, self.revision)],
            success: vec![RequestOp { request: Some(Request::RequestDeleteRange(delete)) }],
            failure: Vec::new(),
        };
        self.client.txn(request).await.map(drop)
    }
}

async fn until_deleted(client: Rc<Client>, key: Bytes, start_revision: i64) -> Result<(), Error> {
    let request = WatchCreateRequest { key, start_revision, ..Default::default() };
    let mut updates = Watcher::start(client).create(request).await;
    loop {
        match updates.recv().await {
            Some(Update::Response(response)) => {
                if response.canceled || response.compact_revision != 0 {
                    return Err(cancellation(&response));
                }
                if response.events.iter().any(|event| event.r#type == EventType::Delete as i32) {
                    return Ok(());
                }
            }
            Some(Update::Failed(error)) => return Err(error),
            None => return Err(Error::closed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_name() {
        assert_eq!(prefix_of(b"a"), "a/");
        assert_eq!(prefix_of(b""), "/");
    }
}
