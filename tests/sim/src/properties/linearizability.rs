//! Linearizability, as clients see it: an acknowledged write is in the committed log at the
//! revision that was told; a read shows the value of the revision that it tells; and revisions
//! never run against time: what begins after something was answered sees at least that.

use bytes::Bytes;

use super::model::Model;
use super::{Checked, Violation};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Set a key.
    Put {
        /// Which.
        key: Bytes,
        /// To what.
        value: Bytes,
    },
    /// Delete a key.
    Delete {
        /// Which.
        key: Bytes,
    },
    /// Read a key, linearizably.
    Get {
        /// Which.
        key: Bytes,
    },
    /// Forget old revisions; nothing is checked of the answer.
    Compact {
        /// Up to which.
        revision: i64,
    },
}

/// A request under way.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What is asked.
    pub ask: Ask,
    /// The highest revision that anybody was told before it began.
    floor: i64,
}

/// What a member answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The write of this request is done.
    Written {
        /// The request.
        request: u64,
        /// The revision in the answer's header.
        revision: i64,
    },
    /// The read's answer.
    Read {
        /// The revision in the answer's header.
        revision: i64,
        /// The value, if the key lives.
        value: Option<Bytes>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Linearizability {
    told: i64,
}

impl Linearizability {
    pub(super) fn asks(&mut self, ask: Ask) -> Operation {
        Operation {
            ask,
            floor: self.told,
        }
    }

    pub(super) fn answers(
        &mut self,
        operation: &Operation,
        answer: &Answer,
        model: &Model,
    ) -> Checked {
        let wrong = |what: String| Err(Violation::new("linearizability", what));
        let floor = operation.floor;
        let revision = match answer {
            Answer::Written { request, revision } => {
                let expected = model.revision_of(*request);
                if expected != Some(*revision) {
                    return wrong(format!(
                        "write {request:x} was acknowledged at revision {revision}, the committed log has it at {expected:?}"
                    ));
                }
                *revision
            }
            Answer::Read { revision, value } => {
                let Ask::Get { key } = &operation.ask else {
                    return wrong(format!("{:?} was answered as a read", operation.ask));
                };
                let expected = model.value(key, *revision);
                if expected != value.as_ref() {
                    return wrong(format!(
                        "{key:?} at revision {revision} was read as {value:?}, it is {expected:?}"
                    ));
                }
                *revision
            }
        };
        if revision < floor {
            return wrong(format!(
                "{:?} was answered at revision {revision}, after revision {floor} had been told before it began",
                operation.ask
            ));
        }
        self.told = self.told.max(revision);
        Ok(())
    }
}
