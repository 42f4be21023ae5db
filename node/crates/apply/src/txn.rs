//! Transactions: compare, choose a branch, check it whole, then do it.
//!
//! All compares of all levels are decided before the first change, and so are all reasons
//! for which an operation could fail: once a change is made there is no way back. A range at
//! a compacted revision in a branch that also writes was such a reason once, and members
//! that had compacted at different times came to differ.

use api::etcdserverpb::{
    Compare, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};
use api::mvccpb::KeyValue;
use lease::Lessor;
use mvcc::{RangeOptions, ReadView, WriteTxn};

use crate::error::{Failure, mvcc_error};
use crate::kv;
use crate::outcome::header;

/// Whether a transaction only reads. A nested transaction counts as a write.
#[must_use]
pub fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether every operation is a range that may be answered from this member alone.
#[must_use]
pub fn is_serializable(request: &TxnRequest) -> bool {
    ops(request)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Answers a transaction that only reads (see [`is_read_only`]), from a view of one revision.
///
/// # Errors
/// A range at a compacted or future revision; a failure of the store, for which the node
/// must stop (see [`mvcc_error`]).
pub fn read_only_txn(
    view: &dyn ReadView,
    request: &TxnRequest,
) -> Result<TxnResponse, mvcc::Error> {
    let succeeded = compares_hold(view, &request.compare)?;
    let branch = branch(request, succeeded);
    let ranges = || {
        branch.iter().map(|op| match &op.request {
            Some(Request::RequestRange(range)) => Some(range),
            _ => None,
        })
    };
    ranges()
        .flatten()
        .try_for_each(|range| check_range(view, range))?;
    let responses = ranges()
        .map(|range| {
            let response = range
                .map(|range| mvcc::range_request(view, range))
                .transpose()?;
            Ok(ResponseOp {
                response: response.map(Response::ResponseRange),
            })
        })
        .collect::<Result<Vec<ResponseOp>, mvcc::Error>>()?;
    Ok(TxnResponse {
        header: header(view.revision()),
        succeeded,
        responses,
    })
}

/// Does a transaction. Without somebody who waits for the answer, its ranges are left out:
/// they change nothing.
pub(crate) fn txn(
    txn: &mut WriteTxn<'_>,
    lessor: &Lessor,
    request: &TxnRequest,
    answer_ranges: bool,
) -> Result<TxnResponse, Failure> {
    let mut path = Vec::new();
    decide(txn, request, &mut path)?;
    check(txn, lessor, request, &mut path.iter().copied())?;
    let executor = Executor {
        lessor,
        answer_ranges,
    };
    // Everything that a client can be blamed for was checked. What fails now leaves half a
    // transaction behind, and the node must stop.
    let mut response = executor
        .run(txn, request, &mut path.iter().copied())
        .map_err(Failure::Node)?;
    response.header = header(txn.revision());
    Ok(response)
}

/// For this transaction, and then for those nested in the branch it takes, one by one:
/// whether the compares hold.
fn decide(view: &dyn ReadView, request: &TxnRequest, path: &mut Vec<bool>) -> Result<(), Failure> {
    let succeeded = compares_hold(view, &request.compare)?;
    path.push(succeeded);
    for op in branch(request, succeeded) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            decide(view, nested, path)?;
        }
    }
    Ok(())
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded {
        &request.success
    } else {
        &request.failure
    }
}

/// The decision for the transaction whose turn it is.
fn next(path: &mut dyn Iterator<Item = bool>) -> bool {
    path.next()
        .expect("the same branches are walked in the same order as when they were decided")
}

fn check(
    view: &dyn ReadView,
    lessor: &Lessor,
    request: &TxnRequest,
    path: &mut dyn Iterator<Item = bool>,
) -> Result<(), Failure> {
    for op in branch(request, next(path)) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(view, range)?,
            Some(Request::RequestPut(put)) => kv::check_put(view, lessor, put)?,
            Some(Request::RequestTxn(nested)) => check(view, lessor, nested, path)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

/// Unlike a range of its own, one in a transaction takes a negative revision at its word: it
/// lies below the compaction, or below −1, where a store that was never compacted begins.
fn check_range(view: &dyn ReadView, range: &RangeRequest) -> Result<(), mvcc::Error> {
    if range.revision == 0 {
        Ok(())
    } else if range.revision > view.revision() {
        Err(mvcc::Error::Future)
    } else if range.revision < view.compact_revision() {
        Err(mvcc::Error::Compacted)
    } else {
        Ok(())
    }
}

struct Executor<'a> {
    lessor: &'a Lessor,
    answer_ranges: bool,
}

