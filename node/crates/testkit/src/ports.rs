//! Ports for members, from a range of their own: below the kernel's ephemeral ports, apart for
//! each test process and each call.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 21_000;
const COUNT: u32 = 10_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

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
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + (std::process::id().wrapping_mul(97) + step) % COUNT) as u16;
        if TcpListener::bind((address, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
