//! Small writes, gathered: `h2` writes once per request, which is a system call each.
//!
//! A write goes into a buffer, a flush only notes that it is owed and wakes the connection's task once more.
//! When the task comes around again, `h2` reads before it writes; the buffer goes out then, with all that
//! was asked for in between. The server's side of the same idea is `rpc::coalesce`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// From here on a write goes out at once.
const BUFFER_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Gather<T> {
    inner: T,
    buffer: Vec<u8>,
    written: usize,
    owed: bool,
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    pub(super) fn new(inner: T) -> Self {
        Self {
            inner,
            buffer: Vec::with_capacity(4 << 10),
            written: 0,
            owed: false,
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let count =
                ready!(Pin::new(&mut self.inner).poll_write(cx, &self.buffer[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.buffer.clear();
        self.written = 0;
        self.owed = false;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.owed
            && let Poll::Ready(Err(error)) = self.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= BUFFER_BYTES_MAX {
            ready!(self.poll_drain(cx))?;
        }
        self.buffer.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.len() >= BUFFER_BYTES_MAX {
            return self.poll_drain(cx);
        }
        if !self.buffer.is_empty() && !self.owed {
            self.owed = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
