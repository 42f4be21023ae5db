//! A running member: production's rooms, joined by lanes as the server joins them, with the
//! simulation's clock between a lane's two ends.
//!
//! ```text
//!   inputs ─▶ turn ─┬─▶ messages                     network
//!     ▲  ▲          ├─▶ WAL lane ── a disk's time ─▶ save, sync ─▶ persisted
//!     │  └──────────┼──────────────────────────────────────────────┘
//!     │             └─▶ apply lane ─ a moment ─▶ apply ─▶ answers, conf results, applied
//!     └────────────────────────────────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api::etcdserverpb as pb;
use apply::{Applier, Response};
use backend::Committer;
use bytes::Bytes;
use membership::Membership;
use mvcc::{COMPACT_STEP_RECORDS, HASH_STEP_RECORDS};
use prost::Message as _;
use raftnode::{
    ConfResult, Config, DropReason, Effects, Fetched, Inputs, Payload, Persist, Proposal, RaftNode,
    Role, SnapshotReady, SnapshotSent, Stop,
};
use raftpb::{ConfChange, Entry, MemberId, Message, MessageType, Snapshot};
use seams::{Disk, MemDisk, Rng, SeededRng};
use server::boot::{self, Booted};
use server::config::Config as ServerConfig;
use server::snapshots;
use server::walwriter::{WalJob, WalWriter};

use crate::properties::{Answer, Ask, Checked, Mirror, Properties, Violation};
use crate::recovery;
use crate::report::Counters;
use crate::trace::Trace;
use crate::{Breakage, MILLISECOND_US};

/// Log in memory (8 MiB otherwise): so little that peers are often served from the WAL.
const LOG_BYTES_MAX: u64 = 2 << 10;

/// Entries that the applier takes in one go.
const APPLY_BATCH: usize = 64;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// Which client.
    pub client: usize,
    /// Which of its requests.
    pub operation: u64,
}

/// What a member tells a client.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Done.
    Done(Answer),
    /// Done, and there is nothing to check.
    Ok,
    /// Not done, for certain.
    Failed,
}

/// Something that a member has to do later.
#[derive(Debug)]
pub enum Local {
    /// 100 ms have passed.
    Tick,
    /// There are inputs.
    Turn,
    /// The disk has answered.
    WalDone,
    /// There is something to apply.
    Apply,
    /// The database's batch interval is over.
    Commit,
    /// Entries were read.
    Fetched(Fetched),
    /// A snapshot was made for a peer.
    SnapshotReady(SnapshotReady),
    /// The sending of a snapshot ended.
    SnapshotSent(SnapshotSent),
}

/// What a member asks of the world.
#[derive(Debug)]
pub enum Action {
    /// To be told in so many microseconds.
    After(u64, Local),
    /// A message for a peer.
    Send(Message),
    /// A snapshot for a peer: the message and the database.
    SendSnapshot(Message, Bytes),
    /// An answer.
    Reply(Waiter, Reply),
    /// It ends.
    Stop(Stop),
}

/// What a member is given to work with, besides itself.
#[derive(Debug)]
pub struct Context<'a> {
    /// Simulated time.
    pub now_us: u64,
    /// Chance.
    pub rng: &'a mut SeededRng,
    /// All that must hold.
    pub properties: &'a mut Properties,
    /// What happened.
    pub trace: &'a mut Trace,
    /// How often.
    pub counters: &'a mut Counters,
    /// What the member asks for.
    pub actions: Vec<Action>,
    /// What is broken on purpose.
    pub breakage: Breakage,
    /// How long the disk takes for a sync, from and to.
    pub sync_us: (u64, u64),
}

enum ApplyJob {
    Entry(Entry),
    Install(Snapshot),
}

/// A member that runs.
pub struct Running {
    id: MemberId,
    config: ServerConfig,
    disk: MemDisk,
    raft: RaftNode,
    term: u64,
    inputs: Inputs,
    turn_due: bool,
    wal: WalWriter,
    wal_queue: Vec<WalJob>,
    /// What the disk is working on; empty when it rests.
    wal_batch: Vec<WalJob>,
    applier: Applier,
    apply_queue: VecDeque<ApplyJob>,
    apply_due: bool,
    committer: Committer,
    mirror: Mirror,
    waiting: BTreeMap<u64, Waiter>,
    retries: Vec<Proposal>,
    reads: BTreeMap<u64, (Waiter, Bytes)>,
    reads_confirmed: BTreeMap<(u64, u64), (Waiter, Bytes)>,
    next_request: u64,
    /// Index of the last snapshot, and of the one that waits for the database's commit.
    snapshot_last: u64,
    snapshot_wanted: Option<u64>,
    sending: BTreeMap<MemberId, backend::Snapshot>,
}

