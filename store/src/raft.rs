//! Consensus: the raft state machine of the `raft` crate behind events and actions.
//!
//! `driver` takes ticks, messages, proposals and acknowledgements and gives back what is to be sent, persisted,
//! applied and answered. It does no I/O and reads no clock: a tick is one heartbeat interval, counted by whoever
//! calls it, and election timeouts come from an injected source of randomness. `log` keeps the tail of the raft log in
//! memory, `retention` says how far back; `convert` translates between the crate's messages and etcd's.
//! Called by the node loop and by the simulator.
//! Source: etcd-io/raft; tikv/raft-rs, whose numbering of conf changes and of a few fields differs from etcd's.

pub mod convert;
pub mod driver;
#[cfg(test)]
mod driver_test;
pub mod log;
pub mod retention;

pub use driver::{Driver, Output, Persist, Role, SoftState};
