//! Clients of scripted languages, which `make clients` installs; the programs are in `node/` and `python/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::session;
use support::server::{Server, peer};

fn program(interpreter: &str, path: &str, server: &Server) -> Command {
    let mut command = Command::new(interpreter);
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(path))
        .arg(server.endpoint());
    command
}

fn installed(variable: &str, folder: &str) -> PathBuf {
    peer(variable, &format!("../{folder}"))
}

#[tokio::test]
#[ignore = "needs Node: run by make clients"]
async fn etcd3_of_node() {
    session(|server| {
        let mut command = program("node", "node/session.js", server);
        let modules = installed("JETWAY_TEST_CLIENTS_NODE", "clients-node").join("node_modules");
        command.env("NODE_PATH", modules);
        command
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Python: run by make clients"]
async fn aetcd_of_python() {
    session(|server| {
        let mut command = program("python3", "python/session.py", server);
        command.env("PYTHONPATH", installed("JETWAY_TEST_CLIENTS_PYTHON", "clients-python"));
        command
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Python: run by make clients"]
async fn etcd3gw_of_python() {
    session(|server| {
        let mut command = program("python3", "python/gateway.py", server);
        command.env("PYTHONPATH", installed("JETWAY_TEST_CLIENTS_PYTHON", "clients-python"));
        command
    })
    .await;
}
