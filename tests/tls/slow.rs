//! Clients that take their time, and more of them than there are file descriptors.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::BOTH;
use support::certificates::Material;
use support::server::{Launch, Server};
use support::tls::{CERT, TlsServer};
use support::within;

/// A TLS handshake may take ten seconds, whether nothing comes or one byte after the other; nobody else waits
/// for it.
#[tokio::test]
async fn a_slow_handshake_is_cut_off() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &CERT).await;
        let began = Instant::now();
        let mut streams = Vec::new();
        for _ in 0..200 {
            streams.push(TcpStream::connect(secure.address()).await.unwrap());
        }
        let (mut read, mut write) = streams.pop().unwrap().into_split();
        let drip = tokio::spawn(async move {
            let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[9; 600]].concat();
            for byte in hello {
                if write.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("the whole hello was taken");
        });
        for _ in 0..10 {
            secure.client().is_served().await;
        }
        let mut rest = Vec::new();
        within("an end", read.read_to_end(&mut rest)).await.ok();
        for mut stream in streams {
            within("an end", stream.read_to_end(&mut rest)).await.ok();
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(9), "{target:?}: {took:?}");
        assert_eq!(rest, b"", "{target:?}");
        within("the client to notice", drip).await.unwrap();
    }
}

/// Hundreds of clients that send nothing, half a request or half a preface do not keep others from being
/// served.
#[tokio::test]
async fn silent_clients_do_not_delay_others() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &CERT).await;
        let mut silent = Vec::new();
        for bytes in [&b""[..], b"GET /version HTTP/1.1\r\nHost: loc", b"PRI * HTTP/2.0\r\n", b"P"] {
            for _ in 0..100 {
                let mut stream = TcpStream::connect(secure.server.address()).await.unwrap();
                stream.write_all(bytes).await.unwrap();
                silent.push(stream);
            }
        }
        let client = secure.server.client().await;
        for n in 0..20 {
            client.put("tls/slow", n.to_string()).await;
            secure.client().is_served().await;
        }
    }
}

/// Connections beyond the limit of file descriptors wait until others have gone; the server itself has what
/// it needs.
#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    const DESCRIPTORS: u64 = 200;
    for target in BOTH {
        let launch = Launch { descriptors: Some(DESCRIPTORS), ..Launch::default() };
        let server = Server::launch_as(target, launch).await;
        let client = server.client().await;
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(TcpStream::connect(server.address()).await.unwrap());
        }
        // The one that was there goes on, and one that comes later has its turn when there is room.
        client.put("tls/limit", "").await;
        let late = tokio::spawn(async move { Server::client(&server).await.put("tls/late", "").await });
        client.put("tls/limit", "").await;
        drop(held);
        within("its turn", late).await.unwrap();
    }
}
