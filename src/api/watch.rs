//! The Watch service.
//!
//! It is written by hand where tonic would generate it, because its responses are not prost messages: they carry
//! events that are encoded already, once for all watchers, and only their frame is made here.

use super::call::{leader_lost, wants_leader};
use super::header::HeaderSource;
use super::identity::credentials;
use super::status::cancel_reason;
use crate::auth::Credentials;
use crate::core::Reader;
use crate::engine::Engine;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::types::{KeyRange, Revision};
use crate::watch::{Body, Create, Request, Response, WatchHub, WatchStream};
use bytes::{BufMut, Bytes};
use futures_util::{Stream, StreamExt};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::codec::{Codec, CompressionEncoding, EncodeBuf, Encoder};
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Status, Streaming};
use tonic_prost::ProstDecoder;

/// What a message may be larger than a request, for its frame (LIM-2).
const GRPC_OVERHEAD: usize = 512 << 10;
/// The field of the events in a `WatchResponse`. The last one, so that a response is its other fields, then these.
const EVENTS_FIELD: u32 = 11;
/// The shortest interval of progress notifications.
const SHORTEST_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The Watch service of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WatchService {
    shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
struct Shared {
    hub: WatchHub,
    reader: Reader,
    header: HeaderSource,
    settings: Settings,
    shutdown: CancellationToken,
    has_leader: Option<watch::Receiver<bool>>,
    /// Knows who may read what. Without it, as in tests, everybody may read everything.
    engine: Option<Engine>,
}

/// What can be chosen about watches.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time between progress notifications of a watcher that wants them; at least 100 ms.
    pub progress_interval: Duration,
    /// Largest request; a response longer than this plus 512 KiB is split where the client allows it.
    pub max_request_bytes: usize,
}

impl WatchService {
    /// A service on a hub and the store it follows. `shutdown` ends every call with Unavailable.
    pub fn new(
        hub: WatchHub,
        reader: Reader,
        header: HeaderSource,
        settings: Settings,
        shutdown: CancellationToken,
    ) -> WatchService {
        let progress_interval = settings.progress_interval.max(SHORTEST_PROGRESS_INTERVAL);
        let settings = Settings { progress_interval, ..settings };
        WatchService {
            shared: Arc::new(Shared {
                hub,
                reader,
                header,
                settings,
                shutdown,
                has_leader: None,
                engine: None,
            }),
        }
    }

    /// Ends calls that ask for a leader (WAT-44) when `has_leader` has been false for three seconds.
    #[must_use]
    pub fn with_leader(self, has_leader: watch::Receiver<bool>) -> WatchService {
        let shared = Shared { has_leader: Some(has_leader), ..Arc::unwrap_or_clone(self.shared) };
        WatchService { shared: Arc::new(shared) }
    }

    /// Checks who may read what by the users of `engine`.
    #[must_use]
    pub fn with_users(self, engine: Engine) -> WatchService {
        let shared = Shared { engine: Some(engine), ..Arc::unwrap_or_clone(self.shared) };
        WatchService { shared: Arc::new(shared) }
    }
}

impl Shared {
    fn open(&self, request: tonic::Request<Streaming<WatchRequest>>) -> Result<Responses, EtcdError> {
        let has_leader = self.has_leader.clone().filter(|_| wants_leader(request.metadata().as_ref()));
        if has_leader.as_ref().is_some_and(|has_leader| !*has_leader.borrow()) {
            return Err(EtcdError::NoLeader);
        }
        // A token of its own, so that calls do not meet at one lock whenever they look at it.
        let shutdown = self.shutdown.child_token();
        let ending = async move {
            tokio::select! {
                () = shutdown.cancelled() => EtcdError::Stopped,
                () = leader_lost(has_leader) => EtcdError::NoLeader,
            }
        };
        let users = self.engine.clone().map(|engine| Users {
            engine,
            credentials: credentials(request.metadata(), request.extensions()),
        });
        let users = users.map(Arc::new);
        let requests = request
            .into_inner()
            .then(move |request| read(request, users.clone()))
            .filter_map(|request| std::future::ready(request.transpose()));
        let stream = WatchStream::new(
            self.hub.clone(),
            self.reader.clone(),
            requests,
            self.settings.progress_interval,
            ending,
        );
        Ok(Responses {
            stream,
            pieces: VecDeque::new(),
            header: self.header.clone(),
            most_bytes: self.settings.max_request_bytes + GRPC_OVERHEAD,
        })
    }
}

