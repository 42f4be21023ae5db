//! Peer and client URLs, checked and written as etcd (Go's `net/url`) does, because a
//! member's ID is a hash over their text.

use std::collections::BTreeMap;

use crate::Error;

/// Checks URLs and returns them in their canonical text, sorted.
///
/// `http` and `https` need `host:port` and no path; `unix` and `unixs` take any path.
///
/// # Errors
/// [`Error::BadUrl`] with the URL and what is wrong with it; also for an empty list.
pub fn parse_urls<S: AsRef<str>>(urls: &[S]) -> Result<Vec<String>, Error> {
    if urls.is_empty() {
        return Err(Error::BadUrl {
            url: String::new(),
            reason: "no valid URLs given",
        });
    }
    let mut parsed = urls
        .iter()
        .map(|url| parse_url(url.as_ref()))
        .collect::<Result<Vec<String>, Error>>()?;
    parsed.sort();
    Ok(parsed)
}

/// Reads `name=url,name=url,…`, the form of `--initial-cluster`. A name may appear more than
/// once, once for each of its URLs. The URLs of a name come out sorted.
///
/// # Errors
/// [`Error::BadUrl`] as of [`parse_urls`].
pub fn parse_initial_cluster(text: &str) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let mut by_name: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        by_name.entry(name.to_owned()).or_default().push(url);
    }
    by_name
        .into_iter()
        .map(|(name, urls)| Ok((name, parse_urls(&urls)?)))
        .collect()
}

/// The inverse of [`parse_initial_cluster`]: pairs sorted as text, as etcd prints them.
#[must_use]
pub fn format_initial_cluster(by_name: &BTreeMap<String, Vec<String>>) -> String {
    let mut pairs: Vec<String> = by_name
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// Whether one URL is used by two members of an `--initial-cluster`. etcd refuses that.
#[must_use]
pub fn has_duplicate_url(by_name: &BTreeMap<String, Vec<String>>) -> bool {
    let mut urls: Vec<&String> = by_name.values().flatten().collect();
    let count = urls.len();
    urls.sort();
    urls.dedup();
    urls.len() != count
}

fn parse_url(text: &str) -> Result<String, Error> {
    let text = text.trim();
    let bad = |reason| Error::BadUrl {
        url: text.to_owned(),
        reason,
    };
    if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Err(bad("a URL must not contain control characters"));
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(bad("URL scheme must be http, https, unix, or unixs"));
    };
    let scheme = scheme.to_ascii_lowercase();
    // An empty fragment is dropped, as Go does when it writes the URL again.
    let rest = rest.strip_suffix('#').unwrap_or(rest);
    match scheme.as_str() {
        "http" | "https" => {
            let Some(after) = rest.strip_prefix("//") else {
                return Err(bad("URL address does not have the form \"host:port\""));
            };
            let end = after.find(['/', '?', '#']).unwrap_or(after.len());
            let (authority, tail) = after.split_at(end);
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            check_host_port(host).map_err(bad)?;
            if tail.starts_with('/') {
                return Err(bad("URL must not contain a path"));
            }
        }
        "unix" | "unixs" => {}
        _ => return Err(bad("URL scheme must be http, https, unix, or unixs")),
    }
    Ok(format!("{scheme}:{rest}"))
}

/// `host:port`, `[v6]:port`; the host and the port may be empty, the colon may not be missing.
fn check_host_port(host: &str) -> Result<(), &'static str> {
    const FORM: &str = "URL address does not have the form \"host:port\"";
    let (name, port) = if let Some(inner) = host.strip_prefix('[') {
        let (name, after) = inner.split_once(']').ok_or("missing ']' in host")?;
        (name, after.strip_prefix(':').ok_or(FORM)?)
    } else {
        let (name, port) = host.rsplit_once(':').ok_or(FORM)?;
        if name.contains(':') {
            return Err(FORM);
        }
        (name, port)
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("invalid port");
    }
    if name.bytes().any(|byte| {
        matches!(
            byte,
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
    }) {
        return Err("invalid character in host name");
    }
    let escapes = name
        .match_indices('%')
        .map(|(at, _)| &name.as_bytes()[at..]);
    if !host.starts_with('[') && !escapes.into_iter().all(is_host_escape) {
        return Err("invalid URL escape in host name");
    }
    Ok(())
}

/// Go takes an escape in a host only for a byte beyond ASCII, and for the percent sign itself.
fn is_host_escape(text: &[u8]) -> bool {
    match text {
        [_, b'2', b'5', ..] => true,
        [_, first, second, ..] => {
            first.is_ascii_hexdigit() && second.is_ascii_hexdigit() && !matches!(first, b'0'..=b'7')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_canonicalizes() {
        for (text, expected) in [
            ("http://127.0.0.1:2380", "http://127.0.0.1:2380"),
            (" HTTPS://Host:1 ", "https://Host:1"),
            ("http://[::1]:2380", "http://[::1]:2380"),
            ("http://:2380", "http://:2380"),
            ("http://a:", "http://a:"),
            ("http://user@a:1?x=1", "http://user@a:1?x=1"),
            ("http://a:1#", "http://a:1"),
            ("unix://localhost:m0", "unix://localhost:m0"),
            ("unixs:///tmp/x.sock", "unixs:///tmp/x.sock"),
        ] {
            assert_eq!(parse_url(text).expect(text), expected);
        }
    }

    #[test]
    fn refuses_what_etcd_refuses() {
        for text in [
            "",
            "127.0.0.1:2380",
            "http://127.0.0.1",
            "http://a:1/",
            "http://a:1/x",
            "ftp://a:1",
            "http://a:b",
            "http://::1:2380",
            "http://[::1",
            "http:a:1",
            "http://a b:1",
            "http://a\n:1",
        ] {
            assert!(parse_url(text).is_err(), "{text:?}");
        }
        assert!(parse_urls::<&str>(&[]).is_err());
    }

    #[test]
    fn reads_an_initial_cluster() {
        let parsed =
            parse_initial_cluster("b=http://h2:2,a=http://h1:9,,a=http://h1:1").expect("valid");
        assert_eq!(parsed["a"], ["http://h1:1", "http://h1:9"]);
        assert_eq!(parsed["b"], ["http://h2:2"]);
        assert_eq!(
            format_initial_cluster(&parsed),
            "a=http://h1:1,a=http://h1:9,b=http://h2:2"
        );
        assert!(!has_duplicate_url(&parsed));
        assert!(parse_initial_cluster("a").is_err());
        assert!(parse_initial_cluster("").expect("no member").is_empty());
        let twice = parse_initial_cluster("a=http://h:1,b=http://h:1").expect("valid");
        assert!(has_duplicate_url(&twice));
    }
}
