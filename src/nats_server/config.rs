//! The configuration file of the child.

use std::fmt::Write;
use std::path::Path;

use super::cluster::{self, ClusterSettings, Members, SYSTEM_USER, USER};
use super::extra_config::ExtraConfig;
use super::{NatsServerSettings, SyncMode};

/// Configuration of one start of the child, beyond the [`NatsServerSettings`].
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) dir: &'a Path,
    pub(super) store: &'a Path,
    /// `None`: the system chooses.
    pub(super) port: Option<u16>,
    /// The server's name where it is no member of a cluster.
    pub(super) name: &'a str,
    pub(super) token: &'a str,
    pub(super) max_file_store_bytes: u64,
    pub(super) extra: Option<&'a ExtraConfig>,
    /// The cluster that the server is part of.
    pub(super) cluster: Option<&'a ClusterSettings>,
    /// The members of the cluster, by name.
    pub(super) members: &'a Members,
    /// The port of the first connection, where the server may be alone in its cluster.
    pub(super) anchor: Option<u16>,
}

/// Most bytes of memory streams. jetway has none; a user may have some.
const MAX_MEMORY_STORE_BYTES: u64 = 256 << 20;

/// Longest protocol line. That of a publish holds subject and reply, and the default of 4 KiB is too short
/// for a 4 KiB key. Long subjects work everywhere (guards, direct get, consumers, recovery). In the store a
/// subject must be below 64 KiB.
const MAX_CONTROL_LINE_BYTES: u32 = 16 << 10;

/// Bytes that may wait for a slow client before it is disconnected. The flow control of a consumer allows up
/// to 32 MiB, and there may be several consumers on one connection.
const MAX_PENDING_BYTES: u64 = 256 << 20;

/// Bytes that may be on their way to a copy that is being filled. They share a queue with the messages that
/// other copies acknowledge. With the default of 64 MiB half of the writes wait for 0.2 s meanwhile, and the
/// copy of 300,000 messages is hardly faster on one machine. A copy gets as many bytes in each round trip.
const MAX_OUTSTANDING_CATCHUP_BYTES: u64 = 64 << 10;

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
    // In a cluster each member acknowledges its copy to the leader, and a copy counts only once it is synced.
    let sync = if start.cluster.is_some() { "  sync_interval: always\n" } else { sync };
    let catchup = if start.cluster.is_some() {
        format!("  max_outstanding_catchup: {MAX_OUTSTANDING_CATCHUP_BYTES}\n")
    } else {
        String::new()
    };
    let login = if let Some(cluster) = start.cluster {
        let observer = settings.observes_at.map(|port| (start.name, port));
        cluster::render(cluster, start.members, start.token, start.anchor, observer, quote)
    } else {
        let (name, token) = (quote(start.name), quote(start.token));
        // The same users as in a cluster, so that connections outlive a change of the form.
        format!(
            "server_name: {name}\n\
             authorization {{ users: [ {{ user: {USER}, password: {token} }} ] }}\n\
             accounts {{ $SYS {{ users: [ {{ user: {SYSTEM_USER}, password: {token} }} ] }} }}\n"
        )
    };
    write!(text, "max_pending: {MAX_PENDING_BYTES}\nwrite_deadline: \"30s\"\n")
        .expect("writing to a string cannot fail");
    // The user's file comes behind the keys of which its values win, and before those that it may not set.
    // These replace keys of the same spelling in a file of kine's, and a block with a domain.
    if let Some(extra) = start.extra.filter(|_| !settings.is_observer()) {
        text.push_str(&extra.include_line(start.dir));
    }
    write!(
        text,
        "listen: \"127.0.0.1:{port}\"\n\
         {login}\
         ports_file_dir: {dir}\n\
         logtime: false\n\
         max_payload: {max_payload}\n\
         max_control_line: {MAX_CONTROL_LINE_BYTES}\n",
        dir = quoted(start.dir),
        max_payload = settings.max_payload_bytes,
    )
    .expect("writing to a string cannot fail");
    if settings.is_observer() {
        return text;
    }
    let domain = settings.domain.as_deref().or(start.extra.and_then(ExtraConfig::domain));
    let domain = domain.map(|domain| format!("  domain: {}\n", quote(domain))).unwrap_or_default();
    write!(
        text,
        "jetstream {{\n\
         \x20 store_dir: {store}\n\
         \x20 max_memory_store: {MAX_MEMORY_STORE_BYTES}\n\
         \x20 max_file_store: {max_file_store}\n\
         {sync}\
         {catchup}\
         {domain}\
         }}\n",
        store = quoted(start.store),
        max_file_store = start.max_file_store_bytes,
    )
    .expect("writing to a string cannot fail");
    text
}

/// A name that no other server has: a hub of leaf nodes keeps one connection for each name. The name of the
/// machine is for people.
pub(super) fn random_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    format!("jetway-{host}-{:08x}", rand::random::<u32>())
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
