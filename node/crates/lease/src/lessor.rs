//! All leases, their keys, and on the leader their ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::leasepb;
use backend::{Bucket, View, Writer};
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message;

use crate::keys::Keys;
use crate::{Config, EXPIRED_RETRY_INTERVAL, Error, LeaseId, REVOKES_PER_SECOND, TTL_SECONDS_MAX};

/// The end of a lease on a lessor that does not keep the time.
const FOREVER: u64 = u64::MAX;
const SECOND: u64 = 1_000_000_000;

/// Keeps leases; see the crate's chapter. Shared between the applier and serving threads.
#[derive(Debug)]
pub struct Lessor {
    config: Config,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    primary: bool,
    leases: BTreeMap<LeaseId, Lease>,
    /// When to look at which lease: one entry for each. Only on the primary.
    ends: BTreeSet<(u64, LeaseId)>,
    /// When to write down which lease's remaining time. Only on the primary. Entries of
    /// revoked leases stay until their time, at most one checkpoint interval.
    checkpoints: BinaryHeap<Reverse<(u64, LeaseId)>>,
}

#[derive(Debug)]
struct Lease {
    /// Seconds, as granted.
    ttl: i64,
    /// Seconds left at the last checkpoint; zero when there was none since the last renewal.
    remaining_ttl: i64,
    /// When it ends, in nanoseconds, or [`FOREVER`].
    end: AtomicU64,
    /// The time of this lease's entry in `ends`, [`FOREVER`] if it has none. A renewal leaves
    /// it behind, so it may be earlier than `end`, never later.
    scheduled: u64,
    keys: Keys,
    waiting: Waiters,
}

/// What [`Lessor::renew`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives for so many seconds from now.
    Renewed(i64),
    /// The lease has ended and its revoke is under way. Whether the revoke arrives is not
    /// known yet, so the answer has to wait: see [`Lessor::wait`].
    Ended,
    /// A checkpoint says that little time is left. Propose a checkpoint with zero remaining
    /// seconds for this lease, wait until it is applied, then renew again.
    ClearCheckpoint,
}

/// How waiting for a lease that has ended went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitEnd {
    /// The lease is revoked: answer [`Error::NotFound`].
    Revoked,
    /// This lessor keeps the time no more: answer [`Error::NotPrimary`], and the caller
    /// asks the new leader.
    Demoted,
}

/// Called once when a wait is over. It runs on the applier's thread: hand over and return.
pub type Wait = Box<dyn FnOnce(WaitEnd) + Send + Sync>;

#[derive(Default)]
struct Waiters(Vec<Wait>);

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waiting", self.0.len())
    }
}

impl Waiters {
    fn wake(&mut self, end: WaitEnd) {
        for wait in self.0.drain(..) {
            wait(end);
        }
    }
}

/// What is known of one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeToLive {
    /// Whole seconds left; negative when it ended and is not revoked yet. `None` when this
    /// lessor does not keep the time.
    pub remaining_seconds: Option<i64>,
    /// The TTL it was granted with.
    pub granted_seconds: i64,
    /// Its keys, ascending, if they were asked for.
    pub keys: Vec<Bytes>,
}

impl Lessor {
    /// A lessor with the leases that the database holds. Their keys are not in that bucket:
    /// attach those that the key bucket names. It starts as not primary.
    ///
    /// # Errors
    /// A damaged record, or a failure to read.
    pub fn load(view: &View, config: Config) -> Result<Lessor, Error> {
        let leases = load_leases(view, &config)?;
        Ok(Lessor {
            config,
            state: RwLock::new(State {
                leases,
                ..State::default()
            }),
        })
    }

    /// Forgets everything and reads another database, that of a received snapshot. Whoever
    /// waits is told that this lessor keeps the time no more.
    ///
    /// # Errors
    /// As of [`load`](Lessor::load); nothing has changed then.
    pub fn reload(&self, view: &View) -> Result<(), Error> {
        let leases = load_leases(view, &self.config)?;
        let mut old = {
            let mut state = self.state.write();
            std::mem::replace(
                &mut *state,
                State {
                    leases,
                    ..State::default()
                },
            )
        };
        old.leases
            .values_mut()
            .for_each(|lease| lease.waiting.wake(WaitEnd::Demoted));
        Ok(())
    }

