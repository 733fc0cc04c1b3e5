//! The server's configuration: one plain value, its defaults, its rules.
//!
//! Owns what may be configured and which combinations are refused, with etcd's error texts. It never opens
//! a file, socket or clock itself; only `cli` reads the process and the configuration file. There is no
//! global: several members in one process each hold their own `Config`. Called by `main` and by tests that
//! embed a server; `validate` must have passed before a server is built from it.
//!
//! Folder: `flags` is the one table from which the command line, environment, file and usage text follow;
//! `cli` parses a process's arguments; `file` reads `--config-file`; `usage` prints; `url`, `cluster`,
//! `discovery`, `duration`, `features`, `logging` and `tls` are the value types.
//!
//! Follows etcd's `server/embed/config.go` and `server/etcdmain/config.go`. Differences: without
//! `--quota-backend-bytes` there is no quota; limits of our own are in the group "Keelson".

pub mod cli;
pub mod cluster;
pub mod discovery;
pub mod duration;
pub mod features;
pub mod file;
mod flags;
pub mod logging;
pub mod tls;
pub mod url;
pub mod usage;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use cli::{Command, Refusal, Warning};
pub use cluster::InitialCluster;
pub use discovery::Discovery;
pub use features::{Feature, FeatureGates};
pub use tls::TlsInfo;
pub use url::{Scheme, Url};

/// Version this server reports to clients and peers.
pub const VERSION: &str = "3.7.0";
/// Lowest version a cluster may have, and the one assumed until the leader has decided.
pub const MIN_CLUSTER_VERSION: &str = "3.0.0";
/// Version of the client API, as `--version` of the command-line clients shows it.
pub const API: &str = "3.7";

/// `--name` of a member that was given none.
pub const DEFAULT_NAME: &str = "default";
/// Budget for cached values when `--value-cache-bytes` is 0.
pub const DEFAULT_VALUE_CACHE_BYTES: u64 = 256 << 20;

const DEFAULT_SNAPSHOT_COUNT: u64 = 10_000;
const BCRYPT_COSTS: std::ops::RangeInclusive<u64> = 4..=31;
const DEFAULT_BCRYPT_COST: u32 = 10;
const DEFAULT_TOKEN_TTL_SECONDS: u64 = 300;
/// A century, which no token outlives.
const MAX_TOKEN_TTL_SECONDS: u64 = 100 * 365 * 24 * 3600;
const MAX_ELECTION_TIMEOUT_MS: u64 = 50_000;
const RECOMMENDED_MAX_REQUEST_BYTES: u64 = 10 << 20;
const MIN_RAFT_IO_TIMEOUT: Duration = Duration::from_secs(5);

/// A configuration that breaks a rule; the text is what the operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

fn refuse<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

/// Whether this member founds its cluster or joins one that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

impl ClusterState {
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterState::New => "new",
            ClusterState::Existing => "existing",
        }
    }
}

/// What automatic compaction keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// The history of this length of time.
    Periodic(Duration),
    /// This many of the latest revisions.
    Revision(i64),
}

