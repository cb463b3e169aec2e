//! Messages to frames and back. Pure: bytes in, bytes out.
//!
//! ```text
//! kind: u8 │ header length: u32, little endian │ header │ payloads, one after the other
//! ```
//!
//! How long the whole frame is, the transport knows. The header is the message in bincode (2, standard configuration);
//! payloads are opaque bytes whose lengths stand in the heads of the batch. Only `Functions`, `Tasks` and `Outcomes`
//! carry payloads. They are cut out of the received buffer and put into the sent frame without being copied, except
//! for small ones (see [`COPY_BELOW_BYTES`]), which are cheaper to copy than to name.
//!
//! ```
//! use funcx_core::message::Message;
//! use funcx_net::codec::{decode, encode};
//!
//! let frame = encode(Message::Ping(7))?;
//! assert_eq!(decode(frame.into_contiguous())?, Message::Ping(7));
//! # Ok::<(), funcx_core::Error>(())
//! ```
//!
//! # Changing the wire format
//!
//! A header carries no field names, so both sides must agree on its fields. Therefore the number and the header of a
//! message kind never change once released. A message that needs another field becomes a new kind with a new number,
//! sent only to peers that speak the protocol version which brought it, and the old kind is decoded as long as
//! [`PROTOCOL`](funcx_core::message::PROTOCOL) holds a version that uses it. `Hello`, `Welcome` and `Refused` come
//! before a version is agreed on and stay as they are for good. `tests/data/codec/` has one frame of every kind; a
//! test compares them byte for byte.

mod header;
mod kind;
mod payload;

use bytes::Bytes;
use funcx_core::contract::Frame;
use funcx_core::message::{
    FunctionBatch, FunctionHead, Hello, Message, OutcomeBatch, OutcomeHead, Refused, SpecHead, TaskBatch,
    TaskHead, Warm, WarmType, Welcome, WireAttempt,
};
use funcx_core::model::{Error, ErrorKind, FunctionHash, Result, is_environment_name, limit};

use header::List;
use kind::Kind;
pub use payload::COPY_BELOW_BYTES;
use payload::{Encoder, Region};

/// Bytes before the header: kind and header length.
const PRELUDE_BYTES: usize = 1 + size_of::<u32>();

/// Entries of a list that grows with a batch.
type Batch<T> = List<T, { limit::MAX_BATCH_TASKS }>;

/// Entries of `TaskEvents`: a peer holds no more attempts that could begin.
const MAX_EVENTS: usize = limit::MAX_PEER_CREDITS as usize;

/// Types of workers: the environments and the default one.
const MAX_TYPES: usize = limit::MAX_ENVIRONMENTS + 1;

/// Functions to forget: all that a session holds, which is at most one batch more than its bound.
const MAX_FORGET: usize = limit::MAX_SESSION_FUNCTIONS + limit::MAX_BATCH_TASKS;

