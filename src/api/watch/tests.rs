use super::*;
use crate::proto::etcdserverpb::WatchCancelRequest;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::mvccpb::Event;
use crate::watch::Response;
use crate::watch::tests::Store;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_prost::ProstCodec;

fn header() -> HeaderSource {
    HeaderSource { cluster_id: 7, member_id: 8, epoch: Arc::new(9.into()) }
}

const SETTINGS: WatchSettings =
    WatchSettings { progress_interval: Duration::from_millis(100), max_request_bytes: 1 << 20 };

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
async fn refusals_have_etcd_s_texts() {
    let served = serve().await;
    let mut call = served.open(false).await.expect("open");
    let range = |key: &'static str, range_end: &'static str, start_revision| WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision,
        ..WatchCreateRequest::default()
    };
    let cases = [
        (range("a", "", -1), "etcdserver: mvcc: required revision has been compacted"),
        (range("b", "a", 0), "mvcc: watcher range is empty"),
        // An invalid start is found first.
        (range("b", "b", -1), "etcdserver: mvcc: required revision has been compacted"),
    ];
    for (create, reason) in cases {
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
    // More than flow control and the queue of the stream hold.
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
