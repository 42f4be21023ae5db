//! What was observed: plain data, from wherever it came.

use std::collections::BTreeMap;

use util::survey::Error as SurveyError;

/// Everything that a report is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// In the order asked: those given, then those that members named.
    pub(crate) endpoints: Vec<Asked>,
    pub(crate) disks: Vec<Disk>,
}

/// One endpoint, and what came of asking it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) endpoint: String,
    pub(crate) answer: Result<Answer, String>,
}

/// What one member says of itself and of the others. Identifiers are zero where there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
    pub(crate) leader: u64,
    pub(crate) term: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    pub(crate) revision: i64,
    pub(crate) is_learner: bool,
    /// The etcd version that it announces.
    pub(crate) version: String,
    pub(crate) program: Program,
    pub(crate) database_bytes: i64,
    pub(crate) database_used_bytes: i64,
    /// Zero or less: not told, or none.
    pub(crate) quota_bytes: i64,
    pub(crate) alarms: Vec<Alarm>,
    /// Its own list, not asked of the others.
    pub(crate) members: Vec<Listed>,
    /// Whom it is connected to, where it says so.
    pub(crate) connected: Option<BTreeMap<u64, bool>>,
}

/// Whose program answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Program {
    Quorate,
    Etcd,
    #[default]
    Unknown,
}

/// A raised alarm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alarm {
    pub(crate) member: u64,
    /// `NOSPACE`, `CORRUPT`
    pub(crate) kind: String,
}

/// A member of somebody's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    /// Empty until it has started.
    pub(crate) name: String,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) client_urls: Vec<String>,
    pub(crate) is_learner: bool,
}

/// A data directory.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) path: String,
    pub(crate) found: Found,
}

/// What a data directory holds.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Stopped(Box<Stopped>),
    /// A process runs on it.
    Held {
        member: u64,
        cluster: u64,
    },
    /// It cannot be read, and why.
    Failed(String),
}

/// The disk of a member that does not run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stopped {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
    pub(crate) term: u64,
    pub(crate) last_index: u64,
    pub(crate) last_term: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    pub(crate) revision: i64,
    pub(crate) database_bytes: u64,
    pub(crate) cluster_version: String,
    pub(crate) alarms: Vec<Alarm>,
    pub(crate) members: Vec<Listed>,
    pub(crate) removed: Vec<u64>,
}

impl Disk {
    /// What a survey found.
    pub(crate) fn of(path: &str, survey: Result<util::Survey, SurveyError>) -> Disk {
        let found = match survey {
            Ok(survey) => Found::Stopped(Box::new(Stopped::of(&survey))),
            Err(SurveyError::Held {
                member, cluster, ..
            }) => Found::Held {
                member: member.0,
                cluster,
            },
            Err(error) => Found::Failed(error.to_string()),
        };
        Disk {
            path: path.to_owned(),
            found,
        }
    }
}

impl Stopped {
    fn of(survey: &util::Survey) -> Stopped {
        Stopped {
            cluster: survey.cluster,
            member: survey.member.0,
            term: survey.log.hard_state.term,
            last_index: survey.last_index(),
            last_term: survey.last_term(),
            committed: survey.committed(),
            applied: survey.applied.index,
            revision: survey.revision,
            database_bytes: survey.database_bytes,
            cluster_version: survey.cluster_version.clone().unwrap_or_default(),
            alarms: survey
                .alarms
                .iter()
                .map(|(member, kind)| Alarm {
                    member: member.0,
                    kind: kind.clone(),
                })
                .collect(),
            members: survey
                .members
                .iter()
                .map(|member| Listed {
                    id: member.id.0,
                    name: member.name.clone(),
                    peer_urls: member.peer_urls.clone(),
                    client_urls: member.client_urls.clone(),
                    is_learner: member.is_learner,
                })
                .collect(),
            removed: survey.removed.iter().map(|id| id.0).collect(),
        }
    }
}
