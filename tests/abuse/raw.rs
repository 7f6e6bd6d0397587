//! HTTP/2 and gRPC by hand, for what no library sends.

use bytes::{Buf as _, BufMut as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use support::server::Server;
use support::within;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// Of PING and SETTINGS.
pub const ACK: u8 = 1;

/// A frame, whatever it holds.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(9 + payload.len());
    frame.put_uint(payload.len() as u64, 3);
    frame.put_u8(kind);
    frame.put_u8(flags);
    frame.put_u32(stream);
    frame.put_slice(payload);
    frame
}

/// A header field that goes into no table.
pub fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name.as_bytes(), value] {
        integer(&mut field, 0, 7, text.len());
        field.put_slice(text);
    }
    field
}

/// HPACK's integer with a prefix of so many bits.
pub fn integer(into: &mut Vec<u8>, flags: u8, bits: u32, mut value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        return into.put_u8(flags | value as u8);
    }
    into.put_u8(flags | most as u8);
    value -= most;
    while value >= 128 {
        into.put_u8(value as u8 | 128);
        value /= 128;
    }
    into.put_u8(value as u8);
}

/// The header block of a gRPC call.
pub fn call(path: &str) -> Vec<u8> {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .iter()
    .flat_map(|(name, value)| field(name, value.as_bytes()))
    .collect()
}

/// A gRPC message that may lie about its length.
pub fn message(compressed: u8, announced: u32, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![compressed];
    message.put_u32(announced);
    message.put_slice(bytes);
    message
}

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub payload: Vec<u8>,
}

/// A connection on which anything can be said.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
}

impl Connection {
    pub async fn open(server: &Server) -> Self {
        let stream = within("a connection", TcpStream::connect(server.address())).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// One that has begun as HTTP/2 has it.
    pub async fn http2(server: &Server) -> Self {
        let mut connection = Self::open(server).await;
        assert!(connection.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await);
        connection
    }

    /// Sends what it can; answers whether the server took it all.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        within("the server to read", self.stream.write_all(bytes)).await.is_ok()
    }

    /// The next frame, or nothing when the server has closed the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a frame", async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let mut head = &head[..];
            let len = head.get_uint(3) as usize;
            let (kind, flags) = (head.get_u8(), head.get_u8());
            let mut payload = vec![0; len];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind, flags, payload })
        })
        .await
    }

    /// Whether everything sent so far has been read, which the answer to a ping shows. Takes what comes before.
    pub async fn is_alive(&mut self) -> bool {
        let ping = *b"jetway??";
        if !self.send(&frame(PING, 0, 0, &ping)).await {
            return false;
        }
        while let Some(frame) = self.next().await {
            if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == ping {
                return true;
            }
        }
        false
    }

    /// Reads until the server closes the connection; the error code it gave, if it gave one.
    pub async fn ended(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = Some((&frame.payload[4..8]).get_u32());
            }
        }
        code
    }
}
