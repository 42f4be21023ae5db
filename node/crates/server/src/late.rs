//! Why a proposal ran out of time, in etcd's words (`parseProposeCtxErr`).
//!
//! ```text
//! began     elected        now
//!   |---------|-------------|      the lead changed hands after it began: the old leader had it, perhaps
//!      |<---->| two election time-outs: an older one would have been answered by the old leader
//! ```
//!
//! Only the member that won the election knows its moment; the others look at their connections.

use std::time::{Duration, Instant};

use raftpb::MemberId;

use crate::member::Member;

impl Member {
    /// Why a proposal that began then has run out of time.
    pub fn timeout_reason(&self, began: Instant) -> api::Error {
        let known = Known {
            elected: self.shared.elected_at(),
            election_timeout: self.config.election_timeout(),
            connected: self.is_connected_since(began),
        };
        known.reason(began)
    }

    /// Whether a leader's path to a quorum, or a follower's to its leader, has held since then.
    /// Without a leader there is no path to judge.
    fn is_connected_since(&self, began: Instant) -> bool {
        let held = |id: MemberId| {
            id == self.id()
                || self
                    .peers
                    .active_since(id)
                    .is_some_and(|since| since < began)
        };
        match self.leader() {
            0 => true,
            leader if leader == self.id().0 => {
                let cluster = self.state().cluster.get();
                // etcd counts learners too.
                let (all, connected) =
                    cluster.members().fold((0, 0), |(all, connected), member| {
                        (all + 1, connected + usize::from(held(member.id)))
                    });
                connected > all / 2
            }
            leader => held(MemberId(leader)),
        }
    }
}

/// What the reason depends on.
struct Known {
    elected: Option<Instant>,
    election_timeout: Duration,
    connected: bool,
}

impl Known {
    fn reason(&self, began: Instant) -> api::Error {
        let handed_over = self.elected.is_some_and(|elected| {
            began < elected && elected.duration_since(began) < 2 * self.election_timeout
        });
        if handed_over {
            api::Error::TimeoutDueToLeaderFail
        } else if self.connected {
            api::Error::Timeout
        } else {
            api::Error::TimeoutDueToConnectionLost
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_lead_the_connection_or_none() {
        let elected = Instant::now();
        let before = |ms| elected - Duration::from_millis(ms);
        let known = |elected, connected| Known {
            elected,
            election_timeout: Duration::from_millis(1000),
            connected,
        };
        let leads = known(Some(elected), true);
        assert_eq!(leads.reason(before(1)), api::Error::TimeoutDueToLeaderFail);
        assert_eq!(
            leads.reason(before(1999)),
            api::Error::TimeoutDueToLeaderFail
        );
        assert_eq!(leads.reason(before(2000)), api::Error::Timeout);
        assert_eq!(leads.reason(elected), api::Error::Timeout);
        assert_eq!(known(None, true).reason(before(1)), api::Error::Timeout);
        assert_eq!(
            known(None, false).reason(elected),
            api::Error::TimeoutDueToConnectionLost
        );
    }
}
