//! # The operator against a real API server, with members as local processes
//!
//! ```text
//! kubectl ──────────────▶ kube-apiserver ◀── stand-in: scheduler, volumes, kubelet
//! operator ─▶ door ─────▶      ▲                │ starts, probes, kills
//!    │                  controller-manager      ▼
//!    └──────────── member RPCs ──────────▶ target/debug/quorate on 127.x.y.z
//! ```
//!
//! There is no container and no root: the stand-in (kubelet.rs) starts a Pod's arguments as a process of this
//! machine, on the address that stands in them, with a folder as its volume. The operator is the real program
//! with its shipped ServiceAccount's rights, and comes in by a door (door.rs) that counts its requests, and
//! can cut it off at any of them.
//!
//! One control plane serves all tests of a run; each test has a namespace of its own.
//! `QUORATE_KUBE_STORE=ours` puts the API server on three members of ours in place of etcd.

mod bench;
mod calls;
mod charts;
#[path = "../kube/control.rs"]
#[expect(
    dead_code,
    reason = "the other tests of this package use the rest of it"
)]
mod control;

mod cluster;
mod crash;
mod dice;
mod docs;
mod door;
mod kinds;
mod kubelet;
mod life;
mod news;
mod operator;
mod plugin;
mod specs;
mod standin;
mod state;
mod trouble;
mod world;
mod writer;
