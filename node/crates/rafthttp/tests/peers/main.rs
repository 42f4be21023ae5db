//! The transport as a whole: ours with ours, ours with whoever sends nonsense, and ours with a
//! real etcd.
#![expect(
    clippy::unwrap_used,
    reason = "in tests a panic is a failure with its place"
)]

mod bounds;
mod clients;
mod etcd;
mod loopback;
mod snapshots;
mod support;
