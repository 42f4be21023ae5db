//! Stories in `testdata`: commands to a world above `---`, what the planner says below.
//! `QUORATE_BLESS=1 cargo test -p planner` writes what is below; read its diff as code.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use planner::{
    Action, AlarmKind, ClusterId, MemberId, Pending, Plan, RecoverOrder, Remedy, Retention, Role,
    Version, WaitingOn, check, plan,
};

use crate::world::{Disk, DiskPhase, HOUR, Kept, MINUTE, NOBODY, Phase, World, id, name, number};

/// Time passes in steps of this while there is nothing to do.
const STEP_MS: u64 = 5000;
/// A story is over when nothing was done for so long.
const QUIET_MS: u64 = 25 * MINUTE;
const STEPS_MAX: usize = 2000;

#[test]
fn stories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let bless = std::env::var_os("QUORATE_BLESS").is_some();
    let mut files = Vec::new();
    find(&folder, &mut files);
    files.sort();
    assert!(files.len() >= 40, "{} stories", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (commands, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        assert!(
            text.starts_with("# "),
            "{}: the first line says what it proves",
            file.display()
        );
        let told = std::panic::catch_unwind(|| tell(&file, commands));
        let Ok(got) = told else {
            wrong.push(format!("{} panics, see above", file.display()));
            continue;
        };
        if bless {
            std::fs::write(&file, format!("{}---\n{got}", commands)).unwrap();
        } else if got != expected {
            wrong.push(format!("{}:\n{got}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_voter_that_still_answers_and_is_on_its_way_out_makes_the_cluster_not_ready() {
    let world = World::settled(3);
    let mut observed = world.observe();
    let phase = |observed: &planner::Observed| plan(observed, &world.policy).summary.phase;
    assert_eq!(phase(&observed), planner::Phase::Ready);
    let planner::Pod::Present(pod) = &mut observed.members[2].pod else {
        panic!("a settled world has Pods");
    };
    pod.phase = planner::PodPhase::Terminating;
    let plan = plan(&observed, &world.policy);
    assert_eq!(plan.action, None);
    assert_eq!(plan.summary.phase, planner::Phase::Working);
    let told: Vec<&str> = plan
        .waiting
        .iter()
        .map(planner::WaitingOn::reason)
        .collect();
    assert_eq!(told, ["PodTerminating"]);
}

/// As the last line before a disk that is not there begins an empty cluster.
#[test]
fn the_check_knows_that_a_cluster_does_not_begin_beside_members_and_volumes() {
    let first_pod = |world: &World| {
        let observed = world.observe();
        let mut plan = plan(&observed, &world.policy);
        plan.action = Some(Action::EnsurePod {
            name: name(0),
            revision: "r1".to_owned(),
            start: planner::Start::New,
            membership: None,
        });
        check(&observed, &world.policy, &plan)
    };
    let mut world = World::settled(2);
    for number in 0..2 {
        world.lose_pod(number);
    }
    forget_statuses(&mut world);
    let violation = first_pod(&world).unwrap_err();
    assert_eq!(
        violation.law,
        "a cluster does not begin beside other members"
    );
    let other = world.members.remove(&1);
    first_pod(&world).unwrap();
    let kept = Kept {
        released: false,
        written: other.is_some(),
    };
    world.kept.insert(1, kept);
    let violation = first_pod(&world).unwrap_err();
    assert_eq!(
        violation.law,
        "a cluster does not begin beside volumes that are younger"
    );
}

/// `<!-- steps: scale/from_three_to_five -->` in docs/operations.md stands before a block that
/// shows what that story tells.
#[test]
fn the_steps_in_the_documents_are_those_of_the_stories() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = room.join("../../../docs/operations.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let mut written = String::new();
    let mut lines = text.split_inclusive('\n');
    while let Some(line) = lines.next() {
        written.push_str(line);
        let Some(story) = line.trim().strip_prefix("<!-- steps: ") else {
            continue;
        };
        let story = story.trim_end_matches(" -->");
        let file = room.join("testdata").join(format!("{story}.txt"));
        let story = std::fs::read_to_string(&file).unwrap_or_else(|_| panic!("no story {story}"));
        let (_, steps) = story.split_once("---\n").unwrap();
        written.push_str(lines.next().unwrap_or("```text\n"));
        written.push_str(steps);
        let end = lines.find(|line| line.starts_with("```"));
        written.push_str(end.expect("a block ends"));
    }
    if std::env::var_os("QUORATE_BLESS").is_some() && written != text {
        std::fs::write(&page, written).unwrap();
    } else {
        assert_eq!(
            written, text,
            "QUORATE_BLESS=1 cargo test -p planner writes it"
        );
    }
}

/// What the page tells people to do hangs on words that the planner says.
#[test]
fn the_reasons_in_the_documents_are_the_planners() {
    let page = include_str!("../../../../../docs/operations.md");
    let words = include_str!("../../src/waiting.rs");
    let (_, table) = page.split_once("## When it waits").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let reasons: Vec<_> = rows.filter_map(|row| row.split('`').next()).collect();
    assert!(reasons.len() >= 10, "{reasons:?}");
    for reason in &reasons {
        let known = *reason == "Refused" || words.contains(&format!("\"{reason}\""));
        assert!(known, "{reason}");
    }
    for waiting in for_a_person() {
        let reason = waiting.reason();
        assert!(
            waiting.is_stalled() || waiting.is_blocked(),
            "{reason} waits for nobody"
        );
        assert!(reasons.contains(&reason), "the page lacks {reason}");
    }
    // One of each, by the names in the two functions that say what waits for a person.
    let (_, stalled) = words.split_once("pub fn is_stalled").unwrap();
    let (_, blocked) = words.split_once("pub fn is_blocked").unwrap();
    let variants = |text: &str| -> BTreeSet<String> {
        let (body, _) = text.split_once("\n    }\n").unwrap();
        let names = body.split("WaitingOn::").skip(1);
        names
            .map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap())
            .map(str::to_owned)
            .collect()
    };
    let named: BTreeSet<_> = variants(stalled)
        .union(&variants(blocked))
        .cloned()
        .collect();
    let listed: BTreeSet<_> = for_a_person()
        .iter()
        .map(|one| {
            let shown = format!("{one:?}");
            shown
                .split(|c: char| !c.is_alphanumeric())
                .next()
                .map(str::to_owned)
                .unwrap()
        })
        .collect();
    assert_eq!(listed, named);
}

/// One of each that only a person can end, or that was refused for the quorum's sake.
fn for_a_person() -> Vec<WaitingOn> {
    let member = || "x-0".to_owned();
    let why = planner::Replace::VolumeLost;
    let view = quorum::View {
        itself: None,
        leader: None,
        members: Vec::new(),
        committed: 0,
        unapplied_change: false,
    };
    let step = quorum::Step::Restart(MemberId(1));
    let verdict = quorum::judge(&view, step, quorum::Policy::operator(false));
    vec![
        WaitingOn::ClusterIdMismatch {
            member: None,
            found: ClusterId(1),
            latched: ClusterId(2),
        },
        WaitingOn::UnknownMember {
            id: MemberId(1),
            name: member(),
            peer_urls: Vec::new(),
        },
        WaitingOn::QuorumLost {
            voters: 3,
            answering: 1,
            needed: 2,
            survivors: Vec::new(),
        },
        WaitingOn::VersionRefused {
            from: Version::default(),
            to: Version::default(),
            why: planner::VersionRefused::Downgrade,
        },
        WaitingOn::EvenReplicasRefused { replicas: 2 },
        WaitingOn::OutageNotAccepted {
            member: member(),
            voters: 1,
        },
        WaitingOn::QuotaExhausted {
            member: member(),
            in_use: 1,
            quota: 1,
        },
        WaitingOn::ReplacementNotAllowed {
            member: member(),
            why,
        },
        WaitingOn::AlarmRaised {
            member: None,
            kind: AlarmKind::Corrupt,
        },
        WaitingOn::OperationOverdue {
            id: 1,
            what: String::new(),
            for_ms: 1,
        },
        WaitingOn::RecoveryRefused(planner::RecoveryRefused::NoSuchMember { named: member() }),
        WaitingOn::QuorumUnsafe(Box::new(verdict)),
        WaitingOn::VoterInDoubt {
            member: member(),
            wanted: planner::Wish::Grow,
            for_ms: None,
        },
        WaitingOn::OthersMayDecide {
            members: Vec::new(),
            needed: 2,
        },
        WaitingOn::SurvivorNotReady { survivor: member() },
        WaitingOn::ReplacementsUsedUp {
            member: member(),
            why,
            done: 1,
            allowed: 1,
            in_ms: 1,
        },
    ]
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn tell(file: &Path, commands: &str) -> String {
    let mut story = Story {
        world: World::asked_for(3),
        out: String::new(),
    };
    for line in commands.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut words = line.split_whitespace();
        if let Some(command) = words.next() {
            let words: Vec<_> = words.collect();
            story.command(command, &words, &format!("{}: {line}", file.display()));
        }
    }
    story.out
}

pub struct Story {
    pub world: World,
    pub out: String,
}

impl Story {
    fn command(&mut self, command: &str, words: &[&str], place: &str) {
        let world = &mut self.world;
        let first = words.first().copied().unwrap_or_default();
        let who = || number(first);
        match command {
            "new" => *world = World::asked_for(first.parse().unwrap()),
            "cluster" => *world = World::settled(first.parse().unwrap()),
            "spec" => spec(world, words),
            "policy" => policy(world, words),
            "bad" => {
                let why = match words[1] {
                    "unschedulable" => Pending::Unschedulable,
                    "image" => Pending::Image,
                    "volume" => Pending::Volume,
                    "config" => Pending::Config,
                    "crashes" => Pending::Starting,
                    other => panic!("{place}: {other}"),
                };
                world.bad_revisions.insert(first.to_owned(), why);
            }
            "good" => {
                world.bad_revisions.remove(first);
            }
            "silence" => world.silence_node(who(), false),
            "kubelet-dies" => world.members.get_mut(&who()).unwrap().kubelet_dead = true,
            "hangs" => {
                world.members.get_mut(&who()).unwrap().hangs = true;
                world.look();
            }
            "returns" => world.node_returns(who()),
            "lose-pod" => world.lose_pod(who()),
            "lose-volume" => world.lose_volume(who()),
            "lose-node" => world.lose_node(who()),
            "volume" => {
                let disk = world
                    .members
                    .get_mut(&who())
                    .and_then(|m| m.volume.as_mut());
                disk.unwrap().phase = match words[1] {
                    "lost" => DiskPhase::Lost,
                    "stranded" => DiskPhase::Stranded,
                    "terminating" => DiskPhase::Terminating,
                    other => panic!("{place}: {other}"),
                };
            }
            "evict" => {
                let answer = if world.evict(who()) {
                    "granted"
                } else {
                    "refused"
                };
                let budget = world.budget.unwrap_or_default();
                writeln!(
                    self.out,
                    "eviction of {first}: {answer}, {budget} must stay"
                )
                .unwrap();
            }
            "delete-pod" => world.delete_pod(who()),
            "damage" => world.damage_disk(who()),
            "terminate" | "end" => {
                let pod = world.members.get_mut(&who()).and_then(|m| m.pod.as_mut());
                let terminates = command == "terminate";
                pod.unwrap().phase = if terminates {
                    Phase::Terminating
                } else {
                    Phase::Ended
                };
                world.look();
            }
            "leader" => {
                world.leader = Some(who());
                world.look();
            }
            "term" => world.members.get_mut(&who()).unwrap().term = words[1].parse().unwrap(),
            "behind" => world.members.get_mut(&who()).unwrap().caught_up = false,
            "corrupt" => {
                world.alarms.insert((who(), AlarmKind::Corrupt));
            }
            "differ" => {
                world.alarms.insert((NOBODY, AlarmKind::Corrupt));
            }
            "no-space" => {
                world.alarms.insert((who(), AlarmKind::NoSpace));
            }
            "fails" | "succeeds" => {
                let remedy = match first {
                    "compact" => Remedy::Compact,
                    "defragment" => Remedy::Defragment(id(number(words[1]))),
                    other => panic!("{place}: {other}"),
                };
                if command == "fails" {
                    world.remedies_fail.insert(remedy);
                } else {
                    world.remedies_fail.remove(&remedy);
                }
            }
            "size" => {
                let member = world.members.get_mut(&who()).unwrap();
                member.db_size = words[1].parse().unwrap();
                member.db_in_use = words[2].parse().unwrap();
            }
            "delete" => world.members.get_mut(&who()).unwrap().deletion_asked = true,
            "lose-object" => {
                let member = world.members.remove(&who()).unwrap();
                let volume = member.volume.unwrap_or(Disk::empty());
                world.kept.insert(
                    who(),
                    Kept {
                        released: false,
                        written: volume.written,
                    },
                );
                world.look();
            }
            "removed-by-hand" => {
                world.config.remove(&who());
                world.look();
            }
            "stranger" => match first {
                "voter" => world.strangers.push(Role::Voter),
                "learner" => world.strangers.push(Role::Learner),
                "gone" => drop(world.strangers.pop()),
                other => panic!("{place}: {other}"),
            },
            "cut-off" => world.cut_off = true,
            "reaches" => world.cut_off = false,
            "other-cluster" => world.cluster_id = ClusterId(0xdead),
            "unreadable" => {
                world.unreadable.insert(who());
            }
            "unreadable-nodes" => world.nodes_unread = true,
            "readable" => {
                world.unreadable.clear();
                world.nodes_unread = false;
            }
            "kept" => {
                let kept = Kept {
                    released: words.contains(&"released"),
                    written: true,
                };
                world.kept.insert(who(), kept);
                if !kept.released {
                    let peer = crate::world::Peer {
                        role: Role::Voter,
                        started: true,
                    };
                    world.config.insert(who(), peer);
                }
            }
            "forget-record" => {
                world.recorded = planner::Recorded {
                    member_number_next: 0,
                    ..planner::Recorded::default()
                };
            }
            "forget-statuses" => forget_statuses(world),
            "learners-max" => world.learners_max = first.parse().unwrap(),
            "recover-malformed" => world.wanted.recover_malformed = Some(first.to_owned()),
            "recover" => {
                world.wanted.recover = Some(RecoverOrder {
                    id: "order-1".to_owned(),
                    cluster_id: if words.contains(&"wrong-cluster") {
                        ClusterId(0xbad)
                    } else {
                        world.cluster_id
                    },
                    survivor: first.to_owned(),
                    others_are_gone: words.contains(&"others-are-gone"),
                });
            }
            "withdraw" => {
                world.wanted.recover = None;
                world.wanted.recover_malformed = None;
            }
            "writes" => world.store_revision += 100,
            "pass" => {
                let until = world.now + span(first);
                while self.world.now < until {
                    let left = until - self.world.now;
                    self.world.pass(left.min(STEP_MS));
                }
            }
            "plan" => {
                let plan = self.plan(place);
                self.tell_plan(&plan);
            }
            "act" => {
                let plan = self.plan(place);
                let action = plan
                    .action
                    .unwrap_or_else(|| panic!("{place}: nothing to do, {:?}", plan.waiting));
                writeln!(self.out, "{}", in_words(&action)).unwrap();
                self.world.act(&action).unwrap();
            }
            "until" => self.until(&words.join(" "), place),
            "run" => {
                let quiet = if first.is_empty() {
                    QUIET_MS
                } else {
                    span(first)
                };
                self.run(quiet, place);
            }
            "show" => self.show(place),
            other => panic!("{place}: no command {other}"),
        }
    }

    /// The plan, checked.
    fn plan(&self, place: &str) -> Plan {
        let observed = self.world.observe();
        let plan = plan(&observed, &self.world.policy);
        let mut backward = observed.clone();
        backward.members.reverse();
        let again = planner::plan(&backward, &self.world.policy);
        assert_eq!(plan, again, "{place}: the order of what is seen matters");
        if let Err(violation) = check(&observed, &self.world.policy, &plan) {
            panic!("{place}: {violation}\n{}", self.world.line());
        }
        plan
    }

    fn tell_plan(&mut self, plan: &Plan) {
        match &plan.action {
            Some(action) => writeln!(self.out, "do   {}", in_words(action)).unwrap(),
            None => writeln!(self.out, "do   nothing").unwrap(),
        }
        for reason in &plan.waiting {
            let kind = match (reason.is_note(), reason.is_stalled(), reason.is_blocked()) {
                (true, ..) => "note",
                (_, true, _) => "STOP",
                (_, _, true) => "HOLD",
                _ => "wait",
            };
            writeln!(self.out, "{kind} {}: {reason}", reason.reason()).unwrap();
        }
    }

    fn until(&mut self, text: &str, place: &str) {
        for _ in 0..STEPS_MAX {
            let plan = self.plan(place);
            match plan.action {
                Some(action) if action.to_string().contains(text) => return,
                Some(action) => self.world.act(&action).unwrap(),
                None => self.world.pass(STEP_MS),
            }
        }
        panic!("{place}: never comes\n{}", self.world.line());
    }

    /// The order of steps as a table: what is done, and the voters that are healthy then.
    pub fn run(&mut self, quiet_ms: u64, place: &str) {
        let mut step = 0;
        let mut said = Vec::new();
        let mut quiet = 0;
        while quiet < quiet_ms {
            let plan = self.plan(place);
            if let Some(action) = plan.action {
                self.world.act(&action).unwrap();
                step += 1;
                let row = format!("{step:3} {}", in_words(&action));
                let quorum = plan.summary.quorum;
                let before = quorum.map_or("-".to_owned(), |q| {
                    let learners = if q.learners > 0 {
                        format!("+{}", q.learners)
                    } else {
                        String::new()
                    };
                    format!("{}/{}{learners}", q.healthy, q.voters)
                });
                writeln!(self.out, "{before:>6} {row}").unwrap();
                quiet = 0;
                said.clear();
                if action == Action::ReleaseCluster {
                    return;
                }
                assert!(step < STEPS_MAX, "{place}: goes on for ever\n{}", self.out);
                continue;
            }
            let mut reasons = Vec::new();
            for reason in plan.waiting.iter().filter(|reason| !reason.is_note()) {
                let member = reason.member().unwrap_or_default();
                let text = format!("{} {member}", reason.reason());
                let text = text.trim().to_owned();
                if !reasons.contains(&text) {
                    reasons.push(text);
                }
            }
            if reasons != said && !reasons.is_empty() {
                writeln!(self.out, "{:>6}     ... {}", "", reasons.join(", ")).unwrap();
            }
            said = reasons;
            quiet += STEP_MS;
            self.world.pass(STEP_MS);
        }
        let plan = self.plan(place);
        writeln!(self.out, "{:>6}     {}", "", plan.summary.phase.name()).unwrap();
    }

    fn show(&mut self, place: &str) {
        let summary = self.plan(place).summary;
        writeln!(self.out, "phase {}", summary.phase.name()).unwrap();
        if let Some(q) = &summary.quorum {
            writeln!(
                self.out,
                "quorum {} voters, {} learners, {} healthy, {} needed, {} may be lost, {} leads",
                q.voters,
                q.learners,
                q.healthy,
                q.needed,
                q.tolerance,
                name(leader(q.leader))
            )
            .unwrap();
        }
        for member in &summary.members {
            let role = match (member.role, member.leads) {
                (Some(Role::Voter), true) => "leader",
                (Some(Role::Voter), false) => "voter",
                (Some(Role::Learner), _) => "learner",
                (None, _) => "no member",
            };
            let health = if member.healthy {
                "healthy"
            } else {
                "in doubt"
            };
            let revision = member.revision.as_deref().unwrap_or("no pod");
            writeln!(self.out, "{} {role}, {health}, {revision}", member.name).unwrap();
        }
        for condition in &summary.conditions {
            writeln!(
                self.out,
                "{}={:?} {} {}",
                condition.kind.name(),
                condition.status,
                condition.reason,
                condition.message
            )
            .unwrap();
        }
    }
}

/// An action with names for ids.
fn in_words(action: &Action) -> String {
    match action {
        Action::MoveLeader { from, to } => {
            let (from, to) = (name(leader(*from)), name(leader(*to)));
            format!("move the leader from {from} to {to}")
        }
        _ => action.to_string(),
    }
}

/// Objects are restored without what the operator had written into them.
fn forget_statuses(world: &mut World) {
    world.recorded = planner::Recorded::default();
    for member in world.members.values_mut() {
        member.last_role = None;
        member.last_version = None;
    }
}

fn leader(id: MemberId) -> u64 {
    id.0 - 0xa0
}

fn spec(world: &mut World, words: &[&str]) {
    world.wanted.generation += 1;
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let wanted = &mut world.wanted;
        match key {
            "replicas" => wanted.replicas = value.parse().unwrap(),
            "revision" => {
                wanted.revision = value.to_owned();
                let version = wanted.version;
                world.versions.insert(value.to_owned(), version);
            }
            "version" => {
                wanted.version = Version::parse(value).unwrap();
                wanted.revision = format!("v{value}");
                let (revision, version) = (wanted.revision.clone(), wanted.version);
                world.versions.insert(revision, version);
            }
            "paused" => wanted.paused = true,
            "resumed" => wanted.paused = false,
            "deletion" => wanted.deletion_asked = true,
            "protected" => wanted.deletion_protection = true,
            "unprotected" => wanted.deletion_protection = false,
            "retain" => wanted.retention = Retention::Retain,
            "delete" => wanted.retention = Retention::Delete,
            "adopt" => wanted.adopt = true,
            other => panic!("no field {other}"),
        }
    }
}

fn policy(world: &mut World, words: &[&str]) {
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let policy = &mut world.policy;
        match key {
            "even" => policy.allow_even_replicas = true,
            "outage" => policy.accept_outage = true,
            "evict" => policy.evict_with_outage = true,
            "no-budget" => policy.budget = false,
            "replace-after" if value == "never" => policy.replace_failed_after_ms = None,
            "replace-after" => policy.replace_failed_after_ms = Some(span(value)),
            "per-hour" => policy.replacements_per_hour_max = value.parse().unwrap(),
            other => panic!("no policy {other}"),
        }
    }
}

fn span(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().unwrap();
    number
        * match unit {
            "s" => 1000,
            "m" => MINUTE,
            "h" => HOUR,
            _ => panic!("{text} is no time"),
        }
}
