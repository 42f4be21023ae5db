//! Random valid specs, one after the other, made from the schema that the API server has: in the end the cluster is
//! as if only the last one had ever been asked for.
//!
//! `QUORATE_SEED_FIRST` gives the seed. A field that this generator cannot fill ends the test: it is to learn it.

use serde_json::{Map, Value, json};

use crate::cluster::{Cluster, STEP, condition};
use crate::crash::assert_same;
use crate::dice::Dice;
use crate::operator::{Operator, Options};
use crate::world::{World, whole, world};

/// A spec that the API server refuses is thrown away; so many in a row are a fault of the generator.
const TRIES: usize = 50;

/// Values that more than their schema decides: what the machine has, and what lets the cluster come to an end.
fn known(path: &str) -> Option<Vec<Value>> {
    let all = match path {
        "replicas" if whole() => json!([0, 0, 1, 2, 3, 3, 4, 5, 7]),
        "replicas" => json!([1, 3]),
        "version" => json!([env!("CARGO_PKG_VERSION")]),
        "image.repository" => json!(["registry.invalid/quorate", "a.example:5000/b/quorate"]),
        "options.quotaBackendBytes" => json!(["16Mi", "64Mi", "268435456", "512Mi"]),
        "options.snapshotCount" => json!([1, 100, 10_000_000]),
        "options.heartbeatInterval" => json!(["50ms", "100ms", "200ms", "10m"]),
        "options.electionTimeout" => json!(["500ms", "1s", "1500ms", "2s"]),
        "options.autoCompaction.retention" => json!(["1h", "1h30m", "500", "0"]),
        "membership.minHealthySeconds" => json!([0, 1, 2]),
        // A member that restarts is not to be replaced meanwhile.
        "membership.replaceFailedAfter" => json!(["0s", "10m", "1h30m"]),
        "membership.operationTimeout" => json!(["1s", "10m"]),
        "podTemplate.priorityClassName" => json!(["system-cluster-critical"]),
        "podTemplate.resources" => json!([
            {"requests": {"cpu": "10m"}},
            {"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
        ]),
        "podTemplate.tolerations" => json!([[], [{"key": "store", "operator": "Exists"}]]),
        "podTemplate.affinity" => json!([{"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]},
            ]},
        }}]),
        "podTemplate.topologySpreadConstraints" => json!([[], [{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
        }]]),
        // What cannot be changed is chosen once, for the whole sequence.
        "storage.size" | "storage.className" | "membership.domain" | "bootstrap" => json!([]),
        _ => return None,
    };
    all.as_array().cloned()
}

/// Some value that fits; nothing leaves the field out.
fn value(dice: &mut Dice, schema: &Value, path: &str) -> Option<Value> {
    if let Some(all) = known(path) {
        return (!all.is_empty()).then(|| dice.pick(&all).clone());
    }
    if let Some(all) = schema["enum"].as_array() {
        return Some(dice.pick(all).clone());
    }
    let limit = |name: &str| schema[name].as_u64();
    match schema["type"].as_str() {
        Some("boolean") => Some(json!(dice.one_in(2))),
        Some("integer") => {
            let (least, most) = (limit("minimum")?, limit("maximum")?);
            Some(json!(least + dice.below(most - least + 1)))
        }
        Some("string") if schema["pattern"].is_null() => Some(json!(word(dice))),
        Some("array") => {
            let most = limit("maxItems").unwrap_or(2).min(2);
            let items = (0..dice.below(most + 1))
                .map(|_| value(dice, &schema["items"], &format!("{path}[]")))
                .collect::<Option<Vec<_>>>()?;
            Some(json!(items))
        }
        Some("object") if schema["additionalProperties"].is_object() => {
            let entries = (0..dice.below(3)).map(|_| (word(dice), json!(word(dice))));
            Some(Value::Object(entries.collect()))
        }
        Some("object") if schema["properties"].is_object() => {
            Some(Value::Object(fields(dice, schema, path)))
        }
        _ => panic!("the generator of specs does not know how to fill {path}: {schema}"),
    }
}

fn fields(dice: &mut Dice, schema: &Value, path: &str) -> Map<String, Value> {
    let properties = schema["properties"].as_object().expect("a struct");
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let mut fields = Map::new();
    for (name, field) in properties {
        let needed = required.iter().any(|one| one == name.as_str());
        if !needed && dice.one_in(3) {
            continue;
        }
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        if let Some(value) = value(dice, field, &path) {
            fields.insert(name.clone(), value);
        }
    }
    fields
}

fn word(dice: &mut Dice) -> String {
    let length = 1 + dice.below(9);
    (0..length)
        .map(|_| *dice.pick(&['a', 'b', 'c', 'x', 'y', 'z']))
        .collect()
}

/// What stays from the first spec to the last.
struct Fixed {
    size: &'static str,
    class: Option<&'static str>,
    domain: Option<&'static str>,
}

impl Fixed {
    fn choose(dice: &mut Dice) -> Self {
        Self {
            size: dice.pick::<&str>(&["1Gi", "1024Mi", "3G"]),
            class: *dice.pick(&[None, Some("fast")]),
            domain: *dice.pick(&[None, Some("cluster.local")]),
        }
    }