/// Everything a member is started with. Zero means "the default" only where a field says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub name: String,
    /// Empty: `<name>.etcd`; see [`Config::data_dir_path`].
    pub data_dir: String,
    /// Empty: `member/wal` inside the data directory.
    pub wal_dir: String,
    /// Entries; 0: see [`Config::snapshot_entries`].
    pub snapshot_count: u64,
    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms: u64,
    pub initial_election_tick_advance: bool,
    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    /// When not empty, `listen_client_urls` serve gRPC only and these serve HTTP only.
    pub listen_client_http_urls: Vec<Url>,
    /// WAL files kept; 0 keeps all.
    pub max_wals: u64,
    /// Bytes; 0 or less means no quota; see [`Config::quota_bytes`].
    pub quota_backend_bytes: i64,
    /// 0: the backend's own default.
    pub backend_batch_interval: Duration,
    /// Operations; 0: the backend's own default.
    pub backend_batch_limit: u64,
    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    pub grpc_keepalive_min_time: Duration,
    /// 0 switches server pings off.
    pub grpc_keepalive_interval: Duration,
    /// 0 switches the timeout off.
    pub grpc_keepalive_timeout: Duration,
    pub socket_reuse_port: bool,
    pub socket_reuse_address: bool,
    pub raft_read_timeout: Duration,
    pub raft_write_timeout: Duration,
    pub feature_gates: FeatureGates,

    pub initial_advertise_peer_urls: Vec<Url>,
    /// `name=url,...`; empty: this member alone, from its name and advertised peer URLs.
    pub initial_cluster: String,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    pub discovery: Discovery,
    pub advertise_client_urls: Vec<Url>,
    pub strict_reconfig_check: bool,
    pub pre_vote: bool,
    /// As written on the command line; see [`Config::auto_compaction`].
    pub auto_compaction_retention: String,
    pub auto_compaction_mode: String,

    /// Of the client and the metrics listeners.
    pub client_tls: TlsInfo,
    /// Serve clients with a certificate of our own making; see [`Config::fixtures_path`].
    pub client_auto_tls: bool,
    pub peer_tls: TlsInfo,
    pub peer_auto_tls: bool,
    /// Years that certificates of our own making are valid.
    pub self_signed_cert_validity: u64,
    /// Go's names; see [`Config::tls_protocol`].
    pub cipher_suites: Vec<String>,
    pub tls_min_version: String,
    /// Empty: the newest.
    pub tls_max_version: String,
    /// Allowed browser origins; `*` or none allows all.
    pub cors: Vec<String>,
    /// Host names accepted in plaintext HTTP requests; `*` or none accepts all.
    pub host_whitelist: Vec<String>,

    /// `simple`, `jwt` with options, or empty for none; the server reads it when it starts.
    pub auth_token: String,
    /// As given; see [`Config::effective_bcrypt_cost`].
    pub bcrypt_cost: u64,
    /// Seconds; see [`Config::simple_token_ttl`].
    pub auth_token_ttl_seconds: u64,

    /// `basic` or `extensive`.
    pub metrics: String,
    pub listen_metrics_urls: Vec<Url>,

    pub logger: String,
    pub log_outputs: Vec<String>,
    pub log_level: String,
    /// `json` or `console`.
    pub log_format: String,
    pub enable_log_rotation: bool,
    pub log_rotation_config_json: String,
    pub warning_unary_request_duration: Duration,

    /// 0 switches the periodic check off.
    pub corrupt_check_time: Duration,
    pub compact_hash_check_time: Duration,
    /// Revisions per step; 0: see [`Config::compaction_batch_revisions`].
    pub compaction_batch_limit: u64,
    /// 0: see [`Config::compaction_sleep`].
    pub compaction_sleep_interval: Duration,
    /// 0: see [`Config::watch_progress_interval`].
    pub watch_progress_notify_interval: Duration,
    pub warning_apply_duration: Duration,
    pub max_learners: u64,
    pub snapshot_catchup_entries: u64,
    /// Between two notes of what a long lease has left, where they are on; etcd's, which has no flag for it either.
    pub lease_checkpoint_interval: Duration,

    pub max_watchers: u64,
    pub max_watch_streams: u64,
    pub max_inflight_proposals: u64,
    pub max_apply_lag_entries: u64,
    /// 0: see [`Config::value_cache_budget_bytes`].
    pub value_cache_bytes: u64,

    /// Go on alone, without the other members.
    pub force_new_cluster: bool,
    /// Acknowledge before data is on disk. Only for tests.
    pub unsafe_no_fsync: bool,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            name: DEFAULT_NAME.into(),
            data_dir: String::new(),
            wal_dir: String::new(),
            snapshot_count: DEFAULT_SNAPSHOT_COUNT,
            heartbeat_interval_ms: 100,
            election_timeout_ms: 1000,
            initial_election_tick_advance: true,
            listen_peer_urls: vec![Url::http("localhost", 2380)],
            listen_client_urls: vec![Url::http("localhost", 2379)],
            listen_client_http_urls: Vec::new(),
            max_wals: 5,
            quota_backend_bytes: 0,
            backend_batch_interval: Duration::ZERO,
            backend_batch_limit: 0,
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            grpc_keepalive_min_time: seconds(5),
            grpc_keepalive_interval: seconds(2 * 3600),
            grpc_keepalive_timeout: seconds(20),
            socket_reuse_port: false,
            socket_reuse_address: false,
            raft_read_timeout: MIN_RAFT_IO_TIMEOUT,
            raft_write_timeout: MIN_RAFT_IO_TIMEOUT,
            feature_gates: FeatureGates::default(),
            initial_advertise_peer_urls: vec![Url::http("localhost", 2380)],
            initial_cluster: String::new(),
            initial_cluster_state: ClusterState::New,
            initial_cluster_token: "etcd-cluster".into(),
            discovery: Discovery::default(),
            advertise_client_urls: vec![Url::http("localhost", 2379)],
            strict_reconfig_check: true,
            pre_vote: true,
            auto_compaction_retention: "0".into(),
            auto_compaction_mode: "periodic".into(),
            client_tls: TlsInfo::default(),
            client_auto_tls: false,
            peer_tls: TlsInfo::default(),
            peer_auto_tls: false,
            self_signed_cert_validity: 1,
            cipher_suites: Vec::new(),
            tls_min_version: "TLS1.2".into(),
            tls_max_version: String::new(),
            cors: vec!["*".into()],
            host_whitelist: vec!["*".into()],
            auth_token: "simple".into(),
            bcrypt_cost: DEFAULT_BCRYPT_COST.into(),
            auth_token_ttl_seconds: DEFAULT_TOKEN_TTL_SECONDS,
            metrics: "basic".into(),
            listen_metrics_urls: Vec::new(),
            logger: "zap".into(),
            log_outputs: vec!["default".into()],
            log_level: "info".into(),
            log_format: "json".into(),
            enable_log_rotation: false,
            log_rotation_config_json:
                r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#
                    .into(),
            warning_unary_request_duration: Duration::from_millis(300),
            corrupt_check_time: Duration::ZERO,
            compact_hash_check_time: seconds(60),
            compaction_batch_limit: 0,
            compaction_sleep_interval: Duration::ZERO,
            watch_progress_notify_interval: Duration::ZERO,
            warning_apply_duration: Duration::from_millis(100),
            max_learners: 1,
            lease_checkpoint_interval: seconds(5 * 60),
            snapshot_catchup_entries: 5000,
            max_watchers: 1_000_000,
            max_watch_streams: 100_000,
            max_inflight_proposals: 10_000,
            max_apply_lag_entries: 5000,
            value_cache_bytes: 0,
            force_new_cluster: false,
            unsafe_no_fsync: false,
        }
    }
}

