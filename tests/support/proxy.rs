//! A proxy to a server that a test can narrow, slow down, hold and break.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Pieces of a connection that are on their way at once.
const PIECES: usize = 256;

/// A proxy to a server. It lets so many bytes of the server through; all connections share them.
#[derive(Debug)]
pub struct Proxy {
    pub address: String,
    controls: Controls,
}

#[derive(Clone, Debug)]
struct Controls {
    allowed: watch::Sender<usize>,
    to_server: watch::Sender<Way>,
    from_server: watch::Sender<Way>,
    cuts: watch::Sender<()>,
}

/// The state of one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    is_held: bool,
    /// Each piece comes so much later; of two connections by different times.
    delay: Duration,
}

impl Proxy {
    /// A proxy on a port of its own.
    pub async fn to(server: String, bytes: usize) -> Self {
        let controls = Controls {
            allowed: watch::Sender::new(bytes),
            to_server: watch::Sender::default(),
            from_server: watch::Sender::default(),
            cuts: watch::Sender::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let proxy = Self { address, controls: controls.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is down hangs up.
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let (controls, mut cut) = (controls.clone(), controls.cuts.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, server, &controls) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    /// Ends all connections, and lets everything through from now on.
    pub fn open(&self) {
        self.controls.allowed.send_replace(usize::MAX);
        self.break_off();
    }

    /// Lets so many more bytes of the server through.
    pub fn allow(&self, bytes: usize) {
        self.controls.allowed.send_replace(bytes);
    }

    /// Ends all connections; new ones may be made.
    pub fn break_off(&self) {
        self.controls.cuts.send_replace(());
    }

    /// Lets nothing through in either direction, and closes nothing, until it is released.
    pub fn hold(&self) {
        for way in [&self.controls.to_server, &self.controls.from_server] {
            way.send_modify(|way| way.is_held = true);
        }
    }

    /// Lets nothing through to the server, and closes nothing, until it is released.
    pub fn hold_to_server(&self) {
        self.controls.to_server.send_modify(|way| way.is_held = true);
    }

    /// Lets nothing of the server through, and closes nothing, until it is released.
    pub fn hold_from_server(&self) {
        self.controls.from_server.send_modify(|way| way.is_held = true);
    }

    /// Delays all bytes, and one connection more than another one.
    pub fn delay(&self, delay: Duration) {
        for way in [&self.controls.to_server, &self.controls.from_server] {
            way.send_modify(|way| way.delay = delay);
        }
    }

    /// Ends delays and holds.
    pub fn release(&self) {
        for way in [&self.controls.to_server, &self.controls.from_server] {
            way.send_replace(Way::default());
        }
    }
}

async fn carry(client: TcpStream, server: TcpStream, controls: &Controls) {
    let (from_server, to_server) = server.into_split();
    let (from_client, to_client) = client.into_split();
    // Connections overtake each other.
    let slowness = rand::random_range(0.0..1.0);
    tokio::select! {
        () = pass(from_server, to_client, &controls.from_server, Some(&controls.allowed), slowness) => {}
        () = pass(from_client, to_server, &controls.to_server, None, slowness) => {}
    }
}

/// Carries one direction of a connection to its end.
async fn pass(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    way: &watch::Sender<Way>,
    allowed: Option<&watch::Sender<usize>>,
    slowness: f64,
) {
    let (pieces, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        loop {
            let mut bytes = vec![0; 4096];
            let Ok(read @ 1..) = from.read(&mut bytes).await else { return };
            bytes.truncate(read);
            let at = Instant::now() + way.borrow().delay.mul_f64(slowness);
            if pieces.send((at, bytes)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        let mut held = way.subscribe();
        while let Some((at, bytes)) = arriving.recv().await {
            if let Some(allowed) = allowed {
                let take = |left: &mut usize| match left.checked_sub(bytes.len()) {
                    Some(rest) => {
                        *left = rest;
                        true
                    }
                    None => false,
                };
                while !allowed.send_if_modified(take) {
                    allowed.subscribe().wait_for(|left| *left >= bytes.len()).await.unwrap();
                }
            }
            tokio::time::sleep_until(at).await;
            drop(held.wait_for(|way| !way.is_held).await.unwrap());
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    // Bytes that were read before the end are still written.
    tokio::join!(read, write);
}
