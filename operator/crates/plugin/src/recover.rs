//! `kubectl quorate recover`: the way out when the quorum is lost for good.
//!
//! ```text
//! look     is it lost, in the operator's eyes and in the members' own?   else: refused, nothing changed
//! show     what each survivor has, and what would be lost with it
//! ask      the survivor's name and the cluster's ID, typed or given
//! look     once more: what was seen has to hold still
//! order    the annotation, conditional on the object that was looked at
//! wait     until the cluster is ready; an order that is refused is taken back
//! ```
//!
//! The operator follows the order, and judges it anew.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use crd::{ConditionType, OperationKind, RECOVER_FROM_ANNOTATION, Reason};
use local::flags::Given;

use crate::ask::{Answer, Seen, list, survey};
use crate::kubectl::{CLUSTERS, Cluster, Kubectl, Member, Refused};
use crate::say;
use crate::words::{columns, health, or_dash, quorum, role};

/// Between two looks while we wait.
const PAUSE: Duration = Duration::from_secs(1);

/// The operator answers an order within this time; a refusal that stands there from before is then its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The object changes under us when the operator writes its status.
const TRIES: usize = 10;

/// `kubectl quorate recover NAME`
pub fn command(given: &Given) -> Result<()> {
    let name = &given.words[0];
    let wait_s: u64 = given.number("wait-timeout", 0, 86_400)?;
    let kubectl = Kubectl::of(given);
    let cluster = kubectl.cluster(name)?;
    let members = cluster.own(&kubectl.members(false)?);
    must_be_lost(&cluster)?;
    let seen = match survey(&kubectl, &cluster, &members, &list(given.text("endpoints"))) {
        Ok(seen) => seen,
        Err(error) => {
            eprintln!("The members could not be asked: {error:#}");
            None
        }
    };
    if let Some(seen) = &seen {
        must_not_decide(name, seen)?;
    }
    say(&shown(&cluster, &members, seen.as_ref()))?;

    let survivor = asked(given, "survivor", "Name of the survivor: ")?;
    must_be_a_member(&cluster, &members, &survivor)?;
    let id = asked(given, "cluster-id", "ID of the cluster: ")?;
    let latched = cluster_id(&cluster)?;
    ensure!(
        id == latched,
        "{id:?} is not the ID of {name}, which is {latched}; nothing was changed"
    );
    let order = order_text(&latched, &survivor, given.is_on("others-are-gone"));
    let before = give(&kubectl, name, &order)?;
    say(&format!(
        "{CLUSTERS}/{name} annotated: {RECOVER_FROM_ANNOTATION}={order}\n"
    ))?;
    if wait_s == 0 {
        return Ok(());
    }
    wait(&kubectl, &before, &order, Duration::from_secs(wait_s))
}

fn cluster_id(cluster: &Cluster) -> Result<String> {
    let id = cluster
        .status
        .as_ref()
        .and_then(|status| status.cluster_id.as_ref());
    let name = &cluster.metadata.name;
    let id = id.with_context(|| {
        format!("{name} never had a quorum, so there is nothing to recover; nothing was changed")
    })?;
    Ok(id.to_string())
}

/// As the operator reads it.
pub fn order_text(cluster_id: &str, survivor: &str, others_are_gone: bool) -> String {
    let gone = if others_are_gone {
        "/others-are-gone"
    } else {
        ""
    };
    format!("{cluster_id}/{survivor}{gone}")
}

