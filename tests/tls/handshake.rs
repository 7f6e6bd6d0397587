//! Versions, suites and protocols of TLS connections.

use std::process::{Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::ring::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::BOTH;
use support::certificates::{Material, Template};
use support::server::{Launch, Server};
use support::tls::{CERT, MUTUAL, TlsClient, TlsServer, with_paths};
use support::within;

/// HTTP-1: gRPC and HTTP/1.1 share the port; ALPN distinguishes them, and a client without ALPN speaks
/// HTTP/1.1.
#[tokio::test]
async fn grpc_and_http_share_the_port() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &CERT).await;
        let peer = secure.client();
        for (offered, agreed) in [(&["h2"][..], Some("h2")), (&["h2", "http/1.1"], Some("h2")), (&[], None)] {
            let stream = peer.clone().with_alpn(offered).connect().await.unwrap();
            let chosen = stream.get_ref().1.alpn_protocol();
            assert_eq!(chosen, agreed.map(str::as_bytes), "{target:?} offered {offered:?}");
        }
        // etcd agrees on nothing here, and speaks HTTP/1.1 all the same.
        peer.clone().with_alpn(&["http/1.1"]).is_served().await;
        peer.is_served().await;
        peer.clone().with_alpn(&["spdy/3"]).is_refused().await;
        let grpc = peer.grpc().await;
        let revision = grpc.put("tls/key", "value").await;
        assert_eq!(grpc.kv("tls/key").await.unwrap().mod_revision, revision);
        // The plain port beside it serves the same data.
        assert_eq!(secure.server.client().await.kv("tls/key").await.unwrap().value, "value");
    }
}

/// HTTP-1 as seen by curl.
#[tokio::test]
async fn curl_is_served_over_http_1_and_http_2() {
    for target in BOTH {
        let material = Material::create();
        let identity = material.authority.issue(Template::default());
        material.write("client.pem", &identity.cert);
        material.write("client.key", &identity.key);
        let secure = TlsServer::start(target, material, &MUTUAL).await;
        let url = format!("https://{}/version", secure.address());
        for (version, spoken) in [("--http1.1", "1.1"), ("--http2", "2"), ("--no-alpn", "1.1")] {
            let args = ["-sS", version, "-w", " %{http_version}", "--cacert", "@ca.pem", &url];
            let mut curl = Command::new("curl");
            curl.args(with_paths(&secure.material, &args))
                .args(with_paths(&secure.material, &["--cert", "@client.pem", "--key", "@client.key"]));
            let printed = output(curl).await;
            assert!(
                printed.contains("etcdserver") && printed.ends_with(spoken),
                "{target:?} {version}: {printed}"
            );
        }
    }
}

/// The flag `--listen-client-urls` takes `unixs://` too.
#[tokio::test]
async fn a_unix_socket_speaks_tls() {
    for target in BOTH {
        let material = Material::create();
        let url = format!("unixs://{}", material.arg("socket"));
        let args = with_paths(&material, &CERT);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let launch = Launch { args: &args, also_on: &[&url], ..Launch::default() };
        let _server = Server::launch_as(target, launch).await;
        let mut curl = Command::new("curl");
        curl.args(with_paths(&material, &["-sS", "--cacert", "@ca.pem", "--unix-socket", "@socket"]));
        curl.arg("https://localhost/version");
        let printed = output(curl).await;
        assert!(printed.contains("etcdserver"), "{target:?}: {printed}");
    }
}

async fn output(mut command: Command) -> String {
    command.stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output().expect("curl is installed"));
    let output = within("curl", run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A client hello of TLS 1.1, by hand: no library at hand speaks it any more.
#[tokio::test]
async fn tls_1_1_is_refused() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &CERT).await;
        let mut stream = TcpStream::connect(secure.address()).await.unwrap();
        let suites = [0x00, 0x02, 0xc0, 0x13];
        let body = [&[3, 2][..], &[7; 32], &[0], &suites, &[1, 0]].concat();
        let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
        let record = [&[22, 3, 1, 0, message.len() as u8][..], &message].concat();
        stream.write_all(&record).await.unwrap();
        let mut received = Vec::new();
        within("an alert", stream.read_to_end(&mut received)).await.unwrap();
        let [21, _, _, 0, 2, 2, alert] = received[..] else {
            panic!("{target:?}: no fatal alert: {received:?}")
        };
        // Of a version that is not taken, or of a hello that lacks what TLS 1.2 brought.
        assert!([70, 40].contains(&alert), "{target:?}: {alert}");
    }
}

/// The flags `--tls-min-version` and `--tls-max-version`.
#[tokio::test]
async fn versions_outside_the_flags_are_refused() {
    for target in BOTH {
        let flags = [&CERT[..], &["--tls-min-version", "TLS1.3"]].concat();
        let secure = TlsServer::start(target, Material::create(), &flags).await;
        only13(&secure).is_served().await;
        only12(&secure).is_refused().await;
        let flags = [&CERT[..], &["--tls-max-version", "TLS1.2"]].concat();
        let secure = TlsServer::start(target, Material::create(), &flags).await;
        only12(&secure).is_served().await;
        only13(&secure).is_refused().await;
    }
}

/// The flag `--cipher-suites`: it chooses among the suites of TLS 1.2, and TLS 1.3 keeps its own. (etcd does
/// not start without the suite that is named here: HTTP/2 demands it.)
#[tokio::test]
async fn only_named_cipher_suites_are_used() {
    for target in BOTH {
        let flag = ["--cipher-suites", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"];
        let secure = TlsServer::start(target, Material::create(), &[&CERT[..], &flag].concat()).await;
        only12(&secure).with_suites(&[TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]).is_served().await;
        only12(&secure).with_suites(&[TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]).is_refused().await;
        only13(&secure).is_served().await;
    }
}

fn only12(secure: &TlsServer) -> TlsClient {
    secure.client().with_versions(vec![&TLS12])
}

fn only13(secure: &TlsServer) -> TlsClient {
    secure.client().with_versions(vec![&TLS13])
}

/// Plain text on a TLS port, and TLS on a plain one, ends the connection without an HTTP response. Other
/// clients continue.
#[tokio::test]
async fn a_client_of_the_wrong_protocol_is_disconnected() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &CERT).await;
        let plain = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
        // etcd makes up its mind at the end of a line.
        let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[9; 600], b"\r\n"].concat();
        for (address, words) in [
            (secure.address(), &plain[..]),
            (secure.server.address(), &hello),
            (secure.address(), b"\0\0\0\0\0\0\0\0\r\n"),
            (secure.server.address(), b"\0\0\0\0\0\0\0\0\r\n"),
        ] {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(words).await.unwrap();
            let mut answer = Vec::new();
            // A reset is as good an end as any.
            within("an end", stream.read_to_end(&mut answer)).await.ok();
            assert!(!answer.starts_with(b"HTTP/"), "{target:?}: {}", String::from_utf8_lossy(&answer));
        }
        secure.client().is_served().await;
    }
}
