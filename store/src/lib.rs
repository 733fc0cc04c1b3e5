//! The etcd server.