/// The operator says that the quorum is lost, of the object as it is, and would follow an order.
pub fn must_be_lost(cluster: &Cluster) -> Result<()> {
    let name = &cluster.metadata.name;
    cluster_id(cluster)?;
    ensure!(
        !cluster.spec.paused,
        "{name} is paused, so the operator follows no order; set spec.paused to false first"
    );
    let available = cluster.condition(ConditionType::Available);
    let lost = available
        .is_some_and(|one| one.status == "False" && one.reason == Reason::QuorumLost.as_str());
    let under_way = cluster
        .status
        .as_ref()
        .and_then(|status| status.operation.as_ref())
        .is_some_and(|operation| operation.kind == OperationKind::RecoverQuorum);
    ensure!(
        !under_way,
        "a recovery of {name} is under way; `kubectl quorate status {name}` shows it"
    );
    ensure!(
        lost,
        "the quorum of {name} is not lost; nothing was changed. {}",
        match available {
            Some(one) => format!(
                "Available is {}, {}: {}",
                one.status, one.reason, one.message
            ),
            None => "The operator does not say whether it is available".to_owned(),
        }
    );
    Ok(())
}

/// And so do the members themselves, as far as they were asked.
pub fn must_not_decide(name: &str, seen: &Seen) -> Result<()> {
    ensure!(
        !seen.decides,
        "the members of {name} have a leader and commit; nothing was changed"
    );
    let voters = seen.members.iter().filter(|one| one.role == "voter");
    let answering = voters.clone().filter(|one| one.answer.is_some()).count();
    let needed = voters.count() / 2 + 1;
    ensure!(
        answering < needed,
        "{answering} voters of {name} answer, {needed} are a quorum: they may elect a leader at any moment; nothing was changed"
    );
    Ok(())
}

fn must_be_a_member(cluster: &Cluster, members: &[Member], survivor: &str) -> Result<()> {
    let names: Vec<&str> = members
        .iter()
        .map(|member| member.metadata.name.as_str())
        .collect();
    ensure!(
        names.contains(&survivor),
        "{} has no member {survivor:?}, it has {}; nothing was changed",
        cluster.metadata.name,
        names.join(", ")
    );
    Ok(())
}

/// What a person has to know before naming the survivor.
pub fn shown(cluster: &Cluster, members: &[Member], seen: Option<&Seen>) -> String {
    let name = &cluster.metadata.name;
    let mut text = format!(
        "{name}, namespace {}: the quorum is lost\n",
        cluster.metadata.namespace
    );
    if let Some(id) = cluster
        .status
        .as_ref()
        .and_then(|one| one.cluster_id.as_ref())
    {
        text.push_str(&format!("  cluster    {id}\n"));
    }
    if let Some(available) = cluster.condition(ConditionType::Available) {
        text.push_str(&format!(
            "  operator   {}\n",
            told(cluster, &available.message)
        ));
    }
    text.push('\n');
    text.push_str(&table(cluster, members, seen));
    text.push_str(
        "\nBring the others back if there is any way to: then nothing is lost.\n\
         The cluster goes on from the survivor's data. What only the others had is lost for good, and their members never come back.\n",
    );
    match furthest(seen) {
        Some((best, _)) => text.push_str(&format!("The least is lost with {best}.\n")),
        None => text.push_str(
            "No member says how long its log is: choose the one that led last, or start their Pods first.\n",
        ),
    }
    text
}

/// The reason in full where there is one: it names who still answers.
fn told(cluster: &Cluster, short: &str) -> String {
    let waiting = cluster.status.iter().flat_map(|status| &status.waiting);
    let mut lost = waiting.filter(|one| one.reason == Reason::QuorumLost.as_str());
    lost.next()
        .map_or_else(|| short.to_owned(), |one| one.message.clone())
}

fn answer_of<'a>(seen: Option<&'a Seen>, name: &str) -> Option<&'a Answer> {
    let mut members = seen?.members.iter();
    members.find(|one| one.name == name)?.answer.as_ref()
}

/// The voter with the highest term, and of those the one with the longest log.
fn furthest(seen: Option<&Seen>) -> Option<(&str, &Answer)> {
    let voters = seen?.members.iter().filter(|one| one.role == "voter");
    voters
        .filter_map(|one| Some((one.name.as_str(), one.answer.as_ref()?)))
        .max_by_key(|(name, answer)| (answer.term, answer.committed, std::cmp::Reverse(*name)))
}

