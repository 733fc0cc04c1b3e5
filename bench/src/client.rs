//! A gRPC client straight on `h2`: requests are encoded once into their frame, answers are counted or kept as
//! bytes. No balancing, retries, deadlines or compression: one `Client` is one connection, its clones share it.
//! It costs a fraction of a full client stack, which matters since it runs on the cores of the server under
//! test. Runs on a single-threaded runtime with local tasks. Plain HTTP/2 only, no TLS.
//! Used by `load`, `server` (readiness) and every workload.
//! Source: "gRPC over HTTP2", PROTOCOL-HTTP2.md.

use crate::wire;
use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use prost::Message;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use tokio::net::TcpStream;

/// So large that flow control never limits what is measured.
const STREAM_WINDOW_BYTES: u32 = 64 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
const MAX_FRAME_BYTES: u32 = 1 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;

#[derive(Clone, Copy)]
pub enum Method {
    Range,
    Put,
    Txn,
    Compact,
    Watch,
    LeaseGrant,
    LeaseKeepAlive,
}

impl Method {
    const ALL: [(Method, &str); 7] = [
        (Method::Range, "/etcdserverpb.KV/Range"),
        (Method::Put, "/etcdserverpb.KV/Put"),
        (Method::Txn, "/etcdserverpb.KV/Txn"),
        (Method::Compact, "/etcdserverpb.KV/Compact"),
        (Method::Watch, "/etcdserverpb.Watch/Watch"),
        (Method::LeaseGrant, "/etcdserverpb.Lease/LeaseGrant"),
        (Method::LeaseKeepAlive, "/etcdserverpb.Lease/LeaseKeepAlive"),
    ];
}

#[derive(Debug)]
pub enum CallError {
    /// The address is not one `http://host:port`.
    Address(String),
    /// The connection failed or was closed.
    Connection(String),
    /// The server answered with this status; code 0 is never here.
    Status { code: u32, message: String },
    /// The answer is not a gRPC answer, or not the one the workload expects.
    Unexpected(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Address(text) => write!(f, "bad endpoint {text:?}: want http://host:port"),
            CallError::Connection(text) => write!(f, "connection: {text}"),
            CallError::Status { code, message } => write!(f, "gRPC status {code}: {message}"),
            CallError::Unexpected(text) => write!(f, "unexpected answer: {text}"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        CallError::Connection(error.to_string())
    }
}

#[derive(Clone)]
pub struct Client {
    send: SendRequest<Bytes>,
    template: Rc<Template>,
}

struct Template {
    /// In the order of `Method::ALL`.
    uris: Vec<Uri>,
    headers: HeaderMap,
}

impl Client {
    /// Opens one connection to `endpoint`, `http://host:port` (the scheme may be missing).
    pub async fn connect(endpoint: &str) -> Result<Self, CallError> {
        let authority = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
        let uris = Method::ALL
            .iter()
            .map(|(_, path)| Uri::builder().scheme("http").authority(authority).path_and_query(*path).build())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CallError::Address(endpoint.to_owned()))?;
        let stream = TcpStream::connect(authority)
            .await
            .map_err(|e| CallError::Connection(format!("{endpoint}: {e}")))?;
        stream.set_nodelay(true).map_err(|e| CallError::Connection(e.to_string()))?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(MAX_FRAME_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .enable_push(false)
            .handshake(stream)
            .await?;
        tokio::task::spawn_local(async move {
            // Every call on this connection sees the error itself.
            let _ = connection.await;
        });
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        Ok(Self { send, template: Rc::new(Template { uris, headers }) })
    }

    /// One unary call; the message of the answer.
    pub async fn call(&mut self, method: Method, request: Bytes) -> Result<Bytes, CallError> {
        let mut body = self.begin(method, request).await?;
        let mut frame = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(chunk) = next_chunk(&mut body).await? {
            if frame.is_empty() && joined.is_empty() {
                frame = chunk;
            } else {
                joined.extend_from_slice(&std::mem::take(&mut frame));
                joined.extend_from_slice(&chunk);
            }
        }
        check_trailers(&mut body).await?;
        if !joined.is_empty() {
            frame = joined.freeze();
        }
        if wire::frame_length(&frame).is_none_or(|length| length != frame.len() - wire::FRAME_HEADER_BYTES) {
            return Err(CallError::Unexpected(format!("a frame of {} bytes", frame.len())));
        }
        frame.advance(wire::FRAME_HEADER_BYTES);
        Ok(frame)
    }

