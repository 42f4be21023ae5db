//! Clients that ask in turn, all on one thread, and what they saw.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use http::Request;
use local::grpc::{Connection, Error};
use tokio::sync::Mutex;

use crate::proc;
use crate::progress::Progress;

/// What a latency may be, in nanoseconds: below it is counted as the least, above it as the most.
const LATENCY_NS: (u64, u64) = (1_000, 600_000_000_000);
/// Three digits: 12.3 ms and 12.4 ms are told apart.
const DIGITS: u8 = 3;
/// A broken connection is opened again at most this often.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// Who asks, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `host:port`
    pub(crate) endpoints: Vec<String>,
    /// Dealt to the endpoints in turn.
    pub(crate) conns: usize,
    /// Dealt to the connections in turn; each has one request under way.
    pub(crate) clients: usize,
    pub(crate) total: u64,
    /// Requests a second, of all clients together; `None`: as fast as answers come.
    pub(crate) rate: Option<f64>,
}

/// What is asked.
pub(crate) struct Work<'a> {
    pub(crate) name: &'static str,
    /// Paths of methods; a call names its own by index.
    pub(crate) methods: &'a [&'static str],
    /// Kinds of calls that are reported apart.
    pub(crate) kinds: &'a [&'static str],
    /// The request with this number, asked by this client.
    pub(crate) next: &'a mut dyn FnMut(u64, usize) -> Call,
}

/// One request.
pub(crate) struct Call {
    pub(crate) method: usize,
    pub(crate) kind: usize,
    /// With its gRPC head.
    pub(crate) request: Bytes,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    /// From the first request to the last answer, connections being open.
    pub(crate) elapsed: Duration,
    /// By kind: nanoseconds of the answers without an error.
    pub(crate) kinds: Vec<(&'static str, Histogram<u64>)>,
    /// How often each text came.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Bytes of answers.
    pub(crate) bytes: u64,
    /// Our own processor time.
    pub(crate) client_cpu: Duration,
}

impl Outcome {
    pub(crate) fn new(name: &'static str, kinds: &[&'static str]) -> Self {
        Self {
            name,
            elapsed: Duration::ZERO,
            kinds: kinds.iter().map(|&kind| (kind, histogram())).collect(),
            errors: BTreeMap::new(),
            bytes: 0,
            client_cpu: Duration::ZERO,
        }
    }

    /// All kinds as one.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        let mut all = histogram();
        for (_, kind) in &self.kinds {
            all.add(kind).expect("all histograms have one shape");
        }
        all
    }

    /// Answers without an error.
    pub(crate) fn answered(&self) -> u64 {
        self.kinds.iter().map(|(_, kind)| kind.len()).sum()
    }

    /// Answers with one.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.answered() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub(crate) fn record(&mut self, kind: usize, latency: Duration) {
        let latency = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.kinds[kind]
            .1
            .saturating_record(latency.max(LATENCY_NS.0));
    }

    pub(crate) fn count_error(&mut self, error: &Error) {
        *self.errors.entry(error.to_string()).or_insert(0) += 1;
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, DIGITS)
        .expect("bounds and digits are constants")
}

/// Runs a whole load on this thread.
pub(crate) fn run(plan: &Plan, work: Work<'_>, show: bool) -> Result<Outcome> {
    runtime()?.block_on(drive(plan, work, show))
}

/// One thread, with sockets and clock.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Opens `count` connections, to the endpoints in turn.
pub(crate) async fn connect(endpoints: &[String], count: usize) -> Result<Vec<Connection>> {
    ensure!(
        !endpoints.is_empty(),
        "--endpoints is empty, expected host:port"
    );
    let mut connections = Vec::new();
    for endpoint in endpoints.iter().cycle().take(count) {
        connections.push(Connection::open(endpoint).await?);
    }
    Ok(connections)
}

