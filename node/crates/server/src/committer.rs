//! The backend committer's thread: a batch when one is handed over, and whatever there is every
//! `--backend-batch-interval`. A full disk is waited out; the batch stays readable meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backend::Committer;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::metrics::Histogram;

/// After a failed commit that can be tried again, wait this long: room may come back.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// After commits, freed memory goes back to the system this often.
const RELEASE_INTERVAL: Duration = Duration::from_secs(5);

/// Who waits for a defragmentation.
type DefragmentDone = oneshot::Sender<Result<backend::Defragmented, backend::Error>>;

/// What the thread and its owner share.
#[derive(Default)]
pub struct Control {
    stop: AtomicBool,
    defragment: Mutex<Vec<DefragmentDone>>,
    committed: Mutex<Vec<oneshot::Sender<()>>>,
    /// `etcd_disk_backend_commit_duration_seconds`
    pub commit_seconds: Histogram,
    /// `etcd_disk_backend_defrag_duration_seconds`
    pub defragment_seconds: Histogram,
}

impl Control {
    /// Answers after the next commit that begins from now on.
    pub fn commit(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.committed.lock().push(sender);
        receiver
    }

    /// Asks for a defragmentation; the committer does it between two commits.
    pub fn defragment(&self) -> oneshot::Receiver<Result<backend::Defragmented, backend::Error>> {
        let (sender, receiver) = oneshot::channel();
        self.defragment.lock().push(sender);
        receiver
    }
}

/// The running thread.
pub struct CommitterThread {
    control: Arc<Control>,
    interval: Duration,
    fatal: Arc<dyn Fn(String) + Send + Sync>,
    thread: Option<JoinHandle<()>>,
}

impl CommitterThread {
    /// Starts the thread. `fatal` ends the member.
    pub fn start(
        committer: Committer,
        control: Arc<Control>,
        interval: Duration,
        fatal: Arc<dyn Fn(String) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let mut this = Self {
            control,
            interval,
            fatal,
            thread: None,
        };
        this.restart(committer);
        Ok(this)
    }

    /// Goes on with another database; the thread must have been stopped.
    pub fn restart(&mut self, committer: Committer) {
        self.control.stop.store(false, Ordering::Relaxed);
        let (control, interval, fatal) = (self.control.clone(), self.interval, self.fatal.clone());
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || {
                run(committer, &control, interval, &*fatal);
            });
        match thread {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => (self.fatal)(format!("the committer's thread cannot start: {error}")),
        }
    }

    /// Ends the thread after a last commit.
    pub fn stop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            (self.fatal)("the committer's thread panicked".to_owned());
        }
    }
}

impl Drop for CommitterThread {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(mut committer: Committer, control: &Control, interval: Duration, fatal: &dyn Fn(String)) {
    let mut released = Instant::now();
    let mut committed = false;
    loop {
        if committed && released.elapsed() >= RELEASE_INTERVAL {
            seams::release_unused_memory();
            released = Instant::now();
            committed = false;
        }
        let work = committer.wait(interval);
        let stop = control.stop.load(Ordering::Relaxed);
        let waiting = std::mem::take(&mut *control.committed.lock());
        if work || stop || !waiting.is_empty() {
            let began = Instant::now();
            match committer.commit() {
                Ok(_) => {
                    control.commit_seconds.observe(began.elapsed());
                    committed = true;
                    for done in waiting {
                        let _ = done.send(());
                    }
                }
                Err(error) if error.can_be_retried() && !stop => {
                    tracing::error!(%error, "committing the database failed; trying again");
                    control.committed.lock().extend(waiting);
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(error) => {
                    fatal(format!("committing the database failed: {error}"));
                    return;
                }
            }
        }
        for done in std::mem::take(&mut *control.defragment.lock()) {
            let began = Instant::now();
            let result = committer.defragment();
            control.defragment_seconds.observe(began.elapsed());
            let _ = done.send(result);
        }
        if stop {
            return;
        }
    }
}
