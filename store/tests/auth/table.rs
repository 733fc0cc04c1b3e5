//! Every method, called by every kind of caller. A method that is missing here does not compile.

use proto::{etcdserverpb as pb, grpc::health::v1::HealthCheckRequest};
use store::api::router::Method;
use tonic::{Code, Status, codegen::tokio_stream};

use super::support::{
    Alone, Change, Client, DENIED, INVALID_TOKEN, USER_EMPTY, delete, delete_user, get, permit, put, refusal,
};
use proto::authpb::permission::Type;

/// Who may call.
#[derive(Clone, Copy, Debug)]
enum May {
    /// Whoever calls.
    Anybody,
    /// Whoever is known.
    Users,
    /// Whoever may read the keys that are asked for.
    Readers,
    Writers,
    /// Who may do both.
    ReadersAndWriters,
    /// The user `reader`, whom it is about, and root.
    ReaderAndRoot,
    Root,
}

fn may(method: Method) -> May {
    match method {
        Method::Range | Method::RangeStream | Method::Watch => May::Readers,
        Method::Put | Method::DeleteRange => May::Writers,
        Method::Txn => May::ReadersAndWriters,
        Method::Compact => May::Root,
        Method::LeaseGrant => May::Users,
        Method::LeaseRevoke | Method::LeaseKeepAlive => May::Writers,
        Method::LeaseTimeToLive | Method::LeaseLeases => May::Readers,
        Method::MemberList | Method::Status => May::Users,
        // As it is called here: to raise one. Looking at alarms is another test.
        Method::Alarm => May::Root,
        Method::Defragment | Method::Hash | Method::HashKv | Method::Snapshot => May::Root,
        Method::MoveLeader | Method::Downgrade => May::Root,
        Method::MemberAdd | Method::MemberRemove | Method::MemberUpdate | Method::MemberPromote => May::Root,
        Method::AuthStatus | Method::Authenticate => May::Anybody,
        Method::UserGet | Method::RoleGet => May::ReaderAndRoot,
        Method::AuthEnable | Method::AuthDisable | Method::UserAdd | Method::UserList => May::Root,
        Method::UserDelete | Method::UserChangePassword => May::Root,
        Method::UserGrantRole | Method::UserRevokeRole => May::Root,
        Method::RoleAdd | Method::RoleList | Method::RoleDelete => May::Root,
        Method::RoleGrantPermission | Method::RoleRevokePermission => May::Root,
        Method::HealthCheck | Method::HealthWatch => May::Anybody,
    }
}