impl Config {
    /// Checks every rule that needs neither disk nor network, in etcd's order.
    pub fn validate(&self) -> Result<(), ConfigError> {
        logging::LogSettings::from_config(self)?;
        for urls in [
            &self.listen_peer_urls,
            &self.listen_client_urls,
            &self.listen_client_http_urls,
            &self.listen_metrics_urls,
        ] {
            urls.iter().try_for_each(check_listen_url)?;
        }
        self.check_discovery()?;
        check_advertised("initial-advertise-peer-urls", &self.initial_advertise_peer_urls)?;
        check_advertised("advertise-client-urls", &self.advertise_client_urls)?;
        self.check_ticks()?;
        // Checked late, as etcd does: an operator with several faults sees them in the familiar order.
        if !self.listen_client_urls.is_empty() && self.advertise_client_urls.is_empty() {
            return refuse("--advertise-client-urls is required when --listen-client-urls is set explicitly");
        }
        self.auto_compaction()?;
        if self.feature_gates.enabled(Feature::LeaseCheckpointPersist)
            && !self.feature_gates.enabled(Feature::LeaseCheckpoint)
        {
            return refuse(
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
            );
        }
        if self.compact_hash_check_time.is_zero() {
            return refuse("--compact-hash-check-time must be >0 (set to 0s)");
        }
        self.check_tls()?;
        if !["basic", "extensive"].contains(&self.metrics.as_str()) {
            return refuse(format!("unknown metrics level {:?}: use basic or extensive", self.metrics));
        }
        for (name, value) in [
            ("max-watchers", self.max_watchers),
            ("max-watch-streams", self.max_watch_streams),
            ("max-inflight-proposals", self.max_inflight_proposals),
            ("max-apply-lag-entries", self.max_apply_lag_entries),
            ("max-request-bytes", self.max_request_bytes),
        ] {
            if value == 0 {
                return refuse(format!("--{name} must be >0 (set to 0)"));
            }
        }
        Ok(())
    }

    fn check_ticks(&self) -> Result<(), ConfigError> {
        let (heartbeat, election) = (self.heartbeat_interval_ms, self.election_timeout_ms);
        if heartbeat == 0 {
            return refuse("--heartbeat-interval must be >0 (set to 0ms)");
        }
        if election == 0 {
            return refuse("--election-timeout must be >0 (set to 0ms)");
        }
        if heartbeat.saturating_mul(5) > election {
            return refuse(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if election > MAX_ELECTION_TIMEOUT_MS {
            return refuse(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_TIMEOUT_MS}ms"
            ));
        }
        Ok(())
    }

