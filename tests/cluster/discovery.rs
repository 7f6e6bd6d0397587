//! Members that find each other by SRV records of DNS.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_server::Server;
use hickory_server::proto::rr::rdata::{A, SRV};
use hickory_server::proto::rr::{LowerName, Name, RData, Record};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use support::server::Target;
use tokio::net::UdpSocket;

use super::deployment::{Deployment, host};

const NAMES: [&str; 3] = ["infra0", "infra1", "infra2"];

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// A name server for the zone `etcd.test`, in which the service has these records.
async fn name_server(address: Ipv4Addr, service: &str, port: u16) -> Server<Catalog> {
    let mut zone: InMemoryZoneHandler =
        InMemoryZoneHandler::empty(name("etcd.test."), ZoneType::Primary, AxfrPolicy::Deny);
    for (member, infra) in NAMES.iter().enumerate() {
        let target = name(&format!("{infra}.etcd.test."));
        let address = RData::A(A(host(member).parse().unwrap()));
        zone.upsert_mut(Record::from_rdata(target.clone(), 60, address), 0);
        let record = RData::SRV(SRV::new(0, 0, port, target));
        zone.upsert_mut(Record::from_rdata(name(&format!("{service}._tcp.etcd.test.")), 60, record), 0);
    }
    let mut catalog = Catalog::new();
    catalog.upsert(LowerName::from(name("etcd.test.")), vec![Arc::new(zone)]);
    let mut server = Server::new(catalog);
    // resolv.conf names no port.
    let socket = UdpSocket::bind((address, 53)).await;
    server.register_socket(socket.expect("port 53, for which the test needs the right of root"));
    server
}

/// Starts three members that find each other by these flags and records, and looks for one etcd.
async fn are_one_etcd(address: Ipv4Addr, service: &str, flags: &str) {
    let mut deployment = Deployment::new("http", NAMES);
    let _server = name_server(address, service, deployment.fill(0, "{peer}").parse().unwrap()).await;
    let resolver = deployment.folder.path("resolv.conf");
    fs::write(&resolver, format!("nameserver {address}\n")).unwrap();
    let args = "
        --name={name}
        --listen-peer-urls=http://{host}:{peer}
        --listen-client-urls=http://{host}:{client}
        --initial-advertise-peer-urls=http://{name}.etcd.test:{peer}
        --advertise-client-urls=http://{host}:{client}
        --initial-cluster-token=etcd-cluster-1
        --initial-cluster-state=new"
        .to_owned()
        + flags;
    deployment.start_with_file(&resolver, "/etc/resolv.conf", &args).await;
    deployment.warn_of_nothing();
    deployment.is_one_etcd("http://{name}.etcd.test:{peer}").await;
}

/// The start by DNS of etcd's clustering guide.
#[ignore = "needs port 53, and so root: `make discovery`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_find_each_other_by_srv_records() {
    are_one_etcd(Ipv4Addr::new(127, 0, 3, 1), "_etcd-server", "\n--discovery-srv=etcd.test").await;
}

#[ignore = "needs port 53, and so root: `make discovery`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_may_have_an_ending() {
    let flags = "\n--discovery-srv=etcd.test\n--discovery-srv-name=blue";
    are_one_etcd(Ipv4Addr::new(127, 0, 3, 2), "_etcd-server-blue", flags).await;
}

/// A member that is in none of the records ends in etcd's words.
#[ignore = "needs port 53, and so root: `make discovery`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_without_a_record_ends() {
    let deployment = Deployment::new("http", NAMES);
    let address = Ipv4Addr::new(127, 0, 3, 3);
    let _server = name_server(address, "_etcd-server-ssl", 9).await;
    let resolver = deployment.folder.path("resolv.conf");
    fs::write(&resolver, format!("nameserver {address}\n")).unwrap();
    let args = "
        --name={name}
        --listen-peer-urls=http://{host}:{peer}
        --listen-client-urls=http://{host}:{client}
        --initial-advertise-peer-urls=http://{host}:{peer}
        --advertise-client-urls=http://{host}:{client}
        --discovery-srv=etcd.test";
    let command = deployment.command(0, args, &[]);
    let ended = deployment.folder.run(deployment.with_file(&resolver, "/etc/resolv.conf", &command)).await;
    assert_eq!(ended.status, 1);
    assert!(
        ended.output.contains("cannot find local etcd member \"infra0\" in SRV records"),
        "{}",
        ended.output
    );
    if Target::from_env() == Target::Jetway {
        assert!(ended.output.contains("infra2.etcd.test:9"), "it tells what it found: {}", ended.output);
    }
}
