//! The list of calls, in order.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use api::etcdserverpb as pb;
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::watch_request::RequestUnion;
use api::health::{HealthCheckRequest, HealthListResponse};
use bytes::Bytes;
use prost::Message;

use super::wire::{Answer, Step, Wire, framed, framed_bytes};

/// One call, the same for both.
pub struct Call {
    pub name: String,
    pub path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    steps: Vec<Step>,
    /// A difference that is meant; ours shows this text.
    pub differs: Option<&'static str>,
    /// etcd shows this text: the case is what it is called.
    pub expected: Option<&'static str>,
    masked: Option<fn(&Bytes) -> Bytes>,
    /// The leader may lower or raise the cluster's version in between.
    racy: bool,
    /// The stream must stay silent for so long.
    quiet: Duration,
}

/// Long enough for an answer that comes at all.
const QUIET: Duration = Duration::from_millis(40);

/// Where one side answers and the other does not.
const QUIET_LONG: Duration = Duration::from_millis(500);

impl Call {
    fn new(name: &str, path: &str, steps: Vec<Step>) -> Self {
        Self {
            name: format!("{name} {path}"),
            path: path.to_owned(),
            headers: Vec::new(),
            steps,
            differs: None,
            expected: None,
            masked: None,
            racy: false,
            quiet: QUIET,
        }
    }

    fn unary(name: &str, path: &str, message: &impl Message) -> Self {
        Self::new(name, path, vec![Step::Send(framed(message)), Step::Close])
    }

    fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name, value.as_ref().to_vec()));
        self
    }

    fn differs(mut self, ours: &'static str) -> Self {
        self.differs = Some(ours);
        self
    }

    fn expected(mut self, text: &'static str) -> Self {
        self.expected = Some(text);
        self
    }

    fn masked(mut self, mask: fn(&Bytes) -> Bytes) -> Self {
        self.masked = Some(mask);
        self
    }

    fn patient(mut self) -> Self {
        self.quiet = QUIET_LONG;
        self
    }

    pub async fn run(&self, wire: &Wire) -> Answer {
        let headers: Vec<(&str, &[u8])> = self
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_slice()))
            .collect();
        wire.call(&self.path, &headers, &self.steps, self.quiet)
            .await
    }

    pub fn mask(&self, answer: &mut Answer) {
        if self.racy {
            for header in &mut answer.headers {
                *header = header.replace(
                    "invalid downgrade target version",
                    "cluster has a downgrade job in progress",
                );
            }
            for (_, payload) in &mut answer.messages {
                let mut bytes = payload.to_vec();
                for at in 2..bytes.len() {
                    if bytes[at - 2..=at] == *b"3.6" {
                        bytes[at] = b'7';
                    }
                }
                *payload = bytes.into();
            }
        }
        if let Some(mask) = self.masked {
            for (_, payload) in &mut answer.messages {
                *payload = mask(payload);
            }
        }
    }
}

const RANGE: &str = "/etcdserverpb.KV/Range";
const STREAM: &str = "/etcdserverpb.KV/RangeStream";
const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
pub const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const UPDATE: &str = "/etcdserverpb.Cluster/MemberUpdate";
/// The member's ID: its peer URL and the cluster's token are given.
const OUR_ID: u64 = 0xa0c4_d06b_744a_ad41;
const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";
const HASH: &str = "/etcdserverpb.Maintenance/Hash";

/// All calls.
pub fn all() -> Vec<Call> {
    let mut calls = Vec::new();
    calls.extend(writes());
    calls.extend(ranges());
    calls.extend(range_streams());
    calls.extend(txns());
    calls.extend(limits());
    calls.extend(watches());
    calls.extend(fragments());
    calls.extend(compactions());
    calls.extend(watches_after_compaction());
    calls.extend(leases());
    calls.extend(cluster());
    calls.extend(maintenance());
    calls.extend(auth());
    calls.extend(transport());
    calls
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    }
}

fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        ..Default::default()
    }
}

fn delete(key: &str, end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        ..Default::default()
    }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &str, value: &str) -> pb::RequestOp {
    op(Request::RequestPut(put(key, value)))
}

fn range_op(key: &str, end: &str) -> pb::RequestOp {
    op(Request::RequestRange(range(key, end)))
}

fn delete_op(key: &str, end: &str) -> pb::RequestOp {
    op(Request::RequestDeleteRange(delete(key, end)))
}

fn txn_op(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
    op(Request::RequestTxn(pb::TxnRequest {
        compare: Vec::new(),
        success,
        failure,
    }))
}

fn compare(
    key: &str,
    result: CompareResult,
    target: CompareTarget,
    union: Option<TargetUnion>,
) -> pb::Compare {
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::new(),
        target_union: union,
    }
}

fn txn(
    compare: Vec<pb::Compare>,
    success: Vec<pb::RequestOp>,
    failure: Vec<pb::RequestOp>,
) -> pb::TxnRequest {
    pb::TxnRequest {
        compare,
        success,
        failure,
    }
}

fn writes() -> Vec<Call> {
    let mut calls = vec![
        Call::unary("empty key", PUT, &put("", "x")).expected("key is not provided"),
        Call::unary(
            "new",
            PUT,
            &pb::PutRequest {
                prev_kv: true,
                ..put("a", "1")
            },
        ),
        Call::unary(
            "again",
            PUT,
            &pb::PutRequest {
                prev_kv: true,
                ..put("a", "2")
            },
        ),
        Call::unary("no value", PUT, &put("empty", "")),
        Call::unary(
            "value kept",
            PUT,
            &pb::PutRequest {
                ignore_value: true,
                ..put("a", "")
            },
        ),
        Call::unary(
            "value kept, none",
            PUT,
            &pb::PutRequest {
                ignore_value: true,
                ..put("no", "")
            },
        )
        .expected("key not found"),
        Call::unary(
            "value kept, given",
            PUT,
            &pb::PutRequest {
                ignore_value: true,
                ..put("a", "x")
            },
        )
        .expected("value is provided"),
        Call::unary(
            "lease kept, none",
            PUT,
            &pb::PutRequest {
                ignore_lease: true,
                ..put("no", "x")
            },
        )
        .expected("key not found"),
        Call::unary(
            "lease kept, given",
            PUT,
            &pb::PutRequest {
                ignore_lease: true,
                lease: 5,
                ..put("a", "x")
            },
        )
        .expected("lease is provided"),
        Call::unary(
            "unknown lease",
            PUT,
            &pb::PutRequest {
                lease: 5,
                ..put("a", "x")
            },
        )
        .expected("requested lease not found"),
        Call::unary("empty key", DELETE, &delete("", "")).expected("key is not provided"),
        Call::unary("nothing", DELETE, &delete("none", "")),
        Call::unary("inverted", DELETE, &delete("b", "a")),
    ];
    for key in ["k1", "k2", "k3", "k4", "k5"] {
        calls.push(Call::unary(
            "fill",
            PUT,
            &put(key, &format!("value of {key}")),
        ));
    }
    calls.extend([
        Call::unary(
            "with prev",
            DELETE,
            &pb::DeleteRangeRequest {
                prev_kv: true,
                ..delete("k4", "k6")
            },
        ),
        Call::unary(
            "born again",
            PUT,
            &pb::PutRequest {
                prev_kv: true,
                ..put("k4", "b")
            },
        ),
        Call::unary("and again", PUT, &put("k4", "c")),
        Call::unary("another order of values", PUT, &put("k1", "zz")),
        Call::unary("zero byte key", PUT, &put("\0", "zero")),
    ]);
    calls
}

