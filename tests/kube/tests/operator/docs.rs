//! The commands of docs/operations.md, typed in its order.

use std::process::Command;

use crate::operator::{Operator, Options};
use crate::plugin::Person;
use crate::world::{Ns, whole, world};

const PAGE: &str = include_str!("../../../../docs/operations.md");

/// The first one makes the cluster.
fn blocks() -> Vec<&'static str> {
    let blocks = PAGE.split("<!-- run -->\n```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().expect("a block ends"))
        .collect()
}

#[test]
fn the_pages_commands_do_what_the_page_says() {
    let test = "the_pages_commands_do_what_the_page_says";
    if !whole() {
        return;
    }
    let Some(world) = world(test) else {
        return;
    };
    let blocks = blocks();
    assert_eq!(blocks.len(), 6, "sections that say that a test runs them");
    let ns = Ns::new(world, "page");
    let _operator = Operator::start(world, &Options::of(&ns.name));
    let person = Person::of(world, &ns.name);
    let sh = |text: &str| {
        let output = Command::new("sh")
            .args(["-euc", text])
            .env("PATH", person.path())
            .env("KUBECONFIG", person.kubeconfig())
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}\n{said}{complained}");
        said
    };
    for (index, block) in blocks.iter().enumerate() {
        let said = sh(block);
        match index {
            0 => {
                assert!(said.contains(": ready\n"), "{said}");
                // What the page says takes ten seconds a step, so that nobody acts on a moment's health.
                sh("kubectl patch quoratecluster/orders --type=merge \
                    --patch='{\"spec\": {\"membership\": {\"minHealthySeconds\": 0}}}'");
            }
            2 => assert!(
                !said.contains("orders-1 ") && said.contains("orders-5"),
                "{said}"
            ),
            5 => assert!(said.contains("data-orders-0"), "{said}"),
            _ => {}
        }
    }
}
