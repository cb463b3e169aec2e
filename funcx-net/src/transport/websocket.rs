//! WebSocket: links through the port of the HTTP server, and through whatever lets HTTP pass.
//!
//! One binary message is one frame. [`WebSocketTransport`] is the side that dials. The side that listens is a route of
//! the HTTP server, which makes a connection of every upgraded request:
//!
//! ```
//! use axum::extract::ws::WebSocketUpgrade;
//! use axum::response::Response;
//! use funcx_core::contract::Connection;
//! use funcx_net::transport::websocket;
//!
//! async fn link(upgrade: WebSocketUpgrade) -> Response {
//!     websocket::limited(upgrade).on_upgrade(|socket| serve(websocket::upgraded(socket)))
//! }
//!
//! async fn serve(connection: Box<dyn Connection>) {
//!     drop(connection);
//! }
//!
//! let routes: axum::Router = axum::Router::new().route("/link", axum::routing::get(link));
//! ```

use std::error::Error as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::extract::ws;
use bytes::Bytes;
use funcx_core::contract::{Address, Connection, Frame, Listener, Transport, TransportCapability};
use funcx_core::model::{Error, ErrorKind, Result, limit};
use futures::future::BoxFuture;
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::{broken, check_frame, invalid, rest};

/// Dials `ws:host:port/path` over plain HTTP. It does not listen; see the [module](self).
///
/// Who dials is said in the link's `Hello` and not in a header of the request. Proxies named in the environment are
/// not used.
///
/// **Source.** RFC 6455.
#[derive(Debug, Clone, Copy, Default)]
pub struct WebSocketTransport;

impl Transport for WebSocketTransport {
    fn capability(&self) -> TransportCapability {
        TransportCapability { scheme: "ws", listens: false }
    }

    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Connection>>> {
        async move {
            let rest = rest(address, "ws", "dial")?;
            let request =
                format!("ws://{}", rest.trim_start_matches('/')).into_client_request().map_err(|error| {
                    invalid(address, "dial", "an address looks like `ws:127.0.0.1:8080/link`")
                        .with_source(error)
                })?;
            let config = WebSocketConfig::default()
                .max_message_size(Some(limit::MAX_FRAME_BYTES))
                .max_frame_size(Some(limit::MAX_FRAME_BYTES));
            let without_delay = true;
            let (socket, _) = connect_async_with_config(request, Some(config), without_delay)
                .await
                .map_err(|error| refused(address, error))?;
            Ok(Box::new(Messages::new(socket)) as Box<dyn Connection>)
        }
        .boxed()
    }

    fn listen<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Listener>>> {
        let error = Error::new(
            ErrorKind::Unsupported,
            "listen",
            "links over WebSocket come in through the HTTP server",
        )
        .with_context("address", address);
        std::future::ready(Err(error)).boxed()
    }
}

/// Sets the limits of an upgrade to those of a link. Without this, axum refuses messages that are frames of a link.
pub fn limited(upgrade: ws::WebSocketUpgrade) -> ws::WebSocketUpgrade {
    upgrade.max_message_size(limit::MAX_FRAME_BYTES).max_frame_size(limit::MAX_FRAME_BYTES)
}

/// The connection over an upgraded request.
pub fn upgraded(socket: ws::WebSocket) -> Box<dyn Connection> {
    Box::new(Messages::new(socket))
}

/// Why a dial failed, in words of the contract.
fn refused(address: &Address, error: tungstenite::Error) -> Error {
    let (kind, message) = match &error {
        tungstenite::Error::Io(_) => (ErrorKind::Unavailable, "nobody listens there"),
        tungstenite::Error::Url(_) | tungstenite::Error::HttpFormat(_) => {
            (ErrorKind::InvalidInput, "the address is not understood")
        }
        tungstenite::Error::Http(response) => match response.status().as_u16() {
            401 | 403 => (ErrorKind::Forbidden, "the server does not let us in"),
            404 | 405 | 426 => (ErrorKind::InvalidInput, "the server has no links at this path"),
            _ => (ErrorKind::Unavailable, "the server does not open a link now"),
        },
        _ => (ErrorKind::Unavailable, "the server does not open a link"),
    };
    Error::new(kind, "dial", message).with_context("address", address).with_source(error)
}

/// Frames as binary messages of either library's socket.
struct Messages<W> {
    socket: W,
    ended: bool,
}

