//! Wall clocks that are set ahead and back while members run: no lease, no simple token and no order of
//! writes depends on them. The `exp` of a JWT does, as in etcd.
//!
//! Only jetway's clock is set. nats-server is not linked with the C library, and etcd is not either.

use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::PutRequest;
use support::auth::enable;
use support::client::{Client, put, refused};
use support::clock::WallClock;
use support::cluster::Cluster;
use support::lease::KeepAlive;
use support::server::{Server, Target};
use tonic::Code;

const HOUR: i64 = 3600;
const TTL: i64 = 6;
/// The time beside its TTL in which a lease ends, on a busy machine.
const GRACE: Duration = Duration::from_secs(5);

/// Three members that have yet to be started, each with a clock of its own.
pub fn prepare() -> (Cluster, Vec<WallClock>) {
    let mut cluster = Cluster::prepare_as(Target::Jetway, 3, "http", &[]);
    let clocks = of(&mut cluster);
    (cluster, clocks)
}

/// Gives each member a clock of its own.
pub fn of(cluster: &mut Cluster) -> Vec<WallClock> {
    cluster.members.iter_mut().map(WallClock::of).collect()
}

async fn put_on_lease(client: &Client, id: i64) {
    client.lease_grant(id, TTL).await.unwrap();
    client.put_request(PutRequest { lease: id, ..put(format!("/leased/{id}"), "v") }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_do_not_follow_the_wall_clocks() {
    let (mut cluster, clocks) = prepare();
    cluster.start_all().await;
    let clients = cluster.clients().await;
    put_on_lease(&clients[0], 1).await;
    let mut keep_alive = KeepAlive::open(&clients[1]);
    for (id, jump) in [(2, HOUR), (3, -24 * HOUR), (4, 24 * 365 * HOUR)] {
        let granted = Instant::now();
        put_on_lease(&clients[2], id).await;
        // Each one differently, so that the members disagree.
        for (clock, times) in clocks.iter().zip(1..) {
            clock.set(times * jump);
        }
        while clients[0].kv(format!("/leased/{id}")).await.is_some() {
            assert_eq!(keep_alive.renew(1).await.ttl, TTL);
            assert!(granted.elapsed() < Duration::from_secs(TTL as u64) + GRACE, "never ends: {jump} s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let lived = granted.elapsed();
        assert!(lived >= Duration::from_secs(TTL as u64), "ended after {lived:?} by a jump of {jump} s");
        assert!(clients[0].kv("/leased/1").await.is_some(), "a lease that is renewed has ended");
    }
}

/// A JWT ends at the time of its `exp`. It is valid again if the clock is set back, as nobody remembers it.
#[tokio::test]
async fn a_jwt_ends_by_the_wall_clock_and_a_simple_token_does_not() {
    const REFUSED: &str = "etcdserver: invalid auth token";
    let keys = tempfile::tempdir().unwrap();
    let secret = keys.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let jwt = format!("jwt,sign-method=HS256,priv-key={},ttl=10m", secret.display());
    for kind in ["simple", &jwt] {
        let mut server = Server::prepare(&["--auth-token", kind, "--bcrypt-cost", "4"]);
        if server.target() == Target::Etcd {
            return;
        }
        let clock = WallClock::of(&mut server);
        server.restart().await;
        let anybody = server.client().await;
        enable(&anybody).await;
        let root = anybody.login("root", "root").await;
        for (hours, is_valid) in [(0, true), (1, kind == "simple"), (-1, true)] {
            clock.set(hours * HOUR);
            if is_valid {
                root.get("k").await.unwrap();
            } else {
                refused(root.get("k").await, Code::Unauthenticated, REFUSED);
                // The client logs in again, as Go's does.
                anybody.login("root", "root").await.get("k").await.unwrap();
            }
        }
    }
}
