//! etcdutl: works on the files of an etcd that does not run, byte for byte the output of etcd 3.5's own where that has
//! one. It reads and writes the data directories of stock members and of ours, and knows no server.
//! Reading order: `cli` turns words into a command and its flags, `commands` holds one file per command. Below them:
//! `data_dir` finds a member's files and makes sure that nobody uses them, `buckets` reads its database whichever
//! engine holds it, `member` writes a whole member in etcd's format, `history` hashes what a database holds of the
//! keys, `request` puts log entries into words. `printer` writes answers, `log` tells what is being done.

mod buckets;
mod cli;
mod commands;
mod data_dir;
mod exit;
mod history;
mod log;
mod member;
mod printer;
mod request;
mod version;

fn main() -> std::process::ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    exit::report(cli::run(&commands::ROOT, &words))
}