    /// Settings that are allowed and that an operator should hear about.
    pub fn advice(&self) -> Vec<Warning> {
        let mut advice = Vec::new();
        if self.name == DEFAULT_NAME {
            advice.push(Warning::new(
                "the default name is in use; give every member a --name of its own",
                &self.name,
            ));
        }
        if self.snapshot_count == 0 {
            let subject = format!("--snapshot-count={}", self.snapshot_entries());
            advice.push(Warning::new("updating snapshot-count to default", subject));
        }
        if self.max_request_bytes > RECOMMENDED_MAX_REQUEST_BYTES {
            advice.push(Warning::new(
                "exceeded recommended request limit",
                format!("--max-request-bytes={}", self.max_request_bytes),
            ));
        }
        if self.feature_gates.enabled(Feature::LeaseCheckpoint)
            && !self.feature_gates.enabled(Feature::LeaseCheckpointPersist)
        {
            advice.push(Warning::new(
                "lease checkpoints are lost at a restart without their persistence",
                "LeaseCheckpointPersist",
            ));
        }
        if !BCRYPT_COSTS.contains(&self.bcrypt_cost) {
            advice.push(Warning::new(
                "use default bcrypt cost instead of the invalid given cost",
                format!("--bcrypt-cost={} (4 to 31 are possible)", self.bcrypt_cost),
            ));
        }
        if self.unsafe_no_fsync {
            advice.push(Warning::new("acknowledged writes may be lost in a crash", "--unsafe-no-fsync"));
        }
        advice.extend(self.tls_advice());
        let usual = Config::default();
        let without_effect = [
            (
                "warning-unary-request-duration",
                self.warning_unary_request_duration != usual.warning_unary_request_duration,
            ),
            ("grpc-keepalive-min-time", self.grpc_keepalive_min_time != usual.grpc_keepalive_min_time),
            ("backend-batch-interval", self.backend_batch_interval != usual.backend_batch_interval),
            ("backend-batch-limit", self.backend_batch_limit != usual.backend_batch_limit),
            (
                "initial-election-tick-advance",
                self.initial_election_tick_advance != usual.initial_election_tick_advance,
            ),
            ("socket-reuse-address", self.socket_reuse_address != usual.socket_reuse_address),
        ];
        for (flag, given) in without_effect {
            if given {
                advice.push(Warning::new("the flag has no effect yet in this build", format!("--{flag}")));
            }
        }
        advice
    }

    /// Raises the raft connection timeouts to their minimum, as etcd does instead of refusing.
    fn raise_raft_timeouts(&mut self, warnings: &mut Vec<Warning>) {
        for (name, value) in [
            ("raft-read-timeout", &mut self.raft_read_timeout),
            ("raft-write-timeout", &mut self.raft_write_timeout),
        ] {
            if *value < MIN_RAFT_IO_TIMEOUT {
                *value = MIN_RAFT_IO_TIMEOUT;
                warnings.push(Warning::new(format!("{name} increased to minimum value"), "5s"));
            }
        }
    }

    pub fn data_dir_path(&self) -> PathBuf {
        if self.data_dir.is_empty() {
            PathBuf::from(format!("{}.etcd", self.name))
        } else {
            PathBuf::from(&self.data_dir)
        }
    }

    pub fn member_dir_path(&self) -> PathBuf {
        self.data_dir_path().join("member")
    }

    /// Where a certificate of our own making lies, `side` being `client` or `peer`.
    pub fn fixtures_path(&self, side: &str) -> PathBuf {
        self.data_dir_path().join("fixtures").join(side)
    }

    pub fn wal_dir_path(&self) -> PathBuf {
        if self.wal_dir.is_empty() {
            self.member_dir_path().join("wal")
        } else {
            PathBuf::from(&self.wal_dir)
        }
    }

    /// Election timeout in heartbeats, rounded down; at least 5 once validated.
    pub fn election_ticks(&self) -> u64 {
        self.election_timeout_ms / self.heartbeat_interval_ms.max(1)
    }