    // ---- through the log: called by the applier ----

    /// Grants a lease and gives back its TTL, which is raised to the minimum if it is below.
    ///
    /// # Errors
    /// [`Error::NotFound`] for ID zero, [`Error::TtlTooLarge`], [`Error::Exists`].
    pub fn grant(
        &self,
        id: LeaseId,
        ttl_seconds: i64,
        now: Duration,
        writer: &mut Writer,
    ) -> Result<i64, Error> {
        if id.is_none() {
            return Err(Error::NotFound);
        }
        if ttl_seconds > TTL_SECONDS_MAX {
            return Err(Error::TtlTooLarge);
        }
        let mut guard = self.state.write();
        let state = &mut *guard;
        if state.leases.contains_key(&id) {
            return Err(Error::Exists);
        }
        let mut lease = Lease::new(ttl_seconds.max(self.config.ttl_seconds_min), 0);
        lease.persist(id, writer);
        let ttl = lease.ttl;
        if state.primary {
            let now = nanos(now);
            lease.refresh(id, now, 0, &mut state.ends);
            self.schedule_checkpoint(id, &lease, now, &mut state.checkpoints);
        }
        state.leases.insert(id, lease);
        Ok(ttl)
    }

    /// The keys of a lease, ascending: what to delete, in this order, before
    /// [`revoke`](Lessor::revoke). Members that delete in another order number revisions
    /// differently, and their hashes differ.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn keys(&self, id: LeaseId) -> Result<Vec<Bytes>, Error> {
        let state = self.state.read();
        let lease = state.leases.get(&id).ok_or(Error::NotFound)?;
        Ok(lease.keys.iter().map(Bytes::copy_from_slice).collect())
    }

    /// Removes a lease whose keys are deleted, in the same entry as they were: with one of
    /// the two lost, keys would live for ever or go without cause.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn revoke(&self, id: LeaseId, writer: &mut Writer) -> Result<(), Error> {
        let mut lease = {
            let mut state = self.state.write();
            let lease = state.leases.remove(&id).ok_or(Error::NotFound)?;
            state.ends.remove(&(lease.scheduled, id));
            lease
        };
        writer.delete(Bucket::Lease, &record_key(id));
        lease.waiting.wake(WaitEnd::Revoked);
        Ok(())
    }

    /// Attaches a key.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn attach(&self, id: LeaseId, key: &[u8]) -> Result<(), Error> {
        let mut state = self.state.write();
        state
            .leases
            .get_mut(&id)
            .ok_or(Error::NotFound)?
            .keys
            .insert(key);
        Ok(())
    }

    /// Detaches a key. Nothing happens if it is not attached, or there is no such lease.
    pub fn detach(&self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.state.write().leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// Notes how many seconds a lease had left, for the next leader. It is written to the
    /// database if `persist` (in clusters of version 3.6 and later, or where the feature
    /// gate says so). An unknown lease is passed over.
    pub fn checkpoint(
        &self,
        id: LeaseId,
        remaining_seconds: i64,
        persist: bool,
        now: Duration,
        writer: &mut Writer,
    ) {
        let mut guard = self.state.write();
        let state = &mut *guard;
        let Some(lease) = state.leases.get_mut(&id) else {
            return;
        };
        lease.remaining_ttl = remaining_seconds;
        if persist {
            lease.persist(id, writer);
        }
        if state.primary {
            self.schedule_checkpoint(id, lease, nanos(now), &mut state.checkpoints);
        }
    }

    /// Whether there is such a lease.
    #[must_use]
    pub fn contains(&self, id: LeaseId) -> bool {
        self.state.read().leases.contains_key(&id)
    }

    /// How many leases there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state.read().leases.len()
    }

    // ---- beside the log: called by serving threads ----

    /// Gives a lease its full time again.
    ///
    /// # Errors
    /// [`Error::NotPrimary`], [`Error::NotFound`].
    pub fn renew(&self, id: LeaseId, now: Duration) -> Result<Renewal, Error> {
        let now = nanos(now);
        let ttl = {
            let state = self.state.read();
            if !state.primary {
                return Err(Error::NotPrimary);
            }
            let lease = state.leases.get(&id).ok_or(Error::NotFound)?;
            if lease.has_ended(now) {
                return Ok(Renewal::Ended);
            }
            if self.config.checkpoint_interval.is_some() && lease.remaining_ttl > 0 {
                return Ok(Renewal::ClearCheckpoint);
            }
            // The full time, also where a checkpoint of another leader says less.
            let end = end_after(now, 0, lease.ttl);
            if end >= lease.scheduled {
                lease.end.store(end, Ordering::Relaxed);
                return Ok(Renewal::Renewed(lease.ttl));
            }
            lease.ttl
        };
        // It ends earlier than it will be looked at: a new leader had given it more time.
        let mut guard = self.state.write();
        let state = &mut *guard;
        if !state.primary {
            return Err(Error::NotPrimary);
        }
        let lease = state.leases.get_mut(&id).ok_or(Error::NotFound)?;
        lease.end_at(id, end_after(now, 0, ttl), &mut state.ends);
        Ok(Renewal::Renewed(ttl))
    }

    /// Calls `wait` when a lease that has ended is revoked, or this lessor is demoted.
    ///
    /// # Errors
    /// [`Error::NotPrimary`], [`Error::NotFound`]: that is the answer, and `wait` is not
    /// called.
    pub fn wait(&self, id: LeaseId, wait: Wait) -> Result<(), Error> {
        let mut state = self.state.write();
        if !state.primary {
            return Err(Error::NotPrimary);
        }
        let lease = state.leases.get_mut(&id).ok_or(Error::NotFound)?;
        lease.waiting.0.push(wait);
        Ok(())
    }

    /// What is known of a lease.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn time_to_live(
        &self,
        id: LeaseId,
        with_keys: bool,
        now: Duration,
    ) -> Result<TimeToLive, Error> {
        let state = self.state.read();
        let lease = state.leases.get(&id).ok_or(Error::NotFound)?;
        let end = lease.end.load(Ordering::Relaxed);
        let remaining = i128::from(end) - i128::from(nanos(now));
        Ok(TimeToLive {
            remaining_seconds: (end != FOREVER)
                .then(|| i64::try_from(remaining / i128::from(SECOND)).unwrap_or(i64::MAX)),
            granted_seconds: lease.ttl,
            keys: if with_keys {
                lease.keys.iter().map(Bytes::copy_from_slice).collect()
            } else {
                Vec::new()
            },
        })
    }

    /// All leases: on the primary by their end, elsewhere by ID.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseId> {
        let state = self.state.read();
        let mut ends: Vec<(u64, LeaseId)> = state
            .leases
            .iter()
            .map(|(id, lease)| (lease.end.load(Ordering::Relaxed), *id))
            .collect();
        drop(state);
        ends.sort_unstable();
        ends.into_iter().map(|(_, id)| id).collect()
    }

    // ---- leadership and its timer ----

    /// Whether this lessor keeps the time.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.state.read().primary
    }

    /// Makes this lessor the primary: its member leads and has applied everything of the
    /// terms before. Every lease gets its time again, plus `extend` (the election timeout).
    /// If leases are so many that they could end faster than they can be revoked, those
    /// beyond three quarters of [`REVOKES_PER_SECOND`] within a second get more.
    ///
    /// This looks at every lease, once per election; the other calls never do.
    pub fn promote(&self, extend: Duration, now: Duration) {
        let now = nanos(now);
        let extend = nanos(extend);
        let mut guard = self.state.write();
        let state = &mut *guard;
        state.primary = true;
        for (id, lease) in &mut state.leases {
            lease.refresh(*id, now, extend, &mut state.ends);
            self.schedule_checkpoint(*id, lease, now, &mut state.checkpoints);
        }
        if state.leases.len() >= REVOKES_PER_SECOND {
            self.spread(state, now, extend);
        }
    }

    /// Moves ends apart. `base` is where the current second begins; a lease beyond the
    /// allowed number in it is moved back in proportion to the excess, less what it already
    /// has over the base.
    fn spread(&self, state: &mut State, now: u64, extend: u64) {
        const ENDS_PER_SECOND: usize = 3 * REVOKES_PER_SECOND / 4;
        let mut order: Vec<(u64, LeaseId)> = state
            .leases
            .iter()
            .map(|(id, lease)| (lease.end.load(Ordering::Relaxed).saturating_sub(now), *id))
            .collect();
        order.sort_unstable();
        let Some(&(mut base, _)) = order.first() else {
            return;
        };
        let mut next = base + SECOND;
        let mut ends = 0usize;
        for (remaining, id) in order {
            if remaining > next {
                base = remaining;
                next = base + SECOND;
                ends = 1;
                continue;
            }
            ends += 1;
            if ends <= ENDS_PER_SECOND {
                continue;
            }
            // In whole nanoseconds: a delay of ends / ENDS_PER_SECOND seconds.
            let delay = SECOND as usize * ends / ENDS_PER_SECOND;
            let delay = (delay as u64).saturating_sub(remaining - base);
            next = base + delay;
            if let Some(lease) = state.leases.get_mut(&id) {
                lease.refresh(id, now, delay + extend, &mut state.ends);
                self.schedule_checkpoint(id, lease, now, &mut state.checkpoints);
            }
        }
    }

    /// Makes this lessor a follower's: no lease ends here any more.
    pub fn demote(&self) {
        let mut waiting = Vec::new();
        {
            let mut state = self.state.write();
            state.primary = false;
            state.ends = BTreeSet::new();
            state.checkpoints = BinaryHeap::new();
            for lease in state.leases.values_mut() {
                *lease.end.get_mut() = FOREVER;
                lease.scheduled = FOREVER;
                waiting.append(&mut lease.waiting.0);
            }
        }
        Waiters(waiting).wake(WaitEnd::Demoted);
    }

    /// Leases that have ended, at most `limit` (see [`EXPIRED_PER_CHECK`](crate::EXPIRED_PER_CHECK)),
    /// earliest first. Each is given out once, and again after
    /// [`EXPIRED_RETRY_INTERVAL`] if it is still there. Empty where this lessor is not primary.
    pub fn expired(&self, now: Duration, limit: usize) -> Vec<LeaseId> {
        let now = nanos(now);
        let due = |state: &State| state.ends.first().copied().filter(|(time, _)| *time <= now);
        // The usual case is that nothing is due, and renewals need not wait for that.
        if due(&self.state.read()).is_none() {
            return Vec::new();
        }
        let mut guard = self.state.write();
        let state = &mut *guard;
        let mut expired = Vec::new();
        while expired.len() < limit
            && let Some((time, id)) = due(state)
        {
            state.ends.remove(&(time, id));
            let Some(lease) = state.leases.get_mut(&id) else {
                continue;
            };
            let end = *lease.end.get_mut();
            lease.scheduled = if end > now {
                end
            } else {
                expired.push(id);
                now.saturating_add(nanos(EXPIRED_RETRY_INTERVAL))
            };
            state.ends.insert((lease.scheduled, id));
        }
        expired
    }

    /// Leases whose remaining time should go into the log now, with the seconds left: at most
    /// `limit` (see [`CHECKPOINTS_PER_ENTRY_MAX`](crate::CHECKPOINTS_PER_ENTRY_MAX)).
    pub fn due_checkpoints(&self, now: Duration, limit: usize) -> Vec<(LeaseId, i64)> {
        let now = nanos(now);
        let due = |state: &State| {
            state
                .checkpoints
                .peek()
                .is_some_and(|Reverse((time, _))| *time <= now)
        };
        if self.config.checkpoint_interval.is_none() || !due(&self.state.read()) {
            return Vec::new();
        }
        let mut state = self.state.write();
        let mut checkpoints = Vec::new();
        while checkpoints.len() < limit && due(&state) {
            let Some(Reverse((_, id))) = state.checkpoints.pop() else {
                break;
            };
            let Some(lease) = state.leases.get(&id) else {
                continue;
            };
            let remaining = lease.end.load(Ordering::Relaxed).saturating_sub(now);
            let seconds = i64::try_from(remaining.div_ceil(SECOND)).unwrap_or(i64::MAX);
            if remaining > 0 && seconds < lease.ttl {
                checkpoints.push((id, seconds));
            }
        }
        checkpoints
    }

    fn schedule_checkpoint(
        &self,
        id: LeaseId,
        lease: &Lease,
        now: u64,
        checkpoints: &mut BinaryHeap<Reverse<(u64, LeaseId)>>,
    ) {
        let Some(interval) = self.config.checkpoint_interval else {
            return;
        };
        if i128::from(lease.seconds()) > i128::from(interval.as_secs()) {
            checkpoints.push(Reverse((now.saturating_add(nanos(interval)), id)));
        }
    }
}

