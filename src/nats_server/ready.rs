//! Waits until the child serves. nats-server opens its listener after JetStream has recovered, and then
//! writes its ports file. Its first line reports whether it has JetStream.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

/// The needed fields of a server's first line.
#[derive(Debug, Deserialize)]
struct Info {
    #[serde(default)]
    jetstream: bool,
}

#[derive(Debug, Deserialize)]
struct Ports {
    nats: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Serving { port: u16 },
    WithoutJetStream,
}

/// Waits until the process serves, without a limit: the caller watches the process and the clock. An observer
/// has no JetStream.
pub(super) async fn ready(dir: &Path, pid: u32, is_observer: bool) -> Ready {
    const POLL: Duration = Duration::from_millis(10);
    loop {
        if let Some(port) = port_of(dir, pid) {
            match tokio::time::timeout(Duration::from_secs(5), first_line(port)).await {
                Ok(Ok(Info { jetstream })) if jetstream != is_observer => return Ready::Serving { port },
                Ok(Ok(_)) => return Ready::WithoutJetStream,
                Ok(Err(error)) => tracing::debug!(%error, port, "nats-server does not answer yet"),
                Err(_) => tracing::debug!(port, "nats-server does not answer yet"),
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The port in the process's ports file. The file is named after the executable, which may be a link or a
/// script, so only the end of the name counts. It is not written atomically, so a file that cannot be parsed
/// is read again.
fn port_of(dir: &Path, pid: u32) -> Option<u16> {
    let end = format!("_{pid}.ports");
    let file = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().ends_with(&end))?;
    let ports: Ports = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    ports.nats.first()?.rsplit_once(':')?.1.parse().ok()
}

/// Reads the `INFO {…}` line of the server on `port`.
async fn first_line(port: u16) -> io::Result<Info> {
    const LONGEST: u64 = 64 << 10;
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line).await?;
    let json =
        line.strip_prefix("INFO ").ok_or_else(|| io::Error::other(format!("not a NATS server: {line:?}")))?;
    Ok(serde_json::from_str(json)?)
}
