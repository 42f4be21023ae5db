//! `RangeStream`: one range in chunks, all at the revision of the first.

use api::etcdserverpb as pb;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::request::range_with_total;
use crate::{Error, RangeOptions, ReadView};

/// Pairs in the first chunk: the client sees something soon, and we learn their size.
const FIRST_CHUNK_PAIRS: i64 = 10;

/// The state of a stream between two chunks. It holds no lock and no pages; if a
/// compaction passes its revision, the next chunk fails as compacted.
#[derive(Clone, Debug)]
pub struct RangeCursor {
    request: pb::RangeRequest,
    /// Pairs to send at most.
    total: i64,
    sent: i64,
    /// The current revision at the first chunk; the last chunk's header says it.
    revision: i64,
    done: bool,
}

impl RangeCursor {
    /// A stream for a request of default order without revision filters (the caller
    /// refuses others, see [`crate::is_default_order`], [`crate::has_revision_filters`]).
    pub fn new(request: pb::RangeRequest) -> Self {
        let total = if request.limit == 0 {
            i64::MAX
        } else {
            request.limit
        };
        let request = pb::RangeRequest {
            limit: total.min(FIRST_CHUNK_PAIRS),
            ..request
        };
        Self {
            request,
            total,
            sent: 0,
            revision: 0,
            done: false,
        }
    }

    /// The next chunk, of about `target_bytes`; `None` after the last, which alone carries
    /// header, more and count.
    pub fn next(
        &mut self,
        view: &dyn ReadView,
        target_bytes: usize,
    ) -> Result<Option<pb::RangeResponse>, Error> {
        if self.done {
            return Ok(None);
        }
        let response = range_with_total(view, &self.request, false)?;
        let revision = response.header.map_or(0, |header| header.revision);
        if self.request.count_only {
            self.done = true;
            let header = Some(pb::ResponseHeader {
                revision,
                ..Default::default()
            });
            return Ok(Some(pb::RangeResponse {
                header,
                count: response.count,
                ..Default::default()
            }));
        }
        if self.revision == 0 {
            self.revision = revision;
            if self.request.revision == 0 {
                self.request.revision = revision;
            }
        }
        self.sent += response.kvs.len() as i64;
        let size = response.kvs.iter().map(Message::encoded_len).sum();
        let next_key = response
            .kvs
            .last()
            .filter(|_| response.more)
            .map(|last| after(&last.key));
        let mut chunk = pb::RangeResponse {
            kvs: response.kvs,
            ..Default::default()
        };
        match next_key {
            Some(key) if self.sent != self.total => {
                self.request.key = key;
                let limit = next_limit(self.request.limit, size, target_bytes);
                self.request.limit = limit.min(self.total - self.sent);
            }
            next_key => {
                self.done = true;
                chunk.header = Some(pb::ResponseHeader {
                    revision: self.revision,
                    ..Default::default()
                });
                chunk.more = response.more;
                chunk.count = self.sent;
                if let Some(key) = next_key {
                    let rest = RangeOptions {
                        key: &key,
                        end: &self.request.range_end,
                        revision: self.request.revision,
                        count_only: true,
                        ..RangeOptions::default()
                    };
                    chunk.count += view.range(&rest)?.count;
                }
            }
        }
        Ok(Some(chunk))
    }
}

/// The least key above another.
fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Doubles or halves the limit outside half to twice the wanted size, so that sizes near
/// the border do not make it swing.
fn next_limit(limit: i64, bytes: usize, target_bytes: usize) -> i64 {
    if bytes < target_bytes / 2 {
        limit.saturating_mul(2)
    } else if bytes > target_bytes.saturating_mul(2) {
        (limit / 2).max(1)
    } else {
        limit
    }
}
