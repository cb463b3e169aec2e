//! The file with accounts, tokens and clients, and how several processes change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use funcx_core::contract::Scope;
use funcx_core::model::{Error, ErrorKind, IdentityId, Result, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::secret::{Digest, Key};

/// Version of the file that this code writes, and the newest that it reads.
const VERSION: u32 = 1;
const READ: &str = "read accounts";
const CHANGE: &str = "change accounts";
/// How often, and how long apart, a process asks for the lock that another one holds.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// What the file holds. It has no `Debug` form, for it holds a key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accounts {
    version: u32,
    pub(super) key: Key,
    pub(super) accounts: BTreeMap<IdentityId, Account>,
    pub(super) tokens: BTreeMap<String, Token>,
    pub(super) clients: BTreeMap<Uuid, Client>,
}

/// A person or a robot.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) groups: BTreeSet<Uuid>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    pub(super) identity: IdentityId,
    pub(super) digest: Digest,
    pub(super) scopes: Vec<ScopeWord>,
    pub(super) label: String,
    pub(super) expires: Option<Timestamp>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Client {
    pub(super) identity: IdentityId,
    pub(super) digest: Digest,
    pub(super) scopes: Vec<ScopeWord>,
}

/// A scope as its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub(super) struct ScopeWord(pub(super) Scope);

impl TryFrom<String> for ScopeWord {
    type Error = &'static str;

    fn try_from(word: String) -> Result<Self, &'static str> {
        Scope::from_word(&word).map(Self).ok_or("unknown scope")
    }
}

impl From<ScopeWord> for &'static str {
    fn from(word: ScopeWord) -> Self {
        word.0.as_str()
    }
}

impl Account {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), groups: BTreeSet::new() }
    }
}

impl Accounts {
    fn new() -> Result<Self> {
        Ok(Self {
            version: VERSION,
            key: Key::random()?,
            accounts: BTreeMap::new(),
            tokens: BTreeMap::new(),
            clients: BTreeMap::new(),
        })
    }
}

/// The file, and what it held when it was last looked at.
pub(super) struct AccountFile {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    stamp: Stamp,
    accounts: Arc<Accounts>,
}

/// Tells one state of the file from another: each change makes a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl AccountFile {
    /// Reads the file, and makes it if there is none.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if !path.try_exists().map_err(|error| failed(READ, path, error))? {
            create(path)?;
        }
        let known = read(path)?;
        Ok(Self { path: path.to_owned(), known: Mutex::new(known) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file holds now.
    ///
    /// A file that has become unreadable is `Unavailable`: what was known of it before may have been revoked since.
    pub(super) fn current(&self) -> Result<Arc<Accounts>> {
        let mut known = self.known.lock();
        let unavailable = |error: Error| {
            Error::new(ErrorKind::Unavailable, READ, "the file of accounts cannot be read").with_source(error)
        };
        let metadata =
            fs::metadata(&self.path).map_err(|error| unavailable(failed(READ, &self.path, error)))?;
        if Stamp::of(&metadata) != known.stamp {
            *known = read(&self.path).map_err(unavailable)?;
        }
        Ok(Arc::clone(&known.accounts))
    }

    /// Changes the file, unless `change` fails. Nobody else changes it meanwhile.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Accounts) -> Result<T>) -> Result<T> {
        let _lock = lock(&self.path)?;
        let mut accounts = Accounts::clone(&read(&self.path)?.accounts);
        let value = change(&mut accounts)?;
        write(&self.path, &accounts).map_err(|error| failed(CHANGE, &self.path, error))?;
        Ok(value)
    }
}

/// Makes the file, unless another process has just done so.
fn create(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|error| failed(CHANGE, parent, error))?;
    }
    let _lock = lock(path)?;
    if path.try_exists().map_err(|error| failed(READ, path, error))? {
        return Ok(());
    }
    write(path, &Accounts::new()?).map_err(|error| failed(CHANGE, path, error))
}

fn read(path: &Path) -> Result<Known> {
    let mut file = File::open(path).map_err(|error| failed(READ, path, error))?;
    // Of the open file, so that stamp and content belong together.
    let metadata = file.metadata().map_err(|error| failed(READ, path, error))?;
    let refused = |message: String| {
        Error::new(ErrorKind::InvalidInput, READ, message).with_context("file", path.display())
    };
    if metadata.mode() & 0o077 != 0 {
        return Err(refused(format!(
            "it holds secrets, but others may use it (mode {:04o}); `chmod 600` it",
            metadata.mode() & 0o7777
        )));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| failed(READ, path, error))?;
    // Looked at first: a newer file may have fields that we do not know.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    // The reasons that the parser gives may quote a secret, so only the place is told.
    let not_understood = |error: serde_json::Error| {
        let message = if error.is_data() { "a field is wrong, unknown or missing" } else { "it is not JSON" };
        refused(message.into()).with_context("line", error.line()).with_context("column", error.column())
    };
    let Version { version } = serde_json::from_str(&text).map_err(not_understood)?;
    if version > VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            READ,
            format!("the file has version {version}, this program reads up to version {VERSION}; use a newer program"),
        )
        .with_context("file", path.display()));
    }
    let accounts = serde_json::from_str(&text).map_err(not_understood)?;
    Ok(Known { stamp: Stamp::of(&metadata), accounts: Arc::new(accounts) })
}

/// Replaces the file as a whole.
fn write(path: &Path, accounts: &Accounts) -> io::Result<()> {
    let draft = beside(path, "new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let mut text = serde_json::to_vec_pretty(accounts)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Waits until no other process changes the file. The lock goes when the result is dropped, or the process ends.
fn lock(path: &Path) -> Result<File> {
    let lock = beside(path, "lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock);
    let file = file.map_err(|error| failed(CHANGE, &lock, error))?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(failed(CHANGE, &lock, error)),
        }
    }
    Err(Error::new(ErrorKind::Unavailable, CHANGE, "another process has held the lock for too long")
        .with_context("file", lock.display()))
}

/// The path with one more extension.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn failed(operation: &'static str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, operation, "the operating system refused it")
        .with_context("file", path.display())
        .with_source(error)
}