    /// One unary call whose answer is only counted: its bytes, frame header included.
    pub async fn call_discarding(&mut self, method: Method, request: Bytes) -> Result<usize, CallError> {
        let mut body = self.begin(method, request).await?;
        let mut bytes = 0;
        while let Some(chunk) = next_chunk(&mut body).await? {
            bytes += chunk.len();
        }
        check_trailers(&mut body).await?;
        Ok(bytes)
    }

    /// One unary call, decoded: for set-up and checks outside the measured window.
    pub async fn call_decoded<M: Message + Default>(
        &mut self,
        method: Method,
        request: &impl Message,
    ) -> Result<M, CallError> {
        let answer = self.call(method, wire::frame(request)).await?;
        M::decode(answer).map_err(|e| CallError::Unexpected(e.to_string()))
    }

    /// Opens a stream in both directions. The answer's headers are awaited by the first `receive`, since a
    /// server may send them with its first message.
    pub async fn open(&mut self, method: Method) -> Result<Duplex, CallError> {
        let request = self.request(method);
        poll_fn(|cx| self.send.poll_ready(cx)).await?;
        let (response, send) = self.send.send_request(request, false)?;
        Ok(Duplex { send, receive: Receive::Headers(response), buffer: BytesMut::new() })
    }

    async fn begin(&mut self, method: Method, request: Bytes) -> Result<RecvStream, CallError> {
        let head = self.request(method);
        poll_fn(|cx| self.send.poll_ready(cx)).await?;
        let (response, mut send) = self.send.send_request(head, false)?;
        send.send_data(request, true)?;
        accept(response.await?)
    }

    fn request(&self, method: Method) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.template.uris[method as usize].clone();
        *request.headers_mut() = self.template.headers.clone();
        request
    }
}

enum Receive {
    Headers(h2::client::ResponseFuture),
    Body(RecvStream),
}

/// One stream in both directions; a message at a time each way.
pub struct Duplex {
    send: SendStream<Bytes>,
    receive: Receive,
    buffer: BytesMut,
}

impl Duplex {
    pub fn send(&mut self, request: Bytes) -> Result<(), CallError> {
        Ok(self.send.send_data(request, false)?)
    }

    /// The next message, or `None` when the server ended the stream without an error.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            if let Some(length) = wire::frame_length(&self.buffer) {
                let end = wire::FRAME_HEADER_BYTES + length;
                if self.buffer.len() >= end {
                    let mut message = self.buffer.split_to(end).freeze();
                    message.advance(wire::FRAME_HEADER_BYTES);
                    return Ok(Some(message));
                }
            }
            match &mut self.receive {
                Receive::Headers(response) => self.receive = Receive::Body(accept(response.await?)?),
                Receive::Body(body) => match next_chunk(body).await? {
                    Some(chunk) => self.buffer.extend_from_slice(&chunk),
                    None => return check_trailers(body).await.map(|()| None),
                },
            }
        }
    }
}

fn accept(response: Response<RecvStream>) -> Result<RecvStream, CallError> {
    if response.status() != http::StatusCode::OK {
        return Err(CallError::Unexpected(format!("HTTP status {}", response.status())));
    }
    // An answer of headers alone carries its status there.
    check_status(response.headers())?;
    Ok(response.into_body())
}

async fn next_chunk(body: &mut RecvStream) -> Result<Option<Bytes>, CallError> {
    let Some(chunk) = body.data().await.transpose()? else { return Ok(None) };
    body.flow_control().release_capacity(chunk.len())?;
    Ok(Some(chunk))
}

