//! # local: a cluster of processes on this machine
//!
//! `quorate local` starts members of its own program on 127.0.0.1, says where they are, and looks after
//! them until it is told to stop. What it needs for that serves others too: [`cluster`] starts members of
//! any program that takes etcd's flags (`quorate bench compare` starts etcd's), and [`grpc`] asks them.
//!
//! ```text
//!   command ── flags, signals, keys, one status line a second
//!     ├── cluster ── ports, flags, processes, log files          std only, no runtime
//!     │      └── os ── prctl, kill, termios                      the unsafe corner
//!     └── status ── Status of each member, counted requests
//!            └── grpc ── one HTTP/2 connection, calls and streams
//! ```
//!
//! A child cannot outlive us: the kernel kills it when the thread that started it ends (`PR_SET_PDEATHSIG`),
//! which is why processes are started on the main thread only. Children have a process group of their own,
//! so that Ctrl-C reaches us alone and we end them in our order.
//!
//! This room does not know: what a member does, its files, its peers' protocol. It learns that a member
//! serves from the line in its log that etcd writes too.

pub mod cluster;
mod command;
pub mod flags;
pub mod grpc;
mod os;
mod status;

pub use command::main;
