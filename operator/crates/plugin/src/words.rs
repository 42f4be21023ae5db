//! Words and columns that several commands have in common.

use crd::{Health, QuorumNumbers, Role, Time};
use k8s_openapi::jiff::Timestamp;

/// A role in a cell.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::None => "no member",
        Role::Unknown => "unknown",
    }
}

/// Health in a cell.
pub fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
        Health::Unknown => "unknown",
    }
}

/// `3 voters, 2 healthy, 2 needed: none may be lost`, as `quorate explain` says it.
pub fn quorum(numbers: &QuorumNumbers) -> String {
    let may = match numbers.tolerance {
        ..0 => "the quorum is lost".to_owned(),
        0 => "none may be lost".to_owned(),
        1 => "1 may still be lost".to_owned(),
        many => format!("{many} may still be lost"),
    };
    let learners = match numbers.learners {
        0 => String::new(),
        1 => " and 1 learner".to_owned(),
        many => format!(" and {many} learners"),
    };
    format!(
        "{} {}{learners}, {} healthy, {} needed: {may}",
        numbers.voters,
        if numbers.voters == 1 {
            "voter"
        } else {
            "voters"
        },
        numbers.healthy_voters,
        numbers.needed
    )
}

/// Since when, as an age: `12s`, `9m30s`, `5h10m`, `3d4h`.
pub fn age(since: &Time, now: Timestamp) -> String {
    span(now.as_second().saturating_sub(since.0.as_second()).max(0))
}

/// Seconds in words.
pub fn span(seconds: i64) -> String {
    let pair = |of: i64, unit: &str, rest: i64, small: &str| match rest {
        0 => format!("{of}{unit}"),
        _ => format!("{of}{unit}{rest}{small}"),
    };
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds / 60 % 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

/// Columns as wide as they must be, three spaces apart as kubectl has them, the first line the titles.
pub fn columns<const N: usize>(rows: &[[String; N]], indent: &str) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            line.push_str(&format!("{cell:<width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What is not known.
pub fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}
