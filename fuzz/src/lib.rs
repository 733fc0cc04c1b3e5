//! Fuzz targets: every place where bytes from outside become something, as a function of those bytes.
//!
//! A target panics when a rule is broken: nothing from outside may stop a member, and what is accepted must mean the
//! same again when it is written and read once more. Hangs and memory are judged by whoever runs it. Targets are
//! deterministic: no clock, socket, file or thread of the machine, so an input repeats what it did.
//!
//! | file | targets |
//! |---|---|
//! | `log` | records, directories and snapshot files of the raft log |
//! | `state` | the saved tree, the snapshot stream, the backend's buckets, a whole data directory |
//! | `database` | bbolt files, read and written |
//! | `peer` | frames between members, and the peer port |
//! | `raft` | messages into one driver; a cluster on a bad network |
//! | `request` | requests and raft entries into the applier, against `oracle::model` too |
//! | `http` | bytes on the client port |
//! | `watch`, `lease` | sequences of commands, against a replay and a plain model |
//! | `config` | flags, environment, file, URLs |
//! | `auth`, `tls` | tokens, keys, permissions; certificates and revocation lists |
//! | `srv` | answers of name servers |
//! | `history` | the harness's own files |
//! | `input`, `mutate`, `member` | structured input; random changes of inputs; a member without threads |
//!
//! `main` runs targets under libFuzzer, steered by coverage (`make fuzz`). `tests/replay.rs` runs each on its seeds, on
//! a bounded number of changed seeds, and on `regressions/<target>/`: inputs that broke something once.

// What is compiled for coverage calls into it.
#[cfg(feature = "engine")]
use libfuzzer_sys as _;

mod auth;
mod config;
mod database;
mod history;
mod http;
mod input;
mod lease;
mod log;
mod member;
pub mod mutate;
mod peer;
mod raft;
mod request;
mod srv;
mod state;
mod tls;
mod watch;

/// What a target is and how it is begun.
pub struct Target {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(&[u8]),
    /// Valid inputs, from which the search starts.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input worth trying, in bytes.
    pub max_bytes: usize,
}

macro_rules! targets {
    ($($name:literal, $what:literal, $run:path, $seeds:path, $max_bytes:expr;)*) => {
        pub static TARGETS: &[Target] = &[
            $(Target { name: $name, what: $what, run: $run, seeds: $seeds, max_bytes: $max_bytes },)*
        ];
    };
}

targets! {
    "wal-record", "one frame of a log segment", log::record, log::record_seeds, 4096;
    "wal-replay", "a log directory with damage and with well-formed nonsense", log::replay, log::replay_seeds, 4096;
    "snap-file", "a .snap file and a directory of them", log::snap, log::snap_seeds, 2048;
    "tree-file", "a saved tree", state::tree, state::tree_seeds, 4096;
    "snapshot-stream", "the state as sent to a member that fell behind, read and installed", state::stream, state::stream_seeds, 4096;
    "buckets", "loading from a backend with arbitrary records", state::buckets, state::bucket_seeds, 2048;
    "data-directory", "starting a member on a changed data directory", state::directory, state::directory_seeds, 2048;
    "bbolt-read", "a bbolt file, or pages behind metas that are right", database::read, database::read_seeds, 8192;
    "bbolt-write", "any entries, written to a bbolt file and read again", database::write, database::write_seeds, 16384;
    "peer-frame", "message stream, msgappv2 and POST /raft, in pieces", peer::frame, peer::frame_seeds, 4096;
    "peer-port", "bytes of a connection to the peer port", peer::port, peer::port_seeds, 4096;
    "raft-message", "forged messages and odd events into one raft driver", raft::message, raft::message_seeds, 2048;
    "raft-cluster", "three drivers on a network that loses, repeats and reorders", raft::cluster, raft::cluster_seeds, 2048;
    "request", "requests of each method: decoded, checked, applied or read", request::methods, request::method_seeds, 4096;
    "txn", "nested transactions: check, apply and model agree", request::txn, request::txn_seeds, 2048;
    "model", "operations of all kinds: the applier answers as the model", request::model, request::model_seeds, 2048;
    "entry", "raft entries with arbitrary content, and the state after a restart", request::entry, request::entry_seeds, 4096;
    "client-http1", "bytes of an HTTP/1 connection to the client port", http::http1, http::http1_seeds, 2048;
    "client-http2", "bytes of an HTTP/2 connection to the client port", http::http2, http::http2_seeds, 4096;
    "client-grpc", "calls of each method in well-formed HTTP/2", http::grpc, http::grpc_seeds, 2048;
    "watch-hub", "watch commands, commits and slow readers, against a replay", watch::hub, watch::hub_seeds, 2048;
    "lease", "operations of a lessor, against a plain model", lease::lessor, lease::lessor_seeds, 2048;
    "flags", "command line and environment of the server", config::flags, config::flag_seeds, 1024;
    "config-file", "the server's configuration file", config::file, config::file_seeds, 2048;
    "values", "URLs, clusters, durations and feature gates", config::values, config::value_seeds, 512;
    "token", "tokens of both kinds, and claims that are signed and make no sense", auth::token, auth::token_seeds, 1024;
    "token-key", "keys of signed tokens in PEM, and --auth-token", auth::key, auth::key_seeds, 2048;
    "permission-range", "unions of permissions, against a look at every key", auth::ranges, auth::range_seeds, 128;
    "certificate", "a certificate in DER", tls::certificate, tls::certificate_seeds, 2048;
    "revocation-list", "a revocation list in DER or PEM", tls::revocations, tls::revocation_seeds, 2048;
    "srv-answer", "an answer of a name server", srv::answer, srv::answer_seeds, 512;
    "history", "a recorded history", history::decode, history::seeds, 65536;
}

pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
