//! The transport as a whole: ours with ours, ours with whoever sends nonsense, and ours with a
//! real etcd.

mod bounds;
mod etcd;
mod loopback;
mod snapshots;
mod support;
