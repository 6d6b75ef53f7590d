//! The file of a Unix socket: never open to more than it should be, never stolen.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::UnixSocket;

/// Connections that the kernel keeps until they are accepted, on TCP as well. It cuts this to its
/// own limit.
pub(super) const BACKLOG: i32 = 4_096;
/// How long another server that starts in the same directory is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// A socket's file, removed with this value if it is still the one that was made.
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
        // Two servers that start at once must not both find the same stale socket: the one
        // would then delete the other's. Locking the directory leaves no lock file behind.
        let _lock = lock_directory(path);
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&socket_address(path)?)?;
        // Nobody can connect to a socket that does not listen yet, so the permissions are
        // in place before the first one can.
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
            // If it cannot be removed, the next server will find it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What can be known of a path without listening there.
pub(super) fn check(path: &Path) -> io::Result<()> {
    socket_address(path)?;
    open_directory(path)?;
    find_socket(path).map(drop)
}

fn socket_address(path: &Path) -> io::Result<SockAddr> {
    SockAddr::unix(path).map_err(|_| {
        let text = "the path is too long for a Unix socket, which may have some 100 bytes; choose \
                    a shorter one";
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
        let text = "what should be its directory is no directory; choose another path";
        return Err(io::Error::other(text));
    }
    Ok(directory)
}

/// Whether there is a socket, of a server that runs or of one that is gone.
fn find_socket(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(metadata) if metadata.file_type().is_socket() => Ok(true),
        Ok(_) => Err(io::Error::other(
            "there is a file that is no socket; choose another path, or remove it yourself",
        )),
    }
}

/// Keeps others that start away, where that can be done: whoever may read the directory can hold
/// the lock for ever, and that must not keep the server from starting. Without it a socket that
/// is alive is not taken over either; only two that start in the same instant could collide.
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

/// Removes what a server that is gone has left. What is alive, or is no socket, stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !find_socket(path)? {
        return Ok(());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog must not hold us up, and is a sign of life.
    probe.set_nonblocking(true)?;
    match probe.connect(&socket_address(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}
