//! A cluster in memory: nodes, a network that obeys, disks that answer at once or when told.
//!
//! The state machine is a map: an entry `a=1` sets a key. Everything that a caller of `raftnode`
//! must do is done here as simply as possible.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raftnode::{
    ConfResult, Config, Dropped, Effects, Fetched, Inputs, Payload, Persist, Proposal, RaftNode,
    Recovered, Role, SnapshotReady, SnapshotSent, Stop,
};
use raftpb::conf::{Change, Member};
use raftpb::{
    ConfState, Entry, EntryType, HardState, MemberId, Message, MessageType, Snapshot,
    SnapshotMetadata,
};
use seams::SeededRng;

pub const ELECTION_TICKS: u32 = 10;

/// A cluster that exchanges messages longer than this never stops.
const ROUNDS_TO_REST: u32 = 10_000;

/// What a member's WAL and snapshot file would hold.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub snapshot_index: u64,
    pub snapshot_term: u64,
    /// All entries ever written, from index 1 on; a snapshot cuts it.
    pub entries: BTreeMap<u64, Entry>,
    pub machine: Machine,
}

impl Disk {
    fn write(&mut self, persist: &Persist) {
        if let Some(snapshot) = &persist.snapshot {
            self.snapshot_index = snapshot.index();
            self.snapshot_term = snapshot.term();
            self.entries.clear();
        }
        if let Some(first) = persist.entries.first() {
            self.entries.split_off(&first.index);
        }
        for entry in &persist.entries {
            self.entries.insert(entry.index, entry.clone());
        }
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = hard_state;
        }
    }
}

/// The replicated map, with what a snapshot of it needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    pub applied: u64,
    pub applied_term: u64,
    pub keys: BTreeMap<String, String>,
    pub members: BTreeMap<u64, bool>,
    /// Everything that was applied, in order: `index:text`.
    pub log: Vec<String>,
}

impl Machine {
    fn conf_state(&self) -> ConfState {
        let of = |learner: bool| {
            let ids = self.members.iter().filter(move |(_, l)| **l == learner);
            ids.map(|(id, _)| *id).collect()
        };
        ConfState {
            voters: of(false),
            learners: of(true),
            ..ConfState::default()
        }
    }

    fn apply(&mut self, entry: &Entry) -> Option<ConfResult> {
        assert_eq!(entry.index, self.applied + 1, "applied in order, once");
        self.applied = entry.index;
        self.applied_term = entry.term;
        if entry.entry_type == i32::from(EntryType::EntryNormal) {
            let text = String::from_utf8_lossy(&entry.data).into_owned();
            if let Some((key, value)) = text.split_once('=') {
                self.keys.insert(key.to_owned(), value.to_owned());
            }
            if !text.is_empty() {
                let text = if text.len() > 40 { "(long)" } else { &text };
                self.log.push(format!("{}:{text}", entry.index));
            }
            return None;
        }
        let Ok(Some((conf_change, change))) = raftpb::conf::check_conf_change(entry) else {
            // Only a hostile leader brings one: the door lets none through.
            return Some(ConfResult {
                index: entry.index,
                change: None,
            });
        };
        self.log.push(format!("{}:{change:?}", entry.index));
        let id = change.id().0;
        let fails = match &change {
            Change::Add(_) | Change::AddLearner(_) => self.members.contains_key(&id),
            Change::Promote(_) => self.members.get(&id) != Some(&true),
            Change::Update { .. } | Change::Remove(_) => !self.members.contains_key(&id),
        };
        let is_bootstrap = entry.term == 1;
        if fails && !is_bootstrap {
            return Some(ConfResult {
                index: entry.index,
                change: None,
            });
        }
        match &change {
            Change::Add(_) | Change::Promote(_) => drop(self.members.insert(id, false)),
            Change::AddLearner(_) => drop(self.members.insert(id, true)),
            Change::Remove(_) => drop(self.members.remove(&id)),
            Change::Update { .. } => {}
        }
        Some(ConfResult {
            index: entry.index,
            change: Some(conf_change),
        })
    }

