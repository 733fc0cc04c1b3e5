//! The faults on a real kernel: a mounted file system, namespaces, a preloaded library.
//!
//! Each needs something of the machine (root, `/dev/fuse`, `/dev/net/tun`, `libnudge.so` from `cargo build -p nudge`).
//! Without it a test prints `skipped: why` and passes, unless `KEELSON_REQUIRE_PEER=1`.

mod damage;
mod forgetfs;
mod killed;
mod nudge;
mod server;
mod switch;

/// Whether a test can run; says why not.
fn can(available: Result<(), String>) -> bool {
    let Err(reason) = available else { return true };
    let required = std::env::var("KEELSON_REQUIRE_PEER").is_ok_and(|value| value == "1");
    assert!(!required, "required by KEELSON_REQUIRE_PEER=1: {reason}");
    println!("skipped: {reason}");
    false
}
