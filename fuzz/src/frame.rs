//! Bytes through the framing of streams: however they are cut into reads and writes, the frames are the same.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use funcx_core::contract::Frame;
use funcx_core::model::{ErrorKind, limit};
use funcx_net::transport::FramedStream;
use futures::executor::block_on;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first byte of `data` says how many bytes follow that say how long reads and writes are; the rest is the stream.
pub fn check(data: &[u8]) {
    let Some((&cuts, data)) = data.split_first() else { return };
    let (cuts, stream) = data.split_at(data.len().min(usize::from(cuts)));

    let (frames, end) = expected(stream);
    assert_eq!(received(stream, &[]), (frames.clone(), end), "in whole reads");
    assert_eq!(received(stream, cuts), (frames.clone(), end), "in cut reads");

    let sent: usize = frames.iter().map(|frame| 4 + frame.len()).sum();
    assert_eq!(written(&frames, cuts), stream[..sent], "in cut writes");
}

/// The plainest way to read frames: those that are complete, and how the stream ends.
fn expected(mut stream: &[u8]) -> (Vec<Bytes>, Option<ErrorKind>) {
    let mut frames = Vec::new();
    loop {
        let Some((length, rest)) = stream.split_first_chunk() else {
            return (frames, (!stream.is_empty()).then_some(ErrorKind::Unavailable));
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > limit::MAX_FRAME_BYTES {
            return (frames, Some(ErrorKind::Protocol));
        }
        if length > rest.len() {
            return (frames, Some(ErrorKind::Unavailable));
        }
        frames.push(Bytes::copy_from_slice(&rest[..length]));
        stream = &rest[length..];
    }
}

fn received(stream: &[u8], cuts: &[u8]) -> (Vec<Bytes>, Option<ErrorKind>) {
    let mut framed = FramedStream::new(Cut::new(stream, cuts));
    let mut frames = Vec::new();
    let mut end = None;
    while let Some(item) = block_on(framed.next()) {
        match item {
            Ok(frame) => frames.push(frame),
            Err(error) => assert_eq!(end.replace(error.kind()), None, "one error ends the stream"),
        }
    }
    (frames, end)
}

/// The frames through the sending side, in pieces of the lengths that `cuts` says.
fn written(frames: &[Bytes], cuts: &[u8]) -> Vec<u8> {
    let mut framed = FramedStream::new(Cut::new(&[], cuts));
    let mut lengths = cuts.iter().map(|cut| usize::from(*cut).max(1)).chain(std::iter::repeat(usize::MAX));
    block_on(async {
        for frame in frames {
            let mut pieces = Frame::default();
            let mut rest = frame.clone();
            while !rest.is_empty() {
                let length = lengths.next().unwrap_or(usize::MAX).min(rest.len());
                pieces.push(rest.split_to(length));
            }
            framed.feed(pieces).await.expect("nothing breaks");
        }
        framed.close().await.expect("nothing breaks");
    });
    framed.into_inner().written
}

/// A stream of bytes whose reads and writes are cut into given lengths; a length of zero is a wait.
struct Cut<'a> {
    unread: &'a [u8],
    written: Vec<u8>,
    cuts: std::iter::Copied<std::slice::Iter<'a, u8>>,
}

impl<'a> Cut<'a> {
    fn new(unread: &'a [u8], cuts: &'a [u8]) -> Self {
        Self { unread, written: Vec::new(), cuts: cuts.iter().copied() }
    }

    /// Bytes that the next read or write moves at most.
    fn next(&mut self, cx: &Context<'_>) -> Poll<usize> {
        match self.cuts.next() {
            None => Poll::Ready(usize::MAX),
            Some(0) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(length) => Poll::Ready(usize::from(length)),
        }
    }
}

impl AsyncRead for Cut<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.next(cx).map(|length| {
            let (now, later) = self.unread.split_at(length.min(self.unread.len()).min(buffer.remaining()));
            buffer.put_slice(now);
            self.unread = later;
            Ok(())
        })
    }
}

impl AsyncWrite for Cut<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.next(cx).map(|length| {
            let length = length.min(bytes.len());
            self.written.extend_from_slice(&bytes[..length]);
            Ok(length)
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.next(cx).map(|length| {
            let before = self.written.len();
            for slice in slices {
                let left = length - (self.written.len() - before);
                self.written.extend_from_slice(&slice[..left.min(slice.len())]);
            }
            Ok(self.written.len() - before)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