impl Lease {
    fn new(ttl: i64, remaining_ttl: i64) -> Lease {
        Lease {
            ttl,
            remaining_ttl,
            end: AtomicU64::new(FOREVER),
            scheduled: FOREVER,
            keys: Keys::None,
            waiting: Waiters::default(),
        }
    }

    /// The seconds that a new leader gives it.
    fn seconds(&self) -> i64 {
        if self.remaining_ttl > 0 {
            self.remaining_ttl
        } else {
            self.ttl
        }
    }

    fn has_ended(&self, now: u64) -> bool {
        self.end.load(Ordering::Relaxed) <= now
    }

    /// Gives it its time from now on.
    fn refresh(&mut self, id: LeaseId, now: u64, extend: u64, ends: &mut BTreeSet<(u64, LeaseId)>) {
        self.end_at(id, end_after(now, extend, self.seconds()), ends);
    }

    /// Sets its end, and sees to it that the end will be noticed in time.
    fn end_at(&mut self, id: LeaseId, end: u64, ends: &mut BTreeSet<(u64, LeaseId)>) {
        *self.end.get_mut() = end;
        if end < self.scheduled {
            ends.remove(&(self.scheduled, id));
            self.scheduled = end;
            ends.insert((end, id));
        }
    }

    fn persist(&self, id: LeaseId, writer: &mut Writer) {
        let record = leasepb::Lease {
            id: id.0,
            ttl: self.ttl,
            remaining_ttl: self.remaining_ttl,
        };
        writer.put(
            Bucket::Lease,
            &record_key(id),
            record.encode_to_vec().into(),
        );
    }
}

