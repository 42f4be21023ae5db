//! The world: one queue of events.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use bytes::Bytes;
use membership::Member;
use raftnode::{SnapshotSent, Stop};
use raftpb::conf::Change;
use raftpb::{MemberId, Message};
use seams::{MemDisk, Rng, SeededRng};
use server::boot;

use crate::faults::{self, Fault};
use crate::member::{Action, Context, Local, Reply, Running, Waiter};
use crate::network::Network;
use crate::properties::{Ask, Checked, Operation, Properties, Violation};
use crate::recovery::{self, Origin};
use crate::report::{Counters, Failure, Report};
use crate::trace::Trace;
use crate::{MILLISECOND_US, Options, SECOND_US};

/// Faults begin after this: first a leader.
const FAULTS_FROM_US: u64 = 3 * SECOND_US;

/// Faults end here; then the cluster heals.
const FAULTS_TO_US: u64 = 60 * SECOND_US;

/// What a healed cluster is given before it must serve well.
const HEALING_US: u64 = 6 * SECOND_US;

/// Clients ask until here.
const CLIENTS_TO_US: u64 = 72 * SECOND_US;

/// What is under way may end until here.
const END_US: u64 = 76 * SECOND_US;

/// Clients, each with one request at a time.
const CLIENTS: usize = 6;

/// Keys that they write and read.
const KEYS: u64 = 12;

/// A client gives up waiting (etcd's request timeout is longer; clients here are impatient).
const CLIENT_TIMEOUT_US: u64 = 3 * SECOND_US;

/// Time between an answer and the next request, at most.
const THINK_US: u64 = 120 * MILLISECOND_US;

/// A usual sync of the disk takes so long.
const SYNC_US: (u64, u64) = (MILLISECOND_US, 5 * MILLISECOND_US);

/// A slow one.
const SLOW_SYNC_US: (u64, u64) = (50 * MILLISECOND_US, 900 * MILLISECOND_US);

enum Event {
    Local(MemberId, u64, Local),
    Deliver(Message),
    DeliverSnapshot(Message, Bytes, u64),
    Client(usize),
    ClientTimeout(usize, u64),
    Fault,
    Restart(MemberId, u64),
    Heal,
    DiskFast(MemberId),
    Operator,
    EndOfFaults,
}

struct Queued {
    at_us: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        self.number == other.number
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    /// The earliest is the greatest; of two at the same time, the one queued first.
    fn cmp(&self, other: &Queued) -> Ordering {
        (other.at_us, other.number).cmp(&(self.at_us, self.number))
    }
}

struct Machine {
    disk: MemDisk,
    origin: Origin,
    boot: u64,
    running: Option<Running>,
    removed: bool,
    slow_disk: bool,
    paused_to_us: u64,
}

#[derive(Default)]
struct Client {
    operation: u64,
    under_way: Option<Operation>,
}

/// A change of membership in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Nothing,
    AddLearner(MemberId),
    Promote(MemberId),
    Remove(MemberId),
}

/// All there is.
pub struct World {
    seed: u64,
    options: Options,
    rng: SeededRng,
    now_us: u64,
    queue: BinaryHeap<Queued>,
    queued: u64,
    machines: BTreeMap<MemberId, Machine>,
    /// The members that a new one is told of.
    known: BTreeMap<MemberId, Member>,
    members: u64,
    network: Network,
    clients: Vec<Client>,
    values: u64,
    plan: Plan,
    /// Whom the operator has removed. It may not know yet, and disturb the others; its process
    /// is ended with the faults.
    removed: Option<MemberId>,
    properties: Properties,
    counters: Counters,
    trace: Trace,
}

impl World {
    /// A new cluster of one, three or five, by seed.
    pub fn new(seed: u64, options: Options) -> World {
        let mut rng = SeededRng::new(seed);
        let members = match rng.below(8) {
            0 => 1,
            1 | 2 => 5,
            _ => 3,
        };
        World {
            seed,
            options,
            rng,
            now_us: 0,
            queue: BinaryHeap::new(),
            queued: 0,
            machines: BTreeMap::new(),
            known: BTreeMap::new(),
            members,
            network: Network::default(),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            values: 0,
            plan: Plan::Nothing,
            removed: None,
            properties: Properties::default(),
            counters: Counters::default(),
            trace: Trace::new(options.print),
        }
    }

