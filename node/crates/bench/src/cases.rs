//! The cases: names, flags, and the next request of each. Names, flags and keys are those of etcd's tool.

use anyhow::Result;
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest, request_op,
};
use bytes::Bytes;
use local::flags::{Flag, Given, usage};
use local::grpc::framed;

use crate::load::{self, Call, Outcome, Plan, Work};
use crate::watch;

pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const TXN: &str = "/etcdserverpb.KV/Txn";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";

/// Seconds; etcd's tool grants as many.
const LEASE_TTL_S: i64 = 100;

/// More of either than this are more than one thread and one machine can have under way.
const CONNS_MAX: usize = 20_000;
const CLIENTS_MAX: usize = 1_000_000;
/// etcd's own limit of a request is 1.5 MiB; larger ones are worth asking for, to see the error.
const SIZE_MAX: usize = 64 << 20;

/// One case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) usage: &'static str,
    pub(crate) about: &'static str,
    pub(crate) flags: &'static [Flag],
    run: fn(&Given, Plan, bool) -> Result<Outcome>,
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "put",
        usage: "put",
        about: "puts of one size",
        flags: PUT_FLAGS,
        run: put,
    },
    Case {
        name: "range",
        usage: "range KEY [END]",
        about: "ranges of one key or of many",
        flags: RANGE_FLAGS,
        run: range,
    },
    Case {
        name: "txn-mixed",
        usage: "txn-mixed [KEY]",
        about: "transactions with a put, or with a range over all keys (KEY is taken and not used, as etcd's tool does)",
        flags: TXN_MIXED_FLAGS,
        run: txn_mixed,
    },
    Case {
        name: "watch-latency",
        usage: "watch-latency",
        about: "from a put to its event, at many watchers",
        flags: watch::FLAGS,
        run: watch::run,
    },
    Case {
        name: "lease-keepalive",
        usage: "lease-keepalive",
        about: "keep-alives, each on a stream of its own",
        flags: KEEP_ALIVE_FLAGS,
        run: keep_alive,
    },
];

const TOTAL: Flag = Flag {
    name: "total",
    value: "n",
    default: "10000",
    help: "requests in all",
};
const RATE: Flag = Flag {
    name: "rate",
    value: "n",
    default: "0",
    help: "requests a second, 0 for no limit",
};
const KEY_SIZE: Flag = Flag {
    name: "key-size",
    value: "bytes",
    default: "8",
    help: "of every key",
};
const VAL_SIZE: Flag = Flag {
    name: "val-size",
    value: "bytes",
    default: "8",
    help: "of every value",
};
const KEY_SPACE: Flag = Flag {
    name: "key-space-size",
    value: "n",
    default: "1",
    help: "different keys",
};
const CONSISTENCY: Flag = Flag {
    name: "consistency",
    value: "l|s",
    default: "l",
    help: "linearizable or serializable",
};

const PUT_FLAGS: &[Flag] = &[
    KEY_SIZE,
    VAL_SIZE,
    TOTAL,
    RATE,
    KEY_SPACE,
    Flag {
        name: "sequential-keys",
        value: "",
        default: "false",
        help: "keys in order, else by chance",
    },
];
const RANGE_FLAGS: &[Flag] = &[
    CONSISTENCY,
    TOTAL,
    RATE,
    Flag {
        name: "limit",
        value: "n",
        default: "0",
        help: "keys of one answer at most, 0 for all",
    },
    Flag {
        name: "count-only",
        value: "",
        default: "false",
        help: "ask for the count alone",
    },
    Flag {
        name: "stream",
        value: "",
        default: "false",
        help: "ask with RangeStream",
    },
];
const TXN_MIXED_FLAGS: &[Flag] = &[
    KEY_SIZE,
    VAL_SIZE,
    TOTAL,
    RATE,
    KEY_SPACE,
    CONSISTENCY,
    Flag {
        name: "limit",
        value: "n",
        default: "1000",
        help: "keys of one range at most",
    },
    Flag {
        name: "rw-ratio",
        value: "x",
        default: "1",
        help: "ranges for each put",
    },
];
const KEEP_ALIVE_FLAGS: &[Flag] = &[TOTAL, RATE];

