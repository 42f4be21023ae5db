//! The node: one turn takes what happened and says what to do.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb;
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use raftpb::{ConfState, Entry, EntryType, HardState, MemberId, Message, MessageType, Snapshot};
use raftpb::{conf::Change, inner};
use seams::Rng;

use crate::admit::{Refusal, View, admit};
use crate::bootstrap::first_conf_state;
use crate::echo::Echo;
use crate::farewell::Farewell;
use crate::log::Log;
use crate::logger::logger;
use crate::outbox::coalesce;
use crate::reads::{Reader, Reads};
use crate::status::{MemberStatus, Replication, Role, Status};
use crate::turn::{
    ConfResult, Config, DropReason, Dropped, Effects, Fetched, Inputs, Judge, Payload,
    PersistNumber, Proposal, ReadFailure, ReadResult, Recovered, Refused, SoftState, Stop,
};
use crate::{
    Error, INFLIGHT_MESSAGES_MAX, MESSAGE_BYTES_MAX, PROPOSAL_BYTES_MAX, UNCOMMITTED_BYTES_MAX,
};

/// Marks what a follower passed on to the leader.
const PASSED_ON: &[u8] = b"passed on";

/// A member's raft. See the chapter of the crate.
pub struct RaftNode {
    raw: RawNode<Log>,
    rng: Box<dyn Rng>,
    judge: Option<Box<dyn Judge>>,
    election_ticks: u64,
    /// Ticks since the start.
    now: u64,
    /// Term, role and leader after the last call into raft-rs, see `settle`.
    settled: (u64, StateRole, u64),
    /// What the caller was last told.
    told: SoftState,
    /// Writes that were handed out and are not durable, with what waits for them.
    outstanding: VecDeque<Held>,
    /// Term and vote that are durable.
    durable: (u64, u64),
    /// The last hard state that was handed out for writing.
    written: HardState,
    /// The commit index moved and nothing else had to be written since.
    commit_unwritten: bool,
    echo: Echo,
    /// The number of the last ready.
    number: PersistNumber,
    /// Highest index handed out in `committed`, or of a snapshot in `install`.
    handed_out: u64,
    /// Highest index that the applier reported.
    applied: u64,
    /// Committed conf changes that the applier has not decided, by index.
    conf_undecided: VecDeque<u64>,
    /// Index of the last received snapshot: raft's configuration includes all changes up to it.
    conf_base: u64,
    /// Index of the received snapshot that is not in place yet.
    installing: Option<u64>,
    reads: Reads,
    /// The tick in which a message from a peer last passed the gate.
    contacts: BTreeMap<u64, u64>,
    /// A leader that proved that our disk lost entries.
    lost: Option<Stop>,
    /// Index of the conf change that removed us, and what is left to do.
    removed: Option<(u64, Farewell)>,
    stop_told: bool,
}

/// What waits for a write.
struct Held {
    number: PersistNumber,
    /// False: there was nothing to write, it waits only for those before it.
    writes: bool,
    /// Term and vote as of this write.
    hard: (u64, u64),
    messages: Vec<Message>,
    install: Option<Snapshot>,
}

impl RaftNode {
    /// Starts a member from what its disk gave back, as a follower without a leader.
    ///
    /// # Errors
    ///
    /// A configuration that raft cannot run with, a log with a gap, or a log that ends before
    /// what the database has applied: then the WAL lost entries, and to start would be to vote
    /// with a false log.
    pub fn new(config: Config, recovered: Recovered) -> Result<RaftNode, Error> {
        let Config {
            id,
            heartbeat_ticks,
            election_ticks,
            read_retry_ticks,
            read_timeout_ticks,
            pre_vote,
            log_bytes_max,
            mut rng,
            judge,
        } = config;
        let hard_state = check_recovered(&recovered)?;
        let applied = recovered.applied;
        let conf_state = if recovered.conf_state.voters.is_empty() {
            first_conf_state(&recovered.entries, hard_state.commit)
        } else {
            recovered.conf_state
        };
        let entries = recovered
            .entries
            .into_iter()
            .map(inner::entry_to_inner)
            .collect::<Result<Vec<_>, _>>()?;
        let log = Log::new(
            inner::hard_state_to_inner(&hard_state),
            inner::conf_state_to_inner(conf_state),
            recovered.snapshot_index,
            recovered.snapshot_term,
            entries,
            log_bytes_max,
        );
        let raft_config = raft::Config {
            id: id.0,
            heartbeat_tick: heartbeat_ticks as usize,
            election_tick: election_ticks as usize,
            applied,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            check_quorum: true,
            pre_vote,
            ..raft::Config::default()
        };
        raft_config.validate()?;
        let raw = RawNode::new(&raft_config, log, &logger())?;
        let first_context = rng.next_u64();
        let mut node = RaftNode {
            raw,
            rng,
            judge,
            election_ticks: u64::from(election_ticks),
            now: 0,
            settled: (0, StateRole::Leader, 0),
            told: SoftState {
                leader: None,
                role: Role::Follower,
                term: hard_state.term,
            },
            outstanding: VecDeque::new(),
            durable: (hard_state.term, hard_state.vote),
            written: recovered.hard_state,
            commit_unwritten: false,
            echo: Echo::default(),
            number: 0,
            handed_out: applied,
            applied,
            conf_undecided: VecDeque::new(),
            conf_base: 0,
            installing: None,
            reads: Reads::new(
                first_context,
                u64::from(read_retry_ticks),
                u64::from(read_timeout_ticks),
            ),
            contacts: BTreeMap::new(),
            lost: None,
            removed: None,
            stop_told: false,
        };
        node.settle();
        Ok(node)
    }

