//! `kubectl quorate`, run by kubectl as a person runs it.
//!
//! There is no kubelet to ask, so what the plugin would run in a member's Pod runs here: the members' addresses
//! are this machine's. All else goes to the real kubectl.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use testkit::eventually;

use crate::cluster::{Cluster, STEP, spec};
use crate::control::program;
use crate::operator::{Operator, Options};
use crate::world::{World, world};

/// What `kubectl` is here; `REAL` is kubectl, `LOG` has a line for each word that a kubelet would have got.
const KUBECTL: &str = r#"#!/bin/sh
for word in "$@"; do
    if [ "$word" = exec ]; then
        echo "$*" >> LOG
        while [ "$1" != -- ]; do shift; done
        shift
        exec "$@"
    fi
done
exec REAL "$@"
"#;

/// A person's surroundings: a PATH and a kubeconfig.
pub struct Person {
    dir: PathBuf,
}

impl Person {
    /// One whose kubeconfig names a namespace.
    pub fn of(world: &World, namespace: &str) -> Self {
        let dir = world.dir().join(format!("person-{namespace}"));
        fs::create_dir_all(&dir).expect("the tests' own folder");
        let kubectl = KUBECTL
            .replace("REAL", &program("kubectl").display().to_string())
            .replace("LOG", &dir.join("log").display().to_string());
        fs::write(dir.join("kubectl"), kubectl).expect("the tests' own folder");
        fs::set_permissions(dir.join("kubectl"), fs::Permissions::from_mode(0o755))
            .expect("the tests' own file");
        let plugin = plugin();
        let links = [
            (testkit::quorate(), "quorate"),
            (plugin.clone(), "kubectl-quorate"),
            (
                plugin.with_file_name("kubectl_complete-quorate"),
                "kubectl_complete-quorate",
            ),
        ];
        for (program, name) in links {
            assert!(program.exists(), "{} is not built", program.display());
            symlink(program, dir.join(name)).expect("the tests' own folder");
        }
        fs::copy(&world.control.kubeconfig, dir.join("config")).expect("a copy");
        let person = Self { dir };
        let current = format!("--namespace={namespace}");
        person.ok(&["config", "set-context", "--current", &current]);
        person
    }

    fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{path}", self.dir.display())
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// kubectl, with what is typed.
    pub fn type_in(&self, words: &[&str], typed: &str) -> Output {
        self.run(Command::new(self.dir.join("kubectl")).args(words), typed)
    }

    /// Commands of a shell, which ends at the first that fails, with what is typed.
    pub fn shell(&self, shell: &str, text: &str, typed: &str) -> Output {
        self.run(Command::new(shell).args(["-euc", text]), typed)
    }

