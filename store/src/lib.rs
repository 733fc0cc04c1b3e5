//! The etcd server as a library. A folder per noun, in rows; each imports lower rows only:
//!
//! | row | modules |
//! |---|---|
//! | 8 | `server`: bootstrap, listeners, shutdown; `main` |
//! | 7 | `api`: gRPC, HTTP, errors on the wire |
//! | 6 | `node`: the member's threads |
//! | 5 | `apply`: committed entries to state |
//! | 4 | `watch`, `peer` |
//! | 3 | `mvcc` |
//! | 2 | `lease`, `membership`, `auth` |
//! | 1 | `raft`, `wal`, `snap`, `backend`, `tls` |
//! | 0 | `config`, `log`, `disk`, `ids`, `mutant` |

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "the bans are for the server"))]

pub mod api;
pub mod apply;
pub mod auth;
pub mod backend;
pub mod config;
pub mod disk;
pub mod ids;
pub mod lease;
pub mod log;
pub mod membership;
pub mod mutant;
pub mod mvcc;
pub mod node;
pub mod peer;
pub mod raft;
pub mod server;
pub mod snap;
#[cfg(test)]
mod story;
pub mod tls;
pub mod wal;
pub mod watch;
