//! The planner, searched: every state that a small world reaches when members crash, nodes fall
//! silent and return, disks are lost, somebody deletes a Pod (a drain, a person), the operator
//! reaches nobody for a while, and the user changes
//! her mind (another size, another revision, a pause, an order to recover, a member or the whole to
//! go), while the planner acts on what it sees. (A restart of the operator changes nothing: a plan
//! has no memory.)
//!
//! - P1: no act takes away a quorum that there was; a voter that is on its way out is not counted
//!   on, though it still answers.
//! - P2: while a voter is in doubt, no membership act makes a crash fatal that was not.
//! - The laws of `check` hold, and nothing in the world is harmed: no second cluster, no empty
//!   disk under an old id, no data or object of a member deleted, no removed id back.
//! - P3: from every state reached, when the faults are over and nobody who died comes back, the
//!   plan leads to what the user wants, or there was no quorum to begin with.
//!
//! Up to five members everything is looked at that one fault and one wish reach; a search that does
//! not come to its end fails.
//! `QUORATE_MODEL_STATES=1000000 QUORATE_MODEL_FAULTS=2 QUORATE_MODEL_WISHES=2 cargo test -p planner`
//! goes further, as far as so many states, and with `QUORATE_MODEL_S=60` for so many seconds from each
//! start, and as long again for P3 (`make more LANES=planner`); `QUORATE_MODEL_SLOW_OPERATOR=1` lets
//! Pods and clocks go on between two acts.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use planner::{
    Action, Asked, Live, Observed, OperationKind, Pending, Plan, Pod, PodPhase, Policy,
    RecoverOrder, Retention, Role, Version, WaitingOn, check, plan,
};

use crate::world::{DiskPhase, Phase, Progress, Sees, World, name, number};

type Planning = fn(&Observed, &Policy) -> Plan;

/// Far more than there are with one fault and one wish: a search that comes here has no end.
const STATES_MAX: usize = 2_000_000;

struct Search {
    faults_max: u8,
    wishes_max: u8,
    replicas_max: u32,
    planning: Planning,
    checked: bool,
    /// The world goes on also while the operator has something to do. Without this an operator is
    /// faster than Pods and clocks, and only faults, wishes and what is seen come in between.
    slow_operator: bool,
    /// So many states are looked at, nearest first.
    states_max: usize,
    /// For so long.
    time_max: Duration,
}

struct Node {
    world: World,
    faults: u8,
    wishes: u8,
    came: usize,
}

struct Found {
    states: usize,
    /// No state is left that was not looked at.
    all: bool,
    /// What went wrong first, with the way there.
    wrong: Option<String>,
    /// Worlds as they were reached, for P3.
    worlds: Vec<World>,
}

impl Search {
    fn of(faults_max: u8, wishes_max: u8, replicas_max: u32) -> Search {
        let more = |name: &str, default: u8| {
            std::env::var(name).map_or(default, |value| value.parse().unwrap())
        };
        Search {
            faults_max: more("QUORATE_MODEL_FAULTS", faults_max),
            wishes_max: more("QUORATE_MODEL_WISHES", wishes_max),
            replicas_max,
            planning: plan,
            checked: true,
            slow_operator: std::env::var_os("QUORATE_MODEL_SLOW_OPERATOR").is_some(),
            states_max: std::env::var("QUORATE_MODEL_STATES")
                .map_or(STATES_MAX, |value| value.parse().unwrap()),
            time_max: std::env::var("QUORATE_MODEL_S").map_or(Duration::MAX, |value| {
                Duration::from_secs(value.parse().unwrap())
            }),
        }
    }

