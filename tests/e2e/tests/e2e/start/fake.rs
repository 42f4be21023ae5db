//! A peer port that says what a test wants.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

pub struct Fake {
    pub url: String,
}

impl Fake {
    /// Answers `/members`, `/version` and `/raft/probing` until the test's program ends. `FAKE` in
    /// the members stands for its own URL.
    pub fn start(members: &str, version: &str, now: &str) -> Fake {
        let listener =
            TcpListener::bind(("127.0.0.1", testkit::ports::free())).expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let answers = [
            ("/members ", members.replace("FAKE", &url)),
            ("/version ", version.to_owned()),
            ("/raft/probing ", format!(r#"{{"OK":true,"Now":"{now}"}}"#)),
            ("/downgrade/enabled ", "false".to_owned()),
        ];
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &answers);
            }
        });
        Fake { url }
    }
}

fn answer(stream: TcpStream, answers: &[(&str, String)]) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let found = answers.iter().find(|(path, _)| first.contains(path));
    let body = found.map_or("", |(_, body)| body);
    let status = if found.is_some() {
        "200 OK"
    } else {
        "404 Not Found"
    };
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nX-Etcd-Cluster-ID: abc\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
