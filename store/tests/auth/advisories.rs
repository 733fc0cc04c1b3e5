//! Ways around authorization that etcd once had: each by its advisory, and each shut.

use proto::{authpb::permission::Type, etcdserverpb as pb};

use super::support::{
    Alone, Client, DENIED, INVALID_TOKEN, USER_EMPTY, assert_refused, delete, delete_user, get, permit, put,
};

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

async fn run(client: &Client, ops: Vec<pb::RequestOp>) -> Result<(), tonic::Status> {
    client.kv().txn(pb::TxnRequest { success: ops, ..Default::default() }).await.map(drop)
}

/// CVE-2026-33413: members, alarms and leases were open to strangers.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_learn_nothing_of_the_cluster_and_touch_no_lease() {
    let alone = Alone::guarded(&[]).await;
    let stranger = alone.nobody();
    for linearizable in [false, true] {
        let members = stranger.cluster().member_list(pb::MemberListRequest { linearizable }).await;
        assert_refused(members, USER_EMPTY);
    }
    for action in 0..3 {
        let alarm = pb::AlarmRequest { action, member_id: 1, alarm: 1 };
        assert_refused(stranger.maintenance().alarm(alarm).await, USER_EMPTY);
    }
    assert_refused(stranger.grant().await, USER_EMPTY);
    let root = alone.log_in("root").await;
    let lease = root.grant().await.unwrap();
    assert_refused(stranger.keep_alive(lease).await, USER_EMPTY);
    let keyless = pb::LeaseTimeToLiveRequest { id: lease, keys: false };
    assert_refused(stranger.lease().lease_time_to_live(keyless).await, USER_EMPTY);
    assert_refused(stranger.lease().lease_leases(pb::LeaseLeasesRequest {}).await, USER_EMPTY);
    assert_refused(stranger.lease().lease_revoke(pb::LeaseRevokeRequest { id: lease }).await, USER_EMPTY);
    drop((stranger, root));
    alone.stop().await;
}

/// CVE-2026-33343: transactions inside transactions were not looked at.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_nested_needs_permission_too() {
    use pb::request_op::Request::*;
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    root.put("secret").await.unwrap();
    let doer = alone.log_in("doer").await;
    let nested = |ops| vec![op(RequestTxn(pb::TxnRequest { success: ops, ..Default::default() }))];
    let deep = |ops| nested(nested(ops));
    for hidden in [
        op(RequestRange(get("secret"))),
        op(RequestPut(put("secret"))),
        op(RequestDeleteRange(delete("secret"))),
    ] {
        assert_refused(run(&doer, vec![hidden.clone()]).await, DENIED);
        assert_refused(run(&doer, nested(vec![hidden.clone()])).await, DENIED);
        assert_refused(run(&doer, deep(vec![op(RequestPut(put("k"))), hidden.clone()])).await, DENIED);
        // Not even in a branch that is not taken.
        let untaken = pb::TxnRequest { failure: vec![hidden], ..Default::default() };
        assert_refused(run(&doer, vec![op(RequestTxn(untaken))]).await, DENIED);
    }
    let compare = vec![pb::Compare { key: "secret".into(), ..Default::default() }];
    let asks = pb::TxnRequest { compare, ..Default::default() };
    assert_refused(doer.kv().txn(asks.clone()).await, DENIED);
    assert_refused(run(&doer, vec![op(RequestTxn(asks))]).await, DENIED);
    run(&doer, deep(vec![op(RequestPut(put("k")))])).await.unwrap();
    assert_eq!(root.get("secret").await.unwrap(), ["secret"]);
    drop((root, doer));
    alone.stop().await;
}

/// CVE-2026-44283: puts in transactions showed previous values, and could attach to any lease.
#[tokio::test(flavor = "multi_thread")]
async fn puts_in_transactions_are_puts() {
    use pb::request_op::Request::*;
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    let writer = alone.log_in("writer").await;
    root.put("k").await.unwrap();
    let before = pb::PutRequest { prev_kv: true, ..put("k") };
    assert_refused(run(&writer, vec![op(RequestPut(before))]).await, DENIED);
    let before = pb::DeleteRangeRequest { prev_kv: true, ..delete("k") };
    assert_refused(run(&writer, vec![op(RequestDeleteRange(before))]).await, DENIED);
    let (own, others) = (root.lease_on("k1").await, root.lease_on("secret").await);
    let attached = |lease| pb::PutRequest { lease, ..put("k") };
    assert_refused(run(&writer, vec![op(RequestPut(attached(others)))]).await, DENIED);
    assert_refused(writer.kv().put(attached(others)).await, DENIED);
    run(&writer, vec![op(RequestPut(attached(own)))]).await.unwrap();
    writer.kv().put(attached(own)).await.unwrap();
    // Its end would delete what may not be deleted.
    assert_refused(writer.lease().lease_revoke(pb::LeaseRevokeRequest { id: others }).await, DENIED);
    assert_refused(writer.keep_alive(others).await, DENIED);
    assert!(writer.keep_alive(own).await.unwrap() > 0);
    drop((root, writer));
    alone.stop().await;
}

