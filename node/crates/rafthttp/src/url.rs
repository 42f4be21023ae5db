//! Peer URLs, and which of a peer's URLs to use next.

use http::Uri;

use crate::error::Error;

/// A peer URL: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PeerUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    /// `host:port` as written; what goes into the Host header and keys the pool.
    authority: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scheme {
    Http,
}

impl PeerUrl {
    pub(crate) fn parse(text: &str) -> Result<PeerUrl, Error> {
        let bad = |reason| Error::BadUrl {
            url: text.to_owned(),
            reason,
        };
        let uri: Uri = text.trim().parse().map_err(|_| bad("not a URL"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => return Err(bad("TLS between peers is not supported yet")),
            Some(_) => return Err(bad("unknown scheme")),
            None => return Err(bad("the scheme is missing")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("it has a path"));
        }
        let authority = uri.authority().ok_or_else(|| bad("the host is missing"))?;
        let port = authority
            .port_u16()
            .ok_or_else(|| bad("the port is missing"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        Ok(PeerUrl {
            scheme,
            host,
            port,
            authority: authority.as_str().to_owned(),
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The URL with a path, for messages.
    pub(crate) fn with(&self, path: &str) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
        };
        format!("{scheme}://{}{path}", self.authority)
    }
}

/// Parses a member's URLs. What cannot be used is left out with a warning; an error means that
/// nothing is left.
pub(crate) fn parse_all(texts: &[String]) -> Result<Vec<PeerUrl>, Error> {
    let mut urls = Vec::with_capacity(texts.len());
    let mut first_error = Error::NoUrl { what: "a peer" };
    for text in texts.iter().rev() {
        match PeerUrl::parse(text) {
            Ok(url) => urls.push(url),
            Err(error) => {
                tracing::warn!(%error, "a peer URL is left out");
                first_error = error;
            }
        }
    }
    urls.reverse();
    if urls.is_empty() {
        return Err(first_error);
    }
    Ok(urls)
}

/// The URLs of one peer. One is in use until it fails, then the next.
#[derive(Debug)]
pub(crate) struct Picker {
    urls: Vec<PeerUrl>,
    picked: usize,
}

impl Picker {
    /// `urls` must not be empty; [`parse_all`] sees to it.
    pub(crate) fn new(urls: Vec<PeerUrl>) -> Picker {
        assert!(!urls.is_empty(), "a peer without URLs");
        Picker { urls, picked: 0 }
    }

    pub(crate) fn is_of(&self, urls: &[PeerUrl]) -> bool {
        self.urls == urls
    }

    pub(crate) fn pick(&self) -> PeerUrl {
        self.urls[self.picked].clone()
    }

    /// `url` failed: use the next, unless another failure moved on already.
    pub(crate) fn failed(&mut self, url: &PeerUrl) {
        if self.urls[self.picked] == *url {
            self.picked = (self.picked + 1) % self.urls.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_strictly() {
        let url = PeerUrl::parse("http://10.0.0.1:2380").unwrap();
        assert_eq!((url.host(), url.port()), ("10.0.0.1", 2380));
        assert_eq!(url.with("/raft"), "http://10.0.0.1:2380/raft");
        assert_eq!(PeerUrl::parse("http://[::1]:2380/").unwrap().host(), "::1");
        for (bad, words) in [
            ("10.0.0.1:2380", "scheme"),
            ("http://10.0.0.1", "port"),
            ("http://10.0.0.1:2380/x", "path"),
            ("https://10.0.0.1:2380", "TLS"),
            ("ftp://10.0.0.1:2380", "scheme"),
            ("", "URL"),
        ] {
            let text = PeerUrl::parse(bad).unwrap_err().to_string();
            assert!(text.contains(words) && text.contains(bad), "{text}");
        }
    }

    #[test]
    fn a_failed_url_gives_way_to_the_next_once() {
        let urls = ["http://a:1", "http://b:1"].map(str::to_owned);
        let mut picker = Picker::new(parse_all(&urls).unwrap());
        let first = picker.pick();
        picker.failed(&first);
        let second = picker.pick();
        assert_ne!(first, second);
        picker.failed(&first);
        assert_eq!(
            picker.pick(),
            second,
            "a late failure of the first does not skip the second"
        );
        picker.failed(&second);
        assert_eq!(picker.pick(), first);
    }

    #[test]
    fn an_unusable_url_among_good_ones_is_left_out() {
        let urls = ["http://a:1", "https://b:1", "http://c:1"].map(str::to_owned);
        assert_eq!(parse_all(&urls).unwrap().len(), 2);
        assert!(parse_all(&urls[1..2]).is_err());
        assert!(parse_all(&[]).is_err());
    }
}
