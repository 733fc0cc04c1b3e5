//! One cluster of two stock etcd members and one of ours: the peer wire against the real thing.
//! `KEELSON_MIXED_WRITES` sets the number of writes (a full run: 50,000).

use std::time::Duration;

use integration::binary;
use integration::cluster::{Cluster, START_LIMIT};
use integration::load::{self, Load};
use integration::{bounded, eventually, setting};
use proto::authpb::Permission;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthStatusRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserListRequest,
    AuthenticateRequest, PutRequest, RangeRequest,
};
use tonic::transport::{Channel, Endpoint};

const OURS: usize = 0;
const PROGRESS_LIMIT: Duration = Duration::from_secs(120);

async fn move_leader(cluster: &Cluster, to: usize) {
    let target = cluster.client(to).status().await.expect("status").header.expect("header").member_id;
    eventually("leadership transfer", START_LIMIT, || async {
        let leader = cluster.leader().await;
        if leader == to {
            return Ok(());
        }
        // Refused where the leader has changed meanwhile.
        cluster.client(leader).move_leader(target).await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(cluster.leader().await, to);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_stock_members_agrees() {
    let writes = setting("KEELSON_MIXED_WRITES", 2_000);
    let limit = 4 * START_LIMIT + 4 * PROGRESS_LIMIT + Duration::from_millis(20 * writes);
    bounded(limit, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let cluster = Cluster::of(&[binary::ours(), peer.clone(), peer]).start().await;
        let load = Load::start("load", &cluster.clients(), 8);
        // Under stock leaders and under ours.
        for leader in [1, OURS, 2] {
            move_leader(&cluster, leader).await;
            load.progress(writes / 3 + 1, PROGRESS_LIMIT + Duration::from_millis(5 * writes)).await;
        }
        let acks = load.stop().await;
        cluster.assert_equal_hashes().await;
        for member in &cluster.members {
            let all = member.client().prefix("load", false).await.expect("read");
            load::verify(&acks, &all.kvs, &member.name);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_catches_up_from_the_other() {
    bounded(8 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let mut cluster = Cluster::of(&[binary::ours(), peer.clone(), peer]).start().await;
        // Ours leads while a stock member is away, then the other way round.
        for (leader, away) in [(OURS, 1), (2, OURS)] {
            move_leader(&cluster, leader).await;
            cluster.members[away].stop().await;
            let present: Vec<_> = (0..3).filter(|&n| n != away).map(|n| cluster.client(n)).collect();
            let load = Load::start(&format!("load/{away}"), &present, 8);
            load.progress(300, PROGRESS_LIMIT).await;
            let acks = load.stop().await;
            cluster.members[away].restart().await;
            cluster.assert_equal_hashes().await;
            let all = cluster.client(away).prefix(&format!("load/{away}"), false).await.expect("read");
            load::verify(&acks, &all.kvs, "the one that was away");
        }
    })
    .await;
}

/// Logs in at a member; calls with the token.
async fn log_in(cluster: &Cluster, at: usize, name: &str) -> String {
    let request = AuthenticateRequest { name: name.into(), password: name.into() };
    let answer = auth(cluster, at).authenticate(request).await.expect("a login");
    answer.into_inner().token
}

fn channel(cluster: &Cluster, at: usize) -> Channel {
    let url = cluster.members[at].client_url.clone();
    Endpoint::from_shared(url).expect("member URLs are valid").connect_lazy()
}

fn auth(cluster: &Cluster, at: usize) -> AuthClient<Channel> {
    AuthClient::new(channel(cluster, at))
}

fn with_token<T>(token: &str, request: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("token", token.parse().expect("letters and digits"));
    request
}

/// What members know of users and roles.
async fn picture(cluster: &Cluster, at: usize) -> Vec<String> {
    let mut auth = auth(cluster, at);
    let users = auth.user_list(AuthUserListRequest {}).await.expect("users").into_inner().users;
    let roles = auth.role_list(AuthRoleListRequest {}).await.expect("roles").into_inner().roles;
    let mut all = Vec::new();
    for name in users {
        let user = auth.user_get(AuthUserGetRequest { name: name.clone() }).await.expect("user").into_inner();
        all.push(format!("{name}: {:?}", user.roles));
    }
    for role in roles {
        let found =
            auth.role_get(AuthRoleGetRequest { role: role.clone() }).await.expect("role").into_inner();
        all.push(format!("{role}: {:?}", found.perm));
    }
    let revision = auth.auth_status(AuthStatusRequest {}).await.expect("status").into_inner().auth_revision;
    all.push(format!("revision {revision}"));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_tokens_are_the_same_for_members_of_both_kinds() {
    bounded(8 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let mut cluster =
            Cluster::of(&[binary::ours(), peer.clone(), peer]).args(["--bcrypt-cost=4"]).start().await;
        // Each member makes some of it.
        for (at, name) in ["root", "alice", "bob"].into_iter().enumerate() {
            let request =
                AuthUserAddRequest { name: name.into(), password: name.into(), ..Default::default() };
            auth(&cluster, at).user_add(request).await.expect("a user");
            let role = if name == "root" { "root" } else { "r" };
            let _ = auth(&cluster, at).role_add(AuthRoleAddRequest { name: role.into() }).await;
            let grant = AuthUserGrantRoleRequest { user: name.into(), role: role.into() };
            auth(&cluster, (at + 1) % 3).user_grant_role(grant).await.expect("a role");
            let perm =
                Permission { perm_type: 2, key: format!("k{at}").into(), range_end: Default::default() };
            let grant = AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) };
            auth(&cluster, (at + 2) % 3).role_grant_permission(grant).await.expect("a permission");
        }
        auth(&cluster, 1).auth_enable(AuthEnableRequest {}).await.expect("authentication");
        for (at, name) in [(0, "alice"), (1, "bob"), (2, "alice"), (0, "bob")] {
            let token = log_in(&cluster, at, name).await;
            for other in 0..3 {
                let mut kv = KvClient::new(channel(&cluster, other));
                let put = |key: &'static str| PutRequest { key: key.into(), ..Default::default() };
                kv.put(with_token(&token, put("k1"))).await.expect("what is permitted");
                let denied = kv.put(with_token(&token, put("x"))).await.expect_err("what is not");
                assert_eq!(denied.message(), "etcdserver: permission denied", "{name} from {at} at {other}");
            }
        }
        // A password changed at one is another at all, and tokens end.
        let old = log_in(&cluster, 2, "alice").await;
        let root = log_in(&cluster, 0, "root").await;
        let change = AuthUserChangePasswordRequest {
            name: "alice".into(),
            password: "other".into(),
            ..Default::default()
        };
        auth(&cluster, 0).user_change_password(with_token(&root, change)).await.expect("a password");
        for at in 0..3 {
            let request = AuthenticateRequest { name: "alice".into(), password: "alice".into() };
            assert!(auth(&cluster, at).authenticate(request).await.is_err());
            let request = AuthenticateRequest { name: "alice".into(), password: "other".into() };
            auth(&cluster, at).authenticate(request).await.expect("the new one");
            let get = RangeRequest { key: "k1".into(), ..Default::default() };
            let refused = KvClient::new(channel(&cluster, at)).range(with_token(&old, get)).await;
            assert_eq!(refused.expect_err("a token of before").message(), "etcdserver: invalid auth token");
        }
        auth(&cluster, 0).auth_disable(with_token(&root, AuthDisableRequest {})).await.expect("open again");
        let known = picture(&cluster, 0).await;
        for at in 1..3 {
            assert_eq!(picture(&cluster, at).await, known);
        }
        cluster.assert_equal_hashes().await;
        // What ours has on disk says the same.
        cluster.members[OURS].stop().await;
        cluster.members[OURS].restart().await;
        assert_eq!(picture(&cluster, OURS).await, known);
    })
    .await;
}