impl Running {
    /// Starts a member from what its disk gave; `boot` counts its starts.
    pub fn start(
        id: MemberId,
        boot: u64,
        disk: &MemDisk,
        booted: Booted,
        context: &mut Context<'_>,
    ) -> Checked<Running> {
        let config = recovery::config();
        let Booted {
            wal,
            snapshotter,
            recovered,
            applier,
            committer,
            ..
        } = booted;
        let wal = WalWriter {
            wal,
            snapshotter,
            max_wals: config.max_wals,
            max_snapshots: config.max_snapshots,
            sync: context.breakage != Breakage::NoSync,
            metrics: Arc::default(),
        };
        let mirror = context
            .properties
            .starts(recovered.snapshot_index, &recovered.entries)?;
        let snapshot_last = recovered.snapshot_index;
        let seed = context.rng.next_u64();
        let mut raft_config = Config::new(id, Box::new(SeededRng::new(seed)));
        raft_config.log_bytes_max = LOG_BYTES_MAX;
        let raft = RaftNode::new(raft_config, recovered)
            .map_err(|error| Violation::new("restart", format!("{id}: {error}")))?;
        let term = raft.status().term;
        let mut member = Running {
            id,
            config,
            disk: disk.clone(),
            raft,
            term,
            inputs: Inputs::default(),
            turn_due: false,
            wal,
            wal_queue: Vec::new(),
            wal_batch: Vec::new(),
            applier,
            apply_queue: VecDeque::new(),
            apply_due: false,
            committer,
            mirror,
            waiting: BTreeMap::new(),
            retries: Vec::new(),
            reads: BTreeMap::new(),
            reads_confirmed: BTreeMap::new(),
            next_request: (id.0 << 48) | (boot << 32),
            snapshot_last,
            snapshot_wanted: None,
            sending: BTreeMap::new(),
        };
        context
            .actions
            .push(Action::After(tick_us(context.rng), Local::Tick));
        context
            .actions
            .push(Action::After(commit_us(context.rng), Local::Commit));
        member.turn_soon(context);
        Ok(member)
    }

    /// Does what is due.
    pub fn handle(&mut self, local: Local, context: &mut Context<'_>) -> Checked {
        match local {
            Local::Tick => {
                self.inputs.ticks += 1;
                self.inputs.proposals.append(&mut self.retries);
                context
                    .actions
                    .push(Action::After(tick_us(context.rng), Local::Tick));
                self.turn_soon(context);
                Ok(())
            }
            Local::Turn => self.turn(context),
            Local::WalDone => self.wal_done(context),
            Local::Apply => self.apply(context),
            Local::Commit => self.commit(context),
            Local::Fetched(fetched) => {
                self.inputs.fetched.push(fetched);
                self.turn_soon(context);
                Ok(())
            }
            Local::SnapshotReady(ready) => {
                self.inputs.snapshots_ready.push(ready);
                self.turn_soon(context);
                Ok(())
            }
            Local::SnapshotSent(sent) => {
                self.sending.remove(&sent.peer);
                self.inputs.snapshots_sent.push(sent);
                self.turn_soon(context);
                Ok(())
            }
        }
    }

    /// A message came.
    pub fn receive(&mut self, message: Message, context: &mut Context<'_>) {
        self.inputs.messages.push(message);
        self.turn_soon(context);
    }

    /// A snapshot came: the database is saved, then the message is stepped.
    pub fn receive_snapshot(
        &mut self,
        message: Message,
        database: &[u8],
        context: &mut Context<'_>,
    ) -> Checked {
        let index = message.snapshot.as_ref().map_or(0, Snapshot::index);
        self.wal
            .snapshotter
            .save_database(index, &mut &*database)
            .map_err(|error| self.broken(&error))?;
        self.receive(message, context);
        Ok(())
    }

    /// A peer cannot be reached.
    pub fn unreachable(&mut self, peer: MemberId, context: &mut Context<'_>) {
        self.inputs.unreachable.push(peer);
        self.turn_soon(context);
    }

    /// The lead is to go to another member.
    pub fn transfer(&mut self, to: MemberId, context: &mut Context<'_>) {
        self.inputs.transfer_to = Some(to);
        self.turn_soon(context);
    }

