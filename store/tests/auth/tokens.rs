//! Logging in, and what becomes of tokens.

use std::time::Duration;

use proto::{
    authpb::{UserAddOptions, permission::Type},
    etcdserverpb as pb,
};
use tonic::Code;

use super::support::{
    Alone, Client, DENIED, INVALID_TOKEN, LOGIN_FAILED, OLD_REVISION, USER_EMPTY, assert_refused, config,
    delete_user, free_ports, log_in, password_of, permit, refusal, start, stop,
};

#[tokio::test(flavor = "multi_thread")]
async fn names_and_passwords_are_refused_alike() {
    let alone = Alone::guarded(&[]).await;
    let nobody = alone.nobody();
    for (name, password) in [("root", "wrong"), ("root", ""), ("stranger", "wrong"), ("", "")] {
        assert_refused(nobody.authenticate(name, password).await, LOGIN_FAILED);
    }
    let text = "auth: authentication failed, password was given for no password user";
    assert_refused(nobody.authenticate("certified", "x").await, (Code::Unknown, text));
    // Right once, and right again, and wrong all the same.
    for _ in 0..2 {
        nobody.authenticate("root", &password_of("root")).await.unwrap();
        assert_refused(nobody.authenticate("root", "wrong").await, LOGIN_FAILED);
    }
    let root = alone.log_in("root").await;
    let long = "x".repeat(73);
    let change = |password: &str| pb::AuthUserChangePasswordRequest {
        name: "root".into(),
        password: password.into(),
        ..Default::default()
    };
    assert_refused(
        root.change(change(&long)).await,
        (Code::Unknown, "bcrypt: password length exceeds 72 bytes"),
    );
    // Nothing that a database could not hold: no snapshot would be saved any more.
    let limit = 32_768;
    for (name, fits) in [("u".repeat(limit), true), ("u".repeat(limit + 1), false)] {
        let options = Some(UserAddOptions { no_password: true });
        let user = pb::AuthUserAddRequest { name: name.clone(), options, ..Default::default() };
        for outcome in [root.change(user).await, root.change(pb::AuthRoleAddRequest { name }).await] {
            match fits {
                true => outcome.unwrap(),
                false => {
                    assert_refused(outcome, (Code::InvalidArgument, "etcdserver: request is too large"));
                }
            }
        }
    }
    root.change(change(&long[..72])).await.unwrap();
    assert_refused(nobody.authenticate("root", &password_of("root")).await, LOGIN_FAILED);
    let token = nobody.authenticate("root", &long[..72]).await.unwrap();
    let (letters, index) = token.split_once('.').unwrap();
    assert!(letters.len() == 16 && letters.bytes().all(|letter| letter.is_ascii_alphabetic()));
    assert!(index.parse::<u64>().unwrap() > 0);
    drop((nobody, root));
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_its_password_its_user_and_authentication() {
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    let (doer, other) = (alone.log_in("doer").await, alone.log_in("both").await);
    let password = password_of("doer");
    let change = pb::AuthUserChangePasswordRequest { name: "doer".into(), password, ..Default::default() };
    root.change(change).await.unwrap();
    assert_refused(doer.put("k").await, INVALID_TOKEN);
    other.put("k").await.unwrap();
    let doer = alone.log_in("doer").await;
    doer.put("k").await.unwrap();
    root.change(delete_user("doer")).await.unwrap();
    assert_refused(doer.put("k").await, INVALID_TOKEN);
    // No token outlives a time in which nobody asked for it.
    root.change(pb::AuthDisableRequest {}).await.unwrap();
    other.put("k").await.unwrap();
    assert_refused(
        alone.nobody().authenticate("root", "x").await,
        (Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
    );
    alone.nobody().change(pb::AuthEnableRequest {}).await.unwrap();
    assert_refused(other.put("k").await, INVALID_TOKEN);
    assert_refused(root.change(pb::AuthDisableRequest {}).await, INVALID_TOKEN);
    alone.log_in("both").await.put("k").await.unwrap();
    drop((root, doer, other));
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_in_either_header() {
    let alone = Alone::guarded(&[]).await;
    let token = alone.log_in("doer").await.token.unwrap();
    for value in [token.clone(), format!("Bearer {token}")] {
        let mut request = tonic::Request::new(super::support::put("k"));
        request.metadata_mut().insert("authorization", value.parse().unwrap());
        alone.nobody().kv().put(request).await.unwrap();
    }
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_knows_users_rules_and_tokens() {
    let data = tempfile::tempdir().unwrap();
    let peers = free_ports(3);
    let starting = (0..3).map(|own| {
        let config = config(data.path(), &peers, own, &[]);
        tokio::spawn(start(config))
    });
    let mut servers = Vec::new();
    for server in starting.collect::<Vec<_>>() {
        servers.push(server.await.unwrap());
    }
    let nobody = Client::new(&servers[0]);
    nobody.populate().await;
    nobody.change(pb::AuthEnableRequest {}).await.unwrap();
    for round in 0..20 {
        // A token is good at every member, however late that hears of it.
        let doer = log_in(&servers[round % 3], "doer").await;
        for server in &servers {
            let there = Client::new(server).with(doer.token.as_deref().unwrap());
            there.put("k").await.unwrap();
            assert_refused(there.put("x").await, DENIED);
        }
    }
    let root = log_in(&servers[1], "root").await;
    let doer = log_in(&servers[2], "doer").await;
    root.change(permit("does", Type::Readwrite, "x", "")).await.unwrap();
    // The first try may come with the rules of before, and says so.
    match refusal(doer.put("x").await) {
        None => {}
        Some((code, text)) => {
            assert!((code, text.as_str()) == OLD_REVISION || (code, text.as_str()) == DENIED)
        }
    }
    doer.get("x").await.unwrap();
    doer.put("x").await.unwrap();

    // What is on disk is enough, and tokens are not.
    drop((nobody, root, doer));
    stop(servers.remove(2)).await;
    let again = start(config(data.path(), &peers, 2, &[])).await;
    assert_refused(Client::new(&again).put("k").await, USER_EMPTY);
    log_in(&again, "doer").await.put("x").await.unwrap();
    let hashes = async |server| {
        let root = log_in(server, "root").await;
        root.maintenance().hash(pb::HashRequest {}).await.unwrap().into_inner().hash
    };
    let first = hashes(&again).await;
    for server in &servers {
        assert_eq!(hashes(server).await, first, "users and roles are the same bytes everywhere");
    }
    servers.push(again);
    for server in servers {
        stop(server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_by_themselves_also_when_nobody_may_end_them() {
    let alone = Alone::guarded(&[]).await;
    let root = alone.log_in("root").await;
    let mut watch = root.watch("secret", "").await.ok().unwrap();
    let lease =
        root.lease().lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 }).await.unwrap().into_inner().id;
    root.kv().put(pb::PutRequest { lease, ..super::support::put("secret") }).await.unwrap();
    assert_eq!(watch.event().await, "secret");
    assert_eq!(watch.event().await, "secret", "it is deleted");
    assert!(root.get("secret").await.unwrap().is_empty());
    drop((root, watch));
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_tokens_name_the_rules_they_were_made_under() {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    std::fs::write(&key, "a secret of both").unwrap();
    let flag = format!("--auth-token=jwt,priv-key={},sign-method=HS256,ttl=1h", key.display());
    let alone = Alone::guarded(&[&flag]).await;
    let doer = alone.log_in("doer").await;
    assert_eq!(doer.token.as_ref().unwrap().split('.').count(), 3);
    doer.put("k").await.unwrap();
    let root = alone.log_in("root").await;
    root.change(permit("reads", Type::Read, "x", "")).await.unwrap();
    assert_refused(doer.put("k").await, OLD_REVISION);
    assert_refused(doer.get("k").await, OLD_REVISION);
    let old = "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old";
    assert_eq!(doer.watch("k", "").await.err().as_deref(), Some(old));
    // Role root is looked up as of now.
    root.change(permit("reads", Type::Read, "y", "")).await.unwrap();
    let doer = alone.log_in("doer").await;
    doer.put("k").await.unwrap();
    assert_refused(alone.nobody().with("x.y.z").put("k").await, INVALID_TOKEN);
    assert_refused(alone.nobody().with("abcdefghijklmnop.1").put("k").await, INVALID_TOKEN);
    // It lives on after its user, and opens nothing.
    root.change(delete_user("doer")).await.unwrap();
    assert_refused(doer.put("k").await, OLD_REVISION);
    assert_refused(doer.grant().await, DENIED);
    drop((doer, root));
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_passwords_costs_others_nothing() {
    // Each takes bcrypt about 100 ms.
    let alone = Alone::guarded(&["--bcrypt-cost=11"]).await;
    let doer = alone.log_in("doer").await;
    let flood: Vec<_> = (0..400)
        .map(|number| {
            let nobody = alone.nobody();
            let name = if number % 2 == 0 { "root" } else { "stranger" };
            tokio::spawn(async move { refusal(nobody.authenticate(name, &number.to_string()).await) })
        })
        .collect();
    // Meanwhile others come for the first time, and who is known is served and comes in again.
    let served = async {
        for name in ["reader", "writer", "both"] {
            alone.log_in(name).await;
        }
        for _ in 0..20 {
            doer.put("k").await.unwrap();
            doer.authenticate("doer", &password_of("doer")).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served).await.unwrap();
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    for attempt in flood {
        if let Ok(answer) = attempt.await {
            let (code, text) = answer.unwrap();
            assert_eq!((code, text.as_str()), LOGIN_FAILED);
        }
    }
    drop(doer);
    alone.stop().await;
}

/// Logins a second of users who came before, and puts meanwhile: `cargo test --release --test auth -- --ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn logins_a_second() {
    let alone = Alone::guarded(&["--bcrypt-cost=10"]).await;
    let doer = alone.log_in("doer").await;
    let puts = async |count: u32| {
        let began = std::time::Instant::now();
        for _ in 0..count {
            doer.put("k").await.unwrap();
        }
        began.elapsed() / count
    };
    let quiet = puts(500).await;
    let began = std::time::Instant::now();
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let nobody = alone.nobody();
            tokio::spawn(async move {
                for _ in 0..200 {
                    nobody.authenticate("doer", &password_of("doer")).await.unwrap();
                }
            })
        })
        .collect();
    let busy = puts(500).await;
    for client in clients {
        client.await.unwrap();
    }
    let rate = 64.0 * 200.0 / began.elapsed().as_secs_f64();
    println!("{rate:.0} logins a second; a put takes {quiet:?} alone and {busy:?} meanwhile");
    drop(doer);
    alone.stop().await;
}
