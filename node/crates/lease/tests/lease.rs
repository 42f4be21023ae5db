//! The lessor over a real database, against a naive model and against etcd's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backend::{Backend, Committer, Options, Writer};
use lease::{
    CHECKPOINT_INTERVAL, Config, EXPIRED_PER_CHECK, EXPIRED_RETRY_INTERVAL, Error, LeaseId, Lessor,
    REVOKES_PER_SECOND, Renewal, TTL_SECONDS_MAX, WaitEnd, ttl_seconds_min,
};
use seams::{MemDisk, Rng, SeededRng};

const CONFIG: Config = Config {
    ttl_seconds_min: 2,
    checkpoint_interval: None,
};

struct Fixture {
    lessor: Lessor,
    writer: Writer,
    backend: Backend,
    _committer: Committer,
}

fn fixture(config: Config) -> Fixture {
    let options = Options {
        growth_bytes: 1 << 16,
        map_bytes: 1 << 20,
        ..Options::default()
    };
    let (backend, writer, committer) =
        Backend::open(Arc::new(MemDisk::new()), Path::new("db"), options).expect("a new database");
    let lessor = Lessor::load(&backend.view(), config).expect("no leases");
    Fixture {
        lessor,
        writer,
        backend,
        _committer: committer,
    }
}

impl Fixture {
    fn grant(&mut self, id: i64, ttl: i64, now: Duration) -> Result<i64, Error> {
        self.lessor.grant(LeaseId(id), ttl, now, &mut self.writer)
    }

    fn reload(&mut self) {
        self.writer.end_local();
        self.lessor
            .reload(&self.backend.view())
            .expect("what was written");
    }

