//! A proxy to a server that a test can narrow, hold and break.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A proxy to a server. It lets so many bytes of the server through; all connections share them.
#[derive(Debug)]
pub struct Proxy {
    pub address: String,
    allowed: watch::Sender<usize>,
    held: watch::Sender<bool>,
    cuts: watch::Sender<()>,
}

impl Proxy {
    pub async fn to(server: String, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (allowed, held) = (watch::Sender::new(bytes), watch::Sender::new(false));
        let proxy = Self { address, allowed, held, cuts: watch::Sender::new(()) };
        let (allowed, held, cuts) = (proxy.allowed.clone(), proxy.held.clone(), proxy.cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is down hangs up.
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let (allowed, held, mut cut) = (allowed.clone(), held.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, server, &allowed, &held) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    /// Ends all connections, and lets everything through from now on.
    pub fn open(&self) {
        self.allowed.send_replace(usize::MAX);
        self.cuts.send_replace(());
    }

    /// Lets so many more bytes of the server through.
    pub fn allow(&self, bytes: usize) {
        self.allowed.send_replace(bytes);
    }

    /// Ends all connections; new ones may be made.
    pub fn break_off(&self) {
        self.cuts.send_replace(());
    }

    /// Lets nothing through in either direction, and closes nothing, until it is released.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    pub fn release(&self) {
        self.held.send_replace(false);
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    allowed: &watch::Sender<usize>,
    held: &watch::Sender<bool>,
) {
    let (mut from_server, mut to_server) = server.split();
    let (mut from_client, mut to_client) = client.split();
    let is_released = async || drop(held.subscribe().wait_for(|held| !held).await.unwrap());
    let back = async {
        let mut bytes = vec![0; 4096];
        while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
            let take = |left: &mut usize| match left.checked_sub(read) {
                Some(rest) => {
                    *left = rest;
                    true
                }
                None => false,
            };
            while !allowed.send_if_modified(take) {
                allowed.subscribe().wait_for(|left| *left >= read).await.unwrap();
            }
            is_released().await;
            if to_client.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    let forth = async {
        let mut bytes = vec![0; 4096];
        while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
            is_released().await;
            if to_server.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = back => {}
        () = forth => {}
    }
}