fn ranges() -> Vec<Call> {
    let all = || range("k", "l");
    let sorted = |target: SortTarget, order: SortOrder| pb::RangeRequest {
        sort_target: target as i32,
        sort_order: order as i32,
        ..all()
    };
    let mut calls = vec![
        Call::unary("empty key", RANGE, &range("", "")).expected("key is not provided"),
        Call::unary("one", RANGE, &range("a", "")),
        Call::unary("none", RANGE, &range("none", "")),
        Call::unary("inverted", RANGE, &range("l", "k")),
        Call::unary("same", RANGE, &range("k1", "k1")),
        Call::unary("from", RANGE, &range("k3", "\0")),
        Call::unary("everything", RANGE, &range("\0", "\0")),
        Call::unary("limit", RANGE, &pb::RangeRequest { limit: 2, ..all() }),
        Call::unary(
            "negative limit",
            RANGE,
            &pb::RangeRequest { limit: -1, ..all() },
        ),
        Call::unary(
            "count",
            RANGE,
            &pb::RangeRequest {
                count_only: true,
                ..all()
            },
        ),
        Call::unary(
            "count, limit",
            RANGE,
            &pb::RangeRequest {
                count_only: true,
                limit: 1,
                ..all()
            },
        ),
        Call::unary(
            "keys",
            RANGE,
            &pb::RangeRequest {
                keys_only: true,
                ..all()
            },
        ),
        Call::unary(
            "keys, count",
            RANGE,
            &pb::RangeRequest {
                keys_only: true,
                count_only: true,
                ..all()
            },
        ),
        Call::unary(
            "serializable",
            RANGE,
            &pb::RangeRequest {
                serializable: true,
                ..all()
            },
        ),
        Call::unary(
            "old",
            RANGE,
            &pb::RangeRequest {
                revision: 8,
                ..all()
            },
        ),
        Call::unary(
            "before",
            RANGE,
            &pb::RangeRequest {
                revision: 1,
                ..all()
            },
        ),
        Call::unary(
            "negative revision",
            RANGE,
            &pb::RangeRequest {
                revision: -3,
                ..all()
            },
        ),
        Call::unary(
            "future",
            RANGE,
            &pb::RangeRequest {
                revision: 999,
                ..all()
            },
        )
        .expected("required revision is a future revision"),
        Call::unary(
            "min mod",
            RANGE,
            &pb::RangeRequest {
                min_mod_revision: 7,
                ..all()
            },
        ),
        Call::unary(
            "max mod",
            RANGE,
            &pb::RangeRequest {
                max_mod_revision: 7,
                limit: 1,
                ..all()
            },
        ),
        Call::unary(
            "create revisions",
            RANGE,
            &pb::RangeRequest {
                min_create_revision: 6,
                max_create_revision: 9,
                ..all()
            },
        ),
        Call::unary(
            "unknown order",
            RANGE,
            &pb::RangeRequest {
                sort_order: 7,
                ..all()
            },
        )
        .expected("invalid sort option"),
        Call::unary(
            "unknown target",
            RANGE,
            &pb::RangeRequest {
                sort_target: -1,
                ..all()
            },
        )
        .expected("invalid sort option"),
    ];
    for target in [
        SortTarget::Key,
        SortTarget::Version,
        SortTarget::Create,
        SortTarget::Mod,
        SortTarget::Value,
    ] {
        for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
            let name = format!("by {target:?} {order:?}");
            calls.push(Call::unary(&name, RANGE, &sorted(target, order)));
            let name = format!("{name}, limit, keys");
            let request = pb::RangeRequest {
                limit: 2,
                keys_only: true,
                ..sorted(target, order)
            };
            calls.push(Call::unary(&name, RANGE, &request));
        }
    }
    calls
}

fn range_streams() -> Vec<Call> {
    let all = || range("s", "t");
    let mut calls = Vec::new();
    for index in 0..45 {
        let value = "v".repeat(10 + index * 40);
        calls.push(Call::unary(
            "fill",
            PUT,
            &put(&format!("s{index:02}"), &value),
        ));
    }
    let requests = [
        ("all", all()),
        ("empty key", range("", "")),
        ("one", range("s01", "")),
        ("none", range("t", "")),
        ("inverted", range("t", "s")),
        ("limit", pb::RangeRequest { limit: 15, ..all() }),
        ("limit of a chunk", pb::RangeRequest { limit: 10, ..all() }),
        (
            "limit below a chunk",
            pb::RangeRequest { limit: 3, ..all() },
        ),
        (
            "count",
            pb::RangeRequest {
                count_only: true,
                ..all()
            },
        ),
        (
            "keys",
            pb::RangeRequest {
                keys_only: true,
                ..all()
            },
        ),
        (
            "serializable",
            pb::RangeRequest {
                serializable: true,
                ..all()
            },
        ),
        (
            "old",
            pb::RangeRequest {
                revision: 30,
                ..all()
            },
        ),
        (
            "future",
            pb::RangeRequest {
                revision: 999,
                ..all()
            },
        ),
        (
            "ascending",
            pb::RangeRequest {
                sort_order: SortOrder::Ascend as i32,
                ..all()
            },
        ),
        (
            "descending",
            pb::RangeRequest {
                sort_order: SortOrder::Descend as i32,
                ..all()
            },
        ),
        (
            "by value",
            pb::RangeRequest {
                sort_target: SortTarget::Value as i32,
                ..all()
            },
        ),
        (
            "min mod",
            pb::RangeRequest {
                min_mod_revision: 5,
                ..all()
            },
        ),
        (
            "max create",
            pb::RangeRequest {
                max_create_revision: 5,
                ..all()
            },
        ),
        (
            "unknown order",
            pb::RangeRequest {
                sort_order: 9,
                ..all()
            },
        ),
    ];
    for (name, request) in requests {
        calls.push(Call::unary(name, STREAM, &request));
    }
    calls
}