async fn check_trailers(body: &mut RecvStream) -> Result<(), CallError> {
    match body.trailers().await? {
        Some(trailers) => check_status(&trailers),
        None => Err(CallError::Unexpected("no trailers".to_owned())),
    }
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    match headers.get("grpc-status").map(HeaderValue::as_bytes) {
        None | Some(b"0") => Ok(()),
        Some(code) => Err(CallError::Status {
            code: std::str::from_utf8(code).ok().and_then(|code| code.parse().ok()).unwrap_or(2),
            message: headers
                .get("grpc-message")
                .map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
                .unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;
    use proto::etcdserverpb::{LeaseKeepAliveRequest, RangeRequest};
    use tokio::net::TcpListener;

    /// Answers every call on one connection: `Put` with a status of headers alone, `Txn` with a frame that is
    /// too short, the others with what they were sent, in chunks of three bytes.
    async fn echo(listener: TcpListener) {
        let (stream, _) = listener.accept().await.expect("one client");
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        while let Some(accepted) = connection.accept().await {
            let (request, mut respond) = accepted.expect("a request");
            tokio::task::spawn_local(async move {
                let response = || Response::builder().header("content-type", "application/grpc");
                let path = request.uri().path().to_owned();
                if path.ends_with("/Put") {
                    let refused = response().header("grpc-status", "8").header("grpc-message", "too many");
                    respond.send_response(refused.body(()).expect("valid"), true).expect("sent");
                    return;
                }
                let head = response().body(()).expect("valid");
                let mut answer = respond.send_response(head, false).expect("sent");
                let mut body = request.into_body();
                while let Some(chunk) = body.data().await {
                    let mut chunk = chunk.expect("a chunk");
                    if path.ends_with("/Txn") {
                        chunk.truncate(4);
                    }
                    while !chunk.is_empty() {
                        let part = chunk.split_to(chunk.len().min(3));
                        answer.send_data(part, false).expect("sent");
                    }
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                answer.send_trailers(trailers).expect("sent");
            });
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_are_joined_counted_and_checked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/", listener.local_addr().expect("bound"));
        let session = async {
            tokio::task::spawn_local(echo(listener));
            let mut client = Client::connect(&endpoint).await.expect("connected");
            let request = RangeRequest { key: "a key of some length".into(), limit: 7, ..Default::default() };
            let echoed: RangeRequest = client.call_decoded(Method::Range, &request).await.expect("echoed");
            assert_eq!(echoed, request);
            let framed = frame(&request);
            let counted = client.call_discarding(Method::Range, framed.clone()).await.expect("echoed");
            assert_eq!(counted, framed.len());
            let refused = client.call(Method::Put, framed.clone()).await.expect_err("status 8");
            assert!(matches!(refused, CallError::Status { code: 8, .. }), "{refused}");
            let short = client.call(Method::Txn, framed).await.expect_err("half a frame");
            assert!(matches!(short, CallError::Unexpected(_)), "{short}");

            let mut stream = client.open(Method::LeaseKeepAlive).await.expect("opened");
            for id in [1, 1 << 40] {
                stream.send(frame(&LeaseKeepAliveRequest { id })).expect("sent");
                let answer = stream.receive().await.expect("no error").expect("an answer");
                assert_eq!(LeaseKeepAliveRequest::decode(answer).expect("echoed").id, id);
            }
        };
        tokio::task::LocalSet::new().run_until(session).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_address_that_is_none_is_told_apart_from_one_nobody_listens_on() {
        let address = Client::connect("http://a b").await.err().expect("no address");
        assert!(matches!(address, CallError::Address(_)), "{address}");
    }

    #[test]
    fn methods_index_their_paths() {
        for (index, (method, _)) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, index);
        }
    }

    #[test]
    fn a_status_other_than_zero_is_an_error() {
        let mut headers = HeaderMap::new();
        assert!(check_status(&headers).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(check_status(&headers).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static("etcdserver: no leader"));
        let error = check_status(&headers).expect_err("14 is unavailable");
        assert!(
            matches!(error, CallError::Status { code: 14, ref message } if message == "etcdserver: no leader")
        );
    }
}
