//! A server with users in it, and clients that are one of them.

use std::{
    net::TcpListener,
    path::Path,
    sync::atomic::{AtomicU16, Ordering},
};

use proto::{
    authpb::{Permission, UserAddOptions, permission::Type},
    etcdserverpb::{
        self as pb, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient,
        lease_client::LeaseClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
    },
};
use store::{
    config::{Command, Config},
    server::Server,
};
use tonic::{
    Code, Request, Status,
    codegen::{InterceptedService, tokio_stream},
    transport::Channel,
};

/// Ports that are free, below those that the system gives to outgoing connections: a stopped member finds its own
/// again.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16 % 10_000;
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}

/// Member `own` of a cluster whose members have these peer ports.
pub fn config(data: &Path, peers: &[u16], own: usize, more: &[&str]) -> Config {
    let cluster: Vec<String> =
        peers.iter().enumerate().map(|(i, port)| format!("m{i}=http://127.0.0.1:{port}")).collect();
    let peer = format!("http://127.0.0.1:{}", peers[own]);
    let arguments = [
        ("name", format!("m{own}")),
        ("data-dir", data.join(format!("m{own}")).display().to_string()),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("listen-client-urls", "http://127.0.0.1:0".into()),
        ("advertise-client-urls", "http://127.0.0.1:1".into()),
        ("initial-cluster", cluster.join(",")),
        ("initial-cluster-token", "auth".into()),
        ("heartbeat-interval", "20".into()),
        ("election-timeout", "200".into()),
    ];
    let arguments = arguments.into_iter().map(|(name, value)| format!("--{name}={value}"));
    let mut arguments: Vec<String> = arguments.collect();
    // As cheap as bcrypt can be.
    if !more.iter().any(|argument| argument.starts_with("--bcrypt-cost")) {
        arguments.push("--bcrypt-cost=4".into());
    }
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    match Command::parse(arguments, []) {
        Ok(Command::Run { config, .. }) => *config,
        other => panic!("{other:?}"),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub async fn start(config: Config) -> Server {
    let server = blocking(|| Server::start(config).unwrap()).await;
    server.ready().await;
    server
}

pub async fn stop(server: Server) {
    blocking(|| server.stop()).await;
}

/// A server of one member, and the directory that holds its data.
pub struct Alone {
    pub server: Server,
    pub data: tempfile::TempDir,
}

impl Alone {
    pub async fn start(more: &[&str]) -> Alone {
        let data = tempfile::tempdir().unwrap();
        let peers = free_ports(1);
        let server = start(config(data.path(), &peers, 0, more)).await;
        Alone { server, data }
    }

    /// With the users of `populate` in it, and authentication on.
    pub async fn guarded(more: &[&str]) -> Alone {
        let alone = Alone::start(more).await;
        let nobody = Client::new(&alone.server);
        nobody.populate().await;
        nobody.change(pb::AuthEnableRequest {}).await.unwrap();
        alone
    }

    pub fn nobody(&self) -> Client {
        Client::new(&self.server)
    }

    pub async fn log_in(&self, name: &str) -> Client {
        log_in(&self.server, name).await
    }

    pub async fn stop(self) {
        stop(self.server).await;
    }
}

pub async fn log_in(server: &Server, name: &str) -> Client {
    let mut client = Client::new(server);
    client.token = Some(client.authenticate(name, &password_of(name)).await.unwrap());
    client
}

pub fn password_of(name: &str) -> String {
    format!("the password of {name}")
}

/// A client that shows a token, or none.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    pub token: Option<String>,
}

/// Adds the token to what is sent.
#[derive(Clone)]
pub struct Show(Option<String>);

impl tonic::service::Interceptor for Show {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.parse().unwrap());
        }
        Ok(request)
    }
}

type Shown = InterceptedService<Channel, Show>;

impl Client {
    pub fn new(server: &Server) -> Client {
        Client::over(server.channel())
    }

    pub fn over(channel: Channel) -> Client {
        Client { channel, token: None }
    }

    pub fn with(&self, token: &str) -> Client {
        Client { channel: self.channel.clone(), token: Some(token.into()) }
    }

    fn show(&self) -> Show {
        Show(self.token.clone())
    }

    pub fn kv(&self) -> KvClient<Shown> {
        KvClient::with_interceptor(self.channel.clone(), self.show())
    }

