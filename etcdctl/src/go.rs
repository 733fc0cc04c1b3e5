//! Notations of Go's standard library that etcdctl shows to users: quoting, durations, numbers, lists, JSON strings and
//! errors. Pure functions; texts of errors are Go's, since etcdctl prints them as they are.

pub mod csv;
pub mod duration;
pub mod error;
pub mod json;
pub mod number;
pub mod quote;
pub mod url;
