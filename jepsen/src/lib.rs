//! The proof: clusters under faults, judged by the `oracle`.
//!
//! | module | owns |
//! |---|---|
//! | `sim` | whole clusters of the shipped server in simulated time |

pub mod sim;
