//! A load that remembers what was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::etcdserverpb as pb;
use api::etcdserverpb::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};

/// Key to value and revision, as acknowledged.
pub type Acknowledged = BTreeMap<Vec<u8>, (Vec<u8>, i64)>;

/// One runtime for the clients of all tests.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

/// A client of some endpoints; a call goes to one that is up.
pub fn client(endpoints: &[String]) -> KvClient<Channel> {
    let _inside = runtime().enter();
    let endpoints = endpoints.iter().map(|endpoint| {
        Endpoint::from_shared(format!("http://{endpoint}"))
            .expect("an endpoint of ours")
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(10))
    });
    KvClient::new(Channel::balance_list(endpoints)).max_decoding_message_size(1 << 30)
}

/// Puts until told to stop: each writer its own keys, in order, every acknowledgement noted.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    count: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Starts `writers` against these endpoints, keys below `prefix`.
    pub fn start(endpoints: &[String], prefix: &str, writers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<Mutex<Acknowledged>> = Arc::default();
        let count: Arc<AtomicU64> = Arc::default();
        let tasks = (0..writers)
            .map(|writer| {
                let client = client(endpoints);
                let prefix = format!("{prefix}/{writer:03}/");
                let (stop, acknowledged, count) =
                    (stop.clone(), acknowledged.clone(), count.clone());
                runtime().spawn(write(client, prefix, stop, acknowledged, count))
            })
            .collect();
        Self {
            stop,
            acknowledged,
            count,
            tasks,
        }
    }

    /// Acknowledgements so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Stops and says what was acknowledged.
    pub fn finish(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        runtime().block_on(async {
            for task in self.tasks {
                task.await.expect("a writer panicked");
            }
        });
        Arc::try_unwrap(self.acknowledged)
            .expect("the writers are gone")
            .into_inner()
            .expect("no writer panicked")
    }
}

async fn write(
    mut client: KvClient<Channel>,
    prefix: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    count: Arc<AtomicU64>,
) {
    let key_of = |number: u64| format!("{prefix}{number:08}").into_bytes();
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let key = key_of(number);
        let value =
            format!("value of {number} {}", "x".repeat((number % 200) as usize)).into_bytes();
        let put = pb::PutRequest {
            key: key.clone().into(),
            value: value.clone().into(),
            ..Default::default()
        };
        // Most are puts; some are txns that put, some delete an older key of the same writer.
        let result = match number % 10 {
            3 => client
                .txn(put_if_absent(put))
                .await
                .map(|answer| answer.into_inner().header),
            7 => {
                let old = key_of(number - 4);
                acknowledged
                    .lock()
                    .expect("no writer panicked")
                    .remove(&old);
                let delete = pb::DeleteRangeRequest {
                    key: old.into(),
                    ..Default::default()
                };
                if client.delete_range(delete).await.is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                client
                    .put(put)
                    .await
                    .map(|answer| answer.into_inner().header)
            }
            _ => client
                .put(put)
                .await
                .map(|answer| answer.into_inner().header),
        };
        number += 1;
        match result {
            Ok(header) => {
                let revision = header.map_or(0, |header| header.revision);
                acknowledged
                    .lock()
                    .expect("no writer panicked")
                    .insert(key, (value, revision));
                count.fetch_add(1, Ordering::Relaxed);
            }
            // Not acknowledged: it may or may not be there. The key is not used again.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

fn put_if_absent(put: pb::PutRequest) -> pb::TxnRequest {
    let absent = pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: pb::compare::CompareTarget::Create as i32,
        key: put.key.clone(),
        target_union: Some(pb::compare::TargetUnion::CreateRevision(0)),
        ..Default::default()
    };
    pb::TxnRequest {
        compare: vec![absent],
        success: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put)),
        }],
        failure: vec![],
    }
}

/// All keys below a prefix: value and revision.
pub fn read_all(endpoints: &[String], prefix: &str) -> Acknowledged {
    let mut client = client(endpoints);
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    let request = pb::RangeRequest {
        key: prefix.as_bytes().to_vec().into(),
        range_end: end.into(),
        ..Default::default()
    };
    let answer = runtime()
        .block_on(client.range(request))
        .expect("a range of all keys")
        .into_inner();
    assert_eq!(answer.count as usize, answer.kvs.len());
    answer
        .kvs
        .into_iter()
        .map(|kv| (kv.key.to_vec(), (kv.value.to_vec(), kv.mod_revision)))
        .collect()
}

/// Everything acknowledged is there, with its value, at its revision.
pub fn assert_holds(found: &Acknowledged, acknowledged: &Acknowledged) {
    for (key, (value, revision)) in acknowledged {
        let name = String::from_utf8_lossy(key);
        let Some((found_value, found_revision)) = found.get(key) else {
            panic!("{name} was acknowledged at revision {revision} and is not there");
        };
        assert_eq!(found_revision, revision, "{name} is at another revision");
        assert_eq!(found_value, value, "{name} has another value");
    }
}
