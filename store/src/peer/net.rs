//! The seam between HTTP and sockets: how a connection to a peer is opened and how an accepted one is
//! prepared: plain, or with the peers' side of `tls`. Every connection gets TCP_NODELAY (a raft message must not wait
//! for the next) and a limit on how long a write may stall, which is how a peer that vanished without closing is
//! noticed.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, pki_types::ServerName};

use crate::peer::BoxFuture;
use crate::tls::{Acceptor, Material};

/// A byte stream to a peer.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Opens connections.
pub trait Connect: Send + Sync + 'static {
    fn connect<'a>(&'a self, url: &'a PeerUrl) -> BoxFuture<'a, io::Result<Box<dyn Io>>>;
}

/// Prepares accepted connections.
pub trait Accept: Send + Sync + 'static {
    fn accept(&self, stream: TcpStream) -> BoxFuture<'_, io::Result<Box<dyn Io>>>;
}

/// TCP without TLS: `http` URLs only.
pub struct Plain;

impl Connect for Plain {
    fn connect<'a>(&'a self, url: &'a PeerUrl) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            if url.is_tls() {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "https peer URL without peer TLS settings (--peer-cert-file, --peer-key-file, \
                     --peer-trusted-ca-file)",
                ));
            }
            Ok(Box::new(open(url).await?) as Box<dyn Io>)
        })
    }
}

async fn open(url: &PeerUrl) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((url.host(), url.port())).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TCP, and TLS where the URL says so. The name that a server's certificate must have is the URL's host.
pub async fn connect(url: &PeerUrl, tls: Option<Arc<ClientConfig>>) -> io::Result<Box<dyn Io>> {
    if !url.is_tls() {
        return Ok(Box::new(open(url).await?));
    }
    let config = tls.ok_or(io::ErrorKind::Unsupported)?;
    let name = ServerName::try_from(url.host().to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config).connect(name, open(url).await?).await?))
}

/// Peers with this certificate, each time as it is then.
pub struct Secure(pub Arc<Material>);

impl Connect for Secure {
    fn connect<'a>(&'a self, url: &'a PeerUrl) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(connect(url, self.0.client()))
    }
}

impl Accept for Acceptor {
    fn accept(&self, stream: TcpStream) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            stream.set_nodelay(true)?;
            let remote = stream.peer_addr()?;
            let (stream, _) = self.accept(stream, remote).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

impl Accept for Plain {
    fn accept(&self, stream: TcpStream) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// Where a peer listens: `http://host:port` or `https://host:port`. A path is ignored, as in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerUrl {
    tls: bool,
    authority: Authority,
    port: u16,
}

impl PeerUrl {
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid()),
        };
        let authority = uri.authority().cloned().ok_or_else(invalid)?;
        let port = authority.port_u16().ok_or_else(invalid)?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(invalid());
        }
        Ok(Self { tls, authority, port })
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host name or address; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        let host = self.authority.host();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port` as written.
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

/// Not an `http` or `https` URL with host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidUrl(pub String);

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid peer URL {:?}: expected http://host:port or https://host:port", self.0)
    }
}

impl std::error::Error for InvalidUrl {}

/// Fails a write that makes no progress for `limit`.
pub(crate) struct StallGuard {
    io: Box<dyn Io>,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl StallGuard {
    pub(crate) fn new(io: Box<dyn Io>, limit: Duration) -> Self {
        Self { io, limit, stalled: None }
    }

    fn guard<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "write to peer stalled")))
    }
}

impl AsyncRead for StallGuard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for StallGuard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.guard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.guard(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.io).poll_shutdown(cx);
        self.guard(cx, closed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn peer_urls() {
        let url = PeerUrl::parse("http://[::1]:2380").unwrap();
        assert_eq!(
            (url.host(), url.port(), url.authority(), url.is_tls()),
            ("::1", 2380, "[::1]:2380", false)
        );
        assert_eq!(
            PeerUrl::parse("https://m0.example:2380/").unwrap().to_string(),
            "https://m0.example:2380"
        );
        for bad in [
            "",
            "m0:2380",
            "http://m0",
            "ftp://m0:1",
            "http://:1",
            "http://u@m0:1",
            "http://m0:70000",
            "http://",
        ] {
            assert_eq!(PeerUrl::parse(bad), Err(InvalidUrl(bad.to_owned())));
        }
    }

    #[tokio::test]
    async fn a_stalled_write_fails_and_progress_resets_the_limit() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut guarded = StallGuard::new(Box::new(near), Duration::from_secs(3600));
        guarded.write_all(&[0; 8]).await.unwrap();
        std::future::poll_fn(|cx| {
            assert!(Pin::new(&mut guarded).poll_write(cx, &[0; 8]).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(guarded.stalled.is_some());
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut [0; 8]).await.unwrap();
        guarded.write_all(&[0; 8]).await.unwrap();
        assert!(guarded.stalled.is_none());
        guarded.limit = Duration::ZERO;
        assert_eq!(guarded.write_all(&[0; 8]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
