//! The peer transport over real sockets: with itself, and with a stock etcd.

#![allow(clippy::disallowed_methods, reason = "the bans are for the server")]

mod etcd;
mod loopback;
mod support;
