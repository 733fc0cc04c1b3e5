//! Plain HTTP: health, version, metrics, variables.
//!
//! Source: etcd `server/etcdserver/api/etcdhttp`.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use proto::etcdserverpb::{AlarmType, RangeRequest};

use super::{
    edge::{Reached, Serves},
    grpc::Body,
    metrics,
    router::Context,
    watch::Shard,
};
use crate::{
    config::Config,
    mvcc::MvccError,
    node::{Node, RequestError, handler},
};

/// How long figures wait for the newest state.
const METRICS_PATIENCE: Duration = Duration::from_millis(100);

pub async fn answer<B>(
    context: &Context,
    shards: &[Arc<Shard>],
    request: &Request<B>,
    Reached { serves, by_tls }: Reached,
) -> Response<Body> {
    let node = &context.node;
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| Some(request.uri().authority()?.as_str())).unwrap_or_default();
    let host = without_port(host);
    // A page that rebinds a name cannot pass for the server: it lacks the certificate.
    if !by_tls && !node.config.allows_host(host) {
        return error(StatusCode::MISDIRECTED_REQUEST, &misdirected(host));
    }
    let mut response = match request.method() {
        &Method::OPTIONS => Response::new(Body::Plain(None)),
        _ => route(context, shards, request, serves).await,
    };
    if let Some(origin) = allowed_origin(&node.config, request.headers().get(header::ORIGIN)) {
        let headers = response.headers_mut();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
        );
        if origin != "*" {
            headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
    response
}

/// As Go's `SplitHostPort`, and the whole where there is no port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains([':', '[', ']']) => name,
        Some((name, _)) => name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(host),
        None => host,
    }
}

fn misdirected(host: &str) -> String {
    format!(
        r#"
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist {host:?}

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).
"#
    )
}

/// Whose pages may read the answer: all, or the one that asks.
fn allowed_origin(config: &Config, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
    if config.allows_origin("*") {
        return Some(HeaderValue::from_static("*"));
    }
    origin.filter(|origin| origin.to_str().is_ok_and(|origin| config.allows_origin(origin))).cloned()
}

async fn route<B>(
    context: &Context,
    shards: &[Arc<Shard>],
    request: &Request<B>,
    serves: Serves,
) -> Response<Body> {
    let node = &context.node;
    let query = Query(request.uri().query().unwrap_or_default());
    let path = request.uri().path();
    let (root, check) = path[1.min(path.len())..]
        .split_once('/')
        .map_or((path, None), |(root, rest)| (&path[..root.len() + 1], Some(rest)));
    let known = match (root, check) {
        ("/health" | "/metrics", None) | ("/livez" | "/readyz", _) => true,
        ("/version", None) | ("/debug", Some("vars")) => serves != Serves::Metrics,
        _ => false,
    };
    if !known {
        return not_found();
    }
    if request.method() != Method::GET && root != "/metrics" {
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match root {
        "/health" => health(node, &query).await,
        "/livez" => checks(node, "livez", &[Check::SerializableRead], check, &query).await,
        "/readyz" => {
            let all =
                [Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];
            checks(node, "readyz", &all, check, &query).await
        }
        "/version" => typed(StatusCode::OK, "application/json", handler::version_json(node)),
        "/debug" => typed(StatusCode::OK, "application/json; charset=utf-8", variables(node)),
        _ => {
            // A member that is stuck or stops tells what it last knew.
            let view = node.runtime.within(METRICS_PATIENCE, node.view()).await;
            let view = view.and_then(Result::ok).unwrap_or_else(|| node.reader.view());
            let page = metrics::page(context, shards, &view);
            typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
        }
    }
}

/// What Go's `expvar` shows, without the figures of Go's memory.
fn variables(node: &Node) -> String {
    let state = node.status.soft_state();
    let raft = serde_json::json!({
        "id": format!("{:x}", node.id),
        "term": state.term,
        "commit": node.status.committed.load(Ordering::Acquire),
        "lead": format!("{:x}", state.leader),
        "raftState": format!("State{:?}", state.role),
        "applied": node.status.applied.load(Ordering::Acquire),
    });
    let arguments: Vec<_> = std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect();
    let arguments = serde_json::Value::from(arguments);
    let limit = metrics::descriptor_limit().unwrap_or(0);
    format!(
        "{{\n\"cmdline\": {arguments},\n\"file_descriptor_limit\": {limit},\n\"raft.status\": {raft}\n}}\n"
    )
}

struct Query<'a>(&'a str);

