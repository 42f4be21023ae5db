//! A client that writes without a pause, in a Pod of its own, and remembers what was acknowledged.
//!
//! ```text
//! client write URL RUN   one key after the other, each until it is acknowledged; a line a second says how far
//! client check URL RUN N reads them back, and fails when one of the first N is not as it was written
//! ```
//!
//! Any program with an etcd client would do; this one says how long writes were out.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::{Channel, Endpoint};

/// An answer later than this is none.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two writes: a load that a small machine does not notice beside all else.
const PAUSE: Duration = Duration::from_millis(10);

/// Between two lines about the progress.
const REPORT: Duration = Duration::from_secs(1);

/// Keys in one answer of a check.
const PAGE: i64 = 1000;

/// `kube-cluster client …`
pub fn command(words: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match words {
        ["write", url, run] => runtime.block_on(write(url, run)),
        ["check", url, run, count] => runtime.block_on(check(url, run, count.parse()?)),
        _ => bail!("expected: client write URL RUN, or client check URL RUN N"),
    }
}

fn key(run: &str, number: u64) -> String {
    format!("whole/{run}/{number:012}")
}

fn value(run: &str, number: u64) -> String {
    format!("{number} of {run} {}", "x".repeat(200))
}

/// A connection of its own; a new one may lead to another member.
fn connect(url: &str) -> Result<KvClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE);
    Ok(KvClient::new(endpoint.connect_lazy()))
}

async fn write(url: &str, run: &str) -> Result<()> {
    let mut client = connect(url)?;
    let mut last_ok = Instant::now();
    let mut longest = Duration::ZERO;
    let mut reported = Instant::now();
    let mut number = 0;
    loop {
        let put = PutRequest {
            key: key(run, number + 1).into(),
            value: value(run, number + 1).into(),
            ..Default::default()
        };
        match tokio::time::timeout(PATIENCE, client.put(put)).await {
            Ok(Ok(_)) => {
                number += 1;
                longest = longest.max(last_ok.elapsed());
                last_ok = Instant::now();
            }
            // The same key is written again, until it is acknowledged.
            Ok(Err(_)) | Err(_) => client = connect(url)?,
        }
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            let out = longest.max(last_ok.elapsed());
            println!("acknowledged {number} longest_gap_ms {}", out.as_millis());
            longest = Duration::ZERO;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn check(url: &str, run: &str, count: u64) -> Result<()> {
    let mut client = connect(url)?;
    let mut seen = 0;
    while seen < count {
        let page = client
            .range(RangeRequest {
                key: key(run, seen + 1).into(),
                range_end: key(run, count + 1).into(),
                limit: PAGE,
                ..Default::default()
            })
            .await
            .context("cannot read")?
            .into_inner();
        ensure!(
            !page.kvs.is_empty(),
            "{} was acknowledged and is gone",
            key(run, seen + 1)
        );
        for pair in page.kvs {
            seen += 1;
            ensure!(
                pair.key == key(run, seen).as_bytes(),
                "{} was acknowledged and is gone",
                key(run, seen)
            );
            ensure!(
                pair.value == value(run, seen).as_bytes(),
                "{} is not as it was written",
                key(run, seen)
            );
        }
    }
    println!("{seen} keys are as they were acknowledged");
    Ok(())
}
