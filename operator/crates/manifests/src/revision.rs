//! The revision of a template: one short word that changes when, and only when, a Pod must be another.
//!
//! It is a hash of what a person wrote. What stands at its default counts as not written, so a field that a
//! later version adds to the kinds, with its default in every stored object, changes no revision.

use crd::{AutoCompaction, CompactionMode, MemberTemplate, Options, QuorateClusterSpec};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Hexadecimal digits of a revision: 48 bits, where a cluster sees a few hundred.
const DIGITS: usize = 12;

/// The part of a cluster's spec that Pods are made from.
pub fn template(spec: &QuorateClusterSpec) -> MemberTemplate {
    MemberTemplate {
        version: spec.version.clone(),
        image: spec.image.clone(),
        options: spec.options.clone(),
        pod_template: spec.pod_template.clone(),
    }
}

/// The revision of a template, 12 hexadecimal digits.
pub fn revision(template: &MemberTemplate) -> String {
    let json = |template: &MemberTemplate| serde_json::to_value(template).unwrap_or_default();
    let mut written = json(template);
    without_defaults(&mut written, &json(&defaults()));
    let mut text = String::new();
    canonical(&written, &mut text);
    let hash = Sha256::digest(text);
    let mut revision = String::new();
    for byte in hash.iter().take(DIGITS / 2) {
        revision.push_str(&format!("{byte:02x}"));
    }
    revision
}

/// A template in which every struct that the schema gives defaults to is there.
fn defaults() -> MemberTemplate {
    MemberTemplate {
        options: Options {
            auto_compaction: Some(AutoCompaction {
                mode: CompactionMode::default(),
                retention: String::new(),
            }),
            ..Options::default()
        },
        ..MemberTemplate::default()
    }
}

/// JSON without spaces, keys sorted, whatever the order is in which this build of serde_json keeps them.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (name, field) in sorted {
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                canonical(field, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

/// Takes out of `value` what is as in `default`, and objects that are empty then.
fn without_defaults(value: &mut Value, default: &Value) {
    let Value::Object(fields) = value else {
        return;
    };
    fields.retain(|name, field| {
        let default = &default[name.as_str()];
        if field == default {
            return false;
        }
        if !field.is_object() {
            return true;
        }
        without_defaults(field, default);
        field.as_object().is_some_and(|fields| !fields.is_empty())
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: Value) -> String {
        revision(&serde_json::from_value(value).expect("a template"))
    }

    fn full() -> Value {
        json!({
            "version": "0.1.0",
            "image": {"repository": "registry.example/quorate", "pullSecrets": [{"name": "pull"}]},
            "options": {"quotaBackendBytes": "8Gi", "autoCompaction": {"retention": "1h"}},
            "podTemplate": {
                "labels": {"team": "orders"},
                "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}},
                "tolerations": [{"key": "store", "operator": "Exists"}],
            },
        })
    }

    /// Recorded: a change here restarts every member of every cluster when the operator is upgraded.
    #[test]
    fn an_operator_of_another_version_finds_the_same_revision() {
        assert_eq!(of(json!({"version": "0.1.0"})), "3ec5c1657185");
        assert_eq!(of(full()), "0e37c7d661be");
    }

    #[test]
    fn what_is_written_as_the_default_is_as_if_not_written() {
        let bare = of(json!({"version": "0.1.0"}));
        let written = json!({"version": "0.1.0", "image": {"pullPolicy": "IfNotPresent"}, "options": {}, "podTemplate": {"labels": {}}});
        assert_eq!(of(written), bare);
        let later = json!({"version": "0.1.0", "options": {"fieldOfALaterVersion": 7}});
        assert_eq!(of(later), bare);
    }

    #[test]
    fn what_changes_a_pod_changes_its_revision() {
        let mut seen = vec![of(full())];
        for (path, value) in [
            ("/version", json!("0.1.1")),
            ("/image/repository", json!("registry.example/other")),
            ("/image/pullSecrets", json!([])),
            ("/options/quotaBackendBytes", json!("4Gi")),
            ("/options/autoCompaction/retention", json!("2h")),
            ("/podTemplate/labels/team", json!("stock")),
            ("/podTemplate/resources/requests/cpu", json!("1")),
            ("/podTemplate/tolerations/0/key", json!("other")),
        ] {
            let mut changed = full();
            *changed.pointer_mut(path).expect("a field") = value;
            seen.push(of(changed));
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all);
        assert!(seen.iter().all(|one| one.len() == DIGITS));
    }
}
