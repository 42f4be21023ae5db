//! All watchers, under one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};

use api::etcdserverpb as pb;
use parking_lot::{Mutex, MutexGuard};
use pb::watch_create_request::FilterType;

use super::event::{Change, Event, Events, NO_WATCH_ID, Response};
use super::group::{Group, Watched, WatcherKey};
use super::queue::{Pushed, Queue, Wake};

/// Transactions kept while anybody catches up, so that who is nearly there can be brought
/// level at once, however fast writes come.
const RECENT_MAX: usize = 128;
/// Bytes of their keys and values kept.
const RECENT_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StreamKey(u64);

/// All watchers of a store.
pub struct WatchHub {
    hub: Mutex<Hub>,
    sync_waker: OnceLock<Wake>,
}

/// How many there are of what, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// Streams.
    pub streams: usize,
    /// Watchers.
    pub watchers: usize,
    /// Watchers that are behind.
    pub slow: usize,
    /// Events that wait for their streams.
    pub pending_events: usize,
}

#[derive(Debug)]
pub(super) struct Hub {
    /// The last revision whose events are in the queues of all synced watchers.
    pub(super) current: i64,
    /// Grows when the store is replaced: what was read from the old one is void.
    pub(super) epoch: u64,
    streams: HashMap<StreamKey, Stream>,
    pub(super) watchers: HashMap<WatcherKey, Watcher>,
    pub(super) synced: Group,
    /// Watchers that are behind, by the revision they need next.
    pub(super) behind: BTreeSet<(i64, WatcherKey)>,
    /// Those of them that wait for a sync step, the longest first. May hold watchers that
    /// wait no more.
    pub(super) turn: VecDeque<WatcherKey>,
    /// The last transactions, while anybody is behind.
    pub(super) recent: Recent,
    next_key: u64,
}

/// The last transactions, without a gap up to the current revision.
#[derive(Debug, Default)]
pub(super) struct Recent {
    transactions: VecDeque<(i64, Vec<Change>)>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, revision: i64, changes: &[Change]) {
        self.bytes += bytes_of(changes);
        self.transactions.push_back((revision, changes.to_vec()));
        while self.transactions.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some((_, dropped)) = self.transactions.pop_front() else {
                break;
            };
            self.bytes -= bytes_of(&dropped);
        }
    }

    /// The transactions from a revision on, if none of them was dropped.
    pub(super) fn since(&self, revision: i64) -> Option<impl Iterator<Item = &(i64, Vec<Change>)>> {
        let first = self.transactions.front()?.0;
        let skip = usize::try_from(revision - first).ok()?;
        Some(self.transactions.iter().skip(skip))
    }
}

fn bytes_of(changes: &[Change]) -> usize {
    changes
        .iter()
        .map(|change| change.kv.key.len() + change.kv.value.len())
        .sum()
}

#[derive(Debug)]
struct Stream {
    queue: Arc<Queue>,
    watchers: BTreeMap<i64, WatcherKey>,
    next_id: i64,
    blocked: Vec<WatcherKey>,
}

#[derive(Debug)]
pub(super) struct Watcher {
    stream: StreamKey,
    queue: Arc<Queue>,
    pub(super) id: i64,
    pub(super) watched: Watched,
    pub(super) filter: Filter,
    start: i64,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// Whether it had no event since the last tick.
    quiet: bool,
    pub(super) place: Place,
    /// Whether `turn` holds it.
    pub(super) in_turn: bool,
}

/// Which changes of what it watches a watcher wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    /// Changes below this revision are not for it: those before its start, and those it
    /// has.
    pub(super) min_revision: i64,
    no_put: bool,
    no_delete: bool,
}

