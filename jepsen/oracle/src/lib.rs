//! Judges what clients of etcd saw: histories, a model of etcd, and checkers that compare the two.
//!
//! Everything here is a pure function of a history. Simulated and real runs record the same `history::History`; the
//! `model` says what etcd would have answered; `check` decides, as `check::Verdict`, whether the run was right. The
//! crate shares no code with the server it judges, but the messages of the wire.
//!
//! | module | owns |
//! |---|---|
//! | `history` | what was asked and answered when, its names, its encoding |
//! | `wire` | requests and answers as protobuf and as a history has them |
//! | `model` | etcd's keys, leases and revisions as a value that can be copied for nothing |
//! | `check` | the order of operations and whether the model agrees; the rules of each kind of traffic |
//!
//! A verdict that is not `Ok` is a failed run; `Unknown` says which limit was reached, and is a failure too.

pub mod check;
pub mod history;
pub mod model;
pub mod wire;
