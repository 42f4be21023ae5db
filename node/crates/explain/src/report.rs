//! From what was observed to what it means: a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorum::{Arithmetic, Doubt, Life, MemberId, Policy, Role, Step, Verdict, View};

use crate::findings::{self, Finding};
use crate::seen::{Alarm, Answer, Asked, Disk, Listed, Observed, Program};

/// A member this few entries behind the furthest is in step: the answers are not of the same moment.
pub(crate) const IN_STEP_ENTRIES: u64 = 100;

/// All that a person or a program is told.
#[derive(Debug)]
pub(crate) struct Report {
    /// By ID.
    pub(crate) clusters: Vec<Cluster>,
    /// Disks, each as it is.
    pub(crate) disks: Vec<Disk>,
    /// Endpoints that did not answer and that no list of members names.
    pub(crate) strangers: Vec<(String, String)>,
    /// Worst first.
    pub(crate) findings: Vec<Finding>,
}

/// The members that speak of one cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: u64,
    /// Who leads in the highest term that anybody told.
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    /// The leader was heard, or a majority of the voters follow it.
    pub(crate) decides: bool,
    /// The leader's program, where the leader answered.
    pub(crate) leader_program: Program,
    /// Everybody of the list that counts, by ID.
    pub(crate) members: Vec<Member>,
    /// Each different list, with those who have it; the one that counts is first.
    pub(crate) lists: Vec<(Vec<u64>, Vec<Listed>)>,
    pub(crate) now: Arithmetic,
    /// Healthy voters that may crash one after the other while the rest still decides.
    pub(crate) may_be_lost: usize,
    pub(crate) alarms: BTreeSet<Alarm>,
    /// What the strict check says to each step that is possible.
    pub(crate) verdicts: Vec<Verdict>,
}

/// One member, as listed and as it answered.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) listed: Listed,
    pub(crate) life: Life,
    /// From the first of its endpoints that answered.
    pub(crate) answer: Option<Answer>,
    /// Where it answered.
    pub(crate) endpoint: Option<String>,
    /// Its endpoints that did not answer, and why.
    pub(crate) failures: Vec<(String, String)>,
    /// Entries behind the furthest that anybody knows to be committed.
    pub(crate) behind: Option<u64>,
}

pub(crate) fn report(observed: &Observed) -> Report {
    let mut by_cluster: BTreeMap<u64, Vec<&Asked>> = BTreeMap::new();
    for asked in &observed.endpoints {
        if let Ok(answer) = &asked.answer {
            by_cluster.entry(answer.cluster).or_default().push(asked);
        }
    }
    let failures: Vec<(&str, &str)> = observed
        .endpoints
        .iter()
        .filter_map(|asked| {
            Some((
                asked.endpoint.as_str(),
                asked.answer.as_ref().err()?.as_str(),
            ))
        })
        .collect();
    let clusters: Vec<Cluster> = by_cluster
        .into_iter()
        .map(|(id, asked)| cluster(id, &asked, &failures))
        .collect();
    let named: BTreeSet<&str> = clusters
        .iter()
        .flat_map(|cluster| &cluster.members)
        .flat_map(|member| &member.failures)
        .map(|(endpoint, _)| endpoint.as_str())
        .collect();
    let strangers = failures
        .iter()
        .filter(|(endpoint, _)| !named.contains(endpoint))
        .map(|(endpoint, error)| ((*endpoint).to_owned(), (*error).to_owned()))
        .collect();
    let mut report = Report {
        clusters,
        disks: observed.disks.clone(),
        strangers,
        findings: Vec::new(),
    };
    report.findings = findings::of(&report);
    report
}

fn cluster(id: u64, asked: &[&Asked], failures: &[(&str, &str)]) -> Cluster {
    let answers: Vec<(&str, &Answer)> = asked
        .iter()
        .filter_map(|asked| Some((asked.endpoint.as_str(), asked.answer.as_ref().ok()?)))
        .collect();
    let term = answers.iter().map(|(_, answer)| answer.term).max();
    let term = term.unwrap_or_default();
    let leader = answers
        .iter()
        .filter(|(_, answer)| answer.term == term)
        .map(|(_, answer)| answer.leader)
        .find(|leader| *leader != 0);
    let leaders_answer = answers
        .iter()
        .map(|(_, answer)| *answer)
        .find(|answer| answer.term == term && Some(answer.member) == leader);

    let lists = lists(&answers, leaders_answer);
    let listed = lists.first().map_or(&[][..], |(_, list)| list);
    let furthest = answers.iter().map(|(_, answer)| answer.committed).max();
    let mut members: Vec<Member> = listed
        .iter()
        .map(|listed| {
            let answer = answers
                .iter()
                .find(|(_, answer)| answer.member == listed.id);
            let own = |endpoint: &str| {
                listed
                    .client_urls
                    .iter()
                    .any(|url| url.trim_start_matches("http://").trim_end_matches('/') == endpoint)
            };
            Member {
                listed: listed.clone(),
                life: Life::InDoubt(Doubt::Unknown),
                answer: answer.map(|(_, answer)| (*answer).clone()),
                endpoint: answer.map(|(endpoint, _)| (*endpoint).to_owned()),
                failures: failures
                    .iter()
                    .filter(|(endpoint, _)| own(endpoint))
                    .map(|(endpoint, error)| ((*endpoint).to_owned(), (*error).to_owned()))
                    .collect(),
                behind: answer
                    .map(|(_, answer)| furthest.unwrap_or(0).saturating_sub(answer.applied)),
            }
        })
        .collect();
    members.sort_by_key(|member| member.listed.id);

    let voters = members.iter().filter(|member| !member.listed.is_learner);
    let following = voters
        .clone()
        .filter(|member| {
            let follows =
                |answer: &Answer| answer.term == term && answer.leader == leader.unwrap_or(0);
            member.answer.as_ref().is_some_and(follows)
        })
        .count();
    let need = quorum::need(voters.count());
    let decides = leader.is_some() && (leaders_answer.is_some() || following >= need);
    for member in &mut members {
        member.life = life(member, leader.filter(|_| decides), leaders_answer);
    }

    let view = view(&members, leader.filter(|_| decides), furthest.unwrap_or(0));
    let verdicts = verdicts(&view);
    let now = verdicts
        .first()
        .map_or_else(|| arithmetic(&view), |verdict| verdict.before.clone());
    Cluster {
        id,
        leader,
        term,
        decides,
        leader_program: leaders_answer.map_or(Program::Unknown, |answer| answer.program),
        may_be_lost: now.healthy.len().saturating_sub(now.need()),
        alarms: answers
            .iter()
            .flat_map(|(_, answer)| answer.alarms.iter().cloned())
            .collect(),
        members,
        lists,
        now,
        verdicts,
    }
}