impl Filter {
    pub(super) fn passes(&self, revision: i64, tombstone: bool) -> bool {
        let filtered = if tombstone {
            self.no_delete
        } else {
            self.no_put
        };
        revision >= self.min_revision && !filtered
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In `synced`: it has everything up to `current`.
    Synced,
    /// In `behind` and `turn`.
    Waiting,
    /// In `behind`; a sync step is reading for it.
    Syncing,
    /// In `behind`; its queue was full.
    Blocked,
    /// It was told that it cannot go on, and waits to be cancelled.
    Compacted,
}

/// Why a watcher is not made.
pub(super) enum Refusal<'a> {
    NegativeStart,
    EmptyRange,
    DuplicateId,
    Other(&'a str),
}

impl Refusal<'_> {
    /// Etcd's words.
    fn reason(&self) -> &str {
        match self {
            Refusal::NegativeStart => "etcdserver: mvcc: required revision has been compacted",
            Refusal::EmptyRange => "mvcc: watcher range is empty",
            Refusal::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream",
            Refusal::Other(reason) => reason,
        }
    }
}

/// The hub while a transaction ends. Who is woken is woken when it is dropped.
pub(crate) struct HubGuard<'a> {
    hub: Option<MutexGuard<'a, Hub>>,
    wakes: Wakes,
    owner: &'a WatchHub,
}

/// Those to wake once the lock is free.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    queues: Vec<Arc<Queue>>,
    pub(super) sync: bool,
}

impl WatchHub {
    pub(crate) fn new(current: i64) -> Self {
        let hub = Hub {
            current,
            epoch: 0,
            streams: HashMap::new(),
            watchers: HashMap::new(),
            synced: Group::default(),
            behind: BTreeSet::new(),
            turn: VecDeque::new(),
            recent: Recent::default(),
            next_key: 0,
        };
        Self {
            hub: Mutex::new(hub),
            sync_waker: OnceLock::new(),
        }
    }

    /// Sets the function that is called when there is work for [`crate::Mvcc::sync_watchers`].
    /// It may be set once; it may be called from any thread and must not call the hub.
    pub fn set_sync_waker(&self, wake: Wake) {
        // A second one would mean two drivers; the first stays.
        let _ = self.sync_waker.set(wake);
    }

    /// How many there are.
    pub fn counts(&self) -> WatchCounts {
        let hub = self.hub.lock();
        WatchCounts {
            streams: hub.streams.len(),
            watchers: hub.watchers.len(),
            slow: hub.behind.len(),
            pending_events: hub
                .streams
                .values()
                .map(|stream| stream.queue.events())
                .sum(),
        }
    }

