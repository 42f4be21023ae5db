//! Links between members that can be cut one by one.
//!
//! A member listens at one address and advertises another, where a door of ours takes its peers'
//! connections and carries them on. All of a member's peers come to the same door, and nothing in
//! their bytes says who they are; the kernel knows, and [`Links`] asks it for the process at the
//! other end of a connection.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::clients::runtime;

/// How a link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing gets through and nobody is told, as behind a pulled plug. What was on its way
    /// arrives when the link heals.
    Silent,
    /// Connections break, new ones are refused.
    Reset,
}

/// Two places, the smaller one first.
type Link = (usize, usize);

type Cuts = BTreeMap<Link, Cut>;

/// Every link of one cluster.
pub struct Links {
    cuts: watch::Sender<Cuts>,
    /// Whose process is whose.
    processes: Mutex<BTreeMap<u32, usize>>,
}

/// Where the peers of a place come in; closes with its connections when it is dropped.
pub struct Door(JoinHandle<()>);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Links {
    pub fn new() -> Arc<Links> {
        Arc::new(Links {
            cuts: watch::Sender::new(Cuts::new()),
            processes: Mutex::default(),
        })
    }

    /// The process of a place has started.
    pub fn is_process_of(&self, process: u32, place: usize) {
        let mut processes = self.processes.lock().expect("not poisoned");
        processes.retain(|_, other| *other != place);
        processes.insert(process, place);
    }

    /// Opens a door of `place`: what comes in at `at` goes on to `to`.
    pub fn open(self: &Arc<Self>, place: usize, at: &str, to: &str) -> Door {
        let listener = runtime()
            .block_on(TcpListener::bind(at))
            .unwrap_or_else(|error| panic!("no door can be opened at {at}: {error}"));
        let (links, to) = (self.clone(), to.to_owned());
        Door(runtime().spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, client)) = listener.accept().await else {
                    return;
                };
                connections.spawn(links.clone().serve(stream, client, place, to.clone()));
                while connections.try_join_next().is_some() {}
            }
        }))
    }

    pub fn cut(&self, a: usize, b: usize, cut: Cut) {
        self.cuts
            .send_modify(|cuts| _ = cuts.insert(link(a, b), cut));
    }

    /// The links that are cut now, all healed.
    pub fn heal(&self) -> Vec<Link> {
        let mut healed = Vec::new();
        self.cuts
            .send_modify(|cuts| healed = std::mem::take(cuts).into_keys().collect());
        healed
    }

    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.borrow().contains_key(&link(a, b))
    }

    async fn serve(self: Arc<Self>, near: TcpStream, client: SocketAddr, place: usize, to: String) {
        let (SocketAddr::V4(client), Ok(SocketAddr::V4(server))) = (client, near.local_addr())
        else {
            return;
        };
        let links = self.clone();
        let source = tokio::task::spawn_blocking(move || links.source(client, server));
        // One that has gone already needs no connection.
        let Ok(Some(source)) = source.await else {
            return;
        };
        let link = link(source, place);
        let mut cuts = self.cuts.subscribe();
        if !passable(&mut cuts, link).await {
            return;
        }
        let Ok(far) = TcpStream::connect(to).await else {
            return;
        };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (near_in, near_out) = near.into_split();
        let (far_in, far_out) = far.into_split();
        tokio::select! {
            () = carry(near_in, far_out, cuts.clone(), link) => {}
            () = carry(far_in, near_out, cuts, link) => {}
        }
    }

    /// Which place opened the connection from `client` to `server`.
    fn source(&self, client: SocketAddrV4, server: SocketAddrV4) -> Option<usize> {
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        let (client, server) = (hexadecimal(client), hexadecimal(server));
        let inode = table.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let ends = (words.next()?, words.next()?);
            (ends == (&client, &server)).then(|| words.nth(6)).flatten()
        })?;
        let socket = format!("socket:[{inode}]");
        let processes = self.processes.lock().expect("not poisoned").clone();
        let holds = |process: &u32| {
            let descriptors = std::fs::read_dir(format!("/proc/{process}/fd"));
            descriptors.into_iter().flatten().flatten().any(|entry| {
                std::fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == socket.as_str())
            })
        };
        processes
            .into_iter()
            .find_map(|(process, place)| holds(&process).then_some(place))
    }
}

fn link(a: usize, b: usize) -> Link {
    (a.min(b), a.max(b))
}

/// An address as `/proc/net/tcp` writes it.
fn hexadecimal(address: SocketAddrV4) -> String {
    let ip = u32::from_le_bytes(address.ip().octets());
    format!("{ip:08X}:{:04X}", address.port())
}

/// Waits while the link is silent; false when it is broken.
async fn passable(cuts: &mut watch::Receiver<Cuts>, link: Link) -> bool {
    loop {
        let cut = cuts.borrow_and_update().get(&link).copied();
        match cut {
            None => return true,
            Some(Cut::Reset) => return false,
            Some(Cut::Silent) if cuts.changed().await.is_err() => return false,
            Some(Cut::Silent) => {}
        }
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cuts: watch::Receiver<Cuts>,
    link: Link,
) {
    let mut buffer = vec![0; 64 * 1024];
    while passable(&mut cuts, link).await {
        let length = tokio::select! {
            length = from.read(&mut buffer) => length.unwrap_or(0),
            _ = cuts.changed() => continue,
        };
        if length == 0 || !passable(&mut cuts, link).await {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
