//! The log: JSON lines with etcd's keys (`level`, `ts`, `caller`, `msg`), or text for people.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Log;

/// Starts logging as told.
pub fn start(log: &Log) -> Result<()> {
    let level = match log.level.as_str() {
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        _ => LevelFilter::ERROR,
    };
    let mut outputs = Vec::new();
    for name in &log.outputs {
        outputs.push(match name.as_str() {
            "default" | "stderr" => Output::Stderr,
            "stdout" => Output::Stdout,
            path => Output::File(
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(0o600)
                    .open(path)
                    .with_context(|| format!("--log-outputs={path} cannot be opened"))?
                    .into(),
            ),
        });
    }
    tracing_subscriber::registry()
        .with(
            Lines {
                json: log.json,
                outputs,
            }
            .with_filter(level),
        )
        .try_init()
        .context("logging was started twice")
}

enum Output {
    Stderr,
    Stdout,
    File(std::sync::Arc<std::fs::File>),
}

struct Lines {
    json: bool,
    outputs: Vec<Output>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let caller = format!(
            "{}:{}",
            metadata.module_path().unwrap_or("quorate"),
            metadata.line().unwrap_or(0)
        );
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => "debug",
        };
        let now = SystemTime::now();
        let line = if self.json {
            let mut object = serde_json::Map::new();
            object.insert("level".into(), level.into());
            object.insert("ts".into(), timestamp(now).into());
            object.insert("caller".into(), caller.into());
            object.insert("msg".into(), fields.message.into());
            object.extend(fields.others);
            serde_json::Value::Object(object).to_string()
        } else {
            let others = serde_json::Value::Object(fields.others).to_string();
            format!(
                "{}\t{level}\t{caller}\t{}\t{others}",
                timestamp(now),
                fields.message
            )
        };
        for output in &self.outputs {
            // A log that cannot be written must not stop a member.
            let _ = match output {
                Output::Stderr => writeln!(std::io::stderr(), "{line}"),
                Output::Stdout => writeln!(std::io::stdout(), "{line}"),
                Output::File(file) => writeln!(file.make_writer(), "{line}"),
            };
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: serde_json::Map<String, serde_json::Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.others.insert(name(field), format!("{value:?}").into());
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.others.insert(name(field), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.insert(name(field), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.insert(name(field), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.insert(name(field), value.into());
    }
}

/// etcd's keys have dashes where Rust's have underscores.
fn name(field: &Field) -> String {
    field.name().replace('_', "-")
}

/// `2026-11-23T19:51:50.123456Z`
fn timestamp(now: SystemTime) -> String {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days as i64);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_micros()
    )
}

/// Days since 1970 to a date of the Gregorian calendar (Howard Hinnant, `civil_from_days`).
fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamps_are_iso_8601() {
        let at = |s| timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(s));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400_123), "2000-02-29T00:00:00.123000Z");
        assert_eq!(at(1_795_463_510_000), "2026-11-23T19:51:50.000000Z");
    }
}
