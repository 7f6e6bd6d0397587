//! Bursts of very small messages, each in a frame of its own, as the library of Go's clients sends them. None
//! of them may cost the client its connection.

use bytes::{Buf as _, BufMut as _};
use jetway::proto::etcdserverpb::watch_request::RequestUnion;
use jetway::proto::etcdserverpb::*;
use prost::Message as _;
use std::collections::HashMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::healthy_client::HealthyClient;
use crate::process::Memory;
use support::http2::*;
use support::server::Server;
use support::within;

const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const RANGE: &str = "/etcdserverpb.KV/Range";
const LARGEST_WINDOW: u32 = i32::MAX as u32;
const FIRST_WINDOW: i64 = 65535;
const SETTING_OF_WINDOWS: u16 = 4;

/// How much the client may send.
#[derive(Clone, Debug)]
struct Credit {
    /// On a new stream.
    stream: i64,
    connection: i64,
    /// Beyond that on a stream.
    updates: HashMap<u32, i64>,
}

/// The streams of a burst, and the messages on each.
struct Burst {
    path: &'static str,
    streams: Vec<Vec<Vec<u8>>>,
    /// The client closes its side behind the last message.
    half_closes: bool,
}

impl Burst {
    /// Sends all messages as fast as the server's windows allow; returns when each of them is answered.
    async fn send(self, server: &Server) {
        let io = within("a connection", TcpStream::connect(server.address())).await.unwrap();
        io.set_nodelay(true).unwrap();
        let (mut input, mut output) = io.into_split();
        let first = Credit { stream: FIRST_WINDOW, connection: FIRST_WINDOW, updates: HashMap::new() };
        let (credit, mut granted) = watch::channel(first);
        let expected = self.streams.iter().map(Vec::len).sum::<usize>();
        let (acknowledge, mut acknowledged) = watch::channel(0_usize);

        let sending = async move {
            let mut window = vec![];
            window.put_u16(SETTING_OF_WINDOWS);
            window.put_u32(LARGEST_WINDOW);
            let more = (LARGEST_WINDOW - FIRST_WINDOW as u32).to_be_bytes();
            output.write_all(PREFACE).await?;
            output.write_all(&frame(SETTINGS, 0, 0, &window)).await?;
            output.write_all(&frame(WINDOW_UPDATE, 0, 0, &more)).await?;
            acknowledged.wait_for(|settings| *settings > 0).await.expect("the reader lives");
            output.write_all(&frame(SETTINGS, ACK, 0, &[])).await?;
            let ids = (1_u32..).step_by(2);
            let mut rest: Vec<_> =
                ids.zip(self.streams).map(|(id, messages)| (id, 0_i64, messages.into_iter())).collect();
            let mut on_connection = 0;
            let mut frames = Vec::new();
            for (id, ..) in &rest {
                frames.extend(frame(HEADERS, END_HEADERS, *id, &call(self.path)));
            }
            // In turns, so that all streams are in the burst at the same time.
            while !rest.is_empty() {
                let mut next = Vec::new();
                for (id, sent, mut messages) in rest {
                    let Some(bytes) = messages.next() else { continue };
                    let message = message(0, bytes.len() as u32, &bytes);
                    let length = message.len() as i64;
                    let fits = |credit: &Credit| {
                        on_connection + length <= credit.connection
                            && sent + length <= credit.stream + credit.updates.get(&id).unwrap_or(&0)
                    };
                    if !fits(&granted.borrow()) {
                        output.write_all(&std::mem::take(&mut frames)).await?;
                        granted.wait_for(fits).await.expect("the reader lives");
                    }
                    let ends = self.half_closes && messages.len() == 0;
                    frames.extend(frame(DATA, if ends { END_STREAM } else { 0 }, id, &message));
                    if frames.len() > 1 << 16 {
                        output.write_all(&std::mem::take(&mut frames)).await?;
                    }
                    on_connection += length;
                    next.push((id, sent + length, messages));
                }
                rest = next;
            }
            output.write_all(&frames).await?;
            std::io::Result::Ok(output)
        };
        let receiving = async {
            let mut buffers: HashMap<u32, Vec<u8>> = HashMap::new();
            let mut answered = 0;
            while answered < expected {
                let frame = within("an answer", next_frame(&mut input)).await.expect("the connection lasts");
                let mut payload = &frame.payload[..];
                match frame.kind {
                    SETTINGS if frame.flags & ACK == 0 => {
                        while payload.remaining() >= 6 {
                            let (name, value) = (payload.get_u16(), payload.get_u32());
                            if name == SETTING_OF_WINDOWS {
                                credit.send_modify(|credit| credit.stream = i64::from(value));
                            }
                        }
                        acknowledge.send_modify(|settings| *settings += 1);
                    }
                    WINDOW_UPDATE => credit.send_modify(|credit| {
                        let more = i64::from(payload.get_u32());
                        match frame.stream {
                            0 => credit.connection += more,
                            id => *credit.updates.entry(id).or_default() += more,
                        }
                    }),
                    DATA => {
                        let buffer = buffers.entry(frame.stream).or_default();
                        buffer.extend_from_slice(payload);
                        while buffer.len() >= 5 {
                            let end = 5 + (&buffer[1..5]).get_u32() as usize;
                            if buffer.len() < end {
                                break;
                            }
                            buffer.drain(..end);
                            answered += 1;
                        }
                    }
                    GOAWAY | RST_STREAM => panic!(
                        "after {answered} of {expected} answers: {frame:?} {}",
                        String::from_utf8_lossy(&frame.payload)
                    ),
                    _ => {}
                }
            }
        };
        let (sent, ()) = tokio::join!(sending, receiving);
        drop(sent.expect("the server takes all of it"));
    }
}

async fn next_frame(input: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    input.read_exact(&mut head).await.ok()?;
    let mut head = &head[..];
    let length = head.get_uint(3) as usize;
    let (kind, flags, stream) = (head.get_u8(), head.get_u8(), head.get_u32());
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind, flags, stream, payload })
}

/// The renewals of a client with so many leases.
fn renewals(count: i64) -> Vec<Vec<u8>> {
    // As large an id as clients have.
    (0..count).map(|id| LeaseKeepAliveRequest { id: i64::MAX - id }.encode_to_vec()).collect()
}

async fn survives(burst: Burst) {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    burst.send(&server).await;
    memory.stayed_below("a burst", 400);
    healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_thousand_renewals_keep_their_connection() {
    survives(Burst { path: KEEP_ALIVE, streams: vec![renewals(30_000)], half_closes: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_on_several_streams_keep_their_connection() {
    survives(Burst { path: KEEP_ALIVE, streams: vec![renewals(15_000); 4], half_closes: false }).await;
}

/// An empty message is the smallest one: a frame of five bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_messages_keep_their_connection() {
    let messages = vec![Vec::new(); 100_000];
    survives(Burst { path: KEEP_ALIVE, streams: vec![messages], half_closes: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_watches_keep_their_connection() {
    let create = |at: usize| {
        let create = WatchCreateRequest { key: format!("/watched/{at}").into(), ..Default::default() };
        WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }.encode_to_vec()
    };
    let messages = (0..100_000).map(create).collect();
    survives(Burst { path: WATCH, streams: vec![messages], half_closes: false }).await;
}

/// Each call is a stream of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_calls_at_once_keep_their_connection() {
    let range = |at: usize| {
        vec![RangeRequest { key: format!("/k/{at}").into(), ..Default::default() }.encode_to_vec()]
    };
    survives(Burst { path: RANGE, streams: (0..20_000).map(range).collect(), half_closes: true }).await;
}
