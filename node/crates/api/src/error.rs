//! Every error that a client can see, in one table: code and text as they stand on the wire.
//!
//! Clients match on the text, so it is etcd's, byte for byte, capital letters and all. The code
//! is the one that etcd 3.7.3 sends, which is not always the one it declares: `not enough
//! started members` and `too many requests` leave etcd through an error type without a status,
//! and gRPC sends them as `Unknown`. So does everything that etcd has no code for.

use std::borrow::Cow;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// The codes of gRPC.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        impl Code {
            /// gRPC's name of the code, as Go prints it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$name => stringify!($name),)*
                }
            }

            /// The code of a number; a number that gRPC does not know is `Unknown`.
            pub fn from_number(number: i32) -> Code {
                match number {
                    $($number => Code::$name,)*
                    _ => Code::Unknown,
                }
            }
        }
    };
}

codes! {
    /// No error.
    OK = 0,
    /// The caller gave up.
    Canceled = 1,
    /// No other code fits.
    Unknown = 2,
    /// The request is wrong whatever the state.
    InvalidArgument = 3,
    /// The caller's time ran out.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What should be made exists.
    AlreadyExists = 6,
    /// The caller is known and may not.
    PermissionDenied = 7,
    /// A quota or a limit is used up.
    ResourceExhausted = 8,
    /// The state does not allow it.
    FailedPrecondition = 9,
    /// A conflict with another request.
    Aborted = 10,
    /// Outside of what there is: compacted or future revisions.
    OutOfRange = 11,
    /// Not served here.
    Unimplemented = 12,
    /// Our mistake.
    Internal = 13,
    /// Not now; try again.
    Unavailable = 14,
    /// Data are lost or damaged.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

/// How the text of a refusal begins that etcd does not know.
pub const OURS: &str = "quorate: ";

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident, $code:ident, $text:literal;)*) => {
        /// An error as a client sees it: `code()`, and `Display` for the text.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Error {
            $($(#[$doc])* #[doc = concat!("`", $text, "`")] $name,)*
            /// A refusal of ours that etcd does not know: FailedPrecondition, in words that
            /// begin with [`OURS`].
            Refused(Cow<'static, str>),
            /// Anything else; the code is `Unknown` and the text goes out as it is.
            Other(Cow<'static, str>),
        }

        impl Error {
            /// Every error of the table, in its order.
            pub const ALL: &'static [Error] = &[$(Error::$name,)*];

            /// The code that etcd sends with it.
            pub fn code(&self) -> Code {
                match self {
                    $(Error::$name => Code::$code,)*
                    Error::Refused(_) => Code::FailedPrecondition,
                    Error::Other(_) => Code::Unknown,
                }
            }

            /// The text that etcd sends.
            pub fn text(&self) -> &str {
                match self {
                    $(Error::$name => $text,)*
                    Error::Refused(text) | Error::Other(text) => text,
                }
            }
        }
    };
}

errors! {
    // Requests that are wrong in themselves.
    EmptyKey, InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound, InvalidArgument, "etcdserver: key not found";
    ValueProvided, InvalidArgument, "etcdserver: value is provided";
    LeaseProvided, InvalidArgument, "etcdserver: lease is provided";
    TooManyOps, InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey, InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion, InvalidArgument, "etcdserver: invalid client api version";
    InvalidSortOption, InvalidArgument, "etcdserver: invalid sort option";
    RequestTooLarge, InvalidArgument, "etcdserver: request is too large";
    /// RangeStream only.
    RangeStreamSortOrder, Unimplemented, "RangeStream does not support custom sort orders";
    /// RangeStream only.
    RangeStreamRevisionFilters, Unimplemented, "RangeStream does not support revision filters";

    // The store.
    Compacted, OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRevision, OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NoSpace, ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    Corrupt, DataLoss, "etcdserver: corrupt cluster";

    // Leases.
    LeaseNotFound, NotFound, "etcdserver: requested lease not found";
    LeaseExists, FailedPrecondition, "etcdserver: lease already exists";
    LeaseTtlTooLarge, OutOfRange, "etcdserver: too large lease TTL";
    /// A member that stopped leading was asked to renew; without a prefix.
    NotPrimary, Unknown, "not a primary lessor";

    // Watches.
    WatchCanceled, Canceled, "etcdserver: watch canceled";

    // Members.
    MemberExists, FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExists, FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// Declared as FailedPrecondition, sent as Unknown.
    MemberNotEnoughStarted, Unknown,
        "etcdserver: re-configuration failed due to not enough started members";
    MemberBadUrls, InvalidArgument, "etcdserver: given member URLs are invalid";
    MemberNotFound, NotFound, "etcdserver: member not found";
    MemberNotLearner, FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady, FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners, FailedPrecondition, "etcdserver: too many learner members in cluster";
    ClusterIdMismatch, FailedPrecondition, "etcdserver: cluster ID mismatch";

    // Auth.
    RootUserNotExist, FailedPrecondition, "etcdserver: root user does not exist";
    RootRoleNotExist, FailedPrecondition, "etcdserver: root user does not have root role";
    UserAlreadyExists, FailedPrecondition, "etcdserver: user name already exists";
    UserEmpty, InvalidArgument, "etcdserver: user name is empty";
    UserNotFound, FailedPrecondition, "etcdserver: user name not found";
    RoleAlreadyExists, FailedPrecondition, "etcdserver: role name already exists";
    RoleNotFound, FailedPrecondition, "etcdserver: role name not found";
    RoleEmpty, InvalidArgument, "etcdserver: role name is empty";
    AuthFailed, InvalidArgument,
        "etcdserver: authentication failed, invalid user ID or password";
    /// The text of etcd's auth store; it has no code.
    NoPasswordUser, Unknown,
        "auth: authentication failed, password was given for no password user";
    PermissionNotGiven, InvalidArgument, "etcdserver: permission not given";
    PermissionDenied, PermissionDenied, "etcdserver: permission denied";
    RoleNotGranted, FailedPrecondition, "etcdserver: role is not granted to the user";
    PermissionNotGranted, FailedPrecondition,
        "etcdserver: permission is not granted to the role";
    AuthNotEnabled, FailedPrecondition, "etcdserver: authentication is not enabled";
    InvalidAuthToken, Unauthenticated, "etcdserver: invalid auth token";
    InvalidAuthMgmt, InvalidArgument, "etcdserver: invalid auth management";
    AuthOldRevision, InvalidArgument, "etcdserver: revision of auth store is old";

    // The moment: leaders, time, load.
    NoLeader, Unavailable, "etcdserver: no leader";
    NotLeader, FailedPrecondition, "etcdserver: not leader";
    LeaderChanged, Unavailable, "etcdserver: leader changed";
    NotCapable, FailedPrecondition, "etcdserver: not capable";
    Stopped, Unavailable, "etcdserver: server stopped";
    Timeout, Unavailable, "etcdserver: request timed out";
    TimeoutDueToLeaderFail, Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost, Unavailable,
        "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex, Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long";
    /// MoveLeader only; etcd has no code for it.
    TimeoutLeaderTransfer, Unknown,
        "etcdserver: request timed out, leader transfer took too long";
    /// Declared as ResourceExhausted, sent as Unknown.
    TooManyRequests, Unknown, "etcdserver: too many requests";
    Unhealthy, Unavailable, "etcdserver: unhealthy cluster";
    NotSupportedForLearner, FailedPrecondition, "etcdserver: rpc not supported for learner";
    BadLeaderTransferee, FailedPrecondition, "etcdserver: bad leader transferee";
    /// A proposal whose caller gave up.
    RequestCanceled, Canceled, "etcdserver: request canceled";
    /// Declared; etcd 3.7.3 sends [`Error::ContextDeadlineExceeded`] in its place.
    DeadlineExceeded, DeadlineExceeded, "etcdserver: context deadline exceeded";
    /// The caller gave up while its request waited outside of raft; Go's own text.
    ContextCanceled, Canceled, "context canceled";
    /// The caller's time ran out while its request waited outside of raft; Go's own text.
    ContextDeadlineExceeded, DeadlineExceeded, "context deadline exceeded";

    // Downgrade.
    WrongDowngradeVersionFormat, InvalidArgument,
        "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTargetVersion, InvalidArgument,
        "etcdserver: invalid downgrade target version";
    ClusterVersionUnavailable, FailedPrecondition,
        "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess, FailedPrecondition,
        "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade, FailedPrecondition, "etcdserver: no inflight downgrade job";

    /// Nothing in the request says what is asked for; etcd has no code for it.
    UnknownMethod, Unknown, "etcdserver: unknown method";
}

impl Error {
    /// The error of a text that came from a server; `Other` where the table has none.
    pub fn from_text(text: &str) -> Error {
        if text.starts_with(OURS) {
            return Error::Refused(Cow::Owned(text.to_owned()));
        }
        Error::ALL
            .iter()
            .find(|error| error.text() == text)
            .cloned()
            .unwrap_or_else(|| Error::Other(Cow::Owned(text.to_owned())))
    }

    /// A refusal of ours, in words.
    pub fn refused(why: impl std::fmt::Display) -> Error {
        Error::Refused(Cow::Owned(format!("{OURS}{why}")))
    }

    /// The text with its code in front, as Go prints an error with a status. etcd puts this,
    /// not the plain text, into the `cancel_reason` of a watch that auth refused.
    pub fn status_text(&self) -> String {
        format!("rpc error: code = {} desc = {}", self.code().name(), self)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Error {}

#[cfg(any(feature = "client", feature = "server"))]
impl From<Error> for tonic::Status {
    fn from(error: Error) -> tonic::Status {
        tonic::Status::new(tonic::Code::from_i32(error.code() as i32), error.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text and code of each `ErrGRPC…` that etcd 3.7.3 declares, printed by a Go program from
    /// its rpctypes package.
    const DECLARED: &str = include_str!("../testdata/errors.txt");

    /// What leaves etcd as `Unknown` though it was declared with a code.
    const SENT_AS_UNKNOWN: [Error; 2] = [Error::MemberNotEnoughStarted, Error::TooManyRequests];

    #[test]
    fn every_error_that_etcd_declares_is_here_with_its_code() {
        let mut seen = 0;
        for line in DECLARED.lines().filter(|line| !line.starts_with('#')) {
            let (code, text) = line.split_once(' ').expect("code and text");
            let error = Error::from_text(text);
            assert!(!matches!(error, Error::Other(_)), "{text} is missing");
            if SENT_AS_UNKNOWN.contains(&error) {
                assert_eq!(error.code(), Code::Unknown);
            } else {
                assert_eq!(error.code().name(), code, "{text}");
            }
            seen += 1;
        }
        assert_eq!(seen, 63);
    }

    #[test]
    fn texts_are_unique_and_found_again() {
        for error in Error::ALL {
            assert_eq!(&Error::from_text(error.text()), error);
        }
        assert_eq!(
            Error::from_text("open db: no such file"),
            Error::Other("open db: no such file".into())
        );
    }

    #[test]
    fn a_status_prints_as_go_prints_it() {
        assert_eq!(
            Error::PermissionDenied.status_text(),
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        );
    }

    #[test]
    fn codes_have_the_numbers_of_grpc() {
        for number in 0..=16 {
            assert_eq!(Code::from_number(number) as i32, number);
        }
        assert_eq!(Code::from_number(17), Code::Unknown);
        assert_eq!(Code::from_number(-1), Code::Unknown);
    }

    #[cfg(any(feature = "client", feature = "server"))]
    #[test]
    fn a_status_carries_code_and_text() {
        for error in Error::ALL {
            let status = tonic::Status::from(error.clone());
            assert_eq!(status.code() as i32, error.code() as i32);
            assert_eq!(status.message(), error.text());
        }
    }
}
