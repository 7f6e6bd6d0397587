//! Frames of HTTP/2 and messages of gRPC written by hand, since no library sends wrong ones.

use bytes::{Buf as _, BufMut as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::server::Server;
use crate::within;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Error codes of RST_STREAM and GOAWAY.
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// A flag of PING and SETTINGS.
pub const ACK: u8 = 1;

/// A frame with any payload.
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

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection on which a test sends any bytes.
#[derive(Debug)]
pub struct Connection<I = TcpStream> {
    pub io: I,
}

impl Connection {
    /// A TCP connection on which nothing has been sent.
    pub async fn open(server: &Server) -> Self {
        let io = within("a connection", TcpStream::connect(server.address())).await.unwrap();
        io.set_nodelay(true).unwrap();
        Self { io }
    }

    /// A TCP connection that has sent its preface and settings.
    pub async fn http2(server: &Server) -> Self {
        Self::over(Self::open(server).await.io).await
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Connection<I> {
    /// Sends the preface and settings over `io`.
    pub async fn over(io: I) -> Self {
        let mut connection = Self { io };
        assert!(connection.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await);
        connection
    }

    /// Sends as much as possible; returns whether the server took it all.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        within("the server to read", self.io.write_all(bytes)).await.is_ok()
    }

    /// Opens a stream for a call of this method, without a message on it.
    pub async fn open_stream(&mut self, stream: u32, path: &str) -> bool {
        self.send(&frame(HEADERS, END_HEADERS, stream, &call(path))).await
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a frame", async {
            let mut head = [0; 9];
            self.io.read_exact(&mut head).await.ok()?;
            let mut head = &head[..];
            let len = head.get_uint(3) as usize;
            let (kind, flags, stream) = (head.get_u8(), head.get_u8(), head.get_u32());
            let mut payload = vec![0; len];
            self.io.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind, flags, stream, payload })
        })
        .await
    }

    /// The next frame of this kind, past all others; `None` at the end of the connection.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(frame) if frame.kind != kind => {}
                other => return other,
            }
        }
    }

    /// Pings; returns whether the server answered, which shows that it has read everything before.
    pub async fn ping(&mut self) -> bool {
        let payload = *b"jetway??";
        if !self.send(&frame(PING, 0, 0, &payload)).await {
            return false;
        }
        while let Some(frame) = self.next_of(PING).await {
            if frame.flags & ACK != 0 && frame.payload == payload {
                return true;
            }
        }
        false
    }

    /// Reads until the server closes the connection; returns the code of its GOAWAY, if it sent one.
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
