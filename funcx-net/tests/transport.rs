//! The conformance suite on every transport, and what the suite cannot see: bytes below frames, files, servers.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::routing::get;
use bytes::Bytes;
use funcx_core::conformance::transport::suite;
use funcx_core::contract::{Address, Connection, Frame, Listener, Transport, TransportCapability};
use funcx_core::model::{Error, ErrorKind, Result, limit};
use funcx_net::transport::{
    FramedStream, MAX_QUEUED_BYTES, MemoryTransport, TcpTransport, Transports, UnixTransport,
    WebSocketTransport, websocket,
};
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_tungstenite::tungstenite::Message as WebSocketMessage;

fn address(text: &str) -> Address {
    text.parse().expect("a scheme and something behind it")
}

fn frame(content: impl Into<Bytes>) -> Frame {
    Frame::new([content.into()])
}

/// A transport that hangs is a failure, not a test that never ends.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("the transport hangs")
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    let names = AtomicU32::new(0);
    let fresh = || address(&format!("mem:{}", names.fetch_add(1, Ordering::Relaxed)));
    soon(suite(&MemoryTransport::default(), fresh)).await;
}

#[tokio::test]
async fn unix_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let names = AtomicU32::new(0);
    let fresh = || {
        let name = names.fetch_add(1, Ordering::Relaxed);
        address(&format!("unix:{}/{name}", directory.path().display()))
    };
    soon(suite(&UnixTransport, fresh)).await;
    assert_eq!(directory.path().read_dir().unwrap().count(), 0, "listeners remove their files");
}

#[tokio::test]
async fn tcp_keeps_the_contract() {
    soon(suite(&TcpTransport, || address("tcp:127.0.0.1:0"))).await;
}

#[tokio::test]
async fn websocket_keeps_the_contract() {
    soon(suite(&WebSocketWithServer, || address("ws:127.0.0.1:0/link"))).await;
    // Port 1 of the loopback network is nobody's.
    soon(suite(&WebSocketTransport, || address("ws:127.0.0.1:1/link"))).await;
}

/// The WebSocket transport together with the server that it needs on the other side.
struct WebSocketWithServer;

impl Transport for WebSocketWithServer {
    fn capability(&self) -> TransportCapability {
        TransportCapability { listens: true, ..WebSocketTransport.capability() }
    }

    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Connection>>> {
        WebSocketTransport.dial(address)
    }

    fn listen<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Listener>>> {
        async move {
            let Some(host_and_port) = address.rest().strip_suffix("/link") else {
                return TcpTransport.listen(address).await;
            };
            let listener = TcpListener::bind(host_and_port).await.map_err(|error| {
                Error::new(ErrorKind::Conflict, "listen", "the address is in use").with_source(error)
            })?;
            let resolved = listener.local_addr().expect("it is bound");
            let (sender, incoming) = mpsc::channel(64);
            let route = get(async |upgrade: WebSocketUpgrade| {
                websocket::limited(upgrade).on_upgrade(async move |socket| {
                    let _ = sender.send(websocket::upgraded(socket)).await;
                })
            });
            let server = axum::serve(listener, axum::Router::new().route("/link", route));
            let server = tokio::spawn(server.into_future()).abort_handle();
            let address = self::address(&format!("ws:{resolved}/link"));
            Ok(Box::new(Server { address, incoming, server }) as Box<dyn Listener>)
        }
        .boxed()
    }
}

struct Server {
    address: Address,
    incoming: mpsc::Receiver<Box<dyn Connection>>,
    server: AbortHandle,
}