fn txns() -> Vec<Call> {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use CompareTarget as Target;
    let value = |value: &str| Some(TargetUnion::Value(Bytes::copy_from_slice(value.as_bytes())));
    let mut calls = vec![
        Call::unary("empty", TXN, &txn(vec![], vec![], vec![])),
        Call::unary(
            "empty op",
            TXN,
            &txn(vec![], vec![pb::RequestOp { request: None }], vec![]),
        )
        .expected("key not found"),
        Call::unary(
            "empty compare key",
            TXN,
            &txn(
                vec![compare("", Equal, Target::Value, None)],
                vec![],
                vec![],
            ),
        )
        .expected("key is not provided"),
        Call::unary(
            "empty put key",
            TXN,
            &txn(vec![], vec![put_op("", "x")], vec![]),
        ),
        Call::unary(
            "empty range key",
            TXN,
            &txn(vec![], vec![], vec![range_op("", "")]),
        ),
        Call::unary(
            "empty delete key",
            TXN,
            &txn(vec![], vec![delete_op("", "")], vec![]),
        ),
        Call::unary(
            "put, put",
            TXN,
            &txn(vec![], vec![put_op("d", "1"), put_op("d", "2")], vec![]),
        )
        .expected("duplicate key"),
        Call::unary(
            "put, delete",
            TXN,
            &txn(vec![], vec![put_op("d", "1"), delete_op("a", "e")], vec![]),
        )
        .expected("duplicate key"),
        Call::unary(
            "delete, delete",
            TXN,
            &txn(
                vec![],
                vec![delete_op("d", ""), delete_op("a0", "e")],
                vec![],
            ),
        ),
        Call::unary(
            "put, nested put",
            TXN,
            &txn(
                vec![],
                vec![put_op("d", "1"), txn_op(vec![put_op("d", "2")], vec![])],
                vec![],
            ),
        )
        .expected("duplicate key"),
        Call::unary(
            "nested then and else",
            TXN,
            &txn(
                vec![],
                vec![txn_op(vec![put_op("d", "2")], vec![put_op("d", "3")])],
                vec![],
            ),
        ),
        Call::unary(
            "nested delete, put",
            TXN,
            &txn(
                vec![],
                vec![txn_op(vec![delete_op("d", "e")], vec![]), put_op("d", "3")],
                vec![],
            ),
        ),
        Call::unary(
            "two nested puts",
            TXN,
            &txn(
                vec![],
                vec![
                    txn_op(vec![put_op("d", "2")], vec![]),
                    txn_op(vec![], vec![put_op("d", "3")]),
                ],
                vec![],
            ),
        ),
        Call::unary(
            "sees itself",
            TXN,
            &txn(
                vec![],
                vec![
                    range_op("d", ""),
                    put_op("d", "4"),
                    range_op("d", ""),
                    delete_op("d", ""),
                    range_op("d", ""),
                    txn_op(vec![range_op("d", "")], vec![]),
                ],
                vec![],
            ),
        ),
        Call::unary(
            "reads",
            TXN,
            &txn(vec![], vec![range_op("k", "l"), range_op("a", "")], vec![]),
        ),
        Call::unary(
            "reads nested",
            TXN,
            &txn(
                vec![],
                vec![txn_op(vec![range_op("a", "")], vec![])],
                vec![],
            ),
        ),
        Call::unary(
            "deletes nothing",
            TXN,
            &txn(vec![], vec![delete_op("none", "")], vec![]),
        ),
        Call::unary(
            "unknown lease",
            TXN,
            &txn(
                vec![],
                vec![
                    put_op("before", "x"),
                    op(Request::RequestPut(pb::PutRequest {
                        lease: 77,
                        ..put("d", "x")
                    })),
                ],
                vec![],
            ),
        ),
        Call::unary("nothing was put", RANGE, &range("before", "")),
        Call::unary(
            "value kept, none",
            TXN,
            &txn(
                vec![],
                vec![op(Request::RequestPut(pb::PutRequest {
                    ignore_value: true,
                    ..put("no", "")
                }))],
                vec![],
            ),
        ),
        Call::unary(
            "future read",
            TXN,
            &txn(
                vec![],
                vec![op(Request::RequestRange(pb::RangeRequest {
                    revision: 999,
                    ..range("a", "")
                }))],
                vec![],
            ),
        ),
        Call::unary(
            "future read in a write",
            TXN,
            &txn(
                vec![],
                vec![
                    put_op("d", "x"),
                    op(Request::RequestRange(pb::RangeRequest {
                        revision: 999,
                        ..range("a", "")
                    })),
                ],
                vec![],
            ),
        ),
        Call::unary(
            "sorted read",
            TXN,
            &txn(
                vec![],
                vec![op(Request::RequestRange(pb::RangeRequest {
                    sort_order: 9,
                    ..range("a", "")
                }))],
                vec![],
            ),
        ),
    ];
    let compares = [
        (
            "value equal",
            compare("k2", Equal, Target::Value, value("value of k2")),
        ),
        (
            "value less",
            compare("k2", Less, Target::Value, value("value of k3")),
        ),
        (
            "value of none",
            compare("none", Equal, Target::Value, value("")),
        ),
        (
            "value not of none",
            compare("none", NotEqual, Target::Value, value("x")),
        ),
        (
            "value without union",
            compare("empty", Equal, Target::Value, None),
        ),
        (
            "version of none",
            compare(
                "none",
                Equal,
                Target::Version,
                Some(TargetUnion::Version(0)),
            ),
        ),
        (
            "version",
            compare("a", Greater, Target::Version, Some(TargetUnion::Version(1))),
        ),
        (
            "create",
            compare(
                "a",
                Equal,
                Target::Create,
                Some(TargetUnion::CreateRevision(2)),
            ),
        ),
        (
            "mod",
            compare("a", Less, Target::Mod, Some(TargetUnion::ModRevision(99))),
        ),
        (
            "lease",
            compare("a", Equal, Target::Lease, Some(TargetUnion::Lease(0))),
        ),
        (
            "lease of none",
            compare("none", NotEqual, Target::Lease, Some(TargetUnion::Lease(0))),
        ),
        (
            "other union",
            compare("a", Equal, Target::Mod, Some(TargetUnion::Version(3))),
        ),
        ("no union", compare("none", Equal, Target::Mod, None)),
        (
            "a range",
            pb::Compare {
                range_end: Bytes::from_static(b"l"),
                ..compare(
                    "k",
                    Greater,
                    Target::Create,
                    Some(TargetUnion::CreateRevision(0)),
                )
            },
        ),
        (
            "a range not whole",
            pb::Compare {
                range_end: Bytes::from_static(b"l"),
                ..compare("k", Equal, Target::Version, Some(TargetUnion::Version(1)))
            },
        ),
        (
            "an empty range",
            pb::Compare {
                range_end: Bytes::from_static(b"y"),
                ..compare("x", Equal, Target::Version, Some(TargetUnion::Version(0)))
            },
        ),
        (
            "an empty range's value",
            pb::Compare {
                range_end: Bytes::from_static(b"y"),
                ..compare("x", Equal, Target::Value, value(""))
            },
        ),
        (
            "unknown result",
            pb::Compare {
                result: 9,
                ..compare("a", Equal, Target::Version, None)
            },
        ),
        (
            "unknown target",
            pb::Compare {
                target: 9,
                ..compare("a", Equal, Target::Version, None)
            },
        ),
    ];
    for (name, compare) in compares {
        let request = txn(vec![compare], vec![range_op("a", "")], vec![]);
        calls.push(Call::unary(&format!("compare {name}"), TXN, &request));
    }
    calls
}

