//! The socket's file: who may have the path, and who removes it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// The longest path of a socket in bytes: `sun_path` with its final NUL.
const MAX_PATH: usize = 107;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not fit into a socket's address.
    #[error(
        "the API socket's path {} has {} bytes: {MAX_PATH} is the most that Linux takes, so name it from a folder \
         nearer to it",
        path.display(), path.as_os_str().len()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Another server answers there.
    #[error("{} is the API socket of a program that runs: give each VM a path of its own", path.display())]
    Live {
        /// The path.
        path: PathBuf,
    },
    /// There is a file that nobody wants to lose.
    #[error("{} is there and is no socket: it is left as it is, so name another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Two programs clear away the same socket.
    #[error("another program clears the folder of {} up at this moment: try again", path.display())]
    Contended {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused something else.
    #[error("can't make the API socket {}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

/// A socket that listens; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Device and inode: what is at the path later may be somebody else's.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`, for nobody but this user. A socket that a program has left behind is replaced.
    ///
    /// # Errors
    /// [`Error`] says who has the path.
    pub(super) fn listen(path: &Path) -> Result<(Self, UnixListener), Error> {
        let system = |source: io::Error| Error::System { path: path.into(), source };
        if path.as_os_str().len() > MAX_PATH {
            return Err(Error::TooLong { path: path.into() });
        }
        let fd = match try_listen(path) {
            Err(Errno::ADDRINUSE) => {
                let _lock = clear_away(path)?;
                // Whoever was faster than we are is no leftover.
                try_listen(path).map_err(|error| match error {
                    Errno::ADDRINUSE => Error::Live { path: path.into() },
                    error => system(error.into()),
                })?
            }
            other => other.map_err(|error| system(error.into()))?,
        };
        let identity = identity(path).map_err(system)?;
        Ok((Self { path: path.into(), identity }, UnixListener::from(fd)))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "the API socket {} can't be removed", self.path.display());
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

fn try_listen(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before there is a file: Linux gives it the mode of the socket (unix(7); net/unix/af_unix.c,
    // unix_bind_bsd), so that at no time anybody else may connect.
    fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// Removes a socket behind which nobody is. Until the returned lock is dropped nobody else does.
fn clear_away(path: &Path) -> Result<OwnedFd, Error> {
    let system = |source: io::Error| Error::System { path: path.into(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lock = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| system(error.into()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(Error::Contended { path: path.into() }),
        Err(error) => return Err(system(error.into())),
    }
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(Error::NotASocket { path: path.into() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lock),
        Err(error) => return Err(system(error)),
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{} was left behind by a program that has ended: it is replaced", path.display());
            fs::remove_file(path).map_err(system)?;
            Ok(lock)
        }
        // Somebody answers, or would if we were allowed to ask or it were less busy.
        Ok(_) => Err(Error::Live { path: path.into() }),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(lock),
            io::ErrorKind::WouldBlock => Err(Error::Live { path: path.into() }),
            _ => Err(system(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn nobody_else_may_connect_and_the_file_goes_with_the_socket() {
        let folder = folder();
        let path = folder.path().join("api.sock");
        let (socket, _listener) = Socket::listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_where_somebody_listens_is_refused_and_left_alone() {
        let folder = folder();
        let path = folder.path().join("api.sock");
        let (_socket, listener) = Socket::listen(&path).unwrap();
        assert!(matches!(Socket::listen(&path), Err(Error::Live { .. })));
        listener.set_nonblocking(false).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced() {
        let folder = folder();
        let path = folder.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (_socket, _listener) = Socket::listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("api.sock");
        fs::write(&path, "words").unwrap();
        assert!(matches!(Socket::listen(&path), Err(Error::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "words");
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let folder = folder();
        let path = folder.path().join("api.sock");
        let (first, _listener) = Socket::listen(&path).unwrap();
        fs::rename(&path, folder.path().join("kept")).unwrap();
        let (_second, _listener) = Socket::listen(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_can_not_be_had_is_said() {
        let folder = folder();
        let long = folder.path().join("x".repeat(200));
        assert!(matches!(Socket::listen(&long), Err(Error::TooLong { .. })));
        let nowhere = folder.path().join("none/api.sock");
        assert!(matches!(Socket::listen(&nowhere), Err(Error::System { .. })));
    }
}
