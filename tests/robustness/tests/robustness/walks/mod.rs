//! Random walks through memberships, on real processes under load.
//!
//! ```text
//!  seed ─▶ walk ── add, add learner, promote, remove, update, move leader ─▶ members ◀─ load
//!            └──── kill, restart, cut a link, heal ────────────────────────▶  │
//!                                                                             │ the leader's
//!  what the test knows of their life (truth) ─▶ replay ◀── verdicts ──────────┘ own log
//!                                                 └─▶ the properties of quorum's model
//! ```
//!
//! After each walk everything is healed, and then the cluster must serve, its members must agree
//! on themselves and on every key, no acknowledged write may be lost; and no step that a leader
//! allowed may break P1 or P2 under any view that it can have had.
//!
//! `make chaos-membership SEED=1 WALKS=200 STEPS=30` walks for long. To the test the same is said by
//! `QUORATE_SEED_FIRST`, `QUORATE_WALKS`, `QUORATE_WALK_STEPS`, `QUORATE_WALK_S` (how long one walk
//! may take for its steps; one that did not take them all has failed) and `QUORATE_WALKS_AT_ONCE`. With `QUORATE_WALK_STORY` each walk is told step
//! by step. `QUORATE_WALK_FLAG` is one more flag of all members: with
//! `--quorate-membership-rule=etcd`, walks find the steps by which etcd's own rule breaks P2.
//! The same seed draws the same plan; what becomes of it depends on real processes too.

mod calls;
mod links;
mod load;
mod places;
#[path = "../../../../../node/crates/quorum/tests/model/properties.rs"]
#[expect(dead_code, reason = "the search uses all of it, the walks a part")]
mod properties;
mod replay;
mod truth;
mod walk;

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use walk::{Plan, Told, walk};

use crate::number;

#[test]
fn walks_keep_the_quorum_the_writes_and_the_rule() {
    let first = number("QUORATE_SEED_FIRST", 1);
    let walks = number("QUORATE_WALKS", 2);
    let plan = |seed| Plan {
        seed,
        steps: number("QUORATE_WALK_STEPS", 10) as usize,
        time: Duration::from_secs(number("QUORATE_WALK_S", 60)),
        flags: std::env::var("QUORATE_WALK_FLAG").into_iter().collect(),
        strict: true,
        until_broken: false,
    };
    let seeds = Mutex::new(first..first + walks);
    let failures = Mutex::new(Vec::new());
    let all = Mutex::new(Told::default());
    std::thread::scope(|scope| {
        for _ in 0..number("QUORATE_WALKS_AT_ONCE", 2) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = seeds.lock().expect("not poisoned").next() else {
                        return;
                    };
                    let began = Instant::now();
                    // One that panics is one that failed; the others go on.
                    let walked = catch_unwind(|| walk(plan(seed)));
                    match walked.unwrap_or_else(|_| Err(format!("seed {seed}: it panicked"))) {
                        Ok(told) => {
                            tell(seed, &told, began);
                            let mut all = all.lock().expect("not poisoned");
                            all.allowed += told.allowed;
                            all.unjudged += told.unjudged;
                            all.steps += told.steps;
                            all.kills += told.kills;
                            all.cuts += told.cuts;
                            all.writes += told.writes;
                        }
                        Err(what) => {
                            eprintln!("walk: FAILED {what}");
                            failures.lock().expect("not poisoned").push(what);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("not poisoned");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    let all = all.into_inner().expect("not poisoned");
    eprintln!(
        "walks: {walks}; {} steps, {} kills, {} cuts, {} writes held",
        all.steps, all.kills, all.cuts, all.writes
    );
    assert!(all.allowed > 0, "no step was allowed: nothing was tried");
    assert!(all.writes > 0, "nothing was written: {all:?}");
    assert!(
        all.kills + all.cuts > 0,
        "nobody was killed, no link was cut: {all:?}"
    );
    assert!(
        all.unjudged <= 1 + all.allowed / 10,
        "too many of the allowed steps could not be put before the model: {all:?}"
    );
}

/// The twin: without the rule, the same walks take a step that is broken.
#[test]
fn without_the_rule_a_walk_takes_a_broken_step() {
    const WALKS_MAX: u64 = 4;
    let mut tried = Vec::new();
    // The fourth walk asks before anybody counts as connected.
    for seed in 4..4 + WALKS_MAX {
        let began = Instant::now();
        let plan = Plan {
            seed,
            steps: 30,
            time: Duration::from_secs(40),
            flags: vec!["--strict-reconfig-check=false".to_owned()],
            strict: false,
            until_broken: true,
        };
        // A walk that dies of its unsafe steps proves it as well as one that names them, but the
        // names are what is asked for here.
        match walk(plan) {
            Ok(told) => {
                tell(seed, &told, began);
                if told.broken.iter().any(|what| what.starts_with('P')) {
                    return;
                }
                tried.push(format!("{told:?}"));
            }
            Err(what) => tried.push(what),
        }
    }
    panic!(
        "no broken step was found in {WALKS_MAX} walks without the rule:\n{}",
        tried.join("\n")
    );
}

fn tell(seed: u64, told: &Told, began: Instant) {
    eprintln!(
        "walk: seed {seed}, {:.0} s: {} steps; allowed {}, refused {}, unanswered {}, not followed {}; {} kills, {} cuts; {} writes held{}",
        began.elapsed().as_secs_f64(),
        told.steps,
        told.allowed,
        told.refused,
        told.unknown,
        told.unjudged,
        told.kills,
        told.cuts,
        told.writes,
        told.broken
            .iter()
            .map(|what| format!("; broken: {what}"))
            .collect::<String>()
    );
}
