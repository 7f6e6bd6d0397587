//! The gRPC status of each error.
//!
//! The match has no default, so that a new error cannot get a code by accident. Some codes look wrong, but
//! are etcd's: a missing role is a failed precondition, and full queues are unknown.

use crate::error::EtcdError;
use tonic::{Code, Status};

/// The gRPC code that etcd sends with an error.
pub(crate) fn code(error: &EtcdError) -> Code {
    match error {
        EtcdError::EmptyKey
        | EtcdError::KeyNotFound
        | EtcdError::ValueProvided
        | EtcdError::LeaseProvided
        | EtcdError::TooManyOps
        | EtcdError::DuplicateKey
        | EtcdError::InvalidClientApiVersion
        | EtcdError::InvalidSortOption
        | EtcdError::RequestTooLarge
        | EtcdError::KeyTooLong { .. }
        | EtcdError::MemberBadUrls
        | EtcdError::UserEmpty
        | EtcdError::RoleEmpty
        | EtcdError::AuthFailed
        | EtcdError::PermissionNotGiven
        | EtcdError::InvalidAuthManagement
        | EtcdError::AuthOldRevision
        | EtcdError::WrongDowngradeVersionFormat
        | EtcdError::InvalidDowngradeTargetVersion => Code::InvalidArgument,
        EtcdError::MessageTooLarge { .. } | EtcdError::NoSpace => Code::ResourceExhausted,
        EtcdError::StreamSort | EtcdError::StreamFilter | EtcdError::Unimplemented(_) => Code::Unimplemented,
        EtcdError::Compacted | EtcdError::FutureRevision | EtcdError::LeaseTtlTooLarge => Code::OutOfRange,
        EtcdError::LeaseNotFound | EtcdError::MemberNotFound => Code::NotFound,
        EtcdError::LeaseExists
        | EtcdError::MemberExists
        | EtcdError::PeerUrlExists
        | EtcdError::MemberNotLearner
        | EtcdError::LearnerNotReady
        | EtcdError::TooManyLearners
        | EtcdError::TooManyMembers(_)
        | EtcdError::ClusterIdMismatch
        | EtcdError::NotSupportedForLearner
        | EtcdError::RootUserNotExist
        | EtcdError::RootRoleNotExist
        | EtcdError::UserExists
        | EtcdError::UserNotFound
        | EtcdError::RoleExists
        | EtcdError::RoleNotFound
        | EtcdError::RoleNotGranted
        | EtcdError::PermissionNotGranted
        | EtcdError::AuthNotEnabled
        | EtcdError::NotLeader
        | EtcdError::BadLeaderTransferee
        | EtcdError::NotCapable
        | EtcdError::ClusterVersionUnavailable
        | EtcdError::StaysAlone(_)
        | EtcdError::ReadOnly(_)
        | EtcdError::DowngradeInProcess
        | EtcdError::NoInflightDowngrade => Code::FailedPrecondition,
        EtcdError::PermissionDenied => Code::PermissionDenied,
        EtcdError::InvalidAuthToken => Code::Unauthenticated,
        EtcdError::NoLeader
        | EtcdError::LeaderChanged
        | EtcdError::Stopped
        | EtcdError::Timeout
        | EtcdError::TimeoutLeaderFailure
        | EtcdError::TimeoutConnectionLost
        | EtcdError::TimeoutAppliedIndex
        | EtcdError::Unhealthy
        | EtcdError::Unavailable(_) => Code::Unavailable,
        EtcdError::Corrupt => Code::DataLoss,
        EtcdError::WatchCanceled | EtcdError::RequestCanceled | EtcdError::ContextCanceled => Code::Cancelled,
        EtcdError::DeadlineExceeded | EtcdError::ContextDeadlineExceeded => Code::DeadlineExceeded,
        EtcdError::NotPrimaryLessor
        | EtcdError::WatchRangeEmpty
        | EtcdError::WatchIdInUse
        | EtcdError::NotEnoughStartedMembers
        | EtcdError::NoPasswordUser
        | EtcdError::PasswordTooLong
        | EtcdError::LeaderTransferTimeout
        | EtcdError::TooManyRequests
        | EtcdError::UnknownMethod
        | EtcdError::ElectionNotLeader
        | EtcdError::ElectionNoLeader
        | EtcdError::ElectionLeaderMissing
        | EtcdError::SessionExpired
        | EtcdError::Unknown(_) => Code::Unknown,
    }
}

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Status {
        Status::new(code(&error), error.to_string())
    }
}

/// The status of a Lock or Election call that failed: the code is always unknown, and the text that of the
/// error.
pub(crate) fn unknown(error: &EtcdError) -> Status {
    Status::unknown(error.to_string())
}

