//! Alarms: what the whole cluster knows to be wrong with one of its members.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use api::etcdserverpb::{AlarmMember, AlarmType};
use backend::{Bucket, View, Writer};
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message;

use crate::Fatal;

/// The alarms that are raised, shared with those who report them.
#[derive(Debug, Default)]
pub struct Alarms {
    /// Type, then member. A type may be one that a later etcd has and we do not.
    raised: RwLock<BTreeSet<(i32, u64)>>,
}

impl Alarms {
    /// The alarms that the database holds: each is the key of an empty record.
    ///
    /// # Errors
    /// A damaged record, or a failure to read.
    pub fn load(view: &View) -> Result<Alarms, Fatal> {
        Ok(Alarms {
            raised: RwLock::new(load(view)?),
        })
    }

    /// Takes over the alarms of another database.
    ///
    /// # Errors
    /// As of [`load`](Alarms::load); nothing has changed then.
    pub fn reload(&self, view: &View) -> Result<(), Fatal> {
        *self.raised.write() = load(view)?;
        Ok(())
    }

    /// The alarms of a type, or all for [`AlarmType::None`]; by type, then member.
    #[must_use]
    pub fn get(&self, alarm: i32) -> Vec<AlarmMember> {
        self.raised
            .read()
            .iter()
            .filter(|(raised, _)| alarm == AlarmType::None as i32 || alarm == *raised)
            .map(|(raised, member)| AlarmMember {
                member_id: *member,
                alarm: *raised,
            })
            .collect()
    }

    /// Whether any member raised this alarm.
    #[must_use]
    pub fn is_raised(&self, alarm: AlarmType) -> bool {
        let alarm = alarm as i32;
        self.raised
            .read()
            .range((alarm, 0)..=(alarm, u64::MAX))
            .next()
            .is_some()
    }

    /// Raises an alarm; nothing is written if it is raised already.
    pub(crate) fn activate(&self, alarm: AlarmMember, writer: &mut Writer) -> AlarmMember {
        if self.raised.write().insert((alarm.alarm, alarm.member_id)) {
            writer.put(Bucket::Alarm, &alarm.encode_to_vec(), Bytes::new());
        }
        alarm
    }

    /// Lowers an alarm, if it is raised. The member is taken literally: zero is no wildcard.
    pub(crate) fn deactivate(
        &self,
        alarm: AlarmMember,
        writer: &mut Writer,
    ) -> Option<AlarmMember> {
        let was_raised = self.raised.write().remove(&(alarm.alarm, alarm.member_id));
        was_raised.then(|| {
            writer.delete(Bucket::Alarm, &alarm.encode_to_vec());
            alarm
        })
    }
}

fn load(view: &View) -> Result<BTreeSet<(i32, u64)>, Fatal> {
    let mut raised = BTreeSet::new();
    let mut result = Ok(());
    view.scan(
        Bucket::Alarm,
        &[],
        None,
        &mut |key, _| match AlarmMember::decode(key) {
            Ok(alarm) => {
                raised.insert((alarm.alarm, alarm.member_id));
                ControlFlow::Continue(())
            }
            Err(error) => {
                result = Err(Fatal::Alarm {
                    key: key.to_vec(),
                    reason: error.to_string(),
                });
                ControlFlow::Break(())
            }
        },
    )?;
    result.map(|()| raised)
}
