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
use backend::{Backend, Committer};
use bytes::Bytes;
use membership::{LEARNERS_MAX_DEFAULT, Membership, v2store};
use mvcc::{COMPACT_STEP_RECORDS, HASH_STEP_RECORDS};
use prost::Message as _;
use raftnode::{
    ConfResult, Config, DropReason, Effects, Fetched, Inputs, Payload, Persist, Proposal, RaftNode,
    Role, SnapshotReady, SnapshotSent, Stop,
};
use raftpb::{ConfChange, Entry, MemberId, Message, MessageType, Snapshot, SnapshotMetadata};
use seams::{Disk, MemDisk, Rng, SeededRng};
use wal::{SnapshotRecord, Wal};

use crate::properties::{Answer, Ask, Checked, Mirror, Properties, Violation};
use crate::recovery::{self, Paths, Started};
use crate::report::Counters;
use crate::trace::Trace;
use crate::{Breakage, MILLISECOND_US, files};

/// Applied entries after which a snapshot is written (etcd: 10,000).
const SNAPSHOT_ENTRIES: u64 = 200;

/// Entries that stay in the log behind a snapshot (etcd: 5,000).
const CATCH_UP_ENTRIES: u64 = 40;

/// Entries that the applier takes in one go.
const APPLY_BATCH: usize = 64;

/// WAL segments that stay (etcd's `--max-wals`).
const WAL_SEGMENTS_MAX: usize = 3;

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

enum WalJob {
    Persist(Persist),
    Record(SnapshotRecord),
}

enum ApplyJob {
    Entry(Entry),
    Install(Snapshot),
}

/// A member that runs.
pub struct Running {
    id: MemberId,
    paths: Paths,
    disk: MemDisk,
    raft: RaftNode,
    term: u64,
    inputs: Inputs,
    turn_due: bool,
    wal: Wal,
    wal_queue: VecDeque<WalJob>,
    /// Jobs that the disk is working on; 0 when it rests.
    wal_batch: usize,
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
    snapshot_index: u64,
    snapshot_pending: Option<Snapshot>,
    record_due: Option<SnapshotRecord>,
    sending: BTreeMap<MemberId, backend::Snapshot>,
}

