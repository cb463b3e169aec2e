//! Connections inside one process: the reference transport.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use funcx_core::contract::{Address, Connection, Frame, Listener, Transport, TransportCapability};
use funcx_core::model::{Error, ErrorKind, Result};
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{FutureExt, Sink, Stream, StreamExt};
use parking_lot::Mutex;

use super::{broken, check_frame, invalid, rest};

/// Frames on their way in one direction.
const QUEUED_FRAMES: usize = 64;

/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;

/// Connections inside this process, named `mem:name`. Names are known to a value and its clones, so two tests in one
/// process do not meet.
///
/// Needs no runtime. Frames arrive as they were sent, in one piece; nothing else is copied.
#[derive(Debug, Clone, Default)]
pub struct MemoryTransport {
    listeners: Arc<Mutex<Listeners>>,
}

type Listeners = BTreeMap<String, mpsc::Sender<MemoryConnection>>;

impl Transport for MemoryTransport {
    fn capability(&self) -> TransportCapability {
        TransportCapability { scheme: "mem", listens: true }
    }

    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Connection>>> {
        async move {
            let name = rest(address, "mem", "dial")?;
            let (near, far) = MemoryConnection::pair();
            let unavailable = |message| {
                Error::new(ErrorKind::Unavailable, "dial", message).with_context("address", address)
            };
            let mut listeners = self.listeners.lock();
            let listener = listeners.get_mut(name).ok_or_else(|| unavailable("nobody listens there"))?;
            listener.try_send(far).map_err(|_| unavailable("too many connections wait to be accepted"))?;
            Ok(Box::new(near) as Box<dyn Connection>)
        }
        .boxed()
    }

    fn listen<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Listener>>> {
        async move {
            let name = rest(address, "mem", "listen")?;
            let mut listeners = self.listeners.lock();
            if listeners.contains_key(name) {
                return Err(Error::new(ErrorKind::Conflict, "listen", "the name is in use")
                    .with_context("address", address));
            }
            let (sender, incoming) = mpsc::channel(BACKLOG);
            listeners.insert(name.to_owned(), sender);
            let transport = self.clone();
            Ok(Box::new(MemoryListener { transport, address: address.clone(), incoming })
                as Box<dyn Listener>)
        }
        .boxed()
    }
}

struct MemoryListener {
    transport: MemoryTransport,
    address: Address,
    incoming: mpsc::Receiver<MemoryConnection>,
}

impl Listener for MemoryListener {
    fn address(&self) -> Address {
        self.address.clone()
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn Connection>>> {
        async {
            let connection = self
                .incoming
                .next()
                .await
                .ok_or_else(|| invalid(&self.address, "accept", "the name is gone"))?;
            Ok(Box::new(connection) as Box<dyn Connection>)
        }
        .boxed()
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.transport.listeners.lock().remove(self.address.rest());
    }
}

/// One end of a connection.
struct MemoryConnection {
    incoming: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Bytes>,
}

impl MemoryConnection {
    fn pair() -> (Self, Self) {
        let (to_far, from_near) = mpsc::channel(QUEUED_FRAMES);
        let (to_near, from_far) = mpsc::channel(QUEUED_FRAMES);
        (Self { incoming: from_far, outgoing: to_far }, Self { incoming: from_near, outgoing: to_near })
    }
}

impl Stream for MemoryConnection {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(ready!(self.get_mut().incoming.poll_next_unpin(cx)).map(Ok))
    }
}

impl Sink<Frame> for MemoryConnection {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().outgoing.poll_ready(cx).map_err(|error| broken("send frame", error))
    }

    fn start_send(self: Pin<&mut Self>, frame: Frame) -> Result<()> {
        check_frame(&frame)?;
        let outgoing = &mut self.get_mut().outgoing;
        outgoing.start_send(frame.into_contiguous()).map_err(|error| broken("send frame", error))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().outgoing.close_channel();
        Poll::Ready(Ok(()))
    }
}
