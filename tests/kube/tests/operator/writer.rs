//! A client that writes without pause, and remembers what was acknowledged; and one that watches the voters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::Cluster;
use crate::kubelet::Kubelet;
use crate::world::World;

/// A write that is not acknowledged by then is tried at another member. It may still take effect.
const WRITE_WITHIN: Duration = Duration::from_secs(3);

/// Between two writes: the machine has other work too.
const PAUSE: Duration = Duration::from_millis(3);

/// A cluster that has a quorum takes writes again within this, on busy cores too.
const GOES_ON_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks at the voters.
const LOOK: Duration = Duration::from_millis(50);

/// A client at work.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Written>,
    voters: tokio::task::JoinHandle<Vec<usize>>,
}

/// What it did.
#[derive(Debug, Default)]
pub struct Written {
    /// by key: the last acknowledged value
    pub acknowledged: BTreeMap<String, u64>,
    /// all that were
    pub count: u64,
    /// longest time between two acknowledged writes
    pub longest_gap: Duration,
}

impl Writer {
    /// Begins.
    pub fn start(world: &'static World, cluster: &Cluster) -> Self {
        Self::start_with(world, cluster, WRITE_WITHIN)
    }

    /// The same with a client that goes to another member after this time.
    pub fn start_with(world: &'static World, cluster: &Cluster, write_within: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let namespace = cluster.ns.name.clone();
        let task = world.handle().spawn(write(
            world.kubelet.clone(),
            namespace.clone(),
            write_within,
            Arc::clone(&stop),
            Arc::clone(&count),
        ));
        let voters = world.handle().spawn(count_voters(
            world.kubelet.clone(),
            namespace,
            Arc::clone(&stop),
        ));
        Self {
            stop,
            count,
            task,
            voters,
        }
    }

    /// Waits until so many more writes were acknowledged: what stopped them before is over, and was measured.
    pub fn until_more(&self, writes: u64) {
        let wanted = self.count.load(Ordering::Relaxed) + writes;
        testkit::eventually("writes that go on", GOES_ON_WITHIN, || {
            let count = self.count.load(Ordering::Relaxed);
            if count >= wanted {
                Ok(())
            } else {
                Err(format!("{count} of {wanted} writes"))
            }
        });
    }

    /// Ends, and asks the cluster for every acknowledged write; the voters that were seen, without repetitions.
    pub fn check(self, world: &'static World, cluster: &Cluster) -> (Written, Vec<usize>) {
        self.stop.store(true, Ordering::Relaxed);
        let (written, voters) = world.wait(async {
            (
                self.task.await.expect("it ends"),
                self.voters.await.expect("it ends"),
            )
        });
        assert!(written.count > 0, "no write was acknowledged");
        let etcdctl = cluster.etcdctl();
        for (key, value) in &written.acknowledged {
            let found = etcdctl.ok(&["get", key, "--print-value-only"]);
            let found: u64 = found
                .trim()
                .parse()
                .unwrap_or_else(|_| panic!("{key} is {found:?}, {value} was acknowledged"));
            assert!(
                found >= *value,
                "{key} is {found}, {value} was acknowledged"
            );
        }
        eprintln!(
            "{}: {} writes acknowledged, the longest gap {:?}",
            cluster.ns.name, written.count, written.longest_gap
        );
        (written, voters)
    }

    /// That voters came and went one at a time.
    pub fn assert_one_at_a_time(voters: &[usize]) {
        for pair in voters.windows(2) {
            assert_eq!(pair[0].abs_diff(pair[1]), 1, "voters over time: {voters:?}");
        }
    }
}

async fn connect(address: &str) -> Option<Channel> {
    Endpoint::from_shared(format!("http://{address}:2379"))
        .ok()?
        .connect_timeout(Duration::from_millis(500))
        .connect()
        .await
        .ok()
}

async fn write(
    kubelet: Kubelet,
    namespace: String,
    within: Duration,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Written {
    let written = Mutex::new(Written::default());
    let (mut number, mut turn, mut last) = (0u64, 0usize, Instant::now());
    // A write without an answer may still take effect, also after later ones: its key is not used again.
    let mut keys = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let addresses = kubelet.ready_addresses(&namespace);
        let Some(address) = addresses.get(turn % addresses.len().max(1)) else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        turn += 1;
        let Some(channel) = connect(address).await else {
            continue;
        };
        let mut client = KvClient::new(channel);
        // A while at one member, then at the next.
        for _ in 0..50 {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            number += 1;
            let key = format!("writer/{keys}/{}", number % 20);
            let put = client.put(pb::PutRequest {
                key: key.clone().into(),
                value: number.to_string().into(),
                ..pb::PutRequest::default()
            });
            match tokio::time::timeout(within, put).await {
                Ok(Ok(_)) => {
                    let mut written = written.lock().expect("nobody panics with it");
                    written.acknowledged.insert(key, number);
                    written.count += 1;
                    count.store(written.count, Ordering::Relaxed);
                    written.longest_gap = written.longest_gap.max(last.elapsed());
                    last = Instant::now();
                }
                _ => {
                    keys += 1;
                    break;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    written.into_inner().expect("nobody panics with it")
}

/// Every number of voters that a linearizable list gave, in order, without repetitions.
async fn count_voters(kubelet: Kubelet, namespace: String, stop: Arc<AtomicBool>) -> Vec<usize> {
    let mut seen: Vec<usize> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for address in kubelet.ready_addresses(&namespace) {
            let Some(channel) = connect(&address).await else {
                continue;
            };
            let mut client = ClusterClient::new(channel);
            // As long as it answers.
            while !stop.load(Ordering::Relaxed) {
                let list = client.member_list(pb::MemberListRequest { linearizable: true });
                let Ok(Ok(list)) = tokio::time::timeout(WRITE_WITHIN, list).await else {
                    break;
                };
                let members = list.into_inner().members;
                let voters = members.iter().filter(|member| !member.is_learner).count();
                if seen.last() != Some(&voters) {
                    seen.push(voters);
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    seen
}
