//! The rows: every flag with its group, kind, field and sentence, in the order of the usage text.
//!
//! Owns names and words only; reading and showing values is `flags`. A feature that comes to exist turns its
//! `unsupported` rows into rows with a field.

use super::{Flag, Group, Kind};
use crate::config::features::Feature;

const fn unsupported(
    name: &'static str,
    group: Group,
    off: &'static [&'static str],
    feature: &'static str,
) -> Flag {
    Flag::new(name, group, Kind::Unsupported { switch: false, off, feature }, "")
}

const fn unsupported_switch(name: &'static str, group: Group, feature: &'static str) -> Flag {
    Flag::new(name, group, Kind::Unsupported { switch: true, off: &["false"], feature }, "")
}

const fn without_effect(name: &'static str, switch: bool) -> Flag {
    Flag::new(name, Group::Hidden, Kind::NoEffect { switch }, "")
}

const fn security(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag::new(name, Group::Security, kind, help)
}

const CLIENT: &str = "client-transport-security";
const PEER: &str = "peer-transport-security";
const DISCOVERY: &str = "discovery-config";
const DISCOVERY_CLIENT: &str = "discovery-config.client";
const DISCOVERY_SECURE: &str = "discovery-config.client.secure";
const DISCOVERY_AUTH: &str = "discovery-config.client.auth";

const fn ignored(name: &'static str) -> Flag {
    Flag::new(name, Group::Hidden, Kind::Ignored, "").not_in_file()
}

const fn old_gate(name: &'static str, feature: Feature) -> Flag {
    Flag::new(name, Group::Hidden, Kind::Gate(feature), "")
}

const V2_DISCOVERY: &str =
    "the v2 discovery service is not implemented; use --discovery-endpoints with an etcd of your own";
const TRACING: &str = "distributed tracing is not implemented";
const V2: &str = "the v2 API is not implemented";
const PROXY: &str = "the v2 proxy is not implemented";

