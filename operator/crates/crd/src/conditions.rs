//! Conditions in the form that `kubectl wait` and kstatus read.
//!
//! kstatus reads four things: `observedGeneration`, and the conditions Ready, Reconciling and Stalled.
//! The last two are there only while they are true, as their convention asks. Types and reasons are part of
//! the interface: people alert on them, so they are enumerated here and not written anywhere else.

use crate::{Condition, Time};

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $word:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$what])* $word,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$word,)*];

            /// The word in the object.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => stringify!($word),)* }
            }
        }
    };
}

words! {
    /// What a condition is about.
    ConditionType {
        /// In short: the cluster is what the spec asks for, and all voters serve.
        Ready,
        /// Clients can write.
        Available,
        /// A change is in flight.
        Progressing,
        /// Something is worse than it should be, though it may still serve.
        Degraded,
        /// More voters are healthy than a write needs; False when one loss more is fatal.
        QuorumHealthy,
        /// No member is being added, promoted or removed, and none is a stranger.
        MembershipStable,
        /// Every member runs the version and the revision that the spec asks for.
        VersionCurrent,
        /// A PodDisruptionBudget lets a node be drained: some voter may be lost.
        Evictable,
        /// There only while true: the spec is not reached yet.
        Reconciling,
        /// There only while true: going on needs a person.
        Stalled,
        /// There only while true: a deletion is held.
        DeletionBlocked,
        /// There only while true: a member reports another cluster than the one known.
        ClusterIDMismatch,
        /// There only while true: a member has raised NOSPACE or CORRUPT.
        AlarmRaised,
    }
}

impl ConditionType {
    /// Whether the condition is there only while it is true.
    pub fn abnormal(self) -> bool {
        matches!(
            self,
            Self::Reconciling
                | Self::Stalled
                | Self::DeletionBlocked
                | Self::ClusterIDMismatch
                | Self::AlarmRaised
        )
    }
}

words! {
    /// Why a condition is as it is.
    Reason {
        /// All voters are healthy.
        QuorumHealthy,
        /// Some voters are not healthy; enough are.
        QuorumAvailable,
        /// Enough voters are healthy, and none may be lost.
        QuorumAtRisk,
        /// Fewer voters are healthy than a write needs. Nothing is done until a person names the survivor.
        QuorumLost,
        /// No member could be asked.
        Unreachable,
        /// The first member is on its way.
        Bootstrapping,
        /// The first member did not come up in time.
        BootstrapFailed,
        /// The spec says replicas 0, and no Pod runs.
        Hibernated,
        /// Pods go, because the spec says replicas 0.
        Hibernating,
        /// Pods come back after a hibernation.
        Waking,
        /// Members are being added.
        ScalingOut,
        /// Members are being removed.
        ScalingIn,
        /// A failed member is being replaced.
        Replacing,
        /// Members are being restarted for another version, image, option or template.
        Rolling,
        /// Space is being freed after NOSPACE.
        FreeingSpace,
        /// The cluster goes on from one member's data, as a person asked.
        Recovering,
        /// The spec says paused.
        Paused,
        /// Nothing to do.
        Stable,
        /// The cluster is being deleted.
        Deleting,
        /// The spec says deletionProtection.
        DeletionProtected,
        /// A step would cost the quorum.
        QuorumUnsafe,
        /// A member is there that the operator did not add.
        UnknownMember,
        /// A member reports another cluster than the one known.
        ClusterIDMismatch,
        /// The operation in flight takes longer than membership.operationTimeout.
        DeadlineExceeded,
        /// The version asked for cannot be reached from the one that runs: lower, or more than one minor ahead.
        UnsupportedVersionPath,
        /// A Pod cannot be scheduled.
        Unschedulable,
        /// An image cannot be pulled.
        ImageUnavailable,
        /// A volume cannot be had.
        VolumeUnavailable,
        /// The namespace's quota is used up, or an admission refuses the object.
        Refused,
        /// A Pod ends again and again.
        CrashLooping,
        /// Volumes of an earlier cluster of this name are there, and bootstrap.adopt is not set.
        VolumesInTheWay,
        /// More members failed within an hour than membership.maxReplacementsPerHour lets replace.
        ReplacementLimit,
        /// A member's database has reached the quota.
        NoSpace,
        /// A member's data differs from its peers'.
        Corrupt,
        /// Members run the version and revision asked for.
        Current,
        /// Members run another version or revision.
        Outdated,
        /// A voter may be lost, so an eviction is let through.
        Tolerant,
        /// No voter may be lost, so evictions are refused; podDisruptionBudget.withoutTolerance lifts it.
        NoTolerance,
        /// The policy lets evictions through although no voter may be lost.
        EvictionAllowed,
        /// The spec says that there is no PodDisruptionBudget.
        Disabled,
        /// The member has joined and serves.
        Serving,
        /// The member is being added or promoted.
        Joining,
        /// The member is being removed.
        Leaving,
        /// The member does not serve.
        Failed,
    }
}

