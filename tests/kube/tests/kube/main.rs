//! # A Kubernetes API server and its controllers live on our members
//!
//! ```text
//! kubectl, kubeload → kube-apiserver 1.37.2 → three members, ours or etcd's
//!                   ↗ kube-controller-manager
//! ```
//!
//! kubeload (tests/tools/kube) makes the load and checks every answer against what was acknowledged. Here
//! the programs are started, a leader is killed in the middle of the writes, and the API server is asked
//! what it saw of the store: its log, its metrics.
//!
//! `make test` runs a fixed slice. `make more` sets `QUORATE_KUBE=whole`: the whole load, once on ours and
//! once on etcd 3.7.3, and the figures of both side by side.

mod control;
mod figures;
mod klog;
mod run;

use testkit::{Kind, left_out, tool};

use crate::control::Cache;
use crate::run::Size;

#[test]
fn an_api_server_lives_on_three_members() {
    test("an_api_server_lives_on_three_members", Cache::Default);
}

/// Every list and watch of ConfigMaps goes to the store, which the API server's cache else answers.
#[test]
fn an_api_server_without_its_cache_lives_on_three_members() {
    test(
        "an_api_server_without_its_cache_lives_on_three_members",
        Cache::NoConfigMaps,
    );
}

fn test(name: &str, cache: Cache) {
    let needed = [
        "etcd",
        "etcdctl",
        "kube-apiserver",
        "kube-controller-manager",
        "kubectl",
        "kubeload",
    ];
    if let Some(missing) = needed.iter().find(|program| tool(program).is_none()) {
        return left_out(name, &format!("{missing} is missing; run `make tools`"));
    }
    if std::env::var("QUORATE_KUBE").is_ok_and(|value| value == "whole") {
        let size = Size::WHOLE;
        let ours = run::run(Kind::Quorate, cache, size);
        let etcd = run::run(Kind::Etcd, cache, size);
        figures::publish(&figures::side_by_side(cache, &ours, &etcd));
    } else {
        let ours = run::run(Kind::Quorate, cache, Size::SLICE);
        figures::publish(&figures::alone(cache, &ours));
    }
}
