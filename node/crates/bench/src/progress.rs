//! A bar on standard error, where that is a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval};

const REDRAW: Duration = Duration::from_millis(250);
const WIDTH: usize = 40;

pub(crate) struct Progress {
    name: &'static str,
    total: u64,
    start: Instant,
    redraw: Option<Interval>,
}

impl Progress {
    pub(crate) fn new(name: &'static str, total: u64, show: bool) -> Self {
        let redraw = (show && io::stderr().is_terminal()).then(|| {
            let mut redraw = interval(REDRAW);
            redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
            redraw
        });
        Self {
            name,
            total,
            start: Instant::now(),
            redraw,
        }
    }

    /// Comes when the bar is to be drawn again; never where there is none.
    pub(crate) async fn tick(&mut self) {
        match &mut self.redraw {
            Some(redraw) => drop(redraw.tick().await),
            None => std::future::pending().await,
        }
    }

    pub(crate) fn show(&self, done: u64) {
        let part = done.min(self.total) as f64 / self.total.max(1) as f64;
        let bar = "=".repeat((part * WIDTH as f64) as usize);
        let speed = done as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        // A terminal that is gone needs no bar.
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{} [{bar:<WIDTH$}] {:3.0} %  {speed:.0}/s",
            self.name,
            part * 100.0
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.redraw.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