/// Every different list: first the leader's, or where it did not answer that of the furthest.
fn lists(answers: &[(&str, &Answer)], leaders: Option<&Answer>) -> Vec<(Vec<u64>, Vec<Listed>)> {
    let mut lists: Vec<(Vec<u64>, Vec<Listed>)> = Vec::new();
    let mut order: Vec<&Answer> = answers.iter().map(|(_, answer)| *answer).collect();
    let leads = |answer: &Answer| leaders.is_some_and(|leader| leader.member == answer.member);
    order.sort_by_key(|answer| {
        (
            !leads(answer),
            std::cmp::Reverse(answer.applied),
            answer.member,
        )
    });
    for answer in order {
        let mut list = answer.members.clone();
        list.sort_by_key(|member| member.id);
        match lists.iter_mut().find(|(_, known)| *known == list) {
            Some((who, _)) if who.contains(&answer.member) => {}
            Some((who, _)) => who.push(answer.member),
            None => lists.push((vec![answer.member], list)),
        }
    }
    lists
}

/// Healthy is who answers us, follows the leader, and is connected to it by the leader's own word. The rest
/// is in doubt. The leader judges by its own connections, which may tell it less or more.
fn life(member: &Member, leader: Option<u64>, leaders_answer: Option<&Answer>) -> Life {
    let id = member.listed.id;
    let Some(answer) = &member.answer else {
        return Life::InDoubt(if member.listed.name.is_empty() {
            Doubt::NotStarted
        } else {
            Doubt::Unknown
        });
    };
    if leader == Some(id) {
        return Life::Healthy;
    }
    let connected = leaders_answer.and_then(|leader| leader.connected.as_ref());
    match (leader, connected) {
        // Nobody leads: who answers is alive, and more is not known.
        (None, _) => Life::Healthy,
        (Some(_), Some(connected)) if !connected.get(&id).copied().unwrap_or(false) => {
            Life::InDoubt(Doubt::NotConnected)
        }
        (Some(leader), _) if answer.leader != leader => Life::InDoubt(Doubt::NeverHeard),
        _ => Life::Healthy,
    }
}

fn view(members: &[Member], leader: Option<u64>, committed: u64) -> View {
    let members = members.iter().map(|member| {
        let matched = member.behind.map(|behind| {
            if behind <= IN_STEP_ENTRIES {
                committed
            } else {
                committed - behind.min(committed)
            }
        });
        quorum::Member {
            id: MemberId(member.listed.id),
            role: if member.listed.is_learner {
                Role::Learner
            } else {
                Role::Voter
            },
            started: !member.listed.name.is_empty(),
            connected_for: (member.life == Life::Healthy).then_some(Duration::MAX),
            life: member.life,
            matched,
        }
    });
    View {
        itself: None,
        leader: leader.map(MemberId),
        members: members.collect(),
        committed,
        unapplied_change: false,
    }
}

fn arithmetic(view: &View) -> Arithmetic {
    Arithmetic {
        voters: view.voters().count(),
        healthy: view
            .voters()
            .filter(|voter| voter.is_healthy_voter())
            .map(|voter| voter.id)
            .collect(),
    }
}

fn verdicts(view: &View) -> Vec<Verdict> {
    let mut steps = vec![Step::AddVoter, Step::AddLearner];
    let learners = view.members.iter().filter(|m| m.role == Role::Learner);
    steps.extend(learners.map(|learner| Step::Promote(learner.id)));
    steps.extend(view.members.iter().map(|member| Step::Remove(member.id)));
    steps.extend(view.members.iter().map(|member| Step::Restart(member.id)));
    if let Some(leader) = view.leader {
        let others = view.voters().filter(|voter| voter.id != leader);
        steps.extend(others.map(|voter| Step::MoveLeader(voter.id)));
    }
    steps
        .into_iter()
        .map(|step| quorum::judge(view, step, Policy::default()))
        .collect()
}

impl Cluster {
    /// A member's name, or its ID where it has none.
    pub(crate) fn name(&self, id: u64) -> String {
        let member = self.members.iter().find(|member| member.listed.id == id);
        match member {
            Some(member) if !member.listed.name.is_empty() => {
                format!("{} ({id:x})", member.listed.name)
            }
            _ => format!("{id:x}"),
        }
    }

    /// Members that answered.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (&Member, &Answer)> {
        self.members
            .iter()
            .filter_map(|member| Some((member, member.answer.as_ref()?)))
    }
}