impl Executor<'_> {
    fn run(
        &self,
        txn: &mut WriteTxn<'_>,
        request: &TxnRequest,
        path: &mut dyn Iterator<Item = bool>,
    ) -> Result<TxnResponse, mvcc::Error> {
        let succeeded = next(path);
        let ops = branch(request, succeeded);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let response = match &op.request {
                Some(Request::RequestRange(range)) => {
                    Some(Response::ResponseRange(self.range(txn, range)?))
                }
                Some(Request::RequestPut(put)) => {
                    let prior = kv::prior(txn, put)?;
                    Some(Response::ResponsePut(kv::put(
                        txn,
                        self.lessor,
                        put,
                        prior,
                    )?))
                }
                Some(Request::RequestDeleteRange(delete)) => Some(Response::ResponseDeleteRange(
                    kv::delete_range(txn, self.lessor, delete)?,
                )),
                Some(Request::RequestTxn(nested)) => {
                    Some(Response::ResponseTxn(self.run(txn, nested, path)?))
                }
                None => None,
            };
            responses.push(ResponseOp { response });
        }
        // A nested answer has a header, and nothing in it.
        Ok(TxnResponse {
            header: Some(ResponseHeader::default()),
            succeeded,
            responses,
        })
    }

    fn range(
        &self,
        txn: &WriteTxn<'_>,
        range: &RangeRequest,
    ) -> Result<RangeResponse, mvcc::Error> {
        if self.answer_ranges {
            mvcc::range_request(txn, range)
        } else {
            Ok(RangeResponse {
                header: header(txn.revision()),
                ..RangeResponse::default()
            })
        }
    }
}

fn compares_hold(view: &dyn ReadView, compares: &[Compare]) -> Result<bool, mvcc::Error> {
    for compare in compares {
        if !compare_holds(view, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a compare holds for every key in its range. Without a key, the value of a missing
/// key equals nothing, not even emptiness; its other properties are zero.
fn compare_holds(view: &dyn ReadView, compare: &Compare) -> Result<bool, mvcc::Error> {
    let target = CompareTarget::try_from(compare.target);
    let options = RangeOptions {
        key: &compare.key,
        end: &compare.range_end,
        ..RangeOptions::default()
    };
    let found = match view.range(&options) {
        Ok(found) => found.kvs,
        // The range is one of now, which a client cannot get wrong.
        Err(error) if mvcc_error(&error).is_some() => return Ok(false),
        Err(error) => return Err(error),
    };
    if found.is_empty() {
        return Ok(target != Ok(CompareTarget::Value) && pair_holds(compare, &KeyValue::default()));
    }
    Ok(found.iter().all(|kv| pair_holds(compare, kv)))
}

/// A compare whose operand is of another kind than its target compares with zero, or
/// emptiness; one with an unknown target, zero with zero.
fn pair_holds(compare: &Compare, kv: &KeyValue) -> bool {
    use std::cmp::Ordering;
    let operand = compare.target_union.as_ref();
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => match operand {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value[..].cmp(&[]),
        },
        Ok(CompareTarget::Create) => kv.create_revision.cmp(&match operand {
            Some(TargetUnion::CreateRevision(revision)) => *revision,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => kv.mod_revision.cmp(&match operand {
            Some(TargetUnion::ModRevision(revision)) => *revision,
            _ => 0,
        }),
        Ok(CompareTarget::Version) => kv.version.cmp(&match operand {
            Some(TargetUnion::Version(version)) => *version,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => kv.lease.cmp(&match operand {
            Some(TargetUnion::Lease(lease)) => *lease,
            _ => 0,
        }),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order == Ordering::Equal,
        Ok(CompareResult::NotEqual) => order != Ordering::Equal,
        Ok(CompareResult::Greater) => order == Ordering::Greater,
        Ok(CompareResult::Less) => order == Ordering::Less,
        Err(_) => true,
    }
}
