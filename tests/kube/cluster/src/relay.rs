//! A door from this machine's network into the cluster's: who listens is here, who connects is there.
//!
//! A program is in one network, so a relay is a process of its own: it is started in the cluster's network, and
//! gets a socket that listens in ours as its standard input.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};

use crate::spaces::with_network;

/// A running relay; it ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    /// where it listens on this machine
    pub address: SocketAddr,
    child: Child,
}

impl Relay {
    /// Leads a free port of 127.0.0.1 to `target`, an address of the network of that process.
    pub fn start(pid: u32, target: &str, logs: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port for a relay")?;
        let address = listener.local_addr()?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(logs.join("relay.log"))?;
        let child = with_network(pid, std::env::current_exe()?)
            .args(["relay", target])
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start a relay")?;
        Ok(Self { address, child })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of its own: serves the socket on standard input until it is killed.
pub fn serve(target: &str) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let listener = TcpListener::from(socket);
    for connection in listener.incoming() {
        let here = connection.context("standard input is not a socket that listens")?;
        let target = target.to_owned();
        std::thread::spawn(move || {
            if let Err(error) = join(here, &target) {
                eprintln!("relay to {target}: {error:#}");
            }
        });
    }
    Ok(())
}

fn join(here: TcpStream, target: &str) -> Result<()> {
    let there = TcpStream::connect(target).context("cannot connect")?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    let (mut from, mut to) = (here.try_clone()?, there.try_clone()?);
    let up = std::thread::spawn(move || {
        // An end of either side, however it comes about, is passed on as an end.
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (there, here);
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = up.join();
    Ok(())
}
