//! `quorate-operator check URL`: is an operator ready? For `helm test`, in an image that holds no other program.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// For how long the answer may be another one: an operator that was just installed fills its caches first.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// What one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of the answer that are read; its first line is enough.
const ANSWER_BYTES: u64 = 4096;

/// Asks until the answer is 200.
///
/// # Errors
/// The URL is none, or the last answer when the time is over.
pub fn check(url: &str) -> Result<(), String> {
    let Some((host, path)) = split(url) else {
        return Err(format!(
            "{url:?} cannot be asked, expected http://HOST:PORT/PATH"
        ));
    };
    let end = Instant::now() + READY_WITHIN;
    loop {
        let Err(complaint) = ask(host, &path) else {
            return Ok(());
        };
        if Instant::now() >= end {
            return Err(format!("{url} is not ready: {complaint}"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// `HOST:PORT` and `/PATH` of a plain URL.
fn split(url: &str) -> Option<(&str, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port: Result<u16, _> = host.rsplit_once(':')?.1.parse();
    port.is_ok().then(|| (host, format!("/{path}")))
}

fn ask(host: &str, path: &str) -> Result<(), String> {
    let answer = get(host, path).map_err(|error| error.to_string())?;
    let first = answer.lines().next().unwrap_or_default();
    match first.split_whitespace().nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("it answers {first:?}")),
    }
}

fn get(host: &str, path: &str) -> std::io::Result<String> {
    let unknown = || std::io::Error::other("the name has no address");
    let address = host.to_socket_addrs()?.next().ok_or_else(unknown)?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers one question.
    fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            // The whole request: a socket that is closed on unread bytes resets the connection.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                request.extend(byte);
            }
            let _ = stream.write_all(answer.as_bytes());
        });
        address
    }

    #[test]
    fn only_200_is_ready() {
        assert_eq!(ask(&server("HTTP/1.1 200 OK\r\n\r\nok"), "/readyz"), Ok(()));
        let busy = ask(
            &server("HTTP/1.1 503 Service Unavailable\r\n\r\n"),
            "/readyz",
        );
        assert_eq!(
            busy,
            Err("it answers \"HTTP/1.1 503 Service Unavailable\"".to_owned())
        );
        assert!(ask(&server(""), "/").is_err());
    }

    #[test]
    fn a_url_has_a_host_and_a_port() {
        assert_eq!(
            split("http://a.b:80/x/y"),
            Some(("a.b:80", "/x/y".to_owned()))
        );
        assert_eq!(split("http://a:80"), Some(("a:80", "/".to_owned())));
        for wrong in ["a:80", "https://a:80/", "http://a/x", "http://a:port/"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}
