//! What an operator writes: flags, environment, file, and the values in them.

use store::config::{
    Command, Config, FeatureGates, InitialCluster, Url, duration, file as config_file, logging, url,
};

/// Command line and environment, separated by zero bytes: words with `=` behind a lone `;` are variables.
pub fn flags(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Which file is read is the operator's choice, and the file system no input.
    if text.to_ascii_lowercase().replace('_', "-").contains("config-file") {
        return;
    }
    let words: Vec<&str> = text.split('\0').collect();
    let mut parts = words.split(|word| *word == ";");
    let arguments = parts.next().unwrap_or_default().iter().map(|word| (*word).to_owned());
    let variables = parts.next().unwrap_or_default().iter().filter_map(|word| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    match Command::parse(arguments, variables) {
        Ok(Command::Run { config, .. }) => use_config(&config),
        Ok(Command::Print(text)) => assert!(!text.is_empty()),
        Err(refusal) => assert!(!refusal.to_string().is_empty() && refusal.exit_code() != 0),
    }
}

/// Everything that a start asks of a configuration.
fn use_config(config: &Config) {
    config.validate().expect("what was accepted is valid");
    let _ = (config.data_dir_path(), config.wal_dir_path(), config.member_dir_path());
    let _ = (config.election_ticks(), config.request_timeout(), config.quota_bytes());
    let _ =
        (config.compaction_sleep(), config.compaction_batch_revisions(), config.value_cache_budget_bytes());
    let _ = (config.watch_progress_interval(), config.auto_compaction(), config.advice());
    let _ = (config.allows_host("m0"), config.allows_origin("http://m0"));
    let _ = logging::LogSettings::from_config(config);
    if let Ok(cluster) = config.initial_cluster() {
        let _ = cluster.verify(&config.name);
    }
}

pub fn flag_seeds() -> Vec<Vec<u8>> {
    let lines = [
        "--name\0m0\0--data-dir=/tmp/m0\0--listen-client-urls\0http://127.0.0.1:2379\0--advertise-client-urls\0http://127.0.0.1:2379",
        "-initial-cluster=m0=http://m0:2380,m1=http://m1:2380\0--name=m0\0--initial-advertise-peer-urls=http://m0:2380",
        "--heartbeat-interval=10\0--election-timeout=100\0--snapshot-count=5\0--quota-backend-bytes=8589934592",
        "--auto-compaction-retention=1h30m\0--auto-compaction-mode=periodic\0--max-txn-ops=9\0--pre-vote=false",
        "--feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true\0--experimental-initial-corrupt-check",
        "--version",
        "--help",
        "serve",
        ";\0ETCD_NAME=m0\0ETCD_QUOTA_BACKEND_BYTES=100\0ETCD_LOG_LEVEL=debug",
        "--log-outputs=stderr\0--enable-log-rotation\0--log-rotation-config-json={\"maxsize\":1}\0;\0ETCD_NAME=x",
    ];
    lines.map(|line| line.as_bytes().to_vec()).to_vec()
}

/// A file that was read.
pub fn file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok((config, _)) = config_file::parse(&text)
        && config.validate().is_ok()
    {
        use_config(&config);
    }
}

pub fn file_seeds() -> Vec<Vec<u8>> {
    let files = [
        "name: m0\ndata-dir: /tmp/m0\nlisten-client-urls: http://127.0.0.1:2379\nadvertise-client-urls: http://127.0.0.1:2379\n",
        "{\"name\": \"m0\", \"heartbeat-interval\": 100, \"election-timeout\": 1000, \"pre-vote\": true}",
        "initial-cluster: m0=http://m0:2380\ninitial-cluster-state: new\nquota-backend-bytes: 0\nmax-wals: 5\n",
        "client-transport-security:\n  cert-file: ''\npeer-transport-security: {}\nlog-outputs: [stderr]\n",
        "warning-apply-duration: 100000000\nfeature-gates: LeaseCheckpoint=true\ncors: '*'\nhost-whitelist: a,b\n",
        "a: &a [1, 2]\nb: *a\nc: {<<: *a}\n",
    ];
    files.map(|file| file.as_bytes().to_vec()).to_vec()
}

/// Byte 0: which value. What is read is written so that it is read the same.
pub fn values(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    match kind % 5 {
        0 => {
            if let Ok(url) = Url::parse(&text) {
                assert_eq!(Url::parse(&url.to_string()).as_ref(), Ok(&url), "{text:?} became {url}");
                let _ = (url.ip(), url.port(), url.socket_path(), url.authority());
            }
        }
        1 => {
            if let Ok(urls) = url::parse_list(&text) {
                assert_eq!(url::parse_list(&url::join(&urls)), Ok(urls));
            }
        }
        2 => {
            if let Ok(cluster) = InitialCluster::parse(&text) {
                let _ = (cluster.verify("m0"), cluster.verify_advertised("m0", &[], Url::to_string));
                assert_eq!(cluster.members().count(), cluster.len());
            }
        }
        3 => {
            if let Ok(length) = duration::parse(&text) {
                assert!(length <= duration::MAX);
                assert_eq!(duration::parse(&duration::format(length)), Ok(length), "{text:?}");
            }
        }
        _ => {
            let mut gates = FeatureGates::default();
            if gates.apply(&text).is_ok() {
                let mut again = FeatureGates::default();
                let all: Vec<String> = gates.iter().map(|(name, on)| format!("{name}={on}")).collect();
                assert_eq!(again.apply(&all.join(",")), Ok(()));
                assert!(again.iter().eq(gates.iter()));
            }
        }
    }
}

pub fn value_seeds() -> Vec<Vec<u8>> {
    let values = [
        "\x00http://127.0.0.1:2379",
        "\x00https://[::1]:2380",
        "\x00unix:///tmp/m0",
        "\x01http://a:1,http://b:2",
        "\x02m0=http://a:1,m1=http://b:2,m0=http://a:3",
        "\x031h2m3.5s",
        "\x03-1.5us",
        "\x03106751d",
        "\x04LeaseCheckpoint=true,AllAlpha=false",
    ];
    values.map(|value| value.as_bytes().to_vec()).to_vec()
}
