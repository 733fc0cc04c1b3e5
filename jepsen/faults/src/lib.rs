//! What goes wrong around real processes: tools that make disks, networks, clocks and processors fail on request.
//!
//! The runner of real servers calls them from its own process, as root, on Linux. They decide nothing: what fails when
//! is the caller's plan, and every choice within a fault is drawn from a seed the caller gives. They know nothing of
//! etcd. Each module has `available()`, which says why its faults cannot be had on this machine.
//!
//! | module | fault | how |
//! |---|---|---|
//! | `forgetfs` | power loss, stalled, slow, full and failing disks, flipped bits | a FUSE file system in this process |
//! | `switch` | partitions, delay, loss, duplicates, reordering, corruption, rates | a network namespace a member, frames forwarded by this process |
//! | `nudge` | clocks that jump and drift, failing, short and slow writes and syncs | a preloaded library (crate `nudge`) and a shared page |
//! | `cgroup` | little processor time, frozen processes | control groups, version 1 |
//! | `files` | flipped bits, cut tails | the files of a stopped server |
//!
//! Nothing outlives this process, however it ends, but what the header of a module names.

pub mod cgroup;
pub mod files;
pub mod forgetfs;
pub mod nudge;
pub mod switch;