    /// A client asks.
    pub fn request(&mut self, ask: &Ask, waiter: Waiter, context: &mut Context<'_>) -> Checked {
        let id = self.next_request();
        let mut request = pb::InternalRaftRequest {
            header: Some(pb::RequestHeader {
                id,
                ..pb::RequestHeader::default()
            }),
            ..pb::InternalRaftRequest::default()
        };
        match ask.clone() {
            Ask::Get { key } if context.breakage == Breakage::StaleRead => {
                return self.answer_read(waiter, &key, context);
            }
            Ask::Get { key } => {
                self.reads.insert(id, (waiter, key));
                self.inputs.reads.push(id);
                self.turn_soon(context);
                return Ok(());
            }
            Ask::Put { key, value } => {
                request.put = Some(pb::PutRequest {
                    key,
                    value,
                    ..pb::PutRequest::default()
                });
            }
            Ask::Delete { key } => {
                request.delete_range = Some(pb::DeleteRangeRequest {
                    key,
                    ..pb::DeleteRangeRequest::default()
                });
            }
            Ask::Compact { revision } => {
                request.compaction = Some(pb::CompactionRequest {
                    revision,
                    physical: false,
                });
            }
        }
        self.waiting.insert(id, waiter);
        self.propose(id, Payload::Data(request.encode_to_vec().into()), context);
        Ok(())
    }

    /// An operator asks for a change of membership; nobody waits.
    pub fn change(&mut self, change: &raftpb::conf::Change, context: &mut Context<'_>) {
        let id = self.next_request();
        let change: ConfChange = change.to_conf_change(id);
        self.propose(id, Payload::ConfChange(change), context);
    }

    /// The members that this one knows.
    pub fn membership(&self) -> Arc<Membership> {
        self.applier.cluster().get()
    }

    /// Whether it leads, by its own opinion.
    pub fn leads(&self) -> bool {
        self.raft.status().role == Role::Leader
    }

    /// What it holds.
    pub fn applier(&self) -> &Applier {
        &self.applier
    }

    /// The power goes in the middle of writes: what the disk was working on is written, in
    /// part, and not synced.
    pub fn tear(&mut self, rng: &mut SeededRng) {
        let fault = seams::Fault {
            operation: seams::FaultOperation::Sync,
            after: 0,
            forever: true,
            os_error: 5,
        };
        self.disk.inject(fault);
        if rng.one_in(2) {
            let _ = self.wal.turn(&mut self.wal_batch, |_| ());
        }
        if rng.one_in(2) {
            let _ = self.committer.commit();
        }
        self.disk.clear_faults();
    }

    fn next_request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    fn propose(&mut self, tag: u64, payload: Payload, context: &mut Context<'_>) {
        self.inputs.proposals.push(Proposal { tag, payload });
        self.turn_soon(context);
    }

