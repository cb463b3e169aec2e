//! The directory of a store: its mode, who has it open, which version made it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind as IoErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use funcx_core::model::{Error, ErrorKind, Result};

use super::failure::Failure;

/// Version of the layout of tables and records that this code writes and reads.
const VERSION: u32 = 3;
const OPERATION: &str = "open store";
const LOCK_FILE: &str = "lock";
const VERSION_FILE: &str = "version";
const PROBE_FILE: &str = "probe";
const DATABASE: &str = "db";
/// The file that the database writes last when it is created.
const DATABASE_MARKER: &str = "version";

/// A directory that only we have open.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Locked as long as it is open, and never longer than the process lives.
    _lock: File,
}

impl Directory {
    /// Takes the directory, and makes sure that we can read what is in it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed =
            |error| Failure::io(&error).into_error(OPERATION).with_context("directory", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        refuse_foreign(path)?;
        let lock = lock(path)?;
        match fs::read_to_string(path.join(VERSION_FILE)) {
            Ok(text) => refuse_other(path, &text)?,
            Err(error) if error.kind() == IoErrorKind::NotFound => {
                discard_unfinished(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where the directory is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database is.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Whether something can be written here.
    pub(super) fn probe(&self) -> std::io::Result<()> {
        let path = self.path.join(PROBE_FILE);
        let written = private().write(true).create(true).truncate(true).open(&path).and_then(|mut file| {
            file.write_all(&[0; 4096])?;
            file.sync_all()
        });
        fs::remove_file(&path).or_else(|error| match error.kind() {
            IoErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        written
    }

    /// Records the version once the database is complete.
    pub(super) fn mark_version(&self) -> Result<()> {
        let write = || {
            let marker = self.path.join(VERSION_FILE);
            if marker.try_exists()? {
                return Ok(());
            }
            let draft = self.path.join("version.new");
            let mut file = private().write(true).create(true).truncate(true).open(&draft)?;
            file.write_all(format!("funcx-store {VERSION}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &marker)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| {
            Failure::io(&error).into_error(OPERATION).with_context("directory", self.path.display())
        })
    }
}

/// A directory that has files in it but no store is somebody's mistake in a path.
fn refuse_foreign(path: &Path) -> Result<()> {
    let failed = |error| Failure::io(&error).into_error(OPERATION).with_context("directory", path.display());
    let mut entries = fs::read_dir(path).map_err(failed)?.map(|entry| entry.map(|entry| entry.file_name()));
    let foreign = entries.try_fold(None, |found: Option<String>, name| {
        let name = name?.to_string_lossy().into_owned();
        let ours = [LOCK_FILE, VERSION_FILE, "version.new", PROBE_FILE, DATABASE].contains(&name.as_str());
        Ok::<_, std::io::Error>(if ours { found } else { Some(name) })
    });
    match foreign.map_err(failed)? {
        Some(name) if !path.join(VERSION_FILE).exists() && !path.join(DATABASE).exists() => Err(Error::new(
            ErrorKind::InvalidInput,
            OPERATION,
            "the directory holds other files and no store; name an empty or a new one",
        )
        .with_context("directory", path.display())
        .with_context("file", name)),
        _ => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File> {
    let failed = |error| Failure::io(&error).into_error(OPERATION).with_context("directory", path.display());
    let file =
        private().write(true).create(true).truncate(false).open(path.join(LOCK_FILE)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Conflict,
            OPERATION,
            "another process has it open; stop that one, or choose another directory",
        )
        .with_context("directory", path.display())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn refuse_other(path: &Path, text: &str) -> Result<()> {
    let version = text.trim().strip_prefix("funcx-store ").and_then(|number| number.parse::<u32>().ok());
    match version {
        Some(VERSION) => Ok(()),
        Some(version) => {
            let way_out = match version < VERSION {
                true => {
                    "let the program that made it finish the tasks in it and keep it for their results, and name a new \
                     directory"
                }
                false => "use a newer program",
            };
            let message =
                format!("the store has version {version}, this program reads version {VERSION}: {way_out}");
            Err(Error::new(ErrorKind::Unsupported, OPERATION, message)
                .with_context("directory", path.display()))
        }
        None => Err(Error::new(ErrorKind::InvalidInput, OPERATION, "its version file cannot be read")
            .with_context("file", path.join(VERSION_FILE).display())),
    }
}

/// Removes a database whose creation was cut short. It has no marker, so nothing was ever committed to it, and the
/// lock is ours, so nobody is creating it now.
fn discard_unfinished(path: &Path) -> std::io::Result<()> {
    let database = path.join(DATABASE);
    if database.try_exists()? && !database.join(DATABASE_MARKER).try_exists()? {
        fs::remove_dir_all(database)?;
    }
    Ok(())
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_version_is_read() {
        let check = |text: &str| refuse_other(Path::new("/store"), text).map_err(|error| error.kind());
        assert_eq!(check("funcx-store 3\n"), Ok(()));
        assert_eq!(check("funcx-store 2\n"), Err(ErrorKind::Unsupported));
        assert_eq!(check("funcx-store 4\n"), Err(ErrorKind::Unsupported));
        assert_eq!(check("funcx-store x\n"), Err(ErrorKind::InvalidInput));
        assert_eq!(check(""), Err(ErrorKind::InvalidInput));
    }

    #[test]
    fn a_database_whose_creation_was_cut_short_is_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let database = parent.path().join(DATABASE);
        fs::create_dir(&database).unwrap();
        fs::write(database.join("0.jnl"), "").unwrap();
        drop(Directory::open(parent.path()).unwrap());
        assert!(!database.exists());

        fs::create_dir(&database).unwrap();
        fs::write(database.join(DATABASE_MARKER), "").unwrap();
        drop(Directory::open(parent.path()).unwrap());
        assert!(database.exists(), "a complete one stays");
    }
}
