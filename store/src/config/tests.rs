//! Rules, command line, environment and file, each as a table of input and outcome. Texts marked "etcd" were
//! read off etcd 3.5.1.

use super::*;

/// A full set of addresses, as etcd wants one before other rules show.
const ADDRESSES: [&str; 8] = [
    "--listen-client-urls",
    "http://127.0.0.1:1",
    "--advertise-client-urls",
    "http://127.0.0.1:1",
    "--listen-peer-urls",
    "http://127.0.0.1:2",
    "--initial-advertise-peer-urls",
    "http://127.0.0.1:2",
];

fn parse(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Command, Refusal> {
    Command::parse(
        arguments.iter().map(|a| a.to_string()),
        environment.iter().map(|(name, value)| (name.to_string(), value.to_string())),
    )
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Config, Vec<Warning>) {
    match parse(arguments, environment) {
        Ok(Command::Run { config, warnings }) => (*config, warnings),
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn config(arguments: &[&str]) -> Config {
    run(arguments, &[]).0
}

/// Exit code and first line of what is printed.
fn refusal(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String) {
    let refusal = parse(arguments, environment).expect_err(&format!("{arguments:?}"));
    (refusal.exit_code(), refusal.to_string().lines().next().unwrap_or_default().to_owned())
}

fn with_addresses<'a>(more: &[&'a str]) -> Vec<&'a str> {
    ADDRESSES.iter().chain(more).copied().collect()
}

fn from_file(text: &str) -> Result<(Config, Vec<Warning>), String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    match parse(&["--config-file", path], &[]) {
        Ok(Command::Run { config, warnings }) => Ok((*config, warnings)),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.to_string().replace(&format!("{path}: "), "")),
    }
}

fn has(warnings: &[Warning], message: &str, subject: &str) -> bool {
    warnings.iter().any(|w| w.message.contains(message) && w.subject == subject)
}

#[test]
fn defaults_are_etcds() {
    let shown = |name: &str| flags::Flag::find(name).unwrap().show(&mut Config::default()).unwrap();
    for (name, default) in [
        ("name", "default"),
        ("data-dir", "${name}.etcd"),
        ("wal-dir", ""),
        ("snapshot-count", "10000"),
        ("heartbeat-interval", "100"),
        ("election-timeout", "1000"),
        ("initial-election-tick-advance", "true"),
        ("listen-peer-urls", "http://localhost:2380"),
        ("listen-client-urls", "http://localhost:2379"),
        ("listen-client-http-urls", ""),
        ("max-wals", "5"),
        ("quota-backend-bytes", "0"),
        ("max-txn-ops", "128"),
        ("max-request-bytes", "1572864"),
        ("max-concurrent-streams", "4294967295"),
        ("grpc-keepalive-min-time", "5s"),
        ("grpc-keepalive-interval", "2h"),
        ("grpc-keepalive-timeout", "20s"),
        ("raft-read-timeout", "5s"),
        ("raft-write-timeout", "5s"),
        ("initial-advertise-peer-urls", "http://localhost:2380"),
        ("initial-cluster", "default=http://localhost:2380"),
        ("initial-cluster-state", "new"),
        ("initial-cluster-token", "etcd-cluster"),
        ("advertise-client-urls", "http://localhost:2379"),
        ("strict-reconfig-check", "true"),
        ("pre-vote", "true"),
        ("auto-compaction-retention", "0"),
        ("auto-compaction-mode", "periodic"),
        ("cors", "*"),
        ("host-whitelist", "*"),
        ("metrics", "basic"),
        ("log-outputs", "default"),
        ("log-level", "info"),
        ("log-format", "json"),
        ("warning-unary-request-duration", "300ms"),
        ("corrupt-check-time", "0s"),
        ("compact-hash-check-time", "1m"),
        ("warning-apply-duration", "100ms"),
        ("max-learners", "1"),
        ("snapshot-catchup-entries", "5000"),
        ("max-apply-lag-entries", "5000"),
    ] {
        assert_eq!(shown(name), default, "--{name}");
    }
    assert_eq!(Config::default().validate(), Ok(()));
    assert_eq!(config(&[]), Config::default());
    assert_eq!(Config::default().initial_cluster().unwrap().to_string(), "default=http://localhost:2380");
    assert_eq!(Config::default().request_timeout(), Duration::from_secs(7));
    assert_eq!(Config::default().quota_bytes(), None);
}

