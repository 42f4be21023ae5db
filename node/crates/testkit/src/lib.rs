//! # testkit: real members and real tools, for tests
//!
//! Starts members, ours or etcd's, with the same words; waits until they serve; kills them;
//! runs etcdctl, etcdutl and bbolt. One place, so that a flag can change without touching a
//! hundred tests.
//!
//! What a test needs and does not find, it says with [`left_out`] and returns.

pub mod cluster;
pub mod ports;
pub mod tools;
pub mod wait;

pub use cluster::{Cluster, Kind, Member, Spec};
pub use tools::{Etcdctl, left_out, quorate, tool};
pub use wait::eventually;
