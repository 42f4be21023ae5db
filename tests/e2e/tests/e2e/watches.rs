//! Watches over real sockets: progress by interval, and a client that does not read.

use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use api::etcdserverpb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use testkit::{Cluster, Kind, Spec, left_out};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::load::{client, runtime};
use crate::metrics;

const MISSING: &str = "etcdctl is missing; run `make tools`";

/// Longer than anything here takes on two busy cores.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream of its own connection, with one watch.
struct Watch {
    /// The stream ends with it.
    _requests: mpsc::UnboundedSender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watch {
    async fn create(endpoint: &str, create: pb::WatchCreateRequest) -> Self {
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .expect("an endpoint of ours")
            .connect()
            .await
            .expect("a connection");
        let (requests, sent) = mpsc::unbounded_channel();
        let request = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        requests.send(request).expect("the stream is not made yet");
        let mut answers = WatchClient::new(channel)
            .max_decoding_message_size(1 << 30)
            .watch(UnboundedReceiverStream::new(sent))
            .await
            .expect("a stream")
            .into_inner();
        let created = answers.message().await.expect("no error").expect("no end");
        assert!(created.created, "{created:?}");
        Self {
            _requests: requests,
            answers,
        }
    }

    async fn next(&mut self) -> pb::WatchResponse {
        tokio::time::timeout(PATIENCE, self.answers.message())
            .await
            .expect("an answer in time")
            .expect("no error")
            .expect("no end")
    }
}

#[test]
fn progress_is_told_by_the_interval_of_the_flag() {
    let spec = Spec::of(Kind::Quorate, 1).flag("--watch-progress-notify-interval=200ms");
    let Some(cluster) = Cluster::start(&spec) else {
        return left_out("watch_progress", MISSING);
    };
    let endpoint = cluster.members[0].endpoint();
    cluster.etcdctl().ok(&["put", "other", "value"]);
    runtime().block_on(async {
        let create = |progress_notify| pb::WatchCreateRequest {
            key: "watched".into(),
            progress_notify,
            ..Default::default()
        };
        let mut told = Watch::create(&endpoint, create(true)).await;
        let mut untold = Watch::create(&endpoint, create(false)).await;
        let began = Instant::now();
        for _ in 0..3 {
            let progress = told.next().await;
            assert!(
                progress.events.is_empty() && !progress.canceled,
                "{progress:?}"
            );
            assert_eq!(progress.header.expect("a header").revision, 2);
        }
        // The interval may be cut short once, at its begin.
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(300), "three in {took:?}");
        // Who did not ask for it is told nothing, until there is an event.
        let mut kv = client(&[endpoint]);
        let put = pb::PutRequest {
            key: "watched".into(),
            ..Default::default()
        };
        kv.put(put).await.expect("a put");
        let first = untold.next().await;
        assert_eq!(first.events.len(), 1, "{first:?}");
        assert_eq!(first.header.expect("a header").revision, 3);
    });
}

/// One client makes a watch and reads nothing: another one's events and the puts come as if it
/// were not there, and when it reads, it finds all of it.
#[test]
fn a_watcher_that_does_not_read_delays_nobody_and_misses_nothing() {
    const PUTS: usize = 600;
    const VALUE_BYTES: usize = 20_000;
    let Some(cluster) = Cluster::start(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("slow_watcher", MISSING);
    };
    let endpoint = cluster.members[0].endpoint();
    runtime().block_on(async {
        let create = pb::WatchCreateRequest {
            key: "k".into(),
            ..Default::default()
        };
        let mut slow = Watch::create(&endpoint, create.clone()).await;
        let mut quick = Watch::create(&endpoint, create).await;
        let mut kv = client(std::slice::from_ref(&endpoint));
        let mut slowest = Duration::ZERO;
        for number in 0..PUTS {
            let put = pb::PutRequest {
                key: "k".into(),
                value: vec![b'v'; VALUE_BYTES].into(),
                ..Default::default()
            };
            let began = Instant::now();
            let revision = kv.put(put).await.expect("a put").into_inner();
            let revision = revision.header.expect("a header").revision;
            let told = quick.next().await;
            slowest = slowest.max(began.elapsed());
            assert_eq!(told.events.len(), 1, "put {number}");
            let kv = told.events[0].kv.as_ref().expect("a pair");
            assert_eq!(kv.mod_revision, revision);
        }
        assert!(
            slowest < Duration::from_secs(2),
            "a put and its event took {slowest:?}"
        );
        // It really was behind: more than its queue and the sockets hold.
        let behind = metrics::total(
            &metrics::of(&endpoint),
            "etcd_debugging_mvcc_slow_watcher_total",
        );
        assert!((behind - 1.0).abs() < 0.1, "{behind} watchers are slow");
        let pending = metrics::total(
            &metrics::of(&endpoint),
            "etcd_debugging_mvcc_pending_events_total",
        );
        assert!(pending >= 1.0, "{pending} events wait");
        let mut next = 2;
        while next < 2 + PUTS as i64 {
            for event in slow.next().await.events {
                assert_eq!(event.kv.expect("a pair").mod_revision, next);
                next += 1;
            }
        }
    });
}