    pub fn to_snapshot(&self) -> Snapshot {
        let keys: Vec<String> = self.keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
        Snapshot {
            data: keys.join("\n").into_bytes().into(),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(self.conf_state()),
                index: self.applied,
                term: self.applied_term,
            }),
        }
    }

    fn from_snapshot(snapshot: &Snapshot) -> Machine {
        let metadata = snapshot.metadata.clone().expect("a snapshot has metadata");
        let conf_state = metadata.conf_state.expect("and a conf state");
        let text = String::from_utf8(snapshot.data.to_vec()).expect("made by to_snapshot");
        let voters = conf_state.voters.iter().map(|id| (*id, false));
        let learners = conf_state.learners.iter().map(|id| (*id, true));
        Machine {
            applied: metadata.index,
            applied_term: metadata.term,
            keys: text
                .lines()
                .filter_map(|line| line.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            members: voters.chain(learners).collect(),
            log: vec![format!("{}:snapshot", metadata.index)],
        }
    }
}

pub struct Node {
    pub id: u64,
    pub raft: RaftNode,
    pub disk: Disk,
    pub machine: Machine,
    pub slow_disk: bool,
    pub unwritten: VecDeque<Persist>,
    pub inputs: Inputs,
    pub stopped: Option<Stop>,
    pub refused: Vec<String>,
    pub dropped: Vec<Dropped>,
    pub fetches: u64,
    pub seed: u64,
}

impl Node {
    pub fn start(id: u64, seed: u64, disk: Disk) -> Node {
        let mut config = Config::new(MemberId(id), Box::new(SeededRng::new(seed ^ id)));
        config.election_ticks = ELECTION_TICKS;
        let machine = disk.machine.clone();
        let recovered = Recovered {
            hard_state: disk.hard_state,
            snapshot_index: disk.snapshot_index,
            snapshot_term: disk.snapshot_term,
            conf_state: machine.conf_state(),
            entries: disk.entries.values().cloned().collect(),
            applied: machine.applied,
        };
        Node {
            id,
            raft: RaftNode::new(config, recovered).expect("the disk holds what was written"),
            disk,
            machine,
            slow_disk: false,
            unwritten: VecDeque::new(),
            inputs: Inputs::default(),
            stopped: None,
            refused: Vec::new(),
            dropped: Vec::new(),
            fetches: 0,
            seed,
        }
    }
}

/// Nodes and what is under way between them.
#[derive(Default)]
pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub down: BTreeMap<u64, (Disk, u64)>,
    pub wire: VecDeque<Message>,
    /// Pairs that cannot reach each other.
    pub cut: BTreeSet<(u64, u64)>,
    pub trace: Vec<String>,
    pub show_messages: bool,
    /// A node that answers no snapshot request, and the snapshots it was asked for.
    pub hold_snapshots: bool,
    next_tag: u64,
}

impl Cluster {
    /// A new cluster of these voters, then these learners added through the leader.
    pub fn new(voters: &[u64], seed: u64) -> Cluster {
        // What each first member of a new cluster writes to its WAL.
        let added = (1..).zip(voters).map(|(index, &id)| Entry {
            term: 1,
            index,
            ..Change::Add(member(id)).to_entry(0)
        });
        let disk = Disk {
            hard_state: HardState {
                term: 1,
                vote: 0,
                commit: voters.len() as u64,
            },
            entries: added.map(|entry| (entry.index, entry)).collect(),
            ..Disk::default()
        };
        let mut cluster = Cluster::default();
        for &id in voters {
            let node = Node::start(id, seed, disk.clone());
            cluster.nodes.insert(id, node);
        }
        cluster.settle();
        cluster.trace.clear();
        cluster
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes
            .get_mut(&id)
            .unwrap_or_else(|| panic!("n{id} runs"))
    }

