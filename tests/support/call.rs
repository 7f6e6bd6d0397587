//! A call with streams both ways, driven message by message.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use crate::client::Client;
use crate::within_time;

/// The call. Dropping it cancels it.
#[derive(Debug)]
pub struct Call<Q, R> {
    requests: Option<mpsc::UnboundedSender<Q>>,
    responses: mpsc::UnboundedReceiver<Result<R, Status>>,
    call: JoinHandle<()>,
    /// The longest wait for a message.
    patience: Duration,
}

impl<Q, R> Call<Q, R>
where
    Q: prost::Message + 'static,
    R: prost::Message + Default + 'static,
{
    pub fn open(client: &Client, path: &'static str) -> Self {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let (incoming, responses) = mpsc::unbounded_channel();
        let (client, patience) = (client.clone(), client.patience);
        // etcd sends no headers before its first message, so the call begins beside the requests.
        let call = tokio::spawn(async move {
            let outgoing = UnboundedReceiverStream::new(outgoing);
            let mut stream = match client.bidi_stream(path, outgoing).await {
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
        Self { requests: Some(requests), responses, call, patience }
    }

    pub fn send(&self, request: Q) {
        assert!(
            self.requests.as_ref().expect("the request side is open").send(request).is_ok(),
            "the call runs"
        );
    }

    /// Ends the request side only.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next message or the status that ended the call; `None` after an end with OK.
    pub async fn message(&mut self) -> Option<Result<R, Status>> {
        within_time(self.patience, "a message of a call", self.responses.recv()).await
    }

    /// A message that has already arrived.
    pub fn arrived(&mut self) -> Option<Result<R, Status>> {
        self.responses.try_recv().ok()
    }
}

impl<Q, R> Drop for Call<Q, R> {
    fn drop(&mut self) {
        self.call.abort();
    }
}
