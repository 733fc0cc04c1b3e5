//! Calls to members made up here, which answer, refuse, fall silent or hang up.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use oracle::history::Member;
use prost::Message;
use proto::etcdserverpb as pb;
use tokio::{net::TcpListener, task::LocalSet};

use super::{Connection, Failure, PUT, frame};

/// Longer than any of this takes.
const LIMIT: Duration = Duration::from_secs(30);

/// What a made-up member does with a request.
#[derive(Clone, Copy)]
enum Does {
    Answer,
    /// In two frames of HTTP, cut in the middle.
    AnswerInPieces,
    Refuse,
    HangUp,
}

async fn member(does: Does) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        while let Some(request) = connection.accept().await {
            let (_, respond) = request.expect("a request");
            match does {
                Does::HangUp => return,
                _ => answer(does, respond),
            }
        }
    });
    address
}

fn answer(does: Does, mut respond: SendResponse<Bytes>) {
    if let Does::Refuse = does {
        let refusal = Response::builder()
            .header("grpc-status", "11")
            .header("grpc-message", "etcdserver: mvcc: required revision has been compacted");
        respond.send_response(refusal.body(()).expect("headers"), true).expect("sent");
        return;
    }
    let header = pb::ResponseHeader { revision: 7, ..Default::default() };
    let mut message = frame(&pb::PutResponse { header: Some(header), prev_kv: None });
    let mut body = respond.send_response(Response::new(()), false).expect("sent");
    if let Does::AnswerInPieces = does {
        body.send_data(message.split_to(3), false).expect("sent");
    }
    body.send_data(message, false).expect("sent");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    body.send_trailers(trailers).expect("sent");
}

fn call(does: Does) -> Result<Bytes, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let address = member(does).await;
        let connection = Connection::open(address, Member(0), 1 << 20, LIMIT).await.expect("it listens");
        connection.call(PUT, frame(&pb::PutRequest::default()), LIMIT).await
    })
}

#[test]
fn answers_are_put_together() {
    for does in [Does::Answer, Does::AnswerInPieces] {
        let message = call(does).expect("it was answered");
        let answer = pb::PutResponse::decode(message).expect("a message");
        assert_eq!(answer.header.map(|header| header.revision), Some(7));
    }
}

#[test]
fn refusals_have_their_text() {
    match call(Does::Refuse) {
        Err(Failure::Refused(status)) => {
            assert_eq!(status.message(), "etcdserver: mvcc: required revision has been compacted");
        }
        other => panic!("{other:?}"),
    }
}

/// It may have taken the request.
#[test]
fn a_member_that_hangs_up_leaves_it_open() {
    assert!(matches!(call(Does::HangUp), Err(Failure::Lost)));
}