/// GHSA-xg4h-6gfc-h4m8: a watch from a key on was taken for a watch of the key.
#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_not_all_that_follow() {
    let alone = Alone::guarded(&[]).await;
    let one = alone.log_in("one").await;
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!(one.watch("k", "\0").await.err().as_deref(), Some(denied));
    assert_eq!(one.watch("", "\0").await.err().as_deref(), Some(denied));
    assert_eq!(one.watch("", "").await.err().as_deref(), Some(denied));
    assert!(one.watch("k", "").await.is_ok());
    drop(one);
    alone.stop().await;
}

/// CVE-2023-32082: the keys of a lease were told to everybody.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_leases_are_told_to_those_who_may_read_them() {
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    let reader = alone.log_in("reader").await;
    let readable = root.lease_on("k1").await;
    let ask = |id, keys| pb::LeaseTimeToLiveRequest { id, keys };
    let told = reader.lease().lease_time_to_live(ask(readable, true)).await.unwrap().into_inner();
    assert_eq!(told.keys, ["k1"]);
    reader.lease().lease_leases(pb::LeaseLeasesRequest {}).await.unwrap();
    let secret = root.lease_on("secret").await;
    assert_refused(reader.lease().lease_time_to_live(ask(secret, true)).await, DENIED);
    assert_refused(reader.lease().lease_leases(pb::LeaseLeasesRequest {}).await, DENIED);
    assert!(reader.lease().lease_time_to_live(ask(secret, false)).await.unwrap().into_inner().ttl > 0);
    drop((root, reader));
    alone.stop().await;
}

/// etcd 3.5, pull request 22386: with an alarm raised, nobody was asked for permission.
#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_opens_nothing() {
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    let doer = alone.log_in("doer").await;
    root.put("secret").await.unwrap();
    let lease = root.lease_on("secret too").await;
    let raise = pb::AlarmRequest { action: 1, member_id: alone.server.node().id, alarm: 1 };
    root.maintenance().alarm(raise).await.unwrap();
    assert!(doer.put("k").await.unwrap_err().message().contains("space exceeded"));
    assert_refused(doer.kv().delete_range(delete("secret")).await, DENIED);
    assert_refused(doer.lease().lease_revoke(pb::LeaseRevokeRequest { id: lease }).await, DENIED);
    assert_refused(doer.change(pb::AuthDisableRequest {}).await, DENIED);
    assert_refused(doer.change(permit("does", Type::Readwrite, "\0", "\0")).await, DENIED);
    doer.kv().delete_range(delete("k")).await.unwrap();
    drop((root, doer));
    alone.stop().await;
}

/// CVE-2021-28235 and its like: what is secret appears nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn passwords_reach_neither_log_nor_disk() {
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    let options = Some(proto::authpb::UserAddOptions { no_password: true });
    let password = "a password that nobody needs".to_owned();
    root.change(pb::AuthUserAddRequest { name: "n".into(), password, options, ..Default::default() })
        .await
        .unwrap();
    let password = "another password".to_owned();
    root.change(pb::AuthUserChangePasswordRequest { name: "one".into(), password, ..Default::default() })
        .await
        .unwrap();
    drop(root);
    let (data, server) = (alone.data, alone.server);
    super::support::stop(server).await;
    let mut files = vec![data.path().to_path_buf()];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        seen += bytes.len();
        let holds = |secret: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
        for secret in ["the password of", "a password that", "another password"] {
            assert!(!holds(secret.as_bytes()), "{}: {secret}", path.display());
        }
    }
    assert!(seen > 0);
}

/// Rules that change between two looks: what was permitted then is not permitted now.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_is_gone_at_once() {
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    let doer = alone.log_in("doer").await;
    let mut watch = doer.watch("k", "l").await.ok().unwrap();
    doer.put("k1").await.unwrap();
    assert_eq!(watch.event().await, "k1");

    root.change(pb::AuthUserRevokeRoleRequest { name: "doer".into(), role: "does".into() }).await.unwrap();
    assert_refused(doer.put("k1").await, DENIED);
    assert_refused(doer.get("k1").await, DENIED);
    // A watch that there is goes on, as in etcd; there is no new one, not even on its stream.
    root.put("k2").await.unwrap();
    assert_eq!(watch.event().await, "k2");
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!(watch.another("k").await.as_deref(), Some(denied));
    assert!(doer.watch("k", "").await.is_err());

    // Whoever comes under a name that was another's is not the other.
    root.change(delete_user("doer")).await.unwrap();
    root.add_user("doer", &["root"]).await;
    assert_refused(doer.put("k1").await, INVALID_TOKEN);
    drop((root, doer, watch));
    alone.stop().await;
}
