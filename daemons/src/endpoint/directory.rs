//! The directory of one endpoint: its files, and the lock that says whether it runs.
//!
//! | File | Holds |
//! | --- | --- |
//! | `config.yaml` | what the operator wants |
//! | `endpoint.json` | the id that the service gave, and which service that was |
//! | `credentials` | the token, readable by the owner only |
//! | `endpoint.pid` | process id of the running endpoint, which holds a lock on the file |
//! | `endpoint.log` | what a detached endpoint writes |
//! | `run/` | the socket that managers connect to, `status.json`, and which blocks run; open to the owner only |

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use funcx_core::model::EndpointId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{EndpointStatus, Token};
use crate::config::{EndpointConfig, Read as ReadConfig};
use crate::exit::{Exit, Failed};

/// Variable with the directory that holds everything of a user; `~/.funcx` if not set.
pub const HOME_VARIABLE: &str = "FUNCX_DIR";

/// Longest file read here. They have some kilobytes; the log is not read whole.
const MAX_FILE_BYTES: u64 = 2 << 20;

/// The directory that holds the endpoints of a user, one directory each.
#[derive(Debug, Clone)]
pub struct Endpoints {
    base: PathBuf,
    root: PathBuf,
}

/// The directory of one endpoint, which may not exist yet.
#[derive(Debug, Clone)]
pub struct EndpointDirectory {
    name: String,
    path: PathBuf,
}

/// What the service knows the endpoint by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Its id.
    pub endpoint_id: EndpointId,
    /// Base URL of the service that gave it.
    pub service: String,
}

/// Whether an endpoint runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    /// As this process.
    Yes(u32),
    /// It does not.
    No,
    /// It does not, and left its pid file behind: it was killed.
    Stale(u32),
}

/// The pid file of this process, locked; removed when dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    // Closing the file gives the lock back.
    _locked: File,
}

impl Endpoints {
    /// The endpoints below `config_dir` if given, else below what [`HOME_VARIABLE`] says, else below `~/.funcx`.
    ///
    /// # Errors
    /// If none of them is known.
    pub fn locate(config_dir: Option<PathBuf>) -> Result<Self> {
        let base = match config_dir {
            Some(directory) => directory,
            None => home().ok_or_else(|| {
                Failed::new(
                    Exit::Usage,
                    format!("there is no home directory; say --config-dir or set {HOME_VARIABLE}"),
                )
            })?,
        };
        let base = std::path::absolute(base)?;
        Ok(Self { root: base.join("endpoints"), base })
    }

    /// What [`Endpoints::locate`] was given or found.
    pub fn config_dir(&self) -> &Path {
        &self.base
    }

    /// The directory of the endpoint with this name.
    ///
    /// # Errors
    /// If the name cannot be that of a directory.
    pub fn named(&self, name: &str) -> Result<EndpointDirectory> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(allowed) {
            return Err(Failed::new(
                Exit::Usage,
                format!("`{name}` cannot name an endpoint: up to 64 letters, digits, `-`, `_` and `.`, not beginning with `.`"),
            )
            .into());
        }
        Ok(EndpointDirectory { name: name.to_owned(), path: self.root.join(name) })
    }

    /// The directory of an endpoint that is configured.
    ///
    /// # Errors
    /// If there is none, naming those there are.
    pub fn existing(&self, name: &str) -> Result<EndpointDirectory> {
        let directory = self.named(name)?;
        if directory.exists() {
            return Ok(directory);
        }
        let names: Vec<_> = self.all()?.into_iter().map(|directory| directory.name).collect();
        let known = if names.is_empty() {
            "there is none yet".to_owned()
        } else {
            format!("there are: {}", names.join(", "))
        };
        Err(Failed::new(
            Exit::NoSuchEndpoint,
            format!(
                "there is no endpoint `{name}` in {} ({known}); `configure {name}` makes it",
                self.root.display()
            ),
        )
        .into())
    }

    /// All configured endpoints in the order of their names.
    ///
    /// # Errors
    /// If the directory cannot be read. That it does not exist is no error.
    pub fn all(&self) -> Result<Vec<EndpointDirectory>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.root.display())),
        };
        let mut found: Vec<_> = entries
            .filter_map(|entry| self.named(entry.ok()?.file_name().to_str()?).ok())
            .filter(EndpointDirectory::exists)
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

