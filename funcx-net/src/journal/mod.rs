//! What an endpoint remembers through a crash: leases given out, and outcomes that the node above has not acknowledged.
//!
//! A [`Journal`] is one file to which [`JournalEntry`]s are appended. It is the memory of the session with the node
//! above: the session's epoch is in it, so an endpoint that is back with its journal goes on with the same session,
//! states what it holds, and sends the outcomes that were not acknowledged.
//!
//! | File | Holds |
//! | --- | --- |
//! | `format` | what the bytes look like |
//! | `replay` | from bytes to a [`Ledger`], and what is made of damage |
//! | `directory` | the directory: its mode, who has it open, how one file takes the place of another |
//! | `queue` | what waits to be written and for the disk, and what to do next |
//! | `writer` | writes, and the thread that syncs, retries and compacts |
//!
//! **Opening** reads the journal and writes a new one with the next life and what still counts, which takes the place
//! of the old one in one step. So the space that counts is wanted once more while a journal is opened, and a journal
//! that cannot be opened is as it was.
//!
//! **Damage.** What comes before the first record that cannot be read counts, and nothing after it does. If that is the
//! beginning of a record or zeros, a write was cut short, of which nobody was told that it was safe. Anything else is
//! damage: the file is kept as `journal.damaged-N`, and the log says so. If the header cannot be read, it is kept
//! likewise, and a new epoch begins: the node above takes what it had given to the old one for lost. A journal of a later
//! version is left alone and not opened.

mod directory;
mod format;
mod queue;
mod replay;
mod writer;

use std::{
    fmt,
    fs::{self, File},
    future::{Future, pending},
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use funcx_core::model::{AttemptId, Error, ErrorKind, Result};
use funcx_core::state::{JournalEntry, Ledger, MAX_LIVES, Recovered};
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use directory::{Directory, failed};
use format::{Encoder, VERSION};
use queue::{Counts, Record};
use writer::Writer;

pub use format::{Header, decode_entry};
pub use replay::{Replayed, Tail, replay};

const OPENING: &str = "open journal";

/// What can be chosen about a [`Journal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalOptions {
    /// Length up to which the file is never compacted. A longer one is when it has grown to four times what counted the
    /// last time.
    pub compact_above_bytes: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { compact_above_bytes: 64 << 20 }
    }
}

/// What was wrong with the journal when it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Repair {
    /// Bytes at the end that were cut off.
    pub cut_bytes: u64,
    /// Where the file is kept if that was damage, or if nothing in it could be used.
    pub put_aside: Option<PathBuf>,
}

/// A journal in a directory of this machine.
///
/// **Durability.** What has been written survives the death of the process. What holds outcomes is also on the disk
/// (`fdatasync`) when its future resolves, and so are leases that count as begun in the same record; records that wait
/// at the same time share one sync, which comes a moment after the first outcomes and at once for such leases. Other leases and the rest get to the disk with the next outcomes, or when the
/// system sees to it.
///
/// **Large outcomes** (from 256 KiB in one record) are held back for up to 100 ms, since they cost more to write than all
/// else. A node above that has them by then has them on its disk, and they are not written here. Until they count, the one
/// below keeps them; with an endpoint that is killed meanwhile they are lost as if they had not reached it.
///
/// **Failures.** When the disk is full, read-only or broken, records wait in memory in their order, what was written by
/// half is cut off, and it is tried again (after 10 ms, later every second) until it succeeds; futures resolve late. So
/// whoever records must stop when it does not hear: an endpoint does because what waits keeps its credits.
/// [`Journal::problem`] says why, [`Journal::backlog_bytes`] how much waits.
///
/// Dropping a journal waits until what was recorded is on the disk, but not for a disk that fails.
pub struct Journal {
    writer: Arc<Writer>,
    repair: Repair,
    thread: Option<thread::JoinHandle<()>>,
}