    fn turn_soon(&mut self, context: &mut Context<'_>) {
        if !self.turn_due {
            self.turn_due = true;
            let delay = 20 + context.rng.below(100);
            context.actions.push(Action::After(delay, Local::Turn));
        }
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Violation {
        Violation::new("node", format!("{}: {error}", self.id))
    }

    // ---- raft ----

    fn turn(&mut self, context: &mut Context<'_>) -> Checked {
        self.turn_due = false;
        let mut effects = Effects::default();
        self.raft.turn_into(&mut self.inputs, &mut effects);
        self.carry_out(effects, context)
    }

    fn carry_out(&mut self, effects: Effects, context: &mut Context<'_>) -> Checked {
        if let Some(persist) = effects.persist {
            self.persist(persist, context)?;
        }
        for message in effects.messages {
            if message.msg_type == i32::from(MessageType::MsgSnap) {
                self.send_snapshot(message, context)?;
                continue;
            }
            if message.msg_type == i32::from(MessageType::MsgApp) {
                context
                    .properties
                    .publishes(&mut self.mirror, &message.entries)?;
            }
            context.actions.push(Action::Send(message));
        }
        if let Some(state) = effects.soft_state {
            self.term = state.term;
            let leader = state.leader.unwrap_or_default();
            context.trace.line(
                context.now_us,
                format_args!(
                    "n{} {:?} term {} leader {leader}",
                    self.id, state.role, state.term
                ),
            );
            if state.role == Role::Leader {
                context.counters.elections += 1;
                context
                    .properties
                    .leads(self.id, state.term, &self.mirror)?;
            }
        }
        if let Some(snapshot) = effects.install {
            self.apply_queue.push_back(ApplyJob::Install(snapshot));
        }
        for entry in effects.committed {
            context.properties.commits(self.id, self.term, &entry)?;
            self.apply_queue.push_back(ApplyJob::Entry(entry));
        }
        self.apply_soon(context);
        for read in effects.reads {
            let Some(asked) = self.reads.remove(&read.tag) else {
                continue;
            };
            match read.result {
                Ok(index) => drop(self.reads_confirmed.insert((index, read.tag), asked)),
                Err(_) => context.actions.push(Action::Reply(asked.0, Reply::Failed)),
            }
        }
        self.answer_reads(context)?;
        for dropped in effects.dropped {
            let may_pass = matches!(
                dropped.reason,
                DropReason::NoLeader | DropReason::Transferring(_) | DropReason::TooManyUncommitted
            );
            if may_pass && self.waiting.contains_key(&dropped.tag) {
                self.retries.push(Proposal {
                    tag: dropped.tag,
                    payload: dropped.payload,
                });
            } else if let Some(waiter) = self.waiting.remove(&dropped.tag) {
                context.actions.push(Action::Reply(waiter, Reply::Failed));
            }
        }
        for peer in effects.snapshots_wanted {
            self.make_snapshot_for(peer, context)?;
        }
        for fetch in effects.fetches {
            context.counters.fetches += 1;
            let reader = self.wal.wal.reader();
            let fetched = Fetched {
                from: fetch.from,
                entries: reader.entries(fetch.from, fetch.to, fetch.max_bytes).ok(),
            };
            let delay = MILLISECOND_US + context.rng.below(3 * MILLISECOND_US);
            context
                .actions
                .push(Action::After(delay, Local::Fetched(fetched)));
        }
        for refused in effects.refused {
            context.counters.refused += 1;
            use raftnode::Refusal::{CommitBeyondLog, Conflict, LostEntries};
            if let Conflict { .. } | CommitBeyondLog { .. } | LostEntries { .. } = refused.reason {
                return Err(self.broken(&refused.reason));
            }
        }
        match effects.stop {
            Some(Stop::Removed { index }) => {
                context.actions.push(Action::Stop(Stop::Removed { index }))
            }
            Some(stop) => return Err(self.broken(&stop)),
            None => {}
        }
        Ok(())
    }

    // ---- the WAL's lane ----

    fn persist(&mut self, persist: Persist, context: &mut Context<'_>) -> Checked {
        if let Some(snapshot) = &persist.snapshot {
            context
                .properties
                .restores(&mut self.mirror, snapshot.index())?;
        }
        context
            .properties
            .appends(&mut self.mirror, &persist.entries)?;
        if context.breakage == Breakage::PersistedTooEarly {
            self.inputs.persisted = Some(persist.number);
            self.turn_soon(context);
        }
        self.wal_queue.push(WalJob::Persist(persist));
        self.start_wal(context);
        Ok(())
    }

    /// One sync serves all that has queued up while the one before ran.
    fn start_wal(&mut self, context: &mut Context<'_>) {
        if self.wal_batch.is_empty() && !self.wal_queue.is_empty() {
            std::mem::swap(&mut self.wal_batch, &mut self.wal_queue);
            let (from, to) = context.sync_us;
            let delay = from + context.rng.below(to - from);
            context.actions.push(Action::After(delay, Local::WalDone));
        }
    }

    fn wal_done(&mut self, context: &mut Context<'_>) -> Checked {
        let written: Vec<Vec<Entry>> = self.wal_batch.iter().map(entries_of).collect();
        let mut compact_to = None;
        let persisted = self
            .wal
            .turn(&mut self.wal_batch, |index| compact_to = Some(index))
            .map_err(|error| self.broken(&error))?;
        for entries in written {
            context.properties.publishes(&mut self.mirror, &entries)?;
        }
        if let Some(number) = persisted
            && context.breakage != Breakage::PersistedTooEarly
        {
            self.inputs.persisted = Some(number);
            self.turn_soon(context);
        }
        if let Some(index) = compact_to {
            self.check_vouched()?;
            context.trace.line(
                context.now_us,
                format_args!("n{} wrote a snapshot, compacts to {index}", self.id),
            );
            context.counters.snapshots_written += 1;
            self.inputs.compact_to = Some(index);
            self.turn_soon(context);
        }
        self.start_wal(context);
        Ok(())
    }

    /// The log is let go only behind a snapshot that a restart would find.
    fn check_vouched(&self) -> Checked {
        let vouched = wal::valid_snapshots(&self.disk, &self.config.wal_dir())
            .map_err(|error| self.broken(&error))?;
        let newest = vouched.last().map_or(0, |record| record.index);
        if newest < self.snapshot_last {
            return Err(self.broken(&format!(
                "the log is let go up to a snapshot at {}, a restart would find the one at {newest}",
                self.snapshot_last
            )));
        }
        Ok(())
    }

    // ---- the applier's lane ----

    fn apply_soon(&mut self, context: &mut Context<'_>) {
        let is_compacting = self.applier.mvcc().is_compacting();
        if !self.apply_due && (!self.apply_queue.is_empty() || is_compacting) {
            self.apply_due = true;
            let delay = 50 + context.rng.below(500);
            context.actions.push(Action::After(delay, Local::Apply));
        }
    }

    fn apply(&mut self, context: &mut Context<'_>) -> Checked {
        self.apply_due = false;
        for _ in 0..APPLY_BATCH {
            match self.apply_queue.pop_front() {
                Some(ApplyJob::Entry(entry)) => self.apply_entry(&entry, context)?,
                Some(ApplyJob::Install(snapshot)) => {
                    self.install(&snapshot, context)?;
                    break;
                }
                None => break,
            }
        }
        self.compact().map_err(|error| self.broken(&error))?;
        self.snapshot_when_due();
        self.answer_reads(context)?;
        self.turn_soon(context);
        self.apply_soon(context);
        Ok(())
    }

    fn apply_entry(&mut self, entry: &Entry, context: &mut Context<'_>) -> Checked {
        context.properties.applies(self.id, entry)?;
        let waiting = &self.waiting;
        let now = Duration::from_micros(context.now_us);
        let outcome = self
            .applier
            .apply_entry(entry, &|request| waiting.contains_key(&request), now)
            .map_err(|error| Violation::new("node", format!("{}: {error}", self.id)))?;
        if let Some(what) = outcome.ignored {
            return Err(Violation::new(
                "node",
                format!("{} ignores {what}", self.id),
            ));
        }
        if let Some(conf) = outcome.conf_change {
            self.inputs.conf_results.push(ConfResult {
                index: entry.index,
                change: Some(conf.raft),
            });
        }
        self.inputs.applied = Some(entry.index);
        let waiter = self.waiting.remove(&outcome.request_id);
        if let (Some(waiter), Some(result)) = (waiter, outcome.result) {
            let written = |revision| {
                Reply::Done(Answer::Written {
                    request: outcome.request_id,
                    revision,
                })
            };
            let reply = match result {
                Ok(mut response) => {
                    let revision = response.header_mut().map_or(0, |header| header.revision);
                    match response {
                        Response::Put(_) | Response::DeleteRange(_) => written(revision),
                        _ => Reply::Ok,
                    }
                }
                Err(_) => Reply::Ok, // a compaction of what is compacted
            };
            context.actions.push(Action::Reply(waiter, reply));
        }
        Ok(())
    }

    fn install(&mut self, snapshot: &Snapshot, context: &mut Context<'_>) -> Checked {
        let index = snapshot.index();
        let received = self.wal.snapshotter.database_path(index);
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        boot::install_database(&disk, &self.config, &received).map_err(|e| self.broken(&e))?;
        let (backend, writer, committer) =
            boot::open_backend(&disk, &self.config).map_err(|e| self.broken(&e))?;
        self.applier
            .replace(backend, writer)
            .map_err(|e| self.broken(&e))?;
        self.committer = committer;
        let applied = self.applier.applied().index;
        if applied != index {
            return Err(self.broken(&format!(
                "snapshot {index} came with a database at {applied}"
            )));
        }
        self.snapshot_last = index;
        self.snapshot_wanted = None;
        self.inputs.snapshot_installed = Some(index);
        context.counters.snapshots_installed += 1;
        context.trace.line(
            context.now_us,
            format_args!("n{} installed snapshot {index}", self.id),
        );
        Ok(())
    }

    fn compact(&mut self) -> Result<(), mvcc::Error> {
        if self.applier.mvcc().is_compacting() {
            self.applier
                .mvcc()
                .compaction_hash_step(HASH_STEP_RECORDS)?;
            let (mvcc, writer) = self.applier.mvcc_writer();
            mvcc.compact_step(writer, COMPACT_STEP_RECORDS)?;
            writer.end_local();
        }
        Ok(())
    }

    fn answer_reads(&mut self, context: &mut Context<'_>) -> Checked {
        let applied = self.applier.applied().index;
        while let Some(first) = self.reads_confirmed.first_entry()
            && first.key().0 <= applied
        {
            let (waiter, key) = first.remove();
            self.answer_read(waiter, &key, context)?;
        }
        Ok(())
    }

    fn answer_read(&mut self, waiter: Waiter, key: &[u8], context: &mut Context<'_>) -> Checked {
        let (found, revision) = self
            .applier
            .mvcc()
            .get(key, 0)
            .map_err(|error| self.broken(&error))?;
        let answer = Answer::Read {
            revision,
            value: found.map(|found| found.value),
        };
        context
            .actions
            .push(Action::Reply(waiter, Reply::Done(answer)));
        Ok(())
    }

    // ---- the database and snapshots ----

    fn snapshot_when_due(&mut self) {
        let applied = self.applier.applied().index;
        let due = applied > self.snapshot_last + self.config.snapshot_count;
        if self.snapshot_wanted.is_none() && due {
            self.applier.backend().request_commit();
            self.snapshot_wanted = Some(applied);
        }
    }

    fn commit(&mut self, context: &mut Context<'_>) -> Checked {
        context
            .actions
            .push(Action::After(commit_us(context.rng), Local::Commit));
        let committed = self
            .committer
            .commit()
            .map_err(|error| self.broken(&error))?;
        if self
            .snapshot_wanted
            .take_if(|wanted| *wanted <= committed)
            .is_some()
        {
            let snapshot = self.snapshot_of(&self.applier.backend().snapshot())?;
            self.snapshot_last = snapshot.index();
            let compact_to = self
                .snapshot_last
                .saturating_sub(self.config.snapshot_catchup_entries);
            self.wal_queue.push(WalJob::Snapshot {
                snapshot,
                compact_to,
            });
            self.start_wal(context);
        }
        Ok(())
    }

    fn snapshot_of(&self, database: &backend::Snapshot) -> Checked<Snapshot> {
        let membership = self.membership();
        snapshots::of_committed(database, membership.cluster_id(), membership.local_id())
            .map_err(|error| self.broken(&error))
    }

    fn make_snapshot_for(&mut self, peer: MemberId, context: &mut Context<'_>) -> Checked {
        self.committer
            .commit()
            .map_err(|error| self.broken(&error))?;
        let database = self.applier.backend().snapshot();
        let ready = SnapshotReady {
            peer,
            snapshot: Some(self.snapshot_of(&database)?),
        };
        self.sending.insert(peer, database);
        let delay = 5 * MILLISECOND_US + context.rng.below(50 * MILLISECOND_US);
        context
            .actions
            .push(Action::After(delay, Local::SnapshotReady(ready)));
        Ok(())
    }

    fn send_snapshot(&mut self, message: Message, context: &mut Context<'_>) -> Checked {
        let peer = MemberId(message.to);
        let index = message.snapshot.as_ref().map_or(0, Snapshot::index);
        let Some(database) = self
            .sending
            .get(&peer)
            .filter(|d| d.applied().index == index)
        else {
            return Err(self.broken(&format!("no database at {index} for {peer}")));
        };
        let mut bytes = vec![0; usize::try_from(database.len()).unwrap_or(usize::MAX)];
        let mut read = 0;
        while read < bytes.len() {
            let count = database
                .read_at(read as u64, &mut bytes[read..])
                .map_err(|error| self.broken(&error))?;
            read += count;
        }
        context.counters.snapshots_sent += 1;
        context
            .actions
            .push(Action::SendSnapshot(message, bytes.into()));
        Ok(())
    }
}

/// The entries that a job writes.
fn entries_of(job: &WalJob) -> Vec<Entry> {
    match job {
        WalJob::Persist(persist) => persist.entries.clone(),
        WalJob::Snapshot { .. } => Vec::new(),
    }
}

/// Clocks are not in step.
fn tick_us(rng: &mut SeededRng) -> u64 {
    98 * MILLISECOND_US + rng.below(4 * MILLISECOND_US)
}

fn commit_us(rng: &mut SeededRng) -> u64 {
    80 * MILLISECOND_US + rng.below(40 * MILLISECOND_US)
}
