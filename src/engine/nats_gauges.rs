//! Gauges of NATS, under jetway's own names. A scrape shows the last look at NATS and asks nobody. A gauge
//! that is not known has no series.

use super::Engine;
use super::measured::{Limit, Measured};
use crate::log::StreamInfo;
use crate::telemetry::{Metrics, Series};
use prometheus::IntGauge;

#[derive(Debug)]
pub(super) struct NatsGauges {
    connected: IntGauge,
    jetstream: IntGauge,
    stream_leader: Series,
    replica_lag: Series,
    replica_current: Series,
    unlisted_servers: Series,
    used: Series,
    limit: Series,
    connections: Series,
    mirror_lag: Series,
    mirror_silence: Series,
}

impl NatsGauges {
    pub(super) fn new(metrics: &Metrics) -> NatsGauges {
        let gauge = |name, help| metrics.gauge(name, help);
        let series = |name, help, labels: &[&str]| metrics.series(name, help, labels);
        NatsGauges {
            connected: gauge("jetway_nats_connected", "Whether there is a connection to NATS."),
            jetstream: gauge(
                "jetway_jetstream_available",
                "Whether JetStream answered for the account at the last look. In a cluster its meta leader does.",
            ),
            stream_leader: series(
                "jetway_stream_has_leader",
                "Whether the stream had a leader at the last look.",
                &[],
            ),
            replica_lag: series(
                "jetway_stream_replica_lag_operations",
                "Operations that a replica of the stream is behind its leader.",
                &["server"],
            ),
            replica_current: series(
                "jetway_stream_replica_current",
                "Whether the leader of the stream sees a replica, and the replica has caught up.",
                &["server"],
            ),
            unlisted_servers: series(
                "jetway_server_without_member",
                "A server of the cluster that is none of its members', as the writer sees it.",
                &["server"],
            ),
            used: series(
                "jetway_storage_used_bytes",
                "Bytes that count against a limit: quota, stream, account or disk.",
                &["limit"],
            ),
            limit: series(
                "jetway_storage_limit_bytes",
                "Bytes of the quota, of max_bytes of the stream, of the storage of the account, or of the disk.",
                &["limit"],
            ),
            mirror_lag: series(
                "jetway_mirror_lag_messages",
                "Messages that the origin of the mirror had more when the last one came.",
                &[],
            ),
            mirror_silence: series(
                "jetway_mirror_silence_seconds",
                "Seconds since the mirror last heard of its origin.",
                &[],
            ),
            connections: series(
                "jetway_nats_server_connections",
                "Connections to the embedded nats-server.",
                &[],
            ),
        }
    }

    pub(super) fn set(&self, engine: &Engine) {
        self.connected.set(i64::from(engine.log.connection().link.borrow().connected));
        let measured = engine.space.measured();
        self.show(&measured.borrow());
        let unlisted = engine.status.unlisted_servers().borrow().clone();
        self.unlisted_servers.show(unlisted.into_iter().map(|server| (vec![server], 1)));
        let limits = engine.space.limits();
        let values = |value: fn(&Limit) -> u64| {
            let series = limits.iter().map(move |limit| (limit.kind.name().to_owned(), value(limit)));
            series.map(|(limit, value)| (vec![limit], value as i64)).collect::<Vec<_>>()
        };
        self.used.show(values(|limit| limit.used));
        self.limit.show(values(|limit| limit.bytes));
    }

    fn show(&self, measured: &Measured) {
        self.jetstream.set(i64::from(measured.account.is_some()));
        self.stream_leader.show_value(measured.has_leader().map(i64::from));
        let cluster = measured.stream.as_ref().and_then(|stream| stream.cluster.as_ref());
        let replicas = || cluster.iter().flat_map(|cluster| &cluster.replicas);
        self.replica_lag.show(replicas().map(|replica| (vec![replica.name.clone()], replica.lag as i64)));
        self.replica_current
            .show(replicas().map(|replica| (vec![replica.name.clone()], i64::from(replica.current))));
        let lag = measured.stream.as_ref().and_then(StreamInfo::lag);
        self.mirror_lag.show_value(lag.map(|lag| lag.messages as i64));
        let silence = lag.and_then(|lag| lag.silence);
        self.mirror_silence.show_value(silence.map(|silence| silence.as_secs() as i64));
        self.connections.show_value(measured.load.map(|load| load.connections as i64));
    }
}
