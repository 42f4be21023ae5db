//! A QuorateCluster under test: what a person does to it, what it says, and what its members say.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Etcdctl, eventually};

use crate::calls::Calls;
use crate::world::{Ns, World};

/// How long one change of the membership may take on two busy cores: a Pod, a learner, five seconds until the
/// leader counts it as healthy, a promotion.
pub const STEP: Duration = Duration::from_secs(60);

/// One cluster, in a namespace of its own.
pub struct Cluster {
    /// where
    pub ns: Ns,
    /// its name
    pub name: String,
    world: &'static World,
}

/// The spec that tests begin with: small, and in a hurry.
pub fn spec(replicas: u32) -> Value {
    json!({
        "replicas": replicas,
        "version": env!("CARGO_PKG_VERSION"),
        "image": {"repository": "registry.invalid/quorate"},
        "storage": {"size": "1Gi"},
        "membership": {"minHealthySeconds": 0, "replaceFailedAfter": "3s", "maxReplacementsPerHour": 60},
    })
}

impl Cluster {
    /// Applies one of this spec in a new namespace.
    pub fn create(world: &'static World, word: &str, spec: &Value) -> Self {
        Self::create_in(world, Ns::new(world, word), spec)
    }

    /// The same, with a door before its members.
    pub fn behind_a_door(world: &'static World, word: &str, spec: &Value) -> Self {
        let ns = Ns::new(world, word);
        let calls = Calls::new(world.client.clone(), &ns.name);
        world.kubelet.put_before(&ns.name, calls);
        Self::create_in(world, ns, spec)
    }

    fn create_in(world: &'static World, ns: Ns, spec: &Value) -> Self {
        let cluster = Self::planned_in(world, ns);
        cluster.apply(spec);
        cluster
    }

    /// Only its namespace.
    pub fn planned(world: &'static World, word: &str) -> Self {
        Self::planned_in(world, Ns::new(world, word))
    }

    fn planned_in(world: &'static World, ns: Ns) -> Self {
        Self {
            ns,
            name: "q".to_owned(),
            world,
        }
    }

