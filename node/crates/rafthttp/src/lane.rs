//! One outgoing stream of one peer: a bounded queue, and the HTTP body that empties it.
//!
//! ```text
//!  raft thread            peers' runtime
//!  push ──▶ [ queue ] ──▶ LaneBody::poll_frame ──▶ hyper ──▶ socket
//!                          encodes all that waits
//!                          into one buffer, one write
//! ```
//!
//! The body is pulled: hyper asks for more when its own buffer has room, so a slow socket
//! fills the queue here, where it is bounded, and nowhere else. No task stands between the
//! queue and the socket, and no task switch is paid for each message.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use raftpb::Message;
use tokio::time::{Instant, Sleep};

use crate::client::data_frame;
use crate::codec::{Encoder, StreamKind, link_heartbeat};
use crate::peer::Peer;

/// Bytes that one poll of the body encodes at most (one large message may pass it). hyper asks
/// again while its buffer of about 400 KiB has room.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// Room made for encoding at a time; the buffer is used again once hyper has written it.
const BUFFER_BYTES: usize = 64 << 10;

/// A queue, and the generation of the connection that empties it.
#[derive(Debug)]
pub(crate) struct Lane {
    messages_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
    /// Counted from the push until the message is encoded.
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Raised with each connection; a body of an older one ends itself.
    generation: u64,
    attached: bool,
    queue: VecDeque<Queued>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Queued {
    message: Message,
    bytes: usize,
}

/// What became of a message that was to be queued.
#[derive(Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a message is moved on at once; a box would cost an allocation"
)]
pub(crate) enum Pushed {
    /// It waits for the connection.
    Queued,
    /// There is no connection: take another way.
    Detached(Message),
    /// The queue is full: it was dropped.
    Full,
}

