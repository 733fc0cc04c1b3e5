//! HTTP/2 connections: requests in, answers out, all of a connection in one task.
//!
//! The task polls the connection for requests, then every call that can go on, and round again until nothing moves:
//! what is ready together leaves in one write, a call that needs no wait is answered where it arrived, and none has a
//! task of its own. A call ends when its client resets the stream, and all of them when the connection does.

use std::{
    future::poll_fn,
    num::NonZero,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use h2::{
    Ping, PingPong, RecvStream,
    server::{Builder, SendResponse},
};
use http::{HeaderValue, Method, Request, Response, header::CONTENT_LENGTH};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::grpc::{Body, OK_TRAILERS};
use crate::config::Config;

/// How long a connection may take to begin.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the connection until it ends; once `stop` is done, only until the requests under way are.
pub async fn serve<A: Future<Output = Response<Body>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    config: &Config,
    answer: impl Fn(Request<RecvStream>) -> A,
    stop: impl Future<Output = ()>,
) {
    let mut builder = Builder::new();
    // No streams at all are no limit, as in gRPC.
    builder
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buffer_size(1 << 20)
        .max_header_list_size(64 << 10)
        .max_concurrent_streams(NonZero::new(config.max_concurrent_streams).map_or(u32::MAX, NonZero::get));
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, builder.handshake::<_, Bytes>(stream));
    let Ok(Ok(mut connection)) = handshake.await else { return };
    let pings = connection.ping_pong().filter(|_| !config.grpc_keepalive_interval.is_zero());
    let mut lost = pin!(keep_alive(pings, config.grpc_keepalive_interval, config.grpc_keepalive_timeout));
    let mut stop = pin!(stop);
    let mut stopping = false;
    let mut calls = FuturesUnordered::new();
    poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            connection.graceful_shutdown();
        }
        if lost.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            while let Poll::Ready(accepted) = connection.poll_accept(cx) {
                let Some(Ok((request, respond))) = accepted else { return Poll::Ready(()) };
                // The connection itself yields; its calls end by themselves.
                calls.push(tokio::task::unconstrained(call(&answer, request, respond)));
            }
            let mut answered = false;
            while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {
                answered = true;
            }
            if !answered {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// Returns once the client does not answer.
async fn keep_alive(pings: Option<PingPong>, interval: Duration, timeout: Duration) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(interval).await;
        if !matches!(tokio::time::timeout(timeout, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

async fn call<A: Future<Output = Response<Body>>>(
    answer: &impl Fn(Request<RecvStream>) -> A,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let is_head = request.method() == Method::HEAD;
    // Made here, in its place: a future handed in would be kept twice.
    let mut answer = pin!(answer(request));
    let response = poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    });
    // Whoever reset the stream wants no answer.
    if let Some(response) = response.await {
        let _ = send(response, is_head, &mut respond).await;
    }
}

async fn send(
    response: Response<Body>,
    is_head: bool,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (mut head, mut body) = response.into_parts();
    if let Body::Plain(bytes) = &body {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.as_ref().map_or(0, Bytes::len)));
    }
    if is_head {
        body = Body::Done;
    }
    let mut stream = respond.send_response(Response::from_parts(head, ()), body.is_end_stream())?;
    match &mut body {
        Body::Done | Body::Plain(None) => return Ok(()),
        Body::Plain(Some(bytes)) => return stream.send_data(std::mem::take(bytes), true),
        Body::Unary(frame) => {
            stream.send_data(frame.take().unwrap_or_default(), false)?;
            return stream.send_trailers(OK_TRAILERS.clone());
        }
        Body::Stream(_) | Body::Custom(_) => {}
    }
    loop {
        // A frame is asked for only when the client has room for some of it.
        stream.reserve_capacity(1);
        let frame = poll_fn(|cx| {
            if stream.capacity() == 0 {
                match stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(Err(())),
                    Poll::Pending => return stream.poll_reset(cx).map(|_| Err(())),
                }
            }
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Ok(frame)),
                Poll::Pending => stream.poll_reset(cx).map(|_| Err(())),
            }
        });
        let Ok(frame) = frame.await else { return Ok(()) };
        match frame.map(|Ok(frame)| frame.into_data()) {
            None => return stream.send_data(Bytes::new(), true),
            Some(Ok(data)) => stream.send_data(data, false)?,
            Some(Err(frame)) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return stream.send_trailers(trailers);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_limit_of_streams_is_not_none_of_them() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let config = Config { max_concurrent_streams: 0, ..Config::default() };
        let answer = |_| async { Response::new(Body::Done) };
        let serving = serve(theirs, &config, answer, std::future::pending());
        let calling = async {
            let (client, connection) = h2::client::handshake(ours).await.unwrap();
            let calls = async {
                // The first call may begin before the server's settings are known.
                for _ in 0..3 {
                    let mut client = client.clone().ready().await.unwrap();
                    let (response, _) = client.send_request(Request::new(()), true).unwrap();
                    assert_eq!(response.await.unwrap().status(), 200);
                }
            };
            tokio::select! {
                _ = connection => panic!("the connection ended"),
                () = calls => {}
            }
        };
        tokio::select! {
            () = serving => panic!("the connection ended"),
            called = tokio::time::timeout(Duration::from_secs(10), calling) => called.unwrap(),
        }
    }
}