fn table(cluster: &Cluster, members: &[Member], seen: Option<&Seen>) -> String {
    let mut rows = vec![
        [
            "MEMBER",
            "WAS",
            "HEALTH",
            "TERM",
            "LOG UP TO",
            "APPLIED",
            "REVISION",
            "WITH IT IS LOST",
        ]
        .map(str::to_owned),
    ];
    for member in members {
        let name = &member.metadata.name;
        let summaries = cluster.status.iter().flat_map(|status| &status.members);
        let summary = summaries.clone().find(|one| one.name == *name);
        let answer = answer_of(seen, name);
        let number = |of: fn(&Answer) -> u64| or_dash(answer.map(|answer| of(answer).to_string()));
        let lost = match (answer, furthest(seen)) {
            (None, _) => "unknown, it does not answer".to_owned(),
            (Some(answer), Some((best, most)))
                if best != name
                    && (answer.term, answer.committed) < (most.term, most.committed) =>
            {
                let fewer = most.committed.saturating_sub(answer.committed);
                format!("{fewer} entries that {best} has, and what only the others had")
            }
            (Some(answer), _) => {
                format!("what only the others had, after entry {}", answer.committed)
            }
        };
        rows.push([
            name.clone(),
            summary.map_or("unknown", |one| role(one.role)).to_owned(),
            summary
                .map_or("unknown", |one| health(one.health))
                .to_owned(),
            number(|answer| answer.term),
            number(|answer| answer.committed),
            number(|answer| answer.applied),
            or_dash(answer.map(|answer| answer.revision.to_string())),
            lost,
        ]);
    }
    columns(&rows, "  ")
}

/// The flag's value, or what is typed.
fn asked(given: &Given, flag: &'static str, question: &str) -> Result<String> {
    if given.is_set(flag) {
        return Ok(given.text(flag).to_owned());
    }
    // Not on the standard output: that may go to a file.
    eprint!("{question}");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let line = line.trim();
    ensure!(
        !line.is_empty(),
        "nothing was typed, nothing was changed; --{flag} gives it without a question"
    );
    Ok(line.to_owned())
}

/// Writes the order into the object as it was looked at; that object, for the comparison later.
fn give(kubectl: &Kubectl, name: &str, order: &str) -> Result<Cluster> {
    let mut conflict = None;
    for _ in 0..TRIES {
        let cluster = kubectl.cluster(name)?;
        must_be_lost(&cluster)?;
        let annotation = format!("{RECOVER_FROM_ANNOTATION}={order}");
        let version = format!("--resource-version={}", cluster.metadata.resource_version);
        let words = [
            "annotate",
            CLUSTERS,
            name,
            &annotation,
            "--overwrite",
            &version,
        ];
        match kubectl.output(&words) {
            Ok(_) => return Ok(cluster),
            Err(error) if is_conflict(&error) => conflict = Some(error),
            Err(error) => return Err(error),
        }
    }
    match conflict {
        Some(error) => Err(error),
        None => bail!("{name} changed {TRIES} times while it was looked at"),
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| {
        let said = refused.to_string();
        said.contains("(Conflict)") || said.contains("the object has been modified")
    })
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It goes on; in words.
    On(String),
    /// The operator does not follow it; why.
    Refused(String),
    /// The cluster is ready again; in words.
    Done(String),
}

