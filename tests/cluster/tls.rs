//! TLS between the members.

use support::certificates::{Authority, Material, Template};
use support::cluster::Cluster;
use support::server::Target;

fn mutual_tls(target: Target, material: &Material) -> Cluster {
    material.serve(Template { name: "member", ..Template::default() });
    let (cert, key, ca) = (material.arg("server.pem"), material.arg("server.key"), material.arg("ca.pem"));
    let mut flags = vec!["--peer-cert-file", &cert, "--peer-key-file", &key, "--peer-client-cert-auth"];
    flags.extend(["--peer-trusted-ca-file", &ca]);
    Cluster::prepare_as(target, 3, "https", &flags)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_meet_over_mutual_tls() {
    let material = Material::create();
    let mut cluster = mutual_tls(Target::from_env(), &material);
    cluster.start_all().await;
    let clients = cluster.clients().await;
    clients[0].put("/a", "b").await;
    assert_eq!(clients[2].list("/a").await.len(), 1);
}

/// A member with the right token and a certificate of another authority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jetway_of_another_authority_stays_out() {
    let material = Material::create();
    let mut cluster = mutual_tls(Target::Jetway, &material);
    cluster.start_all().await;
    let other = Authority::new("another authority").issue(Template::default());
    material.write("other.pem", &other.cert);
    material.write("other.key", &other.key);
    let (cert, key) = (material.arg("other.pem"), material.arg("other.key"));
    let stranger = cluster.add();
    let list = cluster.list(0..4);
    cluster.set_flags(stranger, &list, "existing", &["--peer-cert-file", &cert, "--peer-key-file", &key]);
    assert!(!cluster.members[stranger].ends().await.success());
    let logs: Vec<String> = cluster.members[..3].iter().map(support::server::Server::log).collect();
    assert!(logs.iter().all(|log| log.contains("TLS route handshake error")), "{logs:#?}");
    assert!(!cluster.members[stranger].log().contains("ready to serve"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_make_their_own_certificates() {
    let mut cluster = Cluster::prepare_with(3, "https", &["--peer-auto-tls"]);
    cluster.start_all().await;
    let clients = cluster.clients().await;
    clients[1].put("/a", "b").await;
    assert_eq!(clients[0].list("/a").await.len(), 1);
}

#[tokio::test]
async fn a_peer_url_with_tls_needs_a_certificate() {
    let mut cluster = Cluster::prepare_with(3, "https", &[]);
    assert!(!cluster.members[0].ends().await.success());
    let log = cluster.members[0].log();
    assert!(log.contains("KeyFile and CertFile are not presented"), "{log}");
}
