//! The peer transport over real sockets: with itself, and with a stock etcd.

mod etcd;
mod loopback;
mod support;
