//! etcdctl: the command line client of etcd v3, byte for byte the output of etcd 3.5's own.
//! Reading order: `cli` turns words into a command and its flags, `commands` holds one file per command,
//! `client` talks to the endpoints, `printers` writes answers, `go` has the Go notations all of them show.
//! `cli` and `go` know nothing of etcd; `printers` never sees a connection; `client` never prints.

mod cli;
mod client;
mod commands;
mod exit;
mod go;
mod log;
mod printers;
mod range;

use std::os::unix::ffi::OsStringExt;

fn main() -> std::process::ExitCode {
    let args: Vec<Vec<u8>> = std::env::args_os().skip(1).map(OsStringExt::into_vec).collect();
    exit::report(cli::run(&commands::ROOT, &args))
}