    pub fn watches(&self) -> WatchClient<Shown> {
        WatchClient::with_interceptor(self.channel.clone(), self.show())
    }

    pub fn lease(&self) -> LeaseClient<Shown> {
        LeaseClient::with_interceptor(self.channel.clone(), self.show())
    }

    pub fn cluster(&self) -> ClusterClient<Shown> {
        ClusterClient::with_interceptor(self.channel.clone(), self.show())
    }

    pub fn maintenance(&self) -> MaintenanceClient<Shown> {
        MaintenanceClient::with_interceptor(self.channel.clone(), self.show())
    }

    pub fn auth(&self) -> AuthClient<Shown> {
        AuthClient::with_interceptor(self.channel.clone(), self.show())
    }

    pub fn health(&self) -> proto::grpc::health::v1::health_client::HealthClient<Shown> {
        proto::grpc::health::v1::health_client::HealthClient::with_interceptor(
            self.channel.clone(),
            self.show(),
        )
    }

    pub async fn authenticate(&self, name: &str, password: &str) -> Result<String, Status> {
        let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
        Ok(self.auth().authenticate(request).await?.into_inner().token)
    }

    pub async fn change<C: Change>(&self, request: C) -> Result<(), Status> {
        request.send(self.auth()).await
    }

    pub async fn add_user(&self, name: &str, roles: &[&str]) {
        let (name, password) = (name.to_owned(), password_of(name));
        self.change(pb::AuthUserAddRequest { name: name.clone(), password, ..Default::default() })
            .await
            .unwrap();
        for role in roles {
            self.change(pb::AuthUserGrantRoleRequest { user: name.clone(), role: (*role).into() })
                .await
                .unwrap();
        }
    }

    pub async fn add_role(&self, name: &str, kind: Type, key: &str, range_end: &str) {
        self.change(pb::AuthRoleAddRequest { name: name.into() }).await.unwrap();
        self.change(permit(name, kind, key, range_end)).await.unwrap();
    }

    /// Roles and users of all kinds, around the keys from `k` up to `l`.
    pub async fn populate(&self) {
        self.add_role("reads", Type::Read, "k", "l").await;
        self.add_role("writes", Type::Write, "k", "l").await;
        self.add_role("does", Type::Readwrite, "k", "l").await;
        self.add_role("reads-one", Type::Read, "k", "").await;
        self.add_user("root", &["root"]).await;
        self.add_user("reader", &["reads"]).await;
        self.add_user("writer", &["writes"]).await;
        self.add_user("doer", &["does"]).await;
        self.add_user("both", &["reads", "writes"]).await;
        self.add_user("one", &["reads-one"]).await;
        self.add_user("roleless", &[]).await;
        let options = Some(UserAddOptions { no_password: true });
        self.change(pb::AuthUserAddRequest { name: "certified".into(), options, ..Default::default() })
            .await
            .unwrap();
    }

    pub async fn put(&self, key: &str) -> Result<(), Status> {
        self.kv().put(put(key)).await.map(drop)
    }

    pub async fn get(&self, key: &str) -> Result<Vec<String>, Status> {
        self.range(get(key)).await
    }

    /// The keys of a range.
    pub async fn range(&self, request: pb::RangeRequest) -> Result<Vec<String>, Status> {
        let kvs = self.kv().range(request).await?.into_inner().kvs;
        Ok(kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect())
    }

    pub async fn grant(&self) -> Result<i64, Status> {
        Ok(self.lease().lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 0 }).await?.into_inner().id)
    }

    /// A lease with this key attached.
    pub async fn lease_on(&self, key: &str) -> i64 {
        let lease = self.grant().await.unwrap();
        self.kv().put(pb::PutRequest { lease, ..put(key) }).await.unwrap();
        lease
    }

    pub async fn keep_alive(&self, id: i64) -> Result<i64, Status> {
        let requests = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let mut answers = self.lease().lease_keep_alive(requests).await?.into_inner();
        Ok(answers.message().await?.unwrap().ttl)
    }

    /// A watch of this range, or the reason why it is refused.
    pub async fn watch(&self, key: &str, range_end: &str) -> Result<Watch, String> {
        let create = pb::WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
            ..Default::default()
        };
        let (requests, queue) = tokio::sync::mpsc::channel(8);
        requests.send(created(create)).await.unwrap();
        let queue = tokio_stream::StreamExt::chain(receiver(queue), tokio_stream::pending());
        let mut answers =
            self.watches().watch(queue).await.map_err(|status| status.message().to_owned())?.into_inner();
        let first = answers.message().await.unwrap().unwrap();
        assert!(first.created);
        match first.canceled {
            true => Err(first.cancel_reason),
            false => Ok(Watch { requests, answers }),
        }
    }
}