    pub(crate) fn lock(&self) -> HubGuard<'_> {
        HubGuard {
            hub: Some(self.hub.lock()),
            wakes: Wakes::default(),
            owner: self,
        }
    }

    /// The store was replaced: everyone catches up from the new one.
    pub(crate) fn rebase(&self, current: i64) {
        self.with(|hub, wakes| {
            hub.epoch += 1;
            let has = std::mem::replace(&mut hub.current, current);
            hub.recent = Recent::default();
            hub.synced = Group::default();
            for (key, watcher) in &mut hub.watchers {
                if watcher.place == Place::Synced {
                    watcher.filter.min_revision = watcher.filter.min_revision.max(has + 1);
                    watcher.place = Place::Waiting;
                    hub.behind.insert((watcher.filter.min_revision, *key));
                }
                watcher.in_turn = watcher.place == Place::Waiting;
            }
            // The set and not the map gives the order: it is the same in every run.
            let waiting = hub
                .behind
                .iter()
                .filter(|(_, key)| hub.watchers[key].place == Place::Waiting);
            hub.turn = waiting.map(|(_, key)| *key).collect();
            wakes.sync = !hub.turn.is_empty();
        });
    }

    pub(super) fn add_stream(&self, queue: Arc<Queue>) -> StreamKey {
        let mut hub = self.hub.lock();
        let key = StreamKey(hub.new_key());
        hub.streams.insert(
            key,
            Stream {
                queue,
                watchers: BTreeMap::new(),
                next_id: 0,
                blocked: Vec::new(),
            },
        );
        key
    }

    pub(super) fn remove_stream(&self, key: StreamKey) {
        let mut hub = self.hub.lock();
        let Some(stream) = hub.streams.remove(&key) else {
            return;
        };
        for watcher in stream.watchers.into_values() {
            hub.remove_watcher(watcher);
        }
    }

    pub(super) fn create(&self, stream: StreamKey, request: &pb::WatchCreateRequest) {
        self.with(|hub, wakes| {
            let refusal = match (
                Watched::from_request(&request.key, &request.range_end),
                request.start_revision,
            ) {
                (_, ..0) => Refusal::NegativeStart,
                (None, _) => Refusal::EmptyRange,
                (Some(watched), _) => match hub.add_watcher(stream, request, watched, wakes) {
                    true => return,
                    false => Refusal::DuplicateId,
                },
            };
            hub.refuse(stream, &refusal, wakes);
        });
    }

    pub(super) fn refuse(&self, stream: StreamKey, refusal: Refusal<'_>) {
        self.with(|hub, wakes| hub.refuse(stream, &refusal, wakes));
    }

    pub(super) fn cancel(&self, stream: StreamKey, watch_id: i64) {
        self.with(|hub, wakes| {
            let Some(found) = hub
                .streams
                .get_mut(&stream)
                .and_then(|stream| stream.watchers.remove(&watch_id))
            else {
                return;
            };
            hub.remove_watcher(found);
            hub.answer(
                stream,
                Response::Canceled {
                    watch_id,
                    revision: hub.current,
                },
                wakes,
            );
        });
    }

    pub(super) fn request_progress(&self, stream: StreamKey) {
        self.with(|hub, wakes| {
            let Some(stream) = hub.streams.get(&stream) else {
                return;
            };
            let mut going = stream
                .watchers
                .values()
                .map(|key| &hub.watchers[key])
                .filter(|watcher| watcher.is_going());
            let Some(first) = going.next() else { return };
            if first.has_all_up_to(hub.current)
                && going.all(|watcher| watcher.has_all_up_to(hub.current))
            {
                wakes.push(
                    &stream.queue,
                    Response::Progress {
                        watch_id: NO_WATCH_ID,
                        revision: hub.current,
                    },
                );
            }
        });
    }

    pub(super) fn progress_tick(&self, stream: StreamKey) {
        self.with(|hub, wakes| {
            let Some(stream) = hub.streams.get(&stream) else {
                return;
            };
            for (watch_id, key) in &stream.watchers {
                let watcher = hub
                    .watchers
                    .get_mut(key)
                    .expect("a stream's watchers exist");
                if !watcher.progress_notify {
                    continue;
                }
                if watcher.quiet && watcher.has_all_up_to(hub.current) {
                    wakes.push(
                        &stream.queue,
                        Response::Progress {
                            watch_id: *watch_id,
                            revision: hub.current,
                        },
                    );
                }
                watcher.quiet = true;
            }
        });
    }

    /// There is room in a stream's queue again.
    pub(super) fn unblock(&self, stream: StreamKey) {
        self.with(|hub, wakes| {
            let Some(stream) = hub.streams.get_mut(&stream) else {
                return;
            };
            for key in std::mem::take(&mut stream.blocked) {
                hub.set_waiting(key, Place::Blocked);
            }
            wakes.sync |= !hub.turn.is_empty();
        });
    }

    /// Does something under the lock, and wakes after it.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Hub, &mut Wakes) -> T) -> T {
        let mut wakes = Wakes::default();
        let result = work(&mut self.hub.lock(), &mut wakes);
        self.wake(wakes);
        result
    }

    fn wake(&self, wakes: Wakes) {
        for queue in wakes.queues {
            queue.wake();
        }
        if wakes.sync
            && let Some(wake) = self.sync_waker.get()
        {
            wake();
        }
    }
}

impl HubGuard<'_> {
    /// Tells the watchers what a transaction changed.
    pub(crate) fn notify(&mut self, revision: i64, changes: &[Change]) {
        if let Some(hub) = &mut self.hub {
            hub.notify(revision, changes, &mut self.wakes);
        }
    }
}

impl Drop for HubGuard<'_> {
    fn drop(&mut self) {
        self.hub = None;
        self.owner.wake(std::mem::take(&mut self.wakes));
    }
}

impl Wakes {
    /// Pushes a response; `false` if the queue is full.
    pub(super) fn push(&mut self, queue: &Arc<Queue>, response: Response) -> bool {
        self.note(queue, queue.push(response))
    }

    fn note(&mut self, queue: &Arc<Queue>, pushed: Pushed) -> bool {
        if pushed == Pushed::First {
            self.queues.push(queue.clone());
        }
        pushed != Pushed::Full
    }
}

