//! etcd's own suites, run on our node.
//!
//! A suite starts members as processes and speaks to them through etcdctl. It finds its programs in one
//! folder, where ours has the name `etcd`, and also `etcd-last-release`: the suites' shapes of mixed versions
//! become clusters of ours.
//!
//! ```text
//! target/tools/etcd-common-test ── -bin-dir ─▶ etcd, etcd-last-release   our node
//! target/tools/etcd-e2e-test                   etcdctl, etcdutl          etcd's
//!   -test.run one function
//!   -test.skip shapes of later.toml
//! ```
//!
//! Each function of `common`, and of `e2e` each that is about members, runs here or stands in `later.toml`
//! with its reason; a test compares. `make test` runs a slice, in the quickest shapes; with
//! `QUORATE_COMMON=whole`, as `make more` sets it, everything runs.

mod common;
mod e2e;
mod later;
mod suite;