fn created(create: pb::WatchCreateRequest) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

fn receiver<T>(mut queue: tokio::sync::mpsc::Receiver<T>) -> impl tokio_stream::Stream<Item = T> {
    Box::pin(futures_util::stream::poll_fn(move |cx| queue.poll_recv(cx)))
}

pub struct Watch {
    requests: tokio::sync::mpsc::Sender<pb::WatchRequest>,
    answers: tonic::Streaming<pb::WatchResponse>,
}

impl Watch {
    /// The key of the next event.
    pub async fn event(&mut self) -> String {
        let event = self.answers.message().await.unwrap().unwrap().events.remove(0);
        String::from_utf8_lossy(&event.kv.unwrap().key).into_owned()
    }

    /// Another watcher on the stream; why it is refused, if it is.
    pub async fn another(&mut self, key: &str) -> Option<String> {
        let create = pb::WatchCreateRequest { key: key.to_owned().into(), ..Default::default() };
        self.requests.send(created(create)).await.unwrap();
        let answer = self.answers.message().await.unwrap().unwrap();
        assert!(answer.created);
        answer.canceled.then_some(answer.cancel_reason)
    }
}

/// A request that changes users, roles, or whether they count.
pub trait Change {
    fn send(self, auth: AuthClient<Shown>) -> impl Future<Output = Result<(), Status>>;
}

macro_rules! changes {
    ($($request:ident $method:ident;)*) => {$(
        impl Change for pb::$request {
            async fn send(self, mut auth: AuthClient<Shown>) -> Result<(), Status> {
                let response = auth.$method(self).await?.into_inner();
                // A header and nothing else.
                assert_ne!(response.header.unwrap().cluster_id, 0);
                Ok(())
            }
        }
    )*};
}

changes! {
    AuthEnableRequest auth_enable;
    AuthDisableRequest auth_disable;
    AuthUserAddRequest user_add;
    AuthUserDeleteRequest user_delete;
    AuthUserChangePasswordRequest user_change_password;
    AuthUserGrantRoleRequest user_grant_role;
    AuthUserRevokeRoleRequest user_revoke_role;
    AuthRoleAddRequest role_add;
    AuthRoleDeleteRequest role_delete;
    AuthRoleGrantPermissionRequest role_grant_permission;
    AuthRoleRevokePermissionRequest role_revoke_permission;
}

pub fn permit(name: &str, kind: Type, key: &str, range_end: &str) -> pb::AuthRoleGrantPermissionRequest {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    let perm = Some(Permission { perm_type: kind as i32, key, range_end });
    pb::AuthRoleGrantPermissionRequest { name: name.into(), perm }
}

pub fn delete_user(name: &str) -> pb::AuthUserDeleteRequest {
    pb::AuthUserDeleteRequest { name: name.into() }
}

pub fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() }
}

pub fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

pub fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }
}

/// Refusals as clients see them.
pub const USER_EMPTY: (Code, &str) = (Code::InvalidArgument, "etcdserver: user name is empty");
pub const INVALID_TOKEN: (Code, &str) = (Code::Unauthenticated, "etcdserver: invalid auth token");
pub const DENIED: (Code, &str) = (Code::PermissionDenied, "etcdserver: permission denied");
pub const OLD_REVISION: (Code, &str) = (Code::InvalidArgument, "etcdserver: revision of auth store is old");
pub const LOGIN_FAILED: (Code, &str) =
    (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");

pub fn refusal<T>(result: Result<T, Status>) -> Option<(Code, String)> {
    result.err().map(|status| (status.code(), status.message().to_owned()))
}

#[track_caller]
pub fn assert_refused<T>(result: Result<T, Status>, (code, text): (Code, &str)) {
    assert_eq!(refusal(result), Some((code, text.to_owned())));
}
