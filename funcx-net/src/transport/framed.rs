//! Frames over a stream of bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use funcx_core::contract::Frame;
use funcx_core::model::{Error, ErrorKind, Result, limit};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{broken, check_frame};

/// Bytes of the length that stands before each frame.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Room for the first read, enough for a handshake. An idle connection costs no more.
const FIRST_READ_BYTES: usize = 8 << 10;

/// Room for a read on a busy connection.
const BUSY_READ_BYTES: usize = 256 << 10;

/// Bytes that wait to be written from which on no frame is taken: two batches of
/// [`TARGET_BATCH_BYTES`](limit::TARGET_BATCH_BYTES), so that one is written while the next is made.
pub const MAX_QUEUED_BYTES: usize = 2 * limit::TARGET_BATCH_BYTES;

/// Pieces shorter than this, such as whole frames without payloads, are copied together before they are written.
const COPY_BELOW_BYTES: usize = 256;

/// Pieces in one vectored write.
const MAX_SLICES: usize = 64;

/// A connection over any ordered, reliable stream of bytes: each frame is its length (`u32`, little endian) and its
/// content.
///
/// **Receiving.** Bytes are read into one growing buffer and frames are split off it without being copied. The buffer
/// never grows to more than twice what has arrived, whatever length a peer claims.
///
/// **Sending.** Frames queue up and are written together, their pieces uncopied. [`Sink::poll_ready`] is pending while
/// [`MAX_QUEUED_BYTES`] or more wait. Nothing is written before `poll_flush`, unless the queue is full.
///
/// **Errors.** `Protocol` for a length of zero or beyond [`MAX_FRAME_BYTES`](limit::MAX_FRAME_BYTES), `Unavailable`
/// when the stream breaks or ends inside a frame. After an error the stream ends.
#[derive(Debug)]
pub struct FramedStream<S> {
    stream: S,
    input: BytesMut,
    read_bytes: usize,
    ended: bool,
    output: Output,
}

impl<S> FramedStream<S> {
    /// Frames over `stream`, which has carried nothing yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            read_bytes: FIRST_READ_BYTES,
            ended: false,
            output: Output::default(),
        }
    }

    /// The stream below. What was read and not taken, and what was not flushed, is lost.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

/// The next frame of `input`, if all of it is there.
fn split_frame(input: &mut BytesMut) -> Result<Option<Bytes>> {
    let Some(length) = announced(input) else { return Ok(None) };
    if length == 0 || length > limit::MAX_FRAME_BYTES {
        return Err(Error::new(ErrorKind::Protocol, "receive frame", "no frame has this length")
            .with_context("frame_bytes", length)
            .with_context("most", limit::MAX_FRAME_BYTES));
    }
    if input.len() - LENGTH_BYTES < length {
        return Ok(None);
    }
    input.advance(LENGTH_BYTES);
    Ok(Some(input.split_to(length).freeze()))
}

fn announced(input: &[u8]) -> Option<usize> {
    input.first_chunk().map(|length| u32::from_le_bytes(*length) as usize)
}

impl<S: AsyncRead + Unpin> FramedStream<S> {
    /// Reads what is there. Ready with `false` at the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.make_room();
        let room = self.input.capacity() - self.input.len();
        let read = ready!(pin!(self.stream.read_buf(&mut self.input)).poll(cx))?;
        if read == room {
            self.read_bytes = BUSY_READ_BYTES.min(2 * self.read_bytes);
        }
        Poll::Ready(Ok(read > 0))
    }

    /// Makes room for the rest of the frame, or for one read if that is more.
    fn make_room(&mut self) {
        let missing = announced(&self.input)
            .map_or(0, |length| (LENGTH_BYTES + length).saturating_sub(self.input.len()));
        let room = self.input.capacity() - self.input.len();
        if room < missing.clamp(LENGTH_BYTES, self.read_bytes / 4) {
            self.input.reserve(missing.min(self.input.len()).max(self.read_bytes));
        }
    }
}

impl<S: AsyncRead + Unpin> Stream for FramedStream<S> {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.ended {
            match split_frame(&mut this.input) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) => {}
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            let failure = match ready!(this.poll_read(cx)) {
                Ok(true) => continue,
                Ok(false) if this.input.is_empty() => None,
                Ok(false) => Some(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => Some(error),
            };
            this.ended = true;
            return Poll::Ready(failure.map(|error| Err(broken("receive frame", error))));
        }
        Poll::Ready(None)
    }
}

impl<S: AsyncWrite + Unpin> FramedStream<S> {
    /// Writes until at most this many bytes are left.
    fn poll_write_down_to(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while self.output.bytes > bytes {
            let written = ready!(self.output.poll_write(Pin::new(&mut self.stream), cx));
            if let Err(error) = written {
                return Poll::Ready(Err(broken("send frame", error)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Sink<Frame> for FramedStream<S> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().poll_write_down_to(MAX_QUEUED_BYTES - 1, cx)
    }

    fn start_send(self: Pin<&mut Self>, frame: Frame) -> Result<()> {
        check_frame(&frame)?;
        self.get_mut().output.push(frame);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_down_to(0, cx))?;
        Pin::new(&mut this.stream).poll_flush(cx).map_err(|error| broken("send frame", error))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        match ready!(Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)) {
            // The other side was faster.
            Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                Poll::Ready(Err(broken("close connection", error)))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// What waits to be written. Lengths and small pieces collect at the end of `copied` until a large piece follows.
#[derive(Debug, Default)]
struct Output {
    pieces: VecDeque<Bytes>,
    copied: Vec<u8>,
    bytes: usize,
}

impl Output {
    fn push(&mut self, frame: Frame) {
        let length = u32::try_from(frame.len()).expect("MAX_FRAME_BYTES is far below 4 GiB");
        self.bytes += LENGTH_BYTES + frame.len();
        self.copied.extend_from_slice(&length.to_le_bytes());
        for piece in frame.into_pieces() {
            if piece.len() < COPY_BELOW_BYTES {
                self.copied.extend_from_slice(&piece);
            } else {
                self.seal();
                self.pieces.push_back(piece);
            }
        }
    }

    fn seal(&mut self) {
        if !self.copied.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.copied).into());
        }
    }

    /// One write of as many pieces as it takes.
    fn poll_write<S: AsyncWrite>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.seal();
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = self.pieces.len().min(MAX_SLICES);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        match ready!(stream.poll_write_vectored(cx, &slices[..count]))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => {
                self.consume(written);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn consume(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let Some(first) = self.pieces.front_mut() else { break };
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }
}
