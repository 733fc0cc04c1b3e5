//! Whole clusters of the shipped server in one thread: simulated time, network and disks, chosen by a seed.
//!
//! | module | owns |
//! |---|---|
//! | `world` | time, the queue of events, faults, and what must always hold |
//! | `member` | one member: the node's parts, turned one at a time, its disk and its history on it |
//! | `client` | clients that ask and record what they were told |
//! | `wire` | requests and answers as protobuf and as a history has them |
//!
//! A run has two phases. In the first, faults come and go; in the second they are over, and the cluster must agree and
//! serve again within a limit. Then the history is judged. Everything that happens follows from the seed alone.

mod client;
mod member;
mod wire;
pub mod world;

pub use world::{Failure, Report, run};
