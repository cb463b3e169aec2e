//! Serves a router on a socket.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::transport::let_wait;

/// Connections at the same time. Further ones wait in the backlog of the socket.
pub const MAX_CONNECTIONS: usize = 16_384;

/// Time after which a connection on which nothing moves is closed, so that those who connect and say nothing, or ask and
/// do not read, cannot fill the room. Longer than an answer may be held back and than streams are silent.
pub(super) const IDLE: Duration = Duration::from_secs(75);

/// Time that requests under way have when the server is asked to stop.
const FAREWELL: Duration = Duration::from_secs(10);

/// Serves `router` until `shutdown` resolves; then requests under way have some seconds to end.
///
/// # Errors
/// Those of the socket.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let signal = async move {
        shutdown.await;
        // Nobody waits for it if the server has failed.
        let _ = stopping.send(());
    };
    let_wait(&listener)?;
    let listener = Bounded { listener, room: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    let serving = axum::serve(listener, router).with_graceful_shutdown(signal);
    let deadline = async {
        // An error means that the server ends by itself.
        if stopped.await.is_ok() {
            tokio::time::sleep(FAREWELL).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = serving => served,
        () = deadline => Ok(()),
    }
}

/// A listener with room for so many connections at a time.
struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

/// A connection that fails when nothing has moved on it for [`IDLE`], and gives its room back when it is dropped.
struct Counted<S> {
    stream: S,
    idle: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl<S> Counted<S> {
    fn new(stream: S, room: OwnedSemaphorePermit) -> Self {
        Self { stream, idle: Box::pin(tokio::time::sleep(IDLE)), _room: room }
    }

    /// Gives on what the stream has said: bytes that moved start the time anew, and waiting ends with it.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        said: Poll<io::Result<T>>,
        moved: impl FnOnce(&T) -> bool,
    ) -> Poll<io::Result<T>> {
        match said {
            Poll::Ready(said) => {
                if said.as_ref().is_ok_and(moved) {
                    self.idle.as_mut().reset(Instant::now() + IDLE);
                }
                Poll::Ready(said)
            }
            Poll::Pending => {
                ready!(self.idle.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl Listener for Bounded {
    type Io = Counted<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted<TcpStream>, SocketAddr) {
        let room = Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Answers are small and somebody waits for them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%address, %error, "cannot switch off Nagle's algorithm");
        }
        (Counted::new(stream, room), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let said = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.watched(cx, said, |()| buffer.filled().len() > before)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let said = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, said, |written| *written > 0)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let said = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.watched(cx, said, |written| *written > 0)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum::response::sse::{Event, KeepAlive, Sse};
    use axum::routing::get;
    use futures::stream;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::http::own::events::KEEP_ALIVE;

    /// Connections in memory, because the clock stands still for them whenever something moves.
    struct Memory(mpsc::UnboundedReceiver<Counted<DuplexStream>>);

    impl Listener for Memory {
        type Io = Counted<DuplexStream>;
        type Addr = ();

        async fn accept(&mut self) -> (Self::Io, ()) {
            match self.0.recv().await {
                Some(stream) => (stream, ()),
                None => std::future::pending().await,
            }
        }

        fn local_addr(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A connection to a server with a small answer, a large one, and a stream without events; and the server's room.
    fn connected() -> (DuplexStream, Arc<Semaphore>) {
        let silent = async || {
            let events = stream::pending::<Result<Event, std::convert::Infallible>>();
            Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        };
        let router = Router::new()
            .route("/small", get(async || "small"))
            .route("/large", get(async || "x".repeat(1 << 20)))
            .route("/events", get(silent));
        let (give, take) = mpsc::unbounded_channel();
        tokio::spawn(axum::serve(Memory(take), router).into_future());
        let room = Arc::new(Semaphore::new(1));
        let (near, far) = tokio::io::duplex(1024);
        let permit = Arc::clone(&room).try_acquire_owned().unwrap();
        assert!(give.send(Counted::new(far, permit)).is_ok());
        (near, room)
    }

    /// The connection gives its room back once it has been idle for long enough, and not much later.
    async fn is_closed_when_idle(room: &Semaphore) {
        let began = Instant::now();
        drop(
            tokio::time::timeout(IDLE * 2, room.acquire()).await.expect("the connection is closed").unwrap(),
        );
        assert!(began.elapsed() >= IDLE, "closed after {:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_finish_a_request_is_closed() {
        for head in ["", "GET /small HTTP/1.1\r\nHost: x\r\n"] {
            let (mut stream, room) = connected();
            stream.write_all(head.as_bytes()).await.unwrap();
            is_closed_when_idle(&room).await;
            assert!(stream.write_all(b"more").await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_the_answer_is_closed() {
        let (mut stream, room) = connected();
        // The second request lies there unread, so that the server waits for nothing but room to write.
        let request = "GET /large HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
        stream.write_all(request.as_bytes()).await.unwrap();
        is_closed_when_idle(&room).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_used_again_stays() {
        let (mut stream, room) = connected();
        for _ in 0..5 {
            stream.write_all(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"small") {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
            }
            tokio::time::sleep(IDLE * 2 / 3).await;
        }
        assert_eq!(room.available_permits(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_events_stays_without_events() {
        let (mut stream, room) = connected();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let mut lines = BufReader::new(stream).lines();
        while began.elapsed() < IDLE * 4 {
            assert!(lines.next_line().await.unwrap().is_some(), "closed after {:?}", began.elapsed());
        }
        assert_eq!(room.available_permits(), 0);
    }
}
