//! Streaming methods over WebSockets.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use support::keys::unique;
use support::server::Server;
use support::within;

use crate::{base64, compact, send};

/// One end of a WebSocket.
pub struct Socket(TcpStream);

impl Socket {
    pub const TEXT: u8 = 0x81;
    const CLOSE: u8 = 0x88;

    /// A socket, and the head of the server's answer in lower case.
    pub async fn open(server: &Server, path: &str, headers: &[(&str, &str)]) -> (Socket, String) {
        let address = server.address();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        );
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all((request + "\r\n").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("the handshake", stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
        (Socket(stream), head)
    }

    pub async fn send(&mut self, kind: u8, text: &str) {
        // A mask of zeros changes nothing.
        let mut frame = vec![kind, 0x80 | 126];
        frame.extend((text.len() as u16).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.0.write_all(&frame).await.unwrap();
    }

    pub async fn receive(&mut self) -> (u8, String) {
        within("a message", async {
            let kind = self.0.read_u8().await.unwrap();
            let length = match self.0.read_u8().await.unwrap() {
                126 => self.0.read_u16().await.unwrap().into(),
                127 => self.0.read_u64().await.unwrap() as usize,
                length => usize::from(length),
            };
            let mut text = vec![0; length];
            self.0.read_exact(&mut text).await.unwrap();
            (kind, compact(&String::from_utf8(text).unwrap()))
        })
        .await
    }
}

/// GW-4
#[tokio::test]
async fn a_websocket_carries_a_bidirectional_stream() {
    let server = Server::shared().await;
    let client = server.client().await;
    let key = unique("socket");
    let (mut socket, _) = Socket::open(&server, "/v3/watch", &[]).await;
    let create = format!(r#"{{"create_request":{{"key":"{}"}}}}"#, base64(&key));
    socket.send(Socket::TEXT, &create).await;
    let (kind, created) = socket.receive().await;
    assert_eq!(kind, Socket::TEXT);
    assert!(created.ends_with(r#""created":true}}"#), "{created}");
    client.put(&key, "x").await;
    let (_, event) = socket.receive().await;
    assert!(event.contains(&format!(r#""events":[{{"kv":{{"key":"{}","#, base64(&key))), "{event}");

    let (mut socket, head) =
        Socket::open(&server, "/v3beta/lease/keepalive", &[("Sec-WebSocket-Protocol", "Bearer, token")])
            .await;
    assert!(head.contains("\r\nsec-websocket-protocol: bearer\r\n"), "{head}");
    for id in ["5", "6"] {
        socket.send(Socket::TEXT, &format!(r#"{{"ID":"{id}"}}"#)).await;
        let (_, answer) = socket.receive().await;
        assert!(answer.ends_with(&format!(r#""ID":"{id}"}}}}"#)), "{answer}");
    }
    // The error comes first, and then the connection ends.
    let (mut socket, _) = Socket::open(&server, "/v3/nothing", &[]).await;
    assert_eq!(socket.receive().await.1, r#"{"code":5,"message":"Not Found"}"#);
    let mut rest = Vec::new();
    within("the end", socket.0.read_to_end(&mut rest)).await.unwrap();
}

/// A client that closes its WebSocket leaves no watch behind.
#[tokio::test]
async fn a_watch_ends_with_its_websocket() {
    let server = Server::start().await;
    let (mut socket, _) = Socket::open(&server, "/v3/watch", &[]).await;
    socket.send(Socket::TEXT, r#"{"create_request":{"key":"YQ=="}}"#).await;
    socket.receive().await;
    socket.send(Socket::CLOSE, "").await;
    support::eventually("the watch to be gone", async || {
        let metrics = send(&server, "GET", "/metrics", &[], "").await.body;
        metrics.contains("etcd_debugging_mvcc_watch_stream_total0\n").then_some(())
    })
    .await;
}
