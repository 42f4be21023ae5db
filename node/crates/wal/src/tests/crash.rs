//! Power cuts. Whatever was synced is there, in order; what was saved and not synced is there up to
//! some record; nothing else is; and the log goes on.

use super::*;

/// What a log should hold after a given number of records.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    entries: Vec<Entry>,
    hard_state: HardState,
}

/// All states that a crash may leave: the first is the last one synced, each further one has one
/// record more.
struct Model {
    states: Vec<State>,
    /// Snapshots recorded, with whether they are synced.
    snapshots: Vec<SnapshotRecord>,
    snapshots_synced: usize,
}

impl Model {
    fn now(&self) -> &State {
        self.states.last().expect("there is always a state")
    }

    fn save(&mut self, hard_state: Option<&HardState>, entries: &[Entry]) {
        for entry in entries {
            let mut state = self.now().clone();
            state.entries.truncate(entry.index as usize - 1);
            state.entries.push(entry.clone());
            self.states.push(state);
        }
        if let Some(hard_state) = hard_state {
            self.states.push(State {
                hard_state: *hard_state,
                ..self.now().clone()
            });
        }
    }

    fn synced(&mut self) {
        self.states.drain(..self.states.len() - 1);
        self.snapshots_synced = self.snapshots.len();
    }

    /// Compares with what was recovered, and goes on from there.
    fn check(&mut self, recovered: &Recovered, after: u64) -> Result<(), String> {
        let matching = self.states.iter().rposition(|state| {
            state.hard_state == recovered.hard_state
                && state.entries.get(after as usize..).unwrap_or_default() == recovered.entries
        });
        let Some(position) = matching else {
            let last = self
                .states
                .first()
                .map(|state| (state.entries.len(), &state.hard_state));
            return Err(format!(
                "recovered {} entries after {after} and {:?}, synced were {last:?}, and {} records more",
                recovered.entries.len(),
                recovered.hard_state,
                self.states.len() - 1
            ));
        };
        self.states = vec![self.states[position].clone()];
        Ok(())
    }
}

