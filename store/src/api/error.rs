//! Errors on the wire: every refusal's gRPC code and text, as etcd's `rpctypes` has them.
//!
//! Clients map the exact text back to a typed error: a changed character breaks their comparisons.

use tonic::{Code, Status};

use crate::{apply::ApplyError, membership::ChangeError, mvcc::MvccError, node::RequestError};

macro_rules! errors {
    ($($name:ident = $code:ident, $text:literal;)*) => {$(
        pub fn $name() -> Status {
            Status::new(Code::$code, $text)
        }
    )*};
}

errors! {
    empty_key = InvalidArgument, "etcdserver: key is not provided";
    key_not_found = InvalidArgument, "etcdserver: key not found";
    value_provided = InvalidArgument, "etcdserver: value is provided";
    lease_provided = InvalidArgument, "etcdserver: lease is provided";
    too_many_ops = InvalidArgument, "etcdserver: too many operations in txn request";
    duplicate_key = InvalidArgument, "etcdserver: duplicate key given in txn request";
    invalid_sort_option = InvalidArgument, "etcdserver: invalid sort option";
    invalid_client_api_version = InvalidArgument, "etcdserver: invalid client api version";
    compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    future_revision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    no_space = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    lease_not_found = NotFound, "etcdserver: requested lease not found";
    lease_exists = FailedPrecondition, "etcdserver: lease already exists";
    lease_ttl_too_large = OutOfRange, "etcdserver: too large lease TTL";
    watch_canceled = Cancelled, "etcdserver: watch canceled";
    member_exists = FailedPrecondition, "etcdserver: member ID already exist";
    peer_url_exists = FailedPrecondition, "etcdserver: Peer URLs already exists";
    member_not_found = NotFound, "etcdserver: member not found";
    member_not_learner = FailedPrecondition, "etcdserver: can only promote a learner member";
    // etcd sends this one without a code.
    member_not_enough_started = Unknown,
        "etcdserver: re-configuration failed due to not enough started members";
    member_bad_urls = InvalidArgument, "etcdserver: given member URLs are invalid";
    learner_not_ready = FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    too_many_learners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    request_too_large = InvalidArgument, "etcdserver: request is too large";
    // etcd sends this one without a code.
    too_many_requests = Unknown, "etcdserver: too many requests";
    wrong_downgrade_version_format = InvalidArgument, "etcdserver: wrong downgrade target version format";
    invalid_downgrade_target_version = InvalidArgument, "etcdserver: invalid downgrade target version";
    cluster_version_unavailable = FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    downgrade_in_process = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    no_leader = Unavailable, "etcdserver: no leader";
    not_leader = FailedPrecondition, "etcdserver: not leader";
    leader_changed = Unavailable, "etcdserver: leader changed";
    stopped = Unavailable, "etcdserver: server stopped";
    timeout = Unavailable, "etcdserver: request timed out";
    timeout_leader_fail = Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    timeout_connection_lost = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    transfer_timeout = Unknown, "etcdserver: request timed out, leader transfer took too long";
    corrupt = DataLoss, "etcdserver: corrupt cluster";
    not_supported_for_learner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    bad_leader_transferee = FailedPrecondition, "etcdserver: bad leader transferee";
    too_many_streams = ResourceExhausted, "etcdserver: too many watch streams";
}

impl From<MvccError> for Status {
    fn from(error: MvccError) -> Status {
        match error {
            MvccError::Compacted => compacted(),
            MvccError::FutureRevision => future_revision(),
            MvccError::Backend(error) => Status::new(Code::Unknown, error.to_string()),
        }
    }
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Status {
        match error {
            ApplyError::Mvcc(error) => error.into(),
            ApplyError::KeyNotFound => key_not_found(),
            ApplyError::LeaseNotFound => lease_not_found(),
            ApplyError::LeaseExists => lease_exists(),
            ApplyError::LeaseTtlTooLarge => lease_ttl_too_large(),
            ApplyError::NoSpace => no_space(),
            ApplyError::Corrupt => corrupt(),
            ApplyError::Membership(error) => error.into(),
            ApplyError::Undecodable => Status::new(Code::Unknown, "etcdserver: malformed entry"),
            ApplyError::Unknown => Status::new(Code::Unknown, "etcdserver: unknown method"),
        }
    }
}

impl From<ChangeError> for Status {
    fn from(error: ChangeError) -> Status {
        match error {
            ChangeError::IdExists => member_exists(),
            ChangeError::IdRemoved | ChangeError::IdNotFound => member_not_found(),
            ChangeError::PeerUrlExists => peer_url_exists(),
            ChangeError::NotLearner => member_not_learner(),
            ChangeError::TooManyLearners => too_many_learners(),
            ChangeError::Malformed => {
                Status::new(Code::Unknown, "membership: malformed configuration change")
            }
        }
    }
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Status {
        match error {
            RequestError::Apply(error) => error.into(),
            RequestError::TooLarge => request_too_large(),
            RequestError::TooManyRequests => too_many_requests(),
            RequestError::Timeout => timeout(),
            RequestError::TimeoutLeaderFail => timeout_leader_fail(),
            RequestError::TimeoutConnectionLost => timeout_connection_lost(),
            RequestError::NoLeader => no_leader(),
            RequestError::NotLeader => not_leader(),
            RequestError::LeaderChanged => leader_changed(),
            RequestError::BadTransferee => bad_leader_transferee(),
            RequestError::TransferTimeout => transfer_timeout(),
            RequestError::NotEnoughStarted => member_not_enough_started(),
            RequestError::Unhealthy => unhealthy(),
            RequestError::LearnerNotReady => learner_not_ready(),
            RequestError::Stopped => stopped(),
        }
    }
}
