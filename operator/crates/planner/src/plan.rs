//! The plan: a list of stages in the order of their urgency. Each stage acts, waits, or has
//! nothing to do, and then the next one is asked.

mod begin;
mod choose;
mod operate;
mod recover;
mod tidy;

use crate::facts::{Facts, broken, pod, volume};
use crate::{
    Action, AlarmKind, Broken, MemberObject, Observed, Operation, OperationKind, Outcome, Part,
    PodPhase, Policy, Role, Summary, Volume, VolumePhase, WaitingOn, Why,
};

/// What to do next, what is waited for, and what to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The one act. `None`: nothing to do, or nothing that may be done; `waiting` says which.
    pub action: Option<Action>,
    /// Everything that was not done, and why. Empty when all is as it should be, but for notes
    /// ([`WaitingOn::is_note`]).
    pub waiting: Vec<WaitingOn>,
    /// For status.
    pub summary: Summary,
}

/// What to do next for a cluster, by what is seen of it and nothing else.
pub fn plan(observed: &Observed, policy: &Policy) -> Plan {
    let mut planner = Planner {
        facts: Facts::of(observed, policy),
        waiting: Vec::new(),
    };
    let action = planner.decide();
    let Planner { facts, waiting } = planner;
    let summary = Summary::of(&facts, action.as_ref(), &waiting);
    Plan {
        action,
        waiting,
        summary,
    }
}

/// What a stage says.
enum Next {
    /// Do this.
    Act(Action),
    /// Do nothing in this pass; the reasons are noted.
    Wait,
    /// Nothing to do here. Ask the next stage.
    Idle,
}

struct Planner<'a> {
    facts: Facts<'a>,
    waiting: Vec<WaitingOn>,
}

