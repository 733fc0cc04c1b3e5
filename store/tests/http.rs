//! Plain HTTP against etcd's answers: hosts, origins, methods and paths, who speaks what on which listener, and the
//! peer port's paths.

#![expect(clippy::disallowed_methods, reason = "a test is a client of its own")]

use std::{net::SocketAddr, path::Path};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response,
    header::{ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONTENT_TYPE, VARY},
};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use store::{
    config::{Config, Url},
    node::handler,
    server::Server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn start(data: &Path, change: impl FnOnce(&mut Config)) -> Server {
    let anywhere = || vec![Url::http("127.0.0.1", 0)];
    let mut config = Config {
        data_dir: data.join("data").display().to_string(),
        listen_peer_urls: anywhere(),
        listen_client_urls: anywhere(),
        unsafe_no_fsync: true,
        ..Config::default()
    };
    change(&mut config);
    Server::start(config).unwrap()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Status, headers and body of the answer.
fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Response<String> {
    let mut request = Request::builder().method(method).uri(path);
    if headers.iter().all(|(name, _)| *name != "host") {
        request = request.header("host", "a");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    run(async {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        let answered = async {
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Response::from_parts(head, String::from_utf8(body.to_vec()).unwrap())
        };
        let mut connection = std::pin::pin!(connection);
        let mut answered = std::pin::pin!(answered);
        tokio::select! {
            biased;
            answer = &mut answered => answer,
            // It may end with the last byte of the answer.
            _ = &mut connection => answered.await,
        }
    })
}

/// etcd
#[test]
fn a_host_is_known_by_its_name() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), |config| {
        config.host_whitelist = vec!["foo".into(), "127.0.77.1".into(), "::1".into()]
    });
    let address = server.client_addresses()[0];
    let ask = |host: &str| ask(address, "GET", "/version", &[("host", host)]);
    for host in ["foo", "foo:42760", "127.0.77.1", "127.0.77.1:45001", "[::1]:80"] {
        assert_eq!(ask(host).status(), 200, "{host}");
    }
    for (host, name) in
        [("evil", "evil"), ("evil:80", "evil"), ("[::1]", "[::1]"), ("foo:bar:1", "foo:bar:1"), (":80", "")]
    {
        let refused = ask(host);
        assert_eq!(refused.status(), 421, "{host}");
        assert_eq!(refused.headers()["x-content-type-options"], "nosniff");
        let advice = format!("settings.\n  - e.g. etcd --host-whitelist \"{name}\"\n\nThis requirement");
        assert!(refused.body().contains(&advice), "{}", refused.body());
        assert!(refused.body().starts_with("\netcd received your request, but the Host header"));
        assert!(refused.body().ends_with("attacks (CVE-2018-5702).\n\n"));
    }
}

/// etcd, but for `Vary`
#[test]
fn origins_are_allowed_as_the_settings_say() {
    let allowed = |server: &Server, method: &str, origin: &[(&str, &str)]| {
        let answer = ask(server.client_addresses()[0], method, "/version", origin);
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(answer.status(), 200);
        (header(ACCESS_CONTROL_ALLOW_ORIGIN), header(VARY))
    };
    let data = tempfile::tempdir().unwrap();
    let open = start(data.path(), |_| ());
    let data = tempfile::tempdir().unwrap();
    let closed = start(data.path(), |config| config.cors = vec!["http://a:1".into()]);
    for method in ["GET", "OPTIONS"] {
        for origin in [&[][..], &[("origin", "http://c:1")]] {
            assert_eq!(allowed(&open, method, origin), (Some("*".into()), None));
            assert_eq!(allowed(&closed, method, origin), (None, None));
        }
        let echoed = (Some("http://a:1".into()), Some("Origin".into()));
        assert_eq!(allowed(&closed, method, &[("origin", "http://a:1")]), echoed);
    }
}

