//! The raft loop: one thread, one inbox, one synchronous turn after the other.
//!
//! It waits in one place and never touches the disk or a socket. Forward lanes (to the WAL
//! writer, to the applier) take what it gives without waiting; when the applier's lane is full,
//! the loop keeps the rest in its own queue and goes on (promise 2). What comes back is a latest
//! value (`persisted`, `applied`) or an ordered list that loses none (conf changes).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use raftnode::{DropReason, Effects, Inputs, Payload, Proposal, RaftNode, ReadFailure, Refusal};
use raftpb::{ConfChange, MemberId, Message};

use crate::applier::{ApplierInbox, Job};
use crate::digest::Digest;
use crate::judge::LogWindow;
use crate::shared::Shared;
use crate::walwriter::{WalInbox, WalJob};

/// Proposals that wait for a leader. etcd lets each wait until its time-out; so do we, up to
/// this many, which is what the door's own limits let in.
const HELD_PROPOSALS_MAX: usize = 100_000;

/// What a lane hands in.
#[derive(Debug)]
pub enum Submission {
    /// a normal entry
    Entry {
        /// request id
        id: u64,
        /// encoded `InternalRaftRequest`
        data: Bytes,
    },
    /// a membership change
    ConfChange {
        /// request id
        id: u64,
        /// the change, its id filled
        change: ConfChange,
    },
    /// a membership change that only a leader may take
    ConfChangeHere {
        /// request id
        id: u64,
        /// the change, its id filled
        change: ConfChange,
        /// the membership that its caller expects
        expected: Option<Digest>,
    },
}

#[derive(Default)]
struct Queue {
    inputs: Inputs,
    stop: bool,
    sleeping: bool,
    filled: bool,
}

/// Everything that reaches the raft loop, gathered until its next turn.
#[derive(Default)]
pub struct RaftInbox {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl std::fmt::Debug for RaftInbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RaftInbox")
    }
}

/// A lane's read round as one number: 8 bits of the lane, 56 of the round.
fn read_tag(lane: u8, round: u64) -> u64 {
    u64::from(lane) << 56 | round & (u64::MAX >> 8)
}

