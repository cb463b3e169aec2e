//! A network that is slower than loopback: a proxy for TCP that lets everything through later.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// Pieces under way in one direction of a connection, at most.
const PIECES: usize = 4096;

/// Largest piece.
const PIECE_BYTES: usize = 64 << 10;

/// The runtime's timer is as exact as this; the rest is slept exactly.
const TIMER: Duration = Duration::from_millis(2);

/// A running proxy. Dropping it closes its connections.
#[derive(Debug)]
pub(in super::super) struct Delay {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Delay {
    /// Starts a proxy before `target` that delays each direction by `each_way`.
    pub(super) async fn start(target: SocketAddr, each_way: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr().context("cannot tell the address of the socket")?;
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(join(near, target, each_way));
            }
        });
        Ok(Self { address, accepting })
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Joins a connection with one to the target until both directions are closed.
async fn join(near: TcpStream, target: SocketAddr, each_way: Duration) {
    // A target that is not there is what the one who connects has to cope with: its connection closes.
    let Ok(far) = TcpStream::connect(target).await else { return };
    if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(pass(near_in, far_out, each_way), pass(far_in, near_out, each_way));
}

async fn pass(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, later: Duration) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let read = async {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let piece = Bytes::copy_from_slice(&buffer[..length]);
            if sender.send((Instant::now() + later, piece)).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    let write = async {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_exactly(due).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
        // Whoever reads finds the end; that it may be gone is no matter.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

async fn sleep_exactly(due: Instant) {
    tokio::time::sleep(due.saturating_duration_since(Instant::now()).saturating_sub(TIMER)).await;
    let left = due.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        tokio::task::block_in_place(|| std::thread::sleep(left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_passes_in_order_and_not_before_its_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let each_way = Duration::from_millis(3);
        let delay = Delay::start(listener.local_addr().unwrap(), each_way).await.unwrap();
        let mut near = TcpStream::connect(delay.address()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let began = Instant::now();
        let (mut there, mut back) = (vec![0; sent.len()], [0; 4]);
        let (wrote, read) = tokio::join!(near.write_all(&sent), far.read_exact(&mut there));
        wrote.unwrap();
        read.unwrap();
        assert_eq!(there, sent);
        far.write_all(b"done").await.unwrap();
        near.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"done");
        assert!(began.elapsed() >= 2 * each_way);
        drop(delay);
        assert_eq!(near.read(&mut back).await.unwrap_or_default(), 0);
    }
}
