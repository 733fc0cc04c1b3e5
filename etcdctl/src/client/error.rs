//! What a failed call is to the user: etcd's own message where the server sent one, else gRPC's rendering of it.

use std::error::Error as _;

use tonic::{Code, Status};

#[derive(Clone, Debug)]
pub enum Error {
    /// The endpoint list is empty.
    NoEndpoints,
    /// What neither a server nor gRPC has a code for, such as an endpoint that cannot be dialled.
    Text(String),
    DeadlineExceeded,
    Status(Code, String),
}

/// Messages of etcd servers that etcd's own client has no error value for and shows as gRPC does.
const NOT_TYPED: [&str; 6] = [
    "etcdserver: watch canceled",
    "etcdserver: permission not given",
    "etcdserver: request timed out, waiting for the applied index took too long",
    "etcdserver: invalid client api version",
    "etcdserver: request canceled",
    "etcdserver: context deadline exceeded",
];

/// How tonic starts its refusal of an answer above the limit; Go's gRPC has another code and text for it.
const TOO_LONG: &str = "Error, decoded message length too large";

impl Error {
    /// The server ended a stream without a word.
    pub fn closed() -> Self {
        Self::Status(Code::Unavailable, "transport is closing".into())
    }

    /// A stream that failed so is opened again on another endpoint.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Status(Code::Unavailable | Code::Internal, _))
    }

    /// Whether a server said just that.
    pub fn is(&self, text: &str) -> bool {
        matches!(self, Self::Status(_, message) if message == text)
    }

    pub fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Status(Code::PermissionDenied, _))
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::OutOfRange if status.message().starts_with(TOO_LONG) => {
                let numbers =
                    status.message().split(|c: char| !c.is_ascii_digit()).filter(|text| !text.is_empty());
                let numbers: Vec<_> = numbers.collect();
                let text = format!("grpc: received message larger than max ({})", numbers.join(" vs. "));
                Self::Status(Code::ResourceExhausted, text)
            }
            // Only what a server did not send has a cause on this side: a connection that broke.
            Code::Unknown | Code::Internal | Code::Cancelled if status.source().is_some() => {
                Self::Status(Code::Unavailable, status.message().into())
            }
            code => Self::Status(code, status.message().into()),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoEndpoints => f.write_str("etcdclient: no available endpoints"),
            Self::Text(text) => f.write_str(text),
            Self::DeadlineExceeded => f.write_str("context deadline exceeded"),
            Self::Status(_, message)
                if message.starts_with("etcdserver: ") && !NOT_TYPED.contains(&message.as_str()) =>
            {
                f.write_str(message)
            }
            Self::Status(code, message) => {
                let code = match code {
                    Code::Cancelled => "Canceled".into(),
                    code => format!("{code:?}"),
                };
                write!(f, "rpc error: code = {code} desc = {message}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_passes_and_a_servers_word_is_final() {
        let broken = Status::from_error("error reading a body from connection".into());
        assert!(Error::from(broken).is_passing());
        assert!(!Error::from(Status::unknown("error reading a body from connection")).is_passing());
    }

    #[test]
    fn texts() {
        for (status, text) in [
            (
                Status::not_found("etcdserver: requested lease not found"),
                "etcdserver: requested lease not found",
            ),
            (Status::unknown("odd"), "rpc error: code = Unknown desc = odd"),
            (
                Status::cancelled("etcdserver: watch canceled"),
                "rpc error: code = Canceled desc = etcdserver: watch canceled",
            ),
            (Status::deadline_exceeded("x"), "context deadline exceeded"),
            (
                Status::out_of_range(
                    "Error, decoded message length too large: found 42 bytes, the limit is: 5 bytes",
                ),
                "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (42 vs. 5)",
            ),
        ] {
            assert_eq!(Error::from(status).to_string(), text);
        }
    }
}