    /// The running node that leads in the highest term.
    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &&Node| node.raft.status().role == Role::Leader;
        let leaders = self.nodes.values().filter(leads);
        leaders
            .max_by_key(|node| node.raft.status().term)
            .map(|node| node.id)
    }

    /// Ticks one node until it leads.
    pub fn elect(&mut self, id: u64) {
        for _ in 0..20 * ELECTION_TICKS {
            if self.node(id).raft.status().role == Role::Leader {
                return;
            }
            self.tick(id, 1);
        }
        panic!("n{id} is not elected: {:?}", self.node(id).raft);
    }

    pub fn tick(&mut self, id: u64, ticks: u32) {
        for _ in 0..ticks {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.inputs.ticks += 1;
            }
            self.settle();
        }
    }

    /// One tick on every node, again and again.
    pub fn tick_all(&mut self, ticks: u32) {
        for _ in 0..ticks {
            for node in self.nodes.values_mut() {
                node.inputs.ticks += 1;
            }
            self.settle();
        }
    }

    /// Queues a proposal; gives its tag.
    pub fn propose(&mut self, id: u64, payload: Payload) -> u64 {
        self.next_tag += 1;
        let tag = self.next_tag;
        self.node(id)
            .inputs
            .proposals
            .push(Proposal { tag, payload });
        tag
    }

    pub fn put(&mut self, id: u64, text: &str) {
        let data = text.to_owned().into_bytes().into();
        self.propose(id, Payload::Data(data));
        self.settle();
    }

    pub fn change(&mut self, id: u64, change: &Change) {
        let change = change.to_conf_change(self.next_tag + 1);
        self.propose(id, Payload::ConfChange(change));
        self.settle();
    }

    pub fn read(&mut self, id: u64) -> u64 {
        self.next_tag += 1;
        let tag = self.next_tag;
        self.node(id).inputs.reads.push(tag);
        self.settle();
        tag
    }

    pub fn crash(&mut self, id: u64) {
        let mut node = self
            .nodes
            .remove(&id)
            .unwrap_or_else(|| panic!("n{id} runs"));
        // The database is written at once; it may be ahead of the last synced commit index.
        node.disk.machine = node.machine;
        self.down.insert(id, (node.disk, node.seed + 100));
    }

    pub fn restart(&mut self, id: u64) {
        let (disk, seed) = self
            .down
            .remove(&id)
            .unwrap_or_else(|| panic!("n{id} is down"));
        self.nodes.insert(id, Node::start(id, seed, disk));
        self.settle();
    }

    /// An empty member, added to the cluster before or after.
    pub fn join(&mut self, id: u64) {
        self.nodes.insert(id, Node::start(id, 7, Disk::default()));
    }

    pub fn partition(&mut self, side: &[u64]) {
        let all: Vec<u64> = self.nodes.keys().chain(self.down.keys()).copied().collect();
        for &a in side {
            for &b in all.iter().filter(|b| !side.contains(b)) {
                self.cut.insert((a, b));
                self.cut.insert((b, a));
            }
        }
    }

    /// What the slow disk holds back is written and told.
    pub fn sync(&mut self, id: u64) {
        let node = self.node(id);
        while let Some(persist) = node.unwritten.pop_front() {
            node.disk.write(&persist);
            node.inputs.persisted = Some(persist.number);
        }
        self.settle();
    }

    /// Turns and deliveries until nothing happens any more.
    pub fn settle(&mut self) {
        for round in 0..ROUNDS_TO_REST {
            self.show_messages |= round + 20 > ROUNDS_TO_REST;
            let mut moved = false;
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            for id in ids {
                moved |= self.turn(id);
            }
            moved |= !self.wire.is_empty();
            while let Some(message) = self.wire.pop_front() {
                if self.cut.contains(&(message.from, message.to)) {
                    continue;
                }
                if let Some(node) = self.nodes.get_mut(&message.to) {
                    node.inputs.messages.push(message);
                }
            }
            if !moved {
                return;
            }
        }
        let last = self.trace.len().saturating_sub(40);
        panic!(
            "the cluster does not come to rest: {:#?}",
            &self.trace[last..]
        );
    }

    /// One turn of a node with what is waiting for it. False when it had nothing to do.
    pub fn turn(&mut self, id: u64) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else {
            return false;
        };
        let mut inputs = std::mem::take(&mut node.inputs);
        let is_idle = format!("{inputs:?}") == format!("{:?}", Inputs::default());
        let mut effects = Effects::default();
        node.raft.turn_into(&mut inputs, &mut effects);
        let had_work = !is_idle;
        self.carry_out(id, effects) || had_work
    }

    fn carry_out(&mut self, id: u64, effects: Effects) -> bool {
        let quiet = format!("{effects:?}") == format!("{:?}", Effects::default());
        let Cluster {
            nodes,
            wire,
            trace,
            show_messages,
            hold_snapshots,
            ..
        } = self;
        let node = nodes.get_mut(&id).expect("it had a turn");
        if let Some(state) = effects.soft_state {
            let leader = state
                .leader
                .map_or("nobody".to_owned(), |id| format!("n{id}"));
            trace.push(format!(
                "n{id} {:?} term {} leader {leader}",
                state.role, state.term
            ));
        }
        for message in effects.messages {
            if *show_messages {
                trace.push(describe(&message));
            }
            if message.msg_type == i32::from(MessageType::MsgSnap) {
                node.inputs.snapshots_sent.push(SnapshotSent {
                    peer: MemberId(message.to),
                    ok: true,
                });
            }
            wire.push_back(message);
        }
        if let Some(persist) = effects.persist {
            if *show_messages {
                trace.push(format!(
                    "n{id} writes{}{}",
                    persist
                        .entries
                        .iter()
                        .map(|e| format!(" {}/{}", e.index, e.term))
                        .collect::<String>(),
                    if persist.must_sync { ", synced" } else { "" }
                ));
            }
            if node.slow_disk {
                node.unwritten.push_back(persist);
            } else {
                node.disk.write(&persist);
                node.inputs.persisted = Some(persist.number);
            }
        }
        if let Some(snapshot) = effects.install {
            node.machine = Machine::from_snapshot(&snapshot);
            node.inputs.snapshot_installed = Some(snapshot.index());
            trace.push(format!("n{id} installs snapshot {}", snapshot.index()));
        }
        for entry in &effects.committed {
            let result = node.machine.apply(entry);
            let is_conf = result.is_some();
            node.inputs.conf_results.extend(result);
            node.inputs.applied = Some(entry.index);
            let what = node.machine.log.last().filter(|_| !entry.data.is_empty());
            if let Some(what) = what.filter(|_| !is_conf) {
                trace.push(format!("n{id} applies {what}"));
            } else if is_conf && entry.term > 1 {
                trace.push(format!("n{id} applies {}:conf change", entry.index));
            }
        }
        for read in effects.reads {
            match read.result {
                Ok(index) => trace.push(format!("n{id} read ok index {index}")),
                Err(error) => trace.push(format!("n{id} read failed: {error}")),
            }
        }
        for dropped in effects.dropped {
            trace.push(format!("n{id} drops proposal: {}", dropped.reason));
            node.dropped.push(dropped);
        }
        if let Some(conf_state) = effects.conf_state
            && node.machine.applied > 0
            && effects.committed.is_empty()
        {
            trace.push(format!(
                "n{id} voters {:?} learners {:?}",
                conf_state.voters, conf_state.learners
            ));
        }
        for peer in effects.snapshots_wanted {
            trace.push(format!("n{id} wants a snapshot for n{peer}"));
            if !*hold_snapshots {
                node.inputs.snapshots_ready.push(SnapshotReady {
                    peer,
                    snapshot: Some(node.machine.to_snapshot()),
                });
            }
        }
        for fetch in effects.fetches {
            node.fetches += 1;
            let range = node.disk.entries.range(fetch.from..fetch.to);
            let mut bytes = 0;
            let fits = |(_, entry): &(&u64, &Entry)| {
                bytes += entry.data.len() as u64;
                bytes <= fetch.max_bytes
            };
            let entries: Vec<Entry> = range.take_while(fits).map(|(_, e)| e.clone()).collect();
            node.inputs.fetched.push(Fetched {
                from: fetch.from,
                entries: (!entries.is_empty()).then_some(entries),
            });
        }
        for refused in effects.refused {
            node.refused
                .push(format!("{}: {}", refused.from, refused.reason));
        }
        if let Some(stop) = effects.stop
            && node.stopped.is_none()
        {
            trace.push(format!("n{id} stops: {stop}"));
            node.stopped = Some(stop);
        }
        !quiet
    }
}

/// A member with one peer URL.
pub fn member(id: u64) -> Member {
    Member {
        id: MemberId(id),
        name: format!("n{id}"),
        peer_urls: vec![format!("http://n{id}:2380")],
        ..Member::default()
    }
}

pub fn describe(message: &Message) -> String {
    let msg_type = MessageType::try_from(message.msg_type).expect("sent by a node");
    let mut text = format!("n{} → n{} {msg_type:?}", message.from, message.to);
    if message.term > 0 {
        text += &format!(" term {}", message.term);
    }
    if message.index > 0 {
        text += &format!(" index {}", message.index);
    }
    if message.commit > 0 {
        text += &format!(" commit {}", message.commit);
    }
    if message.reject {
        text += " reject";
    }
    if !message.entries.is_empty() {
        text += &format!(" entries {}", message.entries.len());
    }
    text
}
