//! temporary entry point until the command line lands
use jetway::api::{header::HeaderSource, kv, lease};
use jetway::engine::{Engine, LinearizableReads, Settings};
use jetway::jetstream::{Auth, Endpoint};
use std::sync::Arc;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().collect();
    let port = args[1].clone();
    let dir = args[2].clone();
    let nats = jetway::nats_server::NatsServer::start(jetway::nats_server::Settings::new(dir)).await.expect("nats");
    let endpoint = Endpoint {
        servers: vec![nats.client_url().expect("running")],
        auth: Auth::Token(nats.token().to_owned()),
        bucket: "jetway".into(),
        replicas: 1,
        ca_file: None,
        client_cert: None,
    };
    let settings = Settings { endpoint, sole_writer: true, linearizable_reads: LinearizableReads::Quorum };
    let engine = Engine::start(settings, jetway::core::Writer::new(), Arc::new(tokio::sync::Notify::new())).await.expect("engine");
    let header = HeaderSource { cluster_id: 1, member_id: 2, raft_term: 2 };
    let counter = || prometheus::IntCounter::new("a", "b").expect("x");
    let ops = jetway::telemetry::Operations { ranges: counter(), puts: counter(), deletes: counter(), txns: counter() };
    let limits = kv::Limits { max_request_bytes: 1_572_864, max_txn_ops: 128 };
    tonic::transport::Server::builder()
        .add_service(jetway::proto::etcdserverpb::kv_server::KvServer::new(kv::KvService::new(engine.clone(), header, limits, ops)).max_decoding_message_size(2 << 20))
        .add_service(jetway::proto::etcdserverpb::lease_server::LeaseServer::new(lease::LeaseService::new(engine, header, tokio_util::sync::CancellationToken::new())))
        .serve(format!("127.0.0.1:{port}").parse().expect("addr"))
        .await
        .expect("serve");
}
