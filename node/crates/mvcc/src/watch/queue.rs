//! The queue between the hub and one stream.

use std::collections::VecDeque;
use std::fmt;

use parking_lot::Mutex;

use super::event::Response;

/// Responses that wait for a stream. A client that takes longer than these need is slow:
/// its watchers leave the applier's way and catch up from the store.
const RESPONSES_MAX: usize = 1024;
/// Bytes of events that wait for a stream. Streams share the events, but a slow one may
/// be the last to hold them. A single larger response is let into an empty queue.
const BYTES_MAX: usize = 2 << 20;

/// Called when a queue stops being empty. It must not call back into the hub.
pub type Wake = Box<dyn Fn() + Send + Sync>;

pub(super) struct Queue {
    state: Mutex<State>,
    wake: Wake,
}

#[derive(Debug, Default)]
struct State {
    responses: VecDeque<Response>,
    bytes: usize,
    /// Events in the responses.
    events: usize,
    /// Responses other than events: the client caused them, and they are always let in.
    controls: usize,
    /// Whether a response found no room: the stream's slow watchers wait for some.
    refused: bool,
}

/// What became of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It is the only one: the stream must be woken.
    First,
    Behind,
    Full,
}

impl Queue {
    pub(super) fn new(wake: Wake) -> Self {
        Self {
            state: Mutex::default(),
            wake,
        }
    }

    pub(super) fn wake(&self) {
        (self.wake)();
    }

    /// Adds events or progress, if there is room.
    pub(super) fn push(&self, response: Response) -> Pushed {
        let bytes = response.bytes();
        let mut state = self.state.lock();
        let full = state.responses.len() >= RESPONSES_MAX || state.bytes + bytes > BYTES_MAX;
        if full && !state.responses.is_empty() {
            state.refused = true;
            return Pushed::Full;
        }
        state.add(response, bytes)
    }

    /// Adds an answer to a client's request.
    pub(super) fn push_control(&self, response: Response) -> Pushed {
        let mut state = self.state.lock();
        state.controls += 1;
        state.add(response, 0)
    }

    /// The next response, and whether slow watchers should be told that there is room.
    pub(super) fn pop(&self) -> (Option<Response>, bool) {
        let mut state = self.state.lock();
        let response = state.responses.pop_front();
        match &response {
            Some(
                Response::Events { .. } | Response::Progress { .. } | Response::Compacted { .. },
            )
            | None => {}
            Some(_) => state.controls -= 1,
        }
        state.bytes -= response.as_ref().map_or(0, Response::bytes);
        state.events -= response.as_ref().map_or(0, Response::event_count);
        let room = state.responses.len() <= RESPONSES_MAX / 2 && state.bytes <= BYTES_MAX / 2;
        let told = state.refused && room;
        if told {
            state.refused = false;
        }
        (response, told)
    }

    pub(super) fn controls(&self) -> usize {
        self.state.lock().controls
    }

    /// Events that wait.
    pub(super) fn events(&self) -> usize {
        self.state.lock().events
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().responses.len()
    }
}

impl State {
    fn add(&mut self, response: Response, bytes: usize) -> Pushed {
        self.bytes += bytes;
        self.events += response.event_count();
        self.responses.push_back(response);
        if self.responses.len() == 1 {
            Pushed::First
        } else {
            Pushed::Behind
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
