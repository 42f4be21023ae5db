//! What is known of other members beside the membership: when one was removed, and what keeps one
//! from catching up. It is told to people only; nothing is decided by it.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use raftpb::MemberId;

/// Notes about others, for as long as this process runs.
#[derive(Debug, Default)]
pub struct Whereabouts {
    removals: Mutex<BTreeMap<MemberId, String>>,
    obstacles: Mutex<BTreeMap<MemberId, String>>,
}

impl Whereabouts {
    /// A removal was applied here.
    pub fn removed(&self, member: MemberId, index: u64, term: u64) -> String {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let when = format!(
            "by the conf change at index {index} of term {term}, applied here at {}",
            rfc3339_seconds(now.as_secs())
        );
        self.obstacles.lock().remove(&member);
        self.removals.lock().insert(member, when.clone());
        when
    }

    /// When a member was removed, if this process has seen it.
    pub fn removal(&self, member: MemberId) -> Option<String> {
        self.removals.lock().get(&member).cloned()
    }

    /// How the last database snapshot for a member ended.
    pub fn snapshot(&self, member: MemberId, delivered: Result<(), String>) {
        let mut obstacles = self.obstacles.lock();
        match delivered {
            Ok(()) => {
                obstacles.remove(&member);
            }
            Err(reason) => {
                let reason = format!("the last database snapshot did not arrive: {reason}");
                // It is tried again for as long as it fails; the log says it once.
                if obstacles.get(&member) != Some(&reason) {
                    tracing::warn!(%member, reason, "a member cannot catch up; look at its log, its disk and the network between");
                }
                obstacles.insert(member, reason);
            }
        }
    }

    /// What keeps a member from catching up, as far as snapshots tell.
    pub fn obstacle(&self, member: MemberId) -> Option<String> {
        self.obstacles.lock().get(&member).cloned()
    }
}

/// A time since 1970 as `2026-11-23T19:57:03Z`.
pub fn rfc3339_seconds(unix: u64) -> String {
    // Days since 0000-03-01, in eras of 400 years (Hinnant's civil_from_days).
    let days = unix / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (unix / 3600 % 24, unix / 60 % 60, unix % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_everywhere() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_463_823, "2026-11-23T19:57:03Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(rfc3339_seconds(unix), text);
        }
    }

    #[test]
    fn an_obstacle_is_forgotten_when_a_snapshot_arrives() {
        let (known, member) = (Whereabouts::default(), MemberId(7));
        known.snapshot(member, Err("No space left on device".to_owned()));
        let reason = known.obstacle(member).expect("noted");
        assert!(reason.contains("No space left on device"), "{reason}");
        known.snapshot(member, Ok(()));
        assert_eq!(known.obstacle(member), None);
    }
}
