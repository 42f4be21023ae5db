//! Clients that remember what they did.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use api::etcdserverpb::kv_client::KvClient;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

/// Between two operations of a client, so that histories stay small enough to be judged.
const PAUSE: Duration = Duration::from_millis(20);

/// Keys in use at a time. They change every epoch, so that each register's history, and the
/// number of its unanswered operations, stays small.
const KEYS: u64 = 12;
const EPOCH: Duration = Duration::from_secs(2);

/// One operation on one register.
#[derive(Debug, Clone)]
pub struct Operation {
    pub client: usize,
    pub key: String,
    pub kind: &'static str,
    pub value: String,
    pub expect: String,
    pub found: bool,
    pub known: bool,
    pub revision: i64,
    pub call: i64,
    pub end: i64,
}

impl Operation {
    /// Whether it is known to have written.
    pub fn wrote(&self) -> bool {
        self.kind == "put" || (self.kind == "swap" && self.found)
    }

    /// A line for the checker.
    pub fn to_json(&self) -> String {
        serde_json::json!({
            "client": self.client, "key": self.key, "kind": self.kind, "value": self.value,
            "expect": self.expect, "found": self.found,
            "outcome": if self.known { "ok" } else { "unknown" },
            "call_ns": self.call, "return_ns": self.end,
        })
        .to_string()
    }
}

pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

/// A channel to one member.
pub fn channel(endpoint: &str) -> Channel {
    let _inside = runtime().enter();
    Endpoint::from_shared(format!("http://{endpoint}"))
        .expect("an endpoint of ours")
        .connect_timeout(Duration::from_secs(1))
        .timeout(Duration::from_secs(5))
        .connect_lazy()
}

/// The running clients.
pub struct Clients {
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<Vec<Operation>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    /// Starts `count` clients, each with a member of its own in turn.
    pub fn start(endpoints: &[String], count: usize, seed: u64) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let history: Arc<Mutex<Vec<Operation>>> = Arc::default();
        let began = Instant::now();
        let tasks = (0..count)
            .map(|client| {
                let channels: Vec<Channel> = endpoints.iter().map(|one| channel(one)).collect();
                let one = Client {
                    number: client,
                    channels,
                    began,
                    chance: seed.wrapping_mul(1000) + client as u64,
                    history: history.clone(),
                };
                runtime().spawn(one.run(stop.clone()))
            })
            .collect();
        Self {
            stop,
            history,
            tasks,
        }
    }

    /// Stops them; what they did.
    pub fn finish(self) -> Vec<Operation> {
        self.stop.store(true, Ordering::Relaxed);
        runtime().block_on(async {
            for task in self.tasks {
                task.await.expect("a client panicked");
            }
        });
        std::mem::take(&mut *self.history.lock().expect("no client panicked"))
    }
}

struct Client {
    number: usize,
    channels: Vec<Channel>,
    began: Instant,
    chance: u64,
    history: Arc<Mutex<Vec<Operation>>>,
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut count = 0u64;
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let choice = crate::next(&mut self.chance);
            let epoch = self.began.elapsed().as_secs() / EPOCH.as_secs();
            let key = format!("r/{epoch:04}/{:02}", choice % KEYS);
            let value = format!("{}-{count}", self.number);
            // A client changes its member now and then: what one read must hold on the next.
            let member = (self.number as u64 + count / 7) as usize % self.channels.len();
            let client = KvClient::new(self.channels[member].clone());
            let operation = match choice >> 32 & 7 {
                0..=2 => self.put(client, key, value).await,
                3..=5 => self.get(client, key).await,
                _ => self.swap(client, key, value).await,
            };
            let known = operation.known;
            self.history
                .lock()
                .expect("no client panicked")
                .push(operation);
            tokio::time::sleep(if known { PAUSE } else { 10 * PAUSE }).await;
        }
    }

    fn now(&self) -> i64 {
        self.began.elapsed().as_nanos() as i64
    }

    fn operation(&self, key: String, kind: &'static str, value: String) -> Operation {
        Operation {
            client: self.number,
            key,
            kind,
            value,
            expect: String::new(),
            found: false,
            known: false,
            revision: 0,
            call: self.now(),
            end: i64::MAX,
        }
    }

    async fn put(&self, mut client: KvClient<Channel>, key: String, value: String) -> Operation {
        let mut operation = self.operation(key.clone(), "put", value.clone());
        let put = pb::PutRequest {
            key: key.into_bytes().into(),
            value: value.into_bytes().into(),
            ..Default::default()
        };
        if let Ok(answer) = client.put(put).await {
            operation.known = true;
            operation.found = true;
            operation.revision = answer
                .into_inner()
                .header
                .map_or(0, |header| header.revision);
            operation.end = self.now();
        }
        operation
    }

    async fn get(&self, mut client: KvClient<Channel>, key: String) -> Operation {
        let mut operation = self.operation(key.clone(), "get", String::new());
        let range = pb::RangeRequest {
            key: key.into_bytes().into(),
            ..Default::default()
        };
        if let Ok(answer) = client.range(range).await {
            operation.known = true;
            operation.end = self.now();
            if let Some(kv) = answer.into_inner().kvs.into_iter().next() {
                operation.found = true;
                operation.value = String::from_utf8_lossy(&kv.value).into_owned();
            }
        }
        operation
    }

    /// Reads without a promise, then swaps if that still holds: the txn decides.
    async fn swap(&self, mut client: KvClient<Channel>, key: String, value: String) -> Operation {
        let range = pb::RangeRequest {
            key: key.clone().into_bytes().into(),
            serializable: true,
            ..Default::default()
        };
        let seen = match client.range(range).await {
            Ok(answer) => answer.into_inner().kvs.into_iter().next(),
            Err(_) => return self.get(client, key).await,
        };
        let mut operation = self.operation(key.clone(), "swap", value.clone());
        let bytes: bytes::Bytes = bytes_of(&key);
        let compare = match &seen {
            Some(kv) => {
                operation.expect = String::from_utf8_lossy(&kv.value).into_owned();
                pb::Compare {
                    result: pb::compare::CompareResult::Equal as i32,
                    target: pb::compare::CompareTarget::Value as i32,
                    key: bytes.clone(),
                    target_union: Some(pb::compare::TargetUnion::Value(kv.value.clone())),
                    ..Default::default()
                }
            }
            None => pb::Compare {
                result: pb::compare::CompareResult::Equal as i32,
                target: pb::compare::CompareTarget::Create as i32,
                key: bytes.clone(),
                target_union: Some(pb::compare::TargetUnion::CreateRevision(0)),
                ..Default::default()
            },
        };
        let put = pb::PutRequest {
            key: bytes,
            value: bytes_of(&value),
            ..Default::default()
        };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(put)),
            }],
            failure: vec![],
        };
        if let Ok(answer) = client.txn(txn).await {
            let answer = answer.into_inner();
            operation.known = true;
            operation.found = answer.succeeded;
            operation.revision = answer.header.map_or(0, |header| header.revision);
            operation.end = self.now();
        }
        operation
    }
}

fn bytes_of<B: From<Vec<u8>>>(text: &str) -> B {
    B::from(text.as_bytes().to_vec())
}