impl<W> Messages<W> {
    const fn new(socket: W) -> Self {
        Self { socket, ended: false }
    }
}

/// What a message means to a link.
enum Meaning {
    Frame(Bytes),
    /// Pings are answered by the library.
    Nothing,
    End,
    Violation(&'static str),
}

const TEXT: Meaning = Meaning::Violation("a text message, where frames are binary messages");
const EMPTY: Meaning = Meaning::Violation("an empty message, where no frame is empty");

trait LinkMessage {
    fn binary(bytes: Bytes) -> Self;
    fn meaning(self) -> Meaning;
}

impl LinkMessage for tungstenite::Message {
    fn binary(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }

    fn meaning(self) -> Meaning {
        match self {
            Self::Binary(bytes) if bytes.is_empty() => EMPTY,
            Self::Binary(bytes) => Meaning::Frame(bytes),
            Self::Text(_) => TEXT,
            Self::Close(_) => Meaning::End,
            Self::Ping(_) | Self::Pong(_) | Self::Frame(_) => Meaning::Nothing,
        }
    }
}

impl LinkMessage for ws::Message {
    fn binary(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }

    fn meaning(self) -> Meaning {
        match self {
            Self::Binary(bytes) if bytes.is_empty() => EMPTY,
            Self::Binary(bytes) => Meaning::Frame(bytes),
            Self::Text(_) => TEXT,
            Self::Close(_) => Meaning::End,
            Self::Ping(_) | Self::Pong(_) => Meaning::Nothing,
        }
    }
}

/// An error of an open connection; `None` if it says that the other side closed.
trait LinkError {
    fn into_error(self, operation: &'static str) -> Option<Error>;
}

impl LinkError for tungstenite::Error {
    fn into_error(self, operation: &'static str) -> Option<Error> {
        match self {
            Self::ConnectionClosed | Self::AlreadyClosed => None,
            Self::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing)
            | Self::Io(_) => Some(broken(operation, self)),
            _ => Some(
                Error::new(ErrorKind::Protocol, operation, "the other side does not keep to the protocol")
                    .with_source(self),
            ),
        }
    }
}

impl LinkError for axum::Error {
    fn into_error(self, operation: &'static str) -> Option<Error> {
        debug_assert!(self.source().is_some(), "axum wraps the error of its WebSocket library");
        match self.into_inner().downcast::<tungstenite::Error>() {
            Ok(error) => error.into_error(operation),
            Err(other) => Some(broken(operation, other)),
        }
    }
}

impl<W, M, E> Stream for Messages<W>
where
    W: Stream<Item = Result<M, E>> + Unpin,
    M: LinkMessage,
    E: LinkError,
{
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.ended {
            let failure = match ready!(this.socket.poll_next_unpin(cx)) {
                Some(Ok(message)) => match message.meaning() {
                    Meaning::Frame(bytes) => return Poll::Ready(Some(Ok(bytes))),
                    Meaning::Nothing => continue,
                    Meaning::End => None,
                    Meaning::Violation(what) => Some(Error::new(ErrorKind::Protocol, "receive frame", what)),
                },
                Some(Err(error)) => error.into_error("receive frame"),
                None => None,
            };
            this.ended = true;
            return Poll::Ready(failure.map(Err));
        }
        Poll::Ready(None)
    }
}

/// Errors of sending; a connection that the other side has closed is broken for that purpose.
fn sending<E: LinkError>(error: E) -> Error {
    error.into_error("send frame").unwrap_or_else(|| broken("send frame", "the other side closed it"))
}

impl<W, M, E> Sink<Frame> for Messages<W>
where
    W: Sink<M, Error = E> + Stream<Item = Result<M, E>> + Unpin,
    M: LinkMessage,
    E: LinkError,
{
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().socket.poll_ready_unpin(cx).map_err(sending)
    }

    fn start_send(self: Pin<&mut Self>, frame: Frame) -> Result<()> {
        check_frame(&frame)?;
        self.get_mut().socket.start_send_unpin(M::binary(frame.into_contiguous())).map_err(sending)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().socket.poll_flush_unpin(cx).map_err(sending)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match ready!(self.get_mut().socket.poll_close_unpin(cx))
            .map_err(|error| error.into_error("close connection"))
        {
            Err(Some(error)) => Poll::Ready(Err(error)),
            Ok(()) | Err(None) => Poll::Ready(Ok(())),
        }
    }
}
