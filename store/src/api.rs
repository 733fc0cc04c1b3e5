//! The edge: what clients reach.
//!
//! `edge` accepts connections and runs each on one of the edge threads; `io` makes their writes few; `grpc` frames
//! messages; `router` is the table of RPCs, `caller` knows who may call which; `kv`, `watch`, `lease`, `maintenance`,
//! `cluster`, `auth` carry them out through the node; `http` answers plain HTTP; `error` is the one table from errors
//! to gRPC codes and etcd's texts; `check` validates requests before they cost anything.
//! A request stays on its connection's thread until it needs the log.
//! Source: etcd `server/etcdserver/api/v3rpc`, whose texts `error` and `check` reproduce.

#![expect(clippy::disallowed_methods, reason = "its tasks and timers belong to connections")]

pub mod auth;
pub mod caller;
pub mod check;
pub mod cluster;
pub mod edge;
pub mod error;
pub mod grpc;
pub mod http;
pub mod http2;
pub mod io;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub mod metrics;
pub mod router;
pub mod watch;
