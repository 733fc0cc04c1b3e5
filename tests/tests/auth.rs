//! What users cost: figures of a member with auth enabled, over real processes. Rules and refusals are tested beside
//! the module, and next to stock etcd in `differential`.

use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::{binary, http, setting};
use proto::authpb::{Permission, permission::Type};
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest,
    AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest, PutRequest, RangeRequest,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::{Interceptor, interceptor::InterceptedService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

#[derive(Clone)]
struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

type Auth = AuthClient<InterceptedService<Channel, Token>>;

fn channel(cluster: &Cluster) -> Channel {
    Endpoint::from_shared(cluster.members[0].client_url.clone()).expect("a URL").connect_lazy()
}

fn auth(cluster: &Cluster, token: Token) -> Auth {
    AuthClient::with_interceptor(channel(cluster), token)
}

async fn log_in(mut auth: Auth, name: &str) -> Token {
    let request = AuthenticateRequest { name: name.into(), password: "secret".into() };
    let answer = auth.authenticate(request).await.expect("a login").into_inner();
    Token(Some(answer.token.parse().expect("a token")))
}

/// Root, and so many users that may read and write below `k`.
async fn add_users(cluster: &Cluster, users: u64) {
    let mut auth = auth(cluster, Token(None));
    let names = (0..users).map(|n| (format!("user{n}"), "writes"));
    auth.role_add(AuthRoleAddRequest { name: "root".into() }).await.expect("a role");
    auth.role_add(AuthRoleAddRequest { name: "writes".into() }).await.expect("a role");
    let permission = Permission { perm_type: Type::Readwrite as i32, key: "k".into(), range_end: "l".into() };
    let grant = AuthRoleGrantPermissionRequest { name: "writes".into(), perm: Some(permission) };
    auth.role_grant_permission(grant).await.expect("a permission");
    for (name, role) in names.chain([("root".to_owned(), "root")]) {
        let add = AuthUserAddRequest { name: name.clone(), password: "secret".into(), ..Default::default() };
        auth.user_add(add).await.expect("a user");
        let grant = AuthUserGrantRoleRequest { user: name, role: role.into() };
        auth.user_grant_role(grant).await.expect("a role of a user");
    }
}

/// Processor time of the server for the same requests with auth enabled and without.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn cost() {
    let cluster = Cluster::start(&binary::ours(), 1).await;
    add_users(&cluster, 1).await;
    let requests = setting("KEELSON_AUTH_REQUESTS", 100_000);
    let used = || async {
        http::metric(cluster.members[0].client_address(), "process_cpu_seconds_total")
            .await
            .expect("a figure")
    };
    let mut ratios = [const { Vec::new() }; 2];
    for round in 0..setting("KEELSON_ROUNDS", 6) {
        let mut spent = [[0.0; 2]; 2];
        // What comes second finds a warmer machine.
        for enabled in if round % 2 == 0 { [false, true] } else { [true, false] } {
            let token = match enabled {
                false => Token(None),
                true => {
                    auth(&cluster, Token(None)).auth_enable(AuthEnableRequest {}).await.expect("enabled");
                    log_in(auth(&cluster, Token(None)), "user0").await
                }
            };
            let clients: Vec<_> =
                (0..4).map(|_| KvClient::with_interceptor(channel(&cluster), token.clone())).collect();
            for puts in [true, false] {
                let before = used().await;
                let tasks = (0..64).map(|n| {
                    let mut kv = clients[n % clients.len()].clone();
                    tokio::spawn(async move {
                        for i in 0..requests / 64 {
                            let key = format!("k{n}/{}", i % 1000).into();
                            if puts {
                                let value = vec![b'v'; 256].into();
                                kv.put(PutRequest { key, value, ..Default::default() }).await.expect("a put");
                            } else {
                                kv.range(RangeRequest { key, ..Default::default() }).await.expect("a get");
                            }
                        }
                    })
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.await.expect("a load");
                }
                spent[usize::from(puts)][usize::from(enabled)] =
                    (used().await - before) * 1e6 / requests as f64;
            }
            if enabled {
                let root = log_in(auth(&cluster, Token(None)), "root").await;
                auth(&cluster, root).auth_disable(AuthDisableRequest {}).await.expect("disabled");
            }
        }
        for (operation, [without, with]) in [("get", spent[0]), ("put", spent[1])] {
            let ratio = with / without;
            println!(
                "round {round}: {operation}: {without:.1} us of processor time without auth, {with:.1} with it: {ratio:.3}"
            );
            ratios[usize::from(operation == "put")].push(ratio);
        }
    }
    println!("median: get {:.3}, put {:.3}", median(&mut ratios[0]), median(&mut ratios[1]));
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Beside {
    Nothing,
    /// What any 1,000 requests a second cost: the client shares the machine.
    Gets,
    Logins,
}

/// Times of puts, one at a time, alone, beside 1,000 gets a second, and beside 1,000 logins a second of users whose
/// passwords are known already.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn puts_beside_logins() {
    const USERS: u64 = 1000;
    let cluster = Cluster::start(&binary::ours(), 1).await;
    add_users(&cluster, USERS).await;
    auth(&cluster, Token(None)).auth_enable(AuthEnableRequest {}).await.expect("enabled");
    let logins = auth(&cluster, Token(None));
    for n in 0..USERS {
        log_in(logins.clone(), &format!("user{n}")).await;
    }
    let token = log_in(logins.clone(), "user0").await;
    let mut kv = KvClient::with_interceptor(channel(&cluster), token.clone());
    let gets = KvClient::with_interceptor(channel(&cluster), token);
    let mut halves = [const { Vec::new() }; 3];
    for round in 0..setting("KEELSON_ROUNDS", 6) {
        let mut kinds = [Beside::Nothing, Beside::Gets, Beside::Logins];
        kinds.rotate_left(round as usize % 3);
        for beside in kinds {
            let flood = (beside != Beside::Nothing).then(|| {
                let (logins, gets) = (logins.clone(), gets.clone());
                tokio::spawn(async move {
                    let mut pace = tokio::time::interval(Duration::from_millis(1));
                    for n in 0.. {
                        pace.tick().await;
                        let (logins, mut gets) = (logins.clone(), gets.clone());
                        tokio::spawn(async move {
                            if beside == Beside::Logins {
                                log_in(logins, &format!("user{}", n % USERS)).await;
                            } else {
                                gets.range(RangeRequest { key: "k".into(), ..Default::default() })
                                    .await
                                    .expect("a get");
                            }
                        });
                    }
                })
            });
            let mut times: Vec<Duration> = Vec::new();
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end {
                let start = Instant::now();
                let put = PutRequest { key: "k".into(), value: vec![b'v'; 256].into(), ..Default::default() };
                kv.put(put).await.expect("a put");
                times.push(start.elapsed());
            }
            if let Some(flood) = flood {
                flood.abort();
            }
            times.sort();
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            println!(
                "round {round}: puts beside {beside:?}: {} done, p50 {:?}, p99 {:?}",
                times.len(),
                at(0.5),
                at(0.99)
            );
            halves[beside as usize].push(at(0.5).as_secs_f64());
        }
    }
    let [alone, gets, logins] = halves.each_mut().map(|it| median(it));
    println!(
        "median of p50 {alone:.6} s; beside gets {:.3} of it, beside logins {:.3}",
        gets / alone,
        logins / alone
    );
}