impl Running {
    /// Starts the member that lies on this disk; `boot` counts its starts.
    pub fn start(
        id: MemberId,
        boot: u64,
        disk: &MemDisk,
        context: &mut Context<'_>,
    ) -> Checked<Running> {
        let Started {
            mut wal,
            applier,
            committer,
            recovered,
        } = recovery::start(disk).map_err(|error| {
            Violation::new(
                "restart",
                format!("{id} does not start from its disk: {error}"),
            )
        })?;
        if context.breakage == Breakage::NoSync {
            wal.set_unsafe_no_fsync(true);
        }
        let mirror = context
            .properties
            .starts(recovered.snapshot_index, &recovered.entries)?;
        let snapshot_index = recovered.applied.max(recovered.snapshot_index);
        let seed = context.rng.next_u64();
        let config = Config::new(id, Box::new(SeededRng::new(seed)));
        let raft = RaftNode::new(config, recovered)
            .map_err(|error| Violation::new("restart", format!("{id}: {error}")))?;
        let term = raft.status().term;
        let mut member = Running {
            id,
            paths: Paths::new(),
            disk: disk.clone(),
            raft,
            term,
            inputs: Inputs::default(),
            turn_due: false,
            wal,
            wal_queue: VecDeque::new(),
            wal_batch: 0,
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
            snapshot_index,
            snapshot_pending: None,
            record_due: None,
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
        let path = files::received_database(&self.paths, index);
        files::write(&self.disk, &path, database).map_err(|error| self.broken(&error))?;
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
            let _ = self.run_wal_batch();
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
        for message in effects.messages {
            if message.msg_type == i32::from(MessageType::MsgSnap) {
                self.send_snapshot(message, context)?;
            } else {
                context.actions.push(Action::Send(message));
            }
        }
        if let Some(persist) = effects.persist {
            self.persist(persist, context)?;
        }
        if let Some(record) = self.record_due.take() {
            self.wal_queue.push_back(WalJob::Record(record));
            self.start_wal(context);
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
            let reader = self.wal.reader();
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
        self.wal_queue.push_back(WalJob::Persist(persist));
        self.start_wal(context);
        Ok(())
    }

    /// One sync serves all that has queued up while the one before ran.
    fn start_wal(&mut self, context: &mut Context<'_>) {
        if self.wal_batch == 0 && !self.wal_queue.is_empty() {
            self.wal_batch = self.wal_queue.len();
            let (from, to) = context.sync_us;
            let delay = from + context.rng.below(to - from);
            context.actions.push(Action::After(delay, Local::WalDone));
        }
    }

    fn wal_done(&mut self, context: &mut Context<'_>) -> Checked {
        let (persisted, recorded) = self.run_wal_batch().map_err(|error| self.broken(&error))?;
        if let Some(number) = persisted
            && context.breakage != Breakage::PersistedTooEarly
        {
            self.inputs.persisted = Some(number);
            self.turn_soon(context);
        }
        if let Some(index) = recorded {
            context.trace.line(
                context.now_us,
                format_args!("n{} wrote snapshot {index}", self.id),
            );
            context.counters.snapshots_written += 1;
            self.inputs.compact_to = index.checked_sub(CATCH_UP_ENTRIES);
            self.turn_soon(context);
        }
        self.start_wal(context);
        Ok(())
    }

    /// The number of the last write, and the index of a snapshot that was recorded.
    fn run_wal_batch(&mut self) -> Result<(Option<u64>, Option<u64>), recovery::Error> {
        let batch = std::mem::take(&mut self.wal_batch);
        let (mut persisted, mut recorded, mut must_sync) = (None, None, false);
        for job in self.wal_queue.drain(..batch) {
            match job {
                WalJob::Persist(persist) => {
                    if let Some(snapshot) = &persist.snapshot {
                        files::save_snapshot(&self.disk, &self.paths, snapshot)?;
                        self.wal.save_snapshot(&record_of(snapshot))?;
                        self.wal.release_to(snapshot.index())?;
                    }
                    self.wal
                        .save(persist.hard_state.as_ref(), &persist.entries)?;
                    must_sync |= persist.must_sync;
                    persisted = Some(persist.number);
                }
                WalJob::Record(record) => {
                    self.wal.save_snapshot(&record)?;
                    self.wal.release_to(record.index)?;
                    recorded = Some(record.index);
                }
            }
        }
        if must_sync {
            self.wal.sync()?;
        }
        if recorded.is_some() {
            self.wal.purge(WAL_SEGMENTS_MAX)?;
        }
        Ok((persisted, recorded))
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
        files::install_database(&self.disk, &self.paths, index).map_err(|e| self.broken(&e))?;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (backend, writer, committer) = Backend::open(disk, &self.paths.db, recovery::options())
            .map_err(|e| self.broken(&e))?;
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
        self.snapshot_index = index;
        self.snapshot_pending = None;
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

    /// Between two entries: what a snapshot here would say. It is written when the database
    /// has committed this index.
    fn snapshot_when_due(&mut self) {
        let applied = self.applier.applied();
        if self.snapshot_pending.is_some() || applied.index < self.snapshot_index + SNAPSHOT_ENTRIES
        {
            return;
        }
        let membership = self.membership();
        self.snapshot_index = applied.index;
        self.snapshot_pending = Some(snapshot_of(&membership, applied));
    }

    fn commit(&mut self, context: &mut Context<'_>) -> Checked {
        context
            .actions
            .push(Action::After(commit_us(context.rng), Local::Commit));
        let committed = self
            .committer
            .commit()
            .map_err(|error| self.broken(&error))?;
        let is_ready = |snapshot: &mut Snapshot| snapshot.index() <= committed;
        if let Some(snapshot) = self.snapshot_pending.take_if(is_ready) {
            files::save_snapshot(&self.disk, &self.paths, &snapshot)
                .map_err(|e| self.broken(&e))?;
            self.record_due = Some(record_of(&snapshot));
            self.inputs.write_commit = true;
            self.turn_soon(context);
        }
        Ok(())
    }

    fn make_snapshot_for(&mut self, peer: MemberId, context: &mut Context<'_>) -> Checked {
        self.committer
            .commit()
            .map_err(|error| self.broken(&error))?;
        let database = self.applier.backend().snapshot();
        let old = self.membership();
        let membership = Membership::load(
            &database.view(),
            old.cluster_id(),
            old.local_id(),
            LEARNERS_MAX_DEFAULT,
        )
        .map_err(|error| self.broken(&error))?;
        let ready = SnapshotReady {
            peer,
            snapshot: Some(snapshot_of(&membership, database.applied())),
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

fn record_of(snapshot: &Snapshot) -> SnapshotRecord {
    SnapshotRecord {
        index: snapshot.index(),
        term: snapshot.term(),
        conf_state: snapshot
            .metadata
            .as_ref()
            .and_then(|m| m.conf_state.clone()),
    }
}

fn snapshot_of(membership: &Membership, applied: backend::Applied) -> Snapshot {
    Snapshot {
        data: v2store::encode(membership).into(),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(membership.conf_state().clone()),
            index: applied.index,
            term: applied.term,
        }),
    }
}

/// Clocks are not in step.
fn tick_us(rng: &mut SeededRng) -> u64 {
    98 * MILLISECOND_US + rng.below(4 * MILLISECOND_US)
}

fn commit_us(rng: &mut SeededRng) -> u64 {
    80 * MILLISECOND_US + rng.below(40 * MILLISECOND_US)
}