    /// One turn: takes what happened, says what is to be done.
    ///
    /// # Panics
    ///
    /// When the caller breaks the contract of [`Inputs`]: a write reported durable that was
    /// never handed out, an applied index beyond what was committed, a conf result out of order.
    /// Nothing in `messages` panics.
    pub fn turn(&mut self, mut inputs: Inputs) -> Effects {
        let mut effects = Effects::default();
        self.turn_into(&mut inputs, &mut effects);
        effects
    }

    /// [`RaftNode::turn`] with the caller's buffers: empties `inputs`, adds to `effects`, which
    /// the caller has cleared.
    pub fn turn_into(&mut self, inputs: &mut Inputs, effects: &mut Effects) {
        // What is durable first: an answer to our vote may come in the same turn as the news
        // that the vote is on disk, and counts only after it.
        if let Some(number) = inputs.persisted {
            self.on_persisted(number, effects);
        }
        self.on_applier(inputs, effects);
        for fetched in inputs.fetched.drain(..) {
            self.on_fetched(fetched);
        }
        for ready in inputs.snapshots_ready.drain(..) {
            self.on_snapshot_ready(ready.peer, ready.snapshot);
        }
        for sent in &inputs.snapshots_sent {
            let status = if sent.ok {
                SnapshotStatus::Finish
            } else {
                SnapshotStatus::Failure
            };
            self.raw.report_snapshot(sent.peer.0, status);
        }
        for peer in &inputs.unreachable {
            self.raw.report_unreachable(peer.0);
        }
        for message in inputs.messages.drain(..) {
            self.on_message(message, effects);
        }
        if let Some(peer) = inputs.transfer_to
            && self.raw.raft.state == StateRole::Leader
        {
            self.raw.transfer_leader(peer.0);
        }
        self.propose(&mut inputs.proposals, effects);
        for tag in inputs.reads.drain(..) {
            self.add_read(tag, effects);
        }
        for _ in 0..inputs.ticks {
            self.tick(effects);
        }
        if inputs.ticks > 0 {
            self.reads.expire(self.now, &mut effects.reads);
        }
        self.run_reads(effects);
        self.drain_ready(effects);
        if inputs.ticks > 0 {
            self.write_commit(effects);
        }
        let committed = self.raw.raft.raft_log.committed;
        self.echo
            .pass(&mut effects.messages, committed, inputs.ticks > 0);
        if let Some(index) = inputs.compact_to {
            self.compact(index);
        }
        self.trim();
        self.report(effects);
        inputs.clear();
    }