impl Case {
    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        CASES.iter().find(|case| case.name == name).ok_or_else(|| {
            let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
            usage(format!(
                "no case {name:?}, expected {} or compare",
                names.join(", ")
            ))
        })
    }

    /// Runs the case; with `show`, a bar on a terminal.
    pub(crate) fn run(&self, given: &Given, show: bool) -> Result<Outcome> {
        let endpoints = given.text("endpoints").split(',').map(endpoint).collect();
        let plan = Plan {
            endpoints,
            conns: given.number("conns", 1, CONNS_MAX)?,
            clients: given.number("clients", 1, CLIENTS_MAX)?,
            total: 0,
            rate: None,
        };
        (self.run)(given, plan, show)
    }
}

/// `http://` in front is taken, since etcd's flags have it; TLS is not spoken.
fn endpoint(text: &str) -> String {
    let text = text.trim();
    text.strip_prefix("http://")
        .unwrap_or(text)
        .trim_end_matches('/')
        .to_owned()
}

/// `--total` and `--rate`.
fn amount(given: &Given, plan: Plan) -> Result<Plan> {
    let rate = given.number("rate", 0.0, 1e9)?;
    Ok(Plan {
        total: given.number("total", 1, u64::MAX)?,
        rate: (rate > 0.0).then_some(rate),
        ..plan
    })
}

fn put(given: &Given, plan: Plan, show: bool) -> Result<Outcome> {
    let keys = Keys::of(given)?;
    let value = value(given, "val-size")?;
    let sequential = given.is_on("sequential-keys");
    let mut chance = Chance::new();
    let mut next = |number, _client| {
        let key = keys.key(if sequential { number } else { chance.next() });
        Call {
            method: 0,
            kind: 0,
            request: put_request(key, &value),
        }
    };
    let work = Work {
        name: "put",
        methods: &[PUT],
        kinds: &["put"],
        next: &mut next,
    };
    load::run(&amount(given, plan)?, work, show)
}

fn put_request(key: Vec<u8>, value: &Bytes) -> Bytes {
    framed(&PutRequest {
        key: key.into(),
        value: value.clone(),
        ..Default::default()
    })
}

fn range(given: &Given, plan: Plan, show: bool) -> Result<Outcome> {
    let words: Vec<&str> = given.words.iter().skip(1).map(String::as_str).collect();
    let (key, end) = match words[..] {
        [key] => (key, ""),
        [key, end] => (key, end),
        _ => {
            return Err(usage(format!(
                "range takes one key, or a key and an end; got {} words",
                words.len()
            )));
        }
    };
    let request = framed(&RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        limit: given.number("limit", 0, i64::MAX)?,
        serializable: serializable(given)?,
        count_only: given.is_on("count-only"),
        ..Default::default()
    });
    let methods = if given.is_on("stream") {
        [RANGE_STREAM]
    } else {
        [RANGE]
    };
    let mut next = |_number, _client| Call {
        method: 0,
        kind: 0,
        request: request.clone(),
    };
    let work = Work {
        name: "range",
        methods: &methods,
        kinds: &["range"],
        next: &mut next,
    };
    load::run(&amount(given, plan)?, work, show)
}

fn txn_mixed(given: &Given, plan: Plan, show: bool) -> Result<Outcome> {
    let keys = Keys::of(given)?;
    let value = value(given, "val-size")?;
    let ratio = given.number("rw-ratio", 0.0, 1e9)?;
    let reads = ratio / (1.0 + ratio);
    // One zero byte as key and as end: all keys. Etcd's client writes an empty prefix so.
    let all = RangeRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        limit: given.number("limit", 0, i64::MAX)?,
        serializable: serializable(given)?,
        ..Default::default()
    };
    let all = txn(request_op::Request::RequestRange(all));
    let mut chance = Chance::new();
    let mut next = |number, _client| {
        if chance.part() < reads {
            return Call {
                method: 0,
                kind: 0,
                request: all.clone(),
            };
        }
        let put = PutRequest {
            key: keys.key(number).into(),
            value: value.clone(),
            ..Default::default()
        };
        Call {
            method: 0,
            kind: 1,
            request: txn(request_op::Request::RequestPut(put)),
        }
    };
    let work = Work {
        name: "txn-mixed",
        methods: &[TXN],
        kinds: &["range", "put"],
        next: &mut next,
    };
    load::run(&amount(given, plan)?, work, show)
}