impl Hub {
    fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// `false` if the stream has a watcher of that id.
    fn add_watcher(
        &mut self,
        stream_key: StreamKey,
        request: &pb::WatchCreateRequest,
        watched: Watched,
        wakes: &mut Wakes,
    ) -> bool {
        let key = WatcherKey(self.new_key());
        let Some(stream) = self.streams.get_mut(&stream_key) else {
            return true;
        };
        let id = match request.watch_id {
            0 => {
                while stream.watchers.contains_key(&stream.next_id) {
                    stream.next_id += 1;
                }
                stream.next_id += 1;
                stream.next_id - 1
            }
            id if stream.watchers.contains_key(&id) => return false,
            id => id,
        };
        stream.watchers.insert(id, key);
        let start = request.start_revision;
        let is_filtered = |filter| request.filters().any(|asked| asked == filter);
        let synced = start == 0 || start > self.current;
        let watcher = Watcher {
            stream: stream_key,
            queue: stream.queue.clone(),
            id,
            watched,
            filter: Filter {
                min_revision: if start == 0 { self.current + 1 } else { start },
                no_put: is_filtered(FilterType::Noput),
                no_delete: is_filtered(FilterType::Nodelete),
            },
            start,
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            quiet: true,
            place: Place::Synced,
            in_turn: false,
        };
        self.answer(
            stream_key,
            Response::Created {
                watch_id: id,
                revision: self.current,
            },
            wakes,
        );
        if synced {
            self.synced.add(&watcher.watched, key);
            self.watchers.insert(key, watcher);
        } else {
            self.behind.insert((watcher.filter.min_revision, key));
            self.watchers.insert(key, watcher);
            self.queue_turn(key);
            wakes.sync = true;
        }
        true
    }

    fn remove_watcher(&mut self, key: WatcherKey) {
        let Some(watcher) = self.watchers.remove(&key) else {
            return;
        };
        match watcher.place {
            Place::Synced => self.synced.remove(&watcher.watched, key),
            Place::Compacted => {}
            Place::Waiting | Place::Syncing | Place::Blocked => {
                self.behind.remove(&(watcher.filter.min_revision, key));
                self.forget_recent();
            }
        }
    }

    fn refuse(&mut self, stream: StreamKey, refusal: &Refusal<'_>, wakes: &mut Wakes) {
        let response = Response::Refused {
            revision: self.current,
            reason: refusal.reason().to_owned(),
        };
        self.answer(stream, response, wakes);
    }

    fn answer(&self, stream: StreamKey, response: Response, wakes: &mut Wakes) {
        if let Some(stream) = self.streams.get(&stream) {
            wakes.note(&stream.queue, stream.queue.push_control(response));
        }
    }

    fn notify(&mut self, revision: i64, changes: &[Change], wakes: &mut Wakes) {
        self.current = revision;
        if !self.behind.is_empty() {
            self.recent.push(revision, changes);
        }
        if self.synced.len() == 0 {
            return;
        }
        let mut full = Vec::new();
        let (synced, watchers) = (&self.synced, &mut self.watchers);
        match changes {
            [change] => {
                let mut event = None;
                synced.visit(&change.kv.key, &mut |key| {
                    let watcher = watchers.get_mut(&key).expect("a group holds watchers");
                    if watcher.filter.passes(revision, change.tombstone) {
                        let event = event.get_or_insert_with(|| Event::new(change.clone()));
                        if !watcher.push(revision, Events::One([event.clone()]), wakes) {
                            full.push(key);
                        }
                    }
                });
            }
            _ => {
                let mut told = Vec::new();
                for (place, change) in changes.iter().enumerate() {
                    synced.visit(&change.kv.key, &mut |key| {
                        if watchers[&key].filter.passes(revision, change.tombstone) {
                            told.push((key, place));
                        }
                    });
                }
                told.sort_unstable();
                let mut events = vec![None; changes.len()];
                for own in told.chunk_by(|a, b| a.0 == b.0) {
                    let own_events = own.iter().map(|(_, place)| {
                        events[*place]
                            .get_or_insert_with(|| Event::new(changes[*place].clone()))
                            .clone()
                    });
                    let watcher = watchers.get_mut(&own[0].0).expect("a group holds watchers");
                    if !watcher.push(revision, own_events.collect(), wakes) {
                        full.push(own[0].0);
                    }
                }
            }
        }
        for key in full {
            let watcher = self.watchers.get_mut(&key).expect("it was told just now");
            watcher.filter.min_revision = revision;
            self.synced.remove(&watcher.watched, key);
            if self.behind.is_empty() {
                self.recent.push(revision, changes);
            }
            self.behind.insert((revision, key));
            self.set_blocked(key);
        }
    }