    fn run(&self, command: &mut Command, typed: &str) -> Output {
        let mut child = command
            .env("PATH", self.path())
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut stdin = child.stdin.take().expect("asked for as a pipe");
        // One that asks nothing may have ended by now.
        let _ = stdin.write_all(typed.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("our own child")
    }

    /// kubectl, which must succeed.
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.type_in(words, "");
        assert!(output.status.success(), "{words:?}: {}", complaint(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// kubectl, which must fail as kubectl fails; its complaint.
    pub fn refused(&self, words: &[&str]) -> String {
        let output = self.type_in(words, "");
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        complaint(&output)
    }

    /// What would have been run in Pods.
    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

/// What a program has said on its standard error.
pub fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn plugin() -> PathBuf {
    if let Some(path) = std::env::var_os("QUORATE_PLUGIN_BIN") {
        return path.into();
    }
    let here = std::env::current_exe().expect("a test knows its own program");
    let folder = here.ancestors().nth(2).map(Path::to_owned);
    let path = folder
        .expect("a test lies in <profile>/deps")
        .join("kubectl-quorate");
    assert!(
        path.exists(),
        "{} is not there; build it with `cargo build -p kubectl-quorate`, or set QUORATE_PLUGIN_BIN",
        path.display()
    );
    path
}

fn annotation(object: &Value) -> &Value {
    &object["metadata"]["annotations"]["quorate.dev/recover-from"]
}

#[test]
fn a_person_sees_what_is_refused_and_promotes_by_hand() {
    let Some(world) = world("a_person_sees_what_is_refused_and_promotes_by_hand") else {
        return;
    };
    let mut wanted = spec(1);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let cluster = Cluster::create(world, "plugin", &wanted);
    let mut operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let person = Person::of(world, &cluster.ns.name);
    cluster.until_ready(1, STEP);
    let said = person.ok(&["quorate", "status"]);
    let ready = format!("q, namespace {}: ready\n", cluster.ns.name);
    assert!(said.starts_with(&ready), "{said}");
    assert!(
        said.contains("1 voter, 1 healthy, 1 needed: none may be lost"),
        "{said}"
    );
    // A note, of the one voter.
    assert!(said.contains("    EvictionsRefused (for "), "{said}");

    // What kubectl refuses is said in kubectl's words, and completion is kubectl's too.
    let said = person.refused(&["quorate", "status", "nothing"]);
    assert_eq!(
        said,
        "Error from server (NotFound): quorateclusters.quorate.dev \"nothing\" not found\n"
    );
    let offered = person.ok(&["__complete", "quorate", "status", ""]);
    assert_eq!(offered.lines().collect::<Vec<_>>(), ["q", ":4"]);
    // The script for a shell of its own, as bash runs it when a person asks for the rest of a word.
    let offered = |words: &str| -> String {
        let text = format!(
            "source <(kubectl quorate completion bash)
            complete -p kubectl-quorate
            COMP_WORDS=({words}) COMP_CWORD=$(({}))
            _kubectl_quorate
            echo \"${{COMPREPLY[*]}}\"",
            words.split(' ').count() - 1
        );
        let output = person.shell("bash", &text, "");
        assert!(output.status.success(), "{}", complaint(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let bound = "complete -F _kubectl_quorate kubectl-quorate\n";
    for (words, rest) in [
        ("kubectl-quorate stat", "status\n"),
        ("kubectl-quorate status ''", "q\n"),
        ("kubectl-quorate promote q q-", "\n"),
        ("kubectl-quorate completion ''", "bash zsh fish\n"),
    ] {
        assert_eq!(offered(words), format!("{bound}{rest}"), "{words}");
    }

    // The operator ends between the learner's Pod and its promotion.
    cluster.scale(3);
    cluster.until("a learner with a Pod", STEP, |_| {
        cluster.list("pods").len() > 1 && cluster.member_list().values().any(|(_, learns)| *learns)
    });
    operator.kill();
    let endpoints = format!("--endpoints={}:2379", cluster.address("q-0"));
    let promote = ["quorate", "promote", "q", "q-1", &endpoints];
    let said = eventually("a promotion", STEP, || {
        let output = person.type_in(&promote, "");
        // It has to be caught up, and healthy for two seconds: so says the leader.
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(complaint(&output))
        }
    });
    assert!(said.contains("is promoted: q has 2 voters"), "{said}");
    assert_eq!(person.refused(&promote), "error: q-1 votes already\n");
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(3, STEP * 2);
    let id = object["status"]["clusterID"]
        .as_str()
        .expect("text")
        .to_owned();

    // A voter is down, and the person wants more.
    world.kubelet.stop(&cluster.ns.name, "q-2");
    cluster.until("a voter less", STEP, |object| {
        object["status"]["quorum"]["healthyVoters"] == 2
    });
    cluster.scale(5);
    cluster.until("a refusal", STEP, |object| {
        object["status"]["blocked"]["reason"] == "QuorumUnsafe"
    });
    let said = person.ok(&["quorate", "status", "q"]);
    for words in [
        "3 voters, 2 healthy, 2 needed: none may be lost",
        "refused\n    QuorumUnsafe",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let row = said
        .lines()
        .find(|line| line.trim_start().starts_with("q-2 "));
    assert!(row.is_some_and(|row| !row.contains("healthy")), "{said}");
    let told: Value =
        serde_json::from_str(&person.ok(&["quorate", "status", "q", "-ojson"])).expect("JSON");
    assert_eq!(told["clusters"][0]["clusterID"], id.as_str());
    assert_eq!(told["clusters"][0]["blocked"]["reason"], "QuorumUnsafe");

    // The members say so too, asked from one of them.
    let said = person.ok(&["quorate", "explain", "q"]);
    assert!(
        said.contains("3 voters, 2 healthy, 2 needed: none may be lost"),
        "{said}"
    );
    assert!(said.contains("what looks wrong, and what to do"), "{said}");
    let log = person.log();
    let leader = cluster.status()["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    assert!(
        log.contains(&format!("exec {leader} -c quorate -- quorate explain ")),
        "{log}"
    );

    // And with a quorum nothing is recovered: not by the plugin, and not by the operator.
    let recover = [
        "quorate",
        "recover",
        "q",
        "--survivor=q-0",
        "--cluster-id",
        &id,
    ];
    let said = person.refused(&recover);
    assert!(
        said.contains("the quorum of q is not lost; nothing was changed"),
        "{said}"
    );
    assert!(annotation(&cluster.object()).is_null());
    let order = format!("quorate.dev/recover-from={id}/q-0");
    person.ok(&["annotate", "qc", "q", &order]);
    cluster.until("the order taken away", STEP, |object| {
        annotation(object).is_null()
    });
    cluster.until_event("RecoveryRefused");
    operator.assert_rights_suffice();
}
