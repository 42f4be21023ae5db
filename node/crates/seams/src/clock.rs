//! Time as an argument.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment of this process; never goes back.
    fn now(&self) -> Duration;
    /// Wall time since 1970-01-01 UTC; may jump either way.
    fn unix(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Debug)]
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// A clock whose [`Clock::now`] starts at zero.
    pub fn new() -> RealClock {
        RealClock {
            start: Instant::now(),
        }
    }
}

impl Default for RealClock {
    fn default() -> RealClock {
        RealClock::new()
    }
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix(&self) -> Duration {
        // A wall clock before 1970 is a machine without a battery: zero is the least wrong answer.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }
}

/// A clock that moves only when told; for simulation and tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ns: AtomicU64,
    unix_start_ns: u64,
}

impl ManualClock {
    /// A clock at zero whose wall time begins at `unix`.
    pub fn new(unix: Duration) -> ManualClock {
        ManualClock {
            now_ns: AtomicU64::new(0),
            unix_start_ns: unix.as_nanos() as u64,
        }
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        self.now_ns
            .fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(Ordering::Relaxed))
    }

    fn unix(&self) -> Duration {
        Duration::from_nanos(self.unix_start_ns) + self.now()
    }
}
