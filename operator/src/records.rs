//! What the operator writes into a cluster's status, to and from the planner's words.

use crd::{MemberIdText, OperationKind as Kind, QuorateClusterStatus, Time};
use k8s_openapi::jiff::Timestamp;
use planner::{ClusterId, Operation, OperationKind, Outcome, Recorded, Replace, Target, Version};

/// Replacements older than this do not count, and are forgotten.
const REPLACEMENTS_KEPT_MS: u64 = 3_600_000;

/// What stands in a status that this operator cannot go on from.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// written by a newer operator, or by hand
    #[error("status.operation of type {kind:?} is not one of this operator's: {why}")]
    Operation {
        /// its type
        kind: Kind,
        /// what is wrong with it
        why: &'static str,
    },
    /// not an ID
    #[error("status.clusterID: {0}")]
    ClusterId(crd::Error),
    /// not a version
    #[error("{place} is {text:?}, expected a version such as 0.1.0")]
    Version {
        /// where it stands
        place: &'static str,
        /// as it stands
        text: String,
    },
}

/// Milliseconds since 1970.
pub fn ms(time: &Time) -> u64 {
    u64::try_from(time.0.as_millisecond()).unwrap_or_default()
}

/// The time of so many milliseconds since 1970.
pub fn time(ms: u64) -> Time {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Time(Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX))
}

/// A number that only counts up.
fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// And back.
pub fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A version's text.
///
/// # Errors
/// It is none.
pub fn version(place: &'static str, text: &str) -> Result<Version, Error> {
    Version::parse(text).ok_or_else(|| Error::Version {
        place,
        text: text.to_owned(),
    })
}

/// What stands in the status.
///
/// # Errors
/// Something of it has no meaning here; then nothing may be done.
pub fn recorded(status: &QuorateClusterStatus) -> Result<Recorded, Error> {
    let cluster_id = match &status.cluster_id {
        None => None,
        Some(text) => Some(ClusterId(text.number().map_err(Error::ClusterId)?)),
    };
    let target = match &status.target {
        None => None,
        Some(target) => Some(Target {
            generation: target.generation,
            replicas: u32::try_from(target.replicas).unwrap_or_default(),
            version: version("status.target.version", &target.version)?,
            revision: target.revision.clone(),
        }),
    };
    Ok(Recorded {
        cluster_id,
        member_number_next: count(status.next_member),
        target,
        operation: status.operation.as_ref().map(operation).transpose()?,
        operation_id_next: count(status.next_operation),
        replacements_ms: status
            .replacements
            .iter()
            .filter_map(|one| one.at.as_ref())
            .map(ms)
            .collect(),
        recovery_done: status
            .recovery
            .as_ref()
            .and_then(|recovery| recovery.order.clone()),
    })
}

fn operation(stored: &crd::Operation) -> Result<Operation, Error> {
    let wrong = |why| Error::Operation {
        kind: stored.kind,
        why,
    };
    let member = || {
        stored
            .member
            .clone()
            .ok_or_else(|| wrong("it names no member"))
    };
    let kind = match stored.kind {
        Kind::Bootstrap => OperationKind::Bootstrap { member: member()? },
        Kind::Adopt => OperationKind::Adopt,
        Kind::AddMembers => OperationKind::AddMembers {
            members: stored.joining.clone(),
        },
        Kind::RemoveMember => OperationKind::RemoveMember { member: member()? },
        Kind::ReplaceMember => OperationKind::ReplaceMember {
            old: member()?,
            new: stored
                .joining
                .first()
                .cloned()
                .ok_or_else(|| wrong("it names no member that joins"))?,
            why: stored
                .reason
                .as_deref()
                .and_then(replace)
                .ok_or_else(|| wrong("its reason is unknown"))?,
        },
        Kind::RollMember => OperationKind::RollMember { member: member()? },
        Kind::Wake => OperationKind::Wake,
        Kind::RecoverQuorum => OperationKind::RecoverQuorum {
            survivor: member()?,
            order: stored.order.clone().unwrap_or_default(),
            recovered: stored.recovered,
        },
        Kind::Unknown => return Err(wrong("a newer operator wrote it")),
    };
    Ok(Operation {
        id: count(stored.id),
        kind,
        started_ms: stored.started_at.as_ref().map_or(0, ms),
        deadline_ms: stored.deadline.as_ref().map_or(u64::MAX, ms),
    })
}

/// An operation as it stands in status.
pub fn stored_operation(operation: &Operation) -> crd::Operation {
    let mut stored_operation = crd::Operation {
        id: stored(operation.id),
        started_at: Some(time(operation.started_ms)),
        deadline: Some(time(operation.deadline_ms)),
        ..crd::Operation::default()
    };
    let to = &mut stored_operation;
    match &operation.kind {
        OperationKind::Bootstrap { member } => {
            to.kind = Kind::Bootstrap;
            to.member = Some(member.clone());
        }
        OperationKind::Adopt => to.kind = Kind::Adopt,
        OperationKind::AddMembers { members } => {
            to.kind = Kind::AddMembers;
            to.joining.clone_from(members);
        }
        OperationKind::RemoveMember { member } => {
            to.kind = Kind::RemoveMember;
            to.member = Some(member.clone());
        }
        OperationKind::ReplaceMember { old, new, why } => {
            to.kind = Kind::ReplaceMember;
            to.member = Some(old.clone());
            to.joining = vec![new.clone()];
            to.reason = Some(replace_word(*why).to_owned());
        }
        OperationKind::RollMember { member } => {
            to.kind = Kind::RollMember;
            to.member = Some(member.clone());
        }
        OperationKind::Wake => to.kind = Kind::Wake,
        OperationKind::RecoverQuorum {
            survivor,
            order,
            recovered,
        } => {
            to.kind = Kind::RecoverQuorum;
            to.member = Some(survivor.clone());
            to.order = Some(order.clone());
            to.recovered = *recovered;
        }
    }
    stored_operation
}

