//! The two framings of a stream, `message` and `msgapp v2`.
//!
//! ```text
//! message    ┌ size u64 ┐┌ Message ┐ …                 a link heartbeat is an empty MsgHeartbeat
//!
//! msgapp v2  ┌0┐                                       link heartbeat
//!            ┌1┐┌ count u64 ┐( size u64, Entry )*┌ commit u64 ┐
//!            ┌2┐┌ size u64 ┐┌ Message ┐
//! ```
//!
//! Numbers are big-endian. Form 1 of msgapp v2 leaves out term, previous index and previous
//! term: both ends remember them from the message before. That memory belongs to one
//! connection and starts at zero with it; kept across connections it would shift entries to
//! wrong places without a word (quirk 35). The decoder therefore also compares each entry's
//! own index with the remembered one.

use bytes::{BufMut, Bytes, BytesMut};
use raftpb::{Entry, MemberId, Message, MessageType};

use crate::inflow::Inflow;

/// What an entry costs in memory beside its bytes on the wire; counted in, so that a frame of
/// a million empty entries meets the limit too.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Room for entries that is made at once on a peer's word; more grows as entries arrive.
const ENTRIES_RESERVED_MAX: usize = 1024;

/// Why a stream cannot be read further. The connection ends, and with it the codec's memory.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A length beyond the limit.
    #[error("{what} of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What has that size.
        what: &'static str,
        /// As announced by the peer, or added up.
        size: u64,
        /// The limit.
        limit: usize,
    },
    /// A first byte of msgapp v2 that is not 0, 1 or 2.
    #[error("unknown type {0} in a msgapp v2 stream, expected 0, 1 or 2")]
    UnknownType(u8),
    /// Bytes that are not the protobuf message they should be.
    #[error("unreadable {what}: {reason}")]
    Unreadable {
        /// What should have been there.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// An entry is not where both ends must believe it to be.
    #[error("entry has index {found}, expected {expected}: the ends of the stream disagree")]
    Misplaced {
        /// The index written in the entry.
        found: u64,
        /// The index that follows from what was sent before.
        expected: u64,
    },
}

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// `/raft/stream/msgapp`: appends only, framing msgapp v2.
    MsgApp,
    /// `/raft/stream/message`: everything else, framing message.
    Message,
}

impl StreamKind {
    /// The path in front of the dialling member's id.
    pub fn path(self) -> &'static str {
        match self {
            StreamKind::MsgApp => "/raft/stream/msgapp",
            StreamKind::Message => "/raft/stream/message",
        }
    }

    /// etcd's name of the stream in its logs.
    pub fn name(self) -> &'static str {
        match self {
            StreamKind::MsgApp => "stream MsgApp v2",
            StreamKind::Message => "stream Message",
        }
    }
}

/// A message that raft never sends, since raft's have `from` and `to`: it keeps a link alive.
pub fn link_heartbeat() -> Message {
    Message {
        msg_type: MessageType::MsgHeartbeat as i32,
        ..Message::default()
    }
}

/// Whether this is [`link_heartbeat`].
pub fn is_link_heartbeat(message: &Message) -> bool {
    message.msg_type == MessageType::MsgHeartbeat as i32 && message.from == 0 && message.to == 0
}

/// Writes messages for one connection.
#[derive(Debug)]
pub enum Encoder {
    /// For [`StreamKind::Message`].
    Message,
    /// For [`StreamKind::MsgApp`]: what the other end remembers.
    MsgApp {
        /// Term of the last full message.
        term: u64,
        /// Index of the last entry sent.
        index: u64,
    },
}

impl Encoder {
    /// A new connection's encoder.
    pub fn new(kind: StreamKind) -> Encoder {
        match kind {
            StreamKind::Message => Encoder::Message,
            StreamKind::MsgApp => Encoder::MsgApp { term: 0, index: 0 },
        }
    }

    /// Appends the frame of `message` to `out`.
    pub fn encode(&mut self, message: &Message, out: &mut BytesMut) {
        match self {
            Encoder::Message => put_sized(message, out),
            Encoder::MsgApp { term, index } => {
                if is_link_heartbeat(message) {
                    out.put_u8(0);
                    return;
                }
                let continues = *index == message.index
                    && *term == message.log_term
                    && message.log_term == message.term;
                if continues {
                    out.put_u8(1);
                    out.put_u64(message.entries.len() as u64);
                    for entry in &message.entries {
                        put_sized(entry, out);
                    }
                    out.put_u64(message.commit);
                    *index += message.entries.len() as u64;
                } else {
                    out.put_u8(2);
                    put_sized(message, out);
                    *term = message.term;
                    *index = last_index(message);
                }
            }
        }
    }
}

/// Writes `size u64, message` to `out`; also the beginning of a snapshot POST.
pub(crate) fn put_sized(message: &impl prost::Message, out: &mut BytesMut) {
    let size = message.encoded_len();
    out.reserve(8 + size);
    out.put_u64(size as u64);
    message
        .encode(out)
        .expect("a BytesMut grows, so there is always room");
}

fn last_index(message: &Message) -> u64 {
    message
        .entries
        .last()
        .map_or(message.index, |entry| entry.index)
}

/// Reads messages from one connection. Feed bytes with [`Decoder::push`], then call
/// [`Decoder::next`] until it gives `None`. After an error the decoder must be dropped.
#[derive(Debug)]
pub struct Decoder {
    inflow: Inflow,
    limit: usize,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    Message { size: Option<usize> },
    MsgApp(Box<MsgAppState>),
}

