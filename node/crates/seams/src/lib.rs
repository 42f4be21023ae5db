//! Where the world touches the program: disk, clock, chance.
//!
//! Rooms that keep bytes on a disk take a [`Disk`]; whoever needs time takes a [`Clock`]; whoever
//! needs chance takes an [`Rng`]. Production gives them the real ones, simulation and crash tests
//! give them ones that obey a seed.
//!
//! ```text
//!   wal   snap   backend          server, raftnode …
//!     \     |     /                  |         |
//!      Disk, DiskFile, Mapping     Clock      Rng
//!       /            \             /   \     /   \
//!   RealDisk       MemDisk     Real  Manual Real Seeded
//! ```
//!
//! [`MemDisk`] keeps two images of every file and directory: what a running process sees, and what
//! would be there after a power cut. Between them lies everything that was not synced, and
//! [`MemDisk::crash`] decides by a seed which part of it survives, sector by sector.
//!
//! What this room does not know: any file format, any path of ours, logging, async. All calls
//! block. Unsafe code stands in `mmap.rs`, and one call each in `memory.rs` and `space.rs`.
#![deny(unsafe_code)]

mod clock;
mod disk;
mod memdisk;
mod memory;
#[expect(
    unsafe_code,
    reason = "system calls that std does not offer: mmap, fallocate, OFD locks, sigaction, getrandom"
)]
mod mmap;
mod real;
mod rng;
mod seeds;
mod space;

pub use clock::{Clock, ManualClock, RealClock};
pub use disk::{Disk, DiskFile, Look, MapSlice, Mapping, OpenMode, read_all};
pub use memdisk::{Fault, FaultOperation, MemDisk, MemDiskStats};
pub use memory::release_unused_memory;
pub use mmap::install_fault_handler;
pub use real::RealDisk;
pub use rng::{RealRng, Rng, SeededRng};
pub use seeds::{Seeds, seeds};
pub use space::free_bytes;
