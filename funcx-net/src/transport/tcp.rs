//! TCP, without encryption.

use std::{io, net::SocketAddr};

use funcx_core::contract::{Address, Connection, Listener, Transport, TransportCapability};
use funcx_core::model::Result;
use futures::FutureExt;
use futures::future::BoxFuture;
use nix::sys::socket::{Backlog, listen};
use tokio::net::{TcpListener, TcpStream};

use super::{FramedStream, broken, invalid, refused, rest};

/// Connections named `tcp:host:port`, where the host is a name, an IPv4 address or a bracketed IPv6 address. Port 0
/// listens on a free one. Small frames are sent at once (no Nagle delay).
///
/// **Source.** Addresses as in RFC 3986 section 3.2, without user information.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpTransport;

impl Transport for TcpTransport {
    fn capability(&self) -> TransportCapability {
        TransportCapability { scheme: "tcp", listens: true }
    }

    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Connection>>> {
        async move {
            let host_and_port = host_and_port(address, "dial")?;
            let stream =
                TcpStream::connect(host_and_port).await.map_err(|error| refused(address, "dial", error))?;
            connection(stream)
        }
        .boxed()
    }

    fn listen<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Listener>>> {
        async move {
            let host_and_port = host_and_port(address, "listen")?;
            let listener =
                TcpListener::bind(host_and_port).await.map_err(|error| refused(address, "listen", error))?;
            let_wait(&listener).map_err(|error| refused(address, "listen", error))?;
            let local = listener.local_addr().map_err(|error| refused(address, "listen", error))?;
            Ok(Box::new(Accepting { listener, local }) as Box<dyn Listener>)
        }
        .boxed()
    }
}

struct Accepting {
    listener: TcpListener,
    local: SocketAddr,
}

impl Listener for Accepting {
    fn address(&self) -> Address {
        format!("tcp:{}", self.local).parse().expect("a scheme and a socket address")
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn Connection>>> {
        async {
            let (stream, _) = self.listener.accept().await.map_err(|error| broken("accept", error))?;
            connection(stream)
        }
        .boxed()
    }
}

/// Lets as many connections wait to be accepted as the system allows. Who finds no place among them tries again a second
/// later, which a thousand clients or managers that come at the same moment would notice.
pub(crate) fn let_wait(listener: &TcpListener) -> io::Result<()> {
    Ok(listen(listener, Backlog::MAXALLOWABLE)?)
}

fn connection(stream: TcpStream) -> Result<Box<dyn Connection>> {
    stream.set_nodelay(true).map_err(|error| broken("set up connection", error))?;
    Ok(Box::new(FramedStream::new(stream)))
}

/// The rest of the address, if it has a host and a port.
fn host_and_port<'a>(address: &'a Address, operation: &'static str) -> Result<&'a str> {
    let text = rest(address, "tcp", operation)?;
    text.rsplit_once(':')
        .filter(|(host, port)| {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
        })
        .map(|_| text)
        .ok_or_else(|| {
            invalid(address, operation, "an address looks like `tcp:127.0.0.1:9000` or `tcp:[::1]:9000`")
        })
}
