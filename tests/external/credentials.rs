//! Credentials in files: those of an account, seeds of nkeys, contexts, and their renewal under a running
//! instance.

use std::fs;

use nkeys::KeyPairType;
use serde_json::json;

use crate::access::{certificates, refused};
use crate::jwt::{Operator, key};
use support::client::put;
use support::eventually;
use support::nats::Nats;
use support::server::Server;

/// Restarts the server with another configuration, and expects that the instance goes on, before a write and
/// after it.
async fn goes_on(server: &Server, nats: &mut Nats, config: &str, value: &str) {
    let client = server.client().await;
    nats.stop().await;
    nats.set_config(config);
    nats.restart().await;
    eventually("a write", async || client.put_request(put("/k", value)).await.ok()).await;
    assert_eq!(client.kv("/k").await.unwrap().value, value);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_credentials_file_is_read_at_the_next_connection() {
    let operator = Operator::new();
    let [first, second] = [key(KeyPairType::User), key(KeyPairType::User)];
    let mut nats = Nats::start_with(&operator.config(&[])).await;
    let file = nats.dir().join("user.creds");
    fs::write(&file, operator.credentials(&first)).unwrap();
    let creds = file.to_str().unwrap().to_owned();
    let endpoint = nats.endpoint();
    let server = Server::start_with(&["--endpoint", &endpoint, "--nats-creds", &creds]).await;
    server.client().await.put("/k", "v").await;
    fs::write(&file, operator.credentials(&second)).unwrap();
    goes_on(&server, &mut nats, &operator.config(&[&first]), "w").await;

    // The old user is shut out, and kine's spelling names the file as well.
    fs::write(&file, operator.credentials(&first)).unwrap();
    let of_kine = format!("{endpoint}&credsFile={creds}");
    let output = refused(&["--endpoint", &of_kine]).await;
    assert!(output.contains("refused the credentials"), "{output}");
    fs::write(&file, operator.credentials(&second)).unwrap();
    let again = Server::start_with(&["--endpoint", &of_kine, "--name", "b"]).await;
    assert_eq!(again.client().await.kv("/k").await.unwrap().value, "w");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_seed_is_read_at_the_next_connection() {
    let config =
        |user: &nkeys::KeyPair| format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key());
    let [first, second] = [key(KeyPairType::User), key(KeyPairType::User)];
    let mut nats = Nats::start_with(&config(&first)).await;
    let file = nats.dir().join("seed");
    fs::write(&file, first.seed().unwrap()).unwrap();
    let endpoint = nats.endpoint();
    let args = ["--endpoint", &endpoint, "--nats-nkey", file.to_str().unwrap()];
    let server = Server::start_with(&args).await;
    server.client().await.put("/k", "v").await;
    fs::write(&file, second.seed().unwrap()).unwrap();
    goes_on(&server, &mut nats, &config(&second), "w").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificates_are_read_at_the_next_connection() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let config = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    certificates(dir.path());
    let mut nats = Nats::start_with(&config).await;
    let endpoint = format!("tls://{}?bucket=b", nats.address());
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let args =
        ["--endpoint", &endpoint, "--nats-ca-file", &ca, "--nats-cert-file", &cert, "--nats-key-file", &key];
    let server = Server::start_with(&args).await;
    server.client().await.put("/k", "v").await;
    // Another authority, and certificates of it, in the same files.
    certificates(dir.path());
    goes_on(&server, &mut nats, &config, "w").await;
}

/// A context gives servers, credentials and TLS, by kine's parameter and by the flag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_of_nats_names_servers_and_credentials() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let user = key(KeyPairType::User);
    let config = format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}\n\
         tls {{ cert_file: \"{}\", key_file: \"{}\", handshake_first: true }}",
        user.public_key(),
        file("server.pem"),
        file("server.key"),
    );
    let nats = Nats::start_with(&config).await;
    fs::write(dir.path().join("seed"), user.seed().unwrap()).unwrap();
    let context = json!({
        "description": "test", "url": format!("tls://{}", nats.address()), "nkey": file("seed"), "ca": file("ca.pem"),
        "tls_first": true, "inbox_prefix": "_INBOX.jw",
    });
    let path = file("test.json");
    fs::write(&path, context.to_string()).unwrap();
    let first = Server::start_with(&["--endpoint", &format!("nats://?bucket=c&contextFile={path}")]).await;
    first.client().await.put("/k", "v").await;
    let second = Server::start_with(&["--nats-context", &path, "--bucket", "c", "--name", "b"]).await;
    assert_eq!(second.client().await.kv("/k").await.unwrap().value, "v");
    let output = refused(&["--nats-context", &path, "--nats-token", "wrong"]).await;
    assert!(output.contains("refused the credentials"), "{output}");
    let output = refused(&["--nats-context", &path, "--endpoint", "nats://h"]).await;
    assert!(output.contains("--nats-context") && output.contains("--endpoint"), "{output}");
}
