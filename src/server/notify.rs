//! Notifies systemd that the server is ready, lives and stops. A unit of `Type=notify`, such as etcd's own,
//! waits for the first. etcd sends no other.
//!
//! The crate `sd-notify` sends a line feed behind the message; etcd does not, and neither does this.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Reports that clients are served. From now on, until `shutdown`, it reports that the server lives, if the
/// unit asks for it (`WatchdogSec=`).
pub(super) fn ready(shutdown: &CancellationToken) {
    notify(b"READY=1");
    let interval = watchdog(
        std::env::var("WATCHDOG_USEC").ok().as_deref(),
        std::env::var("WATCHDOG_PID").ok().as_deref(),
        std::process::id(),
    );
    let Some(interval) = interval else { return };
    // A task like those of clients: if no thread of the runtime gets to it, none gets to clients either.
    let stopped = shutdown.clone().cancelled_owned();
    let beat = async move {
        let mut ticks = tokio::time::interval(interval);
        loop {
            ticks.tick().await;
            notify(b"WATCHDOG=1");
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = stopped => (),
            () = beat => (),
        }
    });
}

/// Reports that the server stops. The watchdog counts no more: a stop has the time that the unit gives it.
pub(super) fn stopping() {
    notify(b"STOPPING=1");
}

/// Half of the time after which systemd takes the process `own` for dead, as systemd recommends.
fn watchdog(micros: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let for_this_process = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let micros: u64 = micros?.parse().ok()?;
    (for_this_process && micros > 0).then(|| Duration::from_micros(micros.div_ceil(2)))
}

/// Sends the message, if there is a socket for it.
fn notify(message: &[u8]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, message) {
        let message = String::from_utf8_lossy(message);
        tracing::error!(%error, %message, "failed to notify systemd");
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
    fn the_watchdog_is_fed_twice_in_its_time_by_its_own_process() {
        assert_eq!(watchdog(Some("3000000"), None, 7), Some(Duration::from_millis(1500)));
        assert_eq!(watchdog(Some("3000000"), Some("7"), 7), Some(Duration::from_millis(1500)));
        for (micros, pid) in
            [(None, None), (Some("0"), None), (Some("soon"), None), (Some("3000000"), Some("8"))]
        {
            assert_eq!(watchdog(micros, pid, 7), None, "{micros:?} {pid:?}");
        }
    }

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