impl Journal {
    /// Opens the journal in this directory, which is created (mode 0700) if there is none.
    ///
    /// # Errors
    /// `Conflict` if another process has it open, `Unsupported` if a later version wrote it, `Unavailable` if the disk
    /// is full or read-only, else `Io`. Then the journal is as it was.
    pub fn open(directory: impl AsRef<Path>, options: &JournalOptions) -> Result<(Self, Recovered)> {
        let path = directory.as_ref();
        let named = |error: Error| error.with_context("directory", path.display());
        let directory = Directory::open(path)?;
        let boot = boot();
        let mut found = Found::read(&directory, boot).map_err(named)?;
        // What an incomplete journal does not know of, its later lives do not know of either: none of them is taken for one
        // that does. A new epoch has nothing to know of.
        let known = found.complete || found.life == 1;
        let header = Header { epoch: found.epoch, life: found.life, boot: if known { boot } else { 0 } };
        let io = |error| named(failed(OPENING, error));
        let old = found.old.as_mut().map(|(file, end)| (file, *end));
        let draft = directory.draft(header, &found.ledger, old);
        let draft = draft.and_then(|(file, bytes)| file.sync_all().map(|()| (file, bytes)));
        let (file, bytes) = draft.inspect_err(|_| directory.discard_draft()).map_err(io)?;
        let put_aside = found.damaged.then(|| directory.put_aside(header.life)).transpose().map_err(io)?;
        directory.adopt_draft().and_then(|()| directory.sync()).map_err(io)?;
        let repair = Repair { cut_bytes: found.cut_bytes, put_aside };
        repair.report(path);

        let recovered = found.ledger.into_recovered(header.epoch, header.life, found.complete);
        let writer = Arc::new(Writer::new(directory, header, file, bytes, options.compact_above_bytes));
        let thread = thread::Builder::new()
            .name("funcx-journal".into())
            .spawn({
                let writer = Arc::clone(&writer);
                move || writer.run()
            })
            .map_err(io)?;
        Ok((Self { writer, repair, thread: Some(thread) }, recovered))
    }

    /// Records these entries. They are queued when this returns, in the order of the calls.
    ///
    /// What it returns resolves when they are written, and if there are outcomes among them, or leases together with the
    /// word that they have begun, when they are on the disk. Outcomes that the node above has acknowledged before they were
    /// written are as safe, and are not written any more.
    /// It need not be awaited, and never resolves if the journal is closed before that.
    pub fn record(&self, mut entries: Vec<JournalEntry>) -> impl Future<Output = ()> + Send + use<> {
        if let [JournalEntry::Acknowledged(through)] = entries[..] {
            let unwritten = self.writer.acknowledged(through);
            if !unwritten.is_empty() {
                // Their leases have ended all the same.
                entries.insert(0, JournalEntry::Returned(unwritten));
            }
        }
        let outcomes = all_outcomes(&entries);
        let mut encoder = Encoder::new(self.writer.epoch());
        let mut counts = match &entries[..] {
            // An attempt that counts as begun when it is given out must not be forgotten: it may be the only one allowed. It
            // waits for that.
            [JournalEntry::Leased(_), JournalEntry::Started(_)] => Counts::SyncedAtOnce,
            _ => Counts::Written,
        };
        for entry in entries {
            if counts == Counts::Written && matches!(entry, JournalEntry::Outcomes(_)) {
                // They are on their way up. Only the word to those below that they may forget them waits.
                counts = Counts::Synced;
            }
            if let Err(error) = encoder.push(entry) {
                // They could not be sent either, so to keep them would be of no use.
                tracing::error!(%error, "outcomes that no frame can hold are not in the journal");
            }
        }
        let pieces = encoder.finish();
        let counts = match (pieces.is_empty(), outcomes) {
            (true, _) => None,
            (false, None) => self.writer.record(Record::new(pieces, counts, None)),
            (false, Some((through, attempts))) => {
                self.writer.record_outcomes(Record::new(pieces, counts, Some(through)), attempts)
            }
        };
        async move {
            if let Some(counts) = counts
                && counts.await.is_err()
            {
                pending::<()>().await;
            }
        }
    }

    /// The session has ended: everything was handed over, and nothing is recorded any more. The next journal that is opened
    /// here begins a new session.
    ///
    /// # Errors
    /// `Io` if the file cannot be removed; then the next one goes on with this session.
    pub fn end_session(&self) -> Result<()> {
        self.writer.close();
        self.writer.remove().map_err(|error| failed("end journal", error))
    }

