//! Suite for the [`Transport`] contract.
//!
//! Runs under the caller's runtime and reads no clock: a promise that is kept late looks like one that is kept. Put a
//! timeout around it.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use futures::future::{join, join_all};
use futures::{Sink, SinkExt, StreamExt};

use crate::contract::{Address, Connection, Frame, Listener, Transport};
use crate::model::{ErrorKind, Result, limit};

/// Checks every promise of the contract, and panics with the name of the first one that is broken.
///
/// `address` gives a new address to listen at with each call; it may hold a wildcard such as port 0. For a transport
/// that does not listen, it gives addresses where nobody does.
pub async fn suite(transport: &dyn Transport, address: impl Fn() -> Address) {
    foreign_addresses_are_invalid(transport).await;
    if !transport.capability().listens {
        let error =
            transport.listen(&address()).await.err().expect("a transport that does not listen says so");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "a transport that does not listen says so: {error}");
        let error = transport.dial(&address()).await.err().expect("nobody listens");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "dialling nobody is `Unavailable`: {error}");
        return;
    }
    the_listener_knows_its_address(transport, address()).await;
    nobody_is_unavailable(transport, address()).await;
    an_address_is_for_one_listener(transport, address()).await;
    connections_queue_up(transport, address()).await;
    a_dropped_accept_loses_nothing(transport, address()).await;
    frames_keep_their_order(transport, address()).await;
    frames_are_whole(transport, address()).await;
    the_limit_is_the_limit(transport, address()).await;
    closing_is_the_end(transport, address()).await;
    dropping_is_the_end(transport, address()).await;
    queues_are_bounded(transport, address()).await;
}

async fn foreign_addresses_are_invalid(transport: &dyn Transport) {
    let foreign: Address = "no-such-scheme:somewhere".parse().expect("it has a scheme");
    for error in [transport.dial(&foreign).await.err(), transport.listen(&foreign).await.err()] {
        let kind = error.expect("an address of another scheme is refused").kind();
        let unsupported = !transport.capability().listens && kind == ErrorKind::Unsupported;
        assert!(
            kind == ErrorKind::InvalidInput || unsupported,
            "an address of another scheme is `InvalidInput`: {kind:?}"
        );
    }
}

async fn the_listener_knows_its_address(transport: &dyn Transport, address: Address) {
    let (mut listener, resolved) = listen(transport, &address).await;
    assert_eq!(resolved.scheme(), transport.capability().scheme, "the listener's address has the scheme");
    let (mut near, mut far) = connect(transport, &mut *listener, &resolved).await;
    near.send(frame("hello")).await.expect("an address of a listener can be dialled");
    assert_eq!(receive(&mut *far).await, "hello", "an address of a listener can be dialled");
}

async fn nobody_is_unavailable(transport: &dyn Transport, address: Address) {
    let (listener, resolved) = listen(transport, &address).await;
    drop(listener);
    let error = transport.dial(&resolved).await.err().expect("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "dialling nobody is `Unavailable`: {error}");
    assert!(error.is_retryable(), "dialling nobody can be tried again: {error}");
}

async fn an_address_is_for_one_listener(transport: &dyn Transport, address: Address) {
    let (listener, resolved) = listen(transport, &address).await;
    let error = transport.listen(&resolved).await.err().expect("the address is in use");
    assert_eq!(error.kind(), ErrorKind::Conflict, "listening twice at one address is a `Conflict`: {error}");
    drop(listener);
}

async fn connections_queue_up(transport: &dyn Transport, address: Address) {
    const CONNECTIONS: u32 = 32;
    let (mut listener, resolved) = listen(transport, &address).await;
    let dialled: Vec<_> = join_all((0..CONNECTIONS).map(|_| transport.dial(&resolved))).await;
    let mut near: Vec<_> =
        dialled.into_iter().map(|near| near.expect("a connection waits to be accepted")).collect();
    for (number, near) in near.iter_mut().enumerate() {
        near.send(frame(vec![number as u8 + 1])).await.expect("a connection that waits takes a first frame");
    }
    let mut seen = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut far = listener.accept().await.expect("a connection that waited is accepted");
        let number = receive(&mut *far).await;
        far.send(frame(number.clone())).await.expect("an accepted connection takes frames");
        seen.push((number[0], far));
    }
    for (number, near) in near.iter_mut().enumerate() {
        assert_eq!(receive(&mut **near).await, vec![number as u8 + 1], "connections are kept apart");
    }
    seen.sort_by_key(|(number, _)| *number);
    let numbers: Vec<_> = seen.iter().map(|(number, _)| u32::from(*number)).collect();
    assert_eq!(numbers, (1..=CONNECTIONS).collect::<Vec<_>>(), "each connection is accepted once");
}