    fn run(&self, start: World) -> Found {
        let mut known = HashSet::new();
        let mut ways: Vec<(usize, String)> = vec![(0, start.line())];
        let mut found = Found {
            states: 0,
            all: false,
            wrong: None,
            worlds: Vec::new(),
        };
        let mut healed = HashSet::new();
        let begun = Instant::now();
        let mut queue = VecDeque::from([Node {
            world: prepare(start),
            faults: 0,
            wishes: 0,
            came: 0,
        }]);
        while let Some(node) = queue.pop_front() {
            if found.states == self.states_max || begun.elapsed() > self.time_max {
                return found;
            }
            found.states += 1;
            let mut next = Vec::new();
            match self.step(&node.world) {
                Ok(Some((event, world))) => next.push((event, world, 0, 0)),
                Ok(None) => {}
                Err(why) => {
                    found.wrong = Some(trace(&ways, node.came, &why));
                    return found;
                }
            }
            let idle = next.is_empty();
            by_itself(&node.world, idle || self.slow_operator, &mut next);
            if node.faults < self.faults_max {
                faults(&node.world, &mut next);
            }
            if node.wishes < self.wishes_max {
                self.wishes(&node.world, &mut next);
            }
            for (event, world, fault, wish) in next {
                let world = world.canonical();
                let (faults, wishes) = (node.faults + fault, node.wishes + wish);
                let print = world.fingerprint();
                if !known.insert((print, faults, wishes)) {
                    continue;
                }
                ways.push((node.came, format!("{event:42} {}", world.line())));
                if healed.insert(print) {
                    found.worlds.push(world.clone());
                }
                queue.push_back(Node {
                    world,
                    faults,
                    wishes,
                    came: ways.len() - 1,
                });
            }
        }
        found.all = true;
        found
    }

    /// The act that the plan asks for.
    fn step(&self, world: &World) -> Result<Option<(String, World)>, String> {
        if world.gone {
            return Ok(None);
        }
        let observed = world.observe();
        let plan = (self.planning)(&observed, &world.policy);
        if self.checked {
            check(&observed, &world.policy, &plan).map_err(|broken| broken.to_string())?;
        }
        let Some(action) = plan.action else {
            return Ok(None);
        };
        let mut next = world.clone();
        next.act(&action)?;
        p2(world, &next, &action)?;
        Ok(Some((format!("DOES {action}"), next)))
    }

    fn wishes(&self, world: &World, next: &mut Vec<(String, World, u8, u8)>) {
        let mut wish = |event: String, change: &dyn Fn(&mut World)| {
            let mut then = world.clone();
            change(&mut then);
            next.push((event, then, 0, 1));
        };
        if world.gone || world.wanted.deletion_asked {
            return;
        }
        for replicas in 0..=5 {
            if replicas <= self.replicas_max && replicas != world.wanted.replicas {
                wish(format!("wants {replicas}"), &|world| {
                    world.want_replicas(replicas);
                });
            }
        }
        for revision in ["r2", "bad"] {
            if world.wanted.revision != revision {
                wish(format!("wants {revision}"), &|world| {
                    world.want_revision(revision, world.wanted.version);
                });
            }
        }
        for (number, member) in &world.members {
            if world.config.contains_key(number) && !member.deletion_asked {
                wish(format!("deletes {number}"), &|world| {
                    world.members.get_mut(number).unwrap().deletion_asked = true;
                });
            }
            if world.wanted.recover.is_none() && member.last_role == Some(Role::Voter) {
                wish(format!("orders to recover from {number}"), &|world| {
                    world.wanted.recover = Some(RecoverOrder {
                        id: "order".to_owned(),
                        cluster_id: world.cluster_id,
                        survivor: name(*number),
                        others_are_gone: false,
                    });
                });
            }
        }
        wish("wants it gone".to_owned(), &|world| {
            world.wanted.deletion_asked = true;
        });
        wish("pauses it".to_owned(), &|world| world.wanted.paused = true);
    }
}