/// Rows stand in the order of the usage text.
pub static FLAGS: &[Flag] = &[
    Flag::new(
        "name",
        Group::Member,
        Kind::Text(|c| &mut c.name),
        "Name of this member; members of a cluster need different ones.",
    ),
    Flag::new(
        "data-dir",
        Group::Member,
        Kind::Derived(|c| &mut c.data_dir, "${name}.etcd"),
        "Directory that holds all data of this member.",
    ),
    Flag::new(
        "wal-dir",
        Group::Member,
        Kind::Text(|c| &mut c.wal_dir),
        "Directory for the log alone, for a disk of its own.",
    ),
    Flag::new(
        "snapshot-count",
        Group::Member,
        Kind::Count(|c| &mut c.snapshot_count),
        "Applied entries after which a snapshot is taken and the log may be cut (0: the default).",
    ),
    Flag::new(
        "heartbeat-interval",
        Group::Member,
        Kind::Count(|c| &mut c.heartbeat_interval_ms),
        "Milliseconds between two heartbeats of a leader.",
    ),
    Flag::new(
        "election-timeout",
        Group::Member,
        Kind::Count(|c| &mut c.election_timeout_ms),
        "Milliseconds without a leader after which a follower starts an election.",
    ),
    Flag::new(
        "initial-election-tick-advance",
        Group::Member,
        Kind::Switch(|c| &mut c.initial_election_tick_advance),
        "Start close to the first election, to have a leader sooner.",
    ),
    Flag::new(
        "listen-peer-urls",
        Group::Member,
        Kind::Urls(|c| &mut c.listen_peer_urls),
        "URLs to serve other members on.",
    ),
    Flag::new(
        "listen-client-urls",
        Group::Member,
        Kind::Urls(|c| &mut c.listen_client_urls),
        "URLs to serve clients on: gRPC, and HTTP unless that has URLs of its own.",
    ),
    Flag::new(
        "listen-client-http-urls",
        Group::Member,
        Kind::Urls(|c| &mut c.listen_client_http_urls),
        "URLs to serve HTTP clients on; the client URLs then serve gRPC only.",
    ),
    Flag::new(
        "max-wals",
        Group::Member,
        Kind::Count(|c| &mut c.max_wals),
        "Log files to keep (0 keeps all).",
    ),
    Flag::new(
        "quota-backend-bytes",
        Group::Member,
        Kind::Signed(|c| &mut c.quota_backend_bytes),
        "Backend size in bytes at which writes are refused (0 or less: no quota).",
    ),
    Flag::new(
        "backend-batch-interval",
        Group::Member,
        Kind::Time(|c| &mut c.backend_batch_interval),
        "Longest time before a backend batch is committed (0: the backend's default).",
    ),
    Flag::new(
        "backend-batch-limit",
        Group::Member,
        Kind::Count(|c| &mut c.backend_batch_limit),
        "Most operations in a backend batch (0: the backend's default).",
    ),
    Flag::new(
        "max-txn-ops",
        Group::Member,
        Kind::Count(|c| &mut c.max_txn_ops),
        "Most operations in one transaction.",
    ),
    Flag::new(
        "max-request-bytes",
        Group::Member,
        Kind::Count(|c| &mut c.max_request_bytes),
        "Largest request in bytes.",
    ),
    Flag::new(
        "max-concurrent-streams",
        Group::Member,
        Kind::Count32(|c| &mut c.max_concurrent_streams),
        "Most requests and streams at once on one client connection.",
    ),
    Flag::new(
        "grpc-keepalive-min-time",
        Group::Member,
        Kind::Time(|c| &mut c.grpc_keepalive_min_time),
        "Least time between two pings of a client; one that pings more often is disconnected.",
    ),
    Flag::new(
        "grpc-keepalive-interval",
        Group::Member,
        Kind::Time(|c| &mut c.grpc_keepalive_interval),
        "Time between two pings to a silent client (0 to disable).",
    ),
    Flag::new(
        "grpc-keepalive-timeout",
        Group::Member,
        Kind::Time(|c| &mut c.grpc_keepalive_timeout),
        "Time a client has to answer a ping before its connection is closed (0 to disable).",
    ),
    Flag::new(
        "socket-reuse-port",
        Group::Member,
        Kind::Switch(|c| &mut c.socket_reuse_port),
        "Set SO_REUSEPORT on listeners.",
    )
    .in_file("socket-options", "reuse-port"),
    Flag::new(
        "socket-reuse-address",
        Group::Member,
        Kind::Switch(|c| &mut c.socket_reuse_address),
        "Set SO_REUSEADDR on listeners.",
    )
    .in_file("socket-options", "reuse-address"),
    Flag::new(
        "raft-read-timeout",
        Group::Member,
        Kind::Time(|c| &mut c.raft_read_timeout),
        "Read timeout of each connection between members (at least 5s).",
    )
    .not_in_file(),
    Flag::new(
        "raft-write-timeout",
        Group::Member,
        Kind::Time(|c| &mut c.raft_write_timeout),
        "Write timeout of each connection between members (at least 5s).",
    )
    .not_in_file(),
    Flag::new(
        "feature-gates",
        Group::Member,
        Kind::Gates(|c| &mut c.feature_gates),
        "Feature gates to switch, as A=true,B=false; the list is at the end.",
    ),
    without_effect("enable-grpc-gateway", true),
    unsupported_switch("memory-mlock", Group::Member, "locking memory is not implemented")
        .experimental_before(),
    without_effect("backend-bbolt-freelist-type", false).experimental_before(),
    without_effect("max-snapshots", false),
    Flag::new(
        "initial-advertise-peer-urls",
        Group::Clustering,
        Kind::Urls(|c| &mut c.initial_advertise_peer_urls),
        "URLs at which other members reach this one.",
    ),
    Flag::new(
        "initial-cluster",
        Group::Clustering,
        Kind::Derived(|c| &mut c.initial_cluster, "default=http://localhost:2380"),
        "Members to start with, as name=peer-url,name=peer-url; by default this member alone.",
    ),
    Flag::new(
        "initial-cluster-state",
        Group::Clustering,
        Kind::State(|c| &mut c.initial_cluster_state),
        "'new' to found the cluster, 'existing' to join one.",
    ),
    Flag::new(
        "initial-cluster-token",
        Group::Clustering,
        Kind::Text(|c| &mut c.initial_cluster_token),
        "Keeps clusters with equal URLs apart: it becomes part of the cluster id.",
    ),
    Flag::new(
        "advertise-client-urls",
        Group::Clustering,
        Kind::Urls(|c| &mut c.advertise_client_urls),
        "URLs at which clients reach this member; required with --listen-client-urls.",
    ),
    Flag::new(
        "strict-reconfig-check",
        Group::Clustering,
        Kind::Switch(|c| &mut c.strict_reconfig_check),
        "Refuse membership changes that would lose the quorum.",
    ),
    Flag::new(
        "pre-vote",
        Group::Clustering,
        Kind::Switch(|c| &mut c.pre_vote),
        "Ask whether an election could be won before starting it.",
    ),
    Flag::new(
        "auto-compaction-retention",
        Group::Clustering,
        Kind::Text(|c| &mut c.auto_compaction_retention),
        "History that automatic compaction keeps (0 to disable).",
    ),
    Flag::new(
        "auto-compaction-mode",
        Group::Clustering,
        Kind::Text(|c| &mut c.auto_compaction_mode),
        "Unit of the retention: 'periodic' for a time (5m; a bare number counts hours), 'revision' for a number of revisions.",
    ),
    unsupported("discovery", Group::Clustering, &[], V2_DISCOVERY),
    unsupported("discovery-proxy", Group::Clustering, &[], V2_DISCOVERY),
    Flag::new("discovery-fallback", Group::Clustering, Kind::Choice(&["exit", "proxy"]), ""),
    Flag::new("discovery-srv", Group::Clustering, Kind::Text(|c| &mut c.discovery.srv), "Domain whose DNS SRV records name the members of a new cluster."),
    Flag::new("discovery-srv-name", Group::Clustering, Kind::Text(|c| &mut c.discovery.srv_name), "Suffix of the service asked for in DNS."),
    Flag::new("discovery-token", Group::Clustering, Kind::Text(|c| &mut c.discovery.token), "Token of the new cluster at the discovery service.").in_file(DISCOVERY, "token"),
    Flag::new("discovery-endpoints", Group::Clustering, Kind::List(|c| &mut c.discovery.endpoints), "Endpoints of an etcd that is the discovery service of a new cluster.").in_file(DISCOVERY_CLIENT, "endpoints"),
    Flag::new("discovery-dial-timeout", Group::Clustering, Kind::Time(|c| &mut c.discovery.dial_timeout), "Longest wait for a connection to the discovery service.").in_file(DISCOVERY_CLIENT, "dial-timeout"),
    Flag::new("discovery-request-timeout", Group::Clustering, Kind::Time(|c| &mut c.discovery.request_timeout), "Longest wait for its answer.").in_file(DISCOVERY_CLIENT, "request-timeout"),
    Flag::new("discovery-keepalive-time", Group::Clustering, Kind::Time(|c| &mut c.discovery.keepalive_time), "Time between pings to it.").in_file(DISCOVERY_CLIENT, "keepalive-time"),
    Flag::new("discovery-keepalive-timeout", Group::Clustering, Kind::Time(|c| &mut c.discovery.keepalive_timeout), "Longest wait for the answer to a ping.").in_file(DISCOVERY_CLIENT, "keepalive-timeout"),
    Flag::new("discovery-insecure-transport", Group::Clustering, Kind::Switch(|c| &mut c.discovery.insecure_transport), "No TLS to endpoints without a scheme.").in_file(DISCOVERY_SECURE, "insecure-transport"),
    Flag::new("discovery-insecure-skip-tls-verify", Group::Clustering, Kind::Switch(|c| &mut c.discovery.insecure_skip_tls_verify), "Trust every certificate of the discovery service; for tests alone.").in_file(DISCOVERY_SECURE, "insecure-skip-tls-verify"),
    Flag::new("discovery-cert", Group::Clustering, Kind::Text(|c| &mut c.discovery.cert_file), "Certificate (PEM) to show to the discovery service.").in_file(DISCOVERY_SECURE, "cert"),
    Flag::new("discovery-key", Group::Clustering, Kind::Text(|c| &mut c.discovery.key_file), "Private key (PEM) of that certificate.").in_file(DISCOVERY_SECURE, "key"),
    Flag::new("discovery-cacert", Group::Clustering, Kind::Text(|c| &mut c.discovery.trusted_ca_file), "Authorities (PEM) that the discovery service's certificate must come from.").in_file(DISCOVERY_SECURE, "cacert"),
    Flag::new("discovery-user", Group::Clustering, Kind::Text(|c| &mut c.discovery.user), "User of the discovery service: name, or name:password.").in_file(DISCOVERY_AUTH, "username"),
    Flag::new("discovery-password", Group::Clustering, Kind::Text(|c| &mut c.discovery.password), "Password of that user.").in_file(DISCOVERY_AUTH, "password"),
    unsupported_switch("enable-v2", Group::Clustering, V2),
    unsupported("experimental-enable-v2v3", Group::Clustering, &[], V2),
    unsupported("v2-deprecation", Group::Clustering, &["not-yet", "write-only", "gone"], V2),
    security(
        "cert-file",
        Kind::Text(|c| &mut c.client_tls.cert_file),
        "Certificate (PEM, with its chain) to serve clients with.",
    )
    .in_file(CLIENT, "cert-file"),
    security(
        "key-file",
        Kind::Text(|c| &mut c.client_tls.key_file),
        "Private key (PEM) of that certificate.",
    )
    .in_file(CLIENT, "key-file"),
    security(
        "client-cert-file",
        Kind::Text(|c| &mut c.client_tls.client_cert_file),
        "Certificate for requests that the server makes to itself; checked at start, and not needed by this server.",
    )
    .in_file(CLIENT, "client-cert-file"),
    security(
        "client-key-file",
        Kind::Text(|c| &mut c.client_tls.client_key_file),
        "Private key of that certificate.",
    )
    .in_file(CLIENT, "client-key-file"),
    security(
        "client-cert-auth",
        Kind::Switch(|c| &mut c.client_tls.client_cert_auth),
        "Clients must show a certificate of a trusted CA.",
    )
    .in_file(CLIENT, "client-cert-auth"),
    security(
        "client-crl-file",
        Kind::Text(|c| &mut c.client_tls.crl_file),
        "List of revoked client certificates (DER or PEM).",
    )
    .not_in_file(),
    security(
        "client-cert-allowed-hostname",
        Kind::List(|c| &mut c.client_tls.allowed_hostnames),
        "Names or addresses, comma-separated, one of which a client's certificate must be valid for.",
    )
    .in_file(CLIENT, "allowed-hostname"),
    security(
        "trusted-ca-file",
        Kind::Text(|c| &mut c.client_tls.trusted_ca_file),
        "Certificates (PEM) of the CAs that sign clients' certificates; given one, clients must show one.",
    )
    .in_file(CLIENT, "trusted-ca-file"),
    security(
        "auto-tls",
        Kind::Switch(|c| &mut c.client_auto_tls),
        "Serve clients with a certificate made at the first start.",
    )
    .in_file(CLIENT, "auto-tls"),
    security(
        "peer-cert-file",
        Kind::Text(|c| &mut c.peer_tls.cert_file),
        "Certificate (PEM, with its chain) to serve other members with, and to show them.",
    )
    .in_file(PEER, "cert-file"),
    security(
        "peer-key-file",
        Kind::Text(|c| &mut c.peer_tls.key_file),
        "Private key (PEM) of that certificate.",
    )
    .in_file(PEER, "key-file"),
    security(
        "peer-client-cert-file",
        Kind::Text(|c| &mut c.peer_tls.client_cert_file),
        "Certificate to show other members instead.",
    )
    .in_file(PEER, "client-cert-file"),
    security(
        "peer-client-key-file",
        Kind::Text(|c| &mut c.peer_tls.client_key_file),
        "Private key of that certificate.",
    )
    .in_file(PEER, "client-key-file"),
    security(
        "peer-client-cert-auth",
        Kind::Switch(|c| &mut c.peer_tls.client_cert_auth),
        "Other members must show a certificate of a trusted CA.",
    )
    .in_file(PEER, "client-cert-auth"),
    security(
        "peer-trusted-ca-file",
        Kind::Text(|c| &mut c.peer_tls.trusted_ca_file),
        "Certificates (PEM) of the CAs that sign members' certificates; given one, members must show one.",
    )
    .in_file(PEER, "trusted-ca-file"),
    security(
        "peer-crl-file",
        Kind::Text(|c| &mut c.peer_tls.crl_file),
        "List of revoked member certificates (DER or PEM).",
    )
    .not_in_file(),
    security(
        "peer-cert-allowed-cn",
        Kind::List(|c| &mut c.peer_tls.allowed_cns),
        "Common names, comma-separated, one of which a member's certificate must have.",
    )
    .in_file(PEER, "allowed-cn"),
    security(
        "peer-cert-allowed-hostname",
        Kind::List(|c| &mut c.peer_tls.allowed_hostnames),
        "Names or addresses, comma-separated, one of which a member's certificate must be valid for.",
    )
    .in_file(PEER, "allowed-hostname"),
    security(
        "peer-auto-tls",
        Kind::Switch(|c| &mut c.peer_auto_tls),
        "Serve other members with a certificate made at the first start, and trust any of theirs.",
    )
    .in_file(PEER, "auto-tls"),
    security(
        "peer-skip-client-san-verification",
        Kind::Switch(|c| &mut c.peer_tls.skip_client_san_verification),
        "Members may connect from addresses that their certificate does not name.",
    )
    .in_file(PEER, "skip-client-san-verification")
    .experimental_before(),
    security(
        "self-signed-cert-validity",
        Kind::Count(|c| &mut c.self_signed_cert_validity),
        "Years that certificates made by --auto-tls and --peer-auto-tls are valid.",
    ),
    security(
        "cipher-suites",
        Kind::List(|c| &mut c.cipher_suites),
        "Cipher suites of TLS 1.2 to allow, best first, comma-separated (empty: all that are good).",
    ),
    security(
        "tls-min-version",
        Kind::Text(|c| &mut c.tls_min_version),
        "Lowest version of TLS: TLS1.2 or TLS1.3.",
    ),
    security(
        "tls-max-version",
        Kind::Text(|c| &mut c.tls_max_version),
        "Highest version of TLS: TLS1.2 or TLS1.3 (empty: the newest).",
    ),
    unsupported("ca-file", Group::Hidden, &[], "it was replaced by --trusted-ca-file and --client-cert-auth"),
    unsupported(
        "peer-ca-file",
        Group::Hidden,
        &[],
        "it was replaced by --peer-trusted-ca-file and --peer-client-cert-auth",
    ),
    Flag::new(
        "cors",
        Group::Security,
        Kind::Origins(|c| &mut c.cors),
        "Origins whose pages may call the HTTP API, comma-separated (* allows all).",
    ),
    Flag::new(
        "host-whitelist",
        Group::Security,
        Kind::Names(|c| &mut c.host_whitelist),
        "Host names accepted in plaintext HTTP requests, comma-separated (empty or * accepts all).",
    ),
    Flag::new(
        "auth-token",
        Group::Auth,
        Kind::Text(|c| &mut c.auth_token),
        "Tokens of logged-in users: 'simple', or 'jwt' with options (jwt,pub-key=FILE,priv-key=FILE,sign-method=RS256,ttl=10m).",
    ),
    Flag::new(
        "bcrypt-cost",
        Group::Auth,
        Kind::Count(|c| &mut c.bcrypt_cost),
        "Cost of hashing a password, between 4 and 31; each step doubles it.",
    ),
    Flag::new(
        "auth-token-ttl",
        Group::Auth,
        Kind::Count(|c| &mut c.auth_token_ttl_seconds),
        "Seconds that a simple token lives after its last use.",
    ),
    without_effect("enable-pprof", true),
    Flag::new(
        "metrics",
        Group::Monitoring,
        Kind::Text(|c| &mut c.metrics),
        "Detail of the metrics: 'basic', or 'extensive' for a latency histogram of each RPC.",
    ),
    Flag::new(
        "listen-metrics-urls",
        Group::Monitoring,
        Kind::Urls(|c| &mut c.listen_metrics_urls),
        "Further URLs that serve metrics and health only; https ones with the clients' certificate.",
    ),
    Flag::new(
        "logger",
        Group::Logging,
        Kind::Text(|c| &mut c.logger),
        "Shape of the log lines; only 'zap' exists.",
    ),
    Flag::new(
        "log-outputs",
        Group::Logging,
        Kind::Names(|c| &mut c.log_outputs),
        "Where log lines go: 'default' (stderr), 'stderr', 'stdout' or file paths, comma-separated.",
    ),
    Flag::new(
        "log-level",
        Group::Logging,
        Kind::Text(|c| &mut c.log_level),
        "Least level logged: debug, info, warn, error, panic or fatal.",
    ),
    Flag::new("log-format", Group::Logging, Kind::Text(|c| &mut c.log_format), "'json' or 'console'."),
    Flag::new(
        "enable-log-rotation",
        Group::Logging,
        Kind::Switch(|c| &mut c.enable_log_rotation),
        "Not implemented: refused when on. Rotate with the system's tools.",
    ),
    Flag::new(
        "log-rotation-config-json",
        Group::Logging,
        Kind::Text(|c| &mut c.log_rotation_config_json),
        "Read only with --enable-log-rotation.",
    ),
    Flag::new(
        "warning-unary-request-duration",
        Group::Logging,
        Kind::Time(|c| &mut c.warning_unary_request_duration),
        "A request that takes longer is logged as a warning.",
    )
    .experimental_before(),
    unsupported_switch("enable-distributed-tracing", Group::Tracing, TRACING).experimental_before(),
    unsupported("distributed-tracing-address", Group::Tracing, &["localhost:4317"], TRACING)
        .experimental_before(),
    unsupported("distributed-tracing-service-name", Group::Tracing, &["etcd"], TRACING).experimental_before(),
    unsupported("distributed-tracing-instance-id", Group::Tracing, &[], TRACING).experimental_before(),
    unsupported("distributed-tracing-sampling-rate", Group::Tracing, &["0"], TRACING).experimental_before(),
    Flag::new(
        "corrupt-check-time",
        Group::Other,
        Kind::Time(|c| &mut c.corrupt_check_time),
        "Time between two comparisons of all members' data (0 to disable).",
    )
    .experimental_before(),
    Flag::new(
        "compact-hash-check-time",
        Group::Other,
        Kind::Time(|c| &mut c.compact_hash_check_time),
        "Time between two comparisons of compaction hashes; needs gate CompactHashCheck.",
    )
    .experimental_before(),
    Flag::new(
        "compaction-batch-limit",
        Group::Other,
        Kind::Count(|c| &mut c.compaction_batch_limit),
        "Most revisions deleted in one step of a compaction (0: 1000).",
    )
    .experimental_before(),
    Flag::new(
        "compaction-sleep-interval",
        Group::Other,
        Kind::Time(|c| &mut c.compaction_sleep_interval),
        "Pause between two steps of a compaction (0: 10ms).",
    )
    .experimental_before(),
    Flag::new(
        "watch-progress-notify-interval",
        Group::Other,
        Kind::Time(|c| &mut c.watch_progress_notify_interval),
        "Time between two progress notifications to an idle watcher (0: 10m).",
    )
    .experimental_before(),
    Flag::new(
        "warning-apply-duration",
        Group::Other,
        Kind::Time(|c| &mut c.warning_apply_duration),
        "An entry that takes longer to apply is logged as a warning.",
    )
    .experimental_before(),
    Flag::new(
        "max-learners",
        Group::Other,
        Kind::Count(|c| &mut c.max_learners),
        "Most learners in the cluster.",
    )
    .experimental_before(),
    Flag::new(
        "snapshot-catchup-entries",
        Group::Other,
        Kind::Count(|c| &mut c.snapshot_catchup_entries),
        "Entries kept behind a snapshot for slow followers.",
    )
    .experimental_before(),
    unsupported("downgrade-check-time", Group::Other, &["5s"], "the downgrade monitor is not implemented")
        .experimental_before(),
    without_effect("bootstrap-defrag-threshold-megabytes", false).experimental_before(),
    old_gate("experimental-initial-corrupt-check", Feature::InitialCorruptCheck),
    old_gate("experimental-compact-hash-check-enabled", Feature::CompactHashCheck),
    old_gate("experimental-txn-mode-write-with-shared-buffer", Feature::TxnModeWriteWithSharedBuffer),
    old_gate("experimental-enable-lease-checkpoint", Feature::LeaseCheckpoint),
    old_gate("experimental-enable-lease-checkpoint-persist", Feature::LeaseCheckpointPersist),
    old_gate("experimental-stop-grpc-service-on-defrag", Feature::StopGrpcServiceOnDefrag),
    Flag::new(
        "max-watchers",
        Group::Keelson,
        Kind::Count(|c| &mut c.max_watchers),
        "Most watchers on this member.",
    ),
    Flag::new(
        "max-watch-streams",
        Group::Keelson,
        Kind::Count(|c| &mut c.max_watch_streams),
        "Most open watch streams on this member.",
    ),
    Flag::new(
        "max-inflight-proposals",
        Group::Keelson,
        Kind::Count(|c| &mut c.max_inflight_proposals),
        "Most writes waiting for their commit; more are answered 'too many requests'.",
    ),
    Flag::new(
        "max-apply-lag-entries",
        Group::Keelson,
        Kind::Count(|c| &mut c.max_apply_lag_entries),
        "Committed entries not yet applied beyond which writes are answered 'too many requests'.",
    ),
    Flag::new(
        "value-cache-bytes",
        Group::Keelson,
        Kind::Count(|c| &mut c.value_cache_bytes),
        "Memory in bytes for cached values (0: 256 MiB); others are read from disk.",
    ),
    Flag::new(
        "force-new-cluster",
        Group::Unsafe,
        Kind::Switch(|c| &mut c.force_new_cluster),
        "Go on alone with the data here: all other members are removed. For a cluster that lost its quorum.",
    ),
    Flag::new(
        "unsafe-no-fsync",
        Group::Unsafe,
        Kind::Switch(|c| &mut c.unsafe_no_fsync),
        "Never wait for the disk. Data will be lost in a crash.",
    ),
    Flag::new("config-file", Group::Hidden, Kind::ConfigFile, "").not_in_file(),
    Flag::new("version", Group::Hidden, Kind::Version, "").not_in_file(),
    unsupported("proxy", Group::Hidden, &["off"], PROXY),
    unsupported("proxy-failure-wait", Group::Hidden, &["5000"], PROXY),
    unsupported("proxy-refresh-interval", Group::Hidden, &["30000"], PROXY),
    unsupported("proxy-dial-timeout", Group::Hidden, &["1000"], PROXY),
    unsupported("proxy-write-timeout", Group::Hidden, &["5000"], PROXY),
    unsupported("proxy-read-timeout", Group::Hidden, &["0"], PROXY),
    unsupported_switch("debug", Group::Hidden, "it was replaced by --log-level=debug"),
    unsupported("log-output", Group::Hidden, &["default"], "it was replaced by --log-outputs"),
    unsupported("log-package-levels", Group::Hidden, &[], "it was replaced by --log-level"),
    ignored("cluster-active-size"),
    ignored("cluster-remove-delay"),
    ignored("cluster-sync-interval"),
    ignored("config"),
    ignored("force"),
    ignored("max-result-buffer"),
    ignored("max-retry-attempts"),
    ignored("peer-heartbeat-interval"),
    ignored("peer-election-timeout"),
    ignored("retry-interval"),
    ignored("snapshot"),
    ignored("v"),
    ignored("vv"),
];

/// Keys of the configuration file that no flag has.
pub static FILE_ONLY: &[Flag] = &[
    security("client-cert-allowed-cn", Kind::List(|c| &mut c.client_tls.allowed_cns), "")
        .in_file(CLIENT, "allowed-cn"),
    security(
        "client-skip-client-san-verification",
        Kind::Switch(|c| &mut c.client_tls.skip_client_san_verification),
        "",
    )
    .in_file(CLIENT, "skip-client-san-verification"),
];