/// Calls the method. What it asks for is refused for another reason where carrying it out would disturb what follows.
async fn call(client: &Client, method: Method, lease: i64) -> Result<(), Status> {
    let ghost = || "ghost".to_owned();
    match method {
        Method::Range => client.get("k1").await.map(drop),
        Method::RangeStream => {
            let mut chunks = client.kv().range_stream(get("k1")).await?.into_inner();
            chunks.message().await.map(drop)
        }
        Method::Put => client.put("k1").await,
        Method::DeleteRange => client.kv().delete_range(delete("k2")).await.map(drop),
        Method::Txn => {
            let compare = vec![pb::Compare { key: "k1".into(), ..Default::default() }];
            let success =
                vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put("k1"))) }];
            client.kv().txn(pb::TxnRequest { compare, success, failure: vec![] }).await.map(drop)
        }
        Method::Compact => {
            client.kv().compact(pb::CompactionRequest { revision: i64::MAX, physical: false }).await.map(drop)
        }
        Method::Watch => match client.watch("k1", "").await {
            Ok(_) => Ok(()),
            // The reason is a status, as Go writes it.
            Err(reason) => {
                let (code, text) =
                    reason.strip_prefix("rpc error: code = ").unwrap().split_once(" desc = ").unwrap();
                let code = match code {
                    "PermissionDenied" => Code::PermissionDenied,
                    "InvalidArgument" => Code::InvalidArgument,
                    "Unauthenticated" => Code::Unauthenticated,
                    other => panic!("{other}"),
                };
                Err(Status::new(code, text))
            }
        },
        Method::LeaseGrant => client.grant().await.map(drop),
        Method::LeaseRevoke => {
            client.lease().lease_revoke(pb::LeaseRevokeRequest { id: lease }).await.map(drop)
        }
        Method::LeaseKeepAlive => client.keep_alive(lease).await.map(drop),
        Method::LeaseTimeToLive => {
            let request = pb::LeaseTimeToLiveRequest { id: lease, keys: true };
            client.lease().lease_time_to_live(request).await.map(drop)
        }
        Method::LeaseLeases => client.lease().lease_leases(pb::LeaseLeasesRequest {}).await.map(drop),
        Method::MemberList => {
            client.cluster().member_list(pb::MemberListRequest { linearizable: true }).await.map(drop)
        }
        Method::MemberAdd => client.cluster().member_add(pb::MemberAddRequest::default()).await.map(drop),
        Method::MemberRemove => {
            client.cluster().member_remove(pb::MemberRemoveRequest { id: 7 }).await.map(drop)
        }
        Method::MemberUpdate => {
            let request = pb::MemberUpdateRequest { id: 7, peer_ur_ls: vec!["http://127.0.0.1:1".into()] };
            client.cluster().member_update(request).await.map(drop)
        }
        Method::MemberPromote => {
            client.cluster().member_promote(pb::MemberPromoteRequest { id: 7 }).await.map(drop)
        }
        Method::Alarm => {
            let activate = pb::alarm_request::AlarmAction::Activate as i32;
            let request = pb::AlarmRequest { action: activate, member_id: 1, alarm: 0 };
            client.maintenance().alarm(request).await.map(drop)
        }
        Method::Status => client.maintenance().status(pb::StatusRequest {}).await.map(drop),
        Method::Defragment => client.maintenance().defragment(pb::DefragmentRequest {}).await.map(drop),
        Method::Hash => client.maintenance().hash(pb::HashRequest {}).await.map(drop),
        Method::HashKv => client.maintenance().hash_kv(pb::HashKvRequest { revision: 0 }).await.map(drop),
        Method::MoveLeader => {
            client.maintenance().move_leader(pb::MoveLeaderRequest { target_id: 1 }).await.map(drop)
        }
        Method::Snapshot => {
            let mut pieces = client.maintenance().snapshot(pb::SnapshotRequest {}).await?.into_inner();
            pieces.message().await.map(drop)
        }
        Method::Downgrade => client.maintenance().downgrade(pb::DowngradeRequest::default()).await.map(drop),
        Method::AuthEnable => client.change(pb::AuthEnableRequest {}).await,
        Method::AuthDisable => client.change(pb::AuthDisableRequest {}).await,
        Method::AuthStatus => client.auth().auth_status(pb::AuthStatusRequest {}).await.map(drop),
        Method::Authenticate => client.authenticate("ghost", "x").await.map(drop),
        Method::UserAdd => {
            let request =
                pb::AuthUserAddRequest { name: "root".into(), password: "x".into(), ..Default::default() };
            request.send(client.auth()).await
        }
        Method::UserGet => {
            client.auth().user_get(pb::AuthUserGetRequest { name: "reader".into() }).await.map(drop)
        }
        Method::UserList => client.auth().user_list(pb::AuthUserListRequest {}).await.map(drop),
        Method::UserDelete => client.change(delete_user("ghost")).await,
        Method::UserChangePassword => {
            let request = pb::AuthUserChangePasswordRequest {
                name: ghost(),
                password: "x".into(),
                ..Default::default()
            };
            client.change(request).await
        }
        Method::UserGrantRole => {
            client.change(pb::AuthUserGrantRoleRequest { user: ghost(), role: ghost() }).await
        }
        Method::UserRevokeRole => {
            client.change(pb::AuthUserRevokeRoleRequest { name: ghost(), role: ghost() }).await
        }
        Method::RoleAdd => client.change(pb::AuthRoleAddRequest { name: "reads".into() }).await,
        Method::RoleGet => {
            client.auth().role_get(pb::AuthRoleGetRequest { role: "reads".into() }).await.map(drop)
        }
        Method::RoleList => client.auth().role_list(pb::AuthRoleListRequest {}).await.map(drop),
        Method::RoleDelete => client.change(pb::AuthRoleDeleteRequest { role: ghost() }).await,
        Method::RoleGrantPermission => client.change(permit("ghost", Type::Read, "k", "")).await,
        Method::RoleRevokePermission => {
            let request = pb::AuthRoleRevokePermissionRequest { role: ghost(), ..Default::default() };
            client.change(request).await
        }
        Method::HealthCheck => client.health().check(HealthCheckRequest::default()).await.map(drop),
        Method::HealthWatch => {
            let mut answers = client.health().watch(HealthCheckRequest::default()).await?.into_inner();
            answers.message().await.map(drop)
        }
    }
}

/// What says that the caller was the reason.
const BY_CALLER: [(Code, &str); 4] =
    [USER_EMPTY, INVALID_TOKEN, DENIED, (Code::FailedPrecondition, "etcdserver: user name not found")];

