//! HTTP/1.1 requests to peers: a connection that is kept and reopened (pipeline, probes), and a client for
//! single requests with a timeout and a size limit, used by bootstrap and by the node (`/members`,
//! `/version`, `/leases`).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::peer::net::{Connect, InvalidUrl, PeerUrl, StallGuard};
use crate::peer::{Body, BoxError};

/// Why a request has no answer.
#[derive(Debug)]
pub enum Error {
    Url(InvalidUrl),
    /// The connection could not be opened.
    Connect(io::Error),
    /// The connection broke, or the peer does not speak HTTP.
    Http(hyper::Error),
    /// The answer did not come in time.
    Timeout,
    /// The answer is longer than this many bytes.
    TooLong {
        limit: usize,
    },
    /// The answer's body broke off.
    Body(BoxError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(error) => error.fmt(f),
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::Http(error) => match std::error::Error::source(error) {
                Some(cause) => write!(f, "{error}: {cause}"),
                None => error.fmt(f),
            },
            Self::Timeout => f.write_str("request timed out"),
            Self::TooLong { limit } => write!(f, "answer is longer than {limit} bytes"),
            Self::Body(error) => write!(f, "answer broke off: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// How connections are opened and how long they may stall.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub connect: Arc<dyn Connect>,
    pub dial_timeout: Duration,
    pub stall_timeout: Duration,
}

impl Dialer {
    pub(crate) async fn dial(&self, url: &PeerUrl) -> Result<Connection, Error> {
        let io = match timeout(self.dial_timeout, self.connect.connect(url)).await {
            Ok(connected) => connected.map_err(Error::Connect)?,
            Err(_) => return Err(Error::Connect(io::ErrorKind::TimedOut.into())),
        };
        let io = TokioIo::new(StallGuard::new(io, self.stall_timeout));
        let (sender, connection) = http1::handshake(io).await.map_err(Error::Http)?;
        // What breaks the connection is told to the request that is under way.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let host = HeaderValue::from_str(url.authority()).expect("an authority is a header value");
        Ok(Connection { sender, driver, host })
    }
}

/// One HTTP/1.1 connection, closed when dropped.
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    driver: AbortHandle,
    host: HeaderValue,
}

impl Connection {
    /// `request` has an origin-form target.
    pub(crate) async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>, Error> {
        request.headers_mut().insert(HOST, self.host.clone());
        self.sender.send_request(request).await.map_err(Error::Http)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A connection kept between requests and reopened when it is closed or the URL changes.
pub(crate) struct Channel {
    dialer: Dialer,
    open: Option<(PeerUrl, Connection)>,
}

impl Channel {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { dialer, open: None }
    }

    /// Sends `body` and reads the whole answer, of at most `limit` bytes. A kept connection that turns out to
    /// be closed is replaced once; a request that may have been read is not repeated.
    pub(crate) async fn call(
        &mut self,
        url: &PeerUrl,
        method: Method,
        path: &'static str,
        headers: HeaderMap,
        body: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), Error> {
        // Taken, so that a request that fails or is cancelled closes its connection.
        let mut kept = self.open.take().filter(|(open, _)| open == url).map(|(_, connection)| connection);
        if let Some(connection) = &mut kept
            && connection.sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.dialer.dial(url).await?,
        };
        let mut request = Request::new(full(body));
        *request.method_mut() = method;
        *request.uri_mut() = http::Uri::from_static(path);
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, connection.host.clone());
        let response = match connection.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => match error.take_message() {
                Some(unsent) => {
                    connection = self.dialer.dial(url).await?;
                    connection.send(unsent).await?
                }
                None => return Err(Error::Http(error.into_error())),
            },
        };
        let status = response.status();
        let answer = read_all(response.into_body(), limit).await?;
        self.open = Some((url.clone(), connection));
        Ok((status, answer))
    }
}

pub(crate) fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_all(body: Incoming, limit: usize) -> Result<Bytes, Error> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLong { limit }),
        Err(error) => Err(Error::Body(error)),
    }
}

/// Single requests to a peer's listener, each on a connection of its own.
#[derive(Clone)]
pub struct Client {
    dialer: Dialer,
    timeout: Duration,
    limit: usize,
}

impl Client {
    /// `timeout` bounds a whole request, `limit` the bytes of an answer.
    pub fn new(connect: Arc<dyn Connect>, timeout: Duration, limit: usize) -> Self {
        Self { dialer: Dialer { connect, dial_timeout: timeout, stall_timeout: timeout }, timeout, limit }
    }

    /// Sends `request`, whose target is a path and whose headers are complete but for `Host`, to the peer at
    /// `url`.
    pub async fn call(&self, url: &str, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let url = PeerUrl::parse(url).map_err(Error::Url)?;
        let exchange = async {
            let mut connection = self.dialer.dial(&url).await?;
            let (head, body) = connection.send(request.map(full)).await?.into_parts();
            Ok(Response::from_parts(head, read_all(body, self.limit).await?))
        };
        timeout(self.timeout, exchange).await.unwrap_or(Err(Error::Timeout))
    }

    pub async fn get(&self, url: &str, path: &'static str) -> Result<Response<Bytes>, Error> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = http::Uri::from_static(path);
        self.call(url, request).await
    }

    pub async fn post(
        &self,
        url: &str,
        path: &'static str,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Response<Bytes>, Error> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        request.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.call(url, request).await
    }
}