/// What happens without anybody's doing. What is seen, and nodes that return, come at any moment.
fn by_itself(world: &World, all: bool, next: &mut Vec<(String, World, u8, u8)>) {
    for number in world.members.keys().copied() {
        if let Some(progress) = world.next_of(number)
            && (all || progress == Progress::Seen)
        {
            let mut then = world.clone();
            then.happen(number, progress);
            next.push((format!("{number} {progress:?}"), then, 0, 0));
        }
        if world.members[&number].silent {
            let mut then = world.clone();
            then.node_returns(number);
            next.push((format!("{number}'s node returns"), then, 0, 0));
        }
    }
    for (event, ends) in [
        ("the pause ends", world.wanted.paused),
        ("the operator reaches them again", world.cut_off),
    ] {
        if ends {
            let mut then = world.clone();
            go_on(&mut then);
            next.push((event.to_owned(), then, 0, 0));
        }
    }
    if !all {
        return;
    }
    for (event, ms) in [
        ("a moment passes", world.policy.min_healthy_ms),
        ("time passes", world.policy.operation_timeout_ms + 1),
    ] {
        let mut then = world.clone();
        then.now += ms;
        then.look();
        next.push((event.to_owned(), then, 0, 0));
    }
}

/// Nothing keeps the operator from looking and acting any more.
fn go_on(world: &mut World) {
    world.wanted.paused = false;
    world.cut_off = false;
}

fn prepare(mut world: World) -> World {
    world.policy.allow_even_replicas = true;
    world.bad_revisions.insert("bad".to_owned(), Pending::Image);
    world.policy.accept_outage = true;
    world.policy.replacements_per_hour_max = 100;
    world.canonical()
}

fn faults(world: &World, next: &mut Vec<(String, World, u8, u8)>) {
    if !world.cut_off {
        let mut then = world.clone();
        then.cut_off = true;
        next.push(("the operator reaches nobody".to_owned(), then, 1, 0));
    }
    for (number, member) in &world.members {
        let mut fault = |event: &str, change: &dyn Fn(&mut World)| {
            let mut then = world.clone();
            change(&mut then);
            next.push((format!("{number} {event}"), then, 1, 0));
        };
        if member.silent {
            continue;
        }
        if member.pod.as_ref().map(|pod| pod.phase) == Some(Phase::Running) {
            fault("has its pod deleted", &|world| world.delete_pod(*number));
        }
        if member.pod.is_some() {
            fault("loses its pod", &|world| world.lose_pod(*number));
            fault("falls silent", &|world| world.silence_node(*number, true));
        }
        if member.volume.is_some_and(|disk| !disk.damaged) {
            fault("loses its disk", &|world| world.lose_volume(*number));
            fault("has its disk damaged", &|world| world.damage_disk(*number));
        }
    }
}

/// By its own counting: voters that look healthy for long enough.
fn p2(before: &World, after: &World, action: &Action) -> Result<(), String> {
    let changes = matches!(
        action,
        Action::MemberPromote { .. } | Action::MemberRemove { .. }
    );
    if !changes {
        return Ok(());
    }
    // The act itself does not change how anybody looked.
    let looks_well = |number: &u64| {
        before.members.get(number).is_some_and(|member| {
            let leaves = member.pod.as_ref().map(|pod| pod.phase) == Some(Phase::Leaving);
            let long = before.now - member.since >= before.policy.min_healthy_ms;
            member.sees == Sees::Good && long && !leaves
        })
    };
    let healthy = |world: &World| -> Vec<u64> {
        let voters = world.config.iter();
        voters
            .filter(|(_, peer)| peer.role == planner::Role::Voter)
            .map(|(number, _)| *number)
            .filter(looks_well)
            .collect()
    };
    let fatal = |world: &World| {
        let healthy = healthy(world);
        let tolerated = 2 * healthy.len() > world.voter_count() + 2
            || 2 * (healthy.len().saturating_sub(1)) > world.voter_count();
        if tolerated { Vec::new() } else { healthy }
    };
    if 2 * healthy(after).len() <= after.voter_count() {
        return Err(format!("{action}: P1, the healthy are no quorum"));
    }
    let doubt = healthy(before).len() < before.voter_count();
    let was = fatal(before);
    if doubt && fatal(after).iter().any(|number| !was.contains(number)) {
        return Err(format!("{action}: P2, a crash becomes fatal"));
    }
    Ok(())
}