    fn put(&self, spec: &mut Value, last: bool) {
        spec["storage"]["size"] = json!(self.size);
        if let Some(class) = self.class {
            spec["storage"]["className"] = json!(class);
        }
        if let Some(domain) = self.domain {
            spec["membership"]["domain"] = json!(domain);
        }
        if spec["image"]["repository"].is_null() {
            spec["image"]["repository"] = json!("registry.invalid/quorate");
        }
        // The default is longer than the test.
        if spec["membership"]["minHealthySeconds"].is_null() {
            spec["membership"]["minHealthySeconds"] = json!(0);
        }
        // Where the last one asks for a restart that it does not allow, it never comes to an end.
        if last {
            spec["paused"] = json!(false);
            spec["membership"]["acceptOutage"] = json!(true);
        }
    }
}

/// The schema of a cluster's spec, as the API server has it.
fn schema(world: &World) -> Value {
    let words = ["get", "crd", "quorateclusters.quorate.dev", "-o", "json"];
    let definition: Value =
        serde_json::from_str(&world.kubectl(&words)).expect("kubectl prints JSON");
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"].clone()
}

/// Applies a random spec that the API server takes; it, and how many it refused before.
fn apply_one(
    cluster: &Cluster,
    dice: &mut Dice,
    schema: &Value,
    fixed: &Fixed,
    last: bool,
) -> (Value, usize) {
    let mut complaint = String::new();
    for refused in 0..TRIES {
        let mut spec = Value::Object(fields(dice, schema, ""));
        fixed.put(&mut spec, last);
        match cluster.try_apply(&spec) {
            Ok(_) => return (spec, refused),
            Err(error) => complaint = error,
        }
    }
    panic!("{TRIES} specs in a row are refused, the last one with {complaint}");
}

fn sequence(world: &'static World, seed: u64, length: usize) {
    eprintln!("random specs: QUORATE_SEED_FIRST={seed}");
    let mut dice = Dice::new(seed);
    let schema = schema(world);
    let fixed = Fixed::choose(&mut dice);
    let mut first = json!({"version": env!("CARGO_PKG_VERSION"), "replicas": 1, "storage": {}});
    fixed.put(&mut first, false);
    let cluster = Cluster::create(world, &format!("specs-{seed}"), &first);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let (mut last, mut refused) = (first, 0);
    for number in 1..=length {
        let (spec, more) = apply_one(&cluster, &mut dice, &schema, &fixed, number == length);
        eprintln!("seed {seed}, spec {number}: {spec}");
        (last, refused) = (spec, refused + more);
        // The next edit comes at once, or when this one was seen, or when it has come to an end.
        let replicas = last["replicas"].as_u64().unwrap_or(3);
        let ends = last["paused"] != true && replicas > 0;
        match dice.below(3) {
            0 => {}
            1 => {
                cluster.until("the operator's notice", STEP, seen);
            }
            _ if ends && last["membership"]["acceptOutage"] == true => {
                cluster.until_ready(u32::try_from(replicas).expect("a small number"), STEP * 4);
            }
            _ => {
                cluster.until("the operator's notice", STEP, seen);
            }
        }
    }
    eprintln!("seed {seed}: {refused} specs were refused");
    // One that sleeps in the end is woken: only members that run can be compared.
    if last["replicas"] == 0 {
        fall_asleep(&cluster);
        last["replicas"] = json!(3);
        cluster.scale(3);
    }
    let voters = last["replicas"].as_u64().unwrap_or(3);
    let voters = u32::try_from(voters).expect("a small number");
    come_to_an_end(&cluster, voters);
    let fresh = Cluster::create(world, &format!("fresh-{seed}"), &last);
    let _operator = Operator::start(world, &Options::of(&fresh.ns.name));
    come_to_an_end(&fresh, voters);
    assert_same(&cluster, &fresh);
}

fn seen(object: &Value) -> bool {
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
}

fn fall_asleep(cluster: &Cluster) {
    cluster.until("sleep", STEP * 6, |object| {
        let status = &object["status"];
        seen(object)
            && condition(object, "Ready") == "False"
            && status["conditions"].to_string().contains("Hibernated")
            && status["replicas"] == 0
            && status["operation"].is_null()
            && cluster.list("pods").is_empty()
    });
}

fn come_to_an_end(cluster: &Cluster, voters: u32) {
    cluster.until("the last spec on every member", STEP * 6, |object| {
        seen(object)
            && condition(object, "VersionCurrent") == "True"
            && condition(object, "Ready") == "True"
    });
    cluster.until_ready(voters, STEP);
    cluster.assert_tidy(voters as usize);
}

#[test]
fn after_any_specs_a_cluster_is_as_if_only_the_last_was_asked_for() {
    let test = "after_any_specs_a_cluster_is_as_if_only_the_last_was_asked_for";
    let Some(world) = world(test) else { return };
    let seed = Dice::seed();
    let (sequences, length) = if whole() { (4, 6) } else { (1, 2) };
    for more in 0..sequences {
        sequence(world, seed + more, length);
    }
}
