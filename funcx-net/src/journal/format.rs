//! The bytes of a journal. Pure.
//!
//! ```text
//! header   magic 8 │ version u32 │ check u32 │ epoch u64 │ life u32 │ boot u64 │ check u64
//! record   length u32 │ check of the length u32 │ check of the body u64 │ body
//! body     kind u8 │ attempts (task u128, number u32)…      1 leased, 2 started, 3 returned
//!                  │ an outcomes frame of the link codec    4
//!                  │ sequence number u64                    5
//! ```
//!
//! All numbers are little endian. A check is XXH3; that of a record has the epoch as its seed, so nothing that a task
//! returned can pass for a record. The length has a check of its own, so that a cut record can be told from one whose
//! length is damaged. The first 16 bytes stay as they are in every version, because they say which version it is.
//!
//! The frame of outcomes is that of the link, whose layout never changes once released (see [`crate::codec`]). A
//! journal is read by the program that wrote it or by its successors, so the codec must go on to decode each kind of
//! outcomes frame that a journal of a readable version can hold, even when no peer sends it any more.

use bytes::Bytes;
use funcx_core::message::Message;
use funcx_core::model::{AttemptId, Error, ErrorKind, Result, TaskId, limit};
use funcx_core::state::JournalEntry;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::codec::{self, COPY_BELOW_BYTES};

/// Version of the format that this code writes, and the only one so far.
pub(super) const VERSION: u32 = 1;
/// Bytes before the first record.
pub(super) const HEADER_BYTES: usize = 44;
/// Bytes of a record before its body.
pub(super) const PRELUDE_BYTES: usize = 16;
/// Longest body: the longest frame and its kind.
pub(super) const MAX_BODY_BYTES: usize = limit::MAX_FRAME_BYTES + 1;
const MAGIC: [u8; 8] = *b"funcxjnl";
const ATTEMPT_BYTES: usize = 16 + 4;

const LEASED: u8 = 1;
const STARTED: u8 = 2;
const RETURNED: u8 = 3;
const OUTCOMES: u8 = 4;
const ACKNOWLEDGED: u8 = 5;

/// Whose journal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The session's epoch.
    pub epoch: u64,
    /// The process that writes it, counted from 1 in its epoch.
    pub life: u32,
    /// Stands for the time since the machine was started; 0 if unknown. What a process wrote is there when it is
    /// killed, but may be missing when the machine stopped.
    pub boot: u64,
}

/// What the first bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// A journal that can be read.
    Ours(Header),
    /// A journal of a later version.
    Newer(u32),
    /// No journal, or a damaged header.
    Unreadable,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(xxh3_64(&bytes) as u32).to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.life.to_le_bytes());
        bytes.extend_from_slice(&self.boot.to_le_bytes());
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }

    /// What these bytes, the first of a file, say. There may be fewer than [`HEADER_BYTES`] of them.
    pub(super) fn decode(bytes: &[u8]) -> Opening {
        let mut rest = bytes;
        let prelude = (cut(&mut rest), cut(&mut rest), cut(&mut rest));
        let (Some(MAGIC), Some(version), Some(check)) = prelude else { return Opening::Unreadable };
        if u32::from_le_bytes(check) != xxh3_64(&bytes[..12]) as u32 {
            return Opening::Unreadable;
        }
        match u32::from_le_bytes(version) {
            VERSION => {}
            newer if newer > VERSION => return Opening::Newer(newer),
            _ => return Opening::Unreadable,
        }
        let (Some(epoch), Some(life), Some(boot), Some(check)) =
            (cut(&mut rest), cut(&mut rest), cut(&mut rest), cut(&mut rest))
        else {
            return Opening::Unreadable;
        };
        if u64::from_le_bytes(check) != xxh3_64(&bytes[..HEADER_BYTES - 8]) {
            return Opening::Unreadable;
        }
        Opening::Ours(Header {
            epoch: u64::from_le_bytes(epoch),
            life: u32::from_le_bytes(life),
            boot: u64::from_le_bytes(boot),
        })
    }
}