/// Those who may be the caller of a watch, and what it has said about itself.
struct Users {
    engine: Engine,
    credentials: Credentials,
}

/// Reads a request; nothing where it asks for nothing (WAT-1).
async fn read(
    request: Result<WatchRequest, Status>,
    users: Option<Arc<Users>>,
) -> Result<Option<Request>, EtcdError> {
    let request = request.map_err(|status| match status.code() {
        tonic::Code::Cancelled => EtcdError::WatchCanceled,
        _ => EtcdError::Unknown(status.message().to_owned()),
    })?;
    Ok(match request.request_union {
        Some(RequestUnion::CreateRequest(create)) => {
            Some(read_create(create, users).await.map_or_else(Request::Refuse, Request::Create))
        }
        Some(RequestUnion::CancelRequest(cancel)) => Some(Request::Cancel(cancel.watch_id)),
        Some(RequestUnion::ProgressRequest(_)) => Some(Request::Progress),
        None => None,
    })
}

async fn read_create(create: WatchCreateRequest, users: Option<Arc<Users>>) -> Result<Create, EtcdError> {
    if create.start_revision < 0 {
        return Err(EtcdError::Compacted);
    }
    // An empty key stands for the lowest one there can be (WAT-2).
    let key = if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key };
    if let Some(users) = users {
        let Users { engine, credentials } = users.as_ref();
        let caller = engine.identify(credentials).await?;
        engine.auth().access(&caller).read(&key, &create.range_end)?;
    }
    let range = KeyRange::from_wire(key, &create.range_end);
    let filters = |kind: FilterType| create.filters.contains(&kind.into());
    Ok(Create {
        no_put: filters(FilterType::Noput),
        no_delete: filters(FilterType::Nodelete),
        range,
        start: Revision(create.start_revision),
        watch_id: create.watch_id,
        prev_kv: create.prev_kv,
        progress_notify: create.progress_notify,
        fragment: create.fragment,
    })
}

/// The responses of a call in their wire form.
#[derive(Debug)]
struct Responses {
    stream: WatchStream,
    /// The rest of a response that is sent in pieces; nothing may come between them.
    pieces: VecDeque<Frame>,
    header: HeaderSource,
    most_bytes: usize,
}

impl Stream for Responses {
    type Item = Result<Frame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(piece)));
        }
        let response = match ready!(self.stream.poll_next_unpin(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(response)) => response,
        };
        let may_fragment = matches!(response.body, Body::Events { may_fragment: true, .. });
        let frame = Frame::new(response, &self.header);
        if may_fragment && frame.events.len() > 1 && frame.encoded_len() >= self.most_bytes {
            self.pieces = frame.split(self.most_bytes);
            return Poll::Ready(self.pieces.pop_front().map(Ok));
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// A `WatchResponse` whose events are encoded already.
#[derive(Debug)]
struct Frame {
    /// Everything but the events.
    head: WatchResponse,
    events: SmallVec<[Bytes; 1]>,
}

impl Frame {
    fn new(response: Response, header: &HeaderSource) -> Frame {
        let mut head = WatchResponse {
            header: Some(header.at(response.revision)),
            watch_id: response.watch_id,
            ..WatchResponse::default()
        };
        let mut events = SmallVec::new();
        match response.body {
            Body::Created => head.created = true,
            Body::Refused(error) => {
                head.created = true;
                head.canceled = true;
                head.cancel_reason = cancel_reason(&error);
            }
            Body::Canceled => head.canceled = true,
            Body::Compacted(floor) => {
                head.canceled = true;
                head.compact_revision = floor.0;
            }
            Body::Progress => {}
            Body::Events { events: encoded, .. } => events = encoded,
        }
        Frame { head, events }
    }

    fn event_len(event: &Bytes) -> usize {
        key_len(EVENTS_FIELD) + encoded_len_varint(event.len() as u64) + event.len()
    }

    fn encoded_len(&self) -> usize {
        self.head.encoded_len() + self.events.iter().map(Frame::event_len).sum::<usize>()
    }

    /// Cuts a long response into pieces below `most_bytes`, or of one event, all but the last marked as fragments.
    fn split(self, most_bytes: usize) -> VecDeque<Frame> {
        let head = WatchResponse { fragment: true, ..self.head };
        let head_len = head.encoded_len();
        let mut pieces: VecDeque<Frame> = VecDeque::new();
        let mut len = 0;
        for event in self.events {
            let event_len = Frame::event_len(&event);
            match pieces.back_mut() {
                Some(piece) if len + event_len < most_bytes => piece.events.push(event),
                _ => {
                    pieces.push_back(Frame { head: head.clone(), events: SmallVec::from_iter([event]) });
                    len = head_len;
                }
            }
            len += event_len;
        }
        if let Some(last) = pieces.back_mut() {
            last.head.fragment = false;
        }
        pieces
    }

    fn encode(&self, buf: &mut impl BufMut) {
        self.head.encode_raw(buf);
        for event in &self.events {
            encode_key(EVENTS_FIELD, WireType::LengthDelimited, buf);
            encode_varint(event.len() as u64, buf);
            buf.put_slice(event);
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Frame;
    type Decode = WatchRequest;
    type Encoder = WatchCodec;
    type Decoder = ProstDecoder<WatchRequest>;

    fn encoder(&mut self) -> WatchCodec {
        WatchCodec
    }

    fn decoder(&mut self) -> ProstDecoder<WatchRequest> {
        ProstDecoder::default()
    }
}

impl Encoder for WatchCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(frame.encoded_len());
        frame.encode(buf);
        Ok(())
    }
}

impl NamedService for WatchService {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl<B> Service<http::Request<B>> for WatchService
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != "/etcdserverpb.Watch/Watch" {
            let status = Status::unimplemented(format!("unknown method {}", request.uri().path()));
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let most_bytes = shared.settings.max_request_bytes + GRPC_OVERHEAD;
            let mut grpc = Grpc::new(WatchCodec)
                .max_decoding_message_size(most_bytes)
                .accept_compressed(CompressionEncoding::Gzip);
            Ok(grpc.streaming(Method(shared), request).await)
        })
    }
}