impl RaftInbox {
    fn change(&self, change: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue.lock();
        change(&mut queue);
        queue.filled = true;
        if queue.sleeping {
            queue.sleeping = false;
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// From a lane: what one turn of its runtime gathered.
    pub fn submit(&self, submissions: Vec<Submission>, read: Option<(u8, u64)>) {
        self.change(|queue| {
            queue.inputs.proposals.extend(submissions.into_iter().map(
                |submission| match submission {
                    Submission::Entry { id, data } => Proposal {
                        tag: id,
                        payload: Payload::Data(data),
                    },
                    Submission::ConfChange { id, change } => Proposal {
                        tag: id,
                        payload: Payload::ConfChange(change),
                    },
                    Submission::ConfChangeHere {
                        id,
                        change,
                        expected,
                    } => Proposal {
                        tag: id,
                        payload: Payload::ConfChangeHere {
                            change,
                            condition: expected.map(u64::from),
                        },
                    },
                },
            ));
            queue
                .inputs
                .reads
                .extend(read.map(|(lane, round)| read_tag(lane, round)));
        });
    }

    /// From the peers: messages in the order of their stream.
    pub fn messages(&self, mut messages: Vec<Message>) {
        self.change(|queue| queue.inputs.messages.append(&mut messages));
    }

    /// From the WAL writer: durable up to this number.
    pub fn persisted(&self, number: u64) {
        self.change(|queue| queue.inputs.persisted = Some(number));
    }

    /// From the applier: applied up to `index`, after these conf changes.
    ///
    /// The index alone wakes nobody: nothing but memory waits for it, and the loop sees it with
    /// the next message or tick. A wake for each put would be a fifth of this thread's work.
    pub fn applied(&self, index: u64, conf_results: &mut Vec<raftnode::ConfResult>) {
        if conf_results.is_empty() {
            self.queue.lock().inputs.applied = Some(index);
            return;
        }
        self.change(|queue| {
            queue.inputs.conf_results.append(conf_results);
            queue.inputs.applied = Some(index);
        });
    }

    /// From the applier: the received snapshot is in place.
    pub fn snapshot_installed(&self, index: u64) {
        self.change(|queue| queue.inputs.snapshot_installed = Some(index));
    }

    /// A snapshot for a peer is made, or could not be.
    pub fn snapshot_ready(&self, ready: raftnode::SnapshotReady) {
        self.change(|queue| queue.inputs.snapshots_ready.push(ready));
    }

    /// How the sending of a snapshot ended.
    pub fn snapshot_sent(&self, peer: MemberId, ok: bool) {
        self.change(|queue| {
            queue
                .inputs
                .snapshots_sent
                .push(raftnode::SnapshotSent { peer, ok });
        });
    }

    /// A message to this peer was lost.
    pub fn unreachable(&self, peer: MemberId) {
        self.change(|queue| {
            if !queue.inputs.unreachable.contains(&peer) {
                queue.inputs.unreachable.push(peer);
            }
        });
    }

    /// Entries that had left memory.
    pub fn fetched(&self, fetched: raftnode::Fetched) {
        self.change(|queue| queue.inputs.fetched.push(fetched));
    }

    /// A snapshot stands behind the log up to here.
    pub fn compact_to(&self, index: u64) {
        self.change(|queue| queue.inputs.compact_to = Some(index));
    }

    /// Hands the lead over.
    pub fn transfer_to(&self, member: MemberId) {
        self.change(|queue| queue.inputs.transfer_to = Some(member));
    }

    /// Advances the clock, for a faster first election.
    pub fn advance_ticks(&self, ticks: u32) {
        self.change(|queue| queue.inputs.ticks += ticks);
    }

    /// Ends the loop after its current turn.
    pub fn stop(&self) {
        self.change(|queue| queue.stop = true);
    }

    /// Waits for input or the deadline; swaps what came into `inputs`. True: end.
    pub(crate) fn take(&self, inputs: &mut Inputs, deadline: Instant) -> bool {
        let mut queue = self.queue.lock();
        while !queue.filled {
            queue.sleeping = true;
            if self.wake.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        queue.sleeping = false;
        queue.filled = false;
        std::mem::swap(&mut queue.inputs, inputs);
        queue.stop
    }
}

/// Where messages to peers go. `rafthttp`'s handle in production.
pub trait Outbound: Send {
    /// Queues the messages; never waits.
    fn send(&mut self, messages: Vec<Message>);
    /// A MsgSnap: the database travels beside it.
    fn send_snapshot(&mut self, message: Message);
}

/// The loop's own parts.
pub struct RaftLoop {
    /// the raft core
    pub node: RaftNode,
    /// what reaches it
    pub inbox: Arc<RaftInbox>,
    /// to the WAL writer
    pub wal: Arc<WalInbox>,
    /// to the applier
    pub applier: Arc<ApplierInbox>,
    /// to the peers
    pub outbound: Box<dyn Outbound>,
    /// what others see of this member
    pub shared: Arc<Shared>,
    /// one tick
    pub tick: Duration,
}

impl RaftLoop {
    /// Runs until the inbox says stop or the core does.
    pub fn run(mut self) {
        let mut inputs = Inputs::default();
        let mut effects = Effects::default();
        let mut overflow: VecDeque<Job> = VecDeque::new();
        let mut held: Vec<Proposal> = Vec::new();
        let mut next_tick = Instant::now() + self.tick;
        let mut refusals = LogWindow::default();
        loop {
            let deadline = if overflow.is_empty() {
                next_tick
            } else {
                next_tick.min(Instant::now() + Duration::from_millis(1))
            };
            let stop = self.inbox.take(&mut inputs, deadline);
            if stop {
                return;
            }
            let now = Instant::now();
            let ticked = now >= next_tick;
            if ticked {
                let late = now.duration_since(next_tick).as_nanos() / self.tick.as_nanos().max(1);
                // A long pause is not many missed elections: at most one election's worth.
                let ticks = (late as u32).saturating_add(1);
                inputs.ticks += ticks.min(self.shared.election_ticks);
                next_tick = now + self.tick;
                self.shared.ticked();
                self.release_held(&mut held, &mut inputs);
            }
            self.node.turn_into(&mut inputs, &mut effects);
            inputs.clear();
            self.dispatch(&mut effects, &mut overflow, &mut held, &mut refusals);
            self.shared.offer_status(ticked, || self.node.status());
            if let Some(stop) = effects.stop.take() {
                self.shared.raft_stopped(&stop);
                return;
            }
            effects.clear();
        }
    }

    fn dispatch(
        &mut self,
        effects: &mut Effects,
        overflow: &mut VecDeque<Job>,
        held: &mut Vec<Proposal>,
        refusals: &mut LogWindow,
    ) {
        // Disk first: its thread starts while the rest is handed out.
        if let Some(persist) = effects.persist.take() {
            self.wal.push(WalJob::Persist(persist));
        }
        if !effects.messages.is_empty() {
            let mut messages = std::mem::take(&mut effects.messages);
            if messages
                .iter()
                .any(|m| m.msg_type() == raftpb::MessageType::MsgSnap)
            {
                let (snapshots, others): (Vec<_>, Vec<_>) = messages
                    .into_iter()
                    .partition(|m| m.msg_type() == raftpb::MessageType::MsgSnap);
                for message in snapshots {
                    self.outbound.send_snapshot(message);
                }
                messages = others;
            }
            self.outbound.send(messages);
        }
        if let Some(soft) = effects.soft_state {
            self.shared.set_soft_state(soft);
            if soft.leader.is_some() && !held.is_empty() {
                let waiting = std::mem::take(held);
                self.inbox
                    .change(|queue| queue.inputs.proposals.extend(waiting));
            }
        }
        overflow.extend(
            effects
                .install
                .take()
                .map(|snapshot| Job::Install(Box::new(snapshot))),
        );
        if !effects.committed.is_empty() {
            let entries = std::mem::take(&mut effects.committed);
            if let Some(last) = entries.last() {
                self.shared.set_committed(last.index);
            }
            overflow.push_back(Job::Entries(entries));
        }
        for read in effects.reads.drain(..) {
            let (lane, round) = ((read.tag >> 56) as u8, read.tag & (u64::MAX >> 8));
            match read.result {
                Ok(index) if index <= self.shared.applied() => {
                    self.shared.lane(lane, |lane| lane.push_read(round, Ok(())));
                }
                Ok(index) => overflow.push_back(Job::Read { lane, round, index }),
                Err(failure) => {
                    let error = match failure {
                        ReadFailure::TimedOut => api::Error::Timeout,
                        ReadFailure::TooMany => api::Error::TooManyRequests,
                        ReadFailure::Removed => api::Error::Stopped,
                    };
                    self.shared.read_index_failed();
                    self.shared
                        .lane(lane, |lane| lane.push_read(round, Err(error)));
                }
            }
        }
        while let Some(job) = overflow.pop_front() {
            if let Err(job) = self.applier.try_push(job) {
                overflow.push_front(job);
                break;
            }
        }
        for dropped in effects.dropped.drain(..) {
            match dropped.reason {
                DropReason::NoLeader
                | DropReason::Transferring(_)
                | DropReason::ConfChangePending
                    if held.len() < HELD_PROPOSALS_MAX =>
                {
                    held.push(Proposal {
                        tag: dropped.tag,
                        payload: dropped.payload,
                    });
                }
                reason => self.shared.refuse(dropped.tag, &reason),
            }
        }
        for peer in effects.snapshots_wanted.drain(..) {
            self.shared.make_snapshot(peer);
        }
        for fetch in effects.fetches.drain(..) {
            self.shared.fetch(fetch);
        }
        for refused in effects.refused.drain(..) {
            // The judge has said so itself, with the numbers.
            if matches!(refused.reason, Refusal::Judged(_)) {
                continue;
            }
            if let Some(left_out) = refusals.line(Instant::now()) {
                tracing::warn!(
                    from = %refused.from, message_type = refused.msg_type, reason = %refused.reason,
                    left_out,
                    "refused a raft message"
                );
            }
        }
    }

    /// Held proposals whose callers still wait go in again once a tick, if there is a leader.
    fn release_held(&self, held: &mut Vec<Proposal>, inputs: &mut Inputs) {
        held.retain(|proposal| self.shared.is_waiting(proposal.tag));
        if self.shared.leader() != 0 {
            inputs.proposals.append(held);
        }
    }
}