/// etcd
#[test]
fn unreadable_command_lines_exit_with_2() {
    for (arguments, text) in [
        (&["--datadir", "x"][..], "flag provided but not defined: -datadir"),
        (&["--name"], "flag needs an argument: -name"),
        (&["---name", "x"], "bad flag syntax: ---name"),
        (&["-=x"], "bad flag syntax: -=x"),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (&["--pre-vote=tRUE"], "invalid boolean value \"tRUE\" for -pre-vote: parse error"),
        (&["--pre-vote="], "invalid boolean value \"\" for -pre-vote: parse error"),
        (&["--auto-tls="], "invalid boolean value \"\" for -auto-tls: parse error"),
        (&["--enable-pprof=foo"], "invalid boolean value \"foo\" for -enable-pprof: parse error"),
        (&["--heartbeat-interval", "-1"], "invalid value \"-1\" for flag -heartbeat-interval: parse error"),
        (&["--election-timeout", "abc"], "invalid value \"abc\" for flag -election-timeout: parse error"),
        (
            &["--max-txn-ops", "99999999999999999999"],
            "invalid value \"99999999999999999999\" for flag -max-txn-ops: value out of range",
        ),
        (
            &["--grpc-keepalive-min-time", "5"],
            "invalid value \"5\" for flag -grpc-keepalive-min-time: parse error",
        ),
        (&["--discovery-fallback=foo"], "invalid value \"foo\" for flag -discovery-fallback: invalid value"),
        (&["--discovery-fallback="], "invalid value \"\" for flag -discovery-fallback: invalid value"),
        (
            &["--initial-cluster-state", "foo"],
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
        ),
        (
            &["--listen-client-urls", "http://127.0.0.1"],
            "invalid value \"http://127.0.0.1\" for flag -listen-client-urls: \
             URL address does not have the form \"host:port\": http://127.0.0.1",
        ),
        (
            &["--cors", ""],
            "invalid value \"\" for flag -cors: URL scheme must be http, https, unix, or unixs: ",
        ),
        (
            &["--cors", "a,b"],
            "invalid value \"a,b\" for flag -cors: URL scheme must be http, https, unix, or unixs: a",
        ),
        (
            &["--config-file", "c.yaml", "--listen-client-urls", "foo"],
            "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
        ),
    ] {
        assert_eq!(refusal(arguments, &[]), (2, text.into()), "{arguments:?}");
    }
    let with_usage = parse(&["--nosuch"], &[]).unwrap_err().to_string();
    assert!(with_usage.contains("\nUsage:\n"), "{with_usage}");
}