/// Length and check of the body that follows; `None` if the prelude itself is damaged.
pub(super) fn decode_prelude(prelude: &[u8; PRELUDE_BYTES], epoch: u64) -> Option<(usize, u64)> {
    let mut rest = &prelude[..];
    let (length, length_check, body_check) = (cut(&mut rest)?, cut(&mut rest)?, cut(&mut rest)?);
    let sound = u32::from_le_bytes(length_check) == xxh3_64_with_seed(&length, epoch) as u32;
    let length = u32::from_le_bytes(length) as usize;
    (sound && length <= MAX_BODY_BYTES).then(|| (length, u64::from_le_bytes(body_check)))
}

/// Whether the body is the one that the prelude announced.
pub(super) fn is_sound(body: &[u8], check: u64, epoch: u64) -> bool {
    xxh3_64_with_seed(body, epoch) == check
}

/// The entry in the body of a record.
///
/// # Errors
/// `Protocol` for everything that this version does not write.
pub fn decode_entry(body: &[u8]) -> Result<JournalEntry> {
    let unknown = |message| Error::new(ErrorKind::Protocol, "read journal entry", message);
    let (kind, rest) = body.split_first().ok_or_else(|| unknown("it is empty"))?;
    match *kind {
        LEASED => decode_attempts(rest).map(JournalEntry::Leased),
        STARTED => decode_attempts(rest).map(JournalEntry::Started),
        RETURNED => decode_attempts(rest).map(JournalEntry::Returned),
        OUTCOMES => match codec::decode(Bytes::copy_from_slice(rest))? {
            Message::Outcomes(batch) => Ok(JournalEntry::Outcomes(batch)),
            _ => Err(unknown("its frame is not one of outcomes")),
        },
        ACKNOWLEDGED => match rest.try_into() {
            Ok(through) => Ok(JournalEntry::Acknowledged(u64::from_le_bytes(through))),
            Err(_) => Err(unknown("its sequence number is not 8 bytes long")),
        },
        _ => Err(unknown("it is of an unknown kind").with_context("kind", kind)),
    }
}

fn decode_attempts(bytes: &[u8]) -> Result<Vec<AttemptId>> {
    let (attempts, []) = bytes.as_chunks::<ATTEMPT_BYTES>() else {
        return Err(Error::new(ErrorKind::Protocol, "read journal entry", "its last attempt is cut"));
    };
    let decode = |mut bytes: &[u8]| {
        let (task, number) = (cut(&mut bytes)?, cut(&mut bytes)?);
        Some(AttemptId {
            task: TaskId::from_u128(u128::from_le_bytes(task)),
            number: u32::from_le_bytes(number),
        })
    };
    Ok(attempts.iter().filter_map(|attempt| decode(attempt)).collect())
}

/// Takes the next `N` bytes.
fn cut<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Makes records. Small things are copied together; large payloads are pieces of their own and are not copied.
#[derive(Debug)]
pub(super) struct Encoder {
    epoch: u64,
    pieces: Vec<Bytes>,
    buffer: Vec<u8>,
}

impl Encoder {
    pub(super) const fn new(epoch: u64) -> Self {
        Self { epoch, pieces: Vec::new(), buffer: Vec::new() }
    }

    /// Adds the record of an entry, or several if it is a long list.
    ///
    /// # Errors
    /// Those of [`codec::encode`]: the outcomes are more than a frame can hold, so they could not be sent either.
    pub(super) fn push(&mut self, entry: JournalEntry) -> Result<()> {
        match entry {
            JournalEntry::Leased(attempts) => self.attempts(LEASED, &attempts),
            JournalEntry::Started(attempts) => self.attempts(STARTED, &attempts),
            JournalEntry::Returned(attempts) => self.attempts(RETURNED, &attempts),
            JournalEntry::Outcomes(batch) => {
                self.frame(&codec::encode(Message::Outcomes(batch))?.into_pieces());
            }
            JournalEntry::Acknowledged(through) => {
                let mut body = [ACKNOWLEDGED; 9];
                body[1..].copy_from_slice(&through.to_le_bytes());
                self.buffer.reserve(PRELUDE_BYTES + body.len());
                self.prelude(body.len(), xxh3_64_with_seed(&body, self.epoch));
                self.buffer.extend_from_slice(&body);
            }
        }
        Ok(())
    }