/// etcd
#[test]
fn paths_and_methods_are_etcds() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), |config| {
        config.listen_metrics_urls = vec![Url::http("127.0.0.1", 0)];
    });
    let &[all, metrics] = server.client_addresses() else { panic!("two listeners") };
    run(server.ready());
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("POST", "/metrics", 200),
        ("GET", "/health", 200),
        ("HEAD", "/health", 405),
        ("GET", "/version?x", 200),
        ("POST", "/version", 405),
        ("GET", "/debug/vars", 200),
        ("POST", "/debug/vars", 405),
        ("GET", "/readyz/non_learner", 200),
        ("GET", "/health/", 404),
        ("GET", "/version/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/livez/", 404),
        ("GET", "/debug", 404),
        ("GET", "/debug/vars/", 404),
        ("POST", "/nosuch", 404),
    ] {
        let answer = ask(all, method, path, &[]);
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.headers().contains_key(ALLOW), status == 405, "{method} {path}");
        assert_eq!(
            answer.headers().contains_key("x-content-type-options"),
            status >= 400 || path.contains('z')
        );
    }
    for path in ["/version", "/debug/vars"] {
        assert_eq!(ask(metrics, "GET", path, &[]).status(), 404, "{path}");
    }
    let variables = ask(all, "GET", "/debug/vars", &[]);
    assert_eq!(variables.headers()[CONTENT_TYPE], "application/json; charset=utf-8");
    let variables: serde_json::Value = serde_json::from_str(variables.body()).unwrap();
    assert!(variables["cmdline"][0].is_string() && variables["file_descriptor_limit"].is_u64());
    let raft = &variables["raft.status"];
    let id = format!("{:x}", server.node().id);
    assert_eq!((raft["lead"].as_str(), raft["raftState"].as_str()), (Some(&*id), Some("StateLeader")));
}

/// What comes back on a connection that begins with `bytes` and is closed by the server in the end.
async fn talk(address: SocketAddr, bytes: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[test]
fn with_urls_for_http_clients_have_their_own_for_grpc() {
    const HTTP: &str = "GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let data = tempfile::tempdir().unwrap();
    let anywhere = vec![Url::http("127.0.0.1", 0)];
    let server = start(data.path(), |config| config.listen_client_http_urls = anywhere);
    let &[grpc, plain] = server.client_addresses() else { panic!("two listeners") };
    run(async {
        server.ready().await;
        assert_eq!(talk(grpc, HTTP).await, b"");
        assert!(talk(plain, HTTP).await.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert_eq!(talk(plain, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, b"");

        let (client, connection) =
            h2::client::handshake(TcpStream::connect(grpc).await.unwrap()).await.unwrap();
        let calls = async {
            for (content_type, status, code) in
                [("application/grpc", 200, "12"), ("application/json", 415, "3")]
            {
                let request = Request::post("http://a/health").header("content-type", content_type).body(());
                let mut client = client.clone().ready().await.unwrap();
                let answer = client.send_request(request.unwrap(), true).unwrap().0.await.unwrap();
                assert_eq!(
                    (answer.status().as_u16(), &answer.headers()["grpc-status"]),
                    (status, &code.parse().unwrap())
                );
            }
        };
        tokio::select! {
            _ = connection => panic!("the connection ended"),
            () = calls => {}
        }
    });
}

/// etcd
#[test]
fn answers_name_the_cluster_and_refusals_the_method() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), |_| ());
    let node = server.node();
    run(server.ready());
    let id = format!("{:x}", node.cluster_id);
    for (path, allowed, status, names_cluster) in [
        ("/members", Method::GET, 200, true),
        ("/members/hashkv", Method::GET, 200, true),
        ("/members/promote/1", Method::POST, 404, true),
        ("/downgrade/enabled", Method::GET, 200, true),
        ("/version", Method::GET, 200, false),
        ("/nosuch", Method::GET, 404, false),
    ] {
        let ask =
            |method| run(handler::serve(node, method, path, &HeaderMap::new(), Bytes::from_static(b"{}")));
        let answer = ask(&allowed);
        let named = answer.headers().get("x-etcd-cluster-id").map(|id| id.to_str().unwrap());
        assert_eq!((answer.status().as_u16(), named), (status, names_cluster.then_some(&*id)), "{path}");
        let refused = ask(&Method::PUT);
        if path == "/nosuch" {
            assert_eq!(refused.status(), 404);
            continue;
        }
        assert_eq!(refused.status(), 405);
        assert_eq!(refused.headers()[ALLOW], allowed.as_str());
        assert_eq!(refused.body(), "Method Not Allowed\n");
    }
}