impl Query<'_> {
    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

/// Reads one key that need not exist.
async fn read(node: &Arc<Node>, linearizable: bool) -> Result<(), String> {
    let text = |error: RequestError| tonic::Status::from(error).message().to_owned();
    if linearizable {
        node.read_index().await.map_err(text)?;
    }
    if node.fatal.is_set() {
        return Err(text(RequestError::Stopped));
    }
    let request = RangeRequest { key: Bytes::from_static(b"\0"), limit: 1, ..Default::default() };
    let view = node.view().await.map_err(text)?;
    match node.reader.range(&request, &view) {
        Ok(_) => Ok(()),
        Err(MvccError::Backend(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

async fn health(node: &Arc<Node>, query: &Query<'_>) -> Response<Body> {
    let excluded: Vec<&str> = query.values("exclude").collect();
    let serializable = query.values("serializable").any(|value| value == "true");
    let raised = node.published.alarms.load().list(AlarmType::None);
    let alarm = raised.iter().find_map(|alarm| {
        let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
        (!excluded.contains(&name)).then(|| format!("ALARM {name}"))
    });
    let reason = match alarm {
        Some(reason) => Some(reason),
        None if !serializable && node.status.leader() == 0 => Some("RAFT NO LEADER".to_owned()),
        None => read(node, !serializable).await.err().map(|error| format!("RANGE ERROR:{error}")),
    };
    match reason {
        None => typed(StatusCode::OK, "text/plain; charset=utf-8", r#"{"health":"true","reason":""}"#),
        Some(reason) => {
            let body = format!(r#"{{"health":"false","reason":"{reason}"}}"#) + "\n";
            typed(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", body)
        }
    }
}

#[derive(Clone, Copy)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, node: &Arc<Node>) -> Result<(), String> {
        match self {
            Check::DataCorruption if node.published.alarms.load().is_raised(AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".into())
            }
            Check::DataCorruption => Ok(()),
            Check::SerializableRead => read(node, false).await,
            Check::LinearizableRead => read(node, true).await,
            Check::NonLearner
                if node.published.membership.load().get(node.id).is_some_and(|it| it.is_learner) =>
            {
                Err("member is a learner".into())
            }
            Check::NonLearner => Ok(()),
        }
    }
}

async fn checks(
    node: &Arc<Node>,
    kind: &str,
    all: &[Check],
    only: Option<&str>,
    query: &Query<'_>,
) -> Response<Body> {
    let excluded: Vec<&str> = query.values("exclude").collect();
    let chosen: Vec<Check> = match only {
        Some(only) => all.iter().copied().filter(|check| check.name() == only).collect(),
        None => all.iter().copied().filter(|check| !excluded.contains(&check.name())).collect(),
    };
    if only.is_some() && chosen.is_empty() {
        return not_found();
    }
    let mut lines = String::new();
    let mut failed = false;
    for check in chosen {
        match check.run(node).await {
            Ok(()) => lines += &format!("[+]{} ok\n", check.name()),
            Err(error) => {
                failed = true;
                lines += &format!("[-]{} failed: {error}\n", check.name());
            }
        }
    }
    let mut response = if failed {
        text(StatusCode::SERVICE_UNAVAILABLE, &format!("{lines}{kind} check failed\n"))
    } else if query.values("verbose").next().is_some() {
        text(StatusCode::OK, &format!("{lines}ok\n"))
    } else {
        text(StatusCode::OK, "ok\n")
    };
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn not_found() -> Response<Body> {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// A refusal as Go's `http.Error` writes it.
fn error(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = text(status, &format!("{body}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Plain(Some(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
