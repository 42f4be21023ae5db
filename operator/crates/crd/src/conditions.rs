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
    /// Why something is as it is: of a condition, of what is waited for, of an Event.
    Reason {
        /// All voters are healthy, and all is as the spec says.
        QuorumHealthy,
        /// No voter is in doubt.
        AllHealthy,
        /// Enough voters are healthy.
        QuorumAvailable,
        /// Fewer voters are known to be healthy than a write needs, and nothing says that they are lost.
        QuorumInDoubt,
        /// No quorum answers. Nothing is done until a person names the survivor.
        QuorumLost,
        /// The operator has stopped it, to wake it or to restart a member without which there is no quorum, and it starts again.
        Starting,
        /// One more voter may crash.
        CrashTolerated,
        /// No voter may crash now.
        NoCrashTolerated,
        /// A voter does not serve as it should.
        VoterInDoubt,
        /// Something is being done.
        Working,
        /// Nothing is to be done.
        Idle,
        /// The first member is on its way.
        Bootstrapping,
        /// The spec says replicas 0, and no Pod runs.
        Hibernated,
        /// Nobody has to do anything.
        NotStalled,
        /// The spec says paused.
        Paused,
        /// The cluster is to be deleted, and the spec says deletionProtection.
        DeletionProtected,
        /// Pods of the deleted cluster are on their way out.
        PodsLeaving,
        /// Something could not be read, and nothing is done about what is not known.
        Unreadable,
        /// A member reports another cluster than the one known.
        ClusterIDMismatch,
        /// A member is there that the operator did not add. It is never removed.
        UnknownMember,
        /// Members answer, and none leads.
        NoLeader,
        /// A person's order to recover is not followed.
        RecoveryRefused,
        /// Members that could decide without the survivor may come back.
        OthersMayDecide,
        /// A step would cost the quorum, or bring it close to that.
        QuorumUnsafe,
        /// A member's Pod starts.
        MemberStarting,
        /// A member's Pod cannot start as it is.
        MemberCannotStart,
        /// A member is not healthy for long enough yet.
        MemberSettling,
        /// A Pod is on its way out.
        PodTerminating,
        /// A member's node does not report.
        NodeSilent,
        /// A learner gets the log.
        LearnerCatchingUp,
        /// A failed member will be replaced when it has been failed for long enough.
        ReplacementDue,
        /// Enough members were replaced within the hour.
        ReplacementsUsedUp,
        /// A failed member is replaced only when a person asks.
        ReplacementNotAllowed,
        /// A member is to leave, and cannot yet.
        CannotLeaveYet,
        /// The spec has changed, and the work on the last one comes first.
        TargetInProgress,
        /// The version asked for is lower, or more than one minor ahead.
        UnsupportedVersionPath,
        /// An even number of replicas, which the policy does not take.
        EvenReplicasRefused,
        /// A restart would stop a cluster of one or two voters, and membership.acceptOutage is not set.
        OutageNotAccepted,
        /// The disruption budget refuses every eviction.
        EvictionsRefused,
        /// Another member must lead first.
        LeaderMustMove,
        /// The voter that stays must lead and have the whole log first.
        SurvivorNotReady,
        /// The quota is used up by live data.
        QuotaExhausted,
        /// A member has raised NOSPACE or CORRUPT.
        AlarmRaised,
        /// The operation in flight takes longer than membership.operationTimeout.
        OperationOverdue,
        /// Volumes that should be adopted do not make a quorum.
        AdoptionIncomplete,
        /// The API server or a member has refused an act.
        Refused,
        /// No member could be asked.
        Unreachable,
        /// No member is being added or removed.
        Stable,
        /// Members run the version and the revision that the spec asks for.
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
        /// A member's database has reached the quota.
        NoSpace,
        /// A member's data differs from its peers'.
        Corrupt,
        /// The member has joined and serves.
        Serving,
        /// A member is being added or removed.
        Joining,
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
    use std::fs;
    use std::path::Path;

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
                Reason::OperationOverdue,
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

    /// The planner has no types of ours, so it says its reasons as text.
    #[test]
    fn the_planners_reasons_are_all_enumerated() {
        let planner = Path::new(env!("CARGO_MANIFEST_DIR")).join("../planner/src");
        let mut seen = 0;
        for (file, from, to) in [
            ("waiting.rs", "pub fn reason(&self)", "pub fn "),
            ("summary.rs", "let available = match", "#[cfg(test)]"),
        ] {
            let text = fs::read_to_string(planner.join(file)).expect("a file of the workspace");
            let at = text.find(from).expect("where reasons are named") + from.len();
            let rest = &text[at..];
            let part = &rest[..rest.find(to).unwrap_or(rest.len())];
            // Every other piece stands between quotation marks.
            for word in part.split('"').skip(1).step_by(2) {
                if word.starts_with(|c: char| c.is_ascii_uppercase()) {
                    let known = Reason::ALL.iter().any(|reason| reason.as_str() == word);
                    assert!(known, "{word} of {file} is no Reason");
                    seen += 1;
                }
            }
        }
        assert!(seen > 40, "only {seen} reasons were found");
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