/// `--max-request-bytes=20000`, `--max-txn-ops=8`; a message may be 512 KiB larger than the former.
fn limits() -> Vec<Call> {
    let ops = |count: usize| {
        (0..count)
            .map(|i| put_op(&format!("o{i}"), "x"))
            .collect::<Vec<_>>()
    };
    let nested = |outer: usize, inner: usize| {
        let mut all = ops(outer - 1);
        all.push(txn_op(
            (0..inner).map(|i| range_op(&format!("i{i}"), "")).collect(),
            vec![],
        ));
        txn(vec![], all, vec![])
    };
    let compares = |count: usize| {
        (0..count)
            .map(|_| compare("a", CompareResult::Equal, CompareTarget::Version, None))
            .collect::<Vec<_>>()
    };
    vec![
        Call::unary("8 ops", TXN, &txn(vec![], ops(8), vec![])),
        Call::unary("9 ops", TXN, &txn(vec![], ops(9), vec![])).expected("too many operations"),
        Call::unary("9 ops in else", TXN, &txn(vec![], vec![], ops(9))),
        Call::unary("9 compares", TXN, &txn(compares(9), vec![], vec![])),
        Call::unary("4 ops, 4 inside", TXN, &nested(4, 4)),
        Call::unary("4 ops, 5 inside", TXN, &nested(4, 5)).expected("too many operations"),
        Call::unary(
            "9 duplicates",
            TXN,
            &txn(vec![], vec![put_op("d", ""); 9], vec![]),
        )
        .expected("too many operations"),
        Call::unary("just small enough", PUT, &put("big", &"x".repeat(19_900))),
        Call::unary("too large for raft", PUT, &put("big", &"x".repeat(20_001)))
            .expected("request is too large"),
        Call::unary("largest message", PUT, &put("big", &"x".repeat(544_200))),
        Call::unary("message too large", PUT, &put("big", &"x".repeat(544_300)))
            .expected("received message larger than max"),
        Call::unary("a wide answer", RANGE, &range("s", "t")),
    ]
}

fn watch(request: RequestUnion) -> Step {
    Step::Send(framed(&pb::WatchRequest {
        request_union: Some(request),
    }))
}

fn create(request: pb::WatchCreateRequest) -> Step {
    watch(RequestUnion::CreateRequest(request))
}

fn cancel(watch_id: i64) -> Step {
    watch(RequestUnion::CancelRequest(pb::WatchCancelRequest {
        watch_id,
    }))
}

fn progress() -> Step {
    watch(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
}

fn on(key: &str, end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        ..Default::default()
    }
}

fn since(revision: i64, key: &str, end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        start_revision: revision,
        ..on(key, end)
    }
}

fn watches() -> Vec<Call> {
    use Step::Expect;
    let stream = |name: &str, steps: Vec<Step>| Call::new(name, WATCH, steps);
    vec![
        stream("now", vec![create(on("k", "")), Expect(1)]),
        stream("history", vec![create(since(1, "k", "l")), Expect(2)]),
        stream(
            "history, later part",
            vec![create(since(10, "k", "l")), Expect(2)],
        ),
        stream(
            "history with prev",
            vec![
                create(pb::WatchCreateRequest {
                    prev_kv: true,
                    ..since(1, "k", "l")
                }),
                Expect(2),
            ],
        ),
        stream(
            "no puts",
            vec![
                create(pb::WatchCreateRequest {
                    filters: vec![0],
                    ..since(1, "k", "l")
                }),
                Expect(2),
            ],
        ),
        stream(
            "no deletes",
            vec![
                create(pb::WatchCreateRequest {
                    filters: vec![1],
                    ..since(1, "k", "l")
                }),
                Expect(2),
            ],
        ),
        stream(
            "neither",
            vec![
                create(pb::WatchCreateRequest {
                    filters: vec![0, 1],
                    ..since(1, "k", "l")
                }),
                Expect(1),
            ],
        ),
        stream(
            "unknown filter",
            vec![
                create(pb::WatchCreateRequest {
                    filters: vec![5],
                    ..since(1, "k2", "")
                }),
                Expect(2),
            ],
        ),
        stream("future", vec![create(since(500, "k", "l")), Expect(1)]),
        stream("negative", vec![create(since(-1, "k", "l")), Expect(1)]).expected("compacted"),
        stream("empty range", vec![create(on("l", "k")), Expect(1)]).expected("range is empty"),
        stream("same end", vec![create(on("k", "k")), Expect(1)]),
        stream("empty key", vec![create(since(1, "", "")), Expect(2)]),
        stream("everything", vec![create(since(40, "", "\0")), Expect(2)]),
        stream(
            "own id",
            vec![
                create(pb::WatchCreateRequest {
                    watch_id: 7,
                    ..on("k", "")
                }),
                Expect(1),
                create(on("k", "")),
                Expect(1),
                create(pb::WatchCreateRequest {
                    watch_id: 7,
                    ..on("k", "")
                }),
                Expect(1),
            ],
        )
        .expected("duplicate watch ID"),
        stream(
            "negative id",
            vec![
                create(pb::WatchCreateRequest {
                    watch_id: -5,
                    ..on("k", "")
                }),
                Expect(1),
            ],
        ),
        stream(
            "cancel",
            vec![
                create(on("k", "")),
                Expect(1),
                cancel(0),
                Expect(1),
                cancel(0),
                cancel(99),
                create(on("k", "")),
                Expect(1),
            ],
        ),
        stream("progress with none", vec![progress()]).patient(),
        stream(
            "progress",
            vec![create(on("k", "")), Expect(1), progress(), Expect(1)],
        ),
        stream(
            "progress after history",
            vec![
                create(since(1, "k1", "")),
                Expect(2),
                create(on("k", "")),
                Expect(1),
                progress(),
                Expect(1),
            ],
        ),
        stream(
            "progress with a future watch",
            vec![create(since(600, "k", "")), Expect(1), progress()],
        ),
        stream(
            "no request type",
            vec![
                Step::Send(framed(&pb::WatchRequest::default())),
                create(on("k", "")),
                Expect(1),
            ],
        ),
        stream("no leader asked", vec![create(on("k", "")), Expect(1)]).header("hasleader", "true"),
    ]
}

