//! # lease: keys that live as long as somebody says so
//!
//! A lease has a time to live. Keys are attached to it; when nobody renews it in time, the
//! leader asks the cluster to revoke it, and the keys go with it. Granting, attaching and
//! revoking come through the log and are the same everywhere. Time does not: only the
//! leader's lessor, the *primary*, knows when a lease ends. The others keep all leases for
//! ever. A new leader gives every lease its full time again (plus an election timeout), and
//! spreads the ends out where too many would fall into one second.
//!
//! ```text
//!   applier ──── grant, attach, detach, revoke, checkpoint ────► Lessor ──► bucket `lease`
//!   serving ──── renew, time_to_live, leases ──────────────────►   │
//!   leader's timer ── expired, due_checkpoints ◄───────────────────┘
//! ```
//!
//! Renewing is the hot path. It happens on the leader alone, outside the log, and takes a
//! read lock and one atomic store. The queue of ends is not touched: a lease has one entry
//! in it, which is looked at when its old end is reached and then moved to the new one.
//!
//! What this room does not know: the time (it comes in, as nanoseconds since some start that
//! is the same for all calls), keys' values and revisions, the network. What has to happen
//! when a lease ends (proposing a revoke) the caller does.
#![forbid(unsafe_code)]

mod keys;
mod lessor;

use std::fmt;
use std::time::Duration;

pub use lessor::{Lessor, Renewal, TimeToLive, Wait, WaitEnd};

/// The largest TTL that may be asked for, in seconds. In nanoseconds it still fits into 64
/// bits with a sign, which is etcd's reason.
pub const TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// How many leases may end in a second. A revoke is an entry in the log; more would drown
/// the others' writes. At the limit, ends wait for the next look.
pub const REVOKES_PER_SECOND: usize = 1000;

/// How often the primary looks for leases that ended. TTLs are seconds, so half a second is
/// fine enough.
pub const EXPIRY_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Leases one look gives out: the share of [`REVOKES_PER_SECOND`] in its interval.
pub const EXPIRED_PER_CHECK: usize = REVOKES_PER_SECOND / 2;

/// Revokes the leader has under way at once (etcd's number).
pub const REVOKES_IN_FLIGHT_MAX: usize = 16;

/// When a lease that ended is not gone after this time, it is given out again: the revoke
/// was lost.
pub const EXPIRED_RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// How often the remaining time of a long lease goes into the log, where that is switched on.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// Checkpoints in one entry of the log. Beyond this a second entry is written.
pub const CHECKPOINTS_PER_ENTRY_MAX: usize = 1000;

/// The ID of a lease. Zero means none; negative ones are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// No lease.
    pub const NONE: LeaseId = LeaseId(0);

    /// Whether this is no lease.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == LeaseId::NONE
    }
}

/// As etcd prints it: 16 hexadecimal digits.
impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How a lessor behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Shorter TTLs are raised to this, in seconds; see [`ttl_seconds_min`].
    pub ttl_seconds_min: i64,
    /// Write the remaining time of long leases to the log this often; `None`: never
    /// (etcd's feature gate `LeaseCheckpoint`, off by default).
    pub checkpoint_interval: Option<Duration>,
}

/// The shortest TTL that makes sense with this election timeout: a lease must outlive an
/// election, so one and a half times as long, in whole seconds.
#[must_use]
pub fn ttl_seconds_min(heartbeat: Duration, election_ticks: u32) -> i64 {
    let nanos = heartbeat.as_nanos() * (u128::from(election_ticks) * 3 / 2);
    i64::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(TTL_SECONDS_MAX)
}

/// What a lessor refuses. Texts are etcd's; clients see some of them as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such lease; also the answer to granting ID zero.
    #[error("lease not found")]
    NotFound,
    /// A lease with this ID is there already.
    #[error("lease already exists")]
    Exists,
    /// The TTL is above [`TTL_SECONDS_MAX`].
    #[error("too large lease TTL")]
    TtlTooLarge,
    /// This member does not keep the time.
    #[error("not a primary lessor")]
    NotPrimary,
    /// A record in bucket `lease` cannot be decoded.
    #[error("lease record under key {key:02x?} is damaged: {reason}")]
    Damaged {
        /// The record's key.
        key: Vec<u8>,
        /// What the decoder said.
        reason: String,
    },
    /// The database could not be read.
    #[error("cannot read the database: {0}")]
    Backend(String),
}
