//! Users who show a certificate instead of a token: what the TLS layer tells of a connection is taken for its user.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use store::api::{
    edge::{Serves, connection_task},
    router::Context,
    watch::{Shard, Shards},
};
use tonic::transport::{Channel, Endpoint};

use super::support::{Alone, Client, DENIED, INVALID_TOKEN, USER_EMPTY, assert_refused, put};

/// A channel over a connection whose certificate names somebody.
async fn connect(alone: &Alone, common_name: Option<&str>) -> Channel {
    let node = alone.server.node().clone();
    let shard = Shard::new(node.clone(), &Shards::default(), Shard::config(&node, 1));
    let common_name = common_name.map(Arc::from);
    let context = Context { node, counters: Arc::default(), shard: shard.clone(), common_name };
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        let (_stop, stopping) = tokio::sync::watch::channel(false);
        connection_task(context, Arc::new(vec![shard]), theirs, true, Serves::Everything, stopping).await;
    });
    let mut ours = Some(ours);
    let connector = tower::service_fn(move |_: http::Uri| {
        let pipe = ours.take().map(TokioIo::new);
        async move { pipe.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    Endpoint::from_static("http://in-process").connect_with_connector(connector).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_a_user_unless_a_token_does() {
    let alone = Alone::guarded(&[]).await;
    let doer = Client::over(connect(&alone, Some("doer")).await);
    doer.put("k").await.unwrap();
    assert_refused(doer.put("x").await, DENIED);
    // A token counts alone, be it good or not.
    let reader = alone.log_in("reader").await.token.unwrap();
    assert_refused(doer.with(&reader).put("k").await, DENIED);
    assert_refused(doer.with("nonsense").put("k").await, INVALID_TOKEN);
    // The gateway's certificate is not that of those it speaks for.
    let mut request = tonic::Request::new(put("k"));
    request.metadata_mut().insert("grpcgateway-accept", "application/json".parse().unwrap());
    assert_refused(doer.kv().put(request).await, USER_EMPTY);

    // A name that is empty is nobody's; where keys are asked for, that is no permission.
    for (name, put, grant) in
        [(Some("stranger"), DENIED, DENIED), (Some(""), DENIED, USER_EMPTY), (None, USER_EMPTY, USER_EMPTY)]
    {
        let other = Client::over(connect(&alone, name).await);
        assert_refused(other.put("k").await, put);
        assert_refused(other.get("k").await, put);
        assert_refused(other.grant().await, grant);
    }
    drop(doer);
    alone.stop().await;
}
