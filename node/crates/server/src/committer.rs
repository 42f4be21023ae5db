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
    defragment: Waiters<DefragmentDone>,
    committed: Waiters<oneshot::Sender<()>>,
    /// `etcd_disk_backend_commit_duration_seconds`
    pub commit_seconds: Histogram,
    /// `etcd_disk_backend_defrag_duration_seconds`
    pub defragment_seconds: Histogram,
}

impl Control {
    /// Answers after the next commit that begins from now on; with an error when there will be none.
    pub fn commit(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.committed.push(sender);
        receiver
    }

    /// Asks for a defragmentation; the committer does it between two commits. An error of the channel
    /// means that there will be none.
    pub fn defragment(&self) -> oneshot::Receiver<Result<backend::Defragmented, backend::Error>> {
        let (sender, receiver) = oneshot::channel();
        self.defragment.push(sender);
        receiver
    }

    /// Nothing will be committed any more: whoever waits, or comes to wait, hears so.
    fn close(&self) {
        self.defragment.close();
        self.committed.close();
    }
}

/// Who waits for the thread. When it has ended for good, nobody may begin to wait.
struct Waiters<T>(Mutex<Option<Vec<T>>>);

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl<T> Waiters<T> {
    fn push(&self, waiter: T) {
        self.extend([waiter]);
    }

    /// After [`Waiters::close`] they are dropped, which their receivers see.
    fn extend(&self, waiters: impl IntoIterator<Item = T>) {
        if let Some(list) = &mut *self.0.lock() {
            list.extend(waiters);
        }
    }

    fn take(&self) -> Vec<T> {
        self.0
            .lock()
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    fn close(&self) {
        *self.0.lock() = None;
    }
}

/// Held by the thread: sees to it that nobody waits for a thread that failed, and that the member ends when
/// it panicked. A member without a committer would look alive until its memory is full.
struct Guard {
    control: Arc<Control>,
    fatal: Arc<dyn Fn(String) + Send + Sync>,
    stopped_in_order: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.stopped_in_order {
            return;
        }
        self.control.close();
        if std::thread::panicking() {
            (self.fatal)("the committer of the database panicked: a fault in this program, see the message before this one. Nothing that was not on disk has been acknowledged; start this member again, and report the message".to_owned());
        }
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
                let mut guard = Guard {
                    control,
                    fatal,
                    stopped_in_order: false,
                };
                guard.stopped_in_order = run(committer, &guard.control, interval, &*guard.fatal);
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
            // Its guard has said so.
            tracing::error!("the committer's thread panicked");
        }
    }
}

impl Drop for CommitterThread {
    fn drop(&mut self) {
        self.stop();
        self.control.close();
    }
}

/// Until it is told to stop: true. False after an error that ends the member.
fn run(
    mut committer: Committer,
    control: &Control,
    interval: Duration,
    fatal: &dyn Fn(String),
) -> bool {
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
        let waiting = control.committed.take();
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
                    control.committed.extend(waiting);
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(error) => {
                    fatal(format!("committing the database failed: {error}"));
                    return false;
                }
            }
        }
        for done in control.defragment.take() {
            let began = Instant::now();
            let result = committer.defragment();
            control.defragment_seconds.observe(began.elapsed());
            let _ = done.send(result);
        }
        if stop {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use seams::{Fault, FaultOperation, MemDisk};

    use super::*;

    #[test]
    fn nobody_waits_for_a_committer_that_has_failed() {
        let disk = Arc::new(MemDisk::new());
        let path = Path::new("/db");
        let options = backend::Options::default();
        let (backend, mut writer, committer) =
            backend::Backend::open(disk.clone(), path, options).expect("a database");
        let control: Arc<Control> = Arc::default();
        let (told, fatal) = mpsc::channel();
        let tell = Arc::new(move |reason: String| {
            let _ = told.send(reason);
        });
        let _thread =
            CommitterThread::start(committer, control.clone(), Duration::from_millis(1), tell)
                .expect("a thread");
        disk.inject(Fault {
            operation: FaultOperation::Sync,
            after: 0,
            forever: true,
            os_error: 5, // EIO
        });
        writer.put(backend::Bucket::Key, b"k", bytes::Bytes::from_static(b"v"));
        writer.end_entry(1, 1);
        let waiting = control.commit();
        backend.request_commit();
        assert!(waiting.blocking_recv().is_err());
        let reason = fatal.recv().expect("the member ends");
        assert!(
            reason.contains("committing the database failed"),
            "{reason}"
        );
        // Also who comes later.
        assert!(control.commit().blocking_recv().is_err());
        assert!(control.defragment().blocking_recv().is_err());
    }

    #[test]
    fn a_panic_ends_the_member_and_lets_nobody_wait() {
        let control: Arc<Control> = Arc::default();
        let (told, fatal) = mpsc::channel();
        let waiting = control.commit();
        let guard = Guard {
            control: control.clone(),
            fatal: Arc::new(move |reason: String| {
                let _ = told.send(reason);
            }),
            stopped_in_order: false,
        };
        let thread = std::thread::spawn(move || {
            let _guard = guard;
            panic!("as a fault of ours would");
        });
        assert!(thread.join().is_err());
        assert!(waiting.blocking_recv().is_err());
        assert!(fatal.recv().expect("said").contains("panicked"));
    }
}
