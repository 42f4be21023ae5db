//! What the members say of themselves, and the line that sums it up.

use std::fmt;
use std::time::Duration;

use api::etcdserverpb::{StatusRequest, StatusResponse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::grpc::{Connection, Error};

/// A member that is slower than this is shown as one that does not answer.
const ANSWER: Duration = Duration::from_millis(700);

/// A counter for every request that a member finished; etcd's name.
const HANDLED: &str = "grpc_server_handled_total{";
/// Our own question, which is no request of a client.
const OURS: &str = "grpc_method=\"Status\"";

/// Asks one member, again and again, over one connection.
#[derive(Debug)]
pub(crate) struct Probe {
    endpoint: String,
    connection: Option<Connection>,
}

/// What one member said.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: StatusResponse,
    /// Requests that it finished since it started, where it counts them.
    handled: Option<u64>,
}

impl Probe {
    pub(crate) fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            connection: None,
        }
    }

    /// `None`: no answer in time.
    pub(crate) async fn ask(&mut self) -> Option<Answer> {
        let answer = tokio::time::timeout(ANSWER, async {
            let status = self.status().await?;
            let handled = handled(&self.endpoint).await.ok().flatten();
            Ok::<_, Error>(Answer { status, handled })
        });
        match answer.await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) | Err(_) => {
                self.connection = None;
                None
            }
        }
    }

    async fn status(&mut self) -> Result<StatusResponse, Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(&self.endpoint).await?),
        };
        connection
            .ask(
                "/etcdserverpb.Maintenance/Status",
                &StatusRequest::default(),
            )
            .await
    }
}

/// Reads `/metrics` for the requests that were finished.
async fn handled(endpoint: &str) -> std::io::Result<Option<u64>> {
    let mut socket = TcpStream::connect(endpoint).await?;
    // Version 1.0, to which an answer comes in one piece.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {endpoint}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    Ok(count(&String::from_utf8_lossy(&answer)))
}

fn count(metrics: &str) -> Option<u64> {
    let mut sum = None;
    for line in metrics.lines().filter(|line| line.starts_with(HANDLED)) {
        let value: f64 = line.rsplit(' ').next()?.parse().ok()?;
        let sum = sum.get_or_insert(0);
        if !line.contains(OURS) {
            // A counter is a whole number, which metrics write as a float.
            *sum += value as u64;
        }
    }
    sum
}

/// Leader, term, revision, lag, size and speed of a cluster at one moment.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    leader: Option<String>,
    term: u64,
    revision: i64,
    applied: u64,
    lag: u64,
    db_bytes: i64,
    down: Vec<String>,
    handled: Option<u64>,
    speed: Option<Speed>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Speed {
    /// Requests of clients, of every kind.
    Requests(u64),
    /// Members that do not count requests: entries of the log.
    Entries(u64),
}

impl Summary {
    /// Sums up the answers of named members; `before` is the last summary and how long ago it was made.
    pub(crate) fn of(
        answers: &[(String, Option<Answer>)],
        before: Option<(&Self, Duration)>,
    ) -> Self {
        let mut summary = Self::default();
        let heard = || {
            answers
                .iter()
                .filter_map(|(name, answer)| Some((name, answer.as_ref()?)))
        };
        let mut applied_least = u64::MAX;
        let mut index_most = 0;
        for (name, Answer { status, handled }) in heard() {
            let header = status.header.unwrap_or_default();
            if status.raft_term >= summary.term {
                summary.term = status.raft_term;
                if status.leader != 0 && status.leader == header.member_id {
                    summary.leader = Some(name.clone());
                }
            }
            summary.revision = summary.revision.max(header.revision);
            summary.db_bytes = summary.db_bytes.max(status.db_size);
            summary.applied = summary.applied.max(status.raft_applied_index);
            index_most = index_most.max(status.raft_index);
            applied_least = applied_least.min(status.raft_applied_index);
            if let Some(handled) = handled {
                *summary.handled.get_or_insert(0) += handled;
            }
        }
        summary.lag = index_most.saturating_sub(applied_least);
        summary.down = answers
            .iter()
            .filter(|(_, answer)| answer.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        summary.speed = before.and_then(|(before, ago)| summary.speed_since(before, ago));
        summary
    }

    /// The name of the member that says it leads, in the highest term that any member told.
    pub(crate) fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    fn speed_since(&self, before: &Self, ago: Duration) -> Option<Speed> {
        let per_second = |now: u64, then: u64| {
            // A member that came back counts from zero: no figure rather than a wrong one.
            let done = now.checked_sub(then)?;
            Some((done as f64 / ago.as_secs_f64().max(0.001)).round() as u64)
        };
        match (self.handled, before.handled) {
            (Some(now), Some(then)) => per_second(now, then).map(Speed::Requests),
            _ if before.applied == 0 => None,
            _ => per_second(self.applied, before.applied).map(Speed::Entries),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "leader {}  term {}  revision {}  lag {}  db {:.1} MB",
            self.leader().unwrap_or("none"),
            self.term,
            self.revision,
            self.lag,
            self.db_bytes as f64 / 1e6,
        )?;
        match self.speed {
            Some(Speed::Requests(speed)) => write!(f, "  {speed} requests/s")?,
            Some(Speed::Entries(speed)) => write!(f, "  {speed} entries/s")?,
            None => {}
        }
        if !self.down.is_empty() {
            write!(f, "  not answering: {}", self.down.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::etcdserverpb::ResponseHeader;

    fn answer(member: u64, leader: u64, term: u64, index: u64, applied: u64) -> Answer {
        Answer {
            status: StatusResponse {
                header: Some(ResponseHeader {
                    member_id: member,
                    revision: 7,
                    ..Default::default()
                }),
                leader,
                raft_term: term,
                raft_index: index,
                raft_applied_index: applied,
                db_size: 20_000_000,
                ..Default::default()
            },
            handled: Some(100 * member),
        }
    }

    #[test]
    fn the_line_names_the_leader_of_the_highest_term_and_the_longest_lag() {
        let before = Summary {
            handled: Some(100),
            ..Summary::default()
        };
        let answers = [
            ("m1".to_owned(), Some(answer(1, 1, 2, 50, 50))),
            ("m2".to_owned(), Some(answer(2, 2, 3, 60, 40))),
            ("m3".to_owned(), None),
        ];
        let summary = Summary::of(&answers, Some((&before, Duration::from_secs(2))));
        assert_eq!(
            summary.to_string(),
            "leader m2  term 3  revision 7  lag 20  db 20.0 MB  100 requests/s  not answering: m3"
        );
    }

    #[test]
    fn a_counter_that_fell_back_gives_no_speed() {
        let before = Summary {
            handled: Some(1000),
            ..Summary::default()
        };
        let answers = [("m1".to_owned(), Some(answer(1, 1, 2, 50, 50)))];
        let summary = Summary::of(&answers, Some((&before, Duration::from_secs(1))));
        assert_eq!(summary.speed, None);
    }

    #[test]
    fn our_own_question_is_not_counted() {
        let metrics = "x 1\n\
            grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\"} 1.5e+06\n\
            grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\"} 3\n\
            grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Status\"} 99\n";
        assert_eq!(count(metrics), Some(1_500_003));
        assert_eq!(count("x 1\n"), None);
    }
}
