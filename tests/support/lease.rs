//! One LeaseKeepAlive call, driven message by message.

use jetway::proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use crate::client::Client;
use crate::within;

#[derive(Debug)]
pub struct KeepAlive {
    requests: Option<mpsc::UnboundedSender<LeaseKeepAliveRequest>>,
    responses: mpsc::UnboundedReceiver<Result<LeaseKeepAliveResponse, Status>>,
    call: JoinHandle<()>,
}

impl KeepAlive {
    pub fn open(client: &Client) -> Self {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let (incoming, responses) = mpsc::unbounded_channel();
        let client = client.clone();
        let call = tokio::spawn(async move {
            let outgoing = UnboundedReceiverStream::new(outgoing);
            let mut stream = match client.bidi_stream("/etcdserverpb.Lease/LeaseKeepAlive", outgoing).await {
                Ok(stream) => stream,
                Err(status) => return drop(incoming.send(Err(status))),
            };
            while let Some(message) = stream.message().await.transpose() {
                let ended = message.is_err();
                if incoming.send(message).is_err() || ended {
                    return;
                }
            }
        });
        Self { requests: Some(requests), responses, call }
    }

    pub fn send(&self, id: i64) {
        let requests = self.requests.as_ref().expect("the request side is open");
        requests.send(LeaseKeepAliveRequest { id }).expect("the call runs");
    }

    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next answer or the status that ended the call; `None` after an end with OK.
    pub async fn message(&mut self) -> Option<Result<LeaseKeepAliveResponse, Status>> {
        within("a keep-alive answer", self.responses.recv()).await
    }

    /// Renews one lease and returns the answer.
    pub async fn renew(&mut self, id: i64) -> LeaseKeepAliveResponse {
        self.send(id);
        self.message().await.expect("the call goes on").expect("the call goes on")
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.call.abort();
    }
}
