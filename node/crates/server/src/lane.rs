//! A lane: the way of one serving runtime to the raft loop, and back.
//!
//! Waking a thread for each request costs more than serving it (measured: +6 to 8 µs). So the
//! requests that one turn of a runtime brings are gathered and pushed at once, and the results
//! of one batch come back as one list with one wake; the waiters are then woken from inside the
//! runtime that owns them.
//!
//! ```text
//! handler ─ propose ─▶ outbox ┐ one push, one wake a turn        ┌─▶ raft loop
//! handler ─ read ────▶ reads  ┴────────── lane task ─────────────┘
//! handler ◀─ oneshot ── lane task ◀── results: one list, one wake ── applier, raft loop
//! ```
//!
//! Request ids: 16 bits of the member's ID, 8 bits of the lane, 40 bits counting from a random
//! start. The applier finds the waiter by the id alone; an entry of another member, or of an
//! earlier life of this one, finds none.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::etcdserverpb::InternalRaftRequest;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, oneshot};

use crate::digest::Digest;
use crate::raftloop::{RaftInbox, Submission};

/// What a waiter gets: the applied request's answer, or why there is none.
pub type Reply = Result<apply::Response, api::Error>;

/// How often waiters past their time are looked for. A client that waits seconds
/// does not notice a tenth.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Requests of one lane that wait for their answers. The door refuses more with
/// `too many requests`; raft's own gate (5000 unapplied) is far below it.
const WAITERS_MAX: usize = 100_000;

/// After a rush the list of deadlines keeps room for this many: 24 bytes each.
const DEADLINES_KEPT: usize = 4096;

/// The ids are dense in their low bits: multiply once, no SipHash.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are hashed as u64")
    }
    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(20);
    }
}

type IdMap<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;

#[derive(Default)]
struct Waiting {
    replies: IdMap<oneshot::Sender<Reply>>,
    /// In order of their time, oldest first; an id may be answered already.
    deadlines: VecDeque<(Instant, u64)>,
    /// The member stops: nobody may wait any more.
    closed: bool,
}

#[derive(Default)]
struct Outbox {
    submissions: Vec<Submission>,
    /// Readers that came since the last round was asked for.
    readers: Vec<oneshot::Sender<Result<(), api::Error>>>,
    /// as in [`Waiting`]
    closed: bool,
}

struct ReadRound {
    tag: u64,
    deadline: Instant,
    readers: Vec<oneshot::Sender<Result<(), api::Error>>>,
}

#[derive(Default)]
pub(crate) struct Results {
    pub(crate) replies: Vec<(u64, Reply)>,
    pub(crate) reads: Vec<(u64, Result<(), api::Error>)>,
}

