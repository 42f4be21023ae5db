//! The rights of the operator, in one table. The chart's roles are made of it (`cargo xtask crds`), and the
//! tests run the operator with them and nothing more.
//!
//! Whoever makes the operator do something new adds its verb here, with the reason. `get` stands wherever `list`
//! does: it reads nothing more. `update` stands only where whole objects are replaced; server-side apply and merge
//! patches are `patch`, and the apply of an object that is not there is `create` too. No owner reference of ours
//! blocks its owner's deletion (see owner.rs), so nobody asks for `update` on `*/finalizers`.

use std::fmt::Write as _;

/// Where a right holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In the namespaces that are watched: a ClusterRole when that is all of them, a Role in each else.
    Watched,
    /// In the operator's own namespace.
    Own,
    /// On objects that are in no namespace. The operator also works without: then it does not know whether the
    /// node of a volume is gone, and says so.
    Cluster,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// where it holds
    pub scope: Scope,
    /// API group; empty for the core
    pub group: &'static str,
    /// resources, plural, subresources behind a slash
    pub resources: &'static [&'static str],
    /// verbs
    pub verbs: &'static [&'static str],
    /// what for
    pub why: &'static str,
}

/// Everything that the operator may do.
pub const GRANTS: &[Grant] = &[
    Grant {
        scope: Scope::Watched,
        group: "quorate.dev",
        resources: &["quorateclusters"],
        verbs: &["get", "list", "watch", "patch"],
        why: "read what is asked for; add and remove the finalizer, remove a recovery order that is done",
    },
    Grant {
        scope: Scope::Watched,
        group: "quorate.dev",
        resources: &["quoratemembers"],
        verbs: &[
            "get", "list", "watch", "create", "update", "patch", "delete",
        ],
        why: "one object per member; replace its template, remove its finalizer",
    },
    Grant {
        scope: Scope::Watched,
        group: "quorate.dev",
        resources: &["quorateclusters/status"],
        verbs: &["update", "patch"],
        why: "answer; why nothing is done, beside words of a newer operator that are left as they are",
    },
    Grant {
        scope: Scope::Watched,
        group: "quorate.dev",
        resources: &["quoratemembers/status"],
        verbs: &["update"],
        why: "answer",
    },
    Grant {
        scope: Scope::Watched,
        group: "",
        resources: &["pods", "persistentvolumeclaims"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        why: "what members are made of; say who votes, release the volume of a member that left",
    },
    Grant {
        scope: Scope::Watched,
        group: "",
        resources: &["services"],
        verbs: &["get", "list", "watch", "create", "patch"],
        why: "give members their names, and clients a way in",
    },
    Grant {
        scope: Scope::Watched,
        group: "policy",
        resources: &["poddisruptionbudgets"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        why: "hold evictions that would cost the quorum",
    },
    Grant {
        scope: Scope::Watched,
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create", "patch"],
        why: "say what was done and why something waits",
    },
    Grant {
        scope: Scope::Own,
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["get", "create", "update"],
        why: "one operator acts at a time",
    },
    Grant {
        scope: Scope::Cluster,
        group: "",
        resources: &["persistentvolumes"],
        verbs: &["get"],
        why: "learn on which nodes the volume of a Pod that finds no node can be used",
    },
    Grant {
        scope: Scope::Cluster,
        group: "",
        resources: &["nodes"],
        verbs: &["list"],
        why: "see whether one of these nodes is left",
    },
];

/// The table as the chart reads it: lists of rules under `watched`, `own` and `cluster`.
pub fn chart_file() -> String {
    let mut text = String::from(
        "# Made by `cargo xtask crds` from operator/crates/manifests/src/rbac.rs; do not edit.\n",
    );
    for (scope, name) in [
        (Scope::Watched, "watched"),
        (Scope::Own, "own"),
        (Scope::Cluster, "cluster"),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}:");
        for grant in GRANTS.iter().filter(|grant| grant.scope == scope) {
            let list = |words: &[&str]| {
                let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                quoted.join(", ")
            };
            let _ = writeln!(text, "  # {}", grant.why);
            let _ = writeln!(text, "  - apiGroups: [{:?}]", grant.group);
            let _ = writeln!(text, "    resources: [{}]", list(grant.resources));
            let _ = writeln!(text, "    verbs: [{}]", list(grant.verbs));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_chart_grants_what_the_table_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../charts/quorate-operator/files/rbac.yaml");
        if std::env::var("QUORATE_BLESS").is_ok_and(|value| value == "1") {
            fs::write(&path, chart_file()).expect("the workspace can be written");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == chart_file(),
            "{} is not what the table says; run `cargo xtask crds` and read the diff",
            path.display()
        );
    }

    #[test]
    fn no_right_is_a_wildcard_or_reaches_secrets() {
        for grant in GRANTS {
            let words = grant
                .resources
                .iter()
                .chain(grant.verbs)
                .chain([&grant.group]);
            for word in words {
                assert!(!word.contains('*'), "{grant:?}");
            }
            assert!(
                !grant
                    .resources
                    .iter()
                    .any(|one| one.starts_with("secrets") || one.starts_with("pods/exec"))
            );
        }
    }
}
