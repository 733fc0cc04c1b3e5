//! Checks the checkers: against brute force, against valid histories that were broken, against histories whose
//! verdict is known, and against each other.

mod breakages;
mod brute;
mod compactions;
mod cycles;
mod generate;
mod locks;
mod model;
mod published;
mod rights;
mod speed;
mod watches;

/// As in the proof's own command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