struct Method(Arc<Shared>);

impl StreamingService<WatchRequest> for Method {
    type Response = Frame;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<tonic::Response<Responses>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<WatchRequest>>) -> Self::Future {
        std::future::ready(self.0.open(request).map(tonic::Response::new).map_err(Status::from))
    }
}

/// For fuzzing: messages of a call among writes to a store; whatever they are, each response must be one.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    use crate::core::{Change, ChangeKind, Writer};
    use crate::fuzzing::Choices;
    use crate::types::{LeaseId, LogIndex, Sequence};
    use futures_util::FutureExt;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut choices = Choices::new(data);
        let (mut writer, reader) = Writer::new();
        let published = Arc::new(crate::primitive::Notify::new());
        let hub = WatchHub::spawn(reader.clone(), Arc::clone(&published));
        let (requests, incoming) = tokio::sync::mpsc::unbounded_channel();
        let incoming = tokio_stream::wrappers::UnboundedReceiverStream::new(incoming)
            .then(|request| read(request, None))
            .filter_map(|request| std::future::ready(request.transpose()));
        let stream = WatchStream::new(hub, reader, incoming, Duration::from_mins(1), std::future::pending());
        let header = HeaderSource { cluster_id: 1, member_id: 2, epoch: Arc::default() };
        let mut responses = Responses { stream, pieces: VecDeque::new(), header, most_bytes: 200 };
        while !choices.is_empty() {
            match choices.byte() % 8 {
                0..=2 => {
                    let request = WatchRequest::decode(choices.bytes());
                    let request = request.map_err(|error| Status::internal(error.to_string()));
                    // The call may be over already.
                    drop(requests.send(request));
                }
                3 => {
                    let request =
                        [b"\x0a\x00".as_slice(), b"\x0a\x05\x0a\x01a\x18\x01", b"\x12\x00", b"\x1a\x00"];
                    let request = WatchRequest::decode(request[usize::from(choices.byte() % 4)]);
                    drop(requests.send(Ok(request.expect("a request"))));
                }
                4 => {
                    let floor = Revision(choices.number());
                    if floor.0 >= 0 && floor <= writer.state().revision {
                        writer.compact(floor);
                        writer.publish();
                    }
                }
                _ => {
                    let revision = writer.state().revision.next();
                    let sequence = Sequence(revision.0 as u64);
                    let changes = (1..=u32::from(choices.byte() % 3) + 1).map(|place| {
                        let key = Bytes::copy_from_slice(&[b'a' + choices.byte() % 3]);
                        let value = Bytes::copy_from_slice(choices.bytes());
                        let (create_revision, lease) = (None, LeaseId::NONE);
                        let put = ChangeKind::Put { value, create_revision, version: 1, lease };
                        let kind = if choices.byte().is_multiple_of(4) { ChangeKind::Delete } else { put };
                        Change { key, sequence, place, kind }.version(revision)
                    });
                    let versions: Vec<_> = changes.collect();
                    writer.apply(revision, LogIndex(sequence.0), versions, |_, _| ());
                    writer.publish();
                    published.notify_one();
                }
            }
            tokio::task::yield_now().await;
            while let Some(Some(Ok(frame))) = responses.next().now_or_never() {
                let mut wire = Vec::new();
                frame.encode(&mut wire);
                assert_eq!(wire.len(), frame.encoded_len());
                let response = WatchResponse::decode(wire.as_slice()).expect("it is a WatchResponse");
                assert_eq!(response.events.len(), frame.events.len());
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::WatchCancelRequest;
    use crate::proto::mvccpb::Event;
    use crate::watch::tests::Store;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
    use tonic::codegen::http::uri::PathAndQuery;
    use tonic::transport::{Channel, Endpoint, Server};
    use tonic_prost::ProstCodec;

    fn header() -> HeaderSource {
        HeaderSource { cluster_id: 7, member_id: 8, epoch: Arc::new(9.into()) }
    }

    const SETTINGS: Settings =
        Settings { progress_interval: Duration::from_millis(100), max_request_bytes: 1 << 20 };

    struct Served {
        store: Store,
        shutdown: CancellationToken,
        has_leader: watch::Sender<bool>,
        channel: Channel,
    }

    struct Call {
        requests: mpsc::UnboundedSender<WatchRequest>,
        responses: Streaming<WatchResponse>,
    }

    async fn serve() -> Served {
        let store = Store::spawn();
        let (shutdown, has_leader) = (CancellationToken::new(), watch::Sender::new(true));
        let service =
            WatchService::new(store.hub.clone(), store.reader.clone(), header(), SETTINGS, shutdown.clone())
                .with_leader(has_leader.subscribe());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URL");
        Served { store, shutdown, has_leader, channel: endpoint.connect().await.expect("it listens") }
    }

    impl Served {
        async fn open(&self, wants_leader: bool) -> Result<Call, Status> {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone());
            grpc.ready().await.expect("the channel is connected");
            let (requests, outgoing) = mpsc::unbounded_channel();
            let mut request = tonic::Request::new(UnboundedReceiverStream::new(outgoing));
            if wants_leader {
                request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
            }
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            let responses = grpc.streaming(request, path, codec).await?.into_inner();
            Ok(Call { requests, responses })
        }

        fn put(&mut self, key: &str, value: &str) -> i64 {
            let revision = self.store.put(key, value);
            self.store.hub.wake();
            revision
        }
    }

    impl Call {
        fn send(&self, request: RequestUnion) {
            let request = WatchRequest { request_union: Some(request) };
            self.requests.send(request).expect("the call is open");
        }

        fn create(&self, key: &'static str, watch_id: i64) {
            let create = WatchCreateRequest { key: key.into(), watch_id, ..WatchCreateRequest::default() };
            self.send(RequestUnion::CreateRequest(create));
        }

        async fn next(&mut self) -> Result<WatchResponse, Status> {
            let response = tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await;
            response.expect("something comes").map(|response| response.expect("a watch never ends well"))
        }

        async fn expect_created(&mut self) {
            let created = self.next().await.expect("created");
            assert!(created.created && !created.canceled, "{created:?}");
        }
    }

    async fn until(condition: impl Fn() -> bool) {
        let polling = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), polling).await.expect("it becomes true");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn events_arrive_after_half_close_until_the_server_stops() {
        let mut served = serve().await;
        let mut call = served.open(false).await.expect("open");
        call.create("a", 0);
        call.expect_created().await;
        call.requests = mpsc::unbounded_channel().0;
        let revision = served.put("a", "1");
        let response = call.next().await.expect("an event");
        assert_eq!(response.header, Some(header().at(Revision(revision))));
        assert_eq!(response.events[0].kv.as_ref().map(|kv| kv.value.as_ref()), Some(b"1".as_slice()));
        served.shutdown.cancel();
        let end = call.next().await.expect_err("the end");
        assert_eq!((end.code(), end.message()), (tonic::Code::Unavailable, "etcdserver: server stopped"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn refusals_are_told_in_the_words_of_etcd() {
        let served = serve().await;
        let mut call = served.open(false).await.expect("open");
        let range = |key: &'static str, range_end: &'static str, start_revision| WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision,
            ..WatchCreateRequest::default()
        };
        let rows = [
            (range("a", "", -1), "etcdserver: mvcc: required revision has been compacted"),
            (range("b", "a", 0), "mvcc: watcher range is empty"),
            // A start that cannot be is found first.
            (range("b", "b", -1), "etcdserver: mvcc: required revision has been compacted"),
        ];
        for (create, reason) in rows {
            call.send(RequestUnion::CreateRequest(create));
            let expect = WatchResponse {
                header: Some(header().at(Revision(1))),
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: reason.into(),
                ..WatchResponse::default()
            };
            assert_eq!(call.next().await.expect("an answer"), expect);
        }
        // Neither an empty key nor one to the end of everything is an empty range.
        for (key, end) in [("", ""), ("", "\0"), ("z", "\0")] {
            call.send(RequestUnion::CreateRequest(range(key, end, 0)));
            call.expect_created().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_that_asks_for_a_leader_ends_without_one() {
        let served = serve().await;
        let (mut asks, mut does_not) =
            (served.open(true).await.expect("open"), served.open(false).await.expect("open"));
        does_not.create("a", 0);
        does_not.expect_created().await;
        served.has_leader.send_replace(false);
        let no_leader = (tonic::Code::Unavailable, "etcdserver: no leader");
        let end = asks.next().await.expect_err("the end");
        assert_eq!((end.code(), end.message()), no_leader);
        let refused = served.open(true).await.err().expect("refused");
        assert_eq!((refused.code(), refused.message()), no_leader);
        does_not.create("a", 5);
        does_not.expect_created().await;
        served.has_leader.send_replace(true);
        served.open(true).await.expect("open again");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_does_not_read_can_cancel_and_go() {
        let mut served = serve().await;
        let (mut slow, mut quick) =
            (served.open(false).await.expect("open"), served.open(false).await.expect("open"));
        for (call, watch_id) in [(&mut slow, 3), (&mut quick, 4)] {
            call.create("a", watch_id);
            call.expect_created().await;
        }
        // More than flow control and the queue of the stream take.
        let value = "x".repeat(64 << 10);
        for _ in 0..40 {
            let revision = served.put("a", &value);
            assert_eq!(quick.next().await.expect("an event").header, Some(header().at(Revision(revision))));
        }
        let metrics = Arc::clone(served.store.hub.metrics());
        assert_eq!(metrics.watchers.get(), 2);
        assert!(metrics.pending.get() > 0, "the slow one has not been given everything");
        slow.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 3 }));
        until(|| metrics.watchers.get() == 1).await;
        drop(slow);
        until(|| metrics.streams.get() == 1 && metrics.pending.get() == 0).await;
        drop(quick);
        until(|| metrics.streams.get() == 0 && metrics.watchers.get() == 0).await;
    }

    fn frame(sizes: &[usize]) -> Frame {
        let events = sizes.iter().map(|size| {
            let kv = crate::proto::mvccpb::KeyValue { value: vec![0; *size].into(), ..Default::default() };
            Event { kv: Some(kv), ..Event::default() }.encode_to_vec().into()
        });
        let body = Body::Events { events: events.collect(), may_fragment: true };
        Frame::new(Response { revision: Revision(5), watch_id: 3, body }, &header())
    }

    fn decoded(frame: &Frame) -> WatchResponse {
        let mut wire = Vec::new();
        frame.encode(&mut wire);
        assert_eq!(wire.len(), frame.encoded_len());
        WatchResponse::decode(wire.as_slice()).expect("it is a WatchResponse")
    }

    #[test]
    fn pieces_stay_below_the_limit_and_make_up_the_whole() {
        let sizes = [10, 300, 300, 2000, 10, 10, 900, 50, 60, 940];
        let whole = decoded(&frame(&sizes));
        for most_bytes in 300..2000 {
            let pieces: Vec<_> = frame(&sizes).split(most_bytes).iter().map(decoded).collect();
            let (last, others) = pieces.split_last().expect("there is a piece");
            assert!(!last.fragment && others.iter().all(|piece| piece.fragment));
            for (piece, next) in pieces.iter().zip(pieces.iter().skip(1)) {
                assert!(piece.events.len() == 1 || piece.encoded_len() < most_bytes);
                let mut longer = piece.clone();
                longer.events.push(next.events[0].clone());
                assert!(longer.encoded_len() >= most_bytes, "a piece was cut too early");
            }
            let events: Vec<_> = pieces.iter().flat_map(|piece| piece.events.clone()).collect();
            assert_eq!(events, whole.events);
            assert!(pieces.iter().all(|piece| piece.header == whole.header && piece.watch_id == 3));
        }
    }
}
