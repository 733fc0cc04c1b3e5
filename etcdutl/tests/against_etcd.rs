//! Runs our etcdutl on the files of real members, stock and ours, beside etcdutl 3.5: what both print has to be equal,
//! and what ours writes has to be what a stock etcd, and ours, starts from with the same data.
//! Needs `etcd`, `etcdctl` and `etcdutl` 3.5 in the directory `ETCD_PEER_DIR` names, or on the PATH; without them it
//! skips, or fails where `KEELSON_REQUIRE_PEER=1`. `program` runs etcdutl, `member` has servers on given directories.

#[path = "against_etcd/export.rs"]
mod export;
#[path = "against_etcd/member.rs"]
mod member;
#[path = "against_etcd/offline.rs"]
mod offline;
#[path = "against_etcd/program.rs"]
mod program;
#[path = "against_etcd/restore.rs"]
mod restore;
#[path = "against_etcd/status.rs"]
mod status;