/// The status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionStatus {
    /// it holds
    True,
    /// it does not
    False,
    /// it could not be found out
    Unknown,
}

impl ConditionStatus {
    /// The word in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// A new condition that has just come to its status.
pub fn condition(
    kind: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: impl Into<String>,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    Condition {
        type_: kind.as_str().to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: now.clone(),
    }
}

/// Puts `new` into the list, in place of the one of its type; true when the list is another than before.
///
/// The time of the last transition stays while the status stays: reason and message may change without it. An
/// abnormal condition that is not true leaves the list.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    let at = conditions.iter().position(|old| old.type_ == new.type_);
    let abnormal = ConditionType::ALL
        .iter()
        .any(|kind| kind.abnormal() && kind.as_str() == new.type_);
    if abnormal && new.status != ConditionStatus::True.as_str() {
        return at.map(|at| conditions.remove(at)).is_some();
    }
    let Some(old) = at.and_then(|at| conditions.get_mut(at)) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    if *old == new {
        return false;
    }
    *old = new;
    true
}

/// Whether the list says that a condition holds.
pub fn is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    conditions
        .iter()
        .any(|one| one.type_ == kind.as_str() && one.status == ConditionStatus::True.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).expect("a time within range"))
    }

    fn ready(status: ConditionStatus, message: &str, second: i64) -> Condition {
        condition(
            ConditionType::Ready,
            status,
            Reason::QuorumHealthy,
            message,
            Some(1),
            &at(second),
        )
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let mut list = Vec::new();
        assert!(set_condition(
            &mut list,
            ready(ConditionStatus::True, "3/3", 1)
        ));
        assert!(!set_condition(
            &mut list,
            ready(ConditionStatus::True, "3/3", 2)
        ));
        assert!(set_condition(
            &mut list,
            ready(ConditionStatus::True, "5/5", 3)
        ));
        assert_eq!(list[0].last_transition_time, at(1));
        assert!(is_true(&list, ConditionType::Ready));
        assert!(set_condition(
            &mut list,
            ready(ConditionStatus::Unknown, "5/5", 4)
        ));
        assert_eq!(list[0].last_transition_time, at(4));
        assert!(!is_true(&list, ConditionType::Ready));
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn an_abnormal_condition_is_there_only_while_it_is_true() {
        let stalled = |status: bool| {
            condition(
                ConditionType::Stalled,
                status.into(),
                Reason::DeadlineExceeded,
                "",
                None,
                &at(1),
            )
        };
        let mut list = Vec::new();
        assert!(!set_condition(&mut list, stalled(false)));
        assert!(set_condition(&mut list, stalled(true)));
        assert!(set_condition(&mut list, stalled(false)));
        assert_eq!(list, []);
    }

    #[test]
    fn words_are_what_the_api_takes() {
        let words = ConditionType::ALL.iter().map(|one| one.as_str());
        for word in words.chain(Reason::ALL.iter().map(|one| one.as_str())) {
            assert!(word.len() <= 64 && word.starts_with(|c: char| c.is_ascii_uppercase()));
            assert!(
                word.bytes().all(|byte| byte.is_ascii_alphanumeric()),
                "{word}"
            );
        }
    }
}
