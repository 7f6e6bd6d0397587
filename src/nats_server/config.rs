//! The configuration file of the child.

use std::fmt::Write;
use std::path::Path;

use super::extra_config::ExtraConfig;
use super::{NatsServerSettings, SyncMode};

/// What one start of the child is configured with, beyond the [`NatsServerSettings`].
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) dir: &'a Path,
    pub(super) store: &'a Path,
    /// `None`: the system chooses.
    pub(super) port: Option<u16>,
    pub(super) token: &'a str,
    pub(super) max_file_store_bytes: u64,
    pub(super) extra: Option<&'a ExtraConfig>,
}

/// Memory streams are not used; a user's own may have this much.
const MAX_MEMORY_STORE_BYTES: u64 = 256 << 20;

/// A publish names its subject and its reply in one line, which by default ends at 4 KiB: too short for a 4 KiB key. Long
/// subjects work throughout (guards, direct get, consumers, recovery); a subject must stay below 64 KiB in the store.
const MAX_CONTROL_LINE_BYTES: u32 = 16 << 10;

/// Bytes that may wait for a slow client before it is disconnected. Replay sends as fast as the consumer's flow control
/// lets it, up to 32 MiB each, for several consumers on one connection.
const MAX_PENDING_BYTES: u64 = 256 << 20;

pub(super) fn render(settings: &NatsServerSettings, start: &Start<'_>) -> String {
    let mut text = String::from(
        "# Written by jetway at each start of nats-server: changes are lost. Own settings go to the file that\n\
         # --nats-config names.\n",
    );
    let port = start.port.map_or("-1".into(), |port| port.to_string());
    let quoted =
        |path: &Path| quote(path.to_str().expect("the data directory's path is checked when it is opened"));
    let sync = match settings.sync {
        SyncMode::Always => "  sync_interval: always\n",
        SyncMode::Group | SyncMode::Lazy => "",
    };
    write!(
        text,
        "listen: \"127.0.0.1:{port}\"\n\
         server_name: \"jetway\"\n\
         authorization {{ token: {token} }}\n\
         ports_file_dir: {dir}\n\
         logtime: false\n\
         max_payload: {max_payload}\n\
         max_control_line: {MAX_CONTROL_LINE_BYTES}\n\
         max_pending: {MAX_PENDING_BYTES}\n\
         write_deadline: \"30s\"\n\
         jetstream {{\n\
         \x20 store_dir: {store}\n\
         \x20 max_memory_store: {MAX_MEMORY_STORE_BYTES}\n\
         \x20 max_file_store: {max_file_store}\n\
         {sync}\
         }}\n",
        token = quote(start.token),
        dir = quoted(start.dir),
        max_payload = settings.max_payload_bytes,
        store = quoted(start.store),
        max_file_store = start.max_file_store_bytes,
    )
    .expect("writing to a string cannot fail");
    // At the end, so that the user's values win where both may set one (`max_pending`, `write_deadline`).
    if let Some(extra) = start.extra {
        text.push_str(&extra.include_line(start.dir));
    }
    text
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