impl Listener for Server {
    fn address(&self) -> Address {
        self.address.clone()
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn Connection>>> {
        async { Ok(self.incoming.recv().await.expect("the server runs as long as the listener")) }.boxed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Both ends of a WebSocket link: the raw client, and our side in the server.
async fn raw_websocket()
-> (tokio_tungstenite::WebSocketStream<TcpStream>, Box<dyn Connection>, Box<dyn Listener>) {
    let mut listener =
        WebSocketWithServer.listen(&address("ws:127.0.0.1:0/link")).await.expect("a free port");
    let here = listener.address();
    let stream = TcpStream::connect(here.rest().trim_end_matches("/link")).await.expect("the server listens");
    let (client, _) =
        tokio_tungstenite::client_async(format!("ws://{}", here.rest()), stream).await.expect("an upgrade");
    let far = listener.accept().await.expect("it was dialled");
    (client, far, listener)
}

#[tokio::test]
async fn a_websocket_text_is_a_protocol_error_that_ends_the_link() {
    let (mut client, mut link, _listener) = raw_websocket().await;
    client.send(WebSocketMessage::Ping("are you there".into())).await.unwrap();
    client.send(WebSocketMessage::text("hello")).await.unwrap();
    let error = link.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(link.next().await.is_none());
    assert_eq!(client.next().await.unwrap().unwrap(), WebSocketMessage::Pong("are you there".into()));
}

#[tokio::test]
async fn an_empty_websocket_message_is_a_protocol_error() {
    let (mut client, mut link, _listener) = raw_websocket().await;
    client.send(WebSocketMessage::binary("")).await.unwrap();
    assert_eq!(link.next().await.unwrap().unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_websocket_message_beyond_the_limit_is_refused_by_its_announced_length() {
    let (mut client, mut link, _listener) = raw_websocket().await;
    // Final binary message, masked, with a 64-bit length (RFC 6455, section 5.2).
    let mut header = vec![0x82, 0xff];
    header.extend((limit::MAX_FRAME_BYTES as u64 + 1).to_be_bytes());
    header.extend([0; 4]);
    client.get_mut().write_all(&header).await.unwrap();
    let error = link.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
}

#[tokio::test]
async fn a_websocket_peer_that_dies_is_unavailable() {
    let (client, mut link, _listener) = raw_websocket().await;
    drop(client);
    assert_eq!(link.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(link.next().await.is_none());
}

#[tokio::test]
async fn a_server_without_links_is_not_tried_again() {
    let listener = WebSocketWithServer.listen(&address("ws:127.0.0.1:0/link")).await.unwrap();
    let elsewhere = address(&listener.address().to_string().replace("/link", "/elsewhere"));
    let error = WebSocketTransport.dial(&elsewhere).await.err().unwrap();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::InvalidInput, false), "{error}");
}

/// A framed stream and the raw other end of its pipe.
fn pipe() -> (FramedStream<DuplexStream>, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 16);
    (FramedStream::new(near), far)
}

#[tokio::test]
async fn a_frame_is_its_length_and_its_content() {
    let (mut framed, mut raw) = pipe();
    framed.send(Frame::new(["ab".into(), vec![b'c'; 1000].into()])).await.unwrap();
    framed.close().await.unwrap();
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes[..6], [0xea, 0x03, 0, 0, b'a', b'b']);
    assert_eq!(bytes[6..], [b'c'; 1000]);
}

#[tokio::test]
async fn frames_of_one_read_share_their_buffer() {
    let (mut framed, mut raw) = pipe();
    raw.write_all(b"\x02\0\0\0ab\x01\0\0\0c").await.unwrap();
    let first = framed.next().await.unwrap().unwrap();
    let second = framed.next().await.unwrap().unwrap();
    assert_eq!((&first[..], &second[..]), (&b"ab"[..], &b"c"[..]));
    assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 6, "nothing was copied");
}

/// What a stream of raw bytes leads to: frames, then the kind of the error that ends it, if one does.
async fn received(bytes: &[u8]) -> (Vec<Bytes>, Option<ErrorKind>) {
    let (mut framed, mut raw) = pipe();
    raw.write_all(bytes).await.expect("the pipe is open");
    drop(raw);
    let mut frames = Vec::new();
    let mut end = None;
    while let Some(item) = framed.next().await {
        match item {
            Ok(frame) => frames.push(frame),
            Err(error) => {
                assert_eq!(end.replace(error.kind()), None, "one error ends the stream");
            }
        }
    }
    (frames, end)
}

#[tokio::test]
async fn raw_bytes_that_are_no_frames_end_the_stream() {
    let too_long = (limit::MAX_FRAME_BYTES as u32 + 1).to_le_bytes();
    let cases: [(&[u8], &[&'static str], Option<ErrorKind>); 7] = [
        (b"", &[], None),
        (b"\x02\0\0\0ab", &["ab"], None),
        (b"\x02\0\0\0ab\x01", &["ab"], Some(ErrorKind::Unavailable)),
        (b"\x02\0\0\0a", &[], Some(ErrorKind::Unavailable)),
        (b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c", &["ab"], Some(ErrorKind::Protocol)),
        (&too_long, &[], Some(ErrorKind::Protocol)),
        (b"GET / HTTP/1.1\r\n\r\n", &[], Some(ErrorKind::Protocol)),
    ];
    for (bytes, frames, end) in cases {
        let expected = frames.iter().copied().map(Bytes::from).collect();
        assert_eq!(received(bytes).await, (expected, end), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_full_queue_takes_no_frame_until_it_is_written() {
    let (mut framed, mut raw) = pipe();
    let content = Bytes::from(vec![1; 2 * MAX_QUEUED_BYTES]);
    framed.feed(frame(content.clone())).await.unwrap();
    assert!(framed.feed(frame("x")).now_or_never().is_none(), "the queue is full");
    let reader = tokio::spawn(async move {
        let mut bytes = Vec::new();
        raw.read_to_end(&mut bytes).await.unwrap();
        bytes.len()
    });
    framed.send(frame("y")).await.unwrap();
    framed.close().await.unwrap();
    assert_eq!(reader.await.unwrap(), 4 + content.len() + 5);
}

#[tokio::test]
async fn addresses_that_are_not_understood_are_invalid() {
    let transports = Transports::standard();
    let long_path = format!("unix:/{}", "x".repeat(200));
    let cases = [
        "tcp:localhost",
        "tcp::9000",
        "tcp:127.0.0.1:port",
        "tcp:::1:9000",
        "tcp:h:99999",
        "ws::::",
        "udp:h:1",
        &long_path,
    ];
    for text in cases {
        let error = transports.dial(&address(text)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        if !text.starts_with("ws:") {
            let error = transports.listen(&address(text)).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    }
    let error = transports.dial(&address("udp:h:1")).await.err().unwrap().to_string();
    assert!(error.contains("only mem, tcp, unix, ws"), "{error}");
}

#[tokio::test]
async fn only_the_owner_can_connect_to_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let here = address(&format!("unix:{}", path.display()));
    let listener = UnixTransport.listen(&here).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_unix_socket_is_replaced_and_other_files_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let here = address(&format!("unix:{}", path.display()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a process that dies leaves its file");
    let first = UnixTransport.listen(&here).await.unwrap();

    // The file of another listener stays when the first one goes.
    std::fs::remove_file(&path).unwrap();
    let second = UnixTransport.listen(&here).await.unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);

    std::fs::write(&path, "precious").unwrap();
    let error = UnixTransport.listen(&here).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn memory_addresses_belong_to_a_value_and_its_clones() {
    let here = address("mem:a");
    let transports = Transports::standard();
    let listener = transports.listen(&here).await.unwrap();
    assert!(transports.clone().dial(&here).await.is_ok());
    assert_eq!(Transports::standard().dial(&here).await.err().unwrap().kind(), ErrorKind::Unavailable);
    drop(listener);
}

#[test]
fn a_third_party_adds_a_transport_under_its_own_scheme() {
    let mut transports = Transports::empty();
    transports.register(std::sync::Arc::new(TcpTransport)).unwrap();
    let error = transports.register(std::sync::Arc::new(TcpTransport)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(format!("{transports:?}"), r#"{"tcp"}"#);
}
