//! raft-rs logs through slog; this passes it on to tracing.

use std::fmt::{Arguments, Write as _};

use slog::{Drain, KV as _, Key, Level, Never, OwnedKVList, Record, Serializer};

/// Passes on what an operator may want to read. raft-rs describes each message that it sends at
/// the levels below; formatting those would cost more than sending them.
struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if !record.level().is_at_least(Level::Info) {
            return Ok(());
        }
        let mut text = Text(record.msg().to_string());
        // It writes into memory, which cannot fail.
        let _ = record.kv().serialize(record, &mut text);
        let _ = values.serialize(record, &mut text);
        let Text(text) = text;
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{text}"),
            Level::Warning => tracing::warn!(target: "raft", "{text}"),
            _ => tracing::info!(target: "raft", "{text}"),
        }
        Ok(())
    }
}

/// raft-rs's sentence, and its values behind it.
struct Text(String);

/// Values that are member IDs, which people know in hexadecimal.
const MEMBERS: &[&str] = &[
    "from",
    "id",
    "leader id",
    "leader_id",
    "raft_id",
    "to",
    "vote",
];

impl Serializer for Text {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, ", {key}: {value}")?)
    }

    fn emit_u64(&mut self, key: Key, value: u64) -> slog::Result {
        if MEMBERS.contains(&key) {
            return Ok(write!(self.0, ", {key}: {value:x}")?);
        }
        Ok(write!(self.0, ", {key}: {value}")?)
    }
}

/// The logger for raft-rs.
pub(crate) fn logger() -> slog::Logger {
    slog::Logger::root(ToTracing, slog::o!())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_behind_the_sentence() {
        let mut text = Text("became leader".to_owned());
        text.emit_u64("term", 12).unwrap();
        text.emit_u64("raft_id", 0x8211_f1d0).unwrap();
        assert_eq!(text.0, "became leader, term: 12, raft_id: 8211f1d0");
    }
}