    /// What this member knows now.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader;
        let mut members: Vec<MemberStatus> = raft
            .prs()
            .iter()
            .map(|(&id, progress)| {
                let contact = self.contacts.get(&id).map(|tick| self.now - tick);
                let known = |value: u64| if leads { value } else { 0 };
                MemberStatus {
                    id: MemberId(id),
                    learner: raft.prs().conf().learners().contains(&id),
                    matched: known(progress.matched),
                    next: known(progress.next_idx),
                    replication: match progress.state {
                        ProgressState::Replicate if leads => Replication::Replicate,
                        ProgressState::Snapshot if leads => Replication::Snapshot,
                        _ => Replication::Probe,
                    },
                    last_contact_ticks: if id == raft.id { Some(0) } else { contact },
                }
            })
            .collect();
        members.sort_unstable_by_key(|member| member.id);
        Status {
            id: MemberId(raft.id),
            term: raft.term,
            vote: somebody(raft.vote),
            leader: somebody(raft.leader_id),
            role: role(raft.state),
            committed: raft.raft_log.committed,
            applied: self.applied,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            persisted: raft.raft_log.persisted,
            conf_change_pending: self.conf_change_waits(),
            transferring_to: raft.lead_transferee.map(MemberId),
            installing: self.installing.is_some(),
            removed: self.removed.is_some(),
            log_bytes: self.raw.store().bytes(),
            members,
        }
    }

    /// Voters and learners in force, sorted.
    pub fn conf_state(&self) -> ConfState {
        let inner = self.raw.raft.prs().conf().to_conf_state();
        let mut conf_state = inner::conf_state_from_inner(inner);
        conf_state.voters.sort_unstable();
        conf_state.learners.sort_unstable();
        conf_state
    }

    /// The term of a log entry, when the log still knows it.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        let log = &self.raw.raft.raft_log;
        if index > log.last_index() || index + 1 < log.first_index() {
            return None;
        }
        log.term(index).ok()
    }

    // ---- results of the disk and of the applier ----

    fn on_persisted(&mut self, number: PersistNumber, effects: &mut Effects) {
        assert!(
            number <= self.number,
            "write {number} reported durable, the last handed out was {}",
            self.number
        );
        let mut last = None;
        while let Some(held) = self.outstanding.front()
            && (held.number <= number || !held.writes)
        {
            let held = self.outstanding.pop_front().expect("it was looked at");
            last = Some(held.number);
            self.durable = held.hard;
            effects.messages.extend(held.messages);
            if held.install.is_some() {
                effects.install = held.install;
            }
        }
        if let Some(last) = last {
            self.raw.on_persist_ready(last);
            self.settle();
        }
    }

    /// Conf results in log order, and the installed snapshot at its place among them; the
    /// applied index last.
    fn on_applier(&mut self, inputs: &Inputs, effects: &mut Effects) {
        let results = &inputs.conf_results;
        let installed = inputs.snapshot_installed;
        let before = results.partition_point(|result| installed.is_some_and(|i| result.index <= i));
        for result in &results[..before] {
            self.apply_conf_result(result, effects);
        }
        if let Some(index) = installed {
            self.on_installed(index);
        }
        for result in &results[before..] {
            self.apply_conf_result(result, effects);
        }
        if let Some(applied) = inputs.applied {
            self.on_applied(applied);
        }
    }

    fn on_applied(&mut self, applied: u64) {
        let end = self.installing.map_or(self.handed_out, |index| index - 1);
        assert!(
            applied <= end,
            "applied {applied} reported, but only {end} was handed out"
        );
        assert!(
            self.conf_undecided
                .front()
                .is_none_or(|&index| index > applied),
            "applied {applied} reported before the conf change at {:?}",
            self.conf_undecided.front()
        );
        if applied > self.applied {
            self.applied = applied;
            self.raw.advance_apply_to(applied);
        }
    }

    fn apply_conf_result(&mut self, result: &ConfResult, effects: &mut Effects) {
        let expected = self.conf_undecided.pop_front();
        assert!(
            expected == Some(result.index),
            "conf result for {}, expected one for {expected:?}",
            result.index
        );
        if result.index <= self.conf_base {
            return; // the snapshot that was received meanwhile includes it
        }
        let change = match &result.change {
            Some(change) => inner::inner_conf_change(change),
            None => Ok(inner::inner_conf_change_refused()),
        };
        // Raft must take every committed change, or it waits for this one for ever. One that it
        // cannot carry out (removal of the last voter) changes nothing on any member.
        let applied = change
            .map_err(|error| error.to_string())
            .and_then(|change| {
                self.raw
                    .apply_conf_change(&change)
                    .map_err(|error| error.to_string())
            });
        if let Err(error) = applied {
            tracing::error!(index = result.index, error, "conf change without effect");
            return;
        }
        let is_member = self.raw.raft.prs().get(self.raw.raft.id).is_some();
        let removes_us = result.change.as_ref().is_some_and(|change| {
            change.change_type == i32::from(raftpb::ConfChangeType::ConfChangeRemoveNode)
                && change.node_id == self.raw.raft.id
        });
        if removes_us && !is_member {
            self.remove_ourselves(result.index, effects);
        }
        self.settle();
        let prs = self.raw.raft.prs();
        self.contacts.retain(|id, _| prs.get(*id).is_some());
        effects.conf_state = Some(self.conf_state());
    }

    /// A leader that has no progress for itself is a trap in raft-rs: the next acknowledgement
    /// unwraps it. So it stops leading in the same breath, and takes nothing but `persisted`,
    /// `applied` and ticks from then on, for its farewell.
    fn remove_ourselves(&mut self, index: u64, effects: &mut Effects) {
        self.removed = Some((index, Farewell::new(&self.raw.raft)));
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, raft::INVALID_ID);
        self.reads
            .fail_all(ReadFailure::Removed, &mut effects.reads);
    }

    fn on_installed(&mut self, index: u64) {
        assert!(
            self.installing == Some(index),
            "snapshot {index} reported in place, expected {:?}",
            self.installing
        );
        self.installing = None;
        self.applied = self.applied.max(index);
        // All before the snapshot is decided by it.
        self.conf_undecided.retain(|&undecided| undecided > index);
        self.raw.advance_apply_to(self.applied);
    }

    fn on_fetched(&mut self, fetched: Fetched) {
        let entries = fetched
            .entries
            .and_then(|entries| self.checked_fetch(fetched.from, entries));
        let log = self.raw.mut_store();
        let contexts = match entries {
            Some(entries) => log.fetched(fetched.from, entries),
            None => log.fetch_failed(fetched.from),
        };
        for context in contexts {
            self.raw.on_entries_fetched(context);
        }
        self.raw.mut_store().forget_fetched();
    }

    /// What came from the WAL must be what was in the log.
    fn checked_fetch(&self, from: u64, entries: Vec<Entry>) -> Option<Vec<eraftpb::Entry>> {
        if entries.is_empty() {
            return None;
        }
        let mut checked = Vec::with_capacity(entries.len());
        for (index, entry) in (from..).zip(entries) {
            if entry.index != index || self.term_of(index) != Some(entry.term) {
                tracing::error!(
                    index,
                    found_index = entry.index,
                    found_term = entry.term,
                    expected_term = self.term_of(index),
                    "the wal holds another entry than the log"
                );
                return None;
            }
            checked.push(inner::entry_to_inner(entry).ok()?);
        }
        Some(checked)
    }

    fn on_snapshot_ready(&mut self, peer: MemberId, snapshot: Option<Snapshot>) {
        let snapshot = snapshot.map(inner::snapshot_to_inner);
        let usable = self.raw.mut_store().snapshot_ready(peer.0, snapshot);
        let raft = &mut self.raw.raft;
        let leads = raft.state == StateRole::Leader;
        if usable && leads && raft.prs().get(peer.0).is_some() {
            raft.send_append(peer.0);
        }
    }

    // ---- the network ----

    fn on_message(&mut self, message: Message, effects: &mut Effects) {
        let (from, msg_type) = (message.from, message.msg_type);
        if let Err(reason) = self.step(message, effects) {
            if let Refusal::LostEntries { commit, last_index } = reason {
                self.lost.get_or_insert(Stop::LostEntries {
                    leader: MemberId(from),
                    commit,
                    last_index,
                });
            }
            effects.refused.push(Refused {
                from: MemberId(from),
                msg_type,
                reason,
            });
        }
    }

    fn step(&mut self, mut message: Message, effects: &mut Effects) -> Result<(), Refusal> {
        if let Some((_, farewell)) = &mut self.removed {
            farewell.hears(&message);
        }
        let view = View {
            quiet: self.quiet(),
            installing: self.installing.is_some(),
            removed: self.removed.is_some(),
        };
        admit(&message, &self.raw.raft, view)?;
        if self.raw.raft.prs().get(message.from).is_some() {
            self.contacts.insert(message.from, self.now);
        }
        if message.msg_type == i32::from(MessageType::MsgReadIndex) {
            return self.read_of_peer(message, effects);
        }
        if message.msg_type == i32::from(MessageType::MsgReadIndexResp) {
            self.read_answered(&message, effects);
            return Ok(());
        }
        if message.msg_type == i32::from(MessageType::MsgProp) {
            match self.raw.raft.state {
                StateRole::Leader => self.judge_forwarded(&mut message)?,
                StateRole::Follower => return self.pass_on(message, effects),
                StateRole::PreCandidate | StateRole::Candidate => {
                    return Err(Refusal::NotNow("no leader to propose to"));
                }
            }
        }
        let message = inner::message_to_inner(message)?;
        // Errors of raft-rs here: a proposal that it does not take, which its sender asks again.
        let stepped = self.raw.step(message);
        self.settle();
        stepped.map_err(|_| Refusal::NotNow("raft did not take it"))
    }

    /// A follower hands proposals and reads of others on to the leader, once: two members who
    /// each take the other for the leader would play a message back and forth for ever. The
    /// mark stands in the context, which nobody reads in these messages.
    fn pass_on(&self, mut message: Message, effects: &mut Effects) -> Result<(), Refusal> {
        let leader = self.raw.raft.leader_id;
        if leader == raft::INVALID_ID || leader == message.from {
            return Err(Refusal::NotNow("no other leader to pass it on to"));
        }
        if !message.context.is_empty() {
            return Err(Refusal::NotNow("it was passed on before"));
        }
        message.context = Bytes::from_static(PASSED_ON);
        message.to = leader;
        effects.messages.push(message);
        Ok(())
    }

    /// Conf changes in a forwarded proposal are judged here, as ours are.
    fn judge_forwarded(&mut self, message: &mut Message) -> Result<(), Refusal> {
        let from = MemberId(message.from);
        let mut verdict = Ok(());
        let entries = std::mem::take(&mut message.entries);
        for entry in entries {
            if let Ok(Some((change, _))) = raftpb::conf::check_conf_change(&entry) {
                if self.conf_change_waits() {
                    verdict = Err(Refusal::NotNow("an earlier conf change is not applied yet"));
                    continue;
                }
                if let Err(why) = self.ask_judge(&change, Some(from), None) {
                    verdict = Err(Refusal::Judged(why));
                    continue;
                }
            }
            message.entries.push(entry);
        }
        if message.entries.is_empty() {
            verdict
        } else {
            Ok(())
        }
    }

    /// Nobody knows yet which configuration a conf change would start from: one may be in the
    /// log that is not applied, or this leader has not applied an entry of its own term. Before
    /// that it may hold a configuration that the log has left behind, and two majorities that
    /// do not meet could decide.
    fn conf_change_waits(&self) -> bool {
        let raft = &self.raw.raft;
        raft.has_pending_conf()
            || raft.state == StateRole::Leader && self.term_of(self.applied) != Some(raft.term)
    }

    fn ask_judge(
        &mut self,
        change: &raftpb::ConfChange,
        from: Option<MemberId>,
        condition: Option<u64>,
    ) -> Result<(), String> {
        let Some(mut judge) = self.judge.take() else {
            return Ok(());
        };
        let verdict = judge.judge(change, from, condition, &self.status());
        self.judge = Some(judge);
        verdict
    }

    // ---- requests ----

    fn propose(&mut self, proposals: &mut Vec<Proposal>, effects: &mut Effects) {
        if proposals.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        for proposal in proposals.drain(..) {
            let entry = match self.entry_to_propose(&proposal) {
                Ok(entry) => entry,
                Err(reason) => {
                    effects.dropped.push(Dropped {
                        tag: proposal.tag,
                        reason,
                        payload: proposal.payload,
                    });
                    continue;
                }
            };
            // A conf change stands alone, so that its fate is known.
            let alone = !matches!(proposal.payload, Payload::Data(_));
            if alone || batch.bytes + entry.data.len() > MESSAGE_BYTES_MAX as usize {
                self.append(std::mem::take(&mut batch), effects);
            }
            batch.bytes += entry.data.len();
            batch.entries.push(entry);
            batch.proposals.push(proposal);
            if alone {
                self.append_conf_change(std::mem::take(&mut batch), effects);
            }
        }
        self.append(batch, effects);
    }

    fn entry_to_propose(&self, proposal: &Proposal) -> Result<Entry, DropReason> {
        if self.removed.is_some() {
            return Err(DropReason::Removed);
        }
        let entry = match &proposal.payload {
            Payload::Data(data) => Entry {
                data: data.clone(),
                ..Entry::default()
            },
            Payload::ConfChange(change) | Payload::ConfChangeHere { change, .. } => {
                Change::from_conf_change(change).map_err(DropReason::Invalid)?;
                Entry {
                    entry_type: EntryType::EntryConfChange.into(),
                    data: prost::Message::encode_to_vec(change).into(),
                    ..Entry::default()
                }
            }
        };
        if entry.data.len() > PROPOSAL_BYTES_MAX {
            return Err(DropReason::TooLarge {
                bytes: entry.data.len(),
                max: PROPOSAL_BYTES_MAX,
            });
        }
        Ok(entry)
    }

    fn append_conf_change(&mut self, batch: Batch, effects: &mut Effects) {
        let (change, only_here, condition) = match batch.proposals.first().map(|p| &p.payload) {
            Some(Payload::ConfChange(change)) => (change.clone(), false, None),
            Some(Payload::ConfChangeHere { change, condition }) => {
                (change.clone(), true, *condition)
            }
            _ => unreachable!("a batch of one conf change"),
        };
        if self.raw.raft.state != StateRole::Leader {
            if only_here {
                return batch.drop(&DropReason::NotLeader, effects);
            }
            self.append(batch, effects);
            return;
        }
        if let Some(target) = self.raw.raft.lead_transferee {
            return batch.drop(&DropReason::Transferring(MemberId(target)), effects);
        }
        // raft-rs would append an empty entry in its place, and nobody would know.
        if self.conf_change_waits() {
            return batch.drop(&DropReason::ConfChangePending, effects);
        }
        if let Err(why) = self.ask_judge(&change, None, condition) {
            return batch.drop(&DropReason::Judged(why), effects);
        }
        self.append(batch, effects);
    }

    /// Appends a batch when we lead, forwards it when we follow.
    fn append(&mut self, batch: Batch, effects: &mut Effects) {
        if batch.entries.is_empty() {
            return;
        }
        let raft = &self.raw.raft;
        let (id, leader) = (raft.id, raft.leader_id);
        match raft.state {
            StateRole::Leader => {
                if let Some(target) = raft.lead_transferee {
                    return batch.drop(&DropReason::Transferring(MemberId(target)), effects);
                }
                let step = eraftpb::Message {
                    msg_type: eraftpb::MessageType::MsgPropose,
                    from: id,
                    entries: batch
                        .entries
                        .iter()
                        .map(|entry| {
                            inner::entry_to_inner(entry.clone())
                                .expect("a normal entry, or a conf change that was checked")
                        })
                        .collect::<Vec<_>>()
                        .into(),
                    ..Default::default()
                };
                let stepped = self.raw.step(step);
                self.settle();
                if stepped.is_err() {
                    batch.drop(&DropReason::TooManyUncommitted, effects);
                }
            }
            StateRole::Follower if leader != raft::INVALID_ID => effects.messages.push(Message {
                msg_type: MessageType::MsgProp.into(),
                from: id,
                to: leader,
                entries: batch.entries,
                ..Message::default()
            }),
            _ => batch.drop(&DropReason::NoLeader, effects),
        }
    }

    fn add_read(&mut self, tag: u64, effects: &mut Effects) {
        let failure = if self.removed.is_some() {
            ReadFailure::Removed
        } else if self.reads.add(Reader::Own(tag), self.now) {
            return;
        } else {
            ReadFailure::TooMany
        };
        effects.reads.push(ReadResult {
            tag,
            result: Err(failure),
        });
    }

    fn read_of_peer(&mut self, mut message: Message, effects: &mut Effects) -> Result<(), Refusal> {
        if self.raw.raft.state != StateRole::Leader {
            return self.pass_on(message, effects);
        }
        let entry = message.entries.pop().expect("the gate saw one");
        let reader = Reader::Peer(MemberId(message.from), entry);
        if self.reads.add(reader, self.now) {
            Ok(())
        } else {
            Err(Refusal::NotNow("too many reads wait"))
        }
    }

    /// The leader's answer to a round of ours. It counts whatever has become of that leader:
    /// it was confirmed by a majority after our readers came.
    fn read_answered(&mut self, message: &Message, effects: &mut Effects) {
        let data = message.entries.first().map(|entry| entry.data.as_ref());
        if let Some(context) = data.and_then(|data| <[u8; 8]>::try_from(data).ok()) {
            let readers = self.reads.answered(u64::from_be_bytes(context));
            self.answer_readers(readers, message.index, effects);
        }
    }

    fn answer_readers(&self, readers: Vec<Reader>, index: u64, effects: &mut Effects) {
        for reader in readers {
            match reader {
                Reader::Own(tag) => effects.reads.push(ReadResult {
                    tag,
                    result: Ok(index),
                }),
                Reader::Peer(peer, entry) => effects.messages.push(Message {
                    msg_type: MessageType::MsgReadIndexResp.into(),
                    to: peer.0,
                    from: self.raw.raft.id,
                    term: self.raw.raft.term,
                    index,
                    entries: vec![entry],
                    ..Message::default()
                }),
            }
        }
    }

    /// Closes the round that raft confirmed, and opens the next when somebody waits.
    fn run_reads(&mut self, effects: &mut Effects) {
        // At most: the open round, the next one, and in a cluster of one its answer.
        for _ in 0..3 {
            for state in std::mem::take(&mut self.raw.raft.read_states) {
                if let Ok(context) = <[u8; 8]>::try_from(state.request_ctx.as_slice()) {
                    let readers = self.reads.answered(u64::from_le_bytes(context));
                    self.answer_readers(readers, state.index, effects);
                }
            }
            if self.reads.is_empty() {
                return;
            }
            let raft = &self.raw.raft;
            let (id, leader) = (raft.id, raft.leader_id);
            let place = (raft.term, MemberId(leader));
            match raft.state {
                // A leader knows what is committed only once it has committed in its term.
                StateRole::Leader if raft.commit_to_current_term() => {
                    let Some(context) = self.reads.ask(place, self.now) else {
                        return;
                    };
                    let context = context.to_le_bytes().to_vec();
                    self.raw.read_index(context);
                }
                StateRole::Follower if leader != raft::INVALID_ID => {
                    if let Some(context) = self.reads.ask(place, self.now) {
                        let data = context.to_be_bytes().to_vec().into();
                        effects.messages.push(Message {
                            msg_type: MessageType::MsgReadIndex.into(),
                            from: id,
                            to: leader,
                            entries: vec![Entry {
                                data,
                                ..Entry::default()
                            }],
                            ..Message::default()
                        });
                    }
                    return;
                }
                _ => return,
            }
        }
    }

    // ---- time ----

    fn tick(&mut self, effects: &mut Effects) {
        self.now += 1;
        if let Some((_, farewell)) = &mut self.removed {
            farewell.tick(&mut effects.messages);
            return;
        }
        let raft = &self.raw.raft;
        let next = raft.election_elapsed + 1;
        let would_campaign = raft.state != StateRole::Leader
            && raft.promotable()
            && next >= raft.randomized_election_timeout();
        if would_campaign && !self.quiet() {
            return; // at the brink, until all is durable and in place
        }
        self.raw.tick();
        self.settle();
    }

    /// All that raft made is durable. Only then may it campaign, or count votes: raft-rs asserts
    /// that a new leader's log is persisted, and a vote request has to wait for it anyway.
    fn quiet(&self) -> bool {
        let raft = &self.raw.raft;
        self.outstanding.is_empty()
            && raft.raft_log.unstable_entries().is_empty()
            && raft.raft_log.unstable_snapshot().is_none()
            && self.durable == (raft.term, raft.vote)
            && self.installing.is_none()
    }

    /// raft-rs draws its election time-outs from the thread's generator. After each call that
    /// changed term, role or leader the time-out is set again from ours, so that the same seed
    /// gives the same trace.
    fn settle(&mut self) {
        let raft = &mut self.raw.raft;
        let settled = (raft.term, raft.state, raft.leader_id);
        if settled == self.settled {
            return;
        }
        self.settled = settled;
        let timeout = self.election_ticks + self.rng.below(self.election_ticks);
        raft.set_randomized_election_timeout(timeout as usize);
        if raft.state != StateRole::Leader {
            raft.mut_store().forget_wants();
            self.reads.forget_peers();
        }
    }

    // ---- what raft wants done ----

    fn drain_ready(&mut self, effects: &mut Effects) {
        let first_new = effects.messages.len();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.number = ready.number();
            let snapshot = self.take_snapshot(&ready);
            let entries = ready.take_entries();
            let must_write = !entries.is_empty() || snapshot.is_some();
            let hard = (self.raw.raft.term, self.raw.raft.vote);
            let moved = hard != (self.written.term, self.written.vote);
            let committed = ready.take_committed_entries();
            let mut messages = ready.take_messages();
            messages.append(&mut ready.take_persisted_messages());

            let writes = must_write || moved;
            if writes {
                self.write(entries, snapshot.clone(), effects);
            } else if self.raw.raft.raft_log.committed > self.written.commit {
                self.commit_unwritten = true;
            }
            self.raw.advance_append_async(ready);
            self.send(messages, writes, hard, snapshot, effects);
            self.hand_out(committed, effects);
        }
        coalesce(&mut effects.messages, first_new, MESSAGE_BYTES_MAX);
    }

    /// A received snapshot replaces the log at once; the database follows later.
    fn take_snapshot(&mut self, ready: &raft::Ready) -> Option<Snapshot> {
        if ready.snapshot().is_empty() {
            return None;
        }
        let snapshot = inner::snapshot_from_inner(ready.snapshot().clone());
        self.raw
            .mut_store()
            .restore(snapshot.index(), snapshot.term());
        self.installing = Some(snapshot.index());
        self.handed_out = snapshot.index();
        self.conf_base = snapshot.index();
        Some(snapshot)
    }

    fn write(
        &mut self,
        entries: Vec<eraftpb::Entry>,
        snapshot: Option<Snapshot>,
        effects: &mut Effects,
    ) {
        let hard_state = self.hard_state();
        let persist = effects.persist.get_or_insert_default();
        persist.number = self.number;
        persist.must_sync = true;
        if hard_state != self.written {
            persist.hard_state = Some(hard_state);
            self.written = hard_state;
        }
        if snapshot.is_some() {
            persist.snapshot = snapshot;
        }
        let written = entries.iter().cloned().map(inner::entry_from_inner);
        persist.entries.extend(written);
        self.raw.mut_store().append(entries);
        self.commit_unwritten = false;
    }

    /// The commit index alone needs no sync and nothing waits for it: it is written once a tick,
    /// so that a restart finds most of it, and otherwise along with the next write.
    fn write_commit(&mut self, effects: &mut Effects) {
        if !self.commit_unwritten {
            return;
        }
        self.commit_unwritten = false;
        self.written = self.hard_state();
        let persist = effects.persist.get_or_insert_default();
        persist.number = self.number;
        persist.hard_state = Some(self.written);
    }

    fn hard_state(&self) -> HardState {
        inner::hard_state_from_inner(&self.raw.raft.hard_state())
    }

    /// Sends what may leave now and keeps the rest until this ready and all before are durable.
    ///
    /// A leader's messages promise nothing about its own disk, once its vote for itself is
    /// durable. Everybody else's answers promise that what they answer to is. The one exception
    /// is the answer to a heartbeat, which promises only the term: so reads do not wait for the
    /// syncs of writes, and a slow disk does not cost a leader its lead.
    fn send(
        &mut self,
        messages: Vec<eraftpb::Message>,
        writes: bool,
        hard: (u64, u64),
        install: Option<Snapshot>,
        effects: &mut Effects,
    ) {
        if !writes && self.outstanding.is_empty() {
            let messages = messages.into_iter().map(inner::message_from_inner);
            effects.messages.extend(messages);
            self.raw.on_persist_ready(self.number);
            return;
        }
        let is_durable = self.durable == hard;
        let leads = self.raw.raft.state == StateRole::Leader;
        let mut kept = Vec::new();
        for message in messages {
            let message = inner::message_from_inner(message);
            let answers_heartbeat = message.msg_type == i32::from(MessageType::MsgHeartbeatResp)
                && message.term == hard.0;
            if is_durable && (leads || answers_heartbeat) {
                effects.messages.push(message);
            } else {
                kept.push(message);
            }
        }
        if writes || !kept.is_empty() {
            self.outstanding.push_back(Held {
                number: self.number,
                writes,
                hard,
                messages: kept,
                install,
            });
        }
    }

    fn hand_out(&mut self, committed: Vec<eraftpb::Entry>, effects: &mut Effects) {
        for entry in committed {
            let entry = inner::entry_from_inner(entry);
            debug_assert_eq!(entry.index, self.handed_out + 1);
            self.handed_out = entry.index;
            if entry.entry_type == i32::from(EntryType::EntryConfChange) {
                self.conf_undecided.push_back(entry.index);
            }
            effects.committed.push(entry);
        }
    }

    // ---- the rest ----

    fn compact(&mut self, index: u64) {
        // Not beyond what raft-rs knows as applied: it reads the log from there.
        let index = index.min(self.raw.raft.raft_log.applied);
        self.raw.mut_store().compact(index);
    }

    /// Keeps the log in memory within its limits.
    fn trim(&mut self) {
        let raft = &self.raw.raft;
        let applied = raft.raft_log.applied;
        if !raft.store().is_too_large() {
            return;
        }
        let mut needed_from = applied + 1;
        if raft.state == StateRole::Leader {
            let alive = |id: &u64| {
                self.contacts
                    .get(id)
                    .is_some_and(|tick| self.now - tick <= self.election_ticks)
            };
            for (id, progress) in raft.prs().iter() {
                if *id != raft.id && alive(id) && progress.state != ProgressState::Snapshot {
                    needed_from = needed_from.min(progress.matched + 1);
                }
            }
        }
        self.raw.mut_store().trim(applied, needed_from);
    }

    fn report(&mut self, effects: &mut Effects) {
        let log = self.raw.mut_store();
        log.take_fetches(&mut effects.fetches);
        let wanted = log.take_snapshots_wanted();
        effects
            .snapshots_wanted
            .extend(wanted.into_iter().map(MemberId));
        let raft = &self.raw.raft;
        let soft_state = SoftState {
            leader: somebody(raft.leader_id),
            role: role(raft.state),
            term: raft.term,
        };
        if soft_state != self.told {
            self.told = soft_state;
            effects.soft_state = Some(soft_state);
        }
        let removed = self.removed.as_ref();
        let removed = removed
            .filter(|(_, farewell)| farewell.is_over())
            .map(|(index, _)| Stop::Removed { index: *index });
        if let Some(stop) = self.lost.clone().or(removed)
            && !self.stop_told
        {
            self.stop_told = true;
            effects.stop = Some(stop);
        }
    }
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Proposals that become one append.
#[derive(Default)]
struct Batch {
    bytes: usize,
    entries: Vec<Entry>,
    proposals: Vec<Proposal>,
}