/// Answers of more than `--max-request-bytes` and 512 KiB are cut when asked for.
fn fragments() -> Vec<Call> {
    let mut calls: Vec<Call> = (0..30)
        .map(|index| Call::unary("fill", PUT, &put("fragment", &format!("{index:0>19000}"))))
        .collect();
    for (name, fragment, messages) in [("cut", true, 3), ("whole", false, 2)] {
        let request = pb::WatchCreateRequest {
            fragment,
            ..since(1, "fragment", "")
        };
        calls.push(Call::new(
            name,
            WATCH,
            vec![create(request), Step::Expect(messages)],
        ));
    }
    calls
}

fn compactions() -> Vec<Call> {
    let to = |revision: i64| pb::CompactionRequest {
        revision,
        physical: false,
    };
    vec![
        Call::unary("all buckets", HASH, &pb::HashRequest {}),
        Call::unary("before", HASH_KV, &pb::HashKvRequest { revision: 0 }),
        Call::unary("before, old", HASH_KV, &pb::HashKvRequest { revision: 12 }),
        Call::unary("future", HASH_KV, &pb::HashKvRequest { revision: 999 }).expected("future"),
        Call::unary("zero", COMPACT, &to(0)),
        Call::unary("negative", COMPACT, &to(-4)),
        Call::unary("future", COMPACT, &to(999)).expected("future revision"),
        Call::unary(
            "done",
            COMPACT,
            &pb::CompactionRequest {
                revision: 12,
                physical: true,
            },
        ),
        Call::unary("again", COMPACT, &to(12)).expected("has been compacted"),
        Call::unary("earlier", COMPACT, &to(4)).expected("has been compacted"),
        Call::unary(
            "at it",
            RANGE,
            &pb::RangeRequest {
                revision: 12,
                ..range("k", "l")
            },
        ),
        Call::unary(
            "below it",
            RANGE,
            &pb::RangeRequest {
                revision: 11,
                ..range("k", "l")
            },
        )
        .expected("has been compacted"),
        Call::unary(
            "below it",
            STREAM,
            &pb::RangeRequest {
                revision: 11,
                ..range("k", "l")
            },
        ),
        Call::unary(
            "read below it",
            TXN,
            &txn(
                vec![],
                vec![op(Request::RequestRange(pb::RangeRequest {
                    revision: 5,
                    ..range("a", "")
                }))],
                vec![],
            ),
        ),
        Call::unary(
            "write and read below it",
            TXN,
            &txn(
                vec![],
                vec![
                    put_op("d", "x"),
                    op(Request::RequestRange(pb::RangeRequest {
                        revision: 5,
                        ..range("a", "")
                    })),
                ],
                vec![],
            ),
        ),
        Call::unary("nothing was put", RANGE, &range("d", "")),
        Call::unary("after", HASH_KV, &pb::HashKvRequest { revision: 0 }),
        Call::unary("at it", HASH_KV, &pb::HashKvRequest { revision: 12 }),
        Call::unary("above it", HASH_KV, &pb::HashKvRequest { revision: 20 }),
        Call::unary("below it", HASH_KV, &pb::HashKvRequest { revision: 11 }).expected("compacted"),
        Call::unary("negative", HASH_KV, &pb::HashKvRequest { revision: -1 }),
        Call::unary("all buckets, compacted", HASH, &pb::HashRequest {}),
    ]
}