    /// Runs to the end, or to the first violation.
    pub fn run(mut self) -> Result<Report, Failure> {
        match self.run_checked() {
            Ok(()) => Ok(Report {
                seed: self.seed,
                members: self.members,
                simulated_ms: self.now_us / MILLISECOND_US,
                counters: self.counters,
                committed: self.properties.committed(),
                fingerprint: self.trace.fingerprint(),
                lines: self.trace.lines(),
            }),
            Err(violation) => Err(Failure {
                seed: self.seed,
                at_ms: self.now_us / MILLISECOND_US,
                violation,
                tail: self.trace.tail(),
            }),
        }
    }

    fn run_checked(&mut self) -> Checked {
        self.begin()?;
        while let Some(next) = self.queue.pop() {
            if next.at_us > END_US {
                break;
            }
            self.now_us = next.at_us;
            self.handle(next.event)?;
        }
        self.now_us = END_US;
        self.check_healed()
    }

    fn begin(&mut self) -> Checked {
        let first: Vec<Member> = (1..=self.members).map(member).collect();
        for member in first {
            self.add_machine(member.id, Origin::New);
            self.known.insert(member.id, member);
        }
        for id in 1..=self.members {
            self.start(MemberId(id))?;
        }
        for client in 0..CLIENTS {
            let delay = SECOND_US + self.rng.below(SECOND_US);
            self.after(delay, Event::Client(client));
        }
        self.after(FAULTS_FROM_US, Event::Fault);
        self.after(FAULTS_TO_US, Event::EndOfFaults);
        if self.rng.one_in(2) {
            let newcomer = MemberId(self.members + 1);
            self.plan = Plan::AddLearner(newcomer);
            self.after(10 * SECOND_US, Event::Operator);
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Checked {
        match event {
            Event::Local(id, boot, local) => self.local(id, boot, local),
            Event::Deliver(message) => self.deliver(message),
            Event::DeliverSnapshot(message, database, boot) => {
                self.deliver_snapshot(message, &database, boot)
            }
            Event::Client(client) => self.client(client),
            Event::ClientTimeout(client, operation) => {
                self.client_timeout(client, operation);
                Ok(())
            }
            Event::Fault => self.fault(),
            Event::Restart(id, boot) => self.restart(id, boot),
            Event::Heal => {
                self.line(format_args!("network heals"));
                self.network.heal();
                Ok(())
            }
            Event::DiskFast(id) => {
                self.machine(id).slow_disk = false;
                Ok(())
            }
            Event::Operator => self.operator(),
            Event::EndOfFaults => self.end_of_faults(),
        }
    }

    // ---- members ----

    fn add_machine(&mut self, id: MemberId, origin: Origin) {
        let machine = Machine {
            disk: MemDisk::new(),
            origin,
            boot: 0,
            running: None,
            removed: false,
            slow_disk: false,
            paused_to_us: 0,
        };
        self.machines.insert(id, machine);
    }

    fn machine(&mut self, id: MemberId) -> &mut Machine {
        self.machines.get_mut(&id).expect("it was added")
    }

    fn start(&mut self, id: MemberId) -> Checked {
        self.line(format_args!("n{id} starts"));
        let machine = self.machine(id);
        machine.boot += 1;
        let (boot, disk, origin) = (machine.boot, machine.disk.clone(), machine.origin);
        let booted = match recovery::start(&disk, id, &self.known, origin) {
            Ok(booted) => booted,
            // Its database knows, it had no time to end by itself.
            Err(boot::Error::Removed { .. }) if self.may_be_removed(id) => {
                self.machine(id).removed = true;
                return Ok(());
            }
            Err(error) => {
                let what = format!("{id} does not start from its disk: {error}");
                return Err(Violation::new("restart", what));
            }
        };
        let mut context = self.context(id);
        let running = Running::start(id, boot, &disk, booted, &mut context)?;
        let actions = context.actions;
        self.machine(id).running = Some(running);
        self.carry_out(id, actions)
    }

    fn may_be_removed(&self, id: MemberId) -> bool {
        self.plan == Plan::Remove(id) || self.removed == Some(id)
    }

    fn context(&mut self, id: MemberId) -> Context<'_> {
        let slow = self
            .machines
            .get(&id)
            .is_some_and(|machine| machine.slow_disk);
        Context {
            now_us: self.now_us,
            rng: &mut self.rng,
            properties: &mut self.properties,
            trace: &mut self.trace,
            counters: &mut self.counters,
            actions: Vec::new(),
            breakage: self.options.breakage,
            sync_us: if slow { SLOW_SYNC_US } else { SYNC_US },
        }
    }

    /// Lets a running member do something; nothing when it is down.
    fn with(
        &mut self,
        id: MemberId,
        act: impl FnOnce(&mut Running, &mut Context<'_>) -> Checked,
    ) -> Checked {
        let Some(mut running) = self.machine(id).running.take() else {
            return Ok(());
        };
        let mut context = self.context(id);
        let done = act(&mut running, &mut context);
        let actions = context.actions;
        self.machine(id).running = Some(running);
        done?;
        self.carry_out(id, actions)
    }

    fn carry_out(&mut self, id: MemberId, actions: Vec<Action>) -> Checked {
        for action in actions {
            match action {
                Action::After(delay, local) => {
                    let boot = self.machine(id).boot;
                    self.after(delay, Event::Local(id, boot, local));
                }
                Action::Send(message) => self.send(message)?,
                Action::SendSnapshot(message, database) => {
                    let boot = self.machine(id).boot;
                    let delay = 10 * MILLISECOND_US + self.rng.below(300 * MILLISECOND_US);
                    self.after(delay, Event::DeliverSnapshot(message, database, boot));
                }
                Action::Reply(waiter, reply) => self.reply(waiter, &reply)?,
                Action::Stop(Stop::Removed { index }) => {
                    self.line(format_args!("n{id} was removed at {index}"));
                    let machine = self.machine(id);
                    machine.removed = true;
                    machine.running = None;
                    machine.boot += 1;
                }
                Action::Stop(stop) => return Err(Violation::new("node", stop.to_string())),
            }
        }
        Ok(())
    }

    fn local(&mut self, id: MemberId, boot: u64, local: Local) -> Checked {
        let now_us = self.now_us;
        let machine = self.machine(id);
        if machine.boot != boot {
            return Ok(()); // of an earlier run
        }
        if machine.paused_to_us > now_us {
            let delay = machine.paused_to_us - now_us;
            self.after(delay, Event::Local(id, boot, local));
            return Ok(());
        }
        self.with(id, |member, context| member.handle(local, context))
    }

    fn send(&mut self, message: Message) -> Checked {
        let (from, to) = (MemberId(message.from), MemberId(message.to));
        let delays = self.network.delays(&message, &mut self.rng);
        if delays.is_empty() {
            self.counters.lost += 1;
            if !self.network.passes(from, to) && self.rng.one_in(4) {
                self.with(from, |member, context| {
                    member.unreachable(to, context);
                    Ok(())
                })?;
            }
        }
        for delay in delays {
            self.after(delay, Event::Deliver(message.clone()));
        }
        Ok(())
    }

    fn deliver(&mut self, message: Message) -> Checked {
        let (from, to) = (MemberId(message.from), MemberId(message.to));
        if !self.network.passes(from, to) || !self.machines.contains_key(&to) {
            return Ok(());
        }
        self.line(format_args!(
            "n{from} → n{to} {} term {} index {} commit {} entries {} reject {}",
            message.msg_type,
            message.term,
            message.index,
            message.commit,
            message.entries.len(),
            message.reject
        ));
        self.with(to, |member, context| {
            member.receive(message, context);
            Ok(())
        })
    }

    fn deliver_snapshot(&mut self, message: Message, database: &[u8], boot: u64) -> Checked {
        let (from, to) = (MemberId(message.from), MemberId(message.to));
        let arrives = self.network.passes(from, to)
            && self.network.passes(to, from)
            && self.machines.get(&to).is_some_and(|m| m.running.is_some());
        self.line(format_args!("n{from} → n{to} snapshot, arrives {arrives}"));
        if arrives {
            self.with(to, |member, context| {
                member.receive_snapshot(message, database, context)
            })?;
        }
        let sent = SnapshotSent {
            peer: to,
            ok: arrives,
        };
        self.after(
            MILLISECOND_US,
            Event::Local(from, boot, Local::SnapshotSent(sent)),
        );
        Ok(())
    }

    // ---- clients ----

    fn client(&mut self, client: usize) -> Checked {
        if self.now_us > CLIENTS_TO_US {
            return Ok(());
        }
        let ids: Vec<MemberId> = self.machines.keys().copied().collect();
        let id = ids[self.rng.below(ids.len() as u64) as usize];
        let is_voter = |machine: &Machine| {
            let running = machine.running.as_ref()?;
            let membership = running.membership();
            Some(
                membership
                    .member(id)
                    .is_some_and(|member| !member.is_learner),
            )
        };
        if is_voter(&self.machines[&id]) != Some(true) {
            self.after(20 * MILLISECOND_US, Event::Client(client)); // refused: tries another
            return Ok(());
        }
        let ask = self.any_ask(client);
        let operation = self.properties.asks(ask.clone());
        let state = &mut self.clients[client];
        state.operation += 1;
        state.under_way = Some(operation);
        let waiter = Waiter {
            client,
            operation: state.operation,
        };
        self.line(format_args!("client {client} asks n{id} {ask:?}"));
        self.after(
            CLIENT_TIMEOUT_US,
            Event::ClientTimeout(client, waiter.operation),
        );
        self.with(id, |member, context| member.request(&ask, waiter, context))
    }

    fn any_ask(&mut self, client: usize) -> Ask {
        let key = Bytes::from(format!("key{}", self.rng.below(KEYS)));
        match self.rng.below(200) {
            0 => Ask::Compact {
                revision: self.properties.model.revision() - 20,
            },
            1..10 => Ask::Delete { key },
            10..100 => Ask::Get { key },
            _ => {
                self.values += 1;
                let size = if self.rng.one_in(20) { 2000 } else { 20 };
                let value = format!("{client}-{}{}", self.values, "x".repeat(size));
                Ask::Put {
                    key,
                    value: value.into(),
                }
            }
        }
    }

    fn reply(&mut self, waiter: Waiter, reply: &Reply) -> Checked {
        let state = &mut self.clients[waiter.client];
        if state.operation != waiter.operation {
            return Ok(()); // it gave up waiting
        }
        let Some(operation) = state.under_way.take() else {
            return Ok(());
        };
        match reply {
            Reply::Done(answer) => {
                self.properties.answers(&operation, answer)?;
                self.counters.answered += 1;
            }
            Reply::Ok => self.counters.answered += 1,
            Reply::Failed => self.counters.failed += 1,
        }
        let has_healed = self.now_us > FAULTS_TO_US + HEALING_US;
        if has_healed && !matches!(reply, Reply::Failed) {
            self.counters.answered_healed += 1;
        }
        self.line(format_args!("client {} gets {reply:?}", waiter.client));
        let delay = self.rng.below(THINK_US);
        self.after(delay, Event::Client(waiter.client));
        Ok(())
    }

    fn client_timeout(&mut self, client: usize, operation: u64) {
        let state = &mut self.clients[client];
        if state.operation == operation && state.under_way.take().is_some() {
            self.counters.unknown += 1;
            self.line(format_args!("client {client} waits no longer"));
            self.after(0, Event::Client(client));
        }
    }

    // ---- what goes wrong ----

    fn fault(&mut self) -> Checked {
        if self.now_us >= FAULTS_TO_US {
            return Ok(());
        }
        let delay = faults::gap_us(&mut self.rng);
        self.after(delay, Event::Fault);
        let fault = Fault::any(&mut self.rng);
        let duration = faults::duration_us(&mut self.rng);
        let ids: Vec<MemberId> = self.machines.keys().copied().collect();
        let victim = ids[self.rng.below(ids.len() as u64) as usize];
        *self.counters.faults.entry(fault.name()).or_default() += 1;
        self.line(format_args!(
            "fault: {} n{victim} {} ms",
            fault.name(),
            duration / MILLISECOND_US
        ));
        match fault {
            Fault::PowerCut => self.end(victim, true, duration),
            Fault::Kill => self.end(victim, false, duration),
            Fault::PowerCutOfAll => {
                for id in ids {
                    let duration = duration / 4 + self.rng.below(SECOND_US);
                    self.end(id, true, duration);
                }
            }
            Fault::Partition => {
                let side: Vec<MemberId> =
                    ids.iter().copied().filter(|_| self.rng.one_in(2)).collect();
                self.network.cut(&side, &ids, true);
                self.after(duration, Event::Heal);
            }
            Fault::OneWay => {
                let others: Vec<MemberId> = ids.into_iter().filter(|id| *id != victim).collect();
                if self.rng.one_in(2) {
                    self.network.cut(&[victim], &others, false);
                } else {
                    self.network.cut(&others, &[victim], false);
                }
                self.after(duration, Event::Heal);
            }
            Fault::LeaderCutOff => {
                let leader = self.leader().unwrap_or(victim);
                self.network.cut(&[leader], &ids, true);
                self.after(duration, Event::Heal);
            }
            Fault::Loss => {
                self.network.lose_one_in = 2 + self.rng.below(20);
                self.network.delay_one_in = 2 + self.rng.below(20);
                self.after(duration, Event::Heal);
            }
            Fault::SlowDisk => {
                self.machine(victim).slow_disk = true;
                self.after(duration, Event::DiskFast(victim));
            }
            Fault::Pause => {
                let until = self.now_us + duration;
                self.machine(victim).paused_to_us = until;
            }
            Fault::Transfer => {
                if let Some(leader) = self.leader() {
                    return self.with(leader, |member, context| {
                        member.transfer(victim, context);
                        Ok(())
                    });
                }
            }
        }
        Ok(())
    }

    /// Ends a member's process, with or without its power, and plans its return.
    fn end(&mut self, id: MemberId, power: bool, duration: u64) {
        let World { machines, rng, .. } = self;
        let machine = machines.get_mut(&id).expect("it was added");
        let Some(mut running) = machine.running.take() else {
            return;
        };
        if power {
            if rng.one_in(2) {
                running.tear(rng);
            }
            machine.disk.crash(rng);
        } else {
            machine.disk.kill();
        }
        drop(running);
        machine.boot += 1;
        machine.paused_to_us = 0;
        let boot = machine.boot;
        self.after(duration, Event::Restart(id, boot));
    }

    fn restart(&mut self, id: MemberId, boot: u64) -> Checked {
        let machine = self.machine(id);
        if machine.boot != boot || machine.removed || machine.running.is_some() {
            return Ok(());
        }
        self.start(id)
    }

    fn leader(&self) -> Option<MemberId> {
        let leads = |(_, machine): &(&MemberId, &Machine)| {
            machine.running.as_ref().is_some_and(Running::leads)
        };
        self.machines.iter().find(leads).map(|(id, _)| *id)
    }

    /// Adds a learner, promotes it, removes another member; each step is asked for until it
    /// is done.
    fn operator(&mut self) -> Checked {
        if self.plan == Plan::Nothing || self.now_us > FAULTS_TO_US {
            return Ok(());
        }
        self.after(SECOND_US, Event::Operator);
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        let known = self.machines[&leader]
            .running
            .as_ref()
            .map(Running::membership)
            .expect("a leader runs");
        let done = match self.plan {
            Plan::AddLearner(id) => known.member(id).is_some(),
            Plan::Promote(id) => known.member(id).is_some_and(|member| !member.is_learner),
            Plan::Remove(id) => known.is_removed(id),
            Plan::Nothing => false,
        };
        if done {
            self.counters.changes += 1;
            let plan = self.plan;
            self.line(format_args!("operator: {plan:?} is done"));
            self.plan = match plan {
                Plan::AddLearner(id) => {
                    self.add_machine(id, Origin::Join);
                    self.known = known.members().map(|m| (m.id, m.clone())).collect();
                    self.start(id)?;
                    Plan::Promote(id)
                }
                // Of two voters none leaves while there are faults: if the other loses the
                // news that this is committed, it has no majority any more, as in etcd.
                Plan::Promote(_) if self.members == 1 => Plan::Nothing,
                Plan::Promote(_) => Plan::Remove(MemberId(1 + self.rng.below(self.members))),
                Plan::Remove(id) => {
                    self.removed = Some(id);
                    Plan::Nothing
                }
                Plan::Nothing => Plan::Nothing,
            };
            return Ok(());
        }
        let change = match self.plan {
            Plan::AddLearner(id) => Change::AddLearner(Member {
                is_learner: true,
                ..member(id.0)
            }),
            Plan::Promote(id) => Change::Promote(id),
            Plan::Remove(id) => Change::Remove(id),
            Plan::Nothing => return Ok(()),
        };
        self.with(leader, |member, context| {
            member.change(&change, context);
            Ok(())
        })
    }

    fn end_of_faults(&mut self) -> Checked {
        self.line(format_args!("faults end"));
        self.network.heal();
        let ids: Vec<MemberId> = self.machines.keys().copied().collect();
        let removed = self.removed;
        for id in ids {
            let machine = self.machine(id);
            machine.slow_disk = false;
            machine.paused_to_us = 0;
            if removed == Some(id) {
                machine.removed = true;
                machine.running = None;
                machine.boot += 1;
            }
            if machine.running.is_none() && !machine.removed {
                self.start(id)?;
            }
        }
        Ok(())
    }

    /// The cluster serves, and all members hold the same.
    fn check_healed(&mut self) -> Checked {
        let not = |what: String| Err(Violation::new("healing", what));
        if self.counters.answered_healed < 100 {
            return not(format!(
                "{} requests were answered after healing",
                self.counters.answered_healed
            ));
        }
        let Some(leader) = self.leader() else {
            return not("nobody leads".to_owned());
        };
        let members = self.machines[&leader]
            .running
            .as_ref()
            .map(Running::membership);
        let members = members.expect("a leader runs");
        let expected = self.properties.model.live();
        let mut hash = None;
        for member in members.members() {
            let id = member.id;
            let Some(running) = self.machines.get(&id).and_then(|m| m.running.as_ref()) else {
                return not(format!("{id} does not run"));
            };
            let applier = running.applier();
            let applied = applier.applied().index;
            if applied != self.properties.committed() {
                return not(format!(
                    "{id} has applied {applied} of {}",
                    self.properties.committed()
                ));
            }
            let found = contents(applier.mvcc()).map_err(|error| {
                Violation::new("healing", format!("{id} cannot be read: {error}"))
            })?;
            if found != expected {
                return not(format!(
                    "{id} holds other keys than the committed log makes"
                ));
            }
            let revision = applier.mvcc().revision();
            if revision != self.properties.model.revision() {
                return not(format!("{id} is at revision {revision}"));
            }
            let (found, _) = applier
                .mvcc()
                .hash_by_revision(0)
                .map_err(|error| Violation::new("healing", error.to_string()))?;
            let known = hash.get_or_insert(found.hash);
            if *known != found.hash {
                return not(format!("{id} has hash {}, others have {known}", found.hash));
            }
        }
        Ok(())
    }

    fn after(&mut self, delay_us: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Queued {
            at_us: self.now_us + delay_us,
            number: self.queued,
            event,
        });
    }

    fn line(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.line(self.now_us, what);
    }
}

/// All keys of a store with their values.
fn contents(store: &mvcc::Mvcc) -> Result<BTreeMap<Bytes, Bytes>, mvcc::Error> {
    let everything = api::etcdserverpb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..api::etcdserverpb::RangeRequest::default()
    };
    let found = mvcc::range_request(store, &everything)?;
    Ok(found.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect())
}

fn member(id: u64) -> Member {
    Member {
        id: MemberId(id),
        name: format!("n{id}"),
        peer_urls: vec![format!("http://127.0.0.{id}:2380")],
        ..Member::default()
    }
}
