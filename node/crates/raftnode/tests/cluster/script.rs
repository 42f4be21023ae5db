//! Runs `testdata/cluster/*.txt`: commands, then `---`, then the trace that they must give.
//!
//! ```text
//! cluster voters=1,2,3 learners=4 leader=1   makes it, forgets the trace so far
//! put 1 a=1            a request at n1
//! read 2               a linearizable read at n2
//! tick 3 10 · tick all 10
//! crash 2 · restart 2 · join 4
//! cut 1,2 · heal       a partition: these against the rest
//! slow 2 · sync 2 · fast 2   n2's disk answers only when told
//! add 1 4 · learner 1 4 · promote 1 4 · remove 1 4   a conf change through n1
//! transfer 1 2         n1 hands the lead to n2
//! compact 1 10         n1 forgets its log up to 10
//! show                 messages and writes appear in the trace from here on
//! keys 1               what n1 holds
//! ```
//!
//! `QUORATE_BLESS=1` writes the traces anew.

use std::fmt::Write as _;
use std::path::Path;

use raftpb::MemberId;
use raftpb::conf::Change;

use crate::harness::{Cluster, member};

#[test]
fn scripts_give_their_traces() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cluster");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder exists")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10, "found {} scripts", paths.len());
    let mut wrong = String::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a script is text");
        let (commands, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let trace = run(commands);
        if trace == expected {
            continue;
        }
        if std::env::var_os("QUORATE_BLESS").is_some() {
            std::fs::write(&path, format!("{commands}---\n{trace}")).expect("can be written");
            continue;
        }
        let name = path.file_name().expect("it has one").to_string_lossy();
        writeln!(wrong, "{name}\nexpected\n{expected}\nfound\n{trace}").expect("a string");
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn run(commands: &str) -> String {
    let mut cluster = Cluster::default();
    for line in commands.lines() {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            command(&mut cluster, line);
        }
    }
    cluster
        .trace
        .iter()
        .fold(String::new(), |text, line| text + line + "\n")
}

fn command(cluster: &mut Cluster, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let id = |at: usize| -> u64 {
        words
            .get(at)
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{line:?}: expected a number at word {at}"))
    };
    match words[0] {
        "cluster" => make(cluster, &words[1..]),
        "put" => cluster.put(id(1), words[2]),
        "puts" => {
            for n in 0..id(2) {
                cluster.put(id(1), &format!("k{n}=v"));
            }
        }
        "read" => drop(cluster.read(id(1))),
        "tick" if words[1] == "all" => cluster.tick_all(id(2) as u32),
        "tick" => cluster.tick(id(1), id(2) as u32),
        "crash" => cluster.crash(id(1)),
        "restart" => cluster.restart(id(1)),
        "join" => cluster.join(id(1)),
        "cut" => cluster.partition(&list(words[1])),
        "heal" => cluster.cut.clear(),
        "slow" => cluster.node(id(1)).slow_disk = true,
        "sync" => cluster.sync(id(1)),
        "fast" => {
            cluster.node(id(1)).slow_disk = false;
            cluster.sync(id(1));
        }
        "add" => cluster.change(id(1), &Change::Add(member(id(2)))),
        "learner" => {
            let mut learner = member(id(2));
            learner.is_learner = true;
            cluster.change(id(1), &Change::AddLearner(learner));
        }
        "promote" => cluster.change(id(1), &Change::Promote(MemberId(id(2)))),
        "remove" => cluster.change(id(1), &Change::Remove(MemberId(id(2)))),
        "transfer" => {
            let to = MemberId(id(2));
            cluster.node(id(1)).inputs.transfer_to = Some(to);
            cluster.settle();
        }
        "compact" => {
            let index = id(2);
            cluster.node(id(1)).inputs.compact_to = Some(index);
            cluster.settle();
        }
        "show" => cluster.show_messages = true,
        "keys" => {
            let keys = format!("n{} keys {:?}", id(1), cluster.node(id(1)).machine.keys);
            cluster.trace.push(keys);
        }
        other => panic!("{line:?}: no command {other:?}"),
    }
}

fn make(cluster: &mut Cluster, words: &[&str]) {
    let option = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
    let voters = list(option("voters=").expect("voters"));
    *cluster = Cluster::new(&voters, 1);
    if let Some(leader) = option("leader=") {
        let leader = leader.parse().expect("a number");
        cluster.elect(leader);
        for learner in option("learners=").map(list).unwrap_or_default() {
            cluster.join(learner);
            let mut member = member(learner);
            member.is_learner = true;
            cluster.change(leader, &Change::AddLearner(member));
        }
        cluster.tick(leader, 1);
    }
    cluster.trace.clear();
}

fn list(text: &str) -> Vec<u64> {
    text.split(',')
        .map(|id| id.parse().expect("a number"))
        .collect()
}