/// What msgapp v2 remembers, and how far it is in the frame at hand.
#[derive(Debug)]
struct MsgAppState {
    local: MemberId,
    remote: MemberId,
    term: u64,
    index: u64,
    step: Step,
    /// The message that is being put together in form 1.
    building: Message,
    /// What `building` costs so far.
    building_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Type,
    Count,
    EntrySize { left: u64 },
    Entry { left: u64, size: usize },
    Commit,
    MessageSize,
    Message { size: usize },
}

impl Decoder {
    /// A new connection's decoder. `local` and `remote` become `to` and `from` of messages
    /// that come in the short form; `limit` is the largest message in bytes.
    pub fn new(kind: StreamKind, local: MemberId, remote: MemberId, limit: usize) -> Decoder {
        let framing = match kind {
            StreamKind::Message => Framing::Message { size: None },
            StreamKind::MsgApp => Framing::MsgApp(Box::new(MsgAppState {
                local,
                remote,
                term: 0,
                index: 0,
                step: Step::Type,
                building: Message::default(),
                building_bytes: 0,
            })),
        };
        Decoder {
            inflow: Inflow::default(),
            limit,
            framing,
        }
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: Bytes) {
        self.inflow.push(bytes);
    }

    /// What was pushed and belongs to no message that was read. After the message of a
    /// snapshot POST this is the beginning of the database.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        self.inflow.take_rest()
    }

    /// The next whole message, link heartbeats included.
    #[expect(
        clippy::should_implement_trait,
        reason = "None means not yet, not the end, so this is no iterator"
    )]
    pub fn next(&mut self) -> Result<Option<Message>, Error> {
        match &mut self.framing {
            Framing::Message { size } => next_sized(&mut self.inflow, size, self.limit),
            Framing::MsgApp(state) => state.next(&mut self.inflow, self.limit),
        }
    }
}

fn next_sized(
    inflow: &mut Inflow,
    expected: &mut Option<usize>,
    limit: usize,
) -> Result<Option<Message>, Error> {
    let size = match *expected {
        Some(size) => size,
        None => {
            let Some(announced) = inflow.take_u64() else {
                return Ok(None);
            };
            *expected.insert(within("message", announced, limit)?)
        }
    };
    let Some(bytes) = inflow.take(size) else {
        return Ok(None);
    };
    *expected = None;
    read::<Message>("message", bytes).map(Some)
}

impl MsgAppState {
    fn next(&mut self, inflow: &mut Inflow, limit: usize) -> Result<Option<Message>, Error> {
        loop {
            match self.step {
                Step::Type => {
                    let Some(kind) = inflow.take_u8() else {
                        return Ok(None);
                    };
                    match kind {
                        0 => return Ok(Some(link_heartbeat())),
                        1 => self.step = Step::Count,
                        2 => self.step = Step::MessageSize,
                        other => return Err(Error::UnknownType(other)),
                    }
                }
                Step::Count => {
                    let Some(count) = inflow.take_u64() else {
                        return Ok(None);
                    };
                    let least = count.saturating_mul(ENTRY_OVERHEAD_BYTES as u64);
                    within("append", least, limit)?;
                    self.building_bytes = 0;
                    self.building = Message {
                        msg_type: MessageType::MsgApp as i32,
                        from: self.remote.0,
                        to: self.local.0,
                        term: self.term,
                        log_term: self.term,
                        index: self.index,
                        entries: Vec::with_capacity((count as usize).min(ENTRIES_RESERVED_MAX)),
                        ..Message::default()
                    };
                    self.step = Step::after_entry(count);
                }
                Step::EntrySize { left } => {
                    let Some(size) = inflow.take_u64() else {
                        return Ok(None);
                    };
                    let total =
                        size.saturating_add((self.building_bytes + ENTRY_OVERHEAD_BYTES) as u64);
                    self.building_bytes = within("append", total, limit)?;
                    self.step = Step::Entry {
                        left,
                        size: size as usize,
                    };
                }
                Step::Entry { left, size } => {
                    let Some(bytes) = inflow.take(size) else {
                        return Ok(None);
                    };
                    let entry: Entry = read("entry", bytes)?;
                    let expected = self.index.wrapping_add(1);
                    if entry.index != expected {
                        return Err(Error::Misplaced {
                            found: entry.index,
                            expected,
                        });
                    }
                    self.index = expected;
                    self.building.entries.push(entry);
                    self.step = Step::after_entry(left - 1);
                }
                Step::Commit => {
                    let Some(commit) = inflow.take_u64() else {
                        return Ok(None);
                    };
                    self.step = Step::Type;
                    self.building.commit = commit;
                    return Ok(Some(std::mem::take(&mut self.building)));
                }
                Step::MessageSize => {
                    let Some(announced) = inflow.take_u64() else {
                        return Ok(None);
                    };
                    let size = within("message", announced, limit)?;
                    self.step = Step::Message { size };
                }
                Step::Message { size } => {
                    let Some(bytes) = inflow.take(size) else {
                        return Ok(None);
                    };
                    let message: Message = read("message", bytes)?;
                    self.step = Step::Type;
                    self.term = message.term;
                    self.index = last_index(&message);
                    return Ok(Some(message));
                }
            }
        }
    }
}

impl Step {
    fn after_entry(left: u64) -> Step {
        if left == 0 {
            Step::Commit
        } else {
            Step::EntrySize { left }
        }
    }
}

fn within(what: &'static str, size: u64, limit: usize) -> Result<usize, Error> {
    match usize::try_from(size) {
        Ok(small) if small <= limit => Ok(small),
        _ => Err(Error::TooLarge { what, size, limit }),
    }
}

fn read<T: prost::Message + Default>(what: &'static str, bytes: Bytes) -> Result<T, Error> {
    T::decode(bytes).map_err(|error| Error::Unreadable {
        what,
        reason: error.to_string(),
    })
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