fn trace(ways: &[(usize, String)], mut at: usize, why: &str) -> String {
    let mut lines = vec![why.to_owned()];
    while at > 0 {
        lines.push(ways[at].1.clone());
        at = ways[at].0;
    }
    lines.push(ways[0].1.clone());
    lines.reverse();
    lines.join("\n")
}

// ---- P3

/// Follows the plan without faults until nothing happens any more. Worlds that are known to lead
/// home are not walked twice.
fn heals(world: &World, home: &mut HashSet<u128>) -> Result<(), String> {
    let mut world = world.clone();
    if world.wanted.revision == "bad" {
        let version = world.wanted.version;
        world.want_revision("r3", version);
    }
    go_on(&mut world);
    // A death is seen sooner or later; until then an act may be tried in vain.
    for number in world.members.keys().copied().collect::<Vec<_>>() {
        if world.next_of(number) == Some(Progress::Seen) {
            world.happen(number, Progress::Seen);
        }
    }
    let mut way = Vec::new();
    let mut lines = vec![world.line()];
    for _ in 0..1000 {
        world = world.canonical();
        let print = world.fingerprint();
        if home.contains(&print) {
            home.extend(way);
            return Ok(());
        }
        way.push(print);
        if world.gone {
            home.extend(way);
            return Ok(());
        }
        let observed = world.observe();
        let plan = plan(&observed, &world.policy);
        let broken = check(&observed, &world.policy, &plan);
        broken.map_err(|broken| format!("{broken}\n{}", lines.join("\n")))?;
        if let Some(action) = plan.action {
            lines.push(format!("{:42} {}", action.to_string(), world.line()));
            let done = world.act(&action);
            done.map_err(|harm| format!("{harm}\n{}", lines.join("\n")))?;
            continue;
        }
        let before = print;
        world.pass(world.policy.min_healthy_ms);
        if world.canonical().fingerprint() != before {
            lines.push(format!("{:42} {}", "passes", world.line()));
            continue;
        }
        world.pass(world.policy.operation_timeout_ms + 1);
        if world.canonical().fingerprint() != before {
            lines.push(format!("{:42} {}", "time passes", world.line()));
            continue;
        }
        if a_person_asks(&mut world, &plan.waiting) {
            lines.push(format!("{:42} {}", "a person asks", world.line()));
            continue;
        }
        let at_home = is_home(&world, &plan.waiting);
        at_home.map_err(|why| format!("{why}: {:?}\n{}", plan.waiting, lines.join("\n")))?;
        home.extend(way);
        return Ok(());
    }
    Err(format!("goes on for ever\n{}", lines.join("\n")))
}

/// Where nobody replaces by itself, the status names whose object has to be deleted. Whether
/// somebody did that.
fn a_person_asks(world: &mut World, waiting: &[WaitingOn]) -> bool {
    for reason in waiting {
        if let WaitingOn::ReplacementNotAllowed { member, .. } = reason
            && let Some(member) = world.members.get_mut(&number(member))
            && !member.deletion_asked
        {
            member.deletion_asked = true;
            return true;
        }
    }
    false
}