    /// How long a proposal or a linearizable read may wait: five seconds and two elections.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + Duration::from_millis(self.election_timeout_ms.saturating_mul(2))
    }

    /// Backend size at which writes are refused; `None` without a quota.
    pub fn quota_bytes(&self) -> Option<u64> {
        u64::try_from(self.quota_backend_bytes).ok().filter(|bytes| *bytes > 0)
    }

    /// Applied entries after which a snapshot is taken.
    pub fn snapshot_entries(&self) -> u64 {
        if self.snapshot_count == 0 { DEFAULT_SNAPSHOT_COUNT } else { self.snapshot_count }
    }

    pub fn value_cache_budget_bytes(&self) -> u64 {
        if self.value_cache_bytes == 0 { DEFAULT_VALUE_CACHE_BYTES } else { self.value_cache_bytes }
    }

    /// How dear a password hash is; the default where what was given is impossible, as in etcd.
    pub fn effective_bcrypt_cost(&self) -> u32 {
        match BCRYPT_COSTS.contains(&self.bcrypt_cost) {
            true => self.bcrypt_cost as u32,
            false => DEFAULT_BCRYPT_COST,
        }
    }

    /// How long a simple token lives after its last use.
    pub fn simple_token_ttl(&self) -> Duration {
        let seconds = match self.auth_token_ttl_seconds {
            0 => DEFAULT_TOKEN_TTL_SECONDS,
            seconds => seconds.min(MAX_TOKEN_TTL_SECONDS),
        };
        Duration::from_secs(seconds)
    }

    pub fn compaction_batch_revisions(&self) -> u64 {
        if self.compaction_batch_limit == 0 { 1000 } else { self.compaction_batch_limit }
    }

    pub fn compaction_sleep(&self) -> Duration {
        or_default(self.compaction_sleep_interval, Duration::from_millis(10))
    }

    pub fn watch_progress_interval(&self) -> Duration {
        or_default(self.watch_progress_notify_interval, Duration::from_secs(600))
    }

    /// The parsed retention; `None` when automatic compaction is off.
    pub fn auto_compaction(&self) -> Result<Option<AutoCompaction>, ConfigError> {
        let text = self.auto_compaction_retention.as_str();
        let number = text.parse::<i64>().ok().filter(|n| *n >= 0);
        let wrong = |why: String| ConfigError(format!("error parsing CompactionRetention: {why}"));
        let compaction = match self.auto_compaction_mode.as_str() {
            "periodic" => AutoCompaction::Periodic(match number {
                _ if text.is_empty() => Duration::ZERO,
                // A bare number counts hours.
                Some(hours) => u64::try_from(hours)
                    .ok()
                    .and_then(|hours| hours.checked_mul(3600))
                    .map(Duration::from_secs)
                    .filter(|length| *length <= duration::MAX)
                    .ok_or_else(|| wrong(format!("{hours} hours are too long")))?,
                None => duration::parse(text).map_err(wrong)?,
            }),
            "revision" => match number {
                _ if text.is_empty() => AutoCompaction::Revision(0),
                Some(revisions) => AutoCompaction::Revision(revisions),
                None => return Err(wrong(format!("{text:?} is not a number of revisions"))),
            },
            mode => return refuse(format!("unknown auto-compaction-mode {mode:?}")),
        };
        let off =
            matches!(compaction, AutoCompaction::Periodic(Duration::ZERO) | AutoCompaction::Revision(0));
        Ok((!off).then_some(compaction))
    }

    /// The members this one starts with. Only a member without a data directory needs it.
    pub fn initial_cluster(&self) -> Result<InitialCluster, ConfigError> {
        if self.initial_cluster.is_empty() {
            return Ok(InitialCluster::single(&self.name, &self.initial_advertise_peer_urls));
        }
        InitialCluster::parse(&self.initial_cluster)
            .map_err(|e| ConfigError(format!("error setting up initial cluster: {e}")))
    }

    /// Whether a browser page of this origin may call the HTTP API.
    pub fn allows_origin(&self, origin: &str) -> bool {
        listed_or_open(&self.cors, origin)
    }

    /// Whether a plaintext HTTP request for this host name (without port) may be served.
    pub fn allows_host(&self, host: &str) -> bool {
        listed_or_open(&self.host_whitelist, host)
    }
}

/// A failed open.
pub(crate) fn open_failure(path: &str, error: &std::io::Error) -> String {
    format!("open {path}: {}", reason(error))
}

/// An error of the system as Go words it: without Rust's "(os error 2)", and beginning with a small letter.
pub(crate) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    if error.raw_os_error().is_none() {
        return text;
    }
    let mut letters = text.split(" (os error").next().unwrap_or_default().chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

fn listed_or_open(list: &[String], wanted: &str) -> bool {
    list.is_empty() || list.iter().any(|entry| entry == "*" || entry == wanted)
}

fn or_default(value: Duration, default: Duration) -> Duration {
    if value.is_zero() { default } else { value }
}

fn check_listen_url(url: &Url) -> Result<(), ConfigError> {
    if url.scheme().is_unix() || url.host() == "localhost" || url.ip().is_some() {
        return Ok(());
    }
    refuse(format!("expected IP in URL for binding ({url})"))
}

fn check_advertised(flag: &str, urls: &[Url]) -> Result<(), ConfigError> {
    match urls.iter().find(|url| !url.scheme().is_unix() && url.host().is_empty()) {
        Some(url) => refuse(format!(
            "--{flag} {:?} must be \"host:port\" (unexpected empty host ({url}))",
            url::join(urls)
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