async fn a_dropped_accept_loses_nothing(transport: &dyn Transport, address: Address) {
    let (mut listener, resolved) = listen(transport, &address).await;
    {
        let mut accept = pin!(listener.accept());
        let ready = poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx).is_ready())).await;
        assert!(!ready, "accept waits for a connection");
    }
    let (mut near, mut far) = connect(transport, &mut *listener, &resolved).await;
    near.send(frame("still here")).await.expect("a dropped accept loses no connection");
    assert_eq!(receive(&mut *far).await, "still here", "a dropped accept loses no connection");
}

async fn frames_keep_their_order(transport: &dyn Transport, address: Address) {
    const FRAMES: usize = 1000;
    let (mut listener, resolved) = listen(transport, &address).await;
    let (near, far) = connect(transport, &mut *listener, &resolved).await;
    // Sizes from a few bytes to some hundred kilobytes, so that frames end everywhere in the buffers below.
    let content = |number: usize, side: u8| {
        let mut bytes =
            vec![side; 8 + number * number % 4099 * (1 + 63 * usize::from(number.is_multiple_of(50)))];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Bytes::from(bytes)
    };
    let exchange = |connection: Box<dyn Connection>, mine: u8, theirs: u8| {
        let (mut sink, mut stream) = connection.split();
        let send = async move {
            for number in 0..FRAMES {
                sink.feed(frame(content(number, mine))).await.expect("an open connection takes frames");
            }
            sink.flush().await.expect("an open connection can be flushed");
            sink
        };
        let receive = async move {
            for number in 0..FRAMES {
                let received =
                    stream.next().await.expect("no frame is lost").expect("an open connection has no errors");
                assert!(received == content(number, theirs), "frames arrive whole and in order, at {number}");
            }
            stream
        };
        join(send, receive)
    };
    // Both ends stay open until both sides have everything.
    drop(join(exchange(near, b'n', b'f'), exchange(far, b'f', b'n')).await);
}

async fn frames_are_whole(transport: &dyn Transport, address: Address) {
    let (mut listener, resolved) = listen(transport, &address).await;
    let (mut near, mut far) = connect(transport, &mut *listener, &resolved).await;
    let pieces: Vec<Bytes> =
        (0..500usize).map(|number| Bytes::from(vec![number as u8; number * 7 % 1500])).collect();
    let whole: Bytes = pieces.concat().into();
    let (sent, received) = join(near.send(Frame::new(pieces)), receive(&mut *far)).await;
    sent.expect("a frame of many pieces is sent");
    assert!(received == whole, "the pieces of a frame arrive as one");

    let error = near.send(Frame::default()).await.expect_err("no frame is empty");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "an empty frame is refused: {error}");
}

async fn the_limit_is_the_limit(transport: &dyn Transport, address: Address) {
    let (mut listener, resolved) = listen(transport, &address).await;
    let (mut near, mut far) = connect(transport, &mut *listener, &resolved).await;
    let longer = Frame::new([Bytes::from(vec![0; limit::MAX_FRAME_BYTES]), Bytes::from_static(b"!")]);
    let error = near.send(longer).await.expect_err("a frame beyond the limit is refused");
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "a frame beyond the limit is refused: {error}");

    let mut content = vec![b'a'; limit::MAX_FRAME_BYTES];
    content[limit::MAX_FRAME_BYTES - 1] = b'z';
    let content = Bytes::from(content);
    let (sent, received) = join(near.send(frame(content.clone())), receive(&mut *far)).await;
    sent.expect("a frame at the limit is sent");
    assert!(received == content, "a frame at the limit arrives");
}