    /// Where it is.
    pub fn world(&self) -> &'static World {
        self.world
    }

    /// kubectl apply.
    pub fn apply(&self, spec: &Value) {
        self.try_apply(spec)
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// kubectl apply, which may be refused.
    pub fn try_apply(&self, spec: &Value) -> Result<String, String> {
        self.world.apply(&json!({
            "apiVersion": "quorate.dev/v1alpha1", "kind": "QuorateCluster",
            "metadata": {"name": self.name, "namespace": self.ns.name},
            "spec": spec,
        }))
    }

    /// kubectl in its namespace, which must succeed.
    pub fn kubectl(&self, words: &[&str]) -> String {
        let mut all = vec!["-n", self.ns.name.as_str()];
        all.extend(words);
        self.world.kubectl(&all)
    }

    /// kubectl scale.
    pub fn scale(&self, replicas: u32) {
        self.kubectl(&["scale", "qc", &self.name, &format!("--replicas={replicas}")]);
    }

    /// A change of the spec.
    pub fn patch(&self, spec: &Value) {
        let patch = json!({"spec": spec}).to_string();
        self.kubectl(&["patch", "qc", &self.name, "--type=merge", "-p", &patch]);
    }

    /// Its namespace takes so many objects of a kind.
    pub fn set_quota(&self, kind: &str, most: u32) {
        self.world
            .apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota",
                "metadata": {"name": "few", "namespace": self.ns.name},
                "spec": {"hard": {kind: most.to_string()}}}))
            .expect("a quota");
    }

    /// Objects of a kind in its namespace.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let path = match kind {
            "quorateclusters" | "quoratemembers" => "/apis/quorate.dev/v1alpha1",
            "poddisruptionbudgets" => "/apis/policy/v1",
            "events" => "/apis/events.k8s.io/v1",
            _ => "/api/v1",
        };
        let uri = format!("{path}/namespaces/{}/{kind}", self.ns.name);
        let request = http::Request::get(uri).body(Vec::new()).expect("a URI");
        let list: Value = self
            .world
            .wait(self.world.client.request(request))
            .expect("an administrator can list");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The object, or null.
    pub fn object(&self) -> Value {
        self.list("quorateclusters")
            .into_iter()
            .find(|one| one["metadata"]["name"] == self.name)
            .unwrap_or_default()
    }

    /// Its status.
    pub fn status(&self) -> Value {
        self.object()["status"].clone()
    }

    /// Waits until the cluster's object is so; what it was otherwise is in the panic.
    pub fn until(&self, what: &str, within: Duration, so: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{what} of {}", self.ns.name), within, || {
            let object = self.object();
            if so(&object) {
                return Ok(object);
            }
            std::thread::sleep(Duration::from_millis(100));
            Err(self.told(&object))
        })
    }

    fn told(&self, object: &Value) -> String {
        let status = &object["status"];
        let names = |kind: &str| -> Vec<String> {
            self.list(kind)
                .iter()
                .map(|one| {
                    let deleted = if one["metadata"]["deletionTimestamp"].is_null() {
                        ""
                    } else {
                        " (deleted)"
                    };
                    format!(
                        "{}{deleted}",
                        one["metadata"]["name"].as_str().unwrap_or_default()
                    )
                })
                .collect()
        };
        format!(
            "target {} operation {} blocked {} waiting {} quorum {} members {} pods {:?} claims {:?}",
            status["target"]["replicas"],
            status["operation"],
            status["blocked"],
            status["waiting"],
            status["quorum"],
            status["members"]
                .as_array()
                .map(|all| all
                    .iter()
                    .map(|one| format!("{} {} {}", one["name"], one["role"], one["health"]))
                    .collect::<Vec<_>>()
                    .join(", "))
                .unwrap_or_default(),
            names("pods"),
            names("persistentvolumeclaims"),
        )
    }

    /// Waits until it is Ready with so many voters and nothing under way.
    pub fn until_ready(&self, voters: u32, within: Duration) -> Value {
        let object = self.until(&format!("{voters} voters, ready"), within, |object| {
            let status = &object["status"];
            status["observedGeneration"] == object["metadata"]["generation"]
                && condition(object, "Ready") == "True"
                && status["quorum"]["voters"] == voters
                && status["quorum"]["learners"] == 0
                && status["operation"].is_null()
        });
        assert_eq!(object["status"]["readyReplicas"], voters);
        object
    }

    /// Waits until something is waited for with this reason.
    pub fn until_waiting(&self, reason: &str, within: Duration) -> Value {
        self.until(&format!("reason {reason}"), within, |object| {
            reasons(object).iter().any(|one| one == reason)
        })
    }

    /// The addresses of members that are ready.
    pub fn endpoints(&self) -> Vec<String> {
        self.world
            .kubelet
            .ready_addresses(&self.ns.name)
            .iter()
            .map(|address| format!("{address}:2379"))
            .collect()
    }

    /// etcdctl for the members that are ready. The stand-in may hear of it later than the operator.
    pub fn etcdctl(&self) -> Etcdctl {
        let endpoints = eventually("a member that is ready", STEP, || {
            let endpoints = self.endpoints();
            if endpoints.is_empty() {
                std::thread::sleep(Duration::from_millis(50));
                return Err("none is".to_owned());
            }
            Ok(endpoints)
        });
        Etcdctl::new(&endpoints).expect("looked for before")
    }

    /// Where a member is reached.
    pub fn address(&self, member: &str) -> String {
        self.list("pods")
            .iter()
            .find(|pod| pod["metadata"]["name"] == member)
            .and_then(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
            .unwrap_or_else(|| panic!("{member} has no Pod with an address"))
    }

    /// Members by name: their ID and whether they learn; from the members themselves.
    pub fn member_list(&self) -> BTreeMap<String, (u64, bool)> {
        let list = self.etcdctl().json(&["member", "list"]);
        list["members"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|member| {
                let learner = member["isLearner"].as_bool().unwrap_or_default();
                let name = member["name"].as_str().unwrap_or_default().to_owned();
                (name, (member["ID"].as_u64().unwrap_or_default(), learner))
            })
            .collect()
    }

    /// Names of the members' objects.
    pub fn members(&self) -> Vec<String> {
        names(&self.list("quoratemembers"))
    }

    /// Waits until an Event about it has this reason.
    pub fn until_event(&self, reason: &str) {
        eventually(&format!("an Event {reason}"), STEP, || {
            let reasons: Vec<String> = self
                .list("events")
                .iter()
                .filter(|one| one["regarding"]["kind"] == "QuorateCluster")
                .filter_map(|one| one["reason"].as_str().map(str::to_owned))
                .collect();
            if reasons.iter().any(|one| one == reason) {
                Ok(())
            } else {
                Err(format!("{reasons:?}"))
            }
        });
    }

    /// Waits until the objects are those of so many members, and nothing is left of others.
    ///
    /// A cluster is ready before the last Pod of a former member has ended.
    pub fn assert_tidy(&self, members: usize) {
        eventually(&format!("the objects of {members} members"), STEP, || {
            let objects = sorted(self.members());
            let pods = sorted(names(&self.list("pods")));
            let claims: Vec<String> = self
                .list("persistentvolumeclaims")
                .iter()
                .filter(|one| one["metadata"]["labels"]["quorate.dev/released"] != "true")
                .filter_map(|one| one["metadata"]["name"].as_str())
                .filter_map(|name| name.strip_prefix("data-").map(str::to_owned))
                .collect();
            let claims = sorted(claims);
            let live = sorted(self.member_list().into_keys().collect());
            let alike = pods == objects && claims == objects && live == objects;
            if alike && objects.len() == members {
                Ok(())
            } else {
                Err(format!(
                    "objects {objects:?}, Pods {pods:?}, claims {claims:?}, members {live:?}"
                ))
            }
        });
    }
}

/// The names of objects.
pub fn names(objects: &[Value]) -> Vec<String> {
    objects
        .iter()
        .filter_map(|one| one["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words
}

/// The status of a condition, or nothing.
pub fn condition(object: &Value, kind: &str) -> String {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["type"] == kind)
        .and_then(|one| one["status"].as_str())
        .unwrap_or_default()
        .to_owned()
}

/// The reasons that status lists.
pub fn reasons(object: &Value) -> Vec<String> {
    object["status"]["waiting"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["reason"].as_str().map(str::to_owned))
        .collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in self.members() {
                let log = self.world.kubelet.log(&self.ns.name, &member);
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n");
                eprintln!("--- log of {member}\n{tail}");
            }
        }
    }
}
