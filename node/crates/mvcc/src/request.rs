//! `RangeRequest` to `RangeResponse`, with etcd's rules for order, filters and limit.
//!
//! - The limit holds after sorting and filtering: with an order other than the natural
//!   one, or a revision filter, everything is read first.
//! - `count` is the number of keys in the range, whatever the limit and the filters say.
//! - `header.revision` is the current revision, also for a read of an older one.
//! - `keys_only` answers from the index and so without `lease`, unless sorted by value.

use api::etcdserverpb as pb;
use api::mvccpb::KeyValue;
use bytes::Bytes;
use pb::range_request::{SortOrder, SortTarget};

use crate::{Error, RangeOptions, ReadView};

/// Answers a range request from a view. The caller has checked that key and sort options
/// are sound; unknown options count as the default ones.
pub fn range_request(
    view: &dyn ReadView,
    request: &pb::RangeRequest,
) -> Result<pb::RangeResponse, Error> {
    range_with_total(view, request, true)
}

/// As [`range_request`]; without `total_count` the count ends with the limit.
pub(crate) fn range_with_total(
    view: &dyn ReadView,
    request: &pb::RangeRequest,
    total_count: bool,
) -> Result<pb::RangeResponse, Error> {
    let sort = Sort::of(request);
    let limit = match request.limit {
        _ if !is_default_order(request) || has_revision_filters(request) => 0,
        // One more tells whether there is more.
        limit if limit > 0 => limit.saturating_add(1),
        limit => limit,
    };
    let result = view.range(&RangeOptions {
        key: &request.key,
        end: &request.range_end,
        revision: request.revision,
        limit,
        count_only: request.count_only,
        keys_only: request.keys_only && request.sort_target() != SortTarget::Value,
        total_count,
    })?;
    let mut kvs = result.kvs;
    if has_revision_filters(request) {
        kvs.retain(|kv| passes_revision_filters(request, kv));
    }
    if let Some(sort) = sort {
        sort.apply(&mut kvs);
    }
    let limit = usize::try_from(request.limit)
        .ok()
        .filter(|limit| *limit > 0);
    let more = limit.is_some_and(|limit| kvs.len() > limit);
    kvs.truncate(limit.unwrap_or(usize::MAX));
    if request.keys_only {
        for kv in &mut kvs {
            kv.value = Bytes::new();
        }
    }
    Ok(pb::RangeResponse {
        header: Some(pb::ResponseHeader {
            revision: result.revision,
            ..pb::ResponseHeader::default()
        }),
        kvs,
        more,
        count: result.count,
    })
}

/// Whether the request wants the order in which the index has the keys anyway. A range
/// stream serves no other.
pub fn is_default_order(request: &pb::RangeRequest) -> bool {
    let (order, target) = (request.sort_order(), request.sort_target());
    order == SortOrder::None || (target == SortTarget::Key && order == SortOrder::Ascend)
}

/// Whether the request filters by revisions. A range stream does not.
pub fn has_revision_filters(request: &pb::RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn passes_revision_filters(request: &pb::RangeRequest, kv: &KeyValue) -> bool {
    let within = |revision: i64, min: i64, max: i64| {
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    within(
        kv.mod_revision,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        kv.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}

struct Sort {
    target: SortTarget,
    descending: bool,
}

impl Sort {
    /// The order to bring about, if it is not the natural one.
    ///
    /// A target without an order sorts ascending. Etcd does not read everything for it: it
    /// takes the first `limit + 1` keys, sorts those, and cuts off the last.
    fn of(request: &pb::RangeRequest) -> Option<Self> {
        let (target, order) = (request.sort_target(), request.sort_order());
        let natural = target == SortTarget::Key && order != SortOrder::Descend;
        (!natural).then_some(Self {
            target,
            descending: order == SortOrder::Descend,
        })
    }

    /// Equal elements stay in key order, in either direction.
    fn apply(&self, kvs: &mut [KeyValue]) {
        match self.target {
            SortTarget::Key => kvs.reverse(),
            SortTarget::Version => self.by(kvs, |a, b| a.version.cmp(&b.version)),
            SortTarget::Create => self.by(kvs, |a, b| a.create_revision.cmp(&b.create_revision)),
            SortTarget::Mod => self.by(kvs, |a, b| a.mod_revision.cmp(&b.mod_revision)),
            SortTarget::Value => self.by(kvs, |a, b| a.value.cmp(&b.value)),
        }
    }

    fn by(&self, kvs: &mut [KeyValue], order: impl Fn(&KeyValue, &KeyValue) -> std::cmp::Ordering) {
        kvs.sort_by(|a, b| {
            if self.descending {
                order(b, a)
            } else {
                order(a, b)
            }
        });
    }
}
