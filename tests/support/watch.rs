//! One Watch call, driven message by message.

use jetway::proto::etcdserverpb::watch_request::RequestUnion;
use jetway::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use jetway::proto::mvccpb::{Event, KeyValue, event::EventType};
use tonic::Status;

use crate::call::Call;
use crate::client::{Client, revision};
use crate::keys::{b, prefix_end, prefix_start};
use crate::within;

/// A watch stream. Dropping it cancels the call.
#[derive(Debug)]
pub struct WatchStream(Call<WatchRequest, WatchResponse>);

impl WatchStream {
    pub fn open(client: &Client) -> Self {
        Self(Call::open(client, "/etcdserverpb.Watch/Watch"))
    }

    pub fn send(&self, request: impl Into<Option<RequestUnion>>) {
        self.0.send(WatchRequest { request_union: request.into() });
    }

    /// Sends a create request without waiting for its answer.
    pub fn request(&self, request: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(request));
    }

    /// Creates a watcher and returns the answer, which must be the next message.
    pub async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.request(request);
        let answer = self.next().await;
        assert!(answer.created, "expected a created answer, got {answer:?}");
        answer
    }

    /// Creates a watcher that must succeed and returns its id.
    pub async fn watch(&mut self, request: WatchCreateRequest) -> i64 {
        let answer = self.create(request).await;
        assert!(!answer.canceled, "the watch was refused: {answer:?}");
        answer.watch_id
    }

    pub fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    pub fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    /// Ends the request side only.
    pub fn half_close(&mut self) {
        self.0.half_close();
    }

    /// The next message or the status that ended the call; `None` after an end with OK.
    pub async fn message(&mut self) -> Option<Result<WatchResponse, Status>> {
        self.0.message().await
    }

    /// The next message of a call that must still run.
    pub async fn next(&mut self) -> WatchResponse {
        self.message().await.expect("the watch goes on").expect("the watch goes on")
    }

    /// A message that has already arrived.
    pub fn arrived(&mut self) -> Option<WatchResponse> {
        Some(self.0.arrived()?.expect("the watch goes on"))
    }

    /// The next message that is no progress answer.
    pub async fn next_but_progress(&mut self) -> WatchResponse {
        loop {
            let message = self.next().await;
            if !is_progress(&message) {
                return message;
            }
        }
    }

    /// Events until `count` have come, over all watchers of the stream, whatever their batching.
    pub async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let message = self.next_but_progress().await;
            assert!(!message.events.is_empty(), "expected events, got {message:?}");
            events.extend(message.events);
        }
        assert_eq!(events.len(), count, "more events than expected: {events:?}");
        events
    }

    /// Asks for progress until the stream is synced and answers. Panics if anything else comes first.
    pub async fn progress(&mut self) -> i64 {
        let (answer, before, _) = self.progress_and_before().await;
        assert!(before.is_empty(), "expected progress only, got {before:?}");
        revision(&answer.header)
    }

    /// As [`Self::progress`], and what came before the answer, and how many more answers may come yet.
    ///
    /// Asking again is part of the protocol: a request that meets an unsynced watcher gets no answer. A
    /// server that is merely slow answers both.
    pub async fn progress_and_before(&mut self) -> (WatchResponse, Vec<WatchResponse>, usize) {
        let mut before = Vec::new();
        let mut asked = 0;
        let again = std::time::Duration::from_millis(400);
        let answer = within("a progress answer", async {
            loop {
                self.ask_progress();
                asked += 1;
                while let Ok(message) = tokio::time::timeout(again, self.0.message()).await {
                    let message = message.expect("the watch goes on").expect("the watch goes on");
                    if is_progress(&message) && message.watch_id == -1 {
                        return message;
                    }
                    before.push(message);
                }
            }
        });
        let answer = answer.await;
        (answer, before, asked - 1)
    }
}

/// A watch of one key from now on.
pub fn watch_key(key: impl AsRef<[u8]>) -> WatchCreateRequest {
    WatchCreateRequest { key: b(key), ..Default::default() }
}

/// A watch of all keys under `prefix` from now on.
pub fn watch_all(prefix: impl AsRef<[u8]>) -> WatchCreateRequest {
    WatchCreateRequest { key: prefix_start(&prefix), range_end: prefix_end(prefix), ..Default::default() }
}

/// Whether clients take `message` for a progress answer.
pub fn is_progress(message: &WatchResponse) -> bool {
    message.events.is_empty()
        && !message.created
        && !message.canceled
        && message.compact_revision == 0
        && message.header.as_ref().is_some_and(|header| header.revision != 0)
}

/// Type, key and revision of an event in one comparable value.
pub fn outline(event: &Event) -> (EventType, String, i64) {
    let kv = pair(event);
    (event.r#type(), String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision)
}

pub fn pair(event: &Event) -> &KeyValue {
    event.kv.as_ref().expect("an event has a pair")
}
