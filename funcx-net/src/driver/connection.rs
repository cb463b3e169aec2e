//! One connection: frames in and messages out, messages in and frames out.

use funcx_core::Result;
use funcx_core::contract::Connection;
use funcx_core::message::Message;
use funcx_core::state::LinkId;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;

use super::{FAREWELL, Received, ToSend};
use crate::codec;

/// Frames put into a connection before it is flushed: a message alone goes out at once, a flood in large writes.
const FRAMES_PER_FLUSH: usize = 64;

/// Serves a connection from a node below until either side closes it.
pub(super) async fn run_below(
    connection: Box<dyn Connection>,
    link: LinkId,
    outgoing: ToSend,
    received: mpsc::Sender<Received>,
) {
    let forward = received.clone();
    let wrap = move |message| Received::Message(link, message);
    let ended = run(connection, outgoing, false, wrap, forward).await;
    let reason = ended.map_or_else(|error| error.to_string(), |()| "closed".to_owned());
    let _ = received.send(Received::Closed(link, reason)).await;
}

/// Serves a connection until the other side closes it, it fails, or the other end of `outgoing` is dropped; then what
/// was put into it is still sent, for as long as [`FAREWELL`].
///
/// With `finds_keys`, the keys of memoized tasks that come are found here: the node's task has more to do than to hash.
pub(super) async fn run(
    connection: Box<dyn Connection>,
    outgoing: ToSend,
    finds_keys: bool,
    wrap: impl Fn(Message) -> Received,
    received: mpsc::Sender<Received>,
) -> Result<()> {
    let ToSend { messages: mut outgoing, closing } = outgoing;
    let (mut sink, mut stream) = connection.split();
    // Reading and writing go on side by side: a peer that is slow to read must not keep us from reading.
    let read = async {
        while let Some(frame) = stream.next().await {
            let mut message = codec::decode(frame?)?;
            if let Message::Tasks(batch) = &mut message
                && finds_keys
            {
                batch.find_keys();
            }
            if received.send(wrap(message)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let write = async {
        while let Some(message) = outgoing.recv().await {
            sink.feed(codec::encode(message)?).await?;
            for _ in 1..FRAMES_PER_FLUSH {
                let Ok(message) = outgoing.try_recv() else { break };
                sink.feed(codec::encode(message)?).await?;
            }
            sink.flush().await?;
        }
        sink.close().await
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
        // A peer that takes nothing must not keep a connection that is given up.
        () = async { closing.cancelled().await; tokio::time::sleep(FAREWELL).await } => Ok(()),
    }
}
