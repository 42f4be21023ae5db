//! The commands of docs/operations.md, typed in its order.

use serde_json::Value;

use crate::cluster::{Cluster, STEP};
use crate::operator::{Operator, Options};
use crate::plugin::Person;
use crate::world::{World, whole, world};

const PAGE: &str = include_str!("../../../../docs/operations.md");

/// What opens a block of commands, and what stands before one that the page says is run.
const COMMANDS: &str = "```sh\n";
const RUN: &str = "<!-- run -->\n";

/// Headings of the blocks that a run has the time for which is not whole; the first one makes the cluster.
const SHORT: [&str; 3] = ["Create", "Replace a member", "Delete and adopt"];

/// The blocks of commands under each heading, in the page's order, and whether the page says that they are run.
fn blocks() -> Vec<(&'static str, &'static str, bool)> {
    let mut all = Vec::new();
    for section in PAGE.split("\n## ").skip(1) {
        let (heading, text) = section.split_once('\n').expect("a heading ends");
        let mut parts = text.split(COMMANDS);
        let mut before = parts.next().unwrap_or_default();
        for part in parts {
            let (block, after) = part.split_once("```").expect("a block ends");
            all.push((heading, block, before.ends_with(RUN)));
            before = after;
        }
    }
    all
}

/// The block of this number under a heading.
fn block(heading: &str, number: usize) -> &'static str {
    let blocks = blocks();
    let mut of_it = blocks.iter().filter(|(other, ..)| *other == heading);
    let (_, block, _) = of_it
        .nth(number)
        .unwrap_or_else(|| panic!("no block {number} of commands under {heading:?}"));
    block
}

/// The cluster that the page makes, and who makes it.
struct Reader {
    cluster: Cluster,
    person: Person,
    _operator: Operator,
}

impl Reader {
    fn of(world: &'static World, word: &str) -> Self {
        let mut cluster = Cluster::planned(world, word);
        cluster.name = "orders".to_owned();
        let person = Person::of(world, &cluster.ns.name);
        let operator = Operator::start(world, &Options::of(&cluster.ns.name));
        Self {
            cluster,
            person,
            _operator: operator,
        }
    }

    /// Types a block, which must succeed; what it says.
    fn run(&self, text: &str, answers: &str) -> String {
        let output = self.person.shell("sh", text, answers);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}\n{said}{complained}");
        said
    }

    /// What the page says takes ten seconds a step, so that nobody acts on a moment's health.
    fn create(&self) {
        let block = block("Create", 0);
        let hurried = block.replace(
            "\nspec:\n",
            "\nspec:\n  membership:\n    minHealthySeconds: 0\n",
        );
        assert_ne!(block, hurried, "the spec begins as it did");
        let said = self.run(&hurried, "");
        assert!(said.contains(": ready\n"), "{said}");
    }

    /// Two of three lose their volumes; the ID of the cluster.
    fn lose_all_but(&self, survivor: &str) -> String {
        let object = self.cluster.until_ready(3, STEP);
        for name in self.cluster.members() {
            if name != survivor {
                let claim = format!("data-{name}");
                let words = ["--wait=false", "--grace-period=1"];
                self.cluster.kubectl(&["delete", "pvc", &claim, words[0]]);
                let delete = ["delete", "pod", &name];
                self.cluster.kubectl(&[&delete[..], &words].concat());
            }
        }
        self.cluster.until_waiting("QuorumLost", STEP);
        let id = object["status"]["clusterID"].as_str();
        id.expect("it has begun").to_owned()
    }

    fn until_recovered(&self, times: u64) {
        let recovered = |object: &Value| object["status"]["recovery"]["count"] == times;
        self.cluster.until("a recovery", STEP, recovered);
        self.cluster.until_ready(3, STEP * 2);
        let kept = ["get", "kept", "--print-value-only"];
        assert_eq!(self.cluster.etcdctl().ok(&kept).trim(), "yes");
    }
}

#[test]
fn the_pages_commands_do_what_the_page_says() {
    let test = "the_pages_commands_do_what_the_page_says";
    let Some(world) = world(test) else {
        return;
    };
    let mut blocks = blocks();
    blocks.retain(|(_, _, run)| *run);
    assert_eq!(
        blocks.len(),
        PAGE.matches(RUN).count(),
        "each mark stands before a block"
    );
    assert!(blocks.len() >= 6, "sections that say that a test runs them");
    if !whole() {
        blocks.retain(|(heading, ..)| SHORT.contains(heading));
        assert_eq!(blocks.len(), SHORT.len(), "{blocks:?}");
    }
    let reader = Reader::of(world, "page");
    for (heading, block, _) in blocks {
        if heading == "Create" {
            reader.create();
            continue;
        }
        let last = reader.cluster.list("quoratemembers").len();
        let next = reader.cluster.status()["nextMember"].clone();
        let said = reader.run(block, "");
        match heading {
            "Replace a member" => assert!(
                last > 0 && !said.contains("orders-1 ") && said.contains(&format!("orders-{next}")),
                "{said}"
            ),
            "Delete and adopt" => assert!(said.contains("data-orders-0"), "{said}"),
            _ => {}
        }
    }
}

#[test]
fn a_lost_quorum_is_recovered_as_the_page_says() {
    let Some(world) = world("a_lost_quorum_is_recovered_as_the_page_says") else {
        return;
    };
    let heading = "Recover a lost quorum";
    let reader = Reader::of(world, "lost-page");
    reader.create();
    reader.cluster.etcdctl().ok(&["put", "kept", "yes"]);

    // By hand.
    let id = reader.lose_all_but("orders-0");
    let by_hand = block(heading, 1);
    let (ask, order) = by_hand.split_once('\n').expect("two commands");
    assert_eq!(reader.run(ask, ""), id);
    assert!(order.contains("CLUSTER_ID/orders-0"), "{order}");
    reader.run(&order.replace("CLUSTER_ID", &id), "");
    reader.until_recovered(1);
    if !whole() {
        return;
    }

    // With the plugin, which asks.
    reader.lose_all_but("orders-0");
    let said = reader.run(block(heading, 0), &format!("orders-0\n{id}\n"));
    assert!(said.contains("orders is ready: 3 voters"), "{said}");
    reader.until_recovered(2);
}