fn txn(request: request_op::Request) -> Bytes {
    framed(&TxnRequest {
        success: vec![RequestOp {
            request: Some(request),
        }],
        ..Default::default()
    })
}

/// One lease a client. etcd's client keeps a lease alive once by a stream for one message each way, which
/// is a call like any other on the wire.
fn keep_alive(given: &Given, plan: Plan, show: bool) -> Result<Outcome> {
    let plan = amount(given, plan)?;
    let mut requests = Vec::new();
    let runtime = load::runtime()?;
    runtime.block_on(async {
        let mut connection = load::connect(&plan.endpoints, 1).await?.remove(0);
        for _ in 0..plan.clients {
            let grant = LeaseGrantRequest {
                ttl: LEASE_TTL_S,
                ..Default::default()
            };
            let lease: LeaseGrantResponse = connection.ask(GRANT, &grant).await?;
            requests.push(framed(&LeaseKeepAliveRequest { id: lease.id }));
        }
        anyhow::Ok(())
    })?;
    drop(runtime);
    let mut next = |_number, client: usize| Call {
        method: 0,
        kind: 0,
        request: requests[client].clone(),
    };
    let work = Work {
        name: "lease-keepalive",
        methods: &[KEEP_ALIVE],
        kinds: &["keep-alive"],
        next: &mut next,
    };
    load::run(&plan, work, show)
}

fn serializable(given: &Given) -> Result<bool> {
    match given.text("consistency") {
        "l" => Ok(false),
        "s" => Ok(true),
        other => Err(usage(format!(
            "--consistency {other}: expected l (linearizable) or s (serializable)"
        ))),
    }
}

/// Bytes by chance, the same in every run.
pub(crate) fn value(given: &Given, flag: &str) -> Result<Bytes> {
    let size = given.number(flag, 0, SIZE_MAX)?;
    let mut chance = Chance::new();
    Ok((0..size).map(|_| chance.next() as u8).collect())
}

/// Keys of one size from a space: a number as Go's signed varint, then zeros, as etcd's tool has it.
struct Keys {
    size: usize,
    space: u64,
}

impl Keys {
    fn of(given: &Given) -> Result<Self> {
        let keys = Self {
            size: given.number("key-size", 1, SIZE_MAX)?,
            space: given.number("key-space-size", 1, i64::MAX as u64)?,
        };
        let longest = varint(keys.space - 1).len();
        if longest > keys.size {
            return Err(usage(format!(
                "--key-size {}: {} different keys need {longest} bytes",
                keys.size, keys.space
            )));
        }
        Ok(keys)
    }

    fn key(&self, number: u64) -> Vec<u8> {
        let mut key = varint(number % self.space);
        key.resize(self.size, 0);
        key
    }
}

/// Zigzag of a number that is not negative, seven bits a byte, lowest first.
fn varint(number: u64) -> Vec<u8> {
    let mut left = number << 1;
    let mut bytes = Vec::with_capacity(10);
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes
}

/// Numbers by chance (splitmix64), the same in every run: loads differ by what is asked, not by luck.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        Self(0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1, without 1.
    fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcds_tool() {
        // encoding/binary.PutVarint of 0, 1, 63, 64 and 99999.
        let expected: [(u64, &[u8]); 5] = [
            (0, &[0]),
            (1, &[2]),
            (63, &[126]),
            (64, &[128, 1]),
            (99_999, &[190, 154, 12]),
        ];
        for (number, bytes) in expected {
            assert_eq!(varint(number), bytes, "{number}");
        }
        let keys = Keys {
            size: 8,
            space: 100,
        };
        assert_eq!(keys.key(164), [128, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn endpoints_may_bear_a_scheme() {
        assert_eq!(endpoint(" http://127.0.0.1:2379/"), "127.0.0.1:2379");
    }

    #[test]
    fn chance_covers_its_range() {
        let mut chance = Chance::new();
        let mean = (0..10_000).map(|_| chance.part()).sum::<f64>() / 10_000.0;
        assert!((0.48..0.52).contains(&mean), "{mean}");
    }
}
