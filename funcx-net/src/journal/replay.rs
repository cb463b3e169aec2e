//! From bytes to a ledger: what can be read, and what is to be thought of the rest.

use std::io::{self, Read};

use funcx_core::state::{JournalEntry, Ledger};

use super::format::{HEADER_BYTES, Header, Opening, PRELUDE_BYTES, decode_entry, decode_prelude, is_sound};

/// Bytes looked at at a time where nothing can be read any more.
const CHUNK_BYTES: usize = 64 << 10;

/// What the bytes of a journal add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The journal, as far as it can be read.
    Read {
        /// Whose it is.
        header: Header,
        /// What its readable records add up to.
        ledger: Ledger,
        /// Bytes of the header and the readable records.
        end: u64,
        /// What comes after them.
        tail: Tail,
    },
    /// A later version wrote it.
    Newer(u32),
    /// It has no header that can be read.
    Unreadable,
}

/// What comes after the last readable record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    Whole,
    /// So many bytes that are the beginning of a record, or all zero: the process or the machine stopped while they
    /// were written, and nobody was told that they are safe.
    Torn(u64),
    /// So many bytes of anything else. There may be records among them that cannot be used, because it cannot be known
    /// what is missing before them.
    Damaged(u64),
}

/// What the bytes of a journal add up to. This is what opening a journal does with its file.
///
/// Never panics, whatever the bytes are, and allocates in proportion to them.
pub fn replay(bytes: &[u8]) -> Replayed {
    let mut bytes = bytes;
    // Reading from memory does not fail.
    replay_from(&mut bytes).unwrap_or(Replayed::Unreadable)
}

/// What the bytes of a journal add up to, read as they are needed.
pub(super) fn replay_from(source: &mut impl Read) -> io::Result<Replayed> {
    let mut first = Vec::with_capacity(HEADER_BYTES);
    source.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut first)?;
    let header = match Header::decode(&first) {
        Opening::Ours(header) => header,
        Opening::Newer(version) => return Ok(Replayed::Newer(version)),
        Opening::Unreadable => return Ok(Replayed::Unreadable),
    };
    let mut ledger = Ledger::default();
    let mut end = HEADER_BYTES as u64;
    let mut records = Records::new(source, header.epoch);
    while let Some(entry) = records.next()? {
        ledger.apply(&entry);
        end += records.record().len() as u64;
    }
    let tail = records.tail()?;
    Ok(Replayed::Read { header, ledger, end, tail })
}

/// The records behind a header, one after the other, until one cannot be read.
pub(super) struct Records<R> {
    source: R,
    epoch: u64,
    /// The record read last, or what there is of the one that cannot be read.
    record: Vec<u8>,
}

impl<R: Read> Records<R> {
    pub(super) const fn new(source: R, epoch: u64) -> Self {
        Self { source, epoch, record: Vec::new() }
    }

    /// The next entry; none at the end and where the next record cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<JournalEntry>> {
        self.record.clear();
        self.read(PRELUDE_BYTES)?;
        let Some((length, check)) =
            self.record.first_chunk().and_then(|prelude| decode_prelude(prelude, self.epoch))
        else {
            return Ok(None);
        };
        self.read(length)?;
        let body = &self.record[PRELUDE_BYTES..];
        Ok((body.len() == length && is_sound(body, check, self.epoch))
            .then(|| decode_entry(body).ok())
            .flatten())
    }

    /// Bytes of the record that [`next`](Self::next) read.
    pub(super) fn record(&self) -> &[u8] {
        &self.record
    }

    /// What is left, beginning with the record that could not be read.
    fn tail(mut self) -> io::Result<Tail> {
        let mut bytes = self.record.len() as u64;
        let cut = match self.record.first_chunk().map(|prelude| decode_prelude(prelude, self.epoch)) {
            None => true,
            Some(Some((length, _))) => self.record.len() < PRELUDE_BYTES + length,
            Some(None) => false,
        };
        let mut zero = self.record.iter().all(|byte| *byte == 0);
        loop {
            self.record.clear();
            self.read(CHUNK_BYTES)?;
            if self.record.is_empty() {
                break;
            }
            bytes += self.record.len() as u64;
            zero &= self.record.iter().all(|byte| *byte == 0);
        }
        Ok(match bytes {
            0 => Tail::Whole,
            _ if cut || zero => Tail::Torn(bytes),
            _ => Tail::Damaged(bytes),
        })
    }

    /// Reads so many bytes more, or fewer if there are no more. Room is made as they come.
    fn read(&mut self, bytes: usize) -> io::Result<()> {
        self.source.by_ref().take(bytes as u64).read_to_end(&mut self.record).map(drop)
    }
}
