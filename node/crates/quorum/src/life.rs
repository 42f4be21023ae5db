//! Healthy, or in doubt and why. Everything that is not known to be healthy is in doubt.

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

use crate::Role;

/// How long a member must have been connected before it counts: etcd's `HealthInterval`. A
/// member that crashes again and again is connected most of the time, but never for long.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// The same of a learner that is to be promoted. It is shorter, since somebody waits for the answer:
/// etcd promotes at once, and its clients give up after five seconds.
pub const LEARNER_INTERVAL: Duration = Duration::from_secs(2);

/// How long a member of this role must have been connected.
pub fn interval(role: Role) -> Duration {
    match role {
        Role::Voter => HEALTH_INTERVAL,
        Role::Learner => LEARNER_INTERVAL,
    }
}

/// Whether a member can be counted on, as far as the observer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    /// It can.
    Healthy,
    /// Not known to be healthy, and not known to be gone either.
    InDoubt(Doubt),
}

/// Why a member is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubt {
    /// It could not be asked.
    Unknown,
    /// It has never started.
    NotStarted,
    /// Its peer streams are not connected.
    NotConnected,
    /// Its peer streams have been connected for this long only; see [`interval`].
    ConnectedFor(Duration),
    /// The leader heard from it last so long ago.
    NotHeardFor(Duration),
    /// The leader has not heard from it in this term.
    NeverHeard,
    /// The last probe had no answer.
    ProbeUnanswered,
    /// It answers, and is being stopped. Only who stops members knows this: the operator.
    Leaving,
}

impl Life {
    /// Of another member, as the leader sees it: connected for [`interval`], and heard within one
    /// election time-out. `heard_ago` is the age of its last raft message in this leader's term.
    pub fn seen_by_leader(
        role: Role,
        connected_for: Option<Duration>,
        heard_ago: Option<Duration>,
        election_timeout: Duration,
    ) -> Life {
        match (Life::connected(role, connected_for), heard_ago) {
            (Some(doubt), _) => Life::InDoubt(doubt),
            (None, None) => Life::InDoubt(Doubt::NeverHeard),
            (None, Some(age)) if age > election_timeout => Life::InDoubt(Doubt::NotHeardFor(age)),
            (None, Some(_)) => Life::Healthy,
        }
    }

    /// Of another member, as a follower sees it that judges because etcd leads: connected for
    /// [`interval`], and the last probe was answered.
    pub fn seen_by_follower(
        role: Role,
        connected_for: Option<Duration>,
        probe_answered: bool,
    ) -> Life {
        match Life::connected(role, connected_for) {
            Some(doubt) => Life::InDoubt(doubt),
            None if probe_answered => Life::Healthy,
            None => Life::InDoubt(Doubt::ProbeUnanswered),
        }
    }

    fn connected(role: Role, connected_for: Option<Duration>) -> Option<Doubt> {
        match connected_for {
            None => Some(Doubt::NotConnected),
            // Strictly longer, as etcd compares.
            Some(age) if age <= interval(role) => Some(Doubt::ConnectedFor(age)),
            Some(_) => None,
        }
    }
}

impl Display for Doubt {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Doubt::Unknown => f.write_str("could not be asked"),
            Doubt::NotStarted => f.write_str("has never started"),
            Doubt::NotConnected => f.write_str("is not connected"),
            Doubt::ConnectedFor(age) => write!(
                f,
                "has been connected for {age:.1?}, {HEALTH_INTERVAL:?} are asked for, of a learner {LEARNER_INTERVAL:?}"
            ),
            Doubt::NotHeardFor(age) => write!(f, "was last heard {age:.1?} ago"),
            Doubt::NeverHeard => f.write_str("was not heard in this term"),
            Doubt::ProbeUnanswered => f.write_str("did not answer the last probe"),
            Doubt::Leaving => f.write_str("is on its way out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    #[test]
    fn a_leader_asks_for_a_connection_and_a_word() {
        let cases = [
            (ms(5001), ms(1000), Life::Healthy),
            (None, ms(0), Life::InDoubt(Doubt::NotConnected)),
            (
                ms(5000),
                ms(0),
                Life::InDoubt(Doubt::ConnectedFor(HEALTH_INTERVAL)),
            ),
            (
                ms(9000),
                ms(1001),
                Life::InDoubt(Doubt::NotHeardFor(Duration::from_millis(1001))),
            ),
            (ms(9000), None, Life::InDoubt(Doubt::NeverHeard)),
        ];
        for (connected, heard, life) in cases {
            assert_eq!(
                Life::seen_by_leader(Role::Voter, connected, heard, ELECTION),
                life
            );
        }
    }

    #[test]
    fn a_learner_is_asked_for_less() {
        let life = |connected| Life::seen_by_leader(Role::Learner, connected, ms(0), ELECTION);
        assert_eq!(life(ms(2001)), Life::Healthy);
        let early = Duration::from_millis(2000);
        assert_eq!(life(ms(2000)), Life::InDoubt(Doubt::ConnectedFor(early)));
        assert_eq!(life(None), Life::InDoubt(Doubt::NotConnected));
    }

    #[test]
    fn a_follower_asks_for_a_connection_and_an_answered_probe() {
        let cases = [
            (ms(5001), true, Life::Healthy),
            (ms(5001), false, Life::InDoubt(Doubt::ProbeUnanswered)),
            (None, true, Life::InDoubt(Doubt::NotConnected)),
        ];
        for (connected, answered, life) in cases {
            assert_eq!(
                Life::seen_by_follower(Role::Voter, connected, answered),
                life
            );
        }
    }
}
