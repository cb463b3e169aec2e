//! The directory that a pool has for itself.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;
use tokio::net::UnixListener;

use super::{ProcessPoolConfig, zygote::Prepare};

const PREFIX: &str = "funcx-";
/// Locked as long as the owner of the directory lives; the lock goes with the process, however that ends.
const OWNER: &str = "owner";
/// Entries of the directory for temporary files that are looked at for what others have left behind.
const MOST_ENTRIES: usize = 10_000;

/// The directory that only we can read, with the program of the workers, their socket, and what commands write.
#[derive(Debug)]
pub(super) struct PrivateDir {
    /// Removes the directory with everything in it.
    _dir: TempDir,
    _owner: Flock<File>,
    pub(super) script: PathBuf,
    socket: String,
    pub(super) output: String,
    pub(super) listener: UnixListener,
}

impl PrivateDir {
    /// Makes the directory, and removes those of pools that were killed.
    pub(super) fn create(script: &str) -> io::Result<Self> {
        // The address of a socket has room for about a hundred bytes, which a TMPDIR of a batch job can fill.
        const LONGEST_DIRECTORY: usize = 64;
        let base = match std::env::temp_dir() {
            base if base.as_os_str().len() > LONGEST_DIRECTORY => PathBuf::from("/tmp"),
            base => base,
        };
        remove_abandoned(&base);
        let only_ours = Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix(PREFIX).permissions(only_ours).tempdir_in(base)?;
        let owner = own(dir.path())?;
        let path = dir.path().join("worker.py");
        fs::write(&path, script)?;
        let named = |name: &str| {
            let path = dir.path().join(name).into_os_string().into_string();
            path.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "TMPDIR is not UTF-8"))
        };
        let (socket, output) = (named("s")?, named("output")?);
        fs::create_dir(&output)?;
        let listener = UnixListener::bind(&socket)?;
        Ok(Self { _dir: dir, _owner: owner, script: path, socket, output, listener })
    }

    /// What a zygote has to know about it.
    pub(super) fn prepare<'a>(&'a self, config: &'a ProcessPoolConfig, work_dir: &'a str) -> Prepare<'a> {
        Prepare { socket: &self.socket, preload: &config.preload, work_dir, output_dir: &self.output }
    }
}

/// Marks a directory as ours. The mark is locked before anybody can see it.
fn own(directory: &Path) -> io::Result<Flock<File>> {
    let hidden = directory.join("owner.new");
    let lock = Flock::lock(File::create_new(&hidden)?, FlockArg::LockExclusiveNonblock);
    let lock = lock.map_err(|(_, error)| io::Error::from(error))?;
    fs::rename(hidden, directory.join(OWNER))?;
    Ok(lock)
}

/// Removes directories of our own whose owners are dead. That something is in the way is no reason not to start.
fn remove_abandoned(base: &Path) {
    let us = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(base).into_iter().flatten().take(MOST_ENTRIES).filter_map(Result::ok) {
        let is_named_so = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // Of a link this is about the link.
        let is_ours = || entry.metadata().is_ok_and(|data| data.is_dir() && data.uid() == us);
        if is_named_so && is_ours() && is_abandoned(&entry.path()) {
            tracing::debug!(directory = %entry.path().display(), "removing what a dead manager left behind");
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::debug!(directory = %entry.path().display(), %error, "it stays");
            }
        }
    }
}

/// Whether the directory has a mark that nobody holds.
fn is_abandoned(directory: &Path) -> bool {
    let mark = File::open(directory.join(OWNER));
    mark.is_ok_and(|mark| Flock::lock(mark, FlockArg::LockExclusiveNonblock).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_have_left_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = base.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (alive, dead, strange, other) =
            (make("funcx-1"), make("funcx-2"), make("funcx-3"), make("other-4"));
        let _owner = own(&alive).unwrap();
        drop(own(&dead).unwrap());
        drop(own(&other).unwrap());
        fs::write(dead.join("worker.py"), "x").unwrap();
        remove_abandoned(base.path());
        assert_eq!([&alive, &dead, &strange, &other].map(|path| path.exists()), [true, false, true, true]);
    }
}
