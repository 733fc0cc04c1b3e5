//! Errors on the wire: every refusal's gRPC code and text, as etcd's `rpctypes` has them.
//!
//! Clients map the exact text back to a typed error: a changed character breaks their comparisons.

use tonic::{Code, Status};

use crate::{
    apply::ApplyError, auth::AuthError, membership::ChangeError, mvcc::MvccError, node::RequestError,
};

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
    root_user_not_exist = FailedPrecondition, "etcdserver: root user does not exist";
    root_role_not_exist = FailedPrecondition, "etcdserver: root user does not have root role";
    user_already_exist = FailedPrecondition, "etcdserver: user name already exists";
    user_empty = InvalidArgument, "etcdserver: user name is empty";
    user_not_found = FailedPrecondition, "etcdserver: user name not found";
    role_already_exist = FailedPrecondition, "etcdserver: role name already exists";
    role_not_found = FailedPrecondition, "etcdserver: role name not found";
    role_empty = InvalidArgument, "etcdserver: role name is empty";
    auth_failed = InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    permission_not_given = InvalidArgument, "etcdserver: permission not given";
    permission_denied = PermissionDenied, "etcdserver: permission denied";
    role_not_granted = FailedPrecondition, "etcdserver: role is not granted to the user";
    permission_not_granted = FailedPrecondition, "etcdserver: permission is not granted to the role";
    auth_not_enabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    invalid_auth_token = Unauthenticated, "etcdserver: invalid auth token";
    invalid_auth_management = InvalidArgument, "etcdserver: invalid auth management";
    auth_old_revision = InvalidArgument, "etcdserver: revision of auth store is old";
    // The rest has no code in etcd.
    no_password_user = Unknown, "auth: authentication failed, password was given for no password user";
    verify_only = Unknown, "auth: token signing attempted with verify-only key";
    password_too_long = Unknown, "bcrypt: password length exceeds 72 bytes";
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
            ApplyError::Auth(error) => error.into(),
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

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Status {
        match error {
            AuthError::RootUserNotExist => root_user_not_exist(),
            AuthError::RootRoleNotExist => root_role_not_exist(),
            AuthError::UserAlreadyExist => user_already_exist(),
            AuthError::UserEmpty => user_empty(),
            AuthError::UserNotFound => user_not_found(),
            AuthError::RoleAlreadyExist => role_already_exist(),
            AuthError::RoleNotFound => role_not_found(),
            AuthError::RoleEmpty => role_empty(),
            AuthError::PermissionNotGiven => permission_not_given(),
            AuthError::Failed => auth_failed(),
            AuthError::NoPasswordUser => no_password_user(),
            AuthError::PermissionDenied => permission_denied(),
            AuthError::RoleNotGranted => role_not_granted(),
            AuthError::PermissionNotGranted => permission_not_granted(),
            AuthError::NotEnabled => auth_not_enabled(),
            AuthError::OldRevision => auth_old_revision(),
            AuthError::InvalidToken => invalid_auth_token(),
            AuthError::InvalidManagement => invalid_auth_management(),
            AuthError::VerifyOnly => verify_only(),
            AuthError::PasswordTooLong => password_too_long(),
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
