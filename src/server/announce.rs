//! The first line of the log: the settings of this process.

use super::start::durability;
use crate::cli::{AutoCompaction, ListenUrl, ServerSettings, Storage};
use crate::durability::Level;
use crate::version::ETCD_VERSION;

/// Logs the settings in one line.
pub fn announce(settings: &ServerSettings) {
    let (data_dir, endpoint, bucket, replicas, sync) = match &settings.storage {
        Storage::Embedded { data_dir, bucket, sync, cluster, .. } => {
            // A relative path is not the whole place.
            let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.clone());
            (Some(data_dir), None, bucket, None, durability(*sync, cluster.is_some()))
        }
        Storage::External(endpoint) => {
            let servers = endpoint.servers.join(",");
            (None, Some(servers), &endpoint.bucket, endpoint.replicas, Level::Nats)
        }
    };
    let members = match &settings.storage {
        Storage::Embedded { cluster: Some(cluster), .. } => {
            let names = cluster.server.members.keys().map(String::as_str).collect::<Vec<_>>().join(",");
            Some(if names.is_empty() { "those of the last start".to_owned() } else { names })
        }
        _ => None,
    };
    let peer_urls = members.is_some().then(|| settings.peer_urls.join(","));
    let http = urls(&settings.listen_client_http);
    let metrics = urls(&settings.listen_metrics);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        etcd = ETCD_VERSION,
        name = settings.name,
        data_dir = data_dir.as_ref().map(|dir| display(dir.display())),
        endpoint,
        bucket,
        replicas,
        sync = sync.name(),
        quota = bytes(settings.quota_bytes),
        compaction = compaction(settings.auto_compaction),
        client_urls = urls(&settings.listen),
        client_http_urls = (!http.is_empty()).then_some(http),
        metrics_urls = if metrics.is_empty() { "those of the clients" } else { &metrics },
        members,
        peer_urls,
        advertised = settings.advertise.join(","),
        pid = std::process::id(),
        "jetway starts"
    );
}

fn urls(listen: &[ListenUrl]) -> String {
    listen.iter().map(|listen| listen.url.as_str()).collect::<Vec<_>>().join(",")
}

fn bytes(quota: i64) -> String {
    if quota < 0 { "none".to_owned() } else { format!("{quota} bytes") }
}

fn compaction(mode: Option<AutoCompaction>) -> String {
    match mode {
        None => "by clients alone".to_owned(),
        Some(AutoCompaction::Periodic(period)) => format!("of revisions older than {period:?}"),
        Some(AutoCompaction::Revision { kept, .. }) => format!("of all but the newest {kept} revisions"),
    }
}
