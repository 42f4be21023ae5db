//! Ports for members, from a range of their own below the kernel's ephemeral ports.
//!
//! Test processes run side by side, and between asking for a port and listening on it there is
//! time. So each process holds blocks of ports that no other one holds: a block is a file under
//! the temporary directory, and who has it locked has its ports.

use std::collections::VecDeque;
use std::fs::File;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Above those of etcd's own e2e suite, which begin at 20,000.
const FIRST: u16 = 20_480;
/// Ports in a block.
const BLOCK: u16 = 64;
/// 32,768 is the first ephemeral port.
const BLOCKS: u16 = 192;

static OURS: Mutex<Ours> = Mutex::new(Ours {
    locks: Vec::new(),
    fresh: VecDeque::new(),
    given: VecDeque::new(),
});

/// What this process holds until it ends.
struct Ours {
    locks: Vec<File>,
    fresh: VecDeque<u16>,
    /// The one that was given longest ago first.
    given: VecDeque<u16>,
}

/// A port on 127.0.0.1 that nobody listens on now.
pub fn free() -> u16 {
    free_at("127.0.0.1")
}

/// An address of the loopback network for one cluster alone: with ports of its own on it, a
/// cluster can open further ones later without meeting anybody.
pub fn address() -> String {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    // 127.64.0.0 and up: nobody else in these tests is there.
    format!(
        "127.{}.{}.{}",
        64 + process % 128,
        process / 128 % 256,
        1 + cluster % 254
    )
}

/// A port on `address` that nobody listens on now.
pub fn free_at(address: &str) -> u16 {
    let mut ours = OURS.lock().unwrap_or_else(|poison| poison.into_inner());
    for _ in 0..BLOCKS * BLOCK {
        let port = match ours.fresh.pop_front() {
            Some(port) => port,
            None if ours.take_block() => continue,
            // No block is left: what was given longest ago comes again.
            None => match ours.given.pop_front() {
                Some(port) => port,
                None => panic!("other test processes hold all ports of {FIRST} to 32767"),
            },
        };
        ours.given.push_back(port);
        // Not by listening there for a moment: a child that another thread starts just then has
        // the listener too, until it becomes its own program.
        if TcpStream::connect((address, port)).is_err() {
            return port;
        }
    }
    panic!("somebody listens on each port of {FIRST} to 32767 at {address}");
}

/// The first of so many ports in a row that this process alone has, for a program that counts on from it.
///
/// # Panics
/// If other test processes hold all blocks, or more than a block is wanted.
pub fn row(count: u16) -> u16 {
    let mut ours = OURS.lock().unwrap_or_else(|poison| poison.into_inner());
    let before = ours.fresh.len();
    assert!(
        count <= BLOCK && ours.take_block(),
        "no {count} ports in a row from {FIRST} to 32767: other test processes hold all blocks of {BLOCK}"
    );
    let end = before + usize::from(count);
    let row: Vec<u16> = ours.fresh.drain(before..end).collect();
    row[0]
}

impl Ours {
    /// Locks a block that nobody has; false if there is none.
    fn take_block(&mut self) -> bool {
        let folder = std::env::temp_dir().join("quorate-test-ports");
        // Another user's folder is as good as ours, if it lets us in.
        std::fs::create_dir_all(&folder).ok();
        // Not all from the first one on: a port that was in use a moment ago may linger.
        let start = std::process::id() as u16 % BLOCKS;
        for block in (start..BLOCKS).chain(0..start) {
            let path = folder.join(block.to_string());
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path);
            let Ok(file) = file else { continue };
            if file.try_lock().is_err() {
                continue;
            }
            self.locks.push(file);
            let first = FIRST + block * BLOCK;
            self.fresh.extend(first..first + BLOCK);
            return true;
        }
        false
    }
}
