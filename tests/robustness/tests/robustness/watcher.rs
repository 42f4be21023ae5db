//! A watch that lives through kills by going on, at another member, after the last revision that
//! it saw; and a second one over the finished history, to compare with.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::etcdserverpb as pb;
use api::etcdserverpb::watch_client::WatchClient;
use testkit::eventually;
use tonic::transport::Channel;

use crate::clients::{channel, runtime};

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub revision: i64,
    pub key: String,
    pub value: String,
}

/// What both watches saw.
pub struct Seen {
    pub lived: Vec<Event>,
    pub after: Vec<Event>,
}

/// The running watch.
pub struct Watcher {
    events: Arc<Mutex<Vec<Event>>>,
    until: Arc<AtomicI64>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    /// Watches all registers from the first revision.
    pub fn start(endpoints: &[String]) -> Self {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let until = Arc::new(AtomicI64::new(i64::MAX));
        let channels: Vec<Channel> = endpoints.iter().map(|one| channel(one)).collect();
        let task = runtime().spawn(live(channels, events.clone(), until.clone()));
        Self {
            events,
            until,
            task,
        }
    }

    /// Lets it see everything there is, and watches all again from the beginning.
    pub fn finish(self, endpoints: &[String]) -> Seen {
        let marker = format!("r/end/{}", std::process::id());
        let last = eventually("a last write", Duration::from_secs(30), || {
            let mut client = api::etcdserverpb::kv_client::KvClient::new(channel(&endpoints[0]));
            let put = pb::PutRequest {
                key: marker.clone().into_bytes().into(),
                value: b"end".to_vec().into(),
                ..Default::default()
            };
            runtime()
                .block_on(client.put(put))
                .map(|answer| {
                    answer
                        .into_inner()
                        .header
                        .map_or(0, |header| header.revision)
                })
                .map_err(|status| status.to_string())
        });
        self.until.store(last, Ordering::Relaxed);
        runtime().block_on(self.task).expect("the watch panicked");
        let lived = std::mem::take(&mut *self.events.lock().expect("not poisoned"));

        let again: Arc<Mutex<Vec<Event>>> = Arc::default();
        let one = vec![channel(&endpoints[endpoints.len() - 1])];
        runtime().block_on(live(one, again.clone(), Arc::new(AtomicI64::new(last))));
        let after = std::mem::take(&mut *again.lock().expect("not poisoned"));
        Seen { lived, after }
    }
}

/// Watches until the event at `until` has come, over as many streams as it takes.
async fn live(channels: Vec<Channel>, events: Arc<Mutex<Vec<Event>>>, until: Arc<AtomicI64>) {
    let mut turn = 0;
    loop {
        let channel = channels[turn % channels.len()].clone();
        turn += 1;
        let _ = one_stream(channel, &events, &until).await;
        let seen = events
            .lock()
            .expect("not poisoned")
            .last()
            .map_or(0, |event| event.revision);
        if seen >= until.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn one_stream(
    channel: Channel,
    events: &Mutex<Vec<Event>>,
    until: &AtomicI64,
) -> Result<(), tonic::Status> {
    let next = events
        .lock()
        .expect("not poisoned")
        .last()
        .map_or(1, |event| event.revision + 1);
    let create = pb::WatchCreateRequest {
        key: b"r/".to_vec().into(),
        range_end: b"r0".to_vec().into(),
        start_revision: next,
        ..Default::default()
    };
    let request = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let _ = requests.send(request).await;
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut stream = WatchClient::new(channel)
        .watch(outgoing)
        .await?
        .into_inner();
    loop {
        // A stream of a member that was cut off may stay silent: try another one now and then.
        let message = tokio::time::timeout(Duration::from_secs(2), stream.message()).await;
        let response = match message {
            Ok(Ok(Some(response))) => response,
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(status)) => return Err(status),
        };
        assert!(
            !response.canceled || response.events.is_empty(),
            "a watch was cancelled: {response:?}"
        );
        let mut all = events.lock().expect("not poisoned");
        for event in response.events {
            let kv = event.kv.expect("an event has its pair");
            all.push(Event {
                revision: kv.mod_revision,
                key: String::from_utf8_lossy(&kv.key).into_owned(),
                value: String::from_utf8_lossy(&kv.value).into_owned(),
            });
        }
        let seen = all.last().map_or(0, |event| event.revision);
        if seen >= until.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}
