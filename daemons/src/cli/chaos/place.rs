//! Where a process is started: in which network, and with which file systems.

use std::{fs::File, io, os::fd::AsFd, os::fd::AsRawFd, sync::Arc, thread};

use nix::sched::{CloneFlags, setns, unshare};

/// A network and a set of mounts that processes are started in; those of this process where there are none.
///
/// They have no names: they are open files of this process, so they are gone when it and what it has started are gone,
/// however it ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) network: Option<Arc<File>>,
    pub(super) mounts: Option<Arc<File>>,
}

impl Place {
    /// Does `work` there. What it starts stays there.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Takes this thread there, for good.
    pub(super) fn enter(&self) -> io::Result<()> {
        if let Some(mounts) = &self.mounts {
            // Threads that share their working directory cannot go separate ways.
            unshare(CloneFlags::CLONE_FS)?;
            setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
        }
        if let Some(network) = &self.network {
            setns(network.as_fd(), CloneFlags::CLONE_NEWNET)?;
        }
        Ok(())
    }
}

/// A network of its own, without any interface that is up.
pub(super) fn new_network() -> io::Result<Arc<File>> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(Arc::new(File::open("/proc/thread-self/ns/net")?))
    })
}

/// A set of mounts of its own, on which `prepare` has worked.
pub(super) fn new_mounts(prepare: impl FnOnce() -> io::Result<()> + Send) -> io::Result<Arc<File>> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        prepare()?;
        Ok(Arc::new(File::open("/proc/thread-self/ns/mnt")?))
    })
}

/// The path by which other programs find a network of this process.
pub(super) fn path_of(network: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), network.as_raw_fd())
}

/// Namespaces belong to threads; one that has changed its own must not be used for anything else.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}
