//! Whether a node is left for a bound volume: a local disk ends with its node, a zone's disk with the zone's last.
//!
//! ```text
//! Pod finds no node, its claim is bound ─▶ volume's node affinity ─▶ is there a node that it admits?
//! ```
//!
//! Nodes and volumes are not watched: they change all the time, and nearly never matter here. They are asked for
//! when a Pod finds no node, and the API server searches, so that an answer is one node at most.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, Pod,
};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use crate::observe::Heard;
use crate::seen::Seen;

/// The nodes that a bound volume can be used on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nodes {
    /// at least one is there
    Some,
    /// none is there
    None,
    /// could not be read
    Unread,
}

/// Claims that are bound, and the Pods of their silent members find no node.
pub fn in_question<'a>(
    seen: &'a Seen,
    heard: &'a Heard,
) -> impl Iterator<Item = &'a PersistentVolumeClaim> {
    seen.members.iter().filter_map(|member| {
        let name = member.name_any();
        let claim = seen.claim(&name)?;
        let asked_for = !heard.said.contains_key(&name)
            && seen.pod(&name).is_some_and(|pod| finds_no_node(pod))
            && volume_name(claim).is_some();
        asked_for.then_some(claim.as_ref())
    })
}

fn finds_no_node(pod: &Pod) -> bool {
    let placed = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    let refused = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    refused && !placed && pod.metadata.deletion_timestamp.is_none()
}

/// The volume that a claim is bound to.
fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let bound = claim
        .status
        .as_ref()
        .is_some_and(|status| status.phase.as_deref() == Some("Bound"));
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    (bound && claim.metadata.deletion_timestamp.is_none() && !name.is_empty()).then_some(name)
}

/// Asks for the nodes of a claim's volume.
pub async fn nodes(client: &Client, claim: &PersistentVolumeClaim) -> Nodes {
    match look(client, claim).await {
        Ok(nodes) => nodes,
        Err(error) => {
            tracing::warn!(claim = claim.name_any(), %error, "the nodes of its volume could not be read");
            Nodes::Unread
        }
    }
}

async fn look(client: &Client, claim: &PersistentVolumeClaim) -> Result<Nodes, kube::Error> {
    let Some(name) = volume_name(claim) else {
        return Ok(Nodes::Some);
    };
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = volumes.get(name).await?;
    let affinity = volume.spec.and_then(|spec| spec.node_affinity);
    let Some(required) = affinity.and_then(|affinity| affinity.required) else {
        return Ok(Nodes::Some);
    };
    let nodes: Api<Node> = Api::all(client.clone());
    for term in &required.node_selector_terms {
        let Some((labels, fields)) = selectors(term) else {
            continue;
        };
        let one = ListParams::default()
            .labels(&labels)
            .fields(&fields)
            .limit(1);
        if !nodes.list_metadata(&one).await?.items.is_empty() {
            return Ok(Nodes::Some);
        }
    }
    Ok(Nodes::None)
}

/// A term as selectors of labels and of fields, which admit every node that the term admits; a term of nothing
/// admits none. What a label selector cannot say (greater, less) is said as "there is such a label".
fn selectors(term: &NodeSelectorTerm) -> Option<(String, String)> {
    let labels: Vec<String> = term
        .match_expressions
        .iter()
        .flatten()
        .map(|wanted| {
            let key = &wanted.key;
            match wanted.operator.as_str() {
                "In" => format!("{key} in ({})", values(wanted)),
                "NotIn" => format!("{key} notin ({})", values(wanted)),
                "DoesNotExist" => format!("!{key}"),
                _ => key.clone(),
            }
        })
        .collect();
    // The only field is the name, with one value.
    let fields: Vec<String> = term
        .match_fields
        .iter()
        .flatten()
        .map(|wanted| {
            let equals = if wanted.operator == "NotIn" {
                "!="
            } else {
                "="
            };
            format!("{}{equals}{}", wanted.key, values(wanted))
        })
        .collect();
    (!labels.is_empty() || !fields.is_empty()).then(|| (labels.join(","), fields.join(",")))
}

fn values(wanted: &NodeSelectorRequirement) -> String {
    wanted
        .values
        .iter()
        .flatten()
        .cloned()
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(term: Value) -> Option<(String, String)> {
        selectors(&serde_json::from_value(term).expect("a term"))
    }

    fn pair(labels: &str, fields: &str) -> Option<(String, String)> {
        Some((labels.to_owned(), fields.to_owned()))
    }

    #[test]
    fn a_term_becomes_selectors_that_admit_no_node_less() {
        let expressions = json!({"matchExpressions": [
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a", "b"]},
            {"key": "spot", "operator": "NotIn", "values": ["true"]},
            {"key": "disk", "operator": "Exists"},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "generation", "operator": "Gt", "values": ["3"]},
        ]});
        assert_eq!(
            of(expressions),
            pair(
                "topology.kubernetes.io/zone in (a,b),spot notin (true),disk,!old,generation",
                ""
            )
        );
        let names =
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]});
        assert_eq!(of(names), pair("", "metadata.name=n1"));
        let not = json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]});
        assert_eq!(of(not), pair("", "metadata.name!=n1"));
        assert_eq!(of(json!({})), None);
    }

    #[test]
    fn only_a_pod_that_was_refused_by_the_scheduler_asks() {
        let pod = |spec: Value, status: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status}))
                .expect("a Pod")
        };
        let refused = json!({"conditions": [{"type": "PodScheduled", "status": "False"}]});
        let placed = json!({"conditions": [{"type": "PodScheduled", "status": "True"}]});
        let spec = |node: Option<&str>| json!({"containers": [], "nodeName": node});
        assert!(finds_no_node(&pod(spec(None), refused.clone())));
        assert!(!finds_no_node(&pod(spec(Some("n1")), refused)));
        assert!(!finds_no_node(&pod(spec(None), placed)));
        assert!(!finds_no_node(&pod(spec(None), json!({}))));
    }
}
