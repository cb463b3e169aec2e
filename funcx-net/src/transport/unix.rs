//! Unix sockets, for processes of one person on one machine.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use funcx_core::contract::{Address, Connection, Listener, Transport, TransportCapability};
use funcx_core::model::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::{FramedStream, broken, invalid, refused, rest};

/// Longest path of a socket file: `sun_path` has 108 bytes and the last one is zero.
const MAX_PATH_BYTES: usize = 107;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Connections named `unix:/path`. Only the user who listens (and root) can connect.
///
/// A socket file that a dead process left behind is replaced; one that somebody listens on is a `Conflict`, and so is
/// any other file. The listener removes its file when it is dropped.
///
/// **Source.** unix(7), Linux man-pages 6.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnixTransport;

impl Transport for UnixTransport {
    fn capability(&self) -> TransportCapability {
        TransportCapability { scheme: "unix", listens: true }
    }

    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Connection>>> {
        async move {
            let path = path(address, "dial")?;
            let stream = UnixStream::connect(path).await.map_err(|error| refused(address, "dial", error))?;
            Ok(Box::new(FramedStream::new(stream)) as Box<dyn Connection>)
        }
        .boxed()
    }

    fn listen<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Box<dyn Listener>>> {
        async move {
            let path = path(address, "listen")?;
            make_way(address, path).await?;
            let accepting =
                Accepting::bind(address, path).map_err(|error| refused(address, "listen", error))?;
            Ok(Box::new(accepting) as Box<dyn Listener>)
        }
        .boxed()
    }
}

struct Accepting {
    listener: UnixListener,
    address: Address,
    _file: SocketFile,
}

impl Accepting {
    fn bind(address: &Address, path: &Path) -> io::Result<Self> {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = SocketFile::of(path)?;
        // Nobody can connect before `listen`, so there is no moment at which others could.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener: socket.listen(BACKLOG)?, address: address.clone(), _file: file })
    }
}

impl Listener for Accepting {
    fn address(&self) -> Address {
        self.address.clone()
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn Connection>>> {
        async {
            let (stream, _) = self.listener.accept().await.map_err(|error| broken("accept", error))?;
            Ok(Box::new(FramedStream::new(stream)) as Box<dyn Connection>)
        }
        .boxed()
    }
}

/// The file of a listening socket, removed with it unless another one has taken its place.
struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), device_and_inode: device_and_inode(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if device_and_inode(&self.path).is_ok_and(|found| found == self.device_and_inode) {
            // Left behind, it would be replaced by the next listener.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn device_and_inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Removes a socket file that nobody listens on.
async fn make_way(address: &Address, path: &Path) -> Result<()> {
    let conflict =
        |message| Error::new(ErrorKind::Conflict, "listen", message).with_context("address", address);
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(conflict("there is a file that is not a socket"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(conflict("somebody listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| refused(address, "listen", error))
        }
        // Its listener is busy, or is not ours to try.
        Err(error) => Err(conflict("there is a socket in use").with_source(error)),
    }
}

fn path<'a>(address: &'a Address, operation: &'static str) -> Result<&'a Path> {
    let text = rest(address, "unix", operation)?;
    if text.contains('\0') {
        return Err(invalid(address, operation, "the path has a zero byte"));
    }
    if text.len() > MAX_PATH_BYTES {
        let error =
            invalid(address, operation, "the path of a socket cannot be that long; use a shorter directory");
        return Err(error.with_context("path_bytes", text.len()).with_context("most", MAX_PATH_BYTES));
    }
    Ok(Path::new(text))
}