/// The `cancel_reason` of a watch that could not be created. A refused identity or permission has the long
/// form of a gRPC error, any other error its bare text.
pub(crate) fn cancel_reason(error: &EtcdError) -> String {
    match error {
        EtcdError::InvalidAuthToken
        | EtcdError::AuthOldRevision
        | EtcdError::UserEmpty
        | EtcdError::PermissionDenied => format!("rpc error: code = {:?} desc = {error}", code(error)),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_code_and_text_of_etcd() {
        let cases = [
            (EtcdError::EmptyKey, Code::InvalidArgument, "etcdserver: key is not provided"),
            (EtcdError::KeyNotFound, Code::InvalidArgument, "etcdserver: key not found"),
            (EtcdError::ValueProvided, Code::InvalidArgument, "etcdserver: value is provided"),
            (EtcdError::LeaseProvided, Code::InvalidArgument, "etcdserver: lease is provided"),
            (EtcdError::TooManyOps, Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            (
                EtcdError::DuplicateKey,
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
            ),
            (
                EtcdError::InvalidClientApiVersion,
                Code::InvalidArgument,
                "etcdserver: invalid client api version",
            ),
            (EtcdError::InvalidSortOption, Code::InvalidArgument, "etcdserver: invalid sort option"),
            (EtcdError::MemberBadUrls, Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
            (EtcdError::RequestTooLarge, Code::InvalidArgument, "etcdserver: request is too large"),
            (EtcdError::UserEmpty, Code::InvalidArgument, "etcdserver: user name is empty"),
            (EtcdError::RoleEmpty, Code::InvalidArgument, "etcdserver: role name is empty"),
            (
                EtcdError::AuthFailed,
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
            ),
            (EtcdError::PermissionNotGiven, Code::InvalidArgument, "etcdserver: permission not given"),
            (EtcdError::InvalidAuthManagement, Code::InvalidArgument, "etcdserver: invalid auth management"),
            (EtcdError::AuthOldRevision, Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            (
                EtcdError::WrongDowngradeVersionFormat,
                Code::InvalidArgument,
                "etcdserver: wrong downgrade target version format",
            ),
            (
                EtcdError::InvalidDowngradeTargetVersion,
                Code::InvalidArgument,
                "etcdserver: invalid downgrade target version",
            ),
            (
                EtcdError::Compacted,
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (
                EtcdError::FutureRevision,
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            (EtcdError::LeaseTtlTooLarge, Code::OutOfRange, "etcdserver: too large lease TTL"),
            (EtcdError::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (
                EtcdError::MessageTooLarge { size: 3_000_000, limit: 2_097_152 },
                Code::ResourceExhausted,
                "grpc: received message larger than max (3000000 vs. 2097152)",
            ),
            (EtcdError::LeaseNotFound, Code::NotFound, "etcdserver: requested lease not found"),
            (EtcdError::MemberNotFound, Code::NotFound, "etcdserver: member not found"),
            (EtcdError::LeaseExists, Code::FailedPrecondition, "etcdserver: lease already exists"),
            (EtcdError::MemberExists, Code::FailedPrecondition, "etcdserver: member ID already exist"),
            (EtcdError::PeerUrlExists, Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
            (
                EtcdError::MemberNotLearner,
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member",
            ),
            (
                EtcdError::LearnerNotReady,
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            (
                EtcdError::TooManyLearners,
                Code::FailedPrecondition,
                "etcdserver: too many learner members in cluster",
            ),
            (EtcdError::ClusterIdMismatch, Code::FailedPrecondition, "etcdserver: cluster ID mismatch"),
            (EtcdError::RootUserNotExist, Code::FailedPrecondition, "etcdserver: root user does not exist"),
            (
                EtcdError::RootRoleNotExist,
                Code::FailedPrecondition,
                "etcdserver: root user does not have root role",
            ),
            (EtcdError::UserExists, Code::FailedPrecondition, "etcdserver: user name already exists"),
            (EtcdError::UserNotFound, Code::FailedPrecondition, "etcdserver: user name not found"),
            (EtcdError::RoleExists, Code::FailedPrecondition, "etcdserver: role name already exists"),
            (EtcdError::RoleNotFound, Code::FailedPrecondition, "etcdserver: role name not found"),
            (
                EtcdError::RoleNotGranted,
                Code::FailedPrecondition,
                "etcdserver: role is not granted to the user",
            ),
            (
                EtcdError::PermissionNotGranted,
                Code::FailedPrecondition,
                "etcdserver: permission is not granted to the role",
            ),
            (
                EtcdError::AuthNotEnabled,
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
            ),
            (EtcdError::NotLeader, Code::FailedPrecondition, "etcdserver: not leader"),
            (EtcdError::BadLeaderTransferee, Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            (EtcdError::NotCapable, Code::FailedPrecondition, "etcdserver: not capable"),
            (
                EtcdError::NotSupportedForLearner,
                Code::FailedPrecondition,
                "etcdserver: rpc not supported for learner",
            ),
            (
                EtcdError::ClusterVersionUnavailable,
                Code::FailedPrecondition,
                "etcdserver: cluster version not found during downgrade",
            ),
            (
                EtcdError::DowngradeInProcess,
                Code::FailedPrecondition,
                "etcdserver: cluster has a downgrade job in progress",
            ),
            (
                EtcdError::NoInflightDowngrade,
                Code::FailedPrecondition,
                "etcdserver: no inflight downgrade job",
            ),
            (EtcdError::PermissionDenied, Code::PermissionDenied, "etcdserver: permission denied"),
            (EtcdError::InvalidAuthToken, Code::Unauthenticated, "etcdserver: invalid auth token"),
            (EtcdError::NoLeader, Code::Unavailable, "etcdserver: no leader"),
            (EtcdError::LeaderChanged, Code::Unavailable, "etcdserver: leader changed"),
            (EtcdError::Stopped, Code::Unavailable, "etcdserver: server stopped"),
            (EtcdError::Timeout, Code::Unavailable, "etcdserver: request timed out"),
            (
                EtcdError::TimeoutLeaderFailure,
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            (
                EtcdError::TimeoutConnectionLost,
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
            ),
            (
                EtcdError::TimeoutAppliedIndex,
                Code::Unavailable,
                "etcdserver: request timed out, waiting for the applied index took too long",
            ),
            (EtcdError::Unhealthy, Code::Unavailable, "etcdserver: unhealthy cluster"),
            (EtcdError::Corrupt, Code::DataLoss, "etcdserver: corrupt cluster"),
            (EtcdError::WatchCanceled, Code::Cancelled, "etcdserver: watch canceled"),
            (EtcdError::RequestCanceled, Code::Cancelled, "etcdserver: request canceled"),
            (EtcdError::DeadlineExceeded, Code::DeadlineExceeded, "etcdserver: context deadline exceeded"),
            (EtcdError::StreamSort, Code::Unimplemented, "RangeStream does not support custom sort orders"),
            (EtcdError::StreamFilter, Code::Unimplemented, "RangeStream does not support revision filters"),
            (
                EtcdError::NotEnoughStartedMembers,
                Code::Unknown,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            (EtcdError::TooManyRequests, Code::Unknown, "etcdserver: too many requests"),
            (
                EtcdError::LeaderTransferTimeout,
                Code::Unknown,
                "etcdserver: request timed out, leader transfer took too long",
            ),
            (EtcdError::UnknownMethod, Code::Unknown, "etcdserver: unknown method"),
            (
                EtcdError::NoPasswordUser,
                Code::Unknown,
                "auth: authentication failed, password was given for no password user",
            ),
            (EtcdError::NotPrimaryLessor, Code::Unknown, "not a primary lessor"),
            (EtcdError::PasswordTooLong, Code::Unknown, "bcrypt: password length exceeds 72 bytes"),
            (EtcdError::ElectionNotLeader, Code::Unknown, "election: not leader"),
            (EtcdError::ElectionNoLeader, Code::Unknown, "election: no leader"),
            (EtcdError::ElectionLeaderMissing, Code::Unknown, "\"leader\" field must be provided"),
            (EtcdError::SessionExpired, Code::Unknown, "mutex: session is expired"),
            (EtcdError::ContextCanceled, Code::Cancelled, "context canceled"),
            (EtcdError::ContextDeadlineExceeded, Code::DeadlineExceeded, "context deadline exceeded"),
            (EtcdError::Unimplemented("not there".into()), Code::Unimplemented, "not there"),
            (EtcdError::Unavailable("NATS is away".into()), Code::Unavailable, "jetway: NATS is away"),
            (EtcdError::ReadOnly("a mirror".into()), Code::FailedPrecondition, "jetway: a mirror"),
            (EtcdError::Unknown("its own text".into()), Code::Unknown, "its own text"),
            (
                EtcdError::KeyTooLong { size: 5000, limit: 3900 },
                Code::InvalidArgument,
                "jetway: key is too long: its subject needs 5000 bytes, the limit is 3900",
            ),
        ];
        for (error, code, text) in cases {
            let status = Status::from(error.clone());
            assert_eq!((status.code(), status.message()), (code, text), "{error:?}");
        }
    }

    #[test]
    fn watches_report_refusals_in_the_long_form_and_the_rest_in_the_short_one() {
        let cases = [
            (EtcdError::Compacted, "etcdserver: mvcc: required revision has been compacted"),
            (
                EtcdError::InvalidAuthToken,
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
            ),
            (
                EtcdError::AuthOldRevision,
                "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
            ),
            (EtcdError::UserEmpty, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
            (
                EtcdError::PermissionDenied,
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            ),
            (EtcdError::WatchRangeEmpty, "mvcc: watcher range is empty"),
            (EtcdError::WatchIdInUse, "mvcc: duplicate watch ID provided on the WatchStream"),
        ];
        for (error, reason) in cases {
            assert_eq!(cancel_reason(&error), reason);
        }
    }

    #[test]
    fn locks_and_elections_fail_as_unknown() {
        let status = unknown(&EtcdError::LeaseNotFound);
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(status.message(), "etcdserver: requested lease not found");
    }
}