    fn remaining(&self, id: i64, now: Duration) -> Option<i64> {
        self.lessor
            .time_to_live(LeaseId(id), false, now)
            .expect("there")
            .remaining_seconds
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn grants_are_checked_and_short_ones_raised() {
    let mut f = fixture(CONFIG);
    assert_eq!(f.grant(0, 10, seconds(0)), Err(Error::NotFound));
    assert_eq!(
        f.grant(1, TTL_SECONDS_MAX + 1, seconds(0)),
        Err(Error::TtlTooLarge)
    );
    assert_eq!(f.grant(1, TTL_SECONDS_MAX, seconds(0)), Ok(TTL_SECONDS_MAX));
    assert_eq!(f.grant(1, 10, seconds(0)), Err(Error::Exists));
    assert_eq!(f.grant(-2, -5, seconds(0)), Ok(2));
    assert_eq!(f.lessor.leases(), [LeaseId(-2), LeaseId(1)]);
    assert_eq!(LeaseId(-2).to_string(), "fffffffffffffffe");

    assert_eq!(ttl_seconds_min(millis(100), 10), 2);
    assert_eq!(ttl_seconds_min(millis(100), 50), 8);
    assert_eq!(ttl_seconds_min(millis(1), 11), 1);
}

#[test]
fn leases_come_back_from_the_database_and_their_keys_do_not() {
    let mut f = fixture(CONFIG);
    f.grant(1, 10, seconds(0)).expect("new");
    f.grant(2, 20, seconds(0)).expect("new");
    f.lessor.attach(LeaseId(1), b"a").expect("there");
    f.lessor
        .checkpoint(LeaseId(2), 7, true, seconds(0), &mut f.writer);
    f.lessor
        .checkpoint(LeaseId(3), 7, true, seconds(0), &mut f.writer);
    f.grant(4, 5, seconds(0)).expect("new");
    f.lessor.revoke(LeaseId(4), &mut f.writer).expect("there");
    f.reload();
    assert_eq!(f.lessor.leases(), [LeaseId(1), LeaseId(2)]);
    assert_eq!(f.lessor.keys(LeaseId(1)), Ok(Vec::new()));
    // The next leader gives the second lease what it had left.
    f.lessor.promote(seconds(1), seconds(100));
    assert_eq!(f.remaining(1, seconds(100)), Some(11));
    assert_eq!(f.remaining(2, seconds(100)), Some(8));

    f.writer
        .put(backend::Bucket::Lease, b"x", vec![0xff].into());
    f.writer.end_local();
    assert!(matches!(
        f.lessor.reload(&f.backend.view()),
        Err(Error::Damaged { .. })
    ));
    assert_eq!(f.lessor.count(), 2);
}

#[test]
fn keys_are_kept_sorted_for_the_revoke() {
    let mut f = fixture(CONFIG);
    f.grant(1, 10, seconds(0)).expect("new");
    let id = LeaseId(1);
    let keys = |f: &Fixture| f.lessor.keys(id).expect("there");
    for key in ["b", "b", "a", "c"] {
        f.lessor.attach(id, key.as_bytes()).expect("there");
    }
    assert_eq!(keys(&f), ["a", "b", "c"]);
    for key in ["b", "x", "a"] {
        f.lessor.detach(id, key.as_bytes());
    }
    assert_eq!(keys(&f), ["c"]);
    assert_eq!(
        f.lessor
            .time_to_live(id, true, seconds(0))
            .expect("there")
            .keys,
        ["c"]
    );
    f.lessor.detach(id, b"c");
    f.lessor.detach(LeaseId(9), b"c");
    assert!(keys(&f).is_empty());
    assert_eq!(f.lessor.attach(LeaseId(9), b"c"), Err(Error::NotFound));
    assert_eq!(
        f.lessor.revoke(LeaseId(9), &mut f.writer),
        Err(Error::NotFound)
    );
}

#[test]
fn only_the_primary_keeps_the_time() {
    let mut f = fixture(CONFIG);
    f.grant(1, 5, seconds(0)).expect("new");
    assert_eq!(
        f.lessor.renew(LeaseId(1), seconds(0)),
        Err(Error::NotPrimary)
    );
    assert_eq!(f.remaining(1, seconds(1000)), None);
    assert!(
        f.lessor
            .expired(seconds(1000), EXPIRED_PER_CHECK)
            .is_empty()
    );

    f.lessor.promote(seconds(1), seconds(1000));
    assert!(f.lessor.is_primary());
    assert_eq!(f.remaining(1, millis(1_000_500)), Some(5));
    f.grant(2, 3, seconds(1001)).expect("new");
    assert_eq!(f.lessor.leases(), [LeaseId(2), LeaseId(1)]);
    assert_eq!(
        f.lessor.renew(LeaseId(9), seconds(1001)),
        Err(Error::NotFound)
    );
    assert!(f.lessor.expired(millis(1_003_999), 9).is_empty());
    assert_eq!(f.lessor.expired(seconds(1004), 9), [LeaseId(2)]);
    assert_eq!(f.remaining(2, millis(1_004_900)), Some(0));
    assert_eq!(f.remaining(2, seconds(1006)), Some(-2));

    f.lessor.demote();
    assert_eq!(
        f.lessor.renew(LeaseId(1), seconds(1004)),
        Err(Error::NotPrimary)
    );
    assert!(f.lessor.expired(seconds(9999), 9).is_empty());
}

#[test]
fn a_lost_revoke_is_asked_for_again() {
    let mut f = fixture(CONFIG);
    f.lessor.promote(seconds(1), seconds(0));
    f.grant(1, 5, seconds(0)).expect("new");
    f.grant(2, 5, seconds(0)).expect("new");
    assert_eq!(f.lessor.expired(seconds(5), 1), [LeaseId(1)]);
    assert_eq!(f.lessor.expired(seconds(5), 9), [LeaseId(2)]);
    f.lessor.revoke(LeaseId(2), &mut f.writer).expect("there");
    let retry = seconds(5) + EXPIRED_RETRY_INTERVAL;
    assert!(f.lessor.expired(retry - millis(1), 9).is_empty());
    assert_eq!(f.lessor.expired(retry, 9), [LeaseId(1)]);
}

#[test]
fn a_renewal_of_an_ended_lease_waits_for_the_revoke() {
    let mut f = fixture(CONFIG);
    f.lessor.promote(seconds(1), seconds(0));
    f.grant(1, 5, seconds(0)).expect("new");
    f.grant(2, 5, seconds(0)).expect("new");
    assert_eq!(
        f.lessor.renew(LeaseId(1), millis(4999)),
        Ok(Renewal::Renewed(5))
    );
    assert_eq!(
        f.lessor.renew(LeaseId(1), millis(9998)),
        Ok(Renewal::Renewed(5))
    );
    assert_eq!(
        f.lessor.renew(LeaseId(1), millis(14_998)),
        Ok(Renewal::Ended)
    );
    let (revoked, demoted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for id in [1, 1, 2] {
        let (revoked, demoted) = (Arc::clone(&revoked), Arc::clone(&demoted));
        let count = move |end| match end {
            WaitEnd::Revoked => revoked.fetch_add(1, Ordering::Relaxed),
            WaitEnd::Demoted => demoted.fetch_add(1, Ordering::Relaxed),
        };
        let wait = Box::new(move |end| {
            count(end);
        });
        f.lessor.wait(LeaseId(id), wait).expect("there");
    }
    let counts = || {
        (
            revoked.load(Ordering::Relaxed),
            demoted.load(Ordering::Relaxed),
        )
    };
    f.lessor.revoke(LeaseId(1), &mut f.writer).expect("there");
    assert_eq!(counts(), (2, 0));
    assert_eq!(
        f.lessor.wait(LeaseId(1), Box::new(|_| {})),
        Err(Error::NotFound)
    );
    f.lessor.demote();
    assert_eq!(counts(), (2, 1));
    assert_eq!(
        f.lessor.wait(LeaseId(2), Box::new(|_| {})),
        Err(Error::NotPrimary)
    );
}

#[test]
fn long_leases_are_checkpointed() {
    let interval = CHECKPOINT_INTERVAL;
    let mut f = fixture(Config {
        checkpoint_interval: Some(interval),
        ..CONFIG
    });
    f.lessor.promote(seconds(1), seconds(0));
    f.grant(1, 1000, seconds(0)).expect("new");
    f.grant(2, 1000, seconds(1)).expect("new");
    f.grant(3, 300, seconds(0)).expect("new");
    assert!(f.lessor.due_checkpoints(interval - millis(1), 9).is_empty());
    let now = interval + millis(200);
    assert_eq!(f.lessor.due_checkpoints(now, 9), [(LeaseId(1), 700)]);
    // Until it is applied it is not due again; then the next one is.
    assert!(f.lessor.due_checkpoints(now, 9).is_empty());
    f.lessor
        .checkpoint(LeaseId(1), 700, true, now, &mut f.writer);
    assert_eq!(
        f.lessor.due_checkpoints(now + interval, 1),
        [(LeaseId(2), 401)]
    );
    assert_eq!(
        f.lessor.due_checkpoints(now + interval, 9),
        [(LeaseId(1), 400)]
    );
    // A renewal has to take the checkpoint back first.
    assert_eq!(
        f.lessor.renew(LeaseId(1), now),
        Ok(Renewal::ClearCheckpoint)
    );
    f.lessor.checkpoint(LeaseId(1), 0, true, now, &mut f.writer);
    assert_eq!(f.lessor.renew(LeaseId(1), now), Ok(Renewal::Renewed(1000)));
    // Where checkpoints are off, others' checkpoints do not shorten a renewal.
    let mut off = fixture(CONFIG);
    off.lessor.promote(seconds(0), seconds(0));
    off.grant(1, 1000, seconds(0)).expect("new");
    off.lessor
        .checkpoint(LeaseId(1), 10, true, seconds(0), &mut off.writer);
    assert_eq!(
        off.lessor.renew(LeaseId(1), seconds(0)),
        Ok(Renewal::Renewed(1000))
    );
    assert_eq!(off.remaining(1, seconds(0)), Some(1000));
    assert!(off.lessor.due_checkpoints(seconds(9999), 9).is_empty());
}

#[test]
fn a_new_leader_spreads_the_ends_of_many_leases() {
    let mut f = fixture(CONFIG);
    let count = 5 * REVOKES_PER_SECOND;
    for id in 1..=count {
        f.grant(id as i64, 10, seconds(0)).expect("new");
    }
    f.lessor.promote(seconds(1), seconds(0));
    let mut per_second: BTreeMap<i64, usize> = BTreeMap::new();
    for id in 1..=count {
        let remaining = f.remaining(id as i64, seconds(0)).expect("a primary");
        assert!(remaining >= 11, "no lease loses time");
        *per_second.entry(remaining).or_default() += 1;
    }
    assert!(per_second.len() >= 5, "{per_second:?}");
    assert!(
        per_second.values().all(|ends| *ends <= REVOKES_PER_SECOND),
        "{per_second:?}"
    );
    // A renewal takes the extra time back, and the end is noticed in time.
    let last = f.lessor.leases().pop().expect("many");
    assert!(f.remaining(last.0, seconds(0)) > Some(15));
    assert_eq!(f.lessor.renew(last, seconds(0)), Ok(Renewal::Renewed(10)));
    assert_eq!(f.lessor.expired(seconds(10), 9), [last]);
}

/// A lease as one would write it down.
struct Plain {
    ttl: i64,
    end: Option<Duration>,
    asked: Option<Duration>,
    keys: BTreeSet<Vec<u8>>,
}

/// Random calls, compared with a model that looks at every lease each time.
#[test]
fn does_what_a_naive_lessor_does() {
    for seed in seams::seeds(0..30) {
        let mut rng = SeededRng::new(seed);
        let mut f = fixture(CONFIG);
        let mut model: BTreeMap<i64, Plain> = BTreeMap::new();
        let (mut now, mut primary) = (seconds(0), false);
        for step in 0..600 {
            now += millis(rng.below(700));
            let id = rng.below(20) as i64 + 1;
            let context = format!("seed {seed} step {step} lease {id}");
            match rng.below(12) {
                0 | 1 => {
                    let ttl = rng.below(12) as i64;
                    let granted = f.grant(id, ttl, now);
                    if let std::collections::btree_map::Entry::Vacant(entry) = model.entry(id) {
                        let ttl = ttl.max(2);
                        assert_eq!(granted, Ok(ttl), "{context}");
                        let end = primary.then(|| now + seconds(ttl as u64));
                        entry.insert(Plain {
                            ttl,
                            end,
                            asked: None,
                            keys: BTreeSet::new(),
                        });
                    } else {
                        assert_eq!(granted, Err(Error::Exists), "{context}");
                    }
                }
                2 => {
                    let revoked = f.lessor.revoke(LeaseId(id), &mut f.writer);
                    assert_eq!(revoked.is_ok(), model.remove(&id).is_some(), "{context}");
                }
                3..=6 => {
                    let renewed = f.lessor.renew(LeaseId(id), now);
                    let expected = match model.get_mut(&id) {
                        _ if !primary => Err(Error::NotPrimary),
                        None => Err(Error::NotFound),
                        Some(lease) if lease.end <= Some(now) => Ok(Renewal::Ended),
                        Some(lease) => {
                            lease.end = Some(now + seconds(lease.ttl as u64));
                            Ok(Renewal::Renewed(lease.ttl))
                        }
                    };
                    assert_eq!(renewed, expected, "{context}");
                }
                7 | 8 => {
                    let key = [rng.below(6) as u8];
                    if rng.below(2) == 0 {
                        let attached = f.lessor.attach(LeaseId(id), &key);
                        assert_eq!(attached.is_ok(), model.contains_key(&id), "{context}");
                        model
                            .get_mut(&id)
                            .map(|lease| lease.keys.insert(key.to_vec()));
                    } else {
                        f.lessor.detach(LeaseId(id), &key);
                        model.get_mut(&id).map(|lease| lease.keys.remove(&key[..]));
                    }
                }
                9 => {
                    if rng.below(6) == 0 {
                        primary = !primary;
                        if primary {
                            f.lessor.promote(seconds(1), now)
                        } else {
                            f.lessor.demote()
                        }
                        for lease in model.values_mut() {
                            lease.end = primary.then(|| now + seconds(1 + lease.ttl as u64));
                            lease.asked = None;
                        }
                    } else if !primary && rng.below(4) == 0 {
                        f.reload();
                        model.values_mut().for_each(|lease| lease.keys.clear());
                    }
                }
                _ => {
                    let expired: BTreeSet<LeaseId> =
                        f.lessor.expired(now, 99).into_iter().collect();
                    for (id, lease) in &mut model {
                        let ended = lease.end.is_some_and(|end| end <= now);
                        let due = ended
                            && lease
                                .asked
                                .is_none_or(|asked| asked + EXPIRED_RETRY_INTERVAL <= now);
                        assert_eq!(expired.contains(&LeaseId(*id)), due, "{context}: {id}");
                        if due {
                            lease.asked = Some(now);
                        }
                    }
                    assert!(
                        expired.iter().all(|id| model.contains_key(&id.0)),
                        "{context}"
                    );
                }
            }
            let ids: BTreeSet<LeaseId> = f.lessor.leases().into_iter().collect();
            assert!(
                ids.iter().map(|id| id.0).eq(model.keys().copied()),
                "{context}"
            );
            if let Some(lease) = model.get(&id) {
                let known = f
                    .lessor
                    .time_to_live(LeaseId(id), true, now)
                    .expect("there");
                assert_eq!(known.granted_seconds, lease.ttl, "{context}");
                assert!(
                    known
                        .keys
                        .iter()
                        .map(|key| key.to_vec())
                        .eq(lease.keys.iter().cloned()),
                    "{context}"
                );
                assert_eq!(
                    known.remaining_seconds.is_some(),
                    lease.end.is_some(),
                    "{context}"
                );
            }
        }
    }
}
