//! Messages to systemd, as a unit of `Type=notify` with `WatchdogSec=` gets them.

use std::os::unix::net::UnixDatagram;

use crate::program::{Program, WorkingFolder};
use support::server::Port;

/// Ready, alive until it stops, stopping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_is_notified_of_readiness_life_and_stop() {
    let folder = WorkingFolder::new();
    let socket = folder.path("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(support::TIMEOUT)).unwrap();
    let message = || {
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).expect("a message to systemd");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let (client, peer) = (Port::claim(), Port::claim());
    let mut command = folder.command(Program::Link);
    command
        .arg(format!("--listen-client-urls=http://127.0.0.1:{}", client.number))
        .arg(format!("--advertise-client-urls=http://127.0.0.1:{}", client.number))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{}", peer.number))
        .arg("--data-dir=data")
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "200000");
    let server = folder.start(command).await;
    assert_eq!(message(), "READY=1");
    for _ in 0..5 {
        assert_eq!(message(), "WATCHDOG=1");
    }
    assert_eq!(server.stop().await, Some(0));
    let rest = std::iter::repeat_with(message).find(|message| message != "WATCHDOG=1");
    assert_eq!(rest.as_deref(), Some("STOPPING=1"));
}