    /// Why records wait; none while they do not.
    pub fn problem(&self) -> watch::Receiver<Option<String>> {
        self.writer.problem()
    }

    /// About the bytes of memory that are taken by records that are not on the disk yet.
    pub fn backlog_bytes(&self) -> usize {
        self.writer.backlog_bytes()
    }

    /// What was wrong with the journal when it was opened.
    pub const fn repair(&self) -> &Repair {
        &self.repair
    }
}

/// The last sequence number and the attempts of these entries, if all of them are outcomes.
fn all_outcomes(entries: &[JournalEntry]) -> Option<(u64, Vec<AttemptId>)> {
    let mut attempts = Vec::new();
    let mut through = None;
    for entry in entries {
        let JournalEntry::Outcomes(batch) = entry else { return None };
        attempts.extend(batch.heads.iter().map(|head| AttemptId { task: head.task, number: head.attempt }));
        through = Some(batch.sequence);
    }
    through.map(|through| (through, attempts))
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("repair", &self.repair).finish_non_exhaustive()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.writer.close();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Repair {
    fn report(&self, directory: &Path) {
        let (directory, bytes) = (directory.display(), self.cut_bytes);
        match &self.put_aside {
            Some(file) => {
                tracing::error!(
                    %directory, bytes, kept_as = %file.display(),
                    "the journal was damaged; what came after the damage is not used and its file is kept"
                );
            }
            None if bytes > 0 => {
                tracing::warn!(%directory, bytes, "the end of the journal was cut short when it was written");
            }
            None => {}
        }
    }
}

/// What there was when a journal was opened, and which life of which epoch begins.
struct Found {
    epoch: u64,
    life: u32,
    ledger: Ledger,
    old: Option<(File, u64)>,
    cut_bytes: u64,
    damaged: bool,
    complete: bool,
}

impl Found {
    fn read(directory: &Directory, boot: u64) -> Result<Self> {
        let io = |error| failed(OPENING, error);
        let file = match File::open(directory.journal()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { complete: true, damaged: false, ..Self::new_epoch(0)? });
            }
            Err(error) => return Err(io(error)),
        };
        match replay::replay_from(&mut BufReader::with_capacity(1 << 20, &file)).map_err(io)? {
            Replayed::Newer(version) => Err(Error::new(
                ErrorKind::Unsupported,
                OPENING,
                format!(
                    "the journal has version {version}, this program reads version {VERSION}; use the newer program, \
                     or choose another directory and give up what the journal holds"
                ),
            )),
            Replayed::Read { header, ledger, end, tail } if header.life < MAX_LIVES - 1 => {
                let (cut_bytes, damaged) = match tail {
                    Tail::Whole => (0, false),
                    Tail::Torn(bytes) => (bytes, false),
                    Tail::Damaged(bytes) => (bytes, true),
                };
                Ok(Self {
                    epoch: header.epoch,
                    life: header.life + 1,
                    ledger,
                    old: Some((file, end)),
                    cut_bytes,
                    damaged,
                    complete: !damaged && boot != 0 && header.boot == boot,
                })
            }
            Replayed::Read { .. } | Replayed::Unreadable => {
                Self::new_epoch(file.metadata().map_err(io)?.len())
            }
        }
    }

    /// The first life of a new epoch, with nothing of a journal of so many bytes.
    fn new_epoch(cut_bytes: u64) -> Result<Self> {
        let mut epoch = [0; 8];
        getrandom::fill(&mut epoch).map_err(|error| {
            Error::new(ErrorKind::Internal, OPENING, "the system has no random numbers").with_source(error)
        })?;
        Ok(Self {
            epoch: u64::from_le_bytes(epoch),
            life: 1,
            ledger: Ledger::default(),
            old: None,
            cut_bytes,
            damaged: true,
            complete: false,
        })
    }
}

/// Stands for the time since this machine was started; 0 where the system does not say.
fn boot() -> u64 {
    fs::read("/proc/sys/kernel/random/boot_id").map_or(0, |id| xxh3_64(&id))
}
