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
    settings: WatchSettings,
    shutdown: CancellationToken,
    has_leader: Option<watch::Receiver<bool>>,
    /// Knows who may read what. Without it, as in tests, everybody may read everything.
    engine: Option<Engine>,
}

/// What can be chosen about watches.
#[derive(Clone, Copy, Debug)]
pub struct WatchSettings {
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
        settings: WatchSettings,
        shutdown: CancellationToken,
    ) -> WatchService {
        let progress_interval = settings.progress_interval.max(SHORTEST_PROGRESS_INTERVAL);
        let settings = WatchSettings { progress_interval, ..settings };
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

/// The responses to requests without a connection, for fuzzing: each as its encoding and the number of its events.
#[cfg(any(fuzzing, test))]
pub(crate) fn encoded_responses(
    hub: WatchHub,
    reader: Reader,
    requests: impl Stream<Item = Result<WatchRequest, Status>> + Send + 'static,
) -> impl Stream<Item = Result<(Vec<u8>, usize), Status>> + Send {
    let incoming = requests
        .then(|request| read(request, None))
        .filter_map(|request| std::future::ready(request.transpose()));
    let stream = WatchStream::new(hub, reader, incoming, Duration::from_mins(1), std::future::pending());
    let header = HeaderSource { cluster_id: 1, member_id: 2, epoch: Arc::default() };
    let responses = Responses { stream, pieces: VecDeque::new(), header, most_bytes: 200 };
    responses.map(|frame| {
        frame.map(|frame| {
            let mut wire = Vec::new();
            frame.encode(&mut wire);
            assert_eq!(wire.len(), frame.encoded_len());
            (wire, frame.events.len())
        })
    })
}

#[cfg(test)]
mod tests;
