//! A connection whose writes are few: answers that are ready together leave in one write.
//!
//! HTTP/2 flushes after each answer. Here a write goes to a buffer, and the first flush after it yields once to the
//! scheduler: whatever other answers the thread has ready join it. Large writes pass the buffer by.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes gathered before they are written whatever comes.
const GATHER_BYTES: usize = 64 << 10;

pub struct Coalesced<S = TcpStream> {
    stream: S,
    buffer: BytesMut,
    yielded: bool,
}

impl<S> Coalesced<S> {
    pub fn new(stream: S) -> Coalesced<S> {
        Coalesced { stream, buffer: BytesMut::new(), yielded: false }
    }
}

impl<S: AsyncWrite + Unpin> Coalesced<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
        }
        // An idle connection keeps no buffer.
        if self.buffer.capacity() > GATHER_BYTES * 4 {
            self.buffer = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if this.buffer.len() + len > GATHER_BYTES {
            ready!(this.poll_drain(cx))?;
            if len > GATHER_BYTES {
                return Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
            }
        }
        for slice in slices {
            this.buffer.extend_from_slice(slice);
        }
        this.yielded = false;
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.buffer.is_empty() && !self.yielded {
            self.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn all_bytes_arrive_in_order_whatever_their_sizes() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut ours = Coalesced::new(ours);
        let sent: Vec<u8> = (0..300_000_u32).map(|it| it as u8).collect();
        let expected = sent.clone();
        let reader = tokio::spawn(async move {
            let mut received = Vec::new();
            theirs.read_to_end(&mut received).await.unwrap();
            assert!(received == expected);
        });
        let mut rest = sent.as_slice();
        for size in [1, 10, 70_000, 3, 100_000, 64 << 10, 5].into_iter().cycle() {
            let (now, later) = rest.split_at(size.min(rest.len()));
            ours.write_all(now).await.unwrap();
            if size == 3 {
                ours.flush().await.unwrap();
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        ours.shutdown().await.unwrap();
        drop(ours);
        reader.await.unwrap();
    }

    #[tokio::test]
    async fn a_flush_yields_once_so_that_later_answers_join() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut ours = Coalesced::new(ours);
        ours.write_all(b"a").await.unwrap();
        poll_fn(|cx| {
            assert!(Pin::new(&mut ours).poll_flush(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        ours.write_all(b"b").await.unwrap();
        ours.flush().await.unwrap();
        let mut received = [0; 2];
        assert_eq!(theirs.read(&mut received).await.unwrap(), 2);
    }
}