    /// Notes that a watcher's queue was full. It is in `behind`.
    pub(super) fn set_blocked(&mut self, key: WatcherKey) {
        let Some(watcher) = self.watchers.get_mut(&key) else {
            return;
        };
        watcher.place = Place::Blocked;
        if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            stream.blocked.push(key);
        }
    }

    /// Lets a watcher in `behind` wait for its turn, if it is still where it was.
    pub(super) fn set_waiting(&mut self, key: WatcherKey, from: Place) {
        if self
            .watchers
            .get(&key)
            .is_some_and(|watcher| watcher.place == from)
        {
            self.queue_turn(key);
        }
    }

    fn queue_turn(&mut self, key: WatcherKey) {
        let Some(watcher) = self.watchers.get_mut(&key) else {
            return;
        };
        watcher.place = Place::Waiting;
        if !std::mem::replace(&mut watcher.in_turn, true) {
            self.turn.push_back(key);
        }
    }

    /// A watcher that was behind has everything.
    pub(super) fn set_synced(&mut self, key: WatcherKey) {
        let Some(watcher) = self.watchers.get_mut(&key) else {
            return;
        };
        self.behind.remove(&(watcher.filter.min_revision, key));
        watcher.place = Place::Synced;
        self.synced.add(&watcher.watched, key);
        self.forget_recent();
    }

    /// A watcher that is behind needs what is compacted. `false` if its queue is full.
    pub(super) fn set_compacted(
        &mut self,
        key: WatcherKey,
        compact_revision: i64,
        wakes: &mut Wakes,
    ) -> bool {
        let Some(watcher) = self.watchers.get_mut(&key) else {
            return true;
        };
        if !wakes.push(
            &watcher.queue,
            Response::Compacted {
                watch_id: watcher.id,
                compact_revision,
            },
        ) {
            return false;
        }
        self.behind.remove(&(watcher.filter.min_revision, key));
        watcher.place = Place::Compacted;
        self.forget_recent();
        true
    }

    /// A watcher that is behind has come so far.
    pub(super) fn set_min_revision(&mut self, key: WatcherKey, min_revision: i64) {
        let Some(watcher) = self.watchers.get_mut(&key) else {
            return;
        };
        self.behind.remove(&(watcher.filter.min_revision, key));
        watcher.filter.min_revision = min_revision;
        self.behind.insert((min_revision, key));
    }

    fn forget_recent(&mut self) {
        if self.behind.is_empty() {
            self.recent = Recent::default();
        }
    }
}

impl Watcher {
    /// `false` if the queue is full.
    pub(super) fn push(&mut self, revision: i64, events: Events, wakes: &mut Wakes) -> bool {
        let (watch_id, prev_kv, fragment) = (self.id, self.prev_kv, self.fragment);
        let pushed = wakes.push(
            &self.queue,
            Response::Events {
                watch_id,
                revision,
                events,
                prev_kv,
                fragment,
            },
        );
        self.quiet &= !pushed;
        pushed
    }

    /// Whether it can still get events.
    fn is_going(&self) -> bool {
        self.place != Place::Compacted
    }

    /// Whether progress at `current` would be true: one that starts later has not seen it.
    fn has_all_up_to(&self, current: i64) -> bool {
        self.place == Place::Synced && self.start <= current
    }
}

impl FromIterator<Arc<Event>> for Events {
    fn from_iter<T: IntoIterator<Item = Arc<Event>>>(events: T) -> Self {
        let events: Vec<_> = events.into_iter().collect();
        match <[Arc<Event>; 1]>::try_from(events) {
            Ok(one) => Events::One(one),
            Err(events) => Events::Many(events),
        }
    }
}

impl fmt::Debug for WatchHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchHub")
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}
