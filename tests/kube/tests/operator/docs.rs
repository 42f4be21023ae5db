//! The commands of docs/operations.md, typed in its order.

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

/// The page has two ways out of it, with the plugin and by hand.
const RECOVER: &str = "Recover a lost quorum";

/// The cluster that the page makes, and who makes it.
struct Reader {
    cluster: Cluster,
    person: Person,
    _operator: Operator,
}

impl Reader {
    fn of(world: &'static World, word: &str) -> Self {
        // The version that the page upgrades to: the same program under another name.
        world.kubelet.add_image("quorate:0.2.0", testkit::quorate());
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

    /// Loses a quorum and types one of the page's two ways out of it. The plugin asks, and takes its time for it.
    fn recover(&self, block: &str) {
        let by_hand = block.contains("annotate");
        if !by_hand && !whole() {
            return;
        }
        // A member that is being replaced may still be ready when it is asked, and gone before it answers.
        self.cluster.until_ready(3, STEP);
        self.cluster.etcdctl().ok(&["put", "kept", block]);
        let before = self.cluster.status()["recovery"]["count"]
            .as_u64()
            .unwrap_or_default();
        let id = self.lose_all_but("orders-0");
        if by_hand {
            let (ask, order) = block.split_once('\n').expect("two commands");
            assert_eq!(self.run(ask, ""), id);
            assert!(order.contains("CLUSTER_ID/orders-0"), "{order}");
            self.run(&order.replace("CLUSTER_ID", &id), "");
        } else {
            let said = self.run(block, &format!("orders-0\n{id}\n"));
            assert!(said.contains("orders is ready: 3 voters"), "{said}");
        }
        self.cluster.until("a recovery", STEP, |object| {
            object["status"]["recovery"]["count"] == before + 1
        });
        self.cluster.until_ready(3, STEP * 2);
        let kept = self
            .cluster
            .etcdctl()
            .ok(&["get", "kept", "--print-value-only"]);
        assert_eq!(kept.trim(), block.trim());
    }
}

#[test]
fn the_pages_commands_do_what_the_page_says() {
    let test = "the_pages_commands_do_what_the_page_says";
    let Some(world) = world(test) else {
        return;
    };
    let all = blocks();
    let marked = all.iter().filter(|(_, _, run)| *run).count();
    let marks = PAGE.matches(RUN).count();
    assert!(
        marked >= 7 && marked == marks,
        "{marks} marks, {marked} blocks"
    );
    let ways_out = all.iter().filter(|(heading, ..)| *heading == RECOVER);
    assert_eq!(ways_out.count(), 2, "{RECOVER}");
    let reader = Reader::of(world, "page");
    for (heading, block, run) in all {
        if heading == RECOVER {
            reader.recover(block);
            continue;
        }
        if !run || !(whole() || SHORT.contains(&heading)) {
            continue;
        }
        if heading == "Create" {
            reader.create();
            continue;
        }
        let next = reader.cluster.status()["nextMember"].clone();
        let said = reader.run(block, "");
        match heading {
            "Replace a member" => assert!(
                !said.contains("orders-1 ") && said.contains(&format!("orders-{next}")),
                "{said}"
            ),
            "Upgrade and change options" if block.contains("0.2.0") => assert!(
                said.matches(" 0.2.0 ").count() == 3 && !said.contains("0.1.0"),
                "{said}"
            ),
            "Delete and adopt" => assert!(said.contains("data-orders-0"), "{said}"),
            _ => {}
        }
    }
    assert!(
        reader.cluster.object().is_null(),
        "the page's last commands delete it"
    );
}
