//! The places of a walk: each has a name, a directory and addresses of its own, and at times a
//! running member.

use std::path::Path;
use std::sync::Arc;

use testkit::{Kind, Member, ports};

use super::links::{Door, Links};

/// A member says this when it serves.
const READY: &str = "ready to serve client requests";

/// Room for some learners, so that not every second step asks for one too many.
pub const LEARNERS_MAX: usize = 2;

/// One place.
pub struct Place {
    pub member: Member,
    /// Its ID, once the cluster has given it one.
    pub id: Option<u64>,
    /// It has been a member, and is one no more.
    pub removed: bool,
    /// It has served since its last start.
    pub ready: bool,
    /// How much of its log has been read.
    pub log_read: u64,
    number: usize,
    host: String,
    /// Where it listens to peers.
    listen: String,
    /// Where it can be reached, by the URL that says so, the newest last.
    doors: Vec<(String, Door)>,
}

impl Place {
    pub fn new(number: usize, host: &str, dir: &Path, links: &Arc<Links>) -> Place {
        let name = format!("m{number}");
        let client_url = format!("http://{host}:{}", ports::free_at(host));
        let member = Member::place(Kind::Quorate, &name, client_url, String::new(), dir);
        let mut place = Place {
            member,
            id: None,
            removed: false,
            ready: false,
            log_read: 0,
            number,
            host: host.to_owned(),
            listen: format!("{host}:{}", ports::free_at(host)),
            doors: Vec::new(),
        };
        place.member.peer_url = place.open_door(links);
        place
    }

    /// One more URL at which its peers reach it.
    pub fn open_door(&mut self, links: &Arc<Links>) -> String {
        let at = format!("{}:{}", self.host, ports::free_at(&self.host));
        let door = links.open(self.number, &at, &self.listen);
        let url = format!("http://{at}");
        self.doors.push((url.clone(), door));
        url
    }

    pub fn is_reached_at(&self, url: &str) -> bool {
        self.doors.iter().any(|(other, _)| other == url)
    }

    /// Starts the process. `initial` is `--initial-cluster`, `state` its state.
    pub fn spawn(&mut self, initial: &str, state: &str, flags: &[String], links: &Links) {
        let member = &mut self.member;
        member.flags = vec![
            format!("--name={}", member.name),
            format!("--data-dir={}", member.data_dir.display()),
            format!("--listen-client-urls={}", member.client_url),
            format!("--advertise-client-urls={}", member.client_url),
            format!("--listen-peer-urls=http://{}", self.listen),
            format!("--initial-advertise-peer-urls={}", member.peer_url),
            format!("--initial-cluster={initial}"),
            format!("--initial-cluster-state={state}"),
            "--initial-cluster-token=walk".to_owned(),
            format!("--max-learners={LEARNERS_MAX}"),
            // Small, so that who was away for some steps gets a snapshot.
            "--snapshot-count=300".to_owned(),
            "--snapshot-catchup-entries=100".to_owned(),
        ];
        member.flags.extend_from_slice(flags);
        member.spawn();
        self.ready = false;
        links.is_process_of(member.pid().expect("it was started"), self.number);
    }

    /// Looks whether it serves by now.
    pub fn look(&mut self) {
        if self.member.is_running() && !self.ready {
            self.ready = self.member.log_text().contains(READY);
        }
    }

    /// What it has logged since this was last asked, whole lines only.
    pub fn new_lines(&mut self) -> Vec<String> {
        let Ok(bytes) = std::fs::read(self.member.log_path()) else {
            return Vec::new();
        };
        let new = &bytes[self.log_read as usize..];
        let Some(end) = new.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        self.log_read += end as u64 + 1;
        let text = String::from_utf8_lossy(&new[..end]);
        text.lines().map(str::to_owned).collect()
    }
}