    /// The pieces, in order.
    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.seal();
        self.pieces
    }

    fn attempts(&mut self, kind: u8, attempts: &[AttemptId]) {
        for chunk in attempts.chunks(limit::MAX_BATCH_TASKS) {
            let length = 1 + chunk.len() * ATTEMPT_BYTES;
            self.buffer.reserve(PRELUDE_BYTES + length);
            let prelude = self.buffer.len();
            self.buffer.extend_from_slice(&[0; PRELUDE_BYTES]);
            self.buffer.push(kind);
            for attempt in chunk {
                self.buffer.extend_from_slice(&attempt.task.as_u128().to_le_bytes());
                self.buffer.extend_from_slice(&attempt.number.to_le_bytes());
            }
            let body = self.buffer.split_off(prelude + PRELUDE_BYTES);
            self.buffer.truncate(prelude);
            self.prelude(length, xxh3_64_with_seed(&body, self.epoch));
            self.buffer.extend_from_slice(&body);
        }
    }

    fn frame(&mut self, pieces: &[Bytes]) {
        let mut check = Xxh3::with_seed(self.epoch);
        check.update(&[OUTCOMES]);
        pieces.iter().for_each(|piece| check.update(piece));
        self.prelude(1 + pieces.iter().map(Bytes::len).sum::<usize>(), check.digest());
        self.buffer.push(OUTCOMES);
        for piece in pieces {
            if piece.len() < COPY_BELOW_BYTES {
                self.buffer.extend_from_slice(piece);
            } else {
                self.seal();
                self.pieces.push(piece.clone());
            }
        }
    }

    fn prelude(&mut self, length: usize, check: u64) {
        // A frame has a bound far below 4 GiB, and so has a list of attempts.
        let length = (length as u32).to_le_bytes();
        self.buffer.extend_from_slice(&length);
        self.buffer.extend_from_slice(&(xxh3_64_with_seed(&length, self.epoch) as u32).to_le_bytes());
        self.buffer.extend_from_slice(&check.to_le_bytes());
    }

    fn seal(&mut self) {
        if !self.buffer.is_empty() {
            self.pieces.push(std::mem::take(&mut self.buffer).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_comes_back_or_is_not_taken() {
        let header = Header { epoch: 7, life: 3, boot: 9 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Opening::Ours(header));
        for cut in 0..HEADER_BYTES {
            assert_eq!(Header::decode(&bytes[..cut]), Opening::Unreadable, "cut at {cut}");
        }
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes), Opening::Unreadable, "bit {bit}");
        }
    }

    #[test]
    fn a_later_version_is_known_by_its_first_bytes() {
        let mut bytes = Header { epoch: 7, life: 3, boot: 9 }.encode();
        bytes[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
        let check = xxh3_64(&bytes[..12]) as u32;
        bytes[12..16].copy_from_slice(&check.to_le_bytes());
        assert_eq!(Header::decode(&bytes[..16]), Opening::Newer(VERSION + 1));
    }

    #[test]
    fn what_this_version_does_not_write_is_refused() {
        let check = |body: &[u8], word: &str| {
            let error = decode_entry(body).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(error.to_string().contains(word), "{error}");
        };
        check(&[], "empty");
        check(&[0], "unknown kind");
        check(&[6], "unknown kind");
        check(&[LEASED, 1, 2, 3], "cut");
        check(&[ACKNOWLEDGED, 1], "8 bytes");
        check(&[OUTCOMES, 0x87, 0, 0, 0, 0], "not one of outcomes");
    }
}
