//! Flags of the operator. Each is also `QUORATE_<FLAG>` in the environment, with `_` for `-`.

use std::net::SocketAddr;
use std::time::Duration;

/// How the operator runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// The one namespace that it looks after; `None`: all.
    pub namespace: Option<String>,
    /// How other members and the operator reach a member.
    pub member_host_template: String,
    /// Repository of the image of clusters that name none.
    pub image_repository: String,
    /// Where metrics and health are served.
    pub metrics_bind_address: SocketAddr,
    /// Whether replicas of the operator agree on who acts.
    pub leader_elect: bool,
    /// Namespace of the lease; `None`: the operator's own.
    pub leader_elect_namespace: Option<String>,
    /// Name of the lease.
    pub leader_elect_name: String,
    /// For how long a lease holds after it was renewed.
    pub leader_elect_lease_duration: Duration,
    /// For how long the leader acts after it has renewed the lease. Less than the lease's duration by more
    /// than any act takes.
    pub leader_elect_renew_deadline: Duration,
    /// Between two tries to get or to renew it.
    pub leader_elect_retry_period: Duration,
    /// Clusters that are looked at at the same time.
    pub concurrency: u16,
    /// JSON lines or text.
    pub log_json: bool,
}

/// A flag that cannot be taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// not one of ours
    #[error("unknown flag {0:?}; --help lists them")]
    Unknown(String),
    /// no value
    #[error("--{0} needs a value: --{0}={1}")]
    NoValue(&'static str, &'static str),
    /// a value that is not of its kind
    #[error("--{flag}={value:?} is not {expected}")]
    Value {
        /// which
        flag: &'static str,
        /// as it came
        value: String,
        /// what it should have been
        expected: &'static str,
    },
    /// the three times do not fit together
    #[error(
        "--leader-elect-retry-period must be shorter than --leader-elect-renew-deadline, and that shorter than \
         --leader-elect-lease-duration by at least {MARGIN:?}; they are {retry:?}, {renew:?} and {lease:?}"
    )]
    LeaseTimes {
        /// between two tries
        retry: Duration,
        /// until it stops to act
        renew: Duration,
        /// until another may act
        lease: Duration,
    },
}

/// Between the moment at which a leader stops to act and the one at which another may begin: longer than [`ACT`].
pub const MARGIN: Duration = Duration::from_secs(10);

/// No act of a reconcile, and no look before one, is waited for longer. Only compaction and defragmentation of a
/// full database are, which two operators may do at once.
pub const ACT: Duration = Duration::from_millis(9500);

/// Flag, what it takes, its default, what it is for.
const HELP: &[(&str, &str, &str, &str)] = &[
    (
        "namespace",
        "NAME",
        "",
        "Look after the clusters of this namespace only (all).",
    ),
    (
        "member-host-template",
        "TEMPLATE",
        "{member}.{service}.{namespace}.svc",
        "Host of a member; {member}, {service}, {namespace}, and {loopback}, an address in 127.0.0.0/8 for members that are processes of this machine.",
    ),
    (
        "image-repository",
        "NAME",
        "ghcr.io/quorate/quorate",
        "Image of clusters that name none, without a tag.",
    ),
    (
        "metrics-bind-address",
        "ADDRESS",
        "0.0.0.0:8080",
        "Where /metrics, /healthz and /readyz are served.",
    ),
    (
        "leader-elect",
        "BOOL",
        "true",
        "Only one of several operators acts: the one that holds the lease.",
    ),
    (
        "leader-elect-namespace",
        "NAME",
        "",
        "Namespace of the lease (the operator's own).",
    ),
    (
        "leader-elect-name",
        "NAME",
        "quorate-operator",
        "Name of the lease.",
    ),
    (
        "leader-elect-lease-duration",
        "SECONDS",
        "30",
        "For how long a lease holds after it was renewed.",
    ),
    (
        "leader-elect-renew-deadline",
        "SECONDS",
        "20",
        "For how long the leader acts after it has renewed the lease.",
    ),
    (
        "leader-elect-retry-period",
        "SECONDS",
        "5",
        "Between two tries to get or to renew the lease.",
    ),
    (
        "concurrency",
        "NUMBER",
        "8",
        "Clusters that are looked at at the same time.",
    ),
    (
        "log-format",
        "json|text",
        "json",
        "How log lines look; QUORATE_LOG sets their level.",
    ),
];

/// What `--help` says.
pub fn help() -> String {
    let mut text = "quorate-operator looks after QuorateCluster objects.\n\nFlags, each also QUORATE_<FLAG> in the environment:\n".to_owned();
    for (flag, takes, default, about) in HELP {
        let default = if default.is_empty() {
            String::new()
        } else {
            format!(" [{default}]")
        };
        text.push_str(&format!("  --{flag}={takes}{default}\n        {about}\n"));
    }
    text
}

