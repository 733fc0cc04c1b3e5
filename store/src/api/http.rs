//! Plain HTTP: health, version, metrics.
//!
//! Source: etcd `server/etcdserver/api/etcdhttp`.

use std::{sync::Arc, time::Duration};

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
    let host = host.or_else(|| request.uri().host()).unwrap_or_default();
    // A page that rebinds a name cannot pass for the server: it lacks the certificate.
    if !by_tls && !node.config.allows_host(host) {
        return text(StatusCode::MISDIRECTED_REQUEST, "");
    }
    let mut response = match request.method() {
        &Method::OPTIONS => text(StatusCode::OK, ""),
        _ => route(context, shards, request, serves).await,
    };
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && origin.to_str().is_ok_and(|origin| node.config.allows_origin(origin))
    {
        let headers = response.headers_mut();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
    response
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
        .map_or((path, None), |(root, rest)| (&path[..root.len() + 1], (!rest.is_empty()).then_some(rest)));
    let known = match root {
        "/health" | "/metrics" => check.is_none(),
        "/livez" | "/readyz" => true,
        "/version" => check.is_none() && serves == Serves::Everything,
        _ => false,
    };
    if !known {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    if request.method() != Method::GET {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
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
        _ => {
            // A member that is stuck or stops tells what it last knew.
            let view = node.runtime.within(METRICS_PATIENCE, node.view()).await;
            let view = view.and_then(Result::ok).unwrap_or_else(|| node.reader.view());
            let page = metrics::page(context, shards, &view);
            typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
        }
    }
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
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
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

fn text(status: StatusCode, body: &str) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Plain(Some(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
