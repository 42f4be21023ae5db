//! How much of the space quota a request costs.
//!
//! The server asks before it proposes, the applier again when it applies: proposals that were
//! let in together may exceed the quota together. Deletes and reads cost nothing, so that a
//! full store can be emptied.

use api::etcdserverpb::{
    LeaseGrantRequest, PutRequest, RequestOp, TxnRequest, request_op::Request,
};

/// The quota unless the flag says otherwise: 2 GiB.
pub const BYTES_DEFAULT: u64 = 2 << 30;

/// The largest quota that etcd recommends, 8 GiB. More is allowed, with a warning: a larger
/// database takes longer to send to a new member.
pub const BYTES_RECOMMENDED_MAX: u64 = 8 << 30;

/// What a key costs beside its own bytes and its value's: an estimate for its metadata.
const KEY_OVERHEAD: u64 = 256;

/// What a lease costs: an estimate for its record.
const LEASE_OVERHEAD: u64 = 64;

/// The space quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    bytes: Option<u64>,
}

impl Quota {
    /// From the flag `--quota-backend-bytes`: 0 is the default, below 0 there is no quota.
    #[must_use]
    pub fn from_flag(bytes: i64) -> Quota {
        let bytes = match bytes {
            0 => Some(BYTES_DEFAULT),
            _ => u64::try_from(bytes).ok(),
        };
        Quota { bytes }
    }

    /// The quota in bytes, if there is one.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Whether a request of this cost fits into a database of `size` bytes (highest page
    /// times page size, free pages included).
    #[must_use]
    pub fn allows(&self, size: u64, cost: u64) -> bool {
        cost == 0
            || self
                .bytes
                .is_none_or(|quota| size.saturating_add(cost) < quota)
    }
}

/// The cost of a put.
#[must_use]
pub fn put_cost(request: &PutRequest) -> u64 {
    KEY_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
}

/// The cost of a transaction: that of its more expensive branch, nested ones included.
#[must_use]
pub fn txn_cost(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 { ops.iter().map(op_cost).sum() };
    branch(&request.success).max(branch(&request.failure))
}

/// The cost of granting a lease.
#[must_use]
pub fn lease_grant_cost(_: &LeaseGrantRequest) -> u64 {
    LEASE_OVERHEAD
}

fn op_cost(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Request::RequestPut(put)) => put_cost(put),
        Some(Request::RequestTxn(txn)) => txn_cost(txn),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> RequestOp {
        let put = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..PutRequest::default()
        };
        RequestOp {
            request: Some(Request::RequestPut(put)),
        }
    }

    #[test]
    fn costs_and_limits() {
        let nested = TxnRequest {
            success: vec![put("a", ""), put("b", "12")],
            ..TxnRequest::default()
        };
        let txn = TxnRequest {
            success: vec![put("abc", "")],
            failure: vec![
                RequestOp {
                    request: Some(Request::RequestTxn(nested)),
                },
                RequestOp { request: None },
            ],
            ..TxnRequest::default()
        };
        assert_eq!(txn_cost(&txn), 2 * 256 + 4);
        assert_eq!(lease_grant_cost(&LeaseGrantRequest::default()), 64);

        let quota = Quota::from_flag(1000);
        assert!(quota.allows(699, 300));
        assert!(!quota.allows(700, 300));
        assert!(quota.allows(u64::MAX, 0));
        assert!(!quota.allows(u64::MAX, 1));
        assert_eq!(Quota::from_flag(0).bytes(), Some(BYTES_DEFAULT));
        assert!(Quota::from_flag(-1).allows(u64::MAX, u64::MAX));
    }
}