fn watches_after_compaction() -> Vec<Call> {
    use Step::Expect;
    vec![
        Call::new(
            "compacted",
            WATCH,
            vec![create(since(5, "k", "l")), Expect(2)],
        ),
        Call::new(
            "at the compaction",
            WATCH,
            vec![create(since(12, "k", "l")), Expect(2)],
        ),
        Call::new(
            "compacted beside another",
            WATCH,
            vec![
                create(on("k", "")),
                Expect(1),
                create(since(2, "k", "")),
                Expect(2),
            ],
        ),
        // etcd keeps the cancelled watch among those that must be in step, and never answers.
        Call::new(
            "progress beside a compacted one",
            WATCH,
            vec![
                create(on("k", "")),
                Expect(1),
                create(since(2, "k", "")),
                Expect(2),
                progress(),
            ],
        )
        .patient()
        .differs(r"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ]
}

fn leases() -> Vec<Call> {
    let grant = |id: i64, ttl: i64| pb::LeaseGrantRequest { id, ttl };
    let keep = |id: i64| Step::Send(framed(&pb::LeaseKeepAliveRequest { id }));
    let ttl = |id: i64, keys: bool| pb::LeaseTimeToLiveRequest { id, keys };
    vec![
        Call::unary("new", GRANT, &grant(100, 1000)),
        Call::unary("exists", GRANT, &grant(100, 1000)).expected("lease already exists"),
        Call::unary("no ttl", GRANT, &grant(101, 0)),
        Call::unary("negative ttl", GRANT, &grant(102, -7)),
        Call::unary("too long", GRANT, &grant(103, 9_000_000_001)).expected("too large lease TTL"),
        Call::unary("longest", GRANT, &grant(104, 9_000_000_000)),
        Call::unary("negative id", GRANT, &grant(-5, 1000)),
        Call::unary("own id", GRANT, &grant(0, 1000)).masked(|payload| {
            let mut answer = pb::LeaseGrantResponse::decode(payload.clone()).expect("an answer");
            assert!(answer.id > 0);
            answer.id = 1;
            answer.encode_to_vec().into()
        }),
        Call::unary(
            "attached",
            PUT,
            &pb::PutRequest {
                lease: 100,
                ..put("l2", "x")
            },
        ),
        Call::unary(
            "attached",
            PUT,
            &pb::PutRequest {
                lease: 100,
                ..put("l1", "x")
            },
        ),
        Call::unary("with the lease", RANGE, &range("l", "m")),
        Call::unary(
            "keys",
            RANGE,
            &pb::RangeRequest {
                keys_only: true,
                ..range("l", "m")
            },
        ),
        Call::unary("unknown", TIME_TO_LIVE, &ttl(999, true)),
        Call::unary("none", TIME_TO_LIVE, &ttl(0, false)),
        Call::unary("known", TIME_TO_LIVE, &ttl(100, false)),
        Call::unary(
            "one key",
            PUT,
            &pb::PutRequest {
                lease: 104,
                ..put("l3", "x")
            },
        ),
        Call::unary("keys", TIME_TO_LIVE, &ttl(104, true)).masked(|payload| {
            // Its remaining time may be a second less on one side.
            let answer = pb::LeaseTimeToLiveResponse::decode(payload.clone()).expect("an answer");
            pb::LeaseTimeToLiveResponse { ttl: 0, ..answer }
                .encode_to_vec()
                .into()
        }),
        Call::new(
            "keep-alive",
            KEEP_ALIVE,
            vec![
                keep(100),
                Step::Expect(1),
                keep(999),
                Step::Expect(1),
                keep(0),
                keep(104),
                Step::Expect(2),
                Step::Close,
            ],
        ),
        Call::unary("unknown", REVOKE, &pb::LeaseRevokeRequest { id: 999 })
            .expected("requested lease not found"),
        Call::unary("none", REVOKE, &pb::LeaseRevokeRequest { id: 0 }),
        Call::unary("with keys", REVOKE, &pb::LeaseRevokeRequest { id: 100 }),
        Call::unary("gone", RANGE, &range("l", "m")),
        Call::new(
            "the revoked keys",
            WATCH,
            vec![create(since(20, "l", "m")), Step::Expect(2)],
        )
        .expected("l1"),
        Call::unary("all", LEASES, &pb::LeaseLeasesRequest {}).masked(|payload| {
            let mut answer = pb::LeaseLeasesResponse::decode(payload.clone()).expect("an answer");
            // The server's own ID, and the two of the shortest time, which may be over.
            answer
                .leases
                .retain(|lease| [-5, 100, 104].contains(&lease.id));
            answer.leases.sort_by_key(|lease| lease.id);
            answer.header = None;
            answer.encode_to_vec().into()
        }),
    ]
}

fn cluster() -> Vec<Call> {
    let member = |what: &str| format!("/etcdserverpb.Cluster/Member{what}");
    let urls = |urls: &[&str]| urls.iter().map(|&url| url.to_owned()).collect::<Vec<_>>();
    let add = |peers: &[&str], learner: bool| pb::MemberAddRequest {
        peer_urls: urls(peers),
        is_learner: learner,
    };
    let mut calls = Vec::new();
    for (name, peers) in [
        ("no URL", &[][..]),
        ("no scheme", &["127.0.0.1:9"]),
        ("a path", &["http://127.0.0.1:9/path"]),
        ("no port", &["http://127.0.0.1"]),
        ("another scheme", &["ftp://127.0.0.1:9"]),
        ("nothing", &[""]),
        ("there already", &["http://127.0.0.1:1"]),
    ] {
        calls.push(Call::unary(name, &member("Add"), &add(peers, false)));
    }
    calls.extend([
        Call::unary(
            "all",
            &member("List"),
            &pb::MemberListRequest { linearizable: true },
        ),
        Call::unary(
            "as we know",
            &member("List"),
            &pb::MemberListRequest {
                linearizable: false,
            },
        ),
        Call::unary(
            "unknown",
            &member("Remove"),
            &pb::MemberRemoveRequest { id: 1 },
        )
        .expected("member not found"),
        Call::unary(
            "unknown",
            &member("Promote"),
            &pb::MemberPromoteRequest { id: 1 },
        )
        .expected("member not found"),
        Call::unary(
            "unknown",
            &member("Update"),
            &pb::MemberUpdateRequest {
                id: 1,
                peer_urls: urls(&["http://127.0.0.1:9"]),
            },
        )
        .expected("member not found"),
        Call::unary(
            "without URLs",
            &member("Update"),
            &pb::MemberUpdateRequest {
                id: 1,
                peer_urls: Vec::new(),
            },
        ),
    ]);
    calls
}

fn maintenance() -> Vec<Call> {
    let method = |what: &str| format!("/etcdserverpb.Maintenance/{what}");
    let alarm = |action: i32, member_id: u64, alarm: i32| pb::AlarmRequest {
        action,
        member_id,
        alarm,
    };
    let downgrade = |action: i32, version: &str| pb::DowngradeRequest {
        action,
        version: version.to_owned(),
    };
    let sizes = |payload: &Bytes| -> Bytes {
        let status = pb::StatusResponse::decode(payload.clone()).expect("a status");
        assert!(status.db_size >= status.db_size_in_use && status.db_size_in_use > 0);
        // A lease that has ended is an entry, sooner on one side than on the other.
        pb::StatusResponse {
            db_size: 0,
            db_size_in_use: 0,
            raft_index: 0,
            raft_applied_index: 0,
            errors: status
                .errors
                .iter()
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            ..status
        }
        .encode_to_vec()
        .into()
    };
    let in_order = |payload: &Bytes| -> Bytes {
        let mut answer = pb::AlarmResponse::decode(payload.clone()).expect("alarms");
        answer
            .alarms
            .sort_by_key(|alarm| (alarm.alarm, alarm.member_id));
        answer.encode_to_vec().into()
    };
    let mut calls = vec![
        Call::unary("healthy", STATUS, &pb::StatusRequest {}).masked(sizes),
        Call::unary("none", ALARM, &alarm(0, 0, 0)),
        Call::unary("raised", ALARM, &alarm(1, 42, 1)),
        Call::unary("raised again", ALARM, &alarm(1, 42, 1)),
        Call::unary("raised", ALARM, &alarm(1, 7, 1)),
        Call::unary("in the status", STATUS, &pb::StatusRequest {})
            .masked(sizes)
            .expected("NOSPACE"),
        Call::unary("all", ALARM, &alarm(0, 0, 0)),
        Call::unary("of a member", ALARM, &alarm(0, 42, 0)),
        Call::unary("of a kind", ALARM, &alarm(0, 0, 2)),
        Call::unary("no space", PUT, &put("a", "x")).expected("database space exceeded"),
        Call::unary(
            "no space",
            TXN,
            &txn(vec![], vec![put_op("a", "x")], vec![]),
        ),
        Call::unary(
            "no space, but free",
            TXN,
            &txn(vec![], vec![delete_op("none", "")], vec![]),
        ),
        Call::unary(
            "no space",
            GRANT,
            &pb::LeaseGrantRequest { id: 200, ttl: 100 },
        ),
        Call::unary("no space, but free", DELETE, &delete("none", "")),
        Call::unary("no space, but read", RANGE, &range("a", "")),
        Call::unary("ended for nobody", ALARM, &alarm(2, 0, 1)),
        Call::unary("still there", ALARM, &alarm(0, 0, 0)),
        Call::unary("ended", ALARM, &alarm(2, 42, 1)),
        Call::unary("ended", ALARM, &alarm(2, 7, 1)),
        Call::unary("ended again", ALARM, &alarm(2, 7, 1)),
        Call::unary("damaged", ALARM, &alarm(1, 9, 2)),
        Call::unary("damaged", PUT, &put("a", "x")).expected("corrupt cluster"),
        Call::unary("damaged", DELETE, &delete("none", "")),
        Call::unary("damaged", TXN, &txn(vec![], vec![put_op("a", "x")], vec![])),
        Call::unary(
            "damaged, a read txn",
            TXN,
            &txn(vec![], vec![range_op("a", "")], vec![]),
        ),
        Call::unary("damaged", RANGE, &range("a", "")),
        Call::unary(
            "damaged",
            COMPACT,
            &pb::CompactionRequest {
                revision: 20,
                physical: false,
            },
        ),
        Call::unary(
            "damaged",
            GRANT,
            &pb::LeaseGrantRequest { id: 201, ttl: 100 },
        ),
        Call::unary("damaged", REVOKE, &pb::LeaseRevokeRequest { id: 104 }),
        Call::unary("damaged", STATUS, &pb::StatusRequest {}).masked(sizes),
        Call::unary("repaired", ALARM, &alarm(2, 9, 2)),
        Call::unary("no kind", ALARM, &alarm(1, 9, 0)),
        Call::unary("all", ALARM, &alarm(0, 0, 0)),
        Call::unary("no kind, ended", ALARM, &alarm(2, 9, 0)),
        Call::unary("unknown kind", ALARM, &alarm(1, 9, 9)),
        Call::unary("all", ALARM, &alarm(0, 0, 0)),
        Call::unary("unknown kind, ended", ALARM, &alarm(2, 9, 9)),
        Call::unary("done", &method("Defragment"), &pb::DefragmentRequest {}),
        Call::unary(
            "to nobody",
            &method("MoveLeader"),
            &pb::MoveLeaderRequest { target_id: 5 },
        )
        .expected("bad leader transferee"),
        Call::unary(
            "to zero",
            &method("MoveLeader"),
            &pb::MoveLeaderRequest { target_id: 0 },
        ),
        Call::unary("possible", &method("Downgrade"), &downgrade(0, "3.6.0")),
        Call::unary("short", &method("Downgrade"), &downgrade(0, "3.6")),
        Call::unary("too far", &method("Downgrade"), &downgrade(0, "3.5.0"))
            .expected("invalid downgrade target version"),
        Call::unary("no version", &method("Downgrade"), &downgrade(0, "x"))
            .expected("wrong downgrade target version format"),
        Call::unary("none to end", &method("Downgrade"), &downgrade(2, "")),
        Call::unary("begin", &method("Downgrade"), &downgrade(1, "3.6.4")),
        Call::unary("begin again", &method("Downgrade"), &downgrade(1, "3.6.0")),
        Call::unary("under way", STATUS, &pb::StatusRequest {}).masked(sizes),
        Call::unary("end", &method("Downgrade"), &downgrade(2, "")),
        Call::unary(
            "unknown action",
            &method("Downgrade"),
            &downgrade(7, "3.6.0"),
        ),
        Call::unary("over", STATUS, &pb::StatusRequest {}).masked(sizes),
        Call::unary(
            "all",
            "/grpc.health.v1.Health/Check",
            &HealthCheckRequest::default(),
        ),
        Call::unary(
            "unknown",
            "/grpc.health.v1.Health/Check",
            &HealthCheckRequest {
                service: "etcdserverpb.KV".to_owned(),
            },
        ),
        Call::new(
            "all",
            "/grpc.health.v1.Health/Watch",
            vec![
                Step::Send(framed(&HealthCheckRequest::default())),
                Step::Close,
                Step::Expect(1),
            ],
        ),
        Call::new(
            "unknown",
            "/grpc.health.v1.Health/Watch",
            vec![
                Step::Send(framed(&HealthCheckRequest {
                    service: "x".to_owned(),
                })),
                Step::Close,
                Step::Expect(1),
            ],
        ),
        Call::unary(
            "a list",
            "/grpc.health.v1.Health/List",
            &HealthCheckRequest::default(),
        )
        .masked(|payload| {
            // A map's empty key may be written or left out.
            let list = HealthListResponse::decode(payload.clone()).expect("a list");
            list.encode_to_vec().into()
        }),
    ];
    let downgrade = calls
        .iter()
        .position(|call| call.name.starts_with("begin /"));
    for call in calls
        .iter_mut()
        .skip(downgrade.expect("a downgrade is begun"))
    {
        call.racy = true;
    }
    // etcd lists alarms as its map has them.
    for call in calls.iter_mut().filter(|call| call.path == ALARM) {
        call.masked = Some(in_order);
    }
    calls
}

/// What etcd does not survive: it is asked of ours alone.
pub fn ours_alone() -> Vec<Call> {
    vec![
        Call::unary(
            "unknown action",
            ALARM,
            &pb::AlarmRequest {
                action: 9,
                member_id: 9,
                alarm: 0,
            },
        )
        .differs("etcdserver: unknown method"),
        Call::unary(
            "URL without a scheme",
            UPDATE,
            &pb::MemberUpdateRequest {
                id: OUR_ID,
                peer_urls: vec!["nonsense".to_owned()],
            },
        )
        .differs("etcdserver: given member URLs are invalid"),
        Call::unary(
            "no URL",
            UPDATE,
            &pb::MemberUpdateRequest {
                id: OUR_ID,
                peer_urls: Vec::new(),
            },
        )
        .differs("etcdserver: given member URLs are invalid"),
        Call::unary("still alive", RANGE, &range("a", "")).differs("grpc-status: 0"),
    ]
}

/// No auth yet: see docs/known-differences.md.
fn auth() -> Vec<Call> {
    let method = |what: &str| format!("/etcdserverpb.Auth/{what}");
    let mut calls = vec![
        Call::unary("off", &method("AuthStatus"), &pb::AuthStatusRequest {}),
        Call::unary(
            "off",
            &method("Authenticate"),
            &pb::AuthenticateRequest::default(),
        )
        .expected("authentication is not enabled"),
        Call::unary("unknown", &method("NoSuch"), &pb::AuthStatusRequest {}),
    ];
    // None of these changes anything in etcd, since none names a user or a role.
    for name in [
        "AuthEnable",
        "UserAdd",
        "UserGet",
        "UserList",
        "UserDelete",
        "UserChangePassword",
        "UserGrantRole",
        "UserRevokeRole",
        "RoleAdd",
        "RoleGet",
        "RoleList",
        "RoleDelete",
        "RoleGrantPermission",
        "RoleRevokePermission",
        "AuthDisable",
    ] {
        calls.push(
            Call::unary("refused", &method(name), &pb::AuthStatusRequest {})
                .differs("this version of quorate has no auth"),
        );
    }
    calls
}

fn gzip(payload: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(payload).expect("memory");
    encoder.finish().expect("memory")
}

fn transport() -> Vec<Call> {
    let request = range("k1", "").encode_to_vec();
    let zipped = || Step::Send(framed_bytes(1, &gzip(&range("k1", "").encode_to_vec())));
    let bomb = || Step::Send(framed_bytes(1, &gzip(&vec![0; 600_000])));
    let plain = move || Step::Send(framed_bytes(0, &request));
    let call = |name: &str, steps: Vec<Step>| Call::new(name, RANGE, steps);
    use Step::Close;
    vec![
        Call::unary("unknown method", "/etcdserverpb.KV/NoSuch", &range("a", "")),
        Call::unary(
            "unknown service",
            "/etcdserverpb.NoSuch/Range",
            &range("a", ""),
        ),
        Call::unary("no method", "/etcdserverpb.KV", &range("a", "")),
        Call::unary("no service", "/", &range("a", "")),
        Call::unary("three parts", "/a/b/c", &range("a", "")),
        call("bad api version", vec![plain(), Close])
            .header("client-api-version", b"\xff\xfe")
            .expected("invalid client api version"),
        call("good api version", vec![plain(), Close]).header("client-api-version", "3.7"),
        call("has a leader", vec![plain(), Close]).header("hasleader", "true"),
        call("another word for a leader", vec![plain(), Close]).header("hasleader", "maybe"),
        call("gzip", vec![zipped(), Close]).header("grpc-encoding", "gzip"),
        call("gzip, answer accepted", vec![zipped(), Close])
            .header("grpc-encoding", "gzip")
            .header("grpc-accept-encoding", "gzip"),
        call("gzip, answer not accepted", vec![zipped(), Close])
            .header("grpc-encoding", "gzip")
            .header("grpc-accept-encoding", "deflate"),
        call("gzip announced, not used", vec![plain(), Close]).header("grpc-encoding", "gzip"),
        call("gzip not announced", vec![zipped(), Close]),
        call("gzip accepted, not used", vec![plain(), Close])
            .header("grpc-accept-encoding", "gzip"),
        call(
            "gzip of rubbish",
            vec![Step::Send(framed_bytes(1, b"rubbish")), Close],
        )
        .header("grpc-encoding", "gzip"),
        call("gzip that grows too large", vec![bomb(), Close]).header("grpc-encoding", "gzip"),
        call("snappy", vec![plain(), Close]).header("grpc-encoding", "snappy"),
        call("identity", vec![plain(), Close]).header("grpc-encoding", "identity"),
        call("other flag", vec![Step::Send(framed_bytes(2, b"")), Close]),
        call("nothing", vec![Close]),
        call(
            "half a prefix",
            vec![Step::Send(Bytes::from_static(b"\0\0")), Close],
        ),
        call(
            "half a message",
            vec![Step::Send(Bytes::from_static(b"\0\0\0\0\x09abc")), Close],
        ),
        call("two messages", vec![plain(), plain(), Close]),
        call(
            "rubbish",
            vec![Step::Send(framed_bytes(0, b"\xff\xff\xff\xff")), Close],
        ),
        call(
            "huge length",
            vec![Step::Send(Bytes::from_static(b"\0\xff\xff\xff\xff")), Close],
        ),
        call(
            "empty message",
            vec![Step::Send(framed_bytes(0, b"")), Close],
        ),
        call(
            "unknown field",
            vec![Step::Send(framed_bytes(0, b"\x0a\x01a\xf8\x07\x01")), Close],
        ),
        call("another content type", vec![plain(), Close])
            .header("content-type", "application/grpc+proto"),
        call("a content type of another codec", vec![plain(), Close])
            .header("content-type", "application/grpc+json"),
        call("a content type like it", vec![plain(), Close])
            .header("content-type", "application/grpcx"),
        call("with time enough", vec![plain(), Close]).header("grpc-timeout", "10S"),
        call("without time", vec![plain(), Close]).header("grpc-timeout", "1n"),
        call("bad time", vec![plain(), Close]).header("grpc-timeout", "abc"),
        Call::new(
            "gzip",
            WATCH,
            vec![
                Step::Send(framed_bytes(
                    1,
                    &gzip(
                        &pb::WatchRequest {
                            request_union: Some(RequestUnion::CreateRequest(since(12, "k", "l"))),
                        }
                        .encode_to_vec(),
                    ),
                )),
                Step::Expect(2),
            ],
        )
        .header("grpc-encoding", "gzip"),
        Call::new(
            "rubbish",
            WATCH,
            vec![Step::Send(framed_bytes(0, b"\xff\xff")), Close],
        ),
        Call::new("bad api version", WATCH, vec![create(on("k", "")), Close])
            .header("client-api-version", b"\xff\xfe"),
    ]
}