impl EndpointDirectory {
    /// Name of the endpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the endpoint is configured.
    pub fn exists(&self) -> bool {
        self.config_path().is_file()
    }

    /// `config.yaml`.
    pub fn config_path(&self) -> PathBuf {
        self.path.join("config.yaml")
    }

    /// `endpoint.log`.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("endpoint.log")
    }

    /// `run/`, where the running endpoint keeps its socket and its status.
    pub fn run_path(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Makes the directories. What exists stays, but is closed to others.
    ///
    /// # Errors
    /// If the file system does not let us.
    pub fn create(&self) -> Result<()> {
        for directory in [self.path.clone(), self.run_path()] {
            private_directory(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Ok(())
    }

    /// Reads and checks `config.yaml`.
    ///
    /// # Errors
    /// Everything that is wrong with it, each problem on a line with the path of the file.
    pub fn read_config(&self) -> Result<ReadConfig> {
        let path = self.config_path();
        let text = read_text(&path)?
            .ok_or_else(|| Failed::new(Exit::Configuration, format!("there is no {}", path.display())))?;
        EndpointConfig::parse(&text).map_err(|error| {
            let lines: Vec<_> = error.problems.iter().map(|problem| format!("  {problem}")).collect();
            Failed::new(Exit::Configuration, format!("{} is wrong:\n{}", path.display(), lines.join("\n")))
                .into()
        })
    }

    /// Writes `config.yaml`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_config(&self, config: &EndpointConfig) -> Result<()> {
        write_private(&self.config_path(), config.to_string().as_bytes())
    }

    /// The id that the service gave, if it has given one.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn registered(&self) -> Result<Option<Registered>> {
        read_json(&self.path.join("endpoint.json"))
    }

    /// Keeps the id that the service gave.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_registered(&self, registered: &Registered) -> Result<()> {
        write_private(&self.path.join("endpoint.json"), &serde_json::to_vec_pretty(registered)?)
    }

    /// The token, if there is one.
    ///
    /// # Errors
    /// If the file cannot be read, or others than the owner can read it.
    pub fn token(&self) -> Result<Option<Token>> {
        let path = self.path.join("credentials");
        let Some(text) = read_text(&path)? else { return Ok(None) };
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Failed::new(
                Exit::Credentials,
                format!(
                    "{} is open to others (mode {mode:o}); say `chmod 600` and make a new token",
                    path.display()
                ),
            )
            .into());
        }
        Ok(Token::new(text))
    }

    /// Keeps the token, for the owner only.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_token(&self, token: &Token) -> Result<()> {
        write_private(&self.path.join("credentials"), token.reveal().as_bytes())
    }

    /// What the running endpoint last said about itself.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn status(&self) -> Result<Option<EndpointStatus>> {
        read_json(&self.run_path().join("status.json"))
    }

    /// Whether the endpoint runs.
    ///
    /// # Errors
    /// If the pid file cannot be read.
    pub fn running(&self) -> Result<Running> {
        let path = self.pid_path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Running::No),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let pid = read_pid(&file);
        match (file.try_lock_shared(), pid) {
            (Err(TryLockError::WouldBlock), Some(pid)) => Ok(Running::Yes(pid)),
            // It is just being written, by an endpoint that starts.
            (Err(TryLockError::WouldBlock), None) => Ok(Running::Yes(0)),
            (Ok(()), Some(pid)) => Ok(Running::Stale(pid)),
            (Ok(()), None) => Ok(Running::No),
            (Err(TryLockError::Error(error)), _) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Takes the pid file for this process. One that a killed endpoint left behind is taken over.
    ///
    /// # Errors
    /// [`Exit::WrongState`] if the endpoint runs.
    pub fn lock(&self) -> Result<PidFile> {
        let path = self.pid_path();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(&file).map_or_else(String::new, |pid| format!(" as process {pid}"));
                return Err(Failed::new(
                    Exit::WrongState,
                    format!("the endpoint `{}` runs already{pid}; `stop {}` ends it", self.name, self.name),
                )
                .into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        // In this order one that a killed endpoint left behind can be taken over on a full disk too.
        let text = format!("{}\n", std::process::id());
        file.rewind()?;
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        file.set_len(text.len() as u64)?;
        Ok(PidFile { path, _locked: file })
    }

    /// Removes the directory and everything in it.
    ///
    /// # Errors
    /// If the file system does not let us.
    pub fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }

    fn pid_path(&self) -> PathBuf {
        self.path.join("endpoint.pid")
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Left behind without its lock it counts as stale, which is no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a directory that only its owner can enter, and those above it.
pub(super) fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Replaces a file, readable by its owner only. A reader sees the old content or the new, never a part. A file that has
/// this content already is left as it is, so that a full disk does not matter.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    if is_private_with(path, content) {
        return Ok(());
    }
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn is_private_with(path: &Path, content: &[u8]) -> bool {
    let is_closed = fs::symlink_metadata(path).is_ok_and(|metadata| {
        metadata.is_file()
            && metadata.len() == content.len() as u64
            && metadata.permissions().mode() & 0o777 == 0o600
    });
    is_closed && fs::read(path).is_ok_and(|there| there == content)
}

fn home() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(HOME_VARIABLE).or_else(|| env::home_dir().map(|home| home.join(".funcx")))
}