fn is_home(world: &World, waiting: &[WaitingOn]) -> Result<(), &'static str> {
    if world.wanted.deletion_asked {
        return if world.gone {
            Ok(())
        } else {
            Err("is not gone")
        };
    }
    let begun = !world.config.is_empty();
    if world.wanted.replicas == 0 {
        let asleep = world
            .members
            .values()
            .all(|member| member.pod.is_none() || member.silent);
        // Without a quorum nobody is put to sleep.
        let may_wake = begun && !world.has_quorum();
        return if asleep || may_wake {
            Ok(())
        } else {
            Err("does not sleep")
        };
    }
    if !world.has_quorum() {
        let lost = !world.can_have_quorum() || survivor_is_lost(world);
        return if lost {
            Ok(())
        } else {
            Err("could have a quorum")
        };
    }
    let wanted = world.wanted.replicas as usize;
    if world.voter_count() != wanted || world.config.len() != wanted {
        return Err("has another size");
    }
    if world.voters_up() != wanted || world.members.len() != wanted {
        return Err("has members that are not up");
    }
    let revision = &world.wanted.revision;
    let up_to_date = |phase: Option<&crate::world::PodOf>| {
        phase.is_some_and(|pod| pod.revision == *revision && pod.phase == Phase::Running)
    };
    let mut members = world.members.values();
    if !members.all(|member| up_to_date(member.pod.as_ref())) {
        return Err("is outdated");
    }
    if world.recorded.operation.is_some() || !waiting.iter().all(WaitingOn::is_note) {
        return Err("is not done");
    }
    let disks = world.members.values().filter_map(|member| member.volume);
    if disks.into_iter().any(|disk| disk.phase != DiskPhase::Bound) {
        return Err("has a lost disk");
    }
    if world.budget != Some(world.wanted.replicas / 2 + 1) {
        return Err("has another budget");
    }
    Ok(())
}

/// The one that was named has no use any more, and the others have stopped for it: nobody but a
/// person knows whether its disk became the cluster.
fn survivor_is_lost(world: &World) -> bool {
    let kind = world.recorded.operation.as_ref().map(|o| &o.kind);
    let Some(OperationKind::RecoverQuorum { survivor, .. }) = kind else {
        return false;
    };
    let member = &world.members[&number(survivor)];
    member.silent || member.volume.is_none_or(|disk| disk.damaged)
}

#[expect(clippy::print_stdout, reason = "a test says how far it looked")]
fn searched(search: &Search, starts: Vec<World>) {
    let begun = Instant::now();
    for start in starts {
        let line = start.line();
        let found = search.run(start);
        if let Some(wrong) = &found.wrong {
            panic!("from {line}:\n{wrong}");
        }
        let told = ["QUORATE_MODEL_STATES", "QUORATE_MODEL_S"];
        let told = told.iter().any(|name| std::env::var_os(name).is_some());
        assert!(
            found.all || told,
            "{} states from {line}, and there are more",
            found.states
        );
        let mut home = HashSet::new();
        let mut walked = 0;
        let looked = Instant::now();
        for world in &found.worlds {
            if looked.elapsed() > search.time_max {
                break;
            }
            walked += 1;
            if let Err(lost) = heals(world, &mut home) {
                panic!("from {line}: does not come home\n{lost}");
            }
        }
        println!(
            "{} states{}, {walked} of {} worlds come home, {:.1?} from {line}",
            found.states,
            if found.all { "" } else { ", not all" },
            found.worlds.len(),
            begun.elapsed()
        );
    }
}

#[test]
fn the_plan_never_gives_the_quorum_away_small() {
    let search = Search::of(1, 1, 3);
    searched(
        &search,
        vec![World::asked_for(1), World::asked_for(3), World::settled(1)],
    );
}

#[test]
fn the_plan_never_gives_the_quorum_away_three() {
    searched(&Search::of(1, 1, 5), vec![World::settled(3)]);
}

#[test]
fn the_plan_never_gives_the_quorum_away_five() {
    searched(&Search::of(1, 1, 5), vec![World::settled(5)]);
}

/// As where volumes go with their members, and a failed member stays until a person asks.
#[test]
fn the_plan_never_gives_the_quorum_away_where_nobody_replaces() {
    let mut world = World::settled(3);
    world.policy.replace_failed_after_ms = None;
    world.wanted.retention = Retention::Delete;
    searched(&Search::of(1, 1, 3), vec![world]);
}

