//! The sockets of the workers.
//!
//! **Why Unix sockets.** Measured with a bare Python loop at the other end (Python 3.11, Linux 6.18, two cores of a virtual
//! machine that had other work as well, medians of the rounds; frames as in `PROTOCOL.md`, at most 2048 tasks under way). Rounds
//! of a flood differ by up to a factor of two, so only the order of magnitude counts, and the ring failed its own check in two
//! rounds, for reasons that were not found:
//!
//! | | round trip of one task | frames of 64 tasks | frames of 512 tasks |
//! | --- | --- | --- | --- |
//! | two pipes | 8.0 µs | 2.4 M tasks/s | 3.1 M tasks/s |
//! | Unix socket | 13.5 µs | 2.0 M tasks/s | 2.9 M tasks/s |
//! | rings in shared memory, eventfd as doorbells | 8.4 µs | 2.2 M tasks/s | 2.9 M tasks/s |
//!
//! In a flood the means make no difference: Python's own work on a task takes longer. What a ring saves of a round trip is 5 µs,
//! of about 80 µs through the pool and a millisecond through the service. Against it: before a side sleeps it has to store that
//! it does and then look once more, which needs a memory barrier, and Python has none; nor does it promise to store a number at
//! once (`struct` with a byte order writes it byte by byte).
//!
//! A socket also says which process is at the other end, and when
//! that is gone. Larger socket buffers than the usual 208 KiB (1 MiB) make no difference either.
//!
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use funcx_core::model::{Error, ErrorKind, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc::UnboundedReceiver,
    time::timeout,
};

use super::protocol::{FromWorker, Hello, missing_bytes, take_frame};

/// From connection to hello.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// Room made for one read. Thousands of small outcomes fit; a large payload is read in steps of
/// [`MAX_READ_BYTES`], so that memory follows what has really come.
const READ_BYTES: usize = 64 << 10;
const MAX_READ_BYTES: usize = 4 << 20;

/// The frames that one worker sends.
#[derive(Debug)]
pub(super) struct FrameReader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
}

impl FrameReader {
    /// Reads the hello of whoever has connected.
    ///
    /// # Errors
    /// `Protocol` if it is no worker, `TimedOut` if it says nothing.
    pub(super) async fn accept(socket: UnixStream) -> Result<(Hello, Self, OwnedWriteHalf)> {
        let peer = socket.peer_cred().ok();
        let (socket, writer) = socket.into_split();
        let mut reader = Self { socket, buffer: BytesMut::with_capacity(READ_BYTES) };
        let refused = |message| Error::new(ErrorKind::Protocol, "accept worker", message);
        match timeout(HELLO_TIME, reader.next()).await {
            Ok(Ok(Some(FromWorker::Hello(hello)))) => {
                // The system tells who has connected; a task cannot pretend to be another worker.
                match peer.and_then(|peer| peer.pid()).is_none_or(|pid| pid as u32 == hello.pid) {
                    true => Ok((hello, reader, writer)),
                    false => Err(refused("the hello names another process")),
                }
            }
            Ok(Ok(_)) => Err(refused("it did not say hello")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(ErrorKind::TimedOut, "accept worker", "it said nothing")),
        }
    }

    /// The next frame; `None` at the end of the connection.
    ///
    /// # Errors
    /// `Protocol`: the connection is of no more use.
    pub(super) async fn next(&mut self) -> Result<Option<FromWorker>> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            let missing = missing_bytes(&self.buffer);
            self.buffer.reserve(missing.clamp(READ_BYTES, MAX_READ_BYTES));
            // A worker that dies resets its connection; that is its end as well.
            if let Ok(0) | Err(_) = self.socket.read_buf(&mut self.buffer).await {
                return Ok(None);
            }
        }
    }
}

/// Writes what comes until nothing more can come.
///
/// This is a task of its own although the socket mostly takes everything at once: what gathers before it runs goes out in
/// one write. Where the frames were written by whoever had them, a worker ran a quarter fewer short tasks, and a round trip was no
/// shorter.
///
/// # Errors
/// If the other end takes no more; its reader notices that too.
pub(super) async fn write_frames(
    mut socket: OwnedWriteHalf,
    mut frames: UnboundedReceiver<Vec<Bytes>>,
) -> io::Result<()> {
    while let Some(first) = frames.recv().await {
        let mut pieces = Pieces(first.into());
        while let Ok(more) = frames.try_recv() {
            pieces.0.extend(more);
        }
        socket.write_all_buf(&mut pieces).await?;
    }
    Ok(())
}

/// Pieces of frames, none of them empty, for vectored writes.
struct Pieces(VecDeque<Bytes>);

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, target: &mut [IoSlice<'a>]) -> usize {
        target.iter_mut().zip(&self.0).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn has_remaining(&self) -> bool {
        !self.0.is_empty()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.0.front_mut()
            && count > 0
        {
            let step = count.min(first.len());
            first.advance(step);
            count -= step;
            if first.is_empty() {
                self.0.pop_front();
            }
        }
        assert_eq!(count, 0, "advanced beyond the last piece");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_advance_over_their_borders() {
        let mut pieces = Pieces(["ab", "c", "def"].map(Bytes::from).into());
        assert_eq!(pieces.remaining(), 6);
        pieces.advance(3);
        assert_eq!((pieces.chunk(), pieces.remaining()), (b"def".as_slice(), 3));
        pieces.advance(3);
        assert!(!pieces.has_remaining());
    }

    #[tokio::test]
    async fn frames_come_whole_however_they_are_cut_and_the_end_is_an_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (read, _write) = ours.into_split();
        let mut reader = FrameReader { socket: read, buffer: BytesMut::new() };
        let mut bytes = Vec::new();
        for tag in [1_u64, 2] {
            bytes.extend(9_u32.to_le_bytes());
            bytes.push(b'S');
            bytes.extend(tag.to_le_bytes());
        }
        let writes = async {
            for part in bytes.chunks(5) {
                theirs.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(theirs);
        };
        let reads = async {
            assert!(matches!(reader.next().await, Ok(Some(FromWorker::Started(1)))));
            assert!(matches!(reader.next().await, Ok(Some(FromWorker::Started(2)))));
            assert!(matches!(reader.next().await, Ok(None)));
        };
        tokio::join!(writes, reads);
    }
}