impl Batch {
    fn drop(self, reason: &DropReason, effects: &mut Effects) {
        for proposal in self.proposals {
            effects.dropped.push(Dropped {
                tag: proposal.tag,
                reason: reason.clone(),
                payload: proposal.payload,
            });
        }
    }
}

/// Checks what the disk gave back, and gives the hard state to start with.
fn check_recovered(recovered: &Recovered) -> Result<HardState, Error> {
    let mut index = recovered.snapshot_index;
    let mut term = recovered.snapshot_term;
    for entry in &recovered.entries {
        if entry.index != index + 1 || entry.term < term {
            return Err(Error::LogGap {
                index: entry.index,
                term: entry.term,
                after_index: index,
                after_term: term,
            });
        }
        (index, term) = (entry.index, entry.term);
    }
    if recovered.applied < recovered.snapshot_index {
        return Err(Error::AppliedBeforeLog {
            applied: recovered.applied,
            snapshot_index: recovered.snapshot_index,
        });
    }
    let mut hard_state = recovered.hard_state;
    // After a crash the database may be ahead of the last commit index that was synced: what
    // it has applied was committed.
    hard_state.commit = hard_state.commit.max(recovered.applied);
    if hard_state.commit > index {
        return Err(Error::LogEndsEarly {
            last_index: index,
            committed: recovered.hard_state.commit,
            applied: recovered.applied,
        });
    }
    // A torn write can leave entries of a term without the hard state that stood after them.
    // Nothing of that write was promised to anybody, so no vote was cast in that term.
    if hard_state.term < term {
        hard_state.term = term;
        hard_state.vote = 0;
    }
    Ok(hard_state)
}

fn role(state: StateRole) -> Role {
    match state {
        StateRole::Follower => Role::Follower,
        StateRole::PreCandidate => Role::PreCandidate,
        StateRole::Candidate => Role::Candidate,
        StateRole::Leader => Role::Leader,
    }
}

fn somebody(id: u64) -> Option<MemberId> {
    (id != raft::INVALID_ID).then_some(MemberId(id))
}
