//! All errors that a client can get, with etcd's exact texts.
//!
//! Clients match on the text before they look at the code: etcd's own client recovers its typed errors in
//! this way. So each text is written here and nowhere else. The gRPC codes are in `api::status_code`. Errors
//! inside jetway that etcd does not have stay in their own modules. They reach a client as
//! [`EtcdError::Unavailable`] or [`EtcdError::Unknown`].

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// An error that a client gets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum EtcdError {
    // Requests that can never be right.
    /// An empty key in a request, a compare or a transaction's operation.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist; also an operation with nothing in it.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// More operations or compares in a transaction than the limit allows.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// Two operations of one transaction write the same key.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// The client's API version in the metadata is unreadable.
    #[error("etcdserver: invalid client api version")]
    InvalidClientApiVersion,
    /// A sort order or target outside its enum.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// The write is larger than the request limit.
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// The message is larger than the receive limit; both in bytes.
    #[error("grpc: received message larger than max ({size} vs. {limit})")]
    MessageTooLarge {
        /// Size of the message.
        size: usize,
        /// Largest size accepted.
        limit: usize,
    },
    /// A key that has no NATS subject because that would be too long; both in bytes. jetway's own, see
    /// `tests/DIFFERENCES.md`.
    #[error("jetway: key is too long: its subject needs {size} bytes, the limit is {limit}")]
    KeyTooLong {
        /// Length of the subject.
        size: usize,
        /// Longest subject accepted.
        limit: usize,
    },
    /// A sorted `RangeStream`.
    #[error("RangeStream does not support custom sort orders")]
    StreamSort,
    /// A filtered `RangeStream`.
    #[error("RangeStream does not support revision filters")]
    StreamFilter,
    /// A call that jetway does not serve; the text names the call and the reason.
    #[error("{0}")]
    Unimplemented(Cow<'static, str>),

    // Revisions and space.
    /// The revision lies below the compaction floor.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The revision has not happened yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The quota is used up.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,

    // Leases.
    /// No such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A grant with an id that is taken.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A TTL above etcd's maximum.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// A keep-alive met a member that does not serve leases now.
    #[error("not a primary lessor")]
    NotPrimaryLessor,

    // Watches.
    /// The client cancelled a watch.
    #[error("etcdserver: watch canceled")]
    WatchCanceled,
    /// In-band only: a watch on a range that holds no key.
    #[error("mvcc: watcher range is empty")]
    WatchRangeEmpty,
    /// In-band only: a watch id that is in use on the stream.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    WatchIdInUse,

    // Members.
    /// No such member, or one that was removed.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// A member with this id is there already.
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    /// A member with one of these peer URLs is there already.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// Unreadable or missing peer URLs.
    #[error("etcdserver: given member URLs are invalid")]
    MemberBadUrls,
    /// Only learners can be promoted.
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    /// The learner lags behind.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// There is a learner already.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    /// A sixth member, whose server could hold no copy of the log. jetway's own, see `tests/DIFFERENCES.md`.
    #[error(
        "jetway: the cluster has {0} members, and JetStream keeps no more copies of the log; remove a member first \
         (etcdctl member remove)"
    )]
    TooManyMembers(usize),
    /// The change would leave too few started members.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStartedMembers,
    /// The member that is alone cannot become one of several. jetway's own.
    #[error("jetway: no member can be added: {0}")]
    StaysAlone(String),
    /// Never sent by etcd to clients, but known to them.
    #[error("etcdserver: cluster ID mismatch")]
    ClusterIdMismatch,
    /// The call needs a full member.
    #[error("etcdserver: rpc not supported for learner")]
    NotSupportedForLearner,

    // Users and roles.
    /// Auth cannot be enabled without the user `root`.
    #[error("etcdserver: root user does not exist")]
    RootUserNotExist,
    /// Auth cannot be enabled while `root` lacks its role.
    #[error("etcdserver: root user does not have root role")]
    RootRoleNotExist,
    /// A user of this name is there already.
    #[error("etcdserver: user name already exists")]
    UserExists,
    /// No identity while auth is on, or a user without a name.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    /// No such user.
    #[error("etcdserver: user name not found")]
    UserNotFound,
    /// A role of this name is there already.
    #[error("etcdserver: role name already exists")]
    RoleExists,
    /// No such role.
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    /// A role without a name.
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    /// Wrong name or password.
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    AuthFailed,
    /// A password for a user who has none.
    #[error("auth: authentication failed, password was given for no password user")]
    NoPasswordUser,
    /// A password longer than bcrypt takes.
    #[error("bcrypt: password length exceeds 72 bytes")]
    PasswordTooLong,
    /// A grant without a permission.
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    /// The caller may not do this.
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    /// The user does not have this role.
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    /// The role does not have this permission.
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    /// A login while auth is off.
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    /// A token that nobody issued or that has run out.
    #[error("etcdserver: invalid auth token")]
    InvalidAuthToken,
    /// A change that would break auth itself.
    #[error("etcdserver: invalid auth management")]
    InvalidAuthManagement,
    /// Users or roles changed since the token was issued.
    #[error("etcdserver: revision of auth store is old")]
    AuthOldRevision,

    // The cluster's condition.
    /// No leader: with `hasleader`, on watches and lease calls.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// The call must go to the leader.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// The leader changed in the middle of the call.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// The named member cannot lead.
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    /// The leader transfer did not end in time.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    LeaderTransferTimeout,
    /// The cluster's version does not have this call.
    #[error("etcdserver: not capable")]
    NotCapable,
    /// The server is shutting down.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// No answer in time. A write may have happened all the same, or happen later.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// [`EtcdError::Timeout`] around an election.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailure,
    /// [`EtcdError::Timeout`] without a quorum.
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// This member lags too far behind to answer.
    #[error("etcdserver: request timed out, waiting for the applied index took too long")]
    TimeoutAppliedIndex,
    /// The cluster is not well enough for a change of members.
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    /// Writes wait faster than they are applied.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// The corruption alarm is raised.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// NATS or the server itself cannot serve now; the text has the reason. jetway's own.
    #[error("jetway: {0}")]
    Unavailable(String),

    /// A mirror, or a primary whose mirror was promoted; the text has the reason. jetway's own.
    #[error("jetway: {0}")]
    ReadOnly(String),

    // Downgrades.
    /// The target is no version.
    #[error("etcdserver: wrong downgrade target version format")]
    WrongDowngradeVersionFormat,
    /// The target is no version to go to from here.
    #[error("etcdserver: invalid downgrade target version")]
    InvalidDowngradeTargetVersion,
    /// The cluster has no version yet.
    #[error("etcdserver: cluster version not found during downgrade")]
    ClusterVersionUnavailable,
    /// One downgrade at a time.
    #[error("etcdserver: cluster has a downgrade job in progress")]
    DowngradeInProcess,
    /// Nothing to cancel.
    #[error("etcdserver: no inflight downgrade job")]
    NoInflightDowngrade,
    /// An action outside its enum.
    #[error("etcdserver: unknown method")]
    UnknownMethod,

    // The client went away.
    /// A write that its client cancelled.
    #[error("etcdserver: request canceled")]
    RequestCanceled,
    /// Defined by etcd; clients usually see [`EtcdError::ContextDeadlineExceeded`].
    #[error("etcdserver: context deadline exceeded")]
    DeadlineExceeded,
    /// The call was cancelled, in gRPC's words.
    #[error("context canceled")]
    ContextCanceled,
    /// The call's deadline passed, in gRPC's words.
    #[error("context deadline exceeded")]
    ContextDeadlineExceeded,

    // Lock and election.
    /// Proclaim or resign by a candidate that does not lead.
    #[error("election: not leader")]
    ElectionNotLeader,
    /// There is no leader.
    #[error("election: no leader")]
    ElectionNoLeader,
    /// Proclaim or resign without a leader key.
    #[error("\"leader\" field must be provided")]
    ElectionLeaderMissing,
    /// The lease ended while waiting for the lock.
    #[error("mutex: session is expired")]
    SessionExpired,

    /// An inner failure without a place in etcd's list, with its own text.
    #[error("{0}")]
    Unknown(String),
}
