//! What members do for each other on the peer port, asked by somebody who is none, or on behalf of a client.

use bytes::Bytes;
use http::{Request, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use proto::etcdserverpb as pb;
use store::node::Node;
use tonic::Code;

use super::support::{Alone, Client, assert_refused, config, free_ports, log_in, start, stop};

/// POSTs to the peer port of a member.
async fn post(node: &Node, path: &str, token: Option<&str>, body: Vec<u8>) -> (u16, Bytes) {
    let url = node.published.membership.load().get(node.id).unwrap().peer_urls[0].clone();
    let address = url.strip_prefix("http://").unwrap();
    let mut request = Request::post(path).header("host", address);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_needs_the_token_of_root() {
    let alone = Alone::guarded(&[]).await;
    let (root, doer) = (alone.log_in("root").await.token, alone.log_in("doer").await.token);
    let asked = async |token: Option<&str>| {
        let (status, body) = post(alone.server.node(), "/members/promote/7", token, Vec::new()).await;
        (status, String::from_utf8_lossy(&body).trim_end().to_owned())
    };
    let denied = (403, "auth: permission denied".into());
    assert_eq!(asked(None).await, denied);
    assert_eq!(asked(doer.as_deref()).await, denied);
    assert_eq!(asked(Some("nonsense")).await, (401, "auth: invalid auth token".into()));
    // Past the check: there is no such member.
    assert_eq!(asked(root.as_deref()).await, (404, "membership: ID not found".into()));
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_asks_the_leader_with_its_client_s_token() {
    let data = tempfile::tempdir().unwrap();
    let peers = free_ports(2);
    let both =
        tokio::join!(start(config(data.path(), &peers, 0, &[])), start(config(data.path(), &peers, 1, &[])),);
    let (leader, follower) = match both.0.node().status.is_leader() {
        true => both,
        false => (both.1, both.0),
    };
    let nobody = Client::new(&leader);
    nobody.populate().await;
    nobody.change(pb::AuthEnableRequest {}).await.unwrap();
    let root = log_in(&leader, "root").await;
    let promote = Client::new(&follower).with(&root.token.unwrap());
    let refused = promote.cluster().member_promote(pb::MemberPromoteRequest { id: 7 }).await;
    assert_refused(refused, (Code::NotFound, "etcdserver: member not found"));
    drop((nobody, promote));
    tokio::join!(stop(leader), stop(follower));
}

/// As in etcd, 3.4 to 3.6: a member checks its client's rights before it asks the leader, and sends no token. What
/// keeps others out is the certificate that the peer port asks for.
#[tokio::test(flavor = "multi_thread")]
async fn members_ask_about_leases_without_a_token() {
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    let id = root.grant().await.unwrap();
    let request = pb::LeaseKeepAliveRequest { id }.encode_to_vec();
    let (status, body) = post(alone.server.node(), "/leases", None, request).await;
    assert_eq!((status, pb::LeaseKeepAliveResponse::decode(body).unwrap().ttl), (200, 600));
    drop(root);
    alone.stop().await;
}
