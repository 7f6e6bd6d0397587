//! HTTP over TLS, and etcdctl over TLS and a unix socket.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use support::certificates::{Authority, Material, Pair, Template};
use support::server::{Server, Target, peer, signal, spawn};
use support::tls::{CERT, MUTUAL, TlsClient, TlsServer, get_over, with_paths};
use support::{eventually, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::free_address;

/// A server whose metrics port speaks TLS, beside the plain port that the tests' own client uses; and a
/// client of that port.
async fn secure_server(material: &Material, flags: &[&str]) -> (Server, TlsClient) {
    let address = free_address();
    let url = format!("https://{address}");
    let flags = with_paths(material, &[&["--listen-metrics-urls", &*url], &CERT[..], flags].concat());
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let server = Server::start_with(&flags).await;
    eventually("the port with TLS", async || TcpStream::connect(&address).await.ok()).await;
    (server, TlsClient::new(&address, &material.authority))
}

#[tokio::test]
async fn the_metrics_port_serves_tls() {
    let material = Material::create();
    let (server, client) = secure_server(&material, &[]).await;
    for (offered, chosen) in [(&["http/1.1"][..], Some(&b"http/1.1"[..])), (&[], None)] {
        let stream = client.clone().with_alpn(offered).connect().await.unwrap();
        // etcd's own metrics port chooses none.
        if server.target() == Target::Jetway {
            assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        }
        let answer = get_over(stream, "/health").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    // A client that speaks plain text to a TLS port.
    let mut stream = TcpStream::connect(client.address()).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    within("an end", stream.read_to_end(&mut answer)).await.ok();
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn the_metrics_port_refuses_clients_without_a_valid_certificate() {
    let material = Material::create();
    let (_server, client) =
        secure_server(&material, &["--trusted-ca-file", "@ca.pem", "--client-cert-auth"]).await;
    let client = client.with_alpn(&["http/1.1"]);
    let known = client.clone().with_certificate(material.authority.issue(Template::default()));
    let answer = get_over(known.connect().await.unwrap(), "/health").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    client.is_refused().await;
    let stranger = Authority::new("another").issue(Template::default());
    client.with_certificate(stranger).is_refused().await;
}

/// Runs etcdctl and returns its output.
async fn etcdctl(args: Vec<String>) -> String {
    within(
        "etcdctl",
        tokio::task::spawn_blocking(move || {
            let output = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl")).args(&args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        }),
    )
    .await
    .unwrap()
}

/// gRPC through TLS with certificates on both sides, as kube-apiserver connects.
#[tokio::test]
async fn etcdctl_connects_with_tls() {
    let secure = TlsServer::start(Target::Jetway, Material::create(), &MUTUAL).await;
    let material = &secure.material;
    let Pair { cert, key } = material.authority.issue(Template::default());
    material.write("client.pem", cert);
    material.write("client.key", key);
    let endpoint = format!("https://{}", secure.address());
    let files = ["--cacert", "@ca.pem", "--cert", "@client.pem", "--key", "@client.key"];
    let flags = with_paths(material, &[&["--endpoints", &*endpoint], &files[..]].concat());
    let args = |more: &[&str]| flags.iter().cloned().chain(more.iter().map(ToString::to_string)).collect();
    assert_eq!(etcdctl(args(&["put", "a", "b"])).await, "OK\n");
    assert_eq!(etcdctl(args(&["get", "a"])).await, "a\nb\n");
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Running {
    async fn stop(&mut self) {
        signal(self.0.id(), libc::SIGTERM);
        let status = eventually("the end", async || self.0.try_wait().unwrap()).await;
        assert!(status.success(), "{status:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// k0s names a socket by its absolute path, with a port that means nothing.
#[tokio::test]
async fn etcdctl_connects_through_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("jetway.sock:2379");
    let url = format!("unix://{}", socket.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetway"));
    command
        .args(["--listen-client-urls", &url, "--sync", "lazy"])
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .stderr(Stdio::null());
    let mut server = Running(spawn(command).unwrap());
    eventually("the socket", async || UnixStream::connect(&socket).ok()).await;
    let args = |more: &[&str]| ["--endpoints", &url].iter().chain(more).map(ToString::to_string).collect();
    assert_eq!(etcdctl(args(&["put", "a", "b"])).await, "OK\n");
    assert_eq!(etcdctl(args(&["get", "a"])).await, "a\nb\n");
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    server.stop().await;
    assert!(!socket.exists(), "the socket stays behind");
}
