//! Headers in bincode, with bounds.

use std::{fmt, marker::PhantomData};

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use funcx_core::model::{Error, ErrorKind, Result, limit};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::ser::Serialize;

use super::malformed;

const CONFIGURATION: Configuration<LittleEndian, Varint, Limit<{ limit::MAX_FRAME_HEADER_BYTES }>> =
    bincode::config::standard().with_limit::<{ limit::MAX_FRAME_HEADER_BYTES }>();

/// Length up to which a header is a small one.
const SMALL_BYTES: usize = 64 << 10;

/// For small headers. A text is given the room that it claims before it is read, so what may be claimed depends on what
/// there is: a decoded number is up to 16 times as long as an encoded one.
const SMALL: Configuration<LittleEndian, Varint, Limit<{ 16 * SMALL_BYTES }>> =
    bincode::config::standard().with_limit::<{ 16 * SMALL_BYTES }>();

/// Appends the header to `buffer` and returns its length.
pub(super) fn write(header: &impl Serialize, buffer: &mut Vec<u8>) -> Result<u32> {
    let start = buffer.len();
    bincode::serde::encode_into_writer(header, Appender(buffer), CONFIGURATION).map_err(|error| {
        Error::new(ErrorKind::Internal, "encode frame", "the header has no encoding").with_source(error)
    })?;
    let length = buffer.len() - start;
    u32::try_from(length).ok().filter(|_| length <= limit::MAX_FRAME_HEADER_BYTES).ok_or_else(|| {
        Error::new(
            ErrorKind::LimitExceeded,
            "encode frame",
            "the header is longer than MAX_FRAME_HEADER_BYTES",
        )
        .with_context("header_bytes", length)
    })
}

/// The header that fills `bytes`.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let decoded = match bytes.len() {
        ..=SMALL_BYTES => bincode::serde::decode_from_slice(bytes, SMALL),
        _ => bincode::serde::decode_from_slice(bytes, CONFIGURATION),
    };
    let (header, length) =
        decoded.map_err(|error| malformed("the header does not decode").with_source(error))?;
    match bytes.len() - length {
        0 => Ok(header),
        left => Err(malformed("the header has bytes left over").with_context("left_bytes", left)),
    }
}

/// Room that is made for a list because of a claimed length alone.
const UNSEEN_BYTES: usize = 256 << 10;

struct Appender<'a>(&'a mut Vec<u8>);

impl Writer for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// A list of at most `MAX` entries. A longer one is refused by the length it claims, before room is made for it.
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor::<T, MAX>(PhantomData)).map(Self)
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let claimed = entries.size_hint().unwrap_or(0);
        if claimed > MAX {
            return Err(serde::de::Error::invalid_length(claimed, &self));
        }
        let mut list = Vec::with_capacity(claimed.min(UNSEEN_BYTES / size_of::<T>().max(1)));
        while let Some(entry) = entries.next_element()? {
            list.push(entry);
        }
        Ok(list)
    }
}