/// One story of a member on a bad machine, decided by `seed`.
fn story(seed: u64, memory: &MemDisk) -> Result<(), String> {
    let mut rng = SeededRng::new(seed);
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let fault = |error: &Error| matches!(error, Error::Io { .. } | Error::Stopped { .. });
    let mut model = Model {
        states: vec![State::default()],
        snapshots: vec![SnapshotRecord::default()],
        snapshots_synced: 1,
    };
    let mut created = false;
    for _life in 0..6 {
        // Some lives end by an error of the disk in the middle of a call, some between calls.
        if rng.below(3) != 0 {
            let operation = [
                FaultOperation::Write,
                FaultOperation::Sync,
                FaultOperation::SyncDir,
                FaultOperation::Name,
            ][rng.below(4) as usize];
            memory.inject(Fault {
                operation,
                after: rng.below(12),
                forever: true,
                os_error: libc::EIO,
            });
        }
        let opened = if exists(&*disk, dir()).map_err(|error| error.to_string())? {
            (|| {
                let after = valid_snapshots(&*disk, dir())?.pop().unwrap_or_default();
                let (wal, recovered) = Wal::open(disk.clone(), dir(), after.clone())?;
                Ok((wal, recovered, after))
            })()
        } else if created {
            return Err("the log is gone".into());
        } else {
            Wal::create(disk.clone(), dir(), METADATA).map(|wal| {
                (
                    wal,
                    Recovered {
                        metadata: METADATA,
                        ..Default::default()
                    },
                    SnapshotRecord::default(),
                )
            })
        };
        match opened {
            Ok((mut wal, recovered, after)) => {
                created = true;
                model.check(&recovered, after.index)?;
                if !model.snapshots.contains(&after) {
                    return Err(format!("a snapshot that nobody saved: {after:?}"));
                }
                let commit = model.states[0].hard_state.commit;
                let synced = model.snapshots[..model.snapshots_synced]
                    .iter()
                    .rfind(|s| s.index <= commit);
                if synced.is_some_and(|synced| synced.index > after.index) {
                    return Err(format!(
                        "the snapshot {synced:?} was synced, {after:?} is the newest"
                    ));
                }
                model
                    .snapshots
                    .retain(|snapshot| snapshot.index <= after.index);
                model.snapshots_synced = model.snapshots.len();
                // What was read was made durable by opening.
                model.synced();
                match live(&mut wal, &mut model, &mut rng) {
                    Ok(()) => {}
                    Err(error) if fault(&error) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            Err(error) if fault(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
        memory.clear_faults();
        if rng.below(4) == 0 {
            // The process dies, the machine goes on: what was written is read again, from memory.
            memory.kill();
        } else {
            memory.crash(&mut rng);
        }
    }
    Ok(())
}

fn live(wal: &mut Wal, model: &mut Model, rng: &mut SeededRng) -> Result<(), Error> {
    wal.set_segment_bytes(1000 + rng.below(9000));
    for _step in 0..rng.below(25) {
        match rng.below(12) {
            0..=5 => {
                let now = model.now();
                let term = now.hard_state.term + u64::from(rng.one_in(5));
                let term = term.max(1);
                let last = now.entries.len() as u64;
                let committed = now.hard_state.commit;
                let first = if rng.one_in(6) {
                    committed + 1 + rng.below(last - committed + 1)
                } else {
                    last + 1
                };
                let count = rng.below(4);
                let entries: Vec<Entry> = (0..count)
                    .map(|n| {
                        let mut data = vec![0; rng.below(1500) as usize];
                        // Zeros among the data must not be taken for a torn write, nor hide one.
                        if rng.below(4) != 0 {
                            rng.fill(&mut data);
                        }
                        entry(first + n, term, &data)
                    })
                    .collect();
                let last = if count == 0 { last } else { first + count - 1 };
                let commit = committed + rng.below(last - committed + 1);
                let hard_state = state(term, 1, commit);
                let hard_state = if rng.one_in(3) {
                    None
                } else {
                    Some(hard_state)
                };
                // The call may fail half way: everything up to the end of it may survive.
                model.save(hard_state.as_ref(), &entries);
                wal.save(hard_state.as_ref(), &entries)?;
            }
            6..=8 => {
                wal.sync()?;
                model.synced();
            }
            9 => {
                let commit = model.now().hard_state.commit;
                if commit > model.snapshots.last().map_or(0, |snapshot| snapshot.index) {
                    let snapshot = SnapshotRecord {
                        index: commit,
                        term: model.now().entries[commit as usize - 1].term,
                        conf_state: Some(ConfState {
                            voters: vec![1],
                            ..Default::default()
                        }),
                    };
                    model.snapshots.push(snapshot.clone());
                    wal.save_snapshot(&snapshot)?;
                    model.synced();
                    wal.release_to(snapshot.index)?;
                }
            }
            10 => {
                wal.purge(2)?;
            }
            _ => wal.prepare_next()?,
        }
    }
    Ok(())
}

#[test]
fn what_was_synced_survives_every_power_cut() {
    for seed in seams::seeds(0..3000) {
        if let Err(error) = story(seed, &MemDisk::new()) {
            panic!("seed {seed}: {error}");
        }
    }
}

/// The twin of the test above: on a disk whose syncs do nothing the same stories must fail, or the
/// test above proves nothing.
#[test]
fn the_stories_fail_where_syncs_do_nothing() {
    let failed = |seed| {
        let memory = MemDisk::new();
        memory.set_syncs_lie(true);
        story(seed, &memory).is_err()
    };
    let failures = (0..60).filter(|&seed| failed(seed)).count();
    assert!(
        failures > 10,
        "only {failures} of 60 stories noticed that nothing was synced"
    );
}