/// One runtime's lane. Handlers of that runtime share it.
pub struct Lane {
    index: u8,
    id_prefix: u64,
    next_id: AtomicU64,
    next_read: AtomicU64,
    request_timeout: Duration,
    inbox: Arc<RaftInbox>,
    out: Mutex<Outbox>,
    waiting: Mutex<Waiting>,
    rounds: Mutex<VecDeque<ReadRound>>,
    pub(crate) results: Mutex<Results>,
    notify: Notify,
    /// Why a request that ran out of time did, asked at that moment.
    timeout_reason: Box<dyn Fn(Instant) -> api::Error + Send + Sync>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Lane {
    /// A lane with the given number, `random` giving the start of its ids.
    pub fn new(
        index: u8,
        member: u64,
        random: u64,
        request_timeout: Duration,
        inbox: Arc<RaftInbox>,
        timeout_reason: Box<dyn Fn(Instant) -> api::Error + Send + Sync>,
    ) -> Self {
        Self {
            index,
            id_prefix: (member & 0xffff) << 48 | u64::from(index) << 40,
            next_id: AtomicU64::new(random),
            next_read: AtomicU64::new(0),
            request_timeout,
            inbox,
            out: Mutex::default(),
            waiting: Mutex::default(),
            rounds: Mutex::default(),
            results: Mutex::default(),
            notify: Notify::new(),
            timeout_reason,
        }
    }

    /// The lane that an id belongs to, if `member` gave it.
    pub fn of_id(member: u64, id: u64) -> Option<u8> {
        (id >> 48 == member & 0xffff).then_some((id >> 40) as u8)
    }

    /// A new request id, unique among members and lives.
    pub fn next_id(&self) -> u64 {
        let sequence = self.next_id.fetch_add(1, Ordering::Relaxed) & 0xff_ffff_ffff;
        self.id_prefix | sequence
    }

    /// Sends a request through raft and waits for its application.
    ///
    /// The encoded request may not be larger than `request_bytes_max` (etcd compares the
    /// marshalled raft request with `--max-request-bytes`).
    pub async fn propose(
        &self,
        mut request: InternalRaftRequest,
        request_bytes_max: usize,
    ) -> Reply {
        let id = self.next_id();
        request.header.get_or_insert_default().id = id;
        let data = request.encode_to_vec();
        if data.len() > request_bytes_max {
            return Err(api::Error::RequestTooLarge);
        }
        self.submit(id, |id| Submission::Entry {
            id,
            data: Bytes::from(data),
        })
        .await
    }

    /// Sends a membership change through raft and waits for its application.
    pub async fn propose_conf_change(&self, mut change: raftpb::ConfChange) -> Reply {
        let id = self.next_id();
        change.id = id;
        self.submit(id, |id| Submission::ConfChange { id, change })
            .await
    }

    /// As [`Lane::propose_conf_change`], but only if this member leads, and if the membership is
    /// the expected one in the turn that appends; where another leads, the answer is `not leader`,
    /// and nothing was appended.
    pub async fn propose_conf_change_here(
        &self,
        mut change: raftpb::ConfChange,
        expected: Option<Digest>,
    ) -> Reply {
        let id = self.next_id();
        change.id = id;
        self.submit(id, |id| Submission::ConfChangeHere {
            id,
            change,
            expected,
        })
        .await
    }

    async fn submit(&self, id: u64, submission: impl FnOnce(u64) -> Submission) -> Reply {
        let (sender, receiver) = oneshot::channel();
        let now = Instant::now();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(api::Error::Stopped);
            }
            if waiting.replies.len() >= WAITERS_MAX {
                return Err(api::Error::TooManyRequests);
            }
            waiting.replies.insert(id, sender);
            waiting
                .deadlines
                .push_back((now + self.request_timeout, id));
        }
        self.out.lock().submissions.push(submission(id));
        self.notify.notify_one();
        // A handler that is dropped (the client went away) leaves its waiter to the sweep.
        receiver.await.unwrap_or(Err(api::Error::Stopped))
    }

    /// Waits until this member has applied all that was committed when the call was made.
    pub async fn linearizable_read(&self) -> Result<(), api::Error> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut out = self.out.lock();
            if out.closed {
                return Err(api::Error::Stopped);
            }
            out.readers.push(sender);
        }
        self.notify.notify_one();
        receiver.await.unwrap_or(Err(api::Error::Stopped))
    }

    /// Requests that wait.
    pub fn waiting_count(&self) -> usize {
        self.waiting.lock().replies.len()
    }

    /// Whether the caller of this request still waits.
    pub fn is_waiting(&self, id: u64) -> bool {
        self.waiting.lock().replies.contains_key(&id)
    }

    /// The lane's task; runs in its runtime until that ends.
    pub async fn run(self: Arc<Self>) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.notify.notified() => {}
                // An idle lane wakes nobody.
                _ = sweep.tick(), if self.has_deadlines() => self.sweep(Instant::now()),
            }
            self.flush();
            self.deliver();
        }
    }

    /// Answers everything that waits, and whoever comes later; used when the member stops.
    pub fn fail_all(&self, error: &api::Error) {
        let closed = Waiting {
            closed: true,
            ..Waiting::default()
        };
        let replies = std::mem::replace(&mut *self.waiting.lock(), closed);
        for (_, sender) in replies.replies {
            let _ = sender.send(Err(error.clone()));
        }
        // Readers before rounds: a flush moves them from here to there.
        let readers = {
            let mut out = self.out.lock();
            out.closed = true;
            std::mem::take(&mut out.readers)
        };
        let rounds = std::mem::take(&mut *self.rounds.lock());
        for reader in readers
            .into_iter()
            .chain(rounds.into_iter().flat_map(|round| round.readers))
        {
            let _ = reader.send(Err(error.clone()));
        }
    }

    /// From the applier and the raft loop: a batch of results, one wake.
    pub fn push_replies(&self, replies: &mut Vec<(u64, Reply)>) {
        self.results.lock().replies.append(replies);
        self.notify.notify_one();
    }

    /// From the applier and the raft loop: the round `tag` may be read now, or failed.
    pub fn push_read(&self, tag: u64, result: Result<(), api::Error>) {
        self.results.lock().reads.push((tag, result));
        self.notify.notify_one();
    }

    fn flush(&self) {
        let mut out = self.out.lock();
        let submissions = std::mem::take(&mut out.submissions);
        let readers = std::mem::take(&mut out.readers);
        let read = (!readers.is_empty()).then(|| {
            let tag = self.next_read.fetch_add(1, Ordering::Relaxed);
            let deadline = Instant::now() + self.request_timeout;
            let round = ReadRound {
                tag,
                deadline,
                readers,
            };
            self.rounds.lock().push_back(round);
            (self.index, tag)
        });
        // Until here a reader is in one of the two lists for whoever ends the member.
        drop(out);
        if read.is_some() || !submissions.is_empty() {
            self.inbox.submit(submissions, read);
        }
    }

    fn has_deadlines(&self) -> bool {
        !self.waiting.lock().deadlines.is_empty() || !self.rounds.lock().is_empty()
    }

    fn deliver(&self) {
        let results = std::mem::take(&mut *self.results.lock());
        if !results.replies.is_empty() {
            let mut waiting = self.waiting.lock();
            for (id, reply) in results.replies {
                if let Some(sender) = waiting.replies.remove(&id) {
                    let _ = sender.send(reply);
                }
            }
        }
        for (tag, result) in results.reads {
            let round = {
                let mut rounds = self.rounds.lock();
                let position = rounds.iter().position(|round| round.tag == tag);
                position.and_then(|position| rounds.remove(position))
            };
            for reader in round.into_iter().flat_map(|round| round.readers) {
                let _ = reader.send(result.clone());
            }
        }
    }

    fn sweep(&self, now: Instant) {
        let mut late = Vec::new();
        {
            let mut waiting = self.waiting.lock();
            while let Some(&(deadline, id)) = waiting.deadlines.front() {
                if waiting.replies.contains_key(&id) {
                    if deadline > now {
                        break;
                    }
                    late.extend(waiting.replies.remove(&id).map(|sender| (deadline, sender)));
                }
                waiting.deadlines.pop_front();
            }
            if waiting.deadlines.is_empty() {
                waiting.deadlines.shrink_to(DEADLINES_KEPT);
            }
        }
        for (deadline, sender) in late {
            let _ = sender.send(Err((self.timeout_reason)(deadline - self.request_timeout)));
        }
        let mut rounds = self.rounds.lock();
        while rounds.front().is_some_and(|round| round.deadline <= now) {
            let round = rounds.pop_front().expect("looked at above");
            for reader in round.readers {
                let _ = reader.send(Err(api::Error::Timeout));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::etcdserverpb as pb;

    fn lane(timeout: Duration) -> Arc<Lane> {
        let reason = Box::new(|_| api::Error::Timeout);
        Arc::new(Lane::new(1, 0xabcd, 7, timeout, Arc::default(), reason))
    }

    fn put() -> InternalRaftRequest {
        InternalRaftRequest {
            put: Some(pb::PutRequest::default()),
            ..Default::default()
        }
    }

    fn in_runtime<F: Future>(work: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(work)
    }

    #[test]
    fn what_waits_when_the_member_ends_is_answered_and_so_is_what_comes_later() {
        in_runtime(async {
            let lane = lane(Duration::from_secs(3600));
            let task = tokio::spawn(lane.clone().run());
            let (writer, reader) = (lane.clone(), lane.clone());
            let put_waits = tokio::spawn(async move { writer.propose(put(), usize::MAX).await });
            let read_waits = tokio::spawn(async move { reader.linearizable_read().await });
            // Both have been handed to raft, which never answers.
            while lane.waiting_count() == 0 || lane.rounds.lock().is_empty() {
                tokio::task::yield_now().await;
            }
            lane.fail_all(&api::Error::Stopped);
            assert_eq!(
                put_waits.await.expect("no panic").err(),
                Some(api::Error::Stopped)
            );
            assert_eq!(
                read_waits.await.expect("no panic"),
                Err(api::Error::Stopped)
            );
            assert_eq!(
                lane.propose(put(), usize::MAX).await.err(),
                Some(api::Error::Stopped)
            );
            assert_eq!(lane.linearizable_read().await, Err(api::Error::Stopped));
            task.abort();
        });
    }

    #[test]
    fn a_request_that_nobody_answers_ends_in_time_and_a_late_answer_finds_nobody() {
        in_runtime(async {
            let lane = lane(Duration::from_millis(1));
            let task = tokio::spawn(lane.clone().run());
            assert_eq!(
                lane.propose(put(), usize::MAX).await.err(),
                Some(api::Error::Timeout)
            );
            assert_eq!(lane.linearizable_read().await, Err(api::Error::Timeout));
            lane.push_replies(&mut vec![(lane.next_id() - 1, Ok(apply::Response::Empty))]);
            lane.push_read(0, Ok(()));
            lane.deliver();
            assert_eq!(lane.waiting_count(), 0);
            assert!(!lane.has_deadlines(), "an idle lane still wakes");
            task.abort();
        });
    }
}
