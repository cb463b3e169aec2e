//! Connections between nodes, by the scheme of an address.
//!
//! | Scheme | Address | Frames are told apart by |
//! | --- | --- | --- |
//! | `mem` | `mem:name`, inside this process | being items of a channel |
//! | `unix` | `unix:/path/of/socket` | a length before each (see [`FramedStream`]) |
//! | `tcp` | `tcp:host:port`, `tcp:[::1]:port` | a length before each |
//! | `ws` | `ws:host:port/path`; listening is the HTTP server's part (see [`websocket`]) | being one binary message each |
//!
//! ```
//! use futures::{SinkExt, StreamExt};
//! use funcx_core::contract::Frame;
//! use funcx_net::transport::Transports;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let transports = Transports::standard();
//! let mut listener = transports.listen(&"tcp:127.0.0.1:0".parse()?).await?;
//! let mut near = transports.dial(&listener.address()).await?;
//! let mut far = listener.accept().await?;
//! near.send(Frame::new(["hello ".into(), "there".into()])).await?;
//! assert_eq!(far.next().await.unwrap()?, "hello there");
//! # Ok::<(), funcx_core::Error>(()) }).unwrap();
//! ```
//!
//! None of these transports encrypts. They are for one machine, for a network that is trusted, or for a place behind a
//! proxy that ends TLS.

mod framed;
mod memory;
mod tcp;
mod unix;
pub mod websocket;

use std::io;
use std::sync::Arc;

use funcx_core::contract::{Address, Connection, Frame, Listener, Registry, Transport};
use funcx_core::model::{Error, ErrorKind, Result, limit};

pub use framed::{FramedStream, MAX_QUEUED_BYTES};
pub use memory::MemoryTransport;
pub use tcp::TcpTransport;
pub(crate) use tcp::let_wait;
pub use unix::UnixTransport;
pub use websocket::WebSocketTransport;

/// The transports of a process, by scheme. Clones hold the same transports.
#[derive(Clone)]
pub struct Transports(Registry<Arc<dyn Transport>>);

impl Transports {
    /// No transports.
    pub const fn empty() -> Self {
        Self(Registry::new("transport"))
    }

    /// The transports of this crate. Memory addresses are known to this value and its clones only.
    pub fn standard() -> Self {
        let mut transports = Self::empty();
        let standard: [Arc<dyn Transport>; 4] = [
            Arc::new(MemoryTransport::default()),
            Arc::new(UnixTransport),
            Arc::new(TcpTransport),
            Arc::new(WebSocketTransport),
        ];
        for transport in standard {
            transports.register(transport).expect("the four schemes differ");
        }
        transports
    }

    /// Adds a transport under its scheme.
    ///
    /// # Errors
    /// `Conflict` if the scheme is taken.
    pub fn register(&mut self, transport: Arc<dyn Transport>) -> Result<()> {
        self.0.register(transport.capability().scheme, transport)
    }

    /// Opens a connection with the transport for the scheme of `address`.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown scheme, and those of [`Transport::dial`].
    pub async fn dial(&self, address: &Address) -> Result<Box<dyn Connection>> {
        self.find(address, "dial")?.dial(address).await
    }

    /// Starts to listen with the transport for the scheme of `address`.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown scheme, and those of [`Transport::listen`].
    pub async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>> {
        self.find(address, "listen")?.listen(address).await
    }

    fn find(&self, address: &Address, operation: &'static str) -> Result<&Arc<dyn Transport>> {
        self.0.find(address.scheme()).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, operation, "the address has an unknown scheme")
                .with_context("address", address)
                .with_source(error)
        })
    }
}

impl std::fmt::Debug for Transports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.names()).finish()
    }
}

/// What follows the scheme, if it is the right one.
fn rest<'a>(address: &'a Address, scheme: &str, operation: &'static str) -> Result<&'a str> {
    match address.scheme() == scheme {
        true => Ok(address.rest()),
        false => Err(invalid(address, operation, "the address is for another transport")),
    }
}

fn invalid(address: &Address, operation: &'static str, message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, operation, message).with_context("address", address)
}

/// What went wrong while opening or listening, in words of the contract.
fn refused(address: &Address, operation: &'static str, error: io::Error) -> Error {
    let (kind, message) = match error.kind() {
        io::ErrorKind::AddrInUse => (ErrorKind::Conflict, "the address is in use"),
        io::ErrorKind::PermissionDenied => (ErrorKind::Forbidden, "the operating system does not allow it"),
        io::ErrorKind::InvalidInput => (ErrorKind::InvalidInput, "the address is not understood"),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            (ErrorKind::Unavailable, "nobody listens there")
        }
        _ => (ErrorKind::Unavailable, "the network does not let us"),
    };
    Error::new(kind, operation, message).with_context("address", address).with_source(error)
}

/// A connection that was open is of no use any more.
fn broken(operation: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "the connection broke").with_source(error)
}

/// Whether a frame may be sent at all.
fn check_frame(frame: &Frame) -> Result<()> {
    if frame.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "send frame", "the frame is empty"));
    }
    if frame.len() > limit::MAX_FRAME_BYTES {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            "send frame",
            "the frame is longer than MAX_FRAME_BYTES",
        )
        .with_context("frame_bytes", frame.len()));
    }
    Ok(())
}
