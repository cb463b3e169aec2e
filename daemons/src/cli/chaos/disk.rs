//! Small disks that can be full.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;

use super::place::{Place, new_mounts};

/// A file system in memory, mounted where only the processes of one place see it.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    path: PathBuf,
    bytes: u64,
}

impl Disk {
    /// Mounts a disk of this size on each of the paths, in mounts of their own.
    pub(super) fn mount(paths: &[PathBuf], bytes: u64) -> io::Result<(Place, Vec<Self>)> {
        let disks: Vec<_> = paths.iter().map(|path| Self { path: path.clone(), bytes }).collect();
        let mounts = new_mounts(|| {
            // What is mounted here must not show up elsewhere.
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            for disk in &disks {
                fs::create_dir_all(&disk.path)?;
                disk.mount_with(MsFlags::empty(), disk.bytes)?;
            }
            Ok(())
        })?;
        Ok((Place { network: None, mounts: Some(mounts) }, disks))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes away what is free. `place` is where the disk is mounted.
    ///
    /// The disk is made smaller instead of being filled with a file, so that this takes no memory.
    pub(super) fn fill(&self, place: &Place) -> io::Result<()> {
        place.run(|| {
            let mut tried = 0;
            loop {
                let space = statvfs(&self.path)?;
                let used = (space.blocks() - space.blocks_free()) * space.fragment_size();
                match self.mount_with(MsFlags::MS_REMOUNT, used.max(space.fragment_size())) {
                    // Something was written in between.
                    Err(_) if tried < 100 => tried += 1,
                    filled => return filled,
                }
            }
        })?
    }

    /// Gives the space back.
    pub(super) fn free(&self, place: &Place) -> io::Result<()> {
        place.run(|| self.mount_with(MsFlags::MS_REMOUNT, self.bytes))?
    }

    fn mount_with(&self, flags: MsFlags, bytes: u64) -> io::Result<()> {
        let options = format!("size={bytes},mode=0700");
        Ok(mount(Some("funcx-chaos"), &self.path, Some("tmpfs"), flags, Some(options.as_str()))?)
    }
}
