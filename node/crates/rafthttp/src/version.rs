//! Versions in headers, and whether two members may talk.

use std::fmt;

use http::HeaderMap;

/// A version as etcd prints it: `3.7.3`. What follows a `-` (`3.8.0-alpha.0`) is read over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number. Compatibility is decided on major and minor.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// `major.minor.patch`
    pub const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version {
            major,
            minor,
            patch,
        }
    }

    /// Reads three numbers with dots between them; a pre-release or build tag may follow.
    pub fn parse(text: &str) -> Option<Version> {
        let numbers = text.split(['-', '+']).next()?;
        let mut parts = numbers.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse::<u32>().ok()).flatten()
        });
        let version = Version::new(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }

    fn line(self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The headers that say who is asking.
pub mod header {
    /// The asking member's id, hexadecimal.
    pub const SERVER_FROM: &str = "x-server-from";
    /// The version of who asks or answers.
    pub const SERVER_VERSION: &str = "x-server-version";
    /// The oldest version that the asker talks to.
    pub const MIN_CLUSTER_VERSION: &str = "x-min-cluster-version";
    /// The cluster of who asks or answers, hexadecimal.
    pub const CLUSTER_ID: &str = "x-etcd-cluster-id";
    /// The asker's peer URLs, with commas between them.
    pub const PEER_URLS: &str = "x-peerurls";
    /// A number of the asking process, from members of ours: see `twins`.
    pub const PROCESS: &str = "x-quorate-process";
    /// For whom a stream is meant, hexadecimal.
    pub const RAFT_TO: &str = "x-raft-to";
}

/// etcd's text for a version that we do not talk to.
pub const INCOMPATIBLE_VERSION: &str = "incompatible version";
/// etcd's text for a request that belongs to another cluster.
pub const CLUSTER_ID_MISMATCH: &str = "cluster ID mismatch";

/// Decides as etcd does: the remote server must not be older than our oldest, and the oldest
/// that it accepts must not be newer than we are; major and minor count. A missing header
/// means 2.0.0. One that cannot be read is incompatible (etcd drops the connection).
pub fn compatible(headers: &HeaderMap, server: Version, min_cluster: Version) -> bool {
    let remote = header_version(headers, header::SERVER_VERSION);
    let remote_min = header_version(headers, header::MIN_CLUSTER_VERSION);
    match (remote, remote_min) {
        (Some(remote), Some(remote_min)) => {
            remote.line() >= min_cluster.line() && remote_min.line() <= server.line()
        }
        _ => false,
    }
}

fn header_version(headers: &HeaderMap, name: &str) -> Option<Version> {
    match headers.get(name) {
        None => Some(Version::new(2, 0, 0)),
        Some(value) if value.is_empty() => Some(Version::new(2, 0, 0)),
        Some(value) => Version::parse(value.to_str().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(server: Option<&'static str>, min: Option<&'static str>) -> HeaderMap {
        let mut map = HeaderMap::new();
        if let Some(server) = server {
            map.insert(header::SERVER_VERSION, server.parse().unwrap());
        }
        if let Some(min) = min {
            map.insert(header::MIN_CLUSTER_VERSION, min.parse().unwrap());
        }
        map
    }

    #[test]
    fn versions_are_read_strictly() {
        assert_eq!(Version::parse("3.7.3"), Some(Version::new(3, 7, 3)));
        assert_eq!(Version::parse("3.8.0-alpha.0"), Some(Version::new(3, 8, 0)));
        for bad in [
            "",
            "3",
            "3.7",
            "3.7.x",
            "3.7.3.4",
            "+3.7.3",
            "3..3",
            "99999999999.0.0",
        ] {
            assert_eq!(Version::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn compatibility_follows_etcd() {
        let ours = Version::new(3, 7, 3);
        let min = Version::new(3, 0, 0);
        let cases = [
            (Some("3.7.3"), Some("3.0.0"), true),
            (Some("3.5.0"), Some("3.0.0"), true),
            (Some("3.9.0"), Some("3.7.9"), true),
            (Some("3.9.0"), Some("3.8.0"), false),
            (Some("2.3.0"), Some("2.1.0"), false),
            (None, None, false),
            (Some("3.7.3"), None, true),
            (Some("what"), Some("3.0.0"), false),
        ];
        for (server, remote_min, expected) in cases {
            let map = headers(server, remote_min);
            assert_eq!(
                compatible(&map, ours, min),
                expected,
                "{server:?} {remote_min:?}"
            );
        }
    }
}
