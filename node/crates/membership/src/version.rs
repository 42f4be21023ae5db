//! Versions as etcd compares them (semantic versioning 2, by `go-semver`).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A version with three numbers, e.g. a server's (`3.7.3`) or a cluster's (`3.7.0`).
///
/// Order is that of semantic versioning: a pre-release comes before its release, and build
/// metadata does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version {
    /// First number.
    pub major: i64,
    /// Second number. Cluster and storage versions end here.
    pub minor: i64,
    /// Third number.
    pub patch: i64,
    /// What follows `-`, without it; empty in a release.
    pub pre_release: String,
    /// What follows `+`, without it.
    pub metadata: String,
}

impl Version {
    /// `major.minor.0`.
    #[must_use]
    pub const fn new(major: i64, minor: i64) -> Version {
        Version {
            major,
            minor,
            patch: 0,
            pre_release: String::new(),
            metadata: String::new(),
        }
    }

    /// The same version without patch, pre-release and metadata: the form of cluster and
    /// storage versions.
    #[must_use]
    pub const fn to_minor(&self) -> Version {
        Version::new(self.major, self.minor)
    }

    /// Whether a server of this version may run in a cluster of version `cluster`.
    #[must_use]
    pub fn can_serve(&self, cluster: &Version) -> bool {
        self.to_minor() >= *cluster
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if !self.pre_release.is_empty() {
            write!(f, "-{}", self.pre_release)?;
        }
        if !self.metadata.is_empty() {
            write!(f, "+{}", self.metadata)?;
        }
        Ok(())
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Version, Error> {
        let bad = || Error::BadVersion {
            text: text.to_owned(),
        };
        let (rest, metadata) = text.split_once('+').unwrap_or((text, ""));
        let (rest, pre_release) = rest.split_once('-').unwrap_or((rest, ""));
        let mut numbers = [0i64; 3];
        let mut parts = rest.splitn(3, '.');
        for number in &mut numbers {
            *number = parts
                .next()
                .and_then(|part| part.parse().ok())
                .ok_or_else(bad)?;
        }
        if !is_identifier(pre_release) || !is_identifier(metadata) {
            return Err(bad());
        }
        Ok(Version {
            major: numbers[0],
            minor: numbers[1],
            patch: numbers[2],
            pre_release: pre_release.to_owned(),
            metadata: metadata.to_owned(),
        })
    }
}

/// Empty, or words of letters, digits and `-` with dots between them.
fn is_identifier(text: &str) -> bool {
    text.is_empty()
        || text.split('.').all(|word| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        (self.major, self.minor, self.patch)
            .cmp(&(other.major, other.minor, other.patch))
            .then_with(|| compare_pre_release(&self.pre_release, &other.pre_release))
            // Precedence ends above; this only keeps `Ord` and `Eq` of one mind.
            .then_with(|| self.metadata.cmp(&other.metadata))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn compare_pre_release(left: &str, right: &str) -> Ordering {
    match (left.is_empty(), right.is_empty()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let mut left = left.split('.');
    let mut right = right.split('.');
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(l), Some(r)) => match (l.parse::<i64>(), r.parse::<i64>()) {
                (Ok(l), Ok(r)) => l.cmp(&r),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => l.cmp(r),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().expect("a version")
    }

    #[test]
    fn reads_and_prints_what_it_read() {
        for text in [
            "3.7.3",
            "3.0.0",
            "3.8.0-alpha.0",
            "3.5.0-rc.1+git.12",
            "3.6.0+x",
        ] {
            assert_eq!(version(text).to_string(), text);
        }
        for text in [
            "",
            "3",
            "3.7",
            "3.7.",
            "a.b.c",
            "3.7.0.1",
            "3.7.0-",
            "3.7.0-a..b",
            "3.7.0-ä",
        ] {
            // A trailing `-` leaves an empty pre-release, which go-semver accepts too.
            if text == "3.7.0-" {
                assert_eq!(version(text).to_string(), "3.7.0");
            } else {
                assert!(text.parse::<Version>().is_err(), "{text}");
            }
        }
    }

    #[test]
    fn orders_as_semantic_versioning_does() {
        let ascending = [
            "3.5.35",
            "3.6.0-alpha",
            "3.6.0-alpha.1",
            "3.6.0-alpha.beta",
            "3.6.0-rc.2",
            "3.6.0-rc.11",
            "3.6.0",
            "3.6.16",
            "3.10.0",
        ];
        for pair in ascending.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert!(version("3.7.3").can_serve(&version("3.7.0")));
        assert!(version("3.7.0-rc.0").can_serve(&version("3.7.0")));
        assert!(!version("3.6.16").can_serve(&version("3.7.0")));
    }
}
