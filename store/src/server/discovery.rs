//! Discovery: a new member learns who founds its cluster, from DNS or from a discovery service.
//!
//! Comes once, before there are data; what is found takes the place of `--initial-cluster`. DNS is asked for SRV
//! records. A discovery service is an etcd: each member puts its name and peer URLs below the cluster's token, and
//! waits until as many are there as the operator wrote down; the first to come are the founders. What the service
//! cannot answer now is asked again, of the next endpoint. Source: etcd `server/etcdserver/api/v3discovery`,
//! `client/pkg/srv`.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use proto::etcdserverpb::{
    AuthenticateRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest,
    auth_client::AuthClient,
    kv_client::KvClient,
    range_request::{SortOrder, SortTarget},
    watch_client::WatchClient,
    watch_request::RequestUnion,
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{StartError, failed};
use crate::{
    config::{Config, Discovery, InitialCluster, TlsInfo},
    membership::Member,
    peer::net::{self, PeerUrl},
    tls::{Material, Side},
};

const REGISTRY: &str = "/_etcd/registry";
/// Pauses double from two seconds on, this often.
const MAX_DOUBLINGS: u32 = 8;
/// Servers of the other kind end connections with more pings; its clients make no more either.
const MIN_PING_INTERVAL: Duration = Duration::from_secs(10);

/// Settles who founds the cluster, where that is to be discovered.
pub async fn settle(config: &mut Config) -> Result<(), StartError> {
    if !config.discovery.srv.is_empty() {
        config.initial_cluster = from_dns(config).await?;
    } else if !config.discovery.endpoints.is_empty() {
        config.initial_cluster_token = config.discovery.token.clone();
        config.initial_cluster = from_service(config).await?;
        tracing::info!(cluster = config.initial_cluster, "discovery joined cluster successfully");
    }
    Ok(())
}

async fn from_dns(config: &Config) -> Result<String, StartError> {
    let Discovery { srv: domain, srv_name, .. } = &config.discovery;
    let suffix = if srv_name.is_empty() { String::new() } else { format!("-{srv_name}") };
    let mut own = HashMap::new();
    for url in &config.initial_advertise_peer_urls {
        let addresses = resolve(url.host(), url.port()).await;
        let addresses = addresses.map_err(failed("cannot resolve an advertised peer URL"))?;
        own.extend(addresses.into_iter().map(|address| (address, url)));
    }
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for (scheme, service) in
        [("https", format!("etcd-server-ssl{suffix}")), ("http", format!("etcd-server{suffix}"))]
    {
        let (asked, of) = (service.clone(), domain.clone());
        let answer = tokio::task::spawn_blocking(move || srv::look_up(&asked, &of)).await;
        let targets = match answer.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(targets) => targets,
            Err(error) => {
                tracing::info!(service, error, "DNS names nobody for this service");
                errors.push(format!("error querying DNS SRV records for _{service} {error}"));
                continue;
            }
        };
        let mut unnamed = 0;
        for (host, port) in targets {
            let url = format!("{scheme}://{host}:{port}");
            // Left out here and not by others, it would make this a cluster of its own.
            let addresses = resolve(&host, port).await.map_err(|error| {
                StartError(format!("cannot resolve {url}, which DNS names for {service}: {error}"))
            })?;
            let name = match addresses.iter().find_map(|address| own.get(address)) {
                Some(own) if own.scheme().as_str() != scheme => {
                    let error = format!(
                        "bootstrap at {url} from DNS for {service} has scheme mismatch with expected peer {own}"
                    );
                    tracing::warn!(error, "ignored what DNS names");
                    errors.push(error);
                    continue;
                }
                Some(_) => config.name.clone(),
                None => {
                    unnamed += 1;
                    (unnamed - 1).to_string()
                }
            };
            tracing::info!(name, url, "got bootstrap from DNS for etcd-server");
            found.push((name, url));
        }
    }
    match found.iter().any(|(name, _)| *name == config.name) {
        _ if found.is_empty() => Err(StartError(errors.join(" and "))),
        true => Ok(joined(found.into_iter().map(|(name, url)| format!("{name}={url}")))),
        false => {
            let found: Vec<String> = found.into_iter().map(|(_, url)| url).collect();
            Err(StartError(format!(
                "cannot find local etcd member {:?} in SRV records (found {}, and none of them is what \
                 --initial-advertise-peer-urls resolves to)",
                config.name,
                found.join(", ")
            )))
        }
    }
}

