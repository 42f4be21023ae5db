//! raft-rs logs through slog; this passes it on to tracing.

use slog::{Drain, Level, Never, OwnedKVList, Record};

/// Passes on what an operator may want to read. raft-rs describes each message that it sends at
/// the levels below; formatting those would cost more than sending them.
struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        let text = record.msg();
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{text}"),
            Level::Warning => tracing::warn!(target: "raft", "{text}"),
            Level::Info => tracing::info!(target: "raft", "{text}"),
            Level::Debug | Level::Trace => {}
        }
        Ok(())
    }
}

/// The logger for raft-rs.
pub(crate) fn logger() -> slog::Logger {
    slog::Logger::root(ToTracing, slog::o!())
}
