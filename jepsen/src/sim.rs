//! Whole clusters of the shipped server in one thread: simulated time, network and disks, chosen by a seed.
//!
//! | module | owns |
//! |---|---|
//! | `plan` | what a run is to be, with every fault in advance; its text |
//! | `run` | a run from its beginning to its report: faults, recovery, the last look, the verdict |
//! | `world` | time, the queue of events, what members and clients do, and what must always hold |
//! | `strike` | faults as they happen |
//! | `member` | one member: the node's parts, turned one at a time, its disk and its history on it |
//! | `auth` | users, roles and rights, and clients that log in |
//! | `operator` | changes of the members, and what members do on their own account |
//! | `roster` | who is a member, and the quorums behind leaders and commits |
//! | `client` | clients that ask and record what they were told |
//! | `watcher` | clients that watch |
//! | `shrink` | a failing plan made smaller |
//!
//! A run has two phases. In the first, faults come and go; in the second they are over, and the cluster must agree and
//! serve again within a limit. Then the history is judged. Everything that happens follows from the plan alone.

mod auth;
mod client;
mod member;
mod operator;
pub mod plan;
mod roster;
pub mod run;
pub mod shrink;
mod strike;
mod watcher;
mod world;

pub use plan::Plan;
pub use run::{Failure, PROBES, Report, rules, run};
pub use world::{Stand, Struck};

/// Whether members can be told to make this mistake; the empty name is none.
pub fn can_make(mutant: &str) -> Result<(), String> {
    if mutant.is_empty() {
        return Ok(());
    }
    #[cfg(feature = "mutants")]
    if store::mutant::named(mutant).is_some() {
        return Ok(());
    }
    Err(format!("members cannot make the mistake {mutant} in this build"))
}
