//! Notations of Go's standard library that etcdctl shows to users: quoting, durations, numbers, lists and JSON strings.
//! Pure functions; texts of errors are Go's, since etcdctl prints them as they are.

pub mod csv;
pub mod duration;
pub mod json;
pub mod number;
pub mod quote;
