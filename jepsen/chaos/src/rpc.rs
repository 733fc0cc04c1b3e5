//! gRPC to one member, straight on `h2`: what was asked leaves at most once, and what was never sent is told apart.
//!
//! Owns connections, frames and statuses; knows no message. A `Connection` is to one incarnation of a member and is
//! never reopened, so an answer is always from the process that was asked. Nothing is retried. Used by `session`,
//! `stream` and `cluster`, in a runtime of one thread.
//! Source: "gRPC over HTTP2", PROTOCOL-HTTP2.md.
//!
//! | bytes of a frame | what |
//! |---|---|
//! | 0 | 0: not compressed |
//! | 1–4 | length, big-endian |
//! | 5– | message |

use std::{cell::RefCell, future::poll_fn, io, net::SocketAddr, rc::Rc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderValue, Method, Request, Uri, uri::PathAndQuery};
use oracle::history::Member;
use prost::Message;
use tokio::{net::TcpStream, time::timeout};
use tonic::{Code, Status};

pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const DELETE_RANGE: &str = "/etcdserverpb.KV/DeleteRange";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
pub const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub const LEASE_TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
pub const LEASE_LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
pub const MEMBER_LIST: &str = "/etcdserverpb.Cluster/MemberList";
pub const MEMBER_ADD: &str = "/etcdserverpb.Cluster/MemberAdd";
pub const MEMBER_REMOVE: &str = "/etcdserverpb.Cluster/MemberRemove";
pub const MEMBER_PROMOTE: &str = "/etcdserverpb.Cluster/MemberPromote";
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";
pub const MOVE_LEADER: &str = "/etcdserverpb.Maintenance/MoveLeader";
pub const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";
pub const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";
pub const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";
pub const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
pub const AUTH_ENABLE: &str = "/etcdserverpb.Auth/AuthEnable";
pub const AUTH_DISABLE: &str = "/etcdserverpb.Auth/AuthDisable";
pub const USER_ADD: &str = "/etcdserverpb.Auth/UserAdd";
pub const USER_CHANGE_PASSWORD: &str = "/etcdserverpb.Auth/UserChangePassword";
pub const USER_GRANT_ROLE: &str = "/etcdserverpb.Auth/UserGrantRole";
pub const ROLE_ADD: &str = "/etcdserverpb.Auth/RoleAdd";
pub const ROLE_GRANT_PERMISSION: &str = "/etcdserverpb.Auth/RoleGrantPermission";
pub const ROLE_REVOKE_PERMISSION: &str = "/etcdserverpb.Auth/RoleRevokePermission";

const FRAME_HEADER_BYTES: usize = 5;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Why a call has no answer.
#[derive(Debug)]
pub enum Failure {
    /// The request never left: it has no effect.
    NotSent,
    /// The member answered with an error.
    Refused(Status),
    /// The connection ended, the time was over, or the answer makes no sense.
    Lost,
}

/// What shows who calls; nothing while nobody has to.
pub type Token = Option<HeaderValue>;

/// One connection to one process.
pub struct Connection {
    send: SendRequest<Bytes>,
    authority: String,
    /// The incarnation at the other end.
    pub member: Member,
    /// Shown with every call that brings none of its own; shared by all of a run.
    pub token: Rc<RefCell<Token>>,
}

/// A message as a frame.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEADER_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("requests are small"));
    message.encode(&mut frame).expect("there is room");
    frame.freeze()
}

