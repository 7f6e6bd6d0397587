//! Ports as their clients see them: HTTP beside gRPC, probes, metrics, TLS, unix sockets, and rough
//! treatment.
//!
//! Everything that etcd has too is checked on etcd with `JETWAY_TEST_TARGET=etcd`, as the rest of the
//! contract.

mod calls;
mod heads;
mod metrics;
mod origins;
mod ports;
mod probes;
mod tls;

use support::http::{HttpAnswer, http};

const CORS: [(&str, &str); 3] = [
    ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
    ("access-control-allow-origin", "*"),
    ("access-control-allow-headers", "accept, content-type, authorization"),
];

fn free_address() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

async fn is(address: &str, method: &str, path: &str, status: u16, body: &str) -> HttpAnswer {
    let answer = http(address, method, path).await;
    assert_eq!((answer.status, answer.body.as_str()), (status, body), "{method} {path}");
    answer
}