async fn drive(plan: &Plan, work: Work<'_>, show: bool) -> Result<Outcome> {
    let mut lines = Vec::new();
    let connections = connect(&plan.endpoints, plan.conns.min(plan.clients)).await?;
    for (connection, endpoint) in connections.into_iter().zip(plan.endpoints.iter().cycle()) {
        lines.push(Line::new(endpoint, connection, work.methods)?);
    }
    let outcome = Outcome::new(work.name, work.kinds);
    let shared = Shared {
        total: plan.total,
        taken: Cell::new(0),
        next: RefCell::new(work.next),
        outcome: RefCell::new(outcome),
        start: Instant::now(),
        interval_s: plan.rate.map(f64::recip),
    };
    let cpu = proc::own_cpu()?;
    let mut clients: FuturesUnordered<_> = (0..plan.clients)
        .map(|index| client(&shared, &lines[index % lines.len()], index))
        .collect();
    let mut progress = Progress::new(work.name, plan.total, show);
    loop {
        tokio::select! {
            biased;
            ended = clients.next() => if ended.is_none() { break },
            () = progress.tick() => progress.show(shared.outcome.borrow().answered()),
        }
    }
    drop((progress, clients));
    let elapsed = shared.start.elapsed();
    let mut outcome = shared.outcome.into_inner();
    outcome.elapsed = elapsed;
    outcome.client_cpu = proc::own_cpu()?.saturating_sub(cpu);
    Ok(outcome)
}

/// What the clients of one thread share.
struct Shared<'a> {
    total: u64,
    taken: Cell<u64>,
    next: RefCell<&'a mut dyn FnMut(u64, usize) -> Call>,
    outcome: RefCell<Outcome>,
    start: Instant,
    /// Between two requests, where there is a rate.
    interval_s: Option<f64>,
}

impl Shared<'_> {
    /// The number of the next request, if there is one.
    fn take(&self) -> Option<u64> {
        let number = self.taken.get();
        (number < self.total).then(|| {
            self.taken.set(number + 1);
            number
        })
    }

    /// Waits until the request is due; the moment from which its latency counts.
    async fn due(&self, number: u64) -> Instant {
        let Some(interval_s) = self.interval_s else {
            return Instant::now();
        };
        let due = self.start + Duration::from_secs_f64(interval_s * number as f64);
        if due <= Instant::now() {
            return due;
        }
        // The runtime's clock ticks in milliseconds; what we oversleep is not the server's doing.
        tokio::time::sleep_until(due.into()).await;
        Instant::now()
    }
}

async fn client(shared: &Shared<'_>, line: &Line, index: usize) {
    let mut phone = line.pick_up();
    while let Some(number) = shared.take() {
        let start = shared.due(number).await;
        let call = (shared.next.borrow_mut())(number, index);
        let method = phone.methods[call.method].clone();
        let result = phone.connection.call(method, call.request, false).await;
        let latency = start.elapsed();
        let broken = result.as_ref().is_err_and(Error::is_broken);
        {
            let mut outcome = shared.outcome.borrow_mut();
            match result {
                Ok(reply) => {
                    outcome.bytes += reply.bytes;
                    outcome.record(call.kind, latency);
                }
                Err(error) => outcome.count_error(&error),
            }
        }
        if broken {
            phone = line.reopen(phone.generation).await;
        }
    }
}

/// A connection that is opened again when it broke.
struct Line {
    endpoint: String,
    now: RefCell<Phone>,
    reopening: Mutex<()>,
}

/// A client's own hold on its line.
#[derive(Clone)]
struct Phone {
    connection: Connection,
    methods: Vec<Request<()>>,
    generation: u64,
}

impl Line {
    fn new(endpoint: &str, connection: Connection, methods: &[&'static str]) -> Result<Self> {
        let methods = methods.iter().map(|&path| connection.method(path));
        let methods = methods
            .collect::<Result<_, _>>()
            .context("a method's path")?;
        Ok(Self {
            endpoint: endpoint.to_owned(),
            now: RefCell::new(Phone {
                connection,
                methods,
                generation: 0,
            }),
            reopening: Mutex::new(()),
        })
    }

    fn pick_up(&self) -> Phone {
        self.now.borrow().clone()
    }

    /// A newer connection than `broken`, opened by whoever comes first; the old one if that fails.
    async fn reopen(&self, broken: u64) -> Phone {
        let _turn = self.reopening.lock().await;
        if self.now.borrow().generation == broken {
            match Connection::open(&self.endpoint).await {
                Ok(connection) => {
                    let mut now = self.now.borrow_mut();
                    now.connection = connection;
                    now.generation += 1;
                }
                Err(_) => tokio::time::sleep(REOPEN_PAUSE).await,
            }
        }
        self.pick_up()
    }
}
