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
use tokio::sync::{OnceCell, watch};
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
        let way = Arc::new(Way {
            links: self,
            place,
            client,
            server,
            source: OnceCell::new(),
        });
        let mut cuts = way.links.cuts.subscribe();
        if !way.passable(&mut cuts).await {
            return;
        }
        let Ok(far) = TcpStream::connect(to).await else {
            return;
        };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (near_in, near_out) = near.into_split();
        let (far_in, far_out) = far.into_split();
        tokio::select! {
            () = way.carry(near_in, far_out, cuts.clone()) => {}
            () = way.carry(far_in, near_out, cuts) => {}
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

/// One connection through a door.
struct Way {
    links: Arc<Links>,
    place: usize,
    client: SocketAddrV4,
    server: SocketAddrV4,
    /// Who is at the other end: looked for when a link of this place is cut, since it is dear.
    source: OnceCell<Option<usize>>,
}

impl Way {
    /// Waits while its link is silent; false when it is broken.
    async fn passable(&self, cuts: &mut watch::Receiver<Cuts>) -> bool {
        loop {
            let concerned = |&(a, b): &Link| a == self.place || b == self.place;
            if !cuts.borrow_and_update().keys().any(concerned) {
                return true;
            }
            // One that has gone already needs no connection.
            let Some(source) = self.source().await else {
                return false;
            };
            let cut = cuts
                .borrow_and_update()
                .get(&link(source, self.place))
                .copied();
            match cut {
                None => return true,
                Some(Cut::Reset) => return false,
                Some(Cut::Silent) if cuts.changed().await.is_err() => return false,
                Some(Cut::Silent) => {}
            }
        }
    }

    async fn source(&self) -> Option<usize> {
        let look = || async {
            let (links, client, server) = (self.links.clone(), self.client, self.server);
            let found = tokio::task::spawn_blocking(move || links.source(client, server));
            found.await.ok().flatten()
        };
        *self.source.get_or_init(look).await
    }

    async fn carry(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        mut cuts: watch::Receiver<Cuts>,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        while self.passable(&mut cuts).await {
            let length = tokio::select! {
                length = from.read(&mut buffer) => length.unwrap_or(0),
                _ = cuts.changed() => continue,
            };
            if length == 0 || !self.passable(&mut cuts).await {
                return;
            }
            if to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use testkit::{eventually, ports};

    use super::*;

    /// This process plays place 0, an echo behind a door place 1.
    #[test]
    fn a_cut_link_carries_nothing_until_it_heals() {
        let host = ports::address();
        let echo = TcpListener::bind((host.as_str(), 0)).expect("a port");
        let to = echo.local_addr().expect("it is bound").to_string();
        std::thread::spawn(move || {
            for mut stream in echo.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        let links = Links::new();
        links.is_process_of(std::process::id(), 0);
        let at = format!("{host}:{}", ports::free_at(&host));
        let _door = links.open(1, &at, &to);
        let mut stream = TcpStream::connect(&at).expect("the door is open");
        let limit = Some(Duration::from_millis(300));
        stream.set_read_timeout(limit).expect("a time-out");
        let said = |stream: &mut TcpStream| {
            let mut byte = [0];
            stream.write_all(b"x")?;
            stream.read_exact(&mut byte).map(|()| byte[0])
        };
        assert_eq!(said(&mut stream).expect("an echo"), b'x');

        // A link between others changes nothing.
        links.cut(2, 1, Cut::Reset);
        assert_eq!(said(&mut stream).expect("an echo"), b'x');

        links.cut(0, 1, Cut::Silent);
        let silence = said(&mut stream).expect_err("the link is cut");
        assert_eq!(silence.kind(), ErrorKind::WouldBlock);
        links.heal();
        let mut late = [0];
        eventually("what was on its way", Duration::from_secs(5), || {
            stream
                .read_exact(&mut late)
                .map_err(|error| error.to_string())
        });
        assert_eq!(late, *b"x");

        links.cut(0, 1, Cut::Reset);
        eventually(
            "the end of the connection",
            Duration::from_secs(5),
            || match said(&mut stream).map_err(|error| error.kind()) {
                Ok(_) | Err(ErrorKind::WouldBlock) => Err("it goes on".to_owned()),
                Err(_) => Ok(()),
            },
        );
        let mut another = TcpStream::connect(&at).expect("the door is open");
        another.set_read_timeout(limit).expect("a time-out");
        let broken = said(&mut another).expect_err("the link is cut");
        assert_ne!(broken.kind(), ErrorKind::WouldBlock);
    }
}