fn load_leases(view: &View, config: &Config) -> Result<BTreeMap<LeaseId, Lease>, Error> {
    let mut leases = BTreeMap::new();
    let mut result = Ok(());
    view.scan(
        Bucket::Lease,
        &[],
        None,
        &mut |key, value| match leasepb::Lease::decode(value) {
            Ok(record) => {
                let ttl = record.ttl.max(config.ttl_seconds_min);
                leases.insert(LeaseId(record.id), Lease::new(ttl, record.remaining_ttl));
                ControlFlow::Continue(())
            }
            Err(error) => {
                result = Err(Error::Damaged {
                    key: key.to_vec(),
                    reason: error.to_string(),
                });
                ControlFlow::Break(())
            }
        },
    )
    .map_err(|error| Error::Backend(error.to_string()))?;
    result.map(|()| leases)
}

/// An end that is never [`FOREVER`], whatever number a record in the database names.
fn end_after(now: u64, extend: u64, seconds: i64) -> u64 {
    now.saturating_add(extend)
        .saturating_add(u64::try_from(seconds).unwrap_or(0).saturating_mul(SECOND))
        .min(FOREVER - 1)
}

fn record_key(id: LeaseId) -> [u8; 8] {
    id.0.to_be_bytes()
}

/// Nanoseconds in 64 bits: enough for 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(FOREVER - 1)
}