impl Planner<'_> {
    fn decide(&mut self) -> Option<Action> {
        let stages = [
            Planner::paused,
            Planner::deleted,
            // It has no quorum yet, or none any more.
            Planner::begin,
            Planner::same_cluster,
            Planner::recover,
            Planner::sleep,
            Planner::start_again,
            Planner::mend,
            Planner::without_quorum,
            // It has one.
            Planner::strangers,
            Planner::orphans,
            Planner::leftovers,
            Planner::labels,
            Planner::alarms,
            Planner::latch,
            Planner::budget,
            Planner::operate,
            Planner::replace,
            Planner::scale,
            Planner::roll,
        ];
        for stage in stages {
            match stage(self) {
                Next::Act(action) => return Some(action),
                Next::Wait => return None,
                Next::Idle => {}
            }
        }
        None
    }

    fn paused(&mut self) -> Next {
        if self.facts.observed.wanted.paused {
            return self.wait(WaitingOn::Paused);
        }
        Next::Idle
    }

    // ---- small words

    fn note(&mut self, reason: WaitingOn) {
        if !self.waiting.contains(&reason) {
            self.waiting.push(reason);
        }
    }

    fn wait(&mut self, reason: WaitingOn) -> Next {
        self.note(reason);
        Next::Wait
    }

    fn unreadable(&mut self, member: &str, what: Part) -> Next {
        self.wait(WaitingOn::Unreadable {
            member: member.to_owned(),
            what,
        })
    }

    /// The record of a new operation.
    fn begin_operation(&self, kind: OperationKind, numbers: u64, replacement: bool) -> Next {
        let observed = self.facts.observed;
        Next::Act(Action::RecordOperation {
            operation: Operation {
                id: observed.recorded.operation_id_next,
                kind,
                started_ms: observed.now_ms,
                deadline_ms: observed.now_ms + self.facts.policy.operation_timeout_ms,
            },
            member_number_next: self.facts.next_number() + numbers,
            counts_as_replacement: replacement,
        })
    }

    fn finish(&self, outcome: Outcome) -> Next {
        let Some(operation) = self.facts.operation() else {
            return Next::Idle;
        };
        let recovery_done = match &operation.kind {
            OperationKind::RecoverQuorum { order, .. } => Some(order.clone()),
            _ => None,
        };
        Next::Act(Action::FinishOperation {
            id: operation.id,
            outcome,
            recovery_done,
        })
    }

    fn revision(&self) -> String {
        match self.facts.target() {
            Some(target) => target.revision.clone(),
            None => self.facts.observed.wanted.revision.clone(),
        }
    }

    fn ensure_object(&self, name: &str, number: u64, seed: bool) -> Next {
        Next::Act(Action::EnsureMemberObject {
            name: name.to_owned(),
            number,
            seed,
            revision: self.revision(),
        })
    }

    /// Gives an object the target's revision.
    fn renew_object(&self, object: &MemberObject) -> Next {
        if object.revision == self.revision() {
            return Next::Idle;
        }
        self.ensure_object(&object.name, object.number, object.seed)
    }

    /// Deletes a Pod, unless that was done.
    fn delete_pod(&self, object: &MemberObject, why: Why) -> Next {
        match pod(object) {
            Some(pod) if pod.phase != PodPhase::Terminating => Next::Act(Action::DeletePod {
                name: object.name.clone(),
                uid: pod.uid.clone(),
                why,
            }),
            _ => Next::Idle,
        }
    }

    /// Notes what a member waits for until it counts as healthy.
    fn wait_for(&mut self, object: &MemberObject) -> Next {
        let member = object.name.clone();
        let Some(pod) = pod(object) else {
            let lost = match &object.volume {
                Volume::Unknown => return self.unreadable(&member, Part::Volume),
                Volume::Absent => Some(Broken::NoVolume),
                Volume::Present(volume) => match volume.phase {
                    VolumePhase::Bound | VolumePhase::Pending => None,
                    VolumePhase::Stranded => Some(Broken::Stranded),
                    VolumePhase::Lost | VolumePhase::Terminating => Some(Broken::NoVolume),
                },
            };
            return match (&object.pod, lost) {
                (crate::Pod::Unknown, _) => self.unreadable(&member, Part::Pod),
                (_, Some(how)) => self.wait(WaitingOn::MemberCannotStart { member, how }),
                (_, None) => self.wait(WaitingOn::MemberStarting {
                    member,
                    pending: None,
                }),
            };
        };
        if let Some(mut how) = broken(pod) {
            let volume = volume(object);
            if volume.is_some_and(|volume| volume.phase == VolumePhase::Stranded) {
                how = Broken::Stranded;
            }
            if volume.is_some_and(|volume| volume.nodes_unread) {
                self.unreadable(&member, Part::Nodes);
            }
            return self.wait(WaitingOn::MemberCannotStart { member, how });
        }
        if pod.phase == PodPhase::Terminating {
            let node_silent = pod.node_silent;
            return self.wait(WaitingOn::PodTerminating {
                member,
                node_silent,
            });
        }
        if pod.node_silent && !self.facts.healthy(object) {
            return self.wait(WaitingOn::NodeSilent { member });
        }
        if let PodPhase::Pending(pending) = pod.phase {
            let pending = Some(pending);
            return self.wait(WaitingOn::MemberStarting { member, pending });
        }
        let good_since = crate::facts::answer(object).and_then(|answer| answer.good_since_ms);
        let Some(good_since) = good_since else {
            let pending = None;
            return self.wait(WaitingOn::MemberStarting { member, pending });
        };
        if self.facts.corrupt(object) {
            return self.wait(WaitingOn::AlarmRaised {
                member: Some(member),
                kind: AlarmKind::Corrupt,
            });
        }
        let allowed = self.facts.policy.lag_max;
        if let Some(behind) = self.facts.lag(object).filter(|behind| *behind > allowed) {
            return self.wait(WaitingOn::LearnerCatchingUp {
                member,
                behind,
                allowed,
            });
        }
        let reason = WaitingOn::MemberSettling {
            member,
            for_ms: self.facts.since(good_since),
            needed_ms: self.facts.policy.min_healthy_ms,
        };
        self.wait(reason)
    }

    /// What there is of a member that goes: its Pod, its volume, its object.
    fn take_away(&mut self, object: &MemberObject) -> Next {
        match self.delete_pod(object, Why::Removed) {
            Next::Idle => {}
            act => return act,
        }
        if object.volume == Volume::Unknown {
            return self.unreadable(&object.name, Part::Volume);
        }
        let name = object.name.clone();
        if let Some(volume) = volume(object) {
            let uid = volume.uid.clone();
            let keeps = self.facts.observed.wanted.retention == crate::Retention::Retain;
            if keeps && !volume.released {
                return Next::Act(Action::ReleaseVolume { name, uid });
            }
            if !keeps && volume.phase != VolumePhase::Terminating {
                return Next::Act(Action::DeleteVolume { name, uid });
            }
        }
        let uid = object.uid.clone();
        Next::Act(Action::DeleteMemberObject { name, uid })
    }

    /// The live membership has this member as a learner or voter, and it has started once.
    fn has_started(&self, object: &MemberObject) -> bool {
        self.facts
            .live_of(object)
            .is_some_and(|member| !member.name.is_empty())
    }

    fn is_voter(&self, object: &MemberObject) -> bool {
        self.facts.role(object) == Some(Role::Voter)
    }
}
