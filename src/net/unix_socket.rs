//! The file of a Unix socket. It never has wider permissions than configured, not even for a
//! moment, and a running server never loses it to another one.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::UnixSocket;

/// The most connections that the kernel keeps until they are accepted, on TCP as well. The kernel
/// lowers this to its own limit.
pub(super) const BACKLOG: i32 = 4_096;
/// The longest wait for another server that starts in the same directory.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The file of a socket. When this is dropped, it removes the file if that is still the one that it
/// created.
#[derive(Debug)]
pub(crate) struct UnixSocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl UnixSocketFile {
    pub(super) fn bind(config: &UnixSocket) -> io::Result<(UnixListener, Self)> {
        let path = &config.path;
        check(path)?;
        // Two servers that start at once must not both find the same stale socket, because one of
        // them would then delete the other's. A lock on the directory leaves no lock file behind.
        let _lock = lock_directory(path);
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&socket_address(path)?)?;
        // No client can connect before the socket listens, and by then the permissions are set.
        fs::set_permissions(path, Permissions::from_mode(config.mode))?;
        let metadata = fs::symlink_metadata(path)?;
        let file = Self { path: path.clone(), device: metadata.dev(), inode: metadata.ino() };
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok((socket.into(), file))
    }
}

impl Drop for UnixSocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_ours {
            // If the file cannot be removed, the next server finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Checks a path as far as that is possible without listening there.
pub(super) fn check(path: &Path) -> io::Result<()> {
    socket_address(path)?;
    open_directory(path)?;
    find_socket(path).map(drop)
}

fn socket_address(path: &Path) -> io::Result<SockAddr> {
    SockAddr::unix(path).map_err(|_| {
        let text = "the path is too long for a Unix socket, which takes about 100 bytes; choose a \
                    shorter one";
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

fn open_directory(path: &Path) -> io::Result<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let directory = File::open(parent).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("its directory does not exist; create it"),
        _ => error,
    })?;
    if !directory.metadata()?.is_dir() {
        let text = "its parent is not a directory; choose another path";
        return Err(io::Error::other(text));
    }
    Ok(directory)
}

/// Returns whether there is a socket, of a running server or of one that is gone.
fn find_socket(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(metadata) if metadata.file_type().is_socket() => Ok(true),
        Ok(_) => Err(io::Error::other(
            "a file that is not a socket exists there; choose another path, or remove it yourself",
        )),
    }
}

/// Locks the directory against other servers that start, where that is possible. Every process that
/// may read the directory can hold the lock for ever, and must not keep the server from starting.
/// Without the lock, the socket of a running server is safe as well: only two servers that start in
/// the same instant could collide.
fn lock_directory(path: &Path) -> Option<File> {
    let directory = open_directory(path).ok()?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(_) => return None,
        }
    }
}

/// Removes the socket of a server that is gone. One that a running server listens on stays, and so
/// does any other file.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !find_socket(path)? {
        return Ok(());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The probe must not wait for a full backlog, which shows that a server is running.
    probe.set_nonblocking(true)?;
    match probe.connect(&socket_address(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}
