//! Getting in: credentials in the URL and beside it, and TLS.

use std::path::Path;
use std::process::Command;

use support::client::Client;
use support::nats::Nats;
use support::server::Server;

async fn works(args: &[&str]) {
    let server = Server::start_with(args).await;
    let client: Client = server.client().await;
    let written = client.put("/k", "v").await;
    assert_eq!(client.kv("/k").await.unwrap().mod_revision, written);
}

/// Runs jetway until it gives up, and returns its output.
pub async fn refused(args: &[&str]) -> String {
    let (status, output) = Server::fails_to_start(args).await;
    assert!(!status.success() && status.code().is_some(), "ended with {status}: {output}");
    assert!(!output.contains("panicked"), "{output}");
    output
}

#[tokio::test]
async fn a_token_opens_the_door() {
    let nats = Nats::start_with("authorization { token: \"s3cr?t/+\" }").await;
    let address = nats.address();
    works(&["--endpoint", &format!("nats://s3cr%3Ft%2F+@{address}?bucket=b")]).await;
    works(&["--endpoint", &format!("nats://{address}?bucket=b"), "--nats-token", "s3cr?t/+"]).await;
    for wrong in [format!("nats://wrong@{address}"), format!("nats://{address}")] {
        let output = refused(&["--endpoint", &wrong]).await;
        assert!(output.contains("credentials") && output.contains("--nats-token"), "{output}");
        assert!(!output.contains("wrong@"), "the secret is in it: {output}");
    }
}

#[tokio::test]
async fn a_user_and_a_password_open_the_door() {
    let nats = Nats::start_with("authorization { user: me, password: \"p@ss:w\" }").await;
    let address = nats.address();
    works(&["--endpoint", &format!("nats://me:p%40ss%3Aw@{address}?bucket=b")]).await;
    let output = refused(&["--endpoint", &format!("nats://me:wr0ng@{address}?bucket=b")]).await;
    assert!(output.contains("credentials") && output.contains("--endpoint"), "{output}");
    assert!(!output.contains("wr0ng"), "the secret is in it: {output}");
}

#[tokio::test]
async fn a_missing_credentials_file_is_named() {
    let nats = Nats::start().await;
    let output = refused(&["--endpoint", &nats.endpoint(), "--nats-creds", "/no/such.creds"]).await;
    assert!(output.contains("--nats-creds") && output.contains("/no/such.creds"), "{output}");
}

pub fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority `ca.pem`, and certificates of it for the server and for a client.
pub fn certificates(dir: &Path) {
    let new =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    openssl(dir, &[&new[..], &["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"]].concat());
    for name in ["server", "client"] {
        let (key, cert) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"];
        let more = [
            "-keyout",
            &key,
            "-out",
            &cert,
            "-subj",
            &subject,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        openssl(dir, &[&new[..], &by, &more].concat());
    }
}

#[tokio::test]
async fn tls_to_nats_with_and_without_a_client_certificate() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let tls = format!("cert_file: \"{}\", key_file: \"{}\"", file("server.pem"), file("server.key"));
    let ca = file("ca.pem");

    let nats = Nats::start_with(&format!("tls {{ {tls} }}")).await;
    let endpoint = format!("tls://{}?bucket=b", nats.address());
    works(&["--endpoint", &endpoint, "--nats-ca-file", &ca]).await;
    let output = refused(&["--endpoint", &endpoint]).await;
    assert!(output.contains("--endpoint") || output.contains("--nats-ca-file"), "{output}");

    let nats = Nats::start_with(&format!("tls {{ {tls}, ca_file: \"{ca}\", verify: true }}")).await;
    let endpoint = format!("tls://{}?bucket=b", nats.address());
    let (cert, key) = (file("client.pem"), file("client.key"));
    let with =
        ["--endpoint", &endpoint, "--nats-ca-file", &ca, "--nats-cert-file", &cert, "--nats-key-file", &key];
    works(&with).await;
    refused(&with[..4]).await;
}
