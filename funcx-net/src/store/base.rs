//! The database, which is closed and opened again when it has failed.

use std::{path::Path, sync::Arc, thread, time::Duration};

use funcx_core::model::{Error, ErrorKind, Result};
use parking_lot::RwLock;

use super::directory::Directory;
use super::failure::Failure;
use super::placed::PlacedTasks;
use super::queues::Queues;
use super::record::Numbers;
use super::table::{Table, Tables, key};

/// Between two looks whether the last reader has let go of a database that is being closed.
const CLOSING_PAUSE: Duration = Duration::from_millis(1);

/// A database as it was opened, with what is kept in memory of it.
pub(super) struct Opened {
    pub(super) tables: Tables,
    pub(super) queues: Queues,
    pub(super) placed: PlacedTasks,
}

impl Opened {
    fn open(directory: &Directory) -> Result<Self> {
        let tables = Tables::open(directory)?;
        let queues = Queues::load(&tables)?;
        Ok(Self { tables, queues, placed: PlacedTasks::default() })
    }

    /// The numbers that are free.
    pub(super) fn numbers(&self) -> Result<Numbers> {
        let stored = self.tables.keyspace(Table::Registered).get(key::NUMBERS);
        let stored = stored.map_err(|error| Failure::read(&error).into_error("open store"))?;
        stored.map_or(Ok(Numbers::default()), |stored| Numbers::decode(stored.into()))
    }
}

/// The database that is open now.
///
/// After a write that failed, the database takes no more: what is on the disk may not be what it thinks. It is read on as
/// it is until the disk takes writes again; then it is closed and opened anew from what is on the disk.
pub(super) struct Base {
    // Dropped before the directory, whose lock goes when the database is closed.
    current: RwLock<Option<Arc<Opened>>>,
    pub(super) directory: Directory,
}

impl Base {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let directory = Directory::open(path)?;
        let opened = Opened::open(&directory)?;
        directory.mark_version()?;
        Ok(Self { current: RwLock::new(Some(Arc::new(opened))), directory })
    }

    /// The database that is open now.
    ///
    /// # Errors
    /// `Unavailable` while it is closed.
    pub(super) fn current(&self) -> Result<Arc<Opened>> {
        self.current.read().clone().ok_or_else(|| {
            let message = "the disk failed and the store is being opened again; try again in a moment";
            Error::new(ErrorKind::Unavailable, "use the store", message)
        })
    }

    /// Closes the database and opens it from what is on the disk.
    pub(super) fn reopen(&self) -> Result<Arc<Opened>> {
        let mut closing = self.current.write().take();
        while let Some(opened) = closing {
            // Who reads holds it for the time of one page.
            closing = match Arc::try_unwrap(opened) {
                Ok(opened) => {
                    drop(opened);
                    break;
                }
                Err(opened) => {
                    thread::sleep(CLOSING_PAUSE);
                    Some(opened)
                }
            };
        }
        let opened = Arc::new(Opened::open(&self.directory)?);
        *self.current.write() = Some(Arc::clone(&opened));
        Ok(opened)
    }
}
