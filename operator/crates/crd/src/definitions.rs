//! The CustomResourceDefinitions, made of the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{QuorateCluster, QuorateMember};

/// Both definitions, as the API server gets them.
pub fn definitions() -> Vec<Value> {
    [QuorateCluster::crd(), QuorateMember::crd()]
        .iter()
        .map(definition)
        .collect()
}

/// The name of a definition's file, such as `quoratecluster.yaml`.
pub fn file_name(definition: &Value) -> String {
    let singular = &definition["spec"]["names"]["singular"];
    format!("{}.yaml", singular.as_str().unwrap_or("unnamed"))
}

/// A definition as it stands in a file.
///
/// # Panics
/// Never for what [`definitions`] gives: every JSON value has a YAML form.
pub fn yaml(definition: &Value) -> String {
    let text = serde_yaml::to_string(definition).expect("a JSON value has a YAML form");
    format!("# Made by `cargo xtask crds` from operator/crates/crd; do not edit.\n{text}")
}

/// The schema of the values of the chart `quorate`: the spec of a cluster, with what the chart adds.
/// What the API server would prune or refuse, helm refuses first, and says where.
pub fn chart_values_schema() -> Value {
    let definition = definition(&QuorateCluster::crd());
    let mut schema =
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
            .clone();
    close(&mut schema);
    let text = |description: &str, most: u32| json!({"description": description, "type": "string", "maxLength": most});
    let words = |description: &str| json!({"description": description, "type": "object", "additionalProperties": {"type": "string"}});
    if let Some(properties) = schema["properties"].as_object_mut() {
        let name = "Name of the cluster. Without it, the release's.";
        properties.insert("name".to_owned(), text(name, 40));
        // Empty stands for the chart's own.
        properties["version"]["pattern"] = json!(format!(
            "^$|{}",
            properties["version"]["pattern"]
                .as_str()
                .unwrap_or_default()
        ));
        properties.insert("labels".to_owned(), words("Labels of the QuorateCluster."));
        let about = "Annotations of the QuorateCluster.";
        properties.insert("annotations".to_owned(), words(about));
        let about = "Values that a chart shares with those that it holds; not used here.";
        properties.insert(
            "global".to_owned(),
            json!({"description": about, "type": "object"}),
        );
    }
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Values of quorate");
    schema["required"] = json!(["storage"]);
    schema
}

/// Makes a schema of Kubernetes one for helm: no word that only Kubernetes knows, and no field beside the known.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if !is_properties(fields) {
                let either = fields.get("x-kubernetes-int-or-string").is_some();
                fields.retain(|name, _| !name.starts_with("x-kubernetes-") && name != "format");
                if either {
                    fields.insert("type".to_owned(), json!(["integer", "number", "string"]));
                    fields.remove("anyOf");
                }
                if fields.contains_key("properties") {
                    fields.insert("additionalProperties".to_owned(), json!(false));
                }
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn definition(crd: &CustomResourceDefinition) -> Value {
    let mut value =
        serde_json::to_value(crd).expect("a definition made of our types has a JSON form");
    if let Some(versions) = value
        .pointer_mut("/spec/versions")
        .and_then(Value::as_array_mut)
    {
        for version in versions {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                clean(schema);
            }
        }
    }
    value
}

/// Makes a schema what the API server likes best, in all of its depth:
///
/// - no `nullable`: a field without a value is left out, and a null that someone writes is then dropped
///   before defaults come in, so that `has()` in a rule means that there is a value;
/// - no format that the API server does not know (it warns of `uint32` and its like).
fn clean(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if !is_properties(fields) {
                fields.remove("nullable");
                if fields
                    .get("format")
                    .and_then(Value::as_str)
                    .is_some_and(|format| format.starts_with("uint"))
                {
                    fields.remove("format");
                }
            }
            fields.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        _ => {}
    }
}

