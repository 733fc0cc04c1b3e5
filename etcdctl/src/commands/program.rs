//! A program that `watch` or `lock` runs, and how it ended in the words of Go's `os/exec`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

use crate::cli::flags::Word;
use crate::exit::ERROR;
use crate::go::quote::quote;

/// Why a program did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// The program's exit code; 255 after a signal.
    pub code: u8,
}

/// `words`: the program and its arguments. It sees our output and environment, and `variables`, but no input.
pub async fn run(words: &[Word], variables: &[(&str, OsString)]) -> Result<(), Failure> {
    let mut command = Command::new(OsStr::from_bytes(&words[0]));
    command.args(words[1..].iter().map(|word| OsString::from_vec(word.clone())));
    command.stdin(Stdio::null()).envs(variables.iter().map(|(name, value)| (name, value)));
    match command.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(ended(status)),
        Err(error) => Err(Failure { reason: not_started(&words[0], &error), code: ERROR }),
    }
}

fn ended(status: ExitStatus) -> Failure {
    let Some(signal) = status.signal() else {
        let code = status.code().unwrap_or_default();
        return Failure { reason: format!("exit status {code}"), code: code as u8 };
    };
    let core = if status.core_dumped() { " (core dumped)" } else { "" };
    Failure { reason: format!("signal: {}{core}", signal_name(signal)), code: u8::MAX }
}

fn not_started(program: &[u8], error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound && !program.contains(&b'/') {
        return format!("exec: {}: executable file not found in $PATH", quote(program));
    }
    format!("fork/exec {}: {}", String::from_utf8_lossy(program), crate::go::error::reason(error))
}

/// Go's names, which are the C library's in lower case. Numbers are those of Linux.
fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "hangup",
        "interrupt",
        "quit",
        "illegal instruction",
        "trace/breakpoint trap",
        "aborted",
        "bus error",
        "floating point exception",
        "killed",
        "user defined signal 1",
        "segmentation fault",
        "user defined signal 2",
        "broken pipe",
        "alarm clock",
        "terminated",
        "stack fault",
        "child exited",
        "continued",
        "stopped (signal)",
        "stopped",
        "stopped (tty input)",
        "stopped (tty output)",
        "urgent I/O condition",
        "CPU time limit exceeded",
        "file size limit exceeded",
        "virtual timer expired",
        "profiling timer expired",
        "window changed",
        "I/O possible",
        "power failure",
        "bad system call",
    ];
    let name = usize::try_from(signal - 1).ok().and_then(|index| NAMES.get(index));
    name.map_or_else(|| format!("signal {signal}"), |name| (*name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        for (raw, reason, code) in [
            (3 << 8, "exit status 3", 3),
            (9, "signal: killed", 255),
            (11 | 0x80, "signal: segmentation fault (core dumped)", 255),
            (40, "signal: signal 40", 255),
        ] {
            assert_eq!(ended(ExitStatus::from_raw(raw)), Failure { reason: reason.into(), code });
        }
    }

    #[test]
    fn programs_that_do_not_start() {
        let missing = io::Error::from_raw_os_error(2);
        assert_eq!(not_started(b"x", &missing), "exec: \"x\": executable file not found in $PATH");
        assert_eq!(not_started(b"/x", &missing), "fork/exec /x: no such file or directory");
    }
}