impl Flags {
    /// Reads flags and environment; a flag goes before the environment.
    ///
    /// # Errors
    /// A flag that is unknown, has no value, or a wrong one.
    pub fn read(
        words: &[String],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let Some((flag, takes, ..)) = HELP
                .iter()
                .find(|(flag, ..)| name.strip_prefix("--") == Some(flag))
            else {
                return Err(Error::Unknown(word.clone()));
            };
            let value = match value {
                Some(value) => value,
                None if *takes == "BOOL" => "true".to_owned(),
                None => words.next().cloned().ok_or(Error::NoValue(flag, takes))?,
            };
            given.push((flag, value));
        }
        let text = |flag: &str| -> String {
            let found = given.iter().rev().find(|(name, _)| *name == flag);
            let variable = format!("QUORATE_{}", flag.to_uppercase().replace('-', "_"));
            found
                .map(|(_, value)| value.clone())
                .or_else(|| environment(&variable))
                .unwrap_or_else(|| {
                    HELP.iter()
                        .find(|(name, ..)| *name == flag)
                        .map(|(_, _, default, _)| (*default).to_owned())
                        .unwrap_or_default()
                })
        };
        let some = |flag: &str| Some(text(flag)).filter(|value| !value.is_empty());
        let wrong = |flag, expected| Error::Value {
            flag,
            value: text(flag),
            expected,
        };
        let seconds = |flag| {
            text(flag)
                .trim_end_matches('s')
                .parse()
                .map(Duration::from_secs)
                .map_err(|_| wrong(flag, "a number of seconds"))
        };
        let flags = Self {
            namespace: some("namespace"),
            member_host_template: text("member-host-template"),
            image_repository: text("image-repository"),
            metrics_bind_address: text("metrics-bind-address")
                .parse()
                .map_err(|_| wrong("metrics-bind-address", "an address such as 0.0.0.0:8080"))?,
            leader_elect: text("leader-elect")
                .parse()
                .map_err(|_| wrong("leader-elect", "true or false"))?,
            leader_elect_namespace: some("leader-elect-namespace"),
            leader_elect_name: text("leader-elect-name"),
            leader_elect_lease_duration: seconds("leader-elect-lease-duration")?,
            leader_elect_renew_deadline: seconds("leader-elect-renew-deadline")?,
            leader_elect_retry_period: seconds("leader-elect-retry-period")?,
            concurrency: text("concurrency")
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| wrong("concurrency", "a number above 0"))?,
            log_json: match text("log-format").as_str() {
                "json" => true,
                "text" => false,
                _ => return Err(wrong("log-format", "json or text")),
            },
        };
        let (retry, renew, lease) = (
            flags.leader_elect_retry_period,
            flags.leader_elect_renew_deadline,
            flags.leader_elect_lease_duration,
        );
        if retry >= renew || renew + MARGIN > lease {
            return Err(Error::LeaseTimes {
                retry,
                renew,
                lease,
            });
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Flags, Error> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Flags::read(&words, &|name| {
            (name == "QUORATE_NAMESPACE").then(|| "from-environment".to_owned())
        })
    }

    #[test]
    fn a_flag_goes_before_the_environment_and_that_before_the_default() {
        let flags = read(&[]).expect("defaults are sound");
        assert_eq!(flags.namespace.as_deref(), Some("from-environment"));
        assert!(flags.leader_elect);
        let flags = read(&[
            "--namespace=a",
            "--leader-elect=false",
            "--concurrency",
            "3",
        ])
        .expect("all are ours");
        assert_eq!(flags.namespace.as_deref(), Some("a"));
        assert!(!flags.leader_elect);
        assert_eq!(flags.concurrency, 3);
    }

    #[test]
    fn what_cannot_be_taken_is_named() {
        let said = |words: &[&str]| read(words).expect_err("wrong").to_string();
        assert_eq!(
            said(&["--colour=red"]),
            "unknown flag \"--colour=red\"; --help lists them"
        );
        assert_eq!(
            said(&["--concurrency=0"]),
            "--concurrency=\"0\" is not a number above 0"
        );
        assert!(said(&["--leader-elect-renew-deadline=29"]).contains("at least 10s"));
        assert!(said(&["--namespace"]).contains("needs a value"));
    }

    #[test]
    fn help_names_every_flag_with_its_default() {
        let help = help();
        assert!(help.contains("--leader-elect-lease-duration=SECONDS [30]"));
    }
}