/// etcd, but for metrics, rotation and hints
#[test]
fn invalid_settings_exit_with_1() {
    for (more, text) in [
        (&["foo"][..], "'foo' is not a valid flag"),
        (&["-"], "'-' is not a valid flag"),
        (
            &["--pre-vote", "false"],
            "'false' is not a valid flag: a switch takes its value as --pre-vote=false",
        ),
        (&["--listen-client-urls", "http://foo:1"], "expected IP in URL for binding (http://foo:1)"),
        (&["--listen-client-urls", "http://:1"], "expected IP in URL for binding (http://:1)"),
        (
            &["--listen-peer-urls", "http://example.com:80"],
            "expected IP in URL for binding (http://example.com:80)",
        ),
        (&["--listen-metrics-urls", "http://foo:1"], "expected IP in URL for binding (http://foo:1)"),
        (
            &["--advertise-client-urls", "http://:1"],
            "--advertise-client-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (
            &["--heartbeat-interval", "300"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (&["--heartbeat-interval", "0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout", "0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--election-timeout", "60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (&["--auto-compaction-mode", "foo"], "unknown auto-compaction-mode \"foo\""),
        (
            &["--auto-compaction-retention", "foo"],
            "error parsing CompactionRetention: time: invalid duration \"foo\"",
        ),
        (
            &["--auto-compaction-retention", "-1"],
            "error parsing CompactionRetention: time: missing unit in duration \"-1\"",
        ),
        (
            &["--auto-compaction-mode", "revision", "--auto-compaction-retention", "1h"],
            "error parsing CompactionRetention: \"1h\" is not a number of revisions",
        ),
        (&["--logger", "capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--log-level", "foo"], "unrecognized level: \"foo\""),
        (&["--log-outputs", "stderr,default"], "multi logoutput for \"default\" is not supported yet"),
        (&["--log-outputs="], "couldn't open sink \"\": open : no such file or directory"),
        (&["--log-outputs=,"], "couldn't open sink \"\": open : no such file or directory"),
        (&["--metrics", "foo"], "unknown metrics level \"foo\": use basic or extensive"),
        (
            &["--feature-gates", "LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (&["--compact-hash-check-time", "0"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (&["--max-watchers", "0"], "--max-watchers must be >0 (set to 0)"),
        (
            &["--ca-file", "x"],
            "flag --ca-file is not supported yet by this build: \
             it was replaced by --trusted-ca-file and --client-cert-auth",
        ),
    ] {
        assert_eq!(refusal(&with_addresses(more), &[]), (1, text.into()), "{more:?}");
    }
    assert_eq!(
        refusal(&["--listen-client-urls", "http://127.0.0.1:1"], &[]),
        (1, "--advertise-client-urls is required when --listen-client-urls is set explicitly".into())
    );
}

#[test]
fn initial_cluster_is_checked_when_asked_for() {
    let error =
        |text: &str| config(&with_addresses(&["--initial-cluster", text])).initial_cluster().unwrap_err().0;
    assert_eq!(
        error("default"),
        "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "
    );
    assert_eq!(
        error("default=http://127.0.0.1:1/foo"),
        "error setting up initial cluster: URL must not contain a path: http://127.0.0.1:1/foo"
    );
    let derived = config(&with_addresses(&["--name", "n"])).initial_cluster().unwrap();
    assert_eq!(derived.to_string(), "n=http://127.0.0.1:2");
    let none = config(&with_addresses(&["--initial-cluster="])).initial_cluster().unwrap();
    assert_eq!(
        none.verify("default").unwrap_err().0,
        "couldn't find local name \"default\" in the initial cluster configuration"
    );
    // Empty variables are none, and what is looked up is not given.
    let (config, _) = run(&[], &[("ETCD_INITIAL_CLUSTER", ""), ("ETCD_LOG_OUTPUTS", "")]);
    assert_eq!(config, Config::default());
    assert_eq!(self::config(&["--initial-cluster=", "--discovery-srv=example.com"]).initial_cluster, "");
}

#[test]
fn flags_follow_gos_habits() {
    let config = config(&[
        "-name=x=y",
        "--data-dir",
        "-d",
        "-pre-vote=F",
        "--strict-reconfig-check=0",
        "--socket-reuse-port",
        "--heartbeat-interval",
        "0x10",
        "--quota-backend-bytes=-1",
        "--experimental-corrupt-check-time",
        "1h30m",
        "--heartbeat-interval=20",
        "--listen-metrics-urls",
        "",
        "--log-outputs=a.log, stdout,a.log",
        "--",
    ]);
    assert_eq!((config.name.as_str(), config.data_dir.as_str()), ("x=y", "-d"));
    assert_eq!(
        (config.pre_vote, config.strict_reconfig_check, config.socket_reuse_port),
        (false, false, true)
    );
    assert_eq!((config.heartbeat_interval_ms, config.quota_backend_bytes), (20, -1));
    assert_eq!(config.corrupt_check_time, Duration::from_secs(5400));
    assert_eq!(config.log_outputs, ["a.log", "stdout"]);
}

#[test]
fn harmless_values_of_missing_features_pass() {
    let (_, warnings) = run(
        &[
            "--cert-file=",
            "--auto-tls=false",
            "--enable-v2=f",
            "--proxy",
            "off",
            "--discovery-fallback=proxy",
            "--max-snapshots",
            "5",
            "--snapshot",
            "--enable-grpc-gateway=true",
            "--enable-pprof",
            "--backend-bbolt-freelist-type=map",
        ],
        &[],
    );
    assert!(has(&warnings, "no effect", "--max-snapshots"), "{warnings:?}");
    assert!(has(&warnings, "no longer supported", "--snapshot"), "{warnings:?}");
    assert!(has(&warnings, "no effect", "--enable-grpc-gateway"), "{warnings:?}");
    assert!(has(&warnings, "no effect", "--enable-pprof"), "{warnings:?}");
    let (_, warnings) = run(&["--enable-grpc-gateway=false", "--enable-pprof=false"], &[]);
    assert!(!warnings.iter().any(|it| it.message.contains("no effect")), "{warnings:?}");
}

#[test]
fn discovery_has_one_source() {
    let (config, _) = from_file(
        "discovery-config:
  token: t
  client: {endpoints: [a, b], request-timeout: 1000000000, secure: {cacert: c}, auth: {username: u, password: p}}
",
    )
    .unwrap();
    let given = &config.discovery;
    assert_eq!(
        (given.token.as_str(), given.endpoints.as_slice()),
        ("t", &["a".to_owned(), "b".to_owned()][..])
    );
    assert_eq!((given.request_timeout, given.trusted_ca_file.as_str()), (Duration::from_secs(1), "c"));
    assert_eq!(given.login(), Some(("u", "p")));
    let flags = ["--discovery-token=t", "--discovery-endpoints=a,b", "--discovery-user=u:p"];
    let (config, _) = run(&flags, &[]);
    assert_eq!((config.discovery.endpoints.len(), config.discovery.login()), (2, Some(("u", "p"))));

    let both = ["--discovery-srv=example.com", "--initial-cluster=default=http://localhost:2380"];
    assert!(refusal(&both, &[]).1.contains("multiple discovery or bootstrap flags are set"));
    assert!(refusal(&["--discovery-token=t"], &[]).1.contains("must be set"));
    assert!(refusal(&["--discovery=https://discovery.etcd.io/t"], &[]).1.contains("v2 discovery"));
}

#[test]
fn tokens_and_passwords_are_as_asked_or_as_usual() {
    let (config, _) =
        run(&["--auth-token=jwt,sign-method=RS256", "--bcrypt-cost=5", "--auth-token-ttl=7"], &[]);
    assert_eq!(config.auth_token, "jwt,sign-method=RS256");
    assert_eq!((config.effective_bcrypt_cost(), config.simple_token_ttl()), (5, Duration::from_secs(7)));
    // What is impossible gives way to the default, as in etcd.
    for cost in ["0", "3", "32"] {
        let (config, warnings) = run(&["--bcrypt-cost", cost, "--auth-token-ttl=0"], &[]);
        assert_eq!(
            (config.effective_bcrypt_cost(), config.simple_token_ttl()),
            (10, Duration::from_secs(300))
        );
        let subject = format!("--bcrypt-cost={cost} (4 to 31 are possible)");
        assert!(has(&warnings, "use default bcrypt cost", &subject), "{warnings:?}");
    }
    let (config, _) = run(&["--auth-token-ttl=18446744073709551615"], &[]);
    assert!(config.simple_token_ttl().as_secs() < 1 << 33);
}

#[test]
fn a_near_miss_gets_a_hint() {
    for (given, meant) in [
        ("datadir", Some("data-dir")),
        ("listen-clients-urls", Some("listen-client-urls")),
        ("heartbeet-interval", Some("heartbeat-interval")),
        ("experimental-corupt-check-time", Some("experimental-corrupt-check-time")),
        ("zzzzzzzz", None),
        ("x", None),
    ] {
        let text = parse(&[&format!("--{given}")], &[]).unwrap_err().to_string();
        assert_eq!(text.contains("did you mean"), meant.is_some(), "{text}");
        assert!(meant.is_none_or(|meant| text.contains(&format!("did you mean --{meant}?\n"))), "{text}");
    }
}

/// etcd
#[test]
fn environment_fills_in_and_conflicts() {
    let (config, warnings) = run(
        &["--data-dir", "d"],
        &[
            ("ETCD_NAME", "n"),
            ("ETCD_PRE_VOTE", "false"),
            ("ETCD_WAL_DIR", ""),
            ("ETCD_NAMEX", "foo"),
            ("ETCD_VERSION", "foo"),
            ("ETCD_UNSUPPORTED_ARCH", "arm"),
            ("ETCD_SNAPSHOT", "foo"),
            ("HOME", "/"),
        ],
    );
    assert_eq!((config.name.as_str(), config.pre_vote), ("n", false));
    assert!(has(&warnings, "unrecognized environment variable", "ETCD_NAMEX=foo"));
    assert!(has(&warnings, "cannot set special environment variable", "ETCD_VERSION=foo"));
    assert_eq!(warnings.len(), 3, "{warnings:?}");

    let conflict = "conflicting environment variable is shadowed by corresponding command-line flag \
                    (either unset environment variable or disable flag)): ETCD_NAME";
    assert_eq!(refusal(&["--name", "a"], &[("ETCD_NAME", "b")]), (1, conflict.into()));
    assert_eq!(refusal(&["--name", "a"], &[("ETCD_NAME", "")]), (1, conflict.into()));
    for (variable, value, text) in [
        ("ETCD_PRE_VOTE", "maybe", "invalid value \"maybe\" for ETCD_PRE_VOTE: parse error"),
        ("ETCD_HEARTBEAT_INTERVAL", "x", "invalid value \"x\" for ETCD_HEARTBEAT_INTERVAL: parse error"),
        (
            "ETCD_LISTEN_METRICS_URLS",
            "foo",
            "invalid value \"foo\" for ETCD_LISTEN_METRICS_URLS: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            "ETCD_PEER_CA_FILE",
            "k",
            "flag ETCD_PEER_CA_FILE is not supported yet by this build: \
             it was replaced by --peer-trusted-ca-file and --peer-client-cert-auth",
        ),
        ("ETCD_CONFIG_FILE", "nofile", "open nofile: no such file or directory"),
        (
            "ETCD_LISTEN_CLIENT_URLS",
            "http://127.0.0.1:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
    ] {
        assert_eq!(refusal(&[], &[(variable, value)]), (1, text.into()));
    }
}

#[test]
fn one_setting_is_not_given_twice() {
    let (config, warnings) =
        run(&["--experimental-initial-corrupt-check", "--feature-gates=LeaseCheckpoint=true"], &[]);
    assert!(config.feature_gates.enabled(Feature::InitialCorruptCheck));
    assert!(config.feature_gates.enabled(Feature::LeaseCheckpoint));
    assert!(has(&warnings, "deprecated", "--experimental-initial-corrupt-check"), "{warnings:?}");
    assert_eq!(
        refusal(&["--experimental-initial-corrupt-check", "--feature-gates=InitialCorruptCheck=true"], &[]),
        (
            1,
            "cannot specify both flags: --experimental-initial-corrupt-check=(true|false) and \
             --feature-gates=InitialCorruptCheck=(true|false) at the same time, please just use \
             --feature-gates=InitialCorruptCheck=(true|false)"
                .into()
        )
    );
    assert_eq!(
        refusal(&["--max-learners=2"], &[("ETCD_EXPERIMENTAL_MAX_LEARNERS", "3")]),
        (
            1,
            "cannot specify both --max-learners and ETCD_EXPERIMENTAL_MAX_LEARNERS: they are one setting"
                .into()
        )
    );
}

/// etcd
#[test]
fn no_snapshot_count_is_the_default() {
    let (config, warnings) = run(&["--snapshot-count=0"], &[]);
    assert_eq!(config.snapshot_entries(), 10_000);
    assert!(has(&warnings, "updating snapshot-count to default", "--snapshot-count=10000"), "{warnings:?}");
    let (config, warnings) = run(&["--snapshot-count=7"], &[]);
    assert_eq!(config.snapshot_entries(), 7);
    assert!(!warnings.iter().any(|it| it.message.contains("snapshot-count")), "{warnings:?}");
}

#[test]
fn raft_timeouts_are_raised() {
    let (config, warnings) = run(&["--raft-read-timeout=1s", "--raft-write-timeout=6s"], &[]);
    assert_eq!((config.raft_read_timeout.as_secs(), config.raft_write_timeout.as_secs()), (5, 6));
    assert!(has(&warnings, "raft-read-timeout increased to minimum value", "5s"), "{warnings:?}");
}

#[test]
fn retention_is_read_by_mode() {
    let read = |mode: &str, retention: &str| {
        config(&["--auto-compaction-mode", mode, "--auto-compaction-retention", retention])
            .auto_compaction()
            .unwrap()
    };
    let hours = |h: u64| Some(AutoCompaction::Periodic(Duration::from_secs(h * 3600)));
    assert_eq!(read("periodic", "0"), None);
    assert_eq!(read("periodic", "2"), hours(2));
    assert_eq!(read("periodic", "60m"), hours(1));
    assert_eq!(read("revision", "1000"), Some(AutoCompaction::Revision(1000)));
    assert_eq!(read("revision", "0"), None);
}

#[test]
fn a_file_replaces_flags_and_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.json");
    std::fs::write(&path, r#"{"name": "f", "Heartbeat-Interval": 90}"#).unwrap();
    let path = path.to_str().unwrap();
    let (config, warnings) =
        run(&["--name", "flag", "--config-file", path], &[("ETCD_NAME", "env"), ("ETCD_PRE_VOTE", "false")]);
    assert_eq!((config.name.as_str(), config.heartbeat_interval_ms, config.pre_vote), ("f", 90, true));
    assert!(has(&warnings, "configuration file is in use", "--name"), "{warnings:?}");
    assert_eq!(run(&[], &[("ETCD_CONFIG_FILE", path)]).0, config);
}

#[test]
fn files_have_etcds_keys() {
    let (config, warnings) = from_file(
        "name: f
unknown-key: 1
listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:3
wal-dir:
initial-cluster-state: 'existing'
quota-backend-bytes: 1e9
grpc-keepalive-interval: 5000000000
auto-compaction-retention: \"1\"
log-outputs: [stderr, stdout]
cors: '*'
feature-gates: LeaseCheckpoint=true
socket-options: {reuse-port: true}
experimental-max-learners: 2
max-watchers: 7
raft-read-timeout: 1
max-snapshots: 5
enable-v2: false
proxy: 'off'
client-transport-security:
  cert-file:
  client-cert-auth: false
discovery-config: {token: '', client: {dial-timeout: 1, secure: {insecure-transport: true}}}
",
    )
    .unwrap();
    assert_eq!(url::join(&config.listen_client_urls), "http://127.0.0.1:1,http://127.0.0.1:3");
    assert_eq!(url::join(&config.advertise_client_urls), "http://localhost:2379");
    assert_eq!(
        (config.initial_cluster_state, config.quota_bytes()),
        (ClusterState::Existing, Some(1_000_000_000))
    );
    assert_eq!(config.grpc_keepalive_interval, Duration::from_secs(5));
    assert_eq!(config.log_outputs, ["stderr", "stdout"]);
    assert!(config.socket_reuse_port && config.feature_gates.enabled(Feature::LeaseCheckpoint));
    assert_eq!((config.max_learners, config.max_watchers), (2, 7));
    assert!(has(&warnings, "unknown key", "unknown-key"), "{warnings:?}");
    assert!(has(&warnings, "unknown key", "raft-read-timeout"), "{warnings:?}");
    assert_eq!(from_file("").unwrap().0, Config::default());
}

/// etcd, but that it does not take words in quotes
#[test]
fn booleans_are_those_of_yaml_1_1() {
    for (word, on) in [
        ("yes", true),
        ("On", true),
        ("Y", true),
        ("TRUE", true),
        ("no", false),
        ("OFF", false),
        ("n", false),
    ] {
        let (config, _) = from_file(&format!("pre-vote: {word}\nmemory-mlock: off\n")).unwrap();
        assert_eq!(config.pre_vote, on, "{word}");
    }
    for word in ["yEs", "tRUE", "1", "'true'"] {
        assert!(from_file(&format!("pre-vote: {word}")).is_err(), "{word}");
    }
    let (_, warnings) = from_file("enable-grpc-gateway: true\nenable-pprof: no").unwrap();
    assert!(has(&warnings, "no effect", "enable-grpc-gateway"), "{warnings:?}");
    assert!(!has(&warnings, "no effect", "enable-pprof"), "{warnings:?}");
}

/// etcd
#[test]
fn the_first_document_of_a_file_counts() {
    for text in ["\u{feff}name: a", "name: a\n---\nname: b", "---\nname: a\n...\n---\n: : bad"] {
        assert_eq!(from_file(text).unwrap().0.name, "a", "{text}");
    }
    assert_eq!(from_file("---\n---\nname: b").unwrap().0, Config::default());
}

#[test]
fn sections_may_be_empty() {
    let (config, warnings) =
        from_file("client-transport-security:\ndiscovery-config: {client: {secure: }}\nx:").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(warnings.iter().filter(|it| it.message.contains("unknown key")).count(), 1, "{warnings:?}");
}

#[test]
fn wrong_files_are_refused() {
    for (text, error) in [
        (
            "client-transport-security: foo",
            "key client-transport-security: expected a section, got the string \"foo\"",
        ),
        ("discovery-config: {client: [a]}", "key discovery-config.client: expected a section, got a list"),
        ("name: {a: 1}", "key name: expected a string, got a section"),
        ("pre-vote: 'maybe'", "key pre-vote: expected true or false, got the string \"maybe\""),
        (
            "heartbeat-interval: abc",
            "key heartbeat-interval: expected a whole number from 0, got the string \"abc\"",
        ),
        (
            "heartbeat-interval: -1",
            "key heartbeat-interval: expected a whole number from 0, got the number -1",
        ),
        (
            "heartbeat-interval: 1.5",
            "key heartbeat-interval: expected a whole number from 0, got the number 1.5",
        ),
        (
            "grpc-keepalive-interval: 10m",
            "key grpc-keepalive-interval: expected a whole number of nanoseconds, got the string \"10m\"",
        ),
        ("pre-vote: \"true\"", "key pre-vote: expected true or false, got the string \"true\""),
        ("name: 5", "key name: expected a string, got the number 5"),
        ("name: [a]", "key name: expected a string, got a list"),
        (
            "auto-compaction-retention: 1",
            "key auto-compaction-retention: expected a string, got the number 1",
        ),
        ("log-outputs: default", "key log-outputs: expected a list of strings, got the string \"default\""),
        (
            "listen-metrics-urls: foo",
            "unexpected error setting up listen-metrics-urls: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            "initial-cluster-state: foo",
            "unexpected error setting up initial-cluster-state: unexpected clusterState \"foo\"",
        ),
        ("[1]", "expected keys and values, got a list"),
        (
            "peer-transport-security: {allowed-cn: 5}",
            "key peer-transport-security.allowed-cn: expected a list of strings, got the number 5",
        ),
        (
            "discovery-config: {client: {endpoints: [a]}}",
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (
            "election-timeout: 100",
            "--election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
    ] {
        assert_eq!(from_file(text).unwrap_err(), error, "{text}");
    }
    for text in [": : x", "{\"name\":", "a: *b"] {
        assert!(from_file(text).unwrap_err().starts_with("not valid YAML: "), "{text}");
    }
    assert!(from_file(&" ".repeat(2 << 20)).unwrap_err().starts_with("larger than"));
}

#[test]
fn help_and_version_print() {
    let printed = |arguments: &[&str]| match parse(arguments, &[("ETCD_NAME", "x")]) {
        Ok(Command::Print(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(printed(&["--version"]).lines().next(), Some("etcd Version: 3.7.0"));
    assert_eq!(printed(&["--version"]).lines().count(), 4);
    for arguments in [&["-h"][..], &["--help"], &["--help=false"], &["--name", "x", "-help"]] {
        let text = printed(arguments);
        for flag in flags::FLAGS.iter().filter(|flag| flag.group != flags::Group::Hidden) {
            assert!(text.contains(&format!("--{}", flag.name)), "{}", flag.name);
        }
        assert!(text.lines().all(|line| line.len() <= 130), "{text}");
    }
    assert_eq!(refusal(&["--version", "x"], &[]), (1, "'x' is not a valid flag".into()));
    assert!(matches!(parse(&["--version=false"], &[]), Ok(Command::Run { .. })));
}

#[test]
fn errors_of_the_system_are_worded_as_in_go() {
    let worded = |number| open_failure("a", &std::io::Error::from_raw_os_error(number));
    assert_eq!(worded(libc::ENOENT), "open a: no such file or directory");
    assert_eq!(worded(libc::EADDRINUSE), "open a: address already in use");
    assert_eq!(open_failure("a", &std::io::Error::other("Odd (os error 1)")), "open a: Odd (os error 1)");
}
