//! How a command ends: an exit code and, on failure, the one line `Error: <text>` on stderr.
//! Codes are etcd's (`pkg/cobrautl/error.go`).

use std::{
    fmt::Display,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

/// What could not be done; unknown commands and flags.
pub const ERROR: u8 = 1;
/// An output format that the command does not have.
pub const BAD_FEATURE: u8 = 4;
/// Wrong arguments.
pub const BAD_ARGS: u8 = 128;

#[derive(Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: u8,
    /// `None` when there is nobody to tell it.
    pub message: Option<String>,
}

pub type Outcome<T = ()> = Result<T, Exit>;

impl Exit {
    pub fn new(code: u8, message: impl Into<String>) -> Exit {
        Exit { code, message: Some(message.into()) }
    }

    pub fn bad_args(message: impl Into<String>) -> Exit {
        Exit::new(BAD_ARGS, message)
    }

    pub fn failed(message: impl Display) -> Exit {
        Exit::new(ERROR, message.to_string())
    }

    /// In the words of Go: `open FILE: no such file or directory`.
    pub fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Exit {
        let place = format!("{action} {}", path.display());
        move |error| Exit::failed(format!("{place}: {}", reason(&error)))
    }

    /// Something is wrong with what a file holds.
    pub fn at<E: Display>(path: &Path) -> impl FnOnce(E) -> Exit {
        let path = path.display().to_string();
        move |error| Exit::failed(format!("{path}: {error}"))
    }
}

impl From<io::Error> for Exit {
    /// A reader that went away is no failure worth a message.
    fn from(error: io::Error) -> Exit {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Exit { code: ERROR, message: None },
            _ => Exit::failed(reason(&error)),
        }
    }
}

/// Without the number, and beginning with a small letter.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_files_are_in_the_words_of_go() {
        for (number, words) in [
            (2, "open .: no such file or directory"),
            (13, "open .: permission denied"),
            (20, "open .: not a directory"),
            (21, "open .: is a directory"),
        ] {
            let exit = Exit::io("open", Path::new("."))(io::Error::from_raw_os_error(number));
            assert_eq!(exit, Exit::new(ERROR, words));
        }
    }
}
