//! etcd's own Go client, with its recipes. The program is in `go/`.

use std::process::Command;

use crate::program::session;
use crate::support::server::peer;

#[tokio::test]
async fn the_go_client() {
    session(|server| {
        let mut command = Command::new(peer("JETWAY_TEST_CLIENTS_GO", "clients-go"));
        command.arg(server.endpoint());
        command
    })
    .await;
}
