//! Puts, deletes and ranges inside a write transaction.

use api::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse};
use api::mvccpb::KeyValue;
use lease::{LeaseId, Lessor};
use mvcc::{RangeOptions, ReadView, WriteTxn};

use crate::error::Failure;
use crate::outcome::header;

/// Whether a put may be done: its lease exists; the key whose value or lease is to stay does.
pub(crate) fn check_put(
    view: &dyn ReadView,
    lessor: &Lessor,
    put: &PutRequest,
) -> Result<(), Failure> {
    check_lease(lessor, put)?;
    let prior = prior(view, put)?;
    check_prior(put, prior.as_ref())
}

pub(crate) fn check_lease(lessor: &Lessor, put: &PutRequest) -> Result<(), Failure> {
    if put.lease == 0 || lessor.contains(LeaseId(put.lease)) {
        Ok(())
    } else {
        Err(api::Error::LeaseNotFound.into())
    }
}

pub(crate) fn check_prior(put: &PutRequest, prior: Option<&KeyValue>) -> Result<(), Failure> {
    if (put.ignore_value || put.ignore_lease) && prior.is_none() {
        Err(api::Error::KeyNotFound.into())
    } else {
        Ok(())
    }
}

/// What a put replaces, read only if it matters.
pub(crate) fn prior(
    view: &dyn ReadView,
    put: &PutRequest,
) -> Result<Option<KeyValue>, mvcc::Error> {
    if put.ignore_value || put.ignore_lease || put.prev_kv {
        Ok(view.range(&RangeOptions::key(&put.key))?.kvs.pop())
    } else {
        Ok(None)
    }
}

/// Does a put that was checked.
pub(crate) fn put(
    txn: &mut WriteTxn<'_>,
    lessor: &Lessor,
    put: &PutRequest,
    prior: Option<KeyValue>,
) -> Result<PutResponse, mvcc::Error> {
    let kept = prior.as_ref();
    let value = kept
        .filter(|_| put.ignore_value)
        .map_or(&put.value, |kv| &kv.value)
        .clone();
    let lease = kept
        .filter(|_| put.ignore_lease)
        .map_or(put.lease, |kv| kv.lease);
    let done = txn.put(put.key.clone(), value, lease)?;
    if done.prior_lease != 0 && done.prior_lease != lease {
        lessor.detach(LeaseId(done.prior_lease), &put.key);
    }
    if lease != 0 {
        // It is there: it was checked, or the key has it. A key may keep the ID of a lease
        // that the database lost; it stays without, as after a start.
        let _ = lessor.attach(LeaseId(lease), &put.key);
    }
    Ok(PutResponse {
        header: header(done.revision),
        prev_kv: prior.filter(|_| put.prev_kv),
    })
}

/// Deletes a range.
pub(crate) fn delete_range(
    txn: &mut WriteTxn<'_>,
    lessor: &Lessor,
    delete: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, mvcc::Error> {
    let prev_kvs = if delete.prev_kv {
        let options = RangeOptions {
            key: &delete.key,
            end: &delete.range_end,
            ..RangeOptions::default()
        };
        txn.range(&options)?.kvs
    } else {
        Vec::new()
    };
    let deleted = txn.delete_range(&delete.key, &delete.range_end)?;
    for key in deleted.iter().filter(|key| key.lease != 0) {
        lessor.detach(LeaseId(key.lease), &key.key);
    }
    Ok(DeleteRangeResponse {
        header: header(txn.revision()),
        deleted: deleted.len() as i64,
        prev_kvs,
    })
}