// ---- twins that are broken on purpose

/// Takes everybody for healthy that has a name, as etcd's check does.
fn believes_names(observed: &Observed, policy: &Policy) -> Plan {
    let mut rosy = observed.clone();
    let leader = match &observed.live {
        Live::Known(live) => Some(live.leader),
        Live::Unknown => None,
    };
    for member in &mut rosy.members {
        if let Asked::Silent { .. } = member.asked {
            member.asked = Asked::Answered(planner::Answer {
                id: crate::world::id(member.number),
                cluster_id: planner::ClusterId(0xc1),
                good_since_ms: Some(0),
                bad_since_ms: None,
                leader,
                term: 2,
                raft_index: 10_000,
                applied_index: 10_000,
                version: Version::default(),
                db_size: 0,
                db_in_use: 0,
            });
        }
    }
    plan(&rosy, policy)
}

/// Takes a Pod on a silent node for gone.
fn believes_silence(observed: &Observed, policy: &Policy) -> Plan {
    let mut blind = observed.clone();
    for member in &mut blind.members {
        if matches!(&member.pod, Pod::Present(pod) if pod.node_silent) {
            member.pod = Pod::Absent;
        }
    }
    plan(&blind, policy)
}

/// Takes a Pod for well until it is gone.
fn believes_to_the_last(observed: &Observed, policy: &Policy) -> Plan {
    let mut late = observed.clone();
    for member in &mut late.members {
        if let Pod::Present(pod) = &mut member.pod
            && pod.phase == PodPhase::Terminating
            && !pod.node_silent
            && matches!(member.asked, Asked::Answered(_))
        {
            pod.phase = PodPhase::Running { ready: true };
        }
    }
    plan(&late, policy)
}

/// Takes whom it does not reach for down, whatever their nodes say.
fn believes_itself(observed: &Observed, policy: &Policy) -> Plan {
    let mut proud = observed.clone();
    for member in &mut proud.members {
        if let Pod::Present(pod) = &mut member.pod
            && let PodPhase::Running { ready } = &mut pod.phase
        {
            *ready = false;
        }
    }
    plan(&proud, policy)
}

/// Forgets what it has begun.
fn forgets(observed: &Observed, policy: &Policy) -> Plan {
    let mut blank = observed.clone();
    if !matches!(
        blank.recorded.operation.as_ref().map(|o| &o.kind),
        None | Some(OperationKind::Bootstrap { .. })
    ) {
        blank.recorded.operation = None;
    }
    plan(&blank, policy)
}

/// Does not wait until a member has been healthy for a while.
fn is_hasty(observed: &Observed, policy: &Policy) -> Plan {
    let policy = Policy {
        min_healthy_ms: 0,
        ..policy.clone()
    };
    plan(observed, &policy)
}

#[test]
fn a_broken_twin_is_caught_by_the_world() {
    for (name, twin) in [
        ("names", believes_names as Planning),
        ("silence", believes_silence),
        ("itself", believes_itself),
        ("to the last", believes_to_the_last),
    ] {
        let search = Search {
            planning: twin,
            checked: false,
            ..Search::of(1, 1, 3)
        };
        let wrong = search.run(World::settled(3)).wrong;
        let wrong = wrong.unwrap_or_else(|| panic!("{name}: not caught"));
        println!("{name}:\n{wrong}\n");
    }
}

#[test]
fn a_broken_twin_is_caught_by_the_check() {
    for (name, twin) in [
        ("names", believes_names as Planning),
        ("silence", believes_silence),
        ("forgets", forgets),
        ("to the last", believes_to_the_last),
        ("hasty", is_hasty),
    ] {
        let search = Search {
            planning: twin,
            ..Search::of(1, 1, 3)
        };
        let wrong = search.run(World::settled(3)).wrong;
        let wrong = wrong.unwrap_or_else(|| panic!("{name}: not caught"));
        println!("{name}:\n{wrong}\n");
    }
}