impl Lane {
    pub(crate) fn new(messages_max: usize, bytes_max: usize) -> Lane {
        Lane {
            messages_max,
            bytes_max,
            state: Mutex::new(State::default()),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    pub(crate) fn push(&self, message: Message) -> Pushed {
        let mut state = self.state.lock();
        if !state.attached {
            return Pushed::Detached(message);
        }
        let bytes = weight(&message);
        let waiting = self.bytes.load(Ordering::Relaxed);
        let full = self.messages.load(Ordering::Relaxed) >= self.messages_max
            || (waiting > 0 && waiting + bytes > self.bytes_max);
        if full {
            return Pushed::Full;
        }
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        state.queue.push_back(Queued { message, bytes });
        Pushed::Queued
    }

    /// Wakes the connection if something waits for it.
    pub(crate) fn wake(&self) {
        let waker = {
            let mut state = self.state.lock();
            if state.queue.is_empty() {
                return;
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.state.lock().attached
    }

    /// A new connection takes over. Gives its generation, and whether messages of the one
    /// before were lost.
    fn attach(&self) -> (u64, bool) {
        let mut state = self.state.lock();
        let lost = self.clear(&mut state);
        state.generation += 1;
        state.attached = true;
        let old = state.waker.take();
        let generation = state.generation;
        drop(state);
        if let Some(old) = old {
            old.wake();
        }
        (generation, lost)
    }

    /// Ends the connection of `generation`. Gives whether there was one, and whether messages
    /// were lost with it.
    fn detach(&self, generation: u64) -> (bool, bool) {
        let mut state = self.state.lock();
        if generation != state.generation {
            return (false, false);
        }
        let attached = std::mem::take(&mut state.attached);
        state.generation += 1;
        let lost = self.clear(&mut state);
        (attached, attached && lost)
    }

    /// The peer is stopped: its connection ends once it has what waits already. A member that is
    /// removed learns so from the last append, which says that its removal is committed.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.attached = false;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn clear(&self, state: &mut State) -> bool {
        let bytes: usize = state.queue.iter().map(|queued| queued.bytes).sum();
        self.forget(state.queue.len(), bytes);
        let lost = !state.queue.is_empty();
        state.queue.clear();
        lost
    }

    fn forget(&self, messages: usize, bytes: usize) {
        self.messages.fetch_sub(messages, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Swaps what waits into `batch`, which must be empty. If nothing waits, remembers whom to
    /// wake.
    fn refill(&self, generation: u64, batch: &mut VecDeque<Queued>, waker: &Waker) -> Refill {
        debug_assert!(batch.is_empty());
        let mut state = self.state.lock();
        if state.generation != generation {
            return Refill::Ended;
        }
        if state.queue.is_empty() {
            if !state.attached {
                return Refill::Ended;
            }
            match &mut state.waker {
                Some(known) => known.clone_from(waker),
                None => state.waker = Some(waker.clone()),
            }
            return Refill::Empty;
        }
        std::mem::swap(&mut state.queue, batch);
        Refill::Filled
    }
}

enum Refill {
    Filled,
    Empty,
    Ended,
}

/// What a message costs while it waits: its payload and a little for the rest.
pub(crate) fn weight(message: &Message) -> usize {
    const MESSAGE: usize = 64;
    const ENTRY: usize = 32;
    let entries: usize = message
        .entries
        .iter()
        .map(|entry| ENTRY + entry.data.len())
        .sum();
    let snapshot = message
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.data.len());
    MESSAGE + entries + snapshot + message.context.len()
}

/// The endless body of one stream's answer.
pub(crate) struct LaneBody {
    peer: Arc<Peer>,
    kind: StreamKind,
    generation: u64,
    encoder: Encoder,
    /// Taken from the queue and not encoded yet.
    batch: VecDeque<Queued>,
    buffer: BytesMut,
    interval: Duration,
    heartbeat: Pin<Box<Sleep>>,
}

impl LaneBody {
    /// Attaches a new connection to the peer's stream of this kind. An older one ends.
    pub(crate) fn attach(peer: Arc<Peer>, kind: StreamKind, interval: Duration) -> LaneBody {
        let (generation, lost) = peer.lane(kind).attach();
        if lost {
            peer.report_unreachable();
        }
        if peer.is_stopped() {
            // It was stopped since it was looked up, and its lanes are closed already.
            peer.lane(kind).close();
        } else {
            peer.activate();
        }
        tracing::info!(
            remote_peer_id = %peer.id,
            stream = kind.name(),
            "a peer opened its stream to us"
        );
        LaneBody {
            peer,
            kind,
            generation,
            encoder: Encoder::new(kind),
            batch: VecDeque::new(),
            buffer: BytesMut::new(),
            interval,
            heartbeat: Box::pin(tokio::time::sleep(interval)),
        }
    }

    /// Encodes what waits, up to a frame's worth.
    fn encode_batch(&mut self) -> Bytes {
        if self.buffer.capacity() < BUFFER_BYTES / 16 {
            self.buffer.reserve(BUFFER_BYTES);
        }
        let (mut messages, mut bytes) = (0, 0);
        while let Some(queued) = self.batch.pop_front() {
            self.encoder.encode(&queued.message, &mut self.buffer);
            messages += 1;
            bytes += queued.bytes;
            if self.buffer.len() >= FRAME_BYTES_MAX {
                break;
            }
        }
        self.peer.lane(self.kind).forget(messages, bytes);
        self.peer.stats.add_sent(self.buffer.len());
        self.buffer.split().freeze()
    }
}

impl Body for LaneBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = &mut *self;
        if body.batch.is_empty() {
            let lane = body.peer.lane(body.kind);
            match lane.refill(body.generation, &mut body.batch, cx.waker()) {
                Refill::Filled => {}
                Refill::Ended => return Poll::Ready(None),
                Refill::Empty => {
                    if body.heartbeat.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let next = Instant::now() + body.interval;
                    body.heartbeat.as_mut().reset(next);
                    body.encoder.encode(&link_heartbeat(), &mut body.buffer);
                    body.peer.stats.add_sent(body.buffer.len());
                    return data_frame(body.buffer.split().freeze());
                }
            }
        }
        data_frame(body.encode_batch())
    }
}

impl Drop for LaneBody {
    fn drop(&mut self) {
        let lane = self.peer.lane(self.kind);
        let bytes = self.batch.iter().map(|queued| queued.bytes).sum();
        lane.forget(self.batch.len(), bytes);
        let (ended, lost) = lane.detach(self.generation);
        if lost || !self.batch.is_empty() {
            self.peer.report_unreachable();
        }
        if ended {
            self.peer
                .deactivate(self.kind.name(), "write", "the connection ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftpb::Entry;

    fn append(bytes: usize) -> Message {
        Message {
            entries: vec![Entry {
                data: vec![0; bytes].into(),
                ..Entry::default()
            }],
            ..Message::default()
        }
    }

    #[test]
    fn without_a_connection_messages_go_another_way() {
        let lane = Lane::new(10, 1000);
        assert_eq!(lane.push(append(1)), Pushed::Detached(append(1)));
    }

    #[test]
    fn a_full_queue_drops_by_messages_and_by_bytes() {
        let lane = Lane::new(3, 1_000_000);
        lane.attach();
        let pushed: Vec<_> = (0..4).map(|_| lane.push(append(1))).collect();
        assert_eq!(pushed[2..], [Pushed::Queued, Pushed::Full]);

        let lane = Lane::new(100, 1000);
        lane.attach();
        assert_eq!(lane.push(append(5000)), Pushed::Queued, "one always fits");
        assert_eq!(lane.push(append(1)), Pushed::Full);
    }

    #[test]
    fn a_new_connection_starts_empty_and_ends_the_old_one() {
        let lane = Lane::new(2, 1000);
        let (first, lost) = lane.attach();
        assert!(!lost);
        lane.push(append(1));
        lane.push(append(1));
        let (second, lost) = lane.attach();
        assert!(lost, "two messages waited for the first connection");
        let mut batch = VecDeque::new();
        let waker = Waker::noop();
        assert!(matches!(
            lane.refill(first, &mut batch, waker),
            Refill::Ended
        ));
        assert!(matches!(
            lane.refill(second, &mut batch, waker),
            Refill::Empty
        ));
        assert_eq!(
            lane.push(append(1)),
            Pushed::Queued,
            "the counters started anew"
        );
        assert_eq!(lane.detach(first), (false, false));
        assert!(lane.is_attached());
        assert_eq!(lane.detach(second), (true, true));
        assert_eq!(lane.bytes.load(Ordering::Relaxed), 0);
    }
    #[test]
    fn a_closed_lane_takes_nothing_more_and_gives_what_it_has() {
        let lane = Lane::new(2, 1000);
        let (generation, _) = lane.attach();
        lane.push(append(1));
        lane.close();
        assert_eq!(lane.push(append(2)), Pushed::Detached(append(2)));
        let mut batch = VecDeque::new();
        let waker = Waker::noop();
        assert!(matches!(
            lane.refill(generation, &mut batch, waker),
            Refill::Filled
        ));
        assert_eq!(batch.pop_front().expect("the first").message, append(1));
        assert!(matches!(
            lane.refill(generation, &mut batch, waker),
            Refill::Ended
        ));
        assert_eq!(lane.detach(generation), (false, false));
    }
}
