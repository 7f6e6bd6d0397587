//! HTTP/2 as it is on the wire, for what no polite client does.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use support::within;

pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const ACK: u8 = 1;
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn is_ping(&self) -> bool {
        (self.kind, self.flags & ACK) == (PING, 0)
    }
}

/// A connection that has sent its preface and settings.
pub struct Wire<I> {
    io: I,
}

impl Wire<TcpStream> {
    pub async fn connect(address: &str) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Wire<I> {
    pub async fn over(io: I) -> Self {
        let mut wire = Self { io };
        wire.io.write_all(PREFACE).await.unwrap();
        wire.send(SETTINGS, 0, 0, &[]).await;
        wire
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.io.write_all(&frame).await.unwrap();
    }

    /// Opens a stream for a call of this method, without sending a message on it.
    pub async fn open(&mut self, stream: u32, path: &str) {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal field, not to be indexed.
            block.push(0);
            for text in [name, value] {
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        const END_HEADERS: u8 = 4;
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a frame", self.read()).await
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The next frame of this kind; others are passed over. `None` at the end of the connection.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(frame) if frame.kind != kind => {}
                other => return other,
            }
        }
    }

    /// Pings, and returns whether the server answered.
    pub async fn ping(&mut self) -> bool {
        self.send(PING, 0, 0, b"are you?").await;
        let answer = self.next_of(PING).await;
        answer.is_some_and(|frame| (frame.flags, &*frame.payload) == (ACK, b"are you?"))
    }

    /// Panics unless the server sends the client away for its pings.
    pub async fn is_sent_away(&mut self) {
        let goaway = self.next_of(GOAWAY).await.expect("a word of farewell");
        assert_eq!(goaway.payload[4..8], [0, 0, 0, 11], "ENHANCE_YOUR_CALM");
        assert_eq!(&goaway.payload[8..], b"too_many_pings");
        assert_eq!(self.next().await, None, "nothing follows");
    }
}
