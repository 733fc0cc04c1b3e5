//! Wire and disk messages of etcd, field for field, and client stubs of its gRPC services.
//! Generated from `protos/*.proto` into `src/gen` and committed, so a build needs no `protoc`;
//! `tests/generated.rs` keeps both equal. No I/O and no behaviour lives here.
//! Every `bytes` field is a `bytes::Bytes`, so decoding a request does not copy its keys and values.
//! Source: etcd's `api/**/*.proto` and `etcd-io/raft`'s `raftpb/raft.proto`.

macro_rules! packages {
    ($($name:ident = $file:literal),* $(,)?) => {$(
        #[allow(clippy::all, clippy::pedantic, missing_docs)]
        pub mod $name {
            include!(concat!("gen/", $file));
        }
    )*};
}

packages! {
    authpb = "authpb.rs",
    etcdserverpb = "etcdserverpb.rs",
    leasepb = "leasepb.rs",
    membershippb = "membershippb.rs",
    mvccpb = "mvccpb.rs",
    raftpb = "raftpb.rs",
    snappb = "snappb.rs",
    v3electionpb = "v3electionpb.rs",
    v3lockpb = "v3lockpb.rs",
    walpb = "walpb.rs",
}

pub mod grpc {
    pub mod health {
        #[allow(clippy::all, clippy::pedantic, missing_docs)]
        pub mod v1 {
            include!("gen/grpc.health.v1.rs");
        }
    }
}