impl Connection {
    /// Connects within `limit`; a stream may be sent `window_bytes` that nobody has taken.
    pub async fn open(
        address: SocketAddr,
        member: Member,
        window_bytes: u32,
        limit: Duration,
    ) -> io::Result<Connection> {
        let opened = timeout(limit, async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let builder = h2::client::Builder::new()
                .initial_window_size(window_bytes)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .enable_push(false)
                .handshake(stream);
            builder.await.map_err(io::Error::other)
        });
        let (send, connection) = opened.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        tokio::task::spawn_local(async move {
            // Every call on it sees the error itself.
            let _ = connection.await;
        });
        Ok(Connection { send, authority: address.to_string(), member, token: Rc::default() })
    }

    fn head(&self, path: &'static str, token: Token) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = self.authority.parse().ok();
        uri.path_and_query = Some(PathAndQuery::from_static(path));
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = Uri::from_parts(uri).expect("all parts are there");
        head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        head.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        if let Some(token) = token {
            head.headers_mut().insert("token", token);
        }
        head
    }

    async fn begin(
        &self,
        path: &'static str,
        token: Token,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        let mut send = self.send.clone().ready().await.map_err(|_| Failure::NotSent)?;
        send.send_request(self.head(path, token), false).map_err(|_| Failure::NotSent)
    }

    /// One request, one answer, as an encoded message.
    pub async fn call(&self, path: &'static str, frame: Bytes, limit: Duration) -> Result<Bytes, Failure> {
        let token = self.token.borrow().clone();
        self.call_as(token, path, frame, limit).await
    }

    /// The same by whoever has this token.
    pub async fn call_as(
        &self,
        token: Token,
        path: &'static str,
        frame: Bytes,
        limit: Duration,
    ) -> Result<Bytes, Failure> {
        let call = async {
            let (response, mut send) = self.begin(path, token).await?;
            send.send_data(frame, true).map_err(|_| Failure::Lost)?;
            let mut inbound = Inbound::new(response);
            let Some(answer) = inbound.next().await? else { return Err(Failure::Lost) };
            match inbound.next().await? {
                None => Ok(answer),
                Some(_) => Err(Failure::Lost),
            }
        };
        timeout(limit, call).await.unwrap_or(Err(Failure::Lost))
    }

    /// The same with messages, for what is no part of the history.
    pub async fn ask<M: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
        limit: Duration,
    ) -> Result<M, Failure> {
        let answer = self.call(path, frame(request), limit).await?;
        M::decode(answer).map_err(|_| Failure::Lost)
    }

    /// A stream in both directions.
    pub async fn stream(&self, path: &'static str) -> Result<Duplex, Failure> {
        let token = self.token.borrow().clone();
        let (response, send) = self.begin(path, token).await?;
        Ok(Duplex { send, inbound: Inbound::new(response) })
    }
}

/// Messages in both directions.
pub struct Duplex {
    send: SendStream<Bytes>,
    inbound: Inbound,
}

impl Duplex {
    /// Queues a frame; false if the stream is over.
    pub fn send(&mut self, frame: Bytes) -> bool {
        self.send.send_data(frame, false).is_ok()
    }

    /// The same, and nothing follows.
    pub fn send_last(&mut self, frame: Bytes) -> bool {
        self.send.send_data(frame, true).is_ok()
    }

    /// The next message; none at the end. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        self.inbound.next().await
    }
}

enum Body {
    Awaited(ResponseFuture),
    Open(RecvStream),
    Ended,
}

/// Messages of one direction, out of frames.
struct Inbound {
    body: Body,
    buffer: BytesMut,
}

impl Inbound {
    fn new(response: ResponseFuture) -> Inbound {
        Inbound { body: Body::Awaited(response), buffer: BytesMut::new() }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match &mut self.body {
                Body::Awaited(response) => {
                    let (head, body) = response.await.map_err(|_| Failure::Lost)?.into_parts();
                    if let Some(status) = Status::from_header_map(&head.headers) {
                        self.body = Body::Ended;
                        return ended(status);
                    }
                    self.body = Body::Open(body);
                }
                Body::Open(body) => match poll_fn(|context| body.poll_data(context)).await {
                    Some(chunk) => {
                        let chunk = chunk.map_err(|_| Failure::Lost)?;
                        body.flow_control().release_capacity(chunk.len()).map_err(|_| Failure::Lost)?;
                        self.buffer.extend_from_slice(&chunk);
                    }
                    None => {
                        let trailers = poll_fn(|context| body.poll_trailers(context)).await;
                        let trailers = trailers.map_err(|_| Failure::Lost)?.ok_or(Failure::Lost)?;
                        self.body = Body::Ended;
                        return ended(Status::from_header_map(&trailers).ok_or(Failure::Lost)?);
                    }
                },
                Body::Ended => return Ok(None),
            }
        }
    }

    /// A message that is there in full.
    fn take(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(header) = self.buffer.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
        let [compressed, length @ ..] = *header;
        if compressed != 0 {
            return Err(Failure::Lost);
        }
        let length = u32::from_be_bytes(length) as usize;
        if self.buffer.len() < FRAME_HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(FRAME_HEADER_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

fn ended(status: Status) -> Result<Option<Bytes>, Failure> {
    if status.code() == Code::Ok { Ok(None) } else { Err(Failure::Refused(status)) }
}

#[cfg(test)]
#[path = "rpc_test.rs"]
mod tests;
