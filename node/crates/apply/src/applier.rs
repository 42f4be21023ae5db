//! The applier: takes entries in order and ends each of them.

use std::sync::Arc;
use std::time::Duration;

use backend::{Applied, Backend, Writer};
use lease::{LeaseId, Lessor};
use membership::{Cluster, MemberId, Membership, Version};
use mvcc::{Mvcc, MvccWriter};
use raftpb::{Entry, EntryType};

use crate::quota::Quota;
use crate::{Alarms, Fatal, Hints, Outcome, auth, conf};

/// What the applier must know besides the database.
#[derive(Debug, Clone)]
pub struct Config {
    /// The space quota, checked again at apply.
    pub quota: Quota,
    /// How leases behave.
    pub lease: lease::Config,
    /// Write checkpoints of leases to the database in clusters older than 3.6 too (etcd's
    /// feature gate `LeaseCheckpointPersist`).
    pub persist_checkpoints: bool,
    /// This program's version. In a cluster that is newer it must not go on.
    pub server_version: Version,
}

/// The one who changes the database. It belongs to one thread; what it shares with others it
/// gives out by [`mvcc`](Applier::mvcc), [`lessor`](Applier::lessor) and so on.
#[derive(Debug)]
pub struct Applier {
    pub(crate) config: Config,
    pub(crate) backend: Backend,
    pub(crate) writer: Writer,
    pub(crate) mvcc: MvccWriter,
    pub(crate) lessor: Arc<Lessor>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) alarms: Arc<Alarms>,
}

impl Applier {
    /// Opens all state rooms over a database. The cycle of start: the WAL says who this is,
    /// `cluster` is seeded or loaded ([`Membership::seed`], [`Membership::load`]), then this.
    ///
    /// # Errors
    /// Damage in the database, or users and roles in it (see the module `auth`).
    pub fn open(
        backend: Backend,
        mut writer: Writer,
        cluster: Arc<Cluster>,
        config: Config,
    ) -> Result<Applier, Fatal> {
        let view = writer.view();
        auth::check_unused(&view)?;
        let lessor = Lessor::load(&view, config.lease.clone())?;
        let alarms = Alarms::load(&view)?;
        drop(view);
        let (_, mvcc, restored) = Mvcc::open(backend.clone(), &mut writer).map_err(at_start)?;
        attach_all(&lessor, &restored);
        writer.end_local();
        Ok(Applier {
            config,
            backend,
            writer,
            mvcc,
            lessor: Arc::new(lessor),
            cluster,
            alarms: Arc::new(alarms),
        })
    }

    /// Takes over the database of a received snapshot, in place of the present one. Readers
    /// and watchers stay; leases are not kept by time until this member leads.
    ///
    /// # Errors
    /// Damage in the new database. The old one may be gone by then: stop.
    pub fn replace(&mut self, backend: Backend, mut writer: Writer) -> Result<(), Fatal> {
        let view = writer.view();
        auth::check_unused(&view)?;
        let old = self.cluster.get();
        let membership =
            Membership::load(&view, old.cluster_id(), old.local_id(), old.learners_max())?;
        self.lessor.reload(&view)?;
        self.alarms.reload(&view)?;
        drop(view);
        let restored = self
            .mvcc
            .replace(backend.clone(), &mut writer)
            .map_err(at_start)?;
        attach_all(&self.lessor, &restored);
        writer.end_local();
        self.cluster.replace(membership);
        self.backend = backend;
        self.writer = writer;
        Ok(())
    }

    /// Applies one committed entry. Entries come in the order of their index, without gaps;
    /// those that the database has already are passed over.
    ///
    /// `waits` says whether somebody waits under a request ID: answers that nobody reads are
    /// not worked out. `now` is for the ends of leases, on the leader.
    ///
    /// # Errors
    /// This node must stop, and nothing of the entry may be committed.
    pub fn apply_entry(
        &mut self,
        entry: &Entry,
        waits: &dyn Fn(u64) -> bool,
        now: Duration,
    ) -> Result<Outcome, Fatal> {
        let mut outcome = Outcome {
            index: entry.index,
            term: entry.term,
            ..Outcome::default()
        };
        let is_conf_change = match EntryType::try_from(entry.entry_type) {
            Ok(EntryType::EntryNormal) => false,
            Ok(EntryType::EntryConfChange) => true,
            // Joint consensus, and what raft does not have: etcd stops at both.
            Ok(EntryType::EntryConfChangeV2) | Err(_) => {
                return Err(Fatal::Unsupported {
                    index: entry.index,
                    what: "an entry type that etcd does not use",
                });
            }
        };
        if entry.index <= self.applied().index {
            outcome.replayed = true;
            if is_conf_change {
                let (request_id, result) = conf::replay(&self.cluster.get(), entry);
                outcome.request_id = request_id;
                outcome.conf_change = Some(Box::new(result));
            }
            return Ok(outcome);
        }
        if is_conf_change {
            let writer = &mut self.writer;
            let (request_id, result) = self
                .cluster
                .update(|membership| conf::apply(membership, entry, writer));
            outcome.request_id = request_id;
            outcome.conf_change = Some(Box::new(result));
        } else if entry.data.is_empty() {
            outcome.hints = Hints {
                first_in_term: true,
                ..Hints::default()
            };
        } else {
            self.apply_request(entry, waits, now, &mut outcome)?;
        }
        // Also for an entry that changed nothing: it is done, and is not done again.
        self.writer.end_entry(entry.index, entry.term);
        Ok(outcome)
    }

    /// The last entry that is applied.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.writer.applied()
    }

    /// The database, for readers.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The writer, for changes that no entry of the log makes (the storage version); end them
    /// with [`Writer::end_local`].
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// The store's writer together with the database's: for the steps of a compaction.
    pub fn mvcc_writer(&mut self) -> (&mut MvccWriter, &mut Writer) {
        (&mut self.mvcc, &mut self.writer)
    }

    /// The store.
    #[must_use]
    pub fn mvcc(&self) -> &Arc<Mvcc> {
        self.mvcc.mvcc()
    }

    /// The leases.
    #[must_use]
    pub fn lessor(&self) -> &Arc<Lessor> {
        &self.lessor
    }

    /// The members.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The alarms.
    #[must_use]
    pub fn alarms(&self) -> &Arc<Alarms> {
        &self.alarms
    }

    /// This member's ID.
    #[must_use]
    pub fn local_id(&self) -> MemberId {
        self.cluster.get().local_id()
    }
}

fn attach_all(lessor: &Lessor, restored: &mvcc::Restored) {
    for (key, lease) in &restored.leases {
        // A lease that is not there any more has lost its keys: they stay, as in etcd.
        let _ = lessor.attach(LeaseId(*lease), key);
    }
}

fn at_start(error: mvcc::Error) -> Fatal {
    Fatal::Mvcc { index: 0, error }
}