async fn closing_is_the_end(transport: &dyn Transport, address: Address) {
    let (mut listener, resolved) = listen(transport, &address).await;
    let (mut near, mut far) = connect(transport, &mut *listener, &resolved).await;
    for number in 1..=10 {
        near.feed(frame(vec![number])).await.expect("an open connection takes frames");
    }
    let reader = async {
        let mut frames = 0;
        while let Some(received) = far.next().await {
            received.expect("a connection that is closed has no errors");
            frames += 1;
        }
        assert_eq!(frames, 10, "what was sent before closing arrives");
        assert!(far.next().await.is_none(), "a stream that ended stays so");
    };
    let (closed, ()) = join(near.close(), reader).await;
    closed.expect("an open connection can be closed");
}

async fn dropping_is_the_end(transport: &dyn Transport, address: Address) {
    let (mut listener, resolved) = listen(transport, &address).await;
    let (near, mut far) = connect(transport, &mut *listener, &resolved).await;
    drop(near);
    if let Some(last) = far.next().await {
        let error = last.expect_err("nothing was sent");
        assert_eq!(
            error.kind(),
            ErrorKind::Unavailable,
            "a connection that was dropped is `Unavailable`: {error}"
        );
    }
    assert!(far.next().await.is_none(), "the stream of a connection that was dropped ends");
    // Systems may take some frames until they learn that nobody reads them.
    let content = Bytes::from(vec![1; 1 << 20]);
    for _ in 0..256 {
        if let Err(error) = far.send(frame(content.clone())).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "sending to nobody is `Unavailable`: {error}");
            return;
        }
    }
    panic!("sending to nobody is noticed");
}

async fn queues_are_bounded(transport: &dyn Transport, address: Address) {
    const FRAMES: usize = 256;
    let (mut listener, resolved) = listen(transport, &address).await;
    let (mut near, mut far) = connect(transport, &mut *listener, &resolved).await;
    let content = Bytes::from(vec![7; 1 << 20]);
    let mut sent = 0;
    while sent < FRAMES && poll_ready_once(&mut *near).await {
        near.start_send_unpin(frame(content.clone())).expect("a connection that is ready takes a frame");
        sent += 1;
    }
    assert!(sent < FRAMES, "a connection whose other side does not read stops to take frames");
    let writer = async { near.close().await.expect("what waited is sent when the other side reads") };
    let reader = async {
        let mut received = 0;
        while let Some(frame) = far.next().await {
            assert_eq!(
                frame.expect("an open connection has no errors").len(),
                content.len(),
                "frames arrive whole"
            );
            received += 1;
        }
        assert_eq!(received, sent, "every frame that was taken arrives");
    };
    join(writer, reader).await;
}

async fn poll_ready_once(connection: &mut dyn Connection) -> bool {
    let mut connection = connection;
    poll_fn(|cx| {
        // Pushes out what it can, as a driver does between two frames.
        let _ = connection
            .poll_flush_unpin(cx)
            .map(|flushed| flushed.expect("an open connection can be flushed"));
        Poll::Ready(match std::pin::Pin::new(&mut connection).poll_ready(cx) {
            Poll::Ready(ready) => ready.map(|()| true).expect("an open connection takes frames"),
            Poll::Pending => false,
        })
    })
    .await
}

fn frame(content: impl Into<Bytes>) -> Frame {
    Frame::new([content.into()])
}

async fn receive(connection: &mut dyn Connection) -> Bytes {
    connection.next().await.expect("the connection is open").expect("an open connection has no errors")
}

async fn listen(transport: &dyn Transport, address: &Address) -> (Box<dyn Listener>, Address) {
    let listener = transport.listen(address).await.expect("a fresh address can be listened at");
    let resolved = listener.address();
    (listener, resolved)
}

/// Both ends of a new connection: the one that dialled, and the one that was accepted.
async fn connect(
    transport: &dyn Transport,
    listener: &mut dyn Listener,
    address: &Address,
) -> (Box<dyn Connection>, Box<dyn Connection>) {
    let (near, far): (Result<_>, Result<_>) = join(transport.dial(address), listener.accept()).await;
    (near.expect("a listener can be dialled"), far.expect("a dial is accepted"))
}