/// Whether this is a map from names of fields to schemas, where a field may be called `nullable` or `format`.
fn is_properties(fields: &Map<String, Value>) -> bool {
    fields.values().all(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn workspace() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
    }

    /// `crds/` is for people and for `kubectl apply`, the chart's copy for helm: a file outside of a chart's
    /// folder is not packed into it.
    const HOMES: [&str; 2] = ["crds", "charts/quorate-operator/files/crds"];

    #[test]
    fn committed_definitions_are_what_the_types_say() {
        for home in HOMES {
            let folder = workspace().join(home);
            let mut expected: Vec<(String, String)> = definitions()
                .iter()
                .map(|one| (file_name(one), yaml(one)))
                .collect();
            expected.sort();
            if std::env::var("QUORATE_BLESS").is_ok_and(|value| value == "1") {
                fs::create_dir_all(&folder).expect("the workspace can be written");
                for (name, text) in &expected {
                    fs::write(folder.join(name), text).expect("the workspace can be written");
                }
            }
            let mut committed: Vec<(String, String)> = fs::read_dir(&folder)
                .unwrap_or_else(|error| {
                    panic!("{}: {error}; run `cargo xtask crds`", folder.display())
                })
                .map(|entry| entry.expect("a folder of the workspace").path())
                .map(|path| {
                    let name = path
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned();
                    (
                        name,
                        fs::read_to_string(&path).expect("a file of the workspace"),
                    )
                })
                .collect();
            committed.sort();
            assert!(
                committed == expected,
                "{home} is not what the types say; run `cargo xtask crds` and read the diff"
            );
        }
    }

    #[test]
    fn the_schema_of_the_charts_values_is_what_the_types_say() {
        let path = workspace().join("charts/quorate/values.schema.json");
        let mut text = serde_json::to_string_pretty(&chart_values_schema()).expect("a JSON text");
        text.push('\n');
        if std::env::var("QUORATE_BLESS").is_ok_and(|value| value == "1") {
            fs::write(&path, &text).expect("the workspace can be written");
        }
        assert!(
            fs::read_to_string(&path).unwrap_or_default() == text,
            "{} is not what the types say; run `cargo xtask crds` and read the diff",
            path.display()
        );
    }

    /// Calls `visit` with every schema and the path to it.
    fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
        visit(path, schema);
        if let Some(fields) = schema["properties"].as_object() {
            for (name, field) in fields {
                walk(field, &format!("{path}.{name}"), visit);
            }
        }
        for (inner, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
            if schema[inner].is_object() {
                walk(&schema[inner], &format!("{path}{mark}"), visit);
            }
        }
    }

    fn schemas(visit: &mut dyn FnMut(&str, &Value)) {
        for definition in definitions() {
            let kind = definition["spec"]["names"]["kind"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            walk(
                &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
                &kind,
                visit,
            );
        }
    }

    #[test]
    fn every_field_has_a_description() {
        let mut fields = 0;
        schemas(&mut |path, schema| {
            // What lies in a list or a map is described with it; these four are every object's own.
            let own = path.ends_with(']') || path.ends_with('}');
            let common = ["apiVersion", "kind", "metadata"];
            if own
                || (path.matches('.').count() == 1
                    && common.iter().any(|name| path.ends_with(name)))
            {
                return;
            }
            let said = schema["description"].as_str().unwrap_or_default();
            assert!(said.len() >= 8, "{path} has no description: {schema}");
            fields += 1;
        });
        assert!(fields > 150, "only {fields} fields were seen");
    }

    #[test]
    fn our_own_lists_maps_and_texts_have_a_maximum() {
        // Types of Kubernetes come as they are; no rule looks into them.
        let foreign = [
            "affinity",
            "resources",
            "tolerations",
            "topologySpreadConstraints",
            "conditions",
        ];
        schemas(&mut |path, schema| {
            if foreign
                .iter()
                .any(|name| path.contains(&format!(".{name}")))
                || path.ends_with(['}', ']'])
                || path.matches('.').count() < 2
            {
                return;
            }
            let maximum = match schema["type"].as_str() {
                Some("string") if schema["enum"].is_array() || schema["format"] == "date-time" => {
                    return;
                }
                Some("string") => "maxLength",
                Some("array") => "maxItems",
                Some("object") if schema["additionalProperties"].is_object() => "maxProperties",
                _ => return,
            };
            assert!(schema[maximum].is_u64(), "{path} lacks {maximum}: {schema}");
        });
    }

    #[test]
    fn no_schema_makes_the_api_server_warn() {
        schemas(&mut |path, schema| {
            assert!(schema.get("nullable").is_none(), "{path} is nullable");
            let format = schema["format"].as_str().unwrap_or("int32");
            assert!(
                ["int32", "int64", "date-time", "double"].contains(&format),
                "{path} has the format {format}"
            );
            assert!(
                schema.get("oneOf").is_none() && schema.get("anyOf").is_none()
                    || schema["x-kubernetes-int-or-string"] == true,
                "{path}: {schema}"
            );
        });
    }

    #[test]
    fn a_sparse_object_of_another_version_loads() {
        let text = r#"{"apiVersion":"quorate.dev/v1alpha1","kind":"QuorateCluster","metadata":{"name":"a"},
            "spec":{"version":"0.1.0","storage":{"size":"1Gi"},"later":{"a":1}},
            "status":{"operation":{"type":"Dance"},"members":[{"name":"a-0","role":"King","health":"Well"}],"later":1}}"#;
        let cluster: QuorateCluster =
            serde_json::from_str(text).expect("unknown words and fields are let pass");
        assert_eq!(cluster.spec.replicas, 3);
        let status = cluster.status.expect("a status");
        assert_eq!(status.members[0].role, crate::Role::Unknown);
        assert_eq!(
            status.operation.expect("an operation").kind,
            crate::OperationKind::Unknown
        );
        let text = r#"{"apiVersion":"quorate.dev/v1alpha1","kind":"QuorateMember","metadata":{"name":"a-0"},
            "spec":{"clusterName":"a","number":0,"template":{"version":"0.1.0"}},"status":{}}"#;
        serde_json::from_str::<QuorateMember>(text).expect("defaults fill what is left out");
    }
}
