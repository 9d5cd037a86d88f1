//! The bytes of one connection, and the patience with whoever is at the other end.
//!
//! It lies below TLS, so that it holds for both. A client that has begun the head of a request must
//! end it in time, and one that takes nothing of what it is sent for too long is cut off. How long a
//! body may take is for whoever reads it.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use lockbay::clock::{Clock, Tick};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long a client may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For the head of a request, from its first byte.
    pub(super) head: Duration,
    /// Without taking anything of what it is sent.
    pub(super) write: Duration,
}

/// Counts requests up at their beginning and at their end: odd while one is served.
#[derive(Clone, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// A request has come; it is served until what is given is dropped.
    pub(super) fn begin(&self) -> Serving {
        self.0.fetch_add(1, Ordering::Relaxed);
        Serving(self.clone())
    }

    fn beat(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request that is served.
pub(super) struct Serving(Pulse);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The head of a request that has begun to come.
struct Head {
    /// The beat of the pulse at which it began.
    beat: u64,
    until: Tick,
    /// Set once the rest had to be waited for.
    timer: Option<Timer>,
}

/// A connection that is not waited for without end.
pub(super) struct Wire {
    stream: TcpStream,
    clock: Clock,
    patience: Patience,
    pulse: Pulse,
    head: Option<Head>,
    stalled: Option<Timer>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, clock: Clock, patience: Patience, pulse: Pulse) -> Self {
        Wire { stream, clock, patience, pulse, head: None, stalled: None }
    }

    /// What was read has this meaning for the head of the next request: `came` says whether there
    /// was anything.
    fn judge_read(
        &mut self,
        cx: &mut Context<'_>,
        read: &Poll<io::Result<()>>,
        came: bool,
    ) -> bool {
        let beat = self.pulse.beat();
        if beat % 2 == 1 {
            self.head = None;
            return true;
        }
        if self.head.as_ref().is_some_and(|head| head.beat != beat) {
            self.head = None;
        }
        if came && self.head.is_none() {
            let until = self.clock.tick() + self.patience.head;
            self.head = Some(Head { beat, until, timer: None });
        }
        let Some(head) = &mut self.head else { return true };
        if read.is_ready() {
            return true;
        }
        let (clock, until) = (&self.clock, head.until);
        let timer = head.timer.get_or_insert_with(|| {
            let clock = clock.clone();
            Box::pin(async move { clock.sleep_until(until).await })
        });
        timer.as_mut().poll(cx).is_pending()
    }

    /// What was written, unless the client has taken nothing for too long.
    fn judge_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let (clock, limit) = (&self.clock, self.patience.write);
        let timer = self.stalled.get_or_insert_with(|| {
            let clock = clock.clone();
            Box::pin(async move { clock.sleep(limit).await })
        });
        match timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let why = format!("the client took nothing for {limit:?}");
                Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, why)))
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let came = buf.filled().len() > before;
        if this.judge_read(cx, &read, came) {
            return read;
        }
        let why = format!("the head did not arrive within {:?}", this.patience.head);
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, why)))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.judge_write(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.judge_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The body of an answer, with which its request ends.
pub(super) struct Answer {
    body: Body,
    _serving: Serving,
}

impl Answer {
    pub(super) fn new(body: Body, serving: Serving) -> Self {
        Answer { body, _serving: serving }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
