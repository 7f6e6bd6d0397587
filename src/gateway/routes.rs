//! The paths of the methods.

use prost_reflect::MessageDescriptor;
use std::collections::HashMap;
use std::sync::LazyLock;

/// The path of a service, its name, and the names of its methods there and in gRPC.
type Service = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// Paths below `/v3/`, and the methods they stand for. RangeStream has none.
const PATHS: &[Service] = &[
    (
        "kv",
        "etcdserverpb.KV",
        &[
            ("range", "Range"),
            ("put", "Put"),
            ("deleterange", "DeleteRange"),
            ("txn", "Txn"),
            ("compaction", "Compact"),
        ],
    ),
    (
        // From the time when these were a part of KV.
        "kv/lease",
        "etcdserverpb.Lease",
        &[("revoke", "LeaseRevoke"), ("timetolive", "LeaseTimeToLive"), ("leases", "LeaseLeases")],
    ),
    ("", "etcdserverpb.Watch", &[("watch", "Watch")]),
    (
        "lease",
        "etcdserverpb.Lease",
        &[
            ("grant", "LeaseGrant"),
            ("revoke", "LeaseRevoke"),
            ("keepalive", "LeaseKeepAlive"),
            ("timetolive", "LeaseTimeToLive"),
            ("leases", "LeaseLeases"),
        ],
    ),
    (
        "cluster/member",
        "etcdserverpb.Cluster",
        &[
            ("add", "MemberAdd"),
            ("remove", "MemberRemove"),
            ("update", "MemberUpdate"),
            ("list", "MemberList"),
            ("promote", "MemberPromote"),
        ],
    ),
    (
        "maintenance",
        "etcdserverpb.Maintenance",
        &[
            ("alarm", "Alarm"),
            ("status", "Status"),
            ("defragment", "Defragment"),
            ("hash", "Hash"),
            ("hashkv", "HashKV"),
            ("snapshot", "Snapshot"),
            ("transfer-leadership", "MoveLeader"),
            ("downgrade", "Downgrade"),
        ],
    ),
    (
        "auth",
        "etcdserverpb.Auth",
        &[
            ("enable", "AuthEnable"),
            ("disable", "AuthDisable"),
            ("status", "AuthStatus"),
            ("authenticate", "Authenticate"),
        ],
    ),
    (
        "auth/user",
        "etcdserverpb.Auth",
        &[
            ("add", "UserAdd"),
            ("get", "UserGet"),
            ("list", "UserList"),
            ("delete", "UserDelete"),
            ("changepw", "UserChangePassword"),
            ("grant", "UserGrantRole"),
            ("revoke", "UserRevokeRole"),
        ],
    ),
    (
        "auth/role",
        "etcdserverpb.Auth",
        &[
            ("add", "RoleAdd"),
            ("get", "RoleGet"),
            ("list", "RoleList"),
            ("delete", "RoleDelete"),
            ("grant", "RoleGrantPermission"),
            ("revoke", "RoleRevokePermission"),
        ],
    ),
    ("lock", "v3lockpb.Lock", &[("lock", "Lock"), ("unlock", "Unlock")]),
    (
        "election",
        "v3electionpb.Election",
        &[
            ("campaign", "Campaign"),
            ("proclaim", "Proclaim"),
            ("leader", "Leader"),
            ("observe", "Observe"),
            ("resign", "Resign"),
        ],
    ),
];

/// A method that has a path.
#[derive(Debug)]
pub(super) struct Route {
    /// As gRPC has it: `/etcdserverpb.KV/Range`.
    pub(super) method: String,
    pub(super) request: MessageDescriptor,
    pub(super) response: MessageDescriptor,
    pub(super) streams_requests: bool,
    pub(super) streams_responses: bool,
}

/// The route of a path such as `/v3/kv/range`.
pub(super) fn find(path: &str) -> Option<&'static Route> {
    static ROUTES: LazyLock<HashMap<String, Route>> = LazyLock::new(|| {
        let mut routes = HashMap::new();
        for (prefix, service, methods) in PATHS {
            let descriptor =
                crate::proto::pool().get_service_by_name(service).expect("proto/ has the service");
            for (name, method) in *methods {
                let slash = if prefix.is_empty() { "" } else { "/" };
                let found = descriptor.methods().find(|found| found.name() == *method);
                let found = found.expect("proto/ has the method");
                let route = Route {
                    method: format!("/{service}/{method}"),
                    request: found.input(),
                    response: found.output(),
                    streams_requests: found.is_client_streaming(),
                    streams_responses: found.is_server_streaming(),
                };
                routes.insert(format!("/v3/{prefix}{slash}{name}"), route);
            }
        }
        routes
    });
    ROUTES.get(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_method_but_one_has_a_path() {
        let methods: HashSet<String> = PATHS
            .iter()
            .flat_map(|(_, service, methods)| {
                methods.iter().map(move |(_, method)| format!("{service}/{method}"))
            })
            .collect();
        let mut without = Vec::new();
        let pool = crate::proto::pool();
        for service in pool.services().filter(|service| service.package_name() != "grpc.health.v1") {
            for method in service.methods() {
                let name = format!("{}/{}", service.full_name(), method.name());
                if !methods.contains(&name) {
                    without.push(name);
                }
            }
        }
        assert_eq!(without, ["etcdserverpb.KV/RangeStream"]);
    }

    #[test]
    fn paths_are_whole() {
        let method = |path| find(path).map(|route| route.method.as_str());
        assert_eq!(method("/v3/watch"), Some("/etcdserverpb.Watch/Watch"));
        assert_eq!(method("/v3/kv/lease/leases"), Some("/etcdserverpb.Lease/LeaseLeases"));
        for path in ["/v3/", "/v3/kv", "/v3/kv/range/", "/v3//kv/range", "/v3/kv/rangestream"] {
            assert_eq!(method(path), None, "{path}");
        }
    }
}
