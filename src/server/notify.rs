//! Tells systemd that the server is ready. A unit of `Type=notify`, such as etcd's own, waits for it.
//!
//! The crate `sd-notify` sends a line feed behind the message; etcd does not, and neither does this.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;

/// Sends the message, if there is a socket for it.
pub(super) fn ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, b"READY=1") {
        tracing::error!(%error, "failed to notify systemd for readiness");
    }
}

fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    match socket.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            sender.send_to_addr(message, &address)?;
        }
        _ => {
            sender.send_to(message, socket)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_get_the_message() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).expect("bound");
        send(path.as_os_str(), b"READY=1").expect("sent");
        let mut buffer = [0; 16];
        let length = receiver.recv(&mut buffer).expect("received");
        assert_eq!(&buffer[..length], b"READY=1");
        #[cfg(target_os = "linux")]
        {
            use std::os::linux::net::SocketAddrExt;
            let name = format!("jetway-notify-{}", std::process::id());
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
            let receiver = UnixDatagram::bind_addr(&address).expect("bound");
            send(OsStr::new(&format!("@{name}")), b"READY=1").expect("sent");
            assert_eq!(receiver.recv(&mut buffer).expect("received"), 7);
        }
    }
}