/// The frame of a message.
///
/// **Shape.** The header, and small payloads behind it, are one piece; larger payloads are pieces of their own that
/// share memory with the message.
///
/// # Errors
/// `LimitExceeded` if a header or a frame would be longer than [`limit`] allows; `Internal` if a batch does not have
/// the payloads that its heads announce.
pub fn encode(message: Message) -> Result<Frame> {
    let kind = Kind::of(&message);
    match message {
        Message::Hello(hello) => Encoder::new(kind, 0).finish(&hello),
        Message::Welcome(welcome) => Encoder::new(kind, 0).finish(&welcome),
        Message::Refused(refused) => Encoder::new(kind, 0).finish(&clipped(refused)),
        Message::Capacity(capacity) => Encoder::new(kind, 0).finish(&capacity),
        Message::Report(report) => Encoder::new(kind, 0).finish(&report),
        Message::Held(attempts)
        | Message::Cancel(attempts)
        | Message::Abandon(attempts)
        | Message::GaveBack(attempts) => {
            bounded(attempts.len(), limit::MAX_BATCH_TASKS)?;
            Encoder::new(kind, attempts.len()).finish(&attempts)
        }
        Message::TaskEvents(events) => {
            bounded(events.len(), MAX_EVENTS)?;
            Encoder::new(kind, events.len()).finish(&events)
        }
        Message::Warm(warm) => {
            bounded(warm.types.len(), MAX_TYPES)?;
            Encoder::new(kind, warm.types.len()).finish(&warm)
        }
        Message::Pong(number) | Message::Ping(number) | Message::OutcomesAcked(number) => {
            Encoder::new(kind, 0).finish(&number)
        }
        Message::Goodbye | Message::Drain | Message::ForgetValues => Encoder::new(kind, 0).finish(&()),
        Message::Functions(mut batch) => {
            bounded(batch.heads.len(), limit::MAX_BATCH_TASKS)?;
            bounded(batch.forget.len(), MAX_FORGET)?;
            let payloads = std::mem::take(&mut batch.payloads);
            let lengths = batch.heads.iter().map(|head| head.code_len);
            Encoder::new(kind, batch.heads.len()).finish_with(&batch, lengths, payloads)
        }
        Message::Tasks(mut batch) => {
            bounded(batch.heads.len().max(batch.specs.len()), limit::MAX_BATCH_TASKS)?;
            let payloads = std::mem::take(&mut batch.payloads);
            let lengths = batch.heads.iter().map(|head| head.payload_len);
            Encoder::new(kind, batch.heads.len()).finish_with(&batch, lengths, payloads)
        }
        Message::Outcomes(mut batch) => {
            bounded(batch.heads.len().max(batch.workers.len()), limit::MAX_BATCH_TASKS)?;
            let payloads = std::mem::take(&mut batch.payloads);
            let lengths = batch.heads.iter().flat_map(|head| head.lens);
            Encoder::new(kind, batch.heads.len()).finish_with(&batch, lengths, payloads)
        }
    }
}

/// The message in the content of a frame. Its payloads are slices of `frame` and keep that buffer alive.
///
/// # Errors
/// `Protocol`, saying what is wrong, for everything that [`encode`] could not have made. Memory allocated on the way is
/// in proportion to the frame, but for some hundred KiB, whatever lengths it claims.
pub fn decode(frame: Bytes) -> Result<Message> {
    let number = *frame.first().ok_or_else(|| malformed("the frame is empty"))?;
    let kind = Kind::from_number(number).ok_or_else(|| {
        malformed("the frame is of a kind that this version does not know").with_context("kind", number)
    })?;
    decode_kind(kind, &frame).map_err(|error| error.with_context("message", kind.as_str()))
}

fn decode_kind(kind: Kind, frame: &Bytes) -> Result<Message> {
    let (header, mut region) = split(frame)?;
    let message = match kind {
        Kind::Hello => Message::Hello(checked_hello(header::read(header)?)?),
        Kind::Welcome => Message::Welcome(checked_welcome(header::read(header)?)?),
        Kind::Refused => Message::Refused(checked_refused(header::read(header)?)?),
        Kind::Capacity => Message::Capacity(header::read(header)?),
        Kind::Report => Message::Report(header::read(header)?),
        Kind::Held => Message::Held(header::read::<Batch<WireAttempt>>(header)?.0),
        Kind::GaveBack => Message::GaveBack(header::read::<Batch<WireAttempt>>(header)?.0),
        Kind::Cancel => Message::Cancel(header::read::<Batch<WireAttempt>>(header)?.0),
        Kind::Abandon => Message::Abandon(header::read::<Batch<WireAttempt>>(header)?.0),
        Kind::TaskEvents => Message::TaskEvents(header::read::<List<_, MAX_EVENTS>>(header)?.0),
        Kind::Warm => {
            let (types, cold_starts, switches, retired): (List<WarmType, MAX_TYPES>, _, _, _) =
                header::read(header)?;
            Message::Warm(checked_warm(Warm { types: types.0, cold_starts, switches, retired })?)
        }
        Kind::Pong => Message::Pong(header::read(header)?),
        Kind::Ping => Message::Ping(header::read(header)?),
        Kind::OutcomesAcked => Message::OutcomesAcked(header::read(header)?),
        Kind::Goodbye => header::read(header).map(|()| Message::Goodbye)?,
        Kind::Drain => header::read(header).map(|()| Message::Drain)?,
        Kind::ForgetValues => header::read(header).map(|()| Message::ForgetValues)?,
        Kind::Functions => {
            let (heads, forget): (Batch<FunctionHead>, List<FunctionHash, MAX_FORGET>) =
                header::read(header)?;
            let payloads = region.cut(heads.0.iter().map(|head| head.code_len), heads.0.len())?;
            Message::Functions(FunctionBatch { heads: heads.0, forget: forget.0, payloads })
        }
        Kind::Tasks => {
            let (specs, heads): (Batch<SpecHead>, Batch<TaskHead>) = header::read(header)?;
            let payloads = region.cut(heads.0.iter().map(|head| head.payload_len), heads.0.len())?;
            Message::Tasks(TaskBatch { specs: specs.0, heads: heads.0, payloads, keys: Vec::new() })
        }
        Kind::Outcomes => {
            let (sequence, workers, heads): (_, Batch<String>, Batch<OutcomeHead>) = header::read(header)?;
            let payloads = region.cut(heads.0.iter().flat_map(|head| head.lens), 3 * heads.0.len())?;
            Message::Outcomes(OutcomeBatch { sequence, workers: workers.0, heads: heads.0, payloads })
        }
    };
    region.end()?;
    Ok(message)
}