const REPLACE_WORDS: [(Replace, &str); 6] = [
    (Replace::VolumeLost, "VolumeLost"),
    (Replace::NodeGone, "NodeGone"),
    (Replace::NodeSilent, "NodeSilent"),
    (Replace::CrashLoop, "CrashLoop"),
    (Replace::Corrupt, "Corrupt"),
    (Replace::Asked, "Asked"),
];

fn replace(word: &str) -> Option<Replace> {
    REPLACE_WORDS
        .iter()
        .find(|(_, known)| *known == word)
        .map(|(why, _)| *why)
}

fn replace_word(why: Replace) -> &'static str {
    REPLACE_WORDS
        .iter()
        .find(|(known, _)| *known == why)
        .map_or("Unknown", |(_, word)| word)
}

/// Writes an action that is nothing but a record into a status; `false`: the action is another one.
pub fn write(
    status: &mut QuorateClusterStatus,
    action: &planner::Action,
    template: impl FnOnce(&str) -> Option<crd::MemberTemplate>,
    now_ms: u64,
) -> bool {
    use planner::Action;
    match action {
        Action::LatchTarget(target) => {
            let Some(template) = template(&target.revision) else {
                return false;
            };
            status.target = Some(crd::Target {
                generation: target.generation,
                replicas: i32::try_from(target.replicas).unwrap_or(i32::MAX),
                version: target.version.to_string(),
                revision: target.revision.clone(),
                template,
            });
        }
        Action::LatchClusterId(id) => status.cluster_id = Some(MemberIdText::from(id.0)),
        Action::RecordOperation {
            operation,
            member_number_next,
            counts_as_replacement,
        } => {
            status.operation = Some(stored_operation(operation));
            status.next_operation = status.next_operation.max(stored(operation.id) + 1);
            status.next_member = status.next_member.max(stored(*member_number_next));
            status.replacements.retain(|one| {
                one.at
                    .as_ref()
                    .is_some_and(|at| ms(at) + REPLACEMENTS_KEPT_MS > now_ms)
            });
            let leaving = operation.kind.leaving();
            if let (true, Some(member)) = (*counts_as_replacement, leaving) {
                status.replacements.push(crd::Replacement {
                    member: member.to_owned(),
                    at: Some(time(operation.started_ms)),
                });
            }
        }
        Action::FinishOperation {
            recovery_done,
            outcome,
            ..
        } => {
            if let Some(order) = recovery_done {
                let survivor = status.operation.as_ref().and_then(|one| one.member.clone());
                let recovery = status.recovery.get_or_insert_default();
                recovery.order = Some(order.clone());
                if *outcome == Outcome::Done {
                    recovery.count += 1;
                    recovery.last_at = Some(time(now_ms));
                    recovery.survivor = survivor;
                }
            }
            status.operation = None;
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_read_as_it_was_written() {
        let name = |number: u32| format!("a-{number}");
        let replace = |why| OperationKind::ReplaceMember {
            old: name(1),
            new: name(3),
            why,
        };
        let kinds = [
            OperationKind::Bootstrap { member: name(0) },
            OperationKind::Adopt,
            OperationKind::AddMembers {
                members: vec![name(1), name(2)],
            },
            OperationKind::RemoveMember { member: name(2) },
            replace(Replace::VolumeLost),
            replace(Replace::NodeGone),
            replace(Replace::NodeSilent),
            replace(Replace::CrashLoop),
            replace(Replace::Corrupt),
            replace(Replace::Asked),
            OperationKind::RollMember { member: name(0) },
            OperationKind::Wake,
            OperationKind::RecoverQuorum {
                survivor: name(0),
                order: "1/a-0".to_owned(),
                recovered: true,
            },
        ];
        for kind in kinds {
            let written = Operation {
                id: 7,
                kind,
                started_ms: 1_800_000_000_000,
                deadline_ms: 1_800_000_600_000,
            };
            assert_eq!(operation(&stored_operation(&written)), Ok(written));
        }
    }

    #[test]
    fn a_recovery_that_was_not_done_spends_its_order_and_does_not_count() {
        let mut status = QuorateClusterStatus::default();
        let mut finish = |outcome| {
            let finish = planner::Action::FinishOperation {
                id: 1,
                outcome,
                recovery_done: Some("1/a-0".to_owned()),
            };
            assert!(write(&mut status, &finish, |_| None, 1000));
            let recovery = status.recovery.clone().expect("it is remembered");
            (recovery.count, recovery.order)
        };
        let spent = Some("1/a-0".to_owned());
        assert_eq!(finish(Outcome::NotWanted), (0, spent.clone()));
        assert_eq!(finish(Outcome::CameBack), (0, spent.clone()));
        assert_eq!(finish(Outcome::Done), (1, spent));
    }

    #[test]
    fn an_operation_of_a_newer_operator_stops_this_one() {
        let status = QuorateClusterStatus {
            operation: Some(crd::Operation::default()),
            ..QuorateClusterStatus::default()
        };
        let error = recorded(&status).expect_err("it is unknown");
        assert!(error.to_string().contains("a newer operator"), "{error}");
    }
}
