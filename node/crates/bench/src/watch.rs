//! watch-latency: puts of one key at a rate, and how long each takes to reach every watcher.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use api::etcdserverpb::{
    PutRequest, PutResponse, WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use futures::future::try_join_all;
use local::flags::{Flag, Given};
use local::grpc::{Connection, Exchange};
use tokio::sync::Notify;

use crate::cases;
use crate::load::{self, Outcome, Plan};
use crate::proc;
use crate::progress::Progress;

pub(crate) const FLAGS: &[Flag] = &[
    Flag {
        name: "streams",
        value: "n",
        default: "10",
        help: "watch streams, dealt to the connections in turn",
    },
    Flag {
        name: "watchers-per-stream",
        value: "n",
        default: "10",
        help: "watchers on each, all on the one key",
    },
    Flag {
        name: "put-total",
        value: "n",
        default: "1000",
        help: "puts in all",
    },
    Flag {
        name: "put-rate",
        value: "n",
        default: "100",
        help: "puts a second, one after the other",
    },
    Flag {
        name: "key-size",
        value: "bytes",
        default: "32",
        help: "of the key",
    },
    Flag {
        name: "val-size",
        value: "bytes",
        default: "32",
        help: "of every value",
    },
    Flag {
        name: "prevkv",
        value: "",
        default: "false",
        help: "events hold what was there before",
    },
];

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const PUT: &str = "/etcdserverpb.KV/Put";

/// Events that are later than this after the last put are lost.
const LATEST: Duration = Duration::from_secs(20);

/// Kinds in the outcome.
const KINDS: &[&str] = &[
    "put",
    "event after the put was sent",
    "event after the put was answered",
];

pub(crate) fn run(given: &Given, plan: Plan, show: bool) -> Result<Outcome> {
    let streams = given.number("streams", 1, 1_000_000)?;
    let watchers = given.number("watchers-per-stream", 1, 1_000_000)?;
    let puts = given.number("put-total", 1, 1_000_000_000)?;
    let rate = given.number("put-rate", 1, 1_000_000_000)?;
    let create = WatchCreateRequest {
        key: cases::value(given, "key-size")?,
        prev_kv: given.is_on("prevkv"),
        ..Default::default()
    };
    let put = PutRequest {
        key: create.key.clone(),
        value: cases::value(given, "val-size")?,
        ..Default::default()
    };
    load::runtime()?.block_on(async {
        let mut connections = load::connect(&plan.endpoints, plan.conns).await?;
        let mut open = Vec::new();
        for index in 0..streams {
            let connection = &mut connections[index % plan.conns];
            open.push(subscribe(connection, &create, watchers).await?);
        }
        let shared = Shared {
            sent: RefCell::new(Vec::with_capacity(puts)),
            answered: RefCell::new(Vec::with_capacity(puts)),
            outcome: RefCell::new(Outcome::new("watch-latency", KINDS)),
        };
        let cpu = proc::own_cpu()?;
        let start = Instant::now();
        let listening = try_join_all(
            open.into_iter()
                .map(|stream| listen(stream, &shared, watchers, puts)),
        );
        let all_put = Notify::new();
        let putting = async {
            put_all(&mut connections[0], &put, puts, rate as f64, &shared).await?;
            all_put.notify_one();
            Ok(())
        };
        let in_time = async {
            tokio::select! {
                result = listening => result,
                () = async { all_put.notified().await; tokio::time::sleep(LATEST).await } => {
                    Err(anyhow!("not all events came within {LATEST:?} after the last put"))
                }
            }
        };
        let all = async { tokio::try_join!(putting, in_time) };
        let mut all = std::pin::pin!(all);
        let mut progress = Progress::new("watch-latency", puts as u64, show);
        loop {
            tokio::select! {
                biased;
                result = &mut all => break drop(result?),
                () = progress.tick() => progress.show(shared.answered.borrow().len() as u64),
            }
        }
        let mut outcome = shared.outcome.replace(Outcome::new("", &[]));
        outcome.elapsed = start.elapsed();
        outcome.client_cpu = proc::own_cpu()?.saturating_sub(cpu);
        Ok(outcome)
    })
}

/// When each put was sent and answered, and what was seen of it.
struct Shared {
    sent: RefCell<Vec<Instant>>,
    answered: RefCell<Vec<Instant>>,
    outcome: RefCell<Outcome>,
}

/// Opens a stream with all its watchers.
async fn subscribe(
    connection: &mut Connection,
    create: &WatchCreateRequest,
    watchers: usize,
) -> Result<Exchange> {
    let mut stream = connection.exchange(WATCH).await?;
    let request = WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(create.clone())),
    };
    for _ in 0..watchers {
        stream.send(&request)?;
    }
    for _ in 0..watchers {
        let answer: WatchResponse = stream.next().await?.context("the watch stream ended")?;
        if !answer.created || answer.canceled {
            bail!("a watcher was not created: {:?}", answer.cancel_reason);
        }
    }
    Ok(stream)
}

/// Reads the events of one stream until every watcher has had all.
async fn listen(mut stream: Exchange, shared: &Shared, watchers: usize, puts: usize) -> Result<()> {
    // How many events each watcher has had; the key's puts come in order, one by one.
    let mut seen: HashMap<i64, usize> = HashMap::new();
    let mut left = watchers * puts;
    while left > 0 {
        let answer: WatchResponse = stream.next().await?.context("the watch stream ended")?;
        if answer.canceled {
            bail!(
                "watcher {} was canceled: {:?}",
                answer.watch_id,
                answer.cancel_reason
            );
        }
        let now = Instant::now();
        let seen = seen.entry(answer.watch_id).or_default();
        let mut outcome = shared.outcome.borrow_mut();
        for _ in &answer.events {
            let sent = *shared
                .sent
                .borrow()
                .get(*seen)
                .context("an event of a put that was never sent")?;
            // An event may well be faster than the answer.
            let answered = shared.answered.borrow().get(*seen).copied().unwrap_or(now);
            outcome.record(1, now - sent);
            outcome.record(2, now.saturating_duration_since(answered));
            *seen += 1;
            left = left.checked_sub(1).context("more events than puts")?;
        }
    }
    Ok(())
}

async fn put_all(
    connection: &mut Connection,
    put: &PutRequest,
    puts: usize,
    rate: f64,
    shared: &Shared,
) -> Result<()> {
    let start = Instant::now();
    for number in 0..puts {
        let due = start + Duration::from_secs_f64(number as f64 / rate);
        tokio::time::sleep_until(due.into()).await;
        let sent = Instant::now();
        shared.sent.borrow_mut().push(sent);
        let _: PutResponse = connection
            .ask(PUT, put)
            .await
            .context("a put failed, and the count of events with it")?;
        shared.answered.borrow_mut().push(Instant::now());
        shared.outcome.borrow_mut().record(0, sent.elapsed());
    }
    Ok(())
}