/// Header and payload region.
fn split(frame: &Bytes) -> Result<(&[u8], Region<'_>)> {
    let (prelude, rest) = frame
        .split_first_chunk::<PRELUDE_BYTES>()
        .ok_or_else(|| malformed("the frame ends before its header"))?;
    let [_, length @ ..] = *prelude;
    let length = u32::from_le_bytes(length) as usize;
    if length > limit::MAX_FRAME_HEADER_BYTES {
        return Err(malformed("the header is longer than MAX_FRAME_HEADER_BYTES")
            .with_context("header_bytes", length));
    }
    let header = rest.get(..length).ok_or_else(|| {
        malformed("the header is longer than the frame")
            .with_context("header_bytes", length)
            .with_context("frame_bytes", frame.len())
    })?;
    Ok((header, Region::new(frame, PRELUDE_BYTES + length)))
}

/// Texts of the handshake come from peers that have proved nothing yet, and are logged.
fn checked(name: &'static str, text: &str) -> Result<()> {
    if text.len() <= limit::MAX_TEXT_BYTES {
        return Ok(());
    }
    Err(malformed("a text is longer than MAX_TEXT_BYTES")
        .with_context("field", name)
        .with_context("bytes", text.len()))
}

fn checked_hello(hello: Hello) -> Result<Hello> {
    checked("credential", &hello.credential)?;
    checked("name", &hello.name)?;
    checked("software", &hello.software)?;
    Ok(hello)
}

fn checked_welcome(welcome: Welcome) -> Result<Welcome> {
    checked("software", &welcome.software)?;
    Ok(welcome)
}

fn checked_refused(refused: Refused) -> Result<Refused> {
    checked("reason", &refused.reason)?;
    Ok(refused)
}

fn checked_warm(warm: Warm) -> Result<Warm> {
    let names = warm.types.iter().filter_map(|worker_type| worker_type.environment.as_deref());
    match names.into_iter().all(is_environment_name) {
        true => Ok(warm),
        false => Err(malformed("an environment has a name that none can have")),
    }
}

/// A reason may quote the peer at length; the peer must be able to read it nevertheless.
fn clipped(mut refused: Refused) -> Refused {
    refused.reason.truncate(refused.reason.floor_char_boundary(limit::MAX_TEXT_BYTES));
    refused
}

/// What the other side would refuse is not sent.
fn bounded(entries: usize, most: usize) -> Result<()> {
    if entries <= most {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LimitExceeded, "encode frame", "the batch has too many entries")
        .with_context("entries", entries)
        .with_context("most", most))
}

fn malformed(message: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, "decode frame", message)
}
