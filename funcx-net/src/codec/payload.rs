//! Payloads behind the header: pieces of a frame to send, slices of a frame received.

use bytes::Bytes;
use funcx_core::contract::Frame;
use funcx_core::message::Payloads;
use funcx_core::model::{Error, ErrorKind, Result, limit};
use serde::Serialize;

use super::kind::Kind;
use super::{PRELUDE_BYTES, header, malformed};

/// Payloads shorter than this are copied together. Measured with `benches/codec.rs` (`send_payloads`): up to 1 KiB a copy
/// takes two thirds of the time that a piece of its own takes with its reference count and its entry in the vectored
/// write; from 2 KiB on there is no difference.
pub const COPY_BELOW_BYTES: usize = 1024;

/// Room made for each head; one with all its hop stamps takes some hundred bytes.
const HEAD_BYTES: usize = 96;

/// Builds one frame.
pub(super) struct Encoder {
    frame: Frame,
    buffer: Vec<u8>,
}

impl Encoder {
    /// A frame of this kind whose header has about `heads` heads.
    pub(super) fn new(kind: Kind, heads: usize) -> Self {
        let mut buffer = Vec::with_capacity(PRELUDE_BYTES + HEAD_BYTES * (heads + 1));
        buffer.extend_from_slice(&[kind as u8, 0, 0, 0, 0]);
        Self { frame: Frame::default(), buffer }
    }

    /// The frame with this header and no payloads.
    pub(super) fn finish(self, header: &impl Serialize) -> Result<Frame> {
        self.finish_with(header, std::iter::empty(), Payloads::new())
    }

    /// The frame with this header and these payloads, which have these lengths.
    pub(super) fn finish_with(
        mut self,
        header: &impl Serialize,
        mut lengths: impl Iterator<Item = u32>,
        payloads: Payloads,
    ) -> Result<Frame> {
        let length = header::write(header, &mut self.buffer)?;
        self.buffer[1..PRELUDE_BYTES].copy_from_slice(&length.to_le_bytes());
        for payload in payloads {
            if lengths.next().map(|length| length as usize) != Some(payload.len()) {
                return Err(inconsistent());
            }
            self.push(payload);
        }
        if lengths.next().is_some() {
            return Err(inconsistent());
        }
        self.seal();
        if self.frame.len() > limit::MAX_FRAME_BYTES {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "encode frame",
                "the frame is longer than MAX_FRAME_BYTES",
            )
            .with_context("frame_bytes", self.frame.len()));
        }
        Ok(self.frame)
    }

    fn push(&mut self, payload: Bytes) {
        if payload.len() < COPY_BELOW_BYTES {
            self.buffer.extend_from_slice(&payload);
        } else {
            self.seal();
            self.frame.push(payload);
        }
    }

    fn seal(&mut self) {
        if !self.buffer.is_empty() {
            self.frame.push(std::mem::take(&mut self.buffer).into());
        }
    }
}

fn inconsistent() -> Error {
    Error::new(
        ErrorKind::Internal,
        "encode frame",
        "the batch does not have the payloads that its heads announce",
    )
}

/// What follows the header of a received frame.
pub(super) struct Region<'a> {
    frame: &'a Bytes,
    at: usize,
}

impl<'a> Region<'a> {
    pub(super) const fn new(frame: &'a Bytes, at: usize) -> Self {
        Self { frame, at }
    }

    /// The next payloads, `count` in number, of these lengths.
    pub(super) fn cut(&mut self, lengths: impl Iterator<Item = u32>, count: usize) -> Result<Payloads> {
        let mut payloads = Payloads::with_capacity(count);
        for length in lengths {
            let length = length as usize;
            let left = self.frame.len() - self.at;
            if length > left {
                return Err(malformed("a payload is longer than the rest of the frame")
                    .with_context("payload_bytes", length)
                    .with_context("left_bytes", left));
            }
            payloads.push(self.frame.slice(self.at..self.at + length));
            self.at += length;
        }
        Ok(payloads)
    }

    /// Nothing may follow the last payload.
    pub(super) fn end(self) -> Result<()> {
        match self.frame.len() - self.at {
            0 => Ok(()),
            left => Err(malformed("the frame has bytes left over").with_context("left_bytes", left)),
        }
    }
}
