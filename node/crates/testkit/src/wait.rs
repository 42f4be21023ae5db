//! Waiting on something that will become true.

use std::time::{Duration, Instant};

/// Between two looks. Short: most things that are waited for are there at the second one.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until `what` gives a value, and returns it; panics with the last reason at the deadline.
pub fn eventually<T>(
    description: &str,
    timeout: Duration,
    mut what: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        match what() {
            Ok(value) => return value,
            Err(reason) => assert!(
                Instant::now() < deadline,
                "{description} did not happen within {timeout:?}: {reason}"
            ),
        }
        std::thread::sleep(PAUSE);
    }
}
