//! The sockets that accept connections: TCP ports and unix sockets.

use crate::cli::ListenAddress;
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// Shows within minutes that a client's machine is gone; the numbers are etcd's.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(30));

/// Connections that wait to be accepted; the system's own limit is lower.
const BACKLOG: u32 = 65_535;

/// A connection.
pub(super) type Stream = Either<TcpStream, UnixStream>;

/// The client of a connection, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("a unix socket"),
        }
    }
}

/// An open TCP port or unix socket. Dropping it closes it, and removes the file of a unix socket.
#[derive(Debug)]
pub(super) enum ListenSocket {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "held to remove the socket's file in the end")] SocketFile,
    ),
}

impl ListenSocket {
    /// Opens a TCP port, together with others if `shared` and they agree, or a unix socket.
    pub(super) fn open(address: &ListenAddress, shared: bool) -> io::Result<ListenSocket> {
        match address {
            ListenAddress::Tcp(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                // A port with only lingering connections is free.
                socket.set_reuseaddr(true)?;
                socket.set_reuseport(shared)?;
                socket.bind(*address)?;
                let listener = socket.listen(BACKLOG)?;
                // Connections inherit it from their listener. A port without keepalive still works.
                SockRef::from(&listener).set_tcp_keepalive(&KEEPALIVE).ok();
                Ok(ListenSocket::Tcp(listener))
            }
            ListenAddress::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                Ok(ListenSocket::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            ListenSocket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Responses are small, and clients wait for them. A connection without it still works.
                stream.set_nodelay(true).ok();
                Ok((Either::Left(stream), Peer::Tcp(address)))
            }
            ListenSocket::Unix(listener, _) => {
                listener.accept().await.map(|(stream, _)| (Either::Right(stream), Peer::Unix))
            }
        }
    }
}

/// The file of a unix socket, which stays unless it is removed.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It does no harm: the next start removes it.
        fs::remove_file(&self.0).ok();
    }
}

/// Removes the socket of a process that was killed. One that somebody listens on, or a file of another kind,
/// stays, and binding fails because the address is in use.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match BlockingUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let address = ListenAddress::Unix(path.clone());
        // The standard library leaves the file, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("free"));
        let port = ListenSocket::open(&address, false).expect("nobody listens");
        let error = ListenSocket::open(&address, false).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(port);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_port_is_shared_if_all_agree() {
        let any = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
        let Ok(ListenSocket::Tcp(first)) = ListenSocket::open(&any, true) else { panic!("no port") };
        let same = ListenAddress::Tcp(first.local_addr().expect("an address"));
        ListenSocket::open(&same, true).expect("shared");
        let error = ListenSocket::open(&same, false).expect_err("not shared");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "precious").expect("written");
        let error = ListenSocket::open(&ListenAddress::Unix(path.clone()), false).expect_err("not ours");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    }
}
