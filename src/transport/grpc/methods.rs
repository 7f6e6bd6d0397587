//! The gRPC methods that there are, from the descriptors of `proto/`.

use crate::telemetry::{CallCounters, MethodCounters};
use std::collections::HashMap;
use std::sync::Arc;

/// How many messages a method takes and returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unary,
    ClientStream,
    ServerStream,
    BidiStream,
}

impl Kind {
    /// The value of the label `grpc_type`.
    fn label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ClientStream => "client_stream",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

/// A method.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) counters: MethodCounters,
}

/// All methods by their paths. Each has its series of metrics from the start.
#[derive(Debug)]
pub(super) struct Methods(HashMap<String, Arc<Method>>);

impl Methods {
    pub(super) fn new(counters: &CallCounters) -> Methods {
        let mut methods = HashMap::new();
        for service in crate::proto::pool().services() {
            for method in service.methods() {
                let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
                    (false, false) => Kind::Unary,
                    (true, false) => Kind::ClientStream,
                    (false, true) => Kind::ServerStream,
                    (true, true) => Kind::BidiStream,
                };
                let path = format!("/{}/{}", service.full_name(), method.name());
                let counters = counters.method(service.full_name(), method.name(), kind.label());
                methods.insert(path.clone(), Arc::new(Method { path, kind, counters }));
            }
        }
        Methods(methods)
    }

    /// The method with this path, such as `/etcdserverpb.KV/Range`.
    pub(super) fn find(&self, path: &str) -> Option<&Arc<Method>> {
        self.0.get(path)
    }
}

/// Whether there is a service of this full name.
pub(super) fn is_service(name: &str) -> bool {
    crate::proto::pool().get_service_by_name(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn methods_and_kinds_come_from_the_descriptors() {
        let methods = Methods::new(Metrics::new(1, 0, false).calls());
        for (path, kind) in [
            ("/etcdserverpb.KV/Range", Kind::Unary),
            ("/etcdserverpb.KV/RangeStream", Kind::ServerStream),
            ("/etcdserverpb.Watch/Watch", Kind::BidiStream),
            ("/etcdserverpb.Lease/LeaseKeepAlive", Kind::BidiStream),
            ("/v3electionpb.Election/Observe", Kind::ServerStream),
            ("/grpc.health.v1.Health/List", Kind::Unary),
        ] {
            assert_eq!(methods.find(path).map(|method| method.kind), Some(kind), "{path}");
        }
        assert!(methods.find("/etcdserverpb.KV/Rnage").is_none());
        assert!(is_service("v3lockpb.Lock") && !is_service("etcdserverpb"));
    }
}