/// How far an order is, by the object before it and the one now.
pub fn progress(before: &Cluster, now: &Cluster, order: &str) -> Progress {
    let count = |cluster: &Cluster| {
        let recovery = cluster.status.as_ref()?.recovery.as_ref();
        Some(recovery.map_or(0, |recovery| recovery.count))
    };
    let Some(status) = &now.status else {
        return Progress::On("the operator has said nothing yet".to_owned());
    };
    let operation = status.operation.as_ref();
    let ours = operation.filter(|one| {
        one.kind == OperationKind::RecoverQuorum && one.order.as_deref() == Some(order)
    });
    if let Some(operation) = ours {
        let survivor = operation.member.as_deref().unwrap_or("the survivor");
        let waits = status
            .waiting
            .iter()
            .find(|one| one.reason == Reason::OthersMayDecide.as_str());
        return Progress::On(match (operation.recovered, waits) {
            (true, _) => {
                format!("{survivor} serves as a cluster of one, and starts as an ordinary member")
            }
            (false, Some(waits)) => format!(
                "it waits: {}; --others-are-gone says that they never come back",
                waits.message
            ),
            (false, None) => {
                format!("the others are stopped, and {survivor} becomes a cluster of one")
            }
        });
    }
    if count(now) > count(before) {
        let ready = now
            .condition(ConditionType::Ready)
            .is_some_and(|one| one.status == "True");
        let numbers = status.quorum.as_ref().map(quorum).unwrap_or_default();
        if ready && operation.is_none() {
            return Progress::Done(numbers);
        }
        let joining = operation.map(|one| one.joining.join(", "));
        return Progress::On(match joining.filter(|names| !names.is_empty()) {
            Some(names) => format!("recovered; {names} join; {numbers}"),
            None => format!("recovered; {numbers}"),
        });
    }
    let refused = |cluster: &Cluster| {
        let waiting = cluster.status.iter().flat_map(|status| &status.waiting);
        let mut refused = waiting.filter(|one| one.reason == Reason::RecoveryRefused.as_str());
        refused.next().map(|one| one.message.clone())
    };
    match (refused(before), refused(now)) {
        (old, Some(new)) if old.as_ref() != Some(&new) => Progress::Refused(new),
        _ if now.order() != Some(order) => Progress::Refused(
            "the order was taken away, by the operator because the quorum is back, or by hand"
                .to_owned(),
        ),
        _ => Progress::On("the operator has not taken the order yet".to_owned()),
    }
}

fn wait(kubectl: &Kubectl, before: &Cluster, order: &str, at_most: Duration) -> Result<()> {
    let name = &before.metadata.name;
    let since = Instant::now();
    let mut last = String::new();
    let mut now = before.clone();
    while since.elapsed() < at_most {
        now = kubectl.cluster(name)?;
        let mut progress = progress(before, &now, order);
        // The same refusal as before our order: it is an answer to ours when it stays.
        let stands = now.status.iter().flat_map(|status| &status.waiting);
        let mut stands = stands.filter(|one| one.reason == Reason::RecoveryRefused.as_str());
        if let (Progress::On(_), Some(refused)) = (&progress, stands.next())
            && since.elapsed() > ANSWER
        {
            progress = Progress::Refused(refused.message.clone());
        }
        match progress {
            Progress::Done(words) => {
                return say(&format!("{name} is ready: {words}\n"));
            }
            Progress::Refused(why) => {
                take_back(kubectl, &now, order);
                bail!("{name} is not recovered: {why}");
            }
            Progress::On(words) => {
                if words != last {
                    say(&format!("{words}\n"))?;
                    last = words;
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
    bail!(
        "{name} is not ready after {at_most:?}: {last}; the order stands{}, and `kubectl quorate status {name}` shows how it goes on",
        if now.order().is_some() {
            ""
        } else {
            " no more"
        }
    )
}

/// An order that is refused must not be followed later, when nobody remembers it.
fn take_back(kubectl: &Kubectl, now: &Cluster, order: &str) {
    if now.order() != Some(order) {
        return;
    }
    let removal = format!("{RECOVER_FROM_ANNOTATION}-");
    let words = ["annotate", CLUSTERS, &now.metadata.name, &removal];
    if let Err(error) = kubectl.output(&words) {
        eprintln!(
            "The order could not be taken back, remove the annotation {RECOVER_FROM_ANNOTATION} by hand: {error:#}"
        );
    }
}
