//! The directory of a journal: its mode, who has it open, and how one file takes the place of another.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use funcx_core::model::{AttemptId, Error, ErrorKind, Result};
use funcx_core::state::{JournalEntry, Ledger};

use super::format::{Encoder, HEADER_BYTES, Header};
use super::replay::Records;

/// Bytes read or written at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// Damaged journals that are kept for people to look at.
const KEPT_ASIDE: usize = 8;
const ASIDE: &str = "journal.damaged-";

/// A directory that only we have open.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Locked, and never longer than the process lives.
    lock: File,
}

impl Directory {
    /// Takes the directory, which is made if there is none.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error| failed("open journal", error).with_context("directory", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock = private().create(true).open(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::Conflict,
                "open journal",
                "another process has it open; stop that one, or choose another directory",
            )
            .with_context("directory", path.display())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Where the journal is.
    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Writes a journal that holds what of `old` still counts, beside the one that there is. `old` is the journal from
    /// which the ledger was made, and where what was read of it ended. Nothing is synced yet.
    pub(super) fn draft(
        &self,
        header: Header,
        ledger: &Ledger,
        old: Option<(&mut File, u64)>,
    ) -> io::Result<(File, u64)> {
        self.discard_draft();
        let file = private().create_new(true).open(self.path.join("journal.new"))?;
        let mut bytes = HEADER_BYTES as u64;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, &file);
        out.write_all(&header.encode())?;
        if let Some((old, end)) = old {
            bytes += copy_outbox(old, end, header.epoch, ledger, &mut out)?;
        }
        // After the outcomes: one of these leases may be younger than an outcome of its task.
        bytes += write_leases(header.epoch, ledger, &mut out)?;
        out.flush()?;
        drop(out);
        Ok((file, bytes))
    }

    /// Puts the draft in the place of the journal. It stays there through a crash once the directory is synced.
    pub(super) fn adopt_draft(&self) -> io::Result<()> {
        fs::rename(self.path.join("journal.new"), self.journal())
    }

    /// Removes a draft that came to nothing, so that it takes no space; the next one would do it too.
    pub(super) fn discard_draft(&self) {
        let _ = fs::remove_file(self.path.join("journal.new"));
    }

    /// Makes renames durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Keeps the journal under another name as well, with the first free number from `life` on. Only so many are kept.
    pub(super) fn put_aside(&self, life: u32) -> io::Result<PathBuf> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            kept.extend(name.to_str().and_then(|name| name.strip_prefix(ASIDE)?.parse::<u64>().ok()));
        }
        kept.sort_unstable();
        for oldest in kept.iter().take((kept.len() + 1).saturating_sub(KEPT_ASIDE)) {
            fs::remove_file(self.aside(*oldest))?;
        }
        let number = kept.last().map_or(0, |last| last + 1).max(life.into());
        let aside = self.aside(number);
        fs::hard_link(self.journal(), &aside)?;
        Ok(aside)
    }

    fn aside(&self, number: u64) -> PathBuf {
        self.path.join(format!("{ASIDE}{number}"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A process that is just being started may have inherited the file, and would hold the lock a little longer.
        let _ = self.lock.unlock();
    }
}

/// Copies the records of outcomes that are still in the outbox, as they are.
fn copy_outbox(
    old: &mut File,
    end: u64,
    epoch: u64,
    ledger: &Ledger,
    out: &mut impl Write,
) -> io::Result<u64> {
    let mut at = HEADER_BYTES as u64;
    old.seek(SeekFrom::Start(at))?;
    let mut records = Records::new(BufReader::with_capacity(BUFFER_BYTES, old).take(end - at), epoch);
    let mut bytes = 0;
    while let Some(entry) = records.next()? {
        let length = records.record().len() as u64;
        at += length;
        if matches!(entry, JournalEntry::Outcomes(batch) if ledger.keeps(batch.sequence)) {
            out.write_all(records.record())?;
            bytes += length;
        }
    }
    if at < end {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the journal reads otherwise than before"));
    }
    Ok(bytes)
}

fn write_leases(epoch: u64, ledger: &Ledger, out: &mut impl Write) -> io::Result<u64> {
    let leased: Vec<AttemptId> = ledger.leased().map(|(attempt, _)| attempt).collect();
    let began: Vec<AttemptId> =
        ledger.leased().filter_map(|(attempt, began)| began.then_some(attempt)).collect();
    let mut encoder = Encoder::new(epoch);
    for entry in [JournalEntry::Leased(leased), JournalEntry::Started(began)] {
        encoder.push(entry).map_err(io::Error::other)?;
    }
    let mut bytes = 0;
    for piece in encoder.finish() {
        out.write_all(&piece)?;
        bytes += piece.len() as u64;
    }
    Ok(bytes)
}

/// What the operating system refused, with the way out where there is one.
pub(super) fn failed(operation: &'static str, error: io::Error) -> Error {
    let (kind, message) = match error.kind() {
        io::ErrorKind::StorageFull => (ErrorKind::Unavailable, "the disk is full; free some space"),
        io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            (ErrorKind::Unavailable, "the quota of the disk or the file size limit is used up")
        }
        io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::Unavailable, "the file system is read-only"),
        _ => (ErrorKind::Io, "the operating system refused it"),
    };
    Error::new(kind, operation, message).with_source(error)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600);
    options
}