fn read_pid(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The text of a file; `None` if there is no such file.
fn read_text(path: &Path) -> Result<Option<String>> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).with_context(|| format!("cannot understand {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(root: &tempfile::TempDir, name: &str) -> EndpointDirectory {
        let directory = Endpoints::locate(Some(root.path().to_owned())).unwrap().named(name).unwrap();
        directory.create().unwrap();
        directory
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        let endpoints = Endpoints::locate(Some(PathBuf::from("/nowhere"))).unwrap();
        for name in ["", ".", "..", "a/b", ".hidden", "a b", "ü", &"x".repeat(65)] {
            assert!(endpoints.named(name).is_err(), "{name}");
        }
        assert_eq!(endpoints.named("laptop-2.b").unwrap().path(), Path::new("/nowhere/endpoints/laptop-2.b"));
        assert_eq!(endpoints.all().unwrap().len(), 0);
    }

    #[test]
    fn one_process_holds_the_pid_file_and_a_stale_one_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let directory = endpoint(&root, "a");
        assert_eq!(directory.running().unwrap(), Running::No);
        fs::write(directory.pid_path(), "4242\n").unwrap();
        assert_eq!(directory.running().unwrap(), Running::Stale(4242));
        fs::write(directory.pid_path(), "4242424242\n").unwrap();
        let held = directory.lock().unwrap();
        assert_eq!(directory.running().unwrap(), Running::Yes(std::process::id()));
        assert!(directory.lock().unwrap_err().to_string().contains("runs already"));
        drop(held);
        assert_eq!(directory.running().unwrap(), Running::No);
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        write_private(&path, b"one").unwrap();
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
        let first = inode();
        write_private(&path, b"one").unwrap();
        assert_eq!(inode(), first);
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        // One that others can read is replaced whatever is in it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn secrets_are_for_the_owner_only() {
        let root = tempfile::tempdir().unwrap();
        let directory = endpoint(&root, "a");
        assert_eq!(directory.token().unwrap(), None);
        directory.write_token(&Token::new("s3cret\n".to_owned()).unwrap()).unwrap();
        let path = directory.path().join("credentials");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(directory.run_path()).unwrap().permissions().mode() & 0o777, 0o700);
        let token = directory.token().unwrap().unwrap();
        assert_eq!((token.reveal(), format!("{token:?}").contains("s3cret")), ("s3cret", false));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(directory.token().unwrap_err().to_string().contains("open to others"));
    }
}
