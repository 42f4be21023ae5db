//! Writers that never rest. Every write has a key of its own, so that what was acknowledged must
//! be there at the end, whatever became of the writes around it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::calls;
use crate::clients::runtime;

const WRITERS: usize = 3;

/// Between two writes of one writer.
const PAUSE: Duration = Duration::from_millis(15);

/// After a write that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Below it, the writes.
pub const PREFIX: &str = "w/";

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    endpoints: Mutex<Vec<String>>,
    acknowledged: Mutex<Vec<(String, String)>>,
}

/// The running writers.
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(seed: u64) -> Load {
        let shared: Arc<Shared> = Arc::default();
        let writers = (0..WRITERS)
            .map(|writer| {
                let chance = seed.wrapping_mul(31).wrapping_add(writer as u64);
                runtime().spawn(write(writer, shared.clone(), chance))
            })
            .collect();
        Load { shared, writers }
    }

    /// Who can be written to from now on.
    pub fn endpoints(&self, endpoints: Vec<String>) {
        *self.shared.endpoints.lock().expect("not poisoned") = endpoints;
    }

    /// Stops the writers; what was acknowledged.
    pub fn finish(self) -> Vec<(String, String)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        runtime().block_on(async {
            for writer in self.writers {
                writer.await.expect("a writer panicked");
            }
        });
        std::mem::take(&mut *self.shared.acknowledged.lock().expect("not poisoned"))
    }
}

async fn write(writer: usize, shared: Arc<Shared>, mut chance: u64) {
    let mut count = 0u64;
    let mut open: Option<(String, tonic::transport::Channel)> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        count += 1;
        let endpoint = {
            let endpoints = shared.endpoints.lock().expect("not poisoned");
            let choice = crate::next(&mut chance) as usize;
            endpoints.get(choice % endpoints.len().max(1)).cloned()
        };
        let Some(endpoint) = endpoint else {
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            continue;
        };
        // One connection for some writes in a row.
        let reuse = open.take().filter(|_| !count.is_multiple_of(8));
        let (endpoint, channel) = reuse.unwrap_or_else(|| {
            let channel = calls::channel(&endpoint, Duration::from_secs(3));
            (endpoint, channel)
        });
        let (key, value) = (
            format!("{PREFIX}{writer}/{count:08}"),
            format!("{:x}", crate::next(&mut chance)),
        );
        match calls::put_over(&channel, key.clone(), value.clone()).await {
            Ok(_) => {
                let acknowledged = shared.acknowledged.lock();
                acknowledged.expect("not poisoned").push((key, value));
                open = Some((endpoint, channel));
                tokio::time::sleep(PAUSE).await;
            }
            Err(_) => tokio::time::sleep(PAUSE_AFTER_FAILURE).await,
        }
    }
}
