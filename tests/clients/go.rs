//! etcd's own Go client, with its recipes. The program is in `go/`.

use std::process::Command;

use crate::program::{session, session_over_tls};
use support::server::peer;

#[tokio::test]
async fn the_go_client() {
    session(|server| {
        let mut command = Command::new(peer("JETWAY_TEST_CLIENTS_GO", "clients-go"));
        command.arg(server.endpoint());
        command
    })
    .await;
}

/// The steps that hold streams open, and one that restarts the server, over mutual TLS.
#[tokio::test]
async fn the_go_client_over_tls() {
    session_over_tls(|certificates| {
        let mut command = Command::new(peer("JETWAY_TEST_CLIENTS_GO", "clients-go"));
        command.arg(certificates.endpoint()).args(["watches", "leases", "elections", "restarts"]);
        command.env("CERTIFICATES", certificates.folder());
        command
    })
    .await;
}
