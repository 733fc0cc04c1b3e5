//! gRPC on HTTP/2, as far as a server needs it: message frames in, frames and trailers out.
//!
//! A unary answer is one buffer and a set of trailers; a stream yields whatever frames are ready as one chunk. Status
//! and metadata are tonic's. Written by hand because the edge is what a request costs most: a message is decoded from
//! the connection's buffer without a copy, and an answer is encoded once, frame header included.

use std::{
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Frame, SizeHint};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Status};

/// Compression flag and length.
pub const HEADER: usize = 5;

/// A message as a frame.
pub fn frame(message: &impl Message) -> Bytes {
    frame_with(message.encoded_len(), |buffer| message.encode_raw(buffer))
}

/// A frame around `len` bytes that `write` appends.
pub fn frame_with(len: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(HEADER + len);
    buffer.put_u8(0);
    buffer.put_u32(len as u32);
    write(&mut buffer);
    debug_assert_eq!(buffer.len(), HEADER + len);
    buffer.freeze()
}

/// The frame of an answer, unless it is longer than any client reads, and than HTTP/2 sends at once.
pub fn sendable(frame: Bytes) -> Result<Bytes, Status> {
    check_length(frame.len())?;
    Ok(frame)
}

fn check_length(len: usize) -> Result<(), Status> {
    let limit = i32::MAX as usize;
    if len > limit {
        let text = format!("grpc: trying to send message larger than max ({len} vs. {limit})");
        return Err(Status::resource_exhausted(text));
    }
    Ok(())
}

/// Reads the messages of a request.
pub struct Requests {
    body: RecvStream,
    buffer: BytesMut,
    limit: usize,
}

impl Requests {
    /// Messages above `limit` bytes are refused.
    pub fn new(body: RecvStream, limit: usize) -> Requests {
        Requests { body, buffer: BytesMut::new(), limit }
    }

    /// The one message of a unary call.
    pub async fn single<M: Message + Default>(mut self) -> Result<M, Status> {
        match self.next().await? {
            Some(message) => Ok(message),
            None => Err(Status::internal("grpc: the request has no message")),
        }
    }

    /// The next message; `None` once the client has sent its last.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            let Some(data) = self.body.data().await else {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(Status::internal("unexpected EOF"))
                };
            };
            let data = data.map_err(|_| Status::new(Code::Cancelled, "context canceled"))?;
            let _ = self.body.flow_control().release_capacity(data.len());
            if self.buffer.is_empty() {
                // Most messages arrive whole: decode from the connection's own buffer.
                if let Some(len) = self.message_len(&data)?
                    && data.len() == HEADER + len
                {
                    return decode(data.slice(HEADER..)).map(Some);
                }
            }
            self.buffer.extend_from_slice(&data);
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
        }
    }

    /// A message that has arrived already behind the last one.
    pub fn buffered<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        match self.message_len(&self.buffer)? {
            Some(len) if self.buffer.len() >= HEADER + len => {
                self.buffer.advance(HEADER);
                decode(self.buffer.split_to(len).freeze()).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn message_len(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let Some((header, _)) = bytes.split_at_checked(HEADER) else { return Ok(None) };
        if header[0] != 0 {
            return Err(Status::unimplemented("grpc: compressed messages are not supported"));
        }
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if len > self.limit {
            let text = format!("grpc: received message larger than max ({len} vs. {})", self.limit);
            return Err(Status::resource_exhausted(text));
        }
        Ok(Some(len))
    }
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes).map_err(|error| {
        let text = error.to_string();
        // Only transactions nest without end.
        if text.ends_with("recursion limit reached") {
            return super::error::too_many_ops();
        }
        Status::internal(format!("grpc: error unmarshalling request: {text}"))
    })
}

/// The body of an answer.
pub enum Body {
    /// One frame, then an OK status.
    Unary(Option<Bytes>),
    /// Frames as they come; the sender's end ends the stream.
    Stream(mpsc::Receiver<Result<Bytes, Status>>),
    Custom(Pin<Box<dyn Source>>),
    Plain(Option<Bytes>),
    Done,
}

/// A stream of frames that keeps its own buffer.
pub trait Source: Send {
    /// `None` ends the stream with an OK status.
    fn poll_frames(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>>;
}

pub static OK_TRAILERS: LazyLock<HeaderMap> = LazyLock::new(|| {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
});

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = match &mut *self {
            Body::Unary(frame) => match frame.take() {
                Some(frame) => return Poll::Ready(Some(Ok(Frame::data(frame)))),
                None => None,
            },
            Body::Stream(frames) => ready!(frames.poll_recv(cx)),
            Body::Custom(source) => ready!(source.as_mut().poll_frames(cx)),
            Body::Plain(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Done => return Poll::Ready(None),
        };
        Poll::Ready(match next {
            Some(Ok(frame)) => Some(Ok(Frame::data(frame))),
            Some(Err(status)) => {
                *self = Body::Done;
                let mut trailers = HeaderMap::new();
                // A text that is not a valid header leaves the code alone, which is what clients act on.
                let _ = status.add_header(&mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
            None => {
                *self = Body::Done;
                Some(Ok(Frame::trailers(OK_TRAILERS.clone())))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Done | Body::Plain(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Plain(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Body::Plain(None) | Body::Done => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// An answer whose status follows its frames.
pub fn respond(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// An answer that is only a status.
pub fn refuse(status: &Status) -> Response<Body> {
    let mut response = respond(Body::Done);
    let _ = status.add_header(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_could_read_is_not_sent() {
        assert!(check_length(i32::MAX as usize).is_ok());
        let status = check_length(i32::MAX as usize + 1).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
}