async fn resolve(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

fn joined(members: impl Iterator<Item = String>) -> String {
    members.collect::<Vec<_>>().join(",")
}

/// Why the service gave no cluster.
#[derive(Debug)]
enum Failure {
    /// Asking again will not help.
    Final(&'static str),
    Now(String),
    /// It had answered before.
    Lost(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Now(status.message().to_owned())
    }
}

async fn from_service(config: &Config) -> Result<String, StartError> {
    let settings = &config.discovery;
    let tls = TlsInfo {
        cert_file: settings.cert_file.clone(),
        key_file: settings.key_file.clone(),
        trusted_ca_file: settings.trusted_ca_file.clone(),
        ..TlsInfo::default()
    };
    let mut endpoints = Vec::new();
    for endpoint in &settings.endpoints {
        let text = match (endpoint.contains("://"), settings.insecure_transport) {
            (true, _) => endpoint.clone(),
            (false, true) => format!("http://{endpoint}"),
            (false, false) => format!("https://{endpoint}"),
        };
        endpoints
            .push(PeerUrl::parse(&text).map_err(|error| StartError(format!("discovery endpoint: {error}")))?);
    }
    let material = match endpoints.iter().any(PeerUrl::is_tls) {
        true => {
            let made = Material::load(Side::Peer, tls, settings.insecure_skip_tls_verify, config);
            made.map_err(failed("discovery"))?.client()
        }
        false => None,
    };
    let peer_urls: Vec<String> = config.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
    let registry = Registry {
        prefix: place_of(&settings.token),
        own_id: Member::initial(&config.name, &peer_urls, &settings.token).id,
        own: InitialCluster::single(&config.name, &config.initial_advertise_peer_urls).to_string(),
    };
    let mut doublings = 0;
    loop {
        for endpoint in &endpoints {
            let tried = async {
                let mut service = Service::open(settings, endpoint, material.clone()).await?;
                registry.join(&mut service).await
            };
            match tried.await {
                Ok(cluster) => return Ok(cluster),
                Err(Failure::Final(text)) => return Err(StartError(text.into())),
                Err(Failure::Now(error)) => {
                    let endpoint = endpoint.authority();
                    tracing::warn!(endpoint, error, "the discovery service did not answer");
                }
                Err(Failure::Lost(error)) => {
                    doublings = 0;
                    let endpoint = endpoint.authority();
                    tracing::warn!(endpoint, error, "lost the discovery service");
                }
            }
        }
        doublings = MAX_DOUBLINGS.min(doublings + 1);
        let backoff = Duration::from_secs(1 << doublings);
        tracing::warn!(?backoff, "retry connecting to discovery service");
        tokio::time::sleep(backoff).await;
    }
}

/// Where a token leads, as a path: with one slash between names, and `.` and `..` followed.
fn place_of(token: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in REGISTRY.split('/').chain(token.split('/')) {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// What one member does in the registry of its cluster.
struct Registry {
    prefix: String,
    own_id: u64,
    /// Name and URLs, as they are registered.
    own: String,
}

impl Registry {
    fn members(&self) -> String {
        format!("{}/members", self.prefix)
    }

    fn own_key(&self) -> String {
        format!("{}/{:x}", self.members(), self.own_id)
    }

    async fn join(&self, service: &mut Service) -> Result<String, Failure> {
        let size = service.size(&format!("{}/_config/size", self.prefix)).await?;
        self.founders(size, &service.list(&self.members()).await?.1)?;
        service.put(self.own_key(), self.own.clone()).await?;
        tracing::info!(key = self.own_key(), value = self.own, "register member itself successfully");
        loop {
            let (revision, registered) = service.list(&self.members()).await?;
            let founders = self.founders(size, &registered)?;
            if founders.len() == size {
                let cluster = joined(founders.iter().map(|(_, value)| value.clone()));
                return match InitialCluster::parse(&cluster) {
                    Ok(_) => Ok(cluster),
                    Err(_) => Err(Failure::Final("discovery: invalid peer URL")),
                };
            }
            tracing::info!(size, found = founders.len(), "waiting for peers from discovery service");
            service.change(&self.members(), revision + 1).await.map_err(|failure| match failure {
                Failure::Now(error) => Failure::Lost(error),
                failure => failure,
            })?;
        }
    }

    /// Those of the registered, in the order in which they came, who found the cluster; this member must be among them
    /// while there is no place left.
    fn founders<'a>(
        &self,
        size: usize,
        registered: &'a [(String, String)],
    ) -> Result<&'a [(String, String)], Failure> {
        let founders = &registered[..registered.len().min(size)];
        match founders.len() < size || founders.iter().any(|(key, _)| *key == self.own_key()) {
            true => Ok(founders),
            false => Err(Failure::Final("discovery: cluster is full")),
        }
    }
}

/// A connection to the discovery service.
struct Service {
    kv: KvClient<Channel>,
    watch: WatchClient<Channel>,
    token: Option<MetadataValue<Ascii>>,
    request_timeout: Duration,
}

impl Service {
    async fn open(
        settings: &Discovery,
        url: &PeerUrl,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Service, Failure> {
        let mut endpoint = Endpoint::from_shared(format!("http://{}", url.authority()))
            .map_err(|error| Failure::Now(error.to_string()))?
            .connect_timeout(settings.dial_timeout)
            .keep_alive_timeout(settings.keepalive_timeout);
        if !settings.keepalive_time.is_zero() {
            endpoint = endpoint.http2_keep_alive_interval(settings.keepalive_time.max(MIN_PING_INTERVAL));
        }
        let tls = tls.map(|config| {
            let mut config = rustls::ClientConfig::clone(&config);
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config)
        });
        let url = url.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let (url, tls) = (url.clone(), tls.clone());
            async move { net::connect(&url, tls).await.map(TokioIo::new) }
        });
        let connected = endpoint.connect_with_connector(connector).await;
        let channel = connected.map_err(|error| Failure::Now(described(&error)))?;
        let mut service = Service {
            kv: KvClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()),
            token: None,
            request_timeout: settings.request_timeout,
        };
        if let Some((name, password)) = settings.login() {
            let login = AuthenticateRequest { name: name.into(), password: password.into() };
            match AuthClient::new(channel).authenticate(service.request(login)).await {
                Ok(answer) => {
                    let token = answer.into_inner().token.parse();
                    let token =
                        token.map_err(|_| Failure::Final("discovery: a token that cannot be sent"))?;
                    service.token = Some(token);
                }
                // Nobody has to log in.
                Err(refused) if refused.code() == Code::FailedPrecondition => {}
                Err(refused) if refused.code() == Code::InvalidArgument => {
                    return Err(Failure::Final("discovery: the service refuses user or password"));
                }
                Err(failed) => return Err(failed.into()),
            }
        }
        Ok(service)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.request_timeout);
        self.authorized(request)
    }

    fn authorized<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    async fn size(&mut self, key: &str) -> Result<usize, Failure> {
        let range = RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let answer = self.kv.range(self.request(range)).await?.into_inner();
        let found = answer.kvs.first().ok_or(Failure::Final("discovery: size key not found"))?;
        let size = std::str::from_utf8(&found.value).ok().and_then(|text| text.parse().ok());
        size.filter(|size| *size > 0).ok_or(Failure::Final("discovery: size key is bad"))
    }

    /// The revision, and keys with values in the order in which they came.
    async fn list(&mut self, prefix: &str) -> Result<(i64, Vec<(String, String)>), Failure> {
        let range = RangeRequest {
            key: prefix.to_owned().into(),
            range_end: end_of(prefix).into(),
            sort_order: SortOrder::Ascend as i32,
            sort_target: SortTarget::Create as i32,
            ..Default::default()
        };
        let answer = self.kv.range(self.request(range)).await?.into_inner();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let pairs = answer.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value)));
        Ok((
            answer.header.unwrap_or_default().revision,
            pairs.filter(|(_, value)| value.contains('=')).collect(),
        ))
    }

    async fn put(&mut self, key: String, value: String) -> Result<(), Failure> {
        let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        self.kv.put(self.request(put)).await?;
        Ok(())
    }

    /// Waits for a change at or after `revision`.
    async fn change(&mut self, prefix: &str, revision: i64) -> Result<(), Failure> {
        let create = WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: end_of(prefix).into(),
            start_revision: revision,
            ..Default::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open as long as the answers are read.
        let requests = futures_util::StreamExt::chain(
            futures_util::stream::iter([create]),
            futures_util::stream::pending(),
        );
        let mut answers = self.watch.watch(self.authorized(Request::new(requests))).await?.into_inner();
        loop {
            match answers.message().await? {
                Some(answer) if !answer.events.is_empty() => return Ok(()),
                Some(answer) if !answer.canceled => {}
                _ => return Err(Failure::Now("the watch ended".into())),
            }
        }
    }
}

/// Prefixes here end in a letter.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// An error with its causes.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `path.Join` of Go has it: members of either kind meet at the same keys.
    #[test]
    fn tokens_are_paths() {
        for (token, place) in [
            ("t", "/_etcd/registry/t"),
            ("/a//b/./c/", "/_etcd/registry/a/b/c"),
            ("a/../b", "/_etcd/registry/b"),
            ("../../../b", "/b"),
        ] {
            assert_eq!(place_of(token), place);
        }
    }

    #[test]
    fn the_first_to_come_are_the_founders() {
        let registry = Registry { prefix: "/p".into(), own_id: 0xab, own: "m=http://m:1".into() };
        let registered: Vec<(String, String)> =
            ["1", "ab", "3"].map(|id| (format!("/p/members/{id}"), String::new())).into();
        assert_eq!(registry.founders(2, &registered).unwrap().len(), 2);
        assert_eq!(registry.founders(4, &registered).unwrap().len(), 3);
        assert!(matches!(
            registry.founders(1, &registered),
            Err(Failure::Final("discovery: cluster is full"))
        ));
    }
}
