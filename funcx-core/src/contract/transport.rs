//! Framed, ordered, reliable connections between two peers.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use futures::{Sink, Stream, future::BoxFuture};

use crate::model::{Error, ErrorKind, Result};

/// Opens and accepts connections named by an address, such as `mem:`, `unix:`, `tcp:` or `ws:`.
///
/// Called once per connection attempt, by the link driver.
///
/// **Errors.** `Unavailable` (nobody listens, network down; retry later), `InvalidInput` (address not
/// understood; do not retry), `Conflict` (address in use), `Forbidden`.
///
/// **Cancellation.** Dropping a future closes what it had opened.
///
/// **Suite.** `funcx_core::conformance::transport`.
pub trait Transport: Send + Sync + 'static {
    /// What it can do.
    fn capability(&self) -> TransportCapability;

    /// Opens a connection.
    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Connection>>>;

    /// Starts to listen. Connections queue up from the moment this resolves.
    fn listen<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Listener>>>;
}

/// What a [`Transport`] can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportCapability {
    /// Word before the colon of its addresses.
    pub scheme: &'static str,
    /// Whether [`Transport::listen`] is possible; a transport that rides on the HTTP server only dials.
    pub listens: bool,
}

/// Accepts connections until it is dropped.
pub trait Listener: Send {
    /// Where it listens, with wildcards (port 0) resolved.
    fn address(&self) -> Address;

    /// The next connection. An error concerns one connection or this moment; the caller may go on accepting.
    ///
    /// **Cancellation.** Dropping the future loses no connection.
    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn Connection>>>;
}

/// An open connection: a stream of received frames and a sink of frames to send.
///
/// **Shape.** Each received item is the content of one frame that the other side sent, in order, contiguous,
/// never empty, and at most [`MAX_FRAME_BYTES`](crate::model::limit::MAX_FRAME_BYTES) long; a longer one is an
/// error (`Protocol`) before anything is allocated for it. The stream ends when the other side closed.
///
/// **What holds.** A frame sent may still be lost if the connection breaks; sessions above make up for it.
pub trait Connection: Stream<Item = Result<Bytes>> + Sink<Frame, Error = Error> + Send + Unpin {}

impl<C: Stream<Item = Result<Bytes>> + Sink<Frame, Error = Error> + Send + Unpin> Connection for C {}

/// One frame to send: pieces that go out one after the other without being copied together first.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    pieces: Vec<Bytes>,
    length: usize,
}

impl Frame {
    /// A frame of these pieces in order; empty pieces are left out.
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut frame = Self::default();
        pieces.into_iter().for_each(|piece| frame.push(piece));
        frame
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Bytes in all.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds nothing.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The pieces in order.
    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }

    /// All bytes in one piece; copies unless there is only one.
    pub fn into_contiguous(mut self) -> Bytes {
        match self.pieces.len() {
            1 => self.pieces.remove(0),
            _ => self.pieces.concat().into(),
        }
    }
}

/// Where a peer listens: `scheme:rest`, where the transport for the scheme understands the rest.
///
/// ```
/// let address: funcx_core::contract::Address = "tcp:127.0.0.1:9000".parse()?;
/// assert_eq!((address.scheme(), address.rest()), ("tcp", "127.0.0.1:9000"));
/// # Ok::<(), funcx_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    colon: usize,
}

impl Address {
    /// The word before the first colon.
    pub fn scheme(&self) -> &str {
        &self.text[..self.colon]
    }

    /// What follows the first colon.
    pub fn rest(&self) -> &str {
        &self.text[self.colon + 1..]
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.find(':') {
            Some(colon) if colon > 0 && colon + 1 < text.len() => Ok(Self { text: text.to_owned(), colon }),
            _ => Err(Error::new(
                ErrorKind::InvalidInput,
                "parse address",
                "an address looks like `tcp:127.0.0.1:9000`",
            )
            .with_context("address", text)),
        }
    }
}
