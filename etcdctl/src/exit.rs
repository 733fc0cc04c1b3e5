//! How a command ends: an exit code and, on failure, the one line `Error: <text>` on stderr.
//! Codes are etcdctl's (`pkg/cobrautl/error.go`).

use std::io::{self, Write};
use std::process::ExitCode;

/// Server error, unhealthy cluster, unknown command or flag.
pub const ERROR: u8 = 1;
/// No endpoint could be used.
pub const BAD_CONNECTION: u8 = 2;
/// A txn or watch line that cannot be read.
pub const INVALID_INPUT: u8 = 3;
/// A value this client does not support, such as an output format.
pub const BAD_FEATURE: u8 = 4;
/// The server ended a watch.
pub const INTERRUPTED: u8 = 5;
/// Wrong arguments.
pub const BAD_ARGS: u8 = 128;

#[derive(Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: u8,
    /// `None` when everything worth saying has been printed already.
    pub message: Option<String>,
}

pub type Outcome = Result<(), Exit>;

impl Exit {
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()) }
    }

    pub fn silent(code: u8) -> Self {
        Self { code, message: None }
    }

    pub fn bad_args(message: impl Into<String>) -> Self {
        Self::new(BAD_ARGS, message)
    }

    pub fn failed(message: impl std::fmt::Display) -> Self {
        Self::new(ERROR, message.to_string())
    }
}

impl From<io::Error> for Exit {
    /// A reader that went away is no failure worth a message.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(ERROR),
            _ => Self::failed(error),
        }
    }
}

/// Prints the error line, if any, and yields the process's exit code.
pub fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            if let Some(message) = exit.message {
                // Nothing is left to tell a failed write to.
                let _ = writeln!(io::stderr(), "Error: {message}");
            }
            ExitCode::from(exit.code)
        }
    }
}