#[tokio::test(flavor = "multi_thread")]
async fn every_method_asks_who_calls() {
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    root.put("k1").await.unwrap();
    let nobody = alone.nobody();
    // Somebody who was, and is no more.
    root.add_user("gone", &["root"]).await;
    let gone = alone.log_in("gone").await;
    gone.put("k1").await.unwrap();
    root.change(delete_user("gone")).await.unwrap();
    let callers = [
        ("nobody", nobody.clone()),
        ("nonsense", nobody.with("nonsense")),
        ("guess", nobody.with("abcdefghijklmnop.1")),
        ("gone", gone),
        ("roleless", alone.log_in("roleless").await),
        ("reader", alone.log_in("reader").await),
        ("writer", alone.log_in("writer").await),
        ("doer", alone.log_in("doer").await),
        ("both", alone.log_in("both").await),
        ("root", root.clone()),
    ];
    for (method, ..) in Method::ALL {
        for (name, client) in &callers {
            if (*method, *name) == (Method::AuthDisable, "root") {
                continue;
            }
            let lease = root.lease_on("k3").await;
            let result = call(client, *method, lease).await;
            let _ = root.lease().lease_revoke(pb::LeaseRevokeRequest { id: lease }).await;
            let may = may(*method);
            let permitted = match may {
                May::Anybody => true,
                May::Users => !matches!(*name, "nobody" | "nonsense" | "guess" | "gone"),
                May::Readers => matches!(*name, "reader" | "doer" | "both" | "root"),
                May::Writers => matches!(*name, "writer" | "doer" | "both" | "root"),
                May::ReadersAndWriters => matches!(*name, "doer" | "both" | "root"),
                May::ReaderAndRoot => matches!(*name, "reader" | "root"),
                May::Root => *name == "root",
            };
            // Who holds the role may look at it too.
            let permitted = permitted || *method == Method::RoleGet && *name == "both";
            let refusal = refusal(result);
            let wanted = match *name {
                _ if permitted => {
                    let by_caller = |(code, text): &(Code, String)| {
                        BY_CALLER.contains(&(*code, text.as_str())) && !text.ends_with("not found")
                    };
                    assert!(!refusal.as_ref().is_some_and(by_caller), "{method:?} by {name}: {refusal:?}");
                    continue;
                }
                "nobody" => USER_EMPTY,
                "nonsense" | "guess" | "gone" => INVALID_TOKEN,
                _ => DENIED,
            };
            assert_eq!(refusal, Some((wanted.0, wanted.1.to_owned())), "{method:?} by {name}");
        }
    }
    // All of it is open again once authentication is off, and tokens are no reason to refuse.
    root.change(pb::AuthDisableRequest {}).await.unwrap();
    for (method, ..) in Method::ALL {
        for (name, client) in &callers {
            let lease = nobody.lease_on("k3").await;
            let refusal = refusal(call(client, *method, lease).await);
            let by_caller = |(code, text): &(Code, String)| {
                BY_CALLER.contains(&(*code, text.as_str())) && !text.ends_with("not found")
            };
            assert!(!refusal.as_ref().is_some_and(by_caller), "{method:?} by {name}: {refusal:?}");
            if *method == Method::AuthEnable {
                let _ = alone.log_in("root").await.change(pb::AuthDisableRequest {}).await;
            }
        }
    }
    drop(callers);
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_alarms_is_for_users() {
    let alone = Alone::guarded(&[]).await;
    let look = pb::AlarmRequest::default();
    let nobody = alone.nobody().maintenance().alarm(look).await;
    assert_eq!(refusal(nobody), Some((USER_EMPTY.0, USER_EMPTY.1.to_owned())));
    alone.log_in("roleless").await.maintenance().alarm(look).await.unwrap();
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_must_be_fully_inside_and_values_read_must_be_readable() {
    let alone = Alone::guarded(&[]).await;
    let (reader, writer) = (alone.log_in("reader").await, alone.log_in("writer").await);
    let (both, one) = (alone.log_in("both").await, alone.log_in("one").await);
    let range =
        |key: &str, range_end: &str| pb::RangeRequest { range_end: range_end.to_owned().into(), ..get(key) };
    for (permitted, client, key, end) in [
        (true, &reader, "k", "l"),
        (true, &reader, "k", "k~"),
        (false, &reader, "k", "l\0"),
        (false, &reader, "j", "l"),
        (false, &reader, "k", "\0"),
        (false, &reader, "\0", "\0"),
        (true, &one, "k", ""),
        (true, &one, "k", "k\0"),
        (false, &one, "k", "k1"),
        (false, &one, "k", "\0"),
    ] {
        for mut request in [range(key, end), pb::RangeRequest { count_only: true, ..range(key, end) }] {
            for serializable in [false, true] {
                request.serializable = serializable;
                let result = client.range(request.clone()).await;
                assert_eq!(result.is_ok(), permitted, "{key} {end}: {result:?}");
            }
        }
        let watch = client.watch(key, end).await;
        assert_eq!(watch.is_ok(), permitted, "{key} {end}: {:?}", watch.err());
    }
    let prev_kv = true;
    for (permitted, client) in [(false, &writer), (true, &both)] {
        let put = client.kv().put(pb::PutRequest { prev_kv, ..put("k1") }).await;
        assert_eq!(put.is_ok(), permitted);
        let delete = client.kv().delete_range(pb::DeleteRangeRequest { prev_kv, ..delete("k1") }).await;
        assert_eq!(delete.is_ok(), permitted);
    }
    // A stream of requests is checked one by one.
    let requests = tokio_stream::iter([0, 1].map(|id| pb::LeaseKeepAliveRequest { id }));
    assert!(both.lease().lease_keep_alive(requests).await.is_ok());
    drop((reader, writer, both, one));
    alone.stop().await;
}
