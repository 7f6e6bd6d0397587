//! What is refused before any service gets to see it: in grpc-go's codes and words.

use std::convert::Infallible;

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::support::server::Server;
use crate::support::within;

const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const USER_ADD: &str = "/etcdserverpb.Auth/UserAdd";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A message of one key.
const MESSAGE: &[u8] = &[0, 0, 0, 0, 3, 0x0a, 1, b'a'];
/// One that is announced with three mebibytes, and does not come.
const TOO_LARGE: &[u8] = &[0, 0, 0x30, 0, 0];

/// HTTP status, code and text.
async fn send(method: Method, path: &str, headers: &[(&str, &str)], data: &[u8]) -> (u16, Code, String) {
    let server = Server::shared().await;
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", server.endpoint()))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    // In a frame even if it is empty: grpc-go never answers a call that ends with its headers.
    let frame = Frame::data(Bytes::copy_from_slice(data));
    let body = StreamBody::new(futures_util::stream::iter([Ok::<_, Infallible>(frame)]));
    let request = request.body(body).unwrap();
    within(path, async {
        // Not tonic's channel, which minds the time of a call itself.
        let stream = TokioIo::new(TcpStream::connect(server.address()).await.unwrap());
        let (mut connection, driver) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(driver);
        let (head, body) = connection.send_request(request).await.unwrap().into_parts();
        let http = head.status.as_u16();
        let status = match Status::from_header_map(&head.headers) {
            Some(status) => status,
            None => {
                let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
                Status::from_header_map(&trailers).expect("a call ends with a status")
            }
        };
        // Go's protobuf library puts one space or the other there, by build.
        (http, status.code(), status.message().replace('\u{a0}', " "))
    })
    .await
}

async fn refused(path: &str, headers: &[(&str, &str)], data: &[u8], code: Code, text: &str) {
    let answer = send(Method::POST, path, headers, data).await;
    assert_eq!(answer, (200, code, text.to_owned()), "{path} {headers:?} {data:?}");
}

/// LIM-2: the limit holds for every service, and before the message has come.
#[tokio::test]
async fn no_service_takes_a_message_above_the_limit() {
    let text = "grpc: received message larger than max (3145728 vs. 2097152)";
    for path in [
        RANGE,
        RANGE_STREAM,
        WATCH,
        KEEP_ALIVE,
        USER_ADD,
        HEALTH,
        "/etcdserverpb.Cluster/MemberList",
        "/etcdserverpb.Maintenance/Status",
        "/v3lockpb.Lock/Lock",
        "/v3electionpb.Election/Observe",
    ] {
        refused(path, &[], TOO_LARGE, Code::ResourceExhausted, text).await;
    }
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    let no_field = [0, 0, 0, 0, 1, 0xff];
    let wire = "proto: cannot parse invalid wire-format data";
    for (path, what) in [
        (RANGE, "error unmarshalling request"),
        (HEALTH, "error unmarshalling request"),
        (WATCH, "failed to unmarshal the received message"),
        (KEEP_ALIVE, "failed to unmarshal the received message"),
        (RANGE_STREAM, "failed to unmarshal the received message"),
    ] {
        refused(path, &[], &no_field, Code::Internal, &format!("grpc: {what}: {wire}")).await;
    }
    let no_text = [0, 0, 0, 0, 4, 0x0a, 2, 0xff, 0xfe];
    let text = "grpc: error unmarshalling request: string field contains invalid UTF-8";
    refused(USER_ADD, &[], &no_text, Code::Internal, text).await;
    // Cut off, and not there at all.
    refused(RANGE, &[], &[0, 0, 0, 0, 10, 0x0a], Code::Unknown, "unexpected EOF").await;
    refused(WATCH, &[], &[0, 0, 0, 0, 10, 0x0a], Code::Internal, "unexpected EOF").await;
    refused(RANGE, &[], &[], Code::Unknown, "EOF").await;
    let text = "cardinality violation: received no request message from non-client-streaming RPC";
    refused(RANGE_STREAM, &[], &[], Code::Internal, text).await;
    refused(KEEP_ALIVE, &[], &[], Code::Ok, "").await;
    for path in [RANGE, WATCH] {
        let text = "grpc: received unexpected payload format 2";
        refused(path, &[], &[2, 0, 0, 0, 0], Code::Internal, text).await;
    }
}

#[tokio::test]
async fn a_request_may_be_compressed_with_gzip() {
    let gzip = [("grpc-encoding", "gzip")];
    let compressed =
        [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3, 0xe3, 0x62, 0x4c, 4, 0, 0x4b, 0x3c, 0x78, 0xd1, 3, 0, 0, 0];
    let message = [&[1, 0, 0, 0, compressed.len() as u8][..], &compressed].concat();
    refused(RANGE, &gzip, &message, Code::Ok, "").await;
    // Compression is by the message.
    refused(RANGE, &gzip, MESSAGE, Code::Ok, "").await;
    let text = "grpc: failed to decompress the message: unexpected EOF";
    refused(RANGE, &gzip, &[1, 0, 0, 0, 1, 0x1f], Code::Internal, text).await;
    let text = "grpc: compressed flag set with identity or empty encoding";
    refused(RANGE, &[], &message, Code::Internal, text).await;
    for path in [RANGE, WATCH] {
        let text = "grpc: Decompressor is not installed for grpc-encoding \"snappy\"";
        refused(path, &[("grpc-encoding", "snappy")], MESSAGE, Code::Unimplemented, text).await;
    }
}

#[tokio::test]
async fn a_call_ends_with_the_time_that_its_client_gives_it() {
    for timeout in ["1n", "0S"] {
        let timeout = [("grpc-timeout", timeout)];
        refused(RANGE, &timeout, MESSAGE, Code::DeadlineExceeded, "context deadline exceeded").await;
    }
    refused(RANGE, &[("grpc-timeout", "99999999H")], MESSAGE, Code::Ok, "").await;
    for (timeout, reason) in [
        ("abc", "transport: timeout unit is not recognized: \"abc\""),
        ("1", "transport: timeout string is too short: \"1\""),
        ("123456789S", "transport: timeout string is too long: \"123456789S\""),
        ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
    ] {
        let answer = send(Method::POST, RANGE, &[("grpc-timeout", timeout)], MESSAGE).await;
        assert_eq!(answer, (400, Code::Internal, format!("malformed grpc-timeout: {reason}")));
    }
}

/// MD-5
#[tokio::test]
async fn a_call_is_a_post_to_a_method_that_there_is() {
    for method in [Method::GET, Method::PUT] {
        let text = format!("Received a HEADERS frame with :method \"{method}\" which should be POST");
        assert_eq!(send(method, RANGE, &[], MESSAGE).await, (405, Code::Internal, text));
    }
    for (path, text) in [
        ("/etcdserverpb.KV/X", "unknown method X for service etcdserverpb.KV"),
        ("/grpc.health.v1.Health/X", "unknown method X for service grpc.health.v1.Health"),
        ("/nope.Nope/X", "unknown service nope.Nope"),
        ("/nope", "malformed method name: \"/nope\""),
        // etcd has no reflection.
        (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "unknown service grpc.reflection.v1.ServerReflection",
        ),
    ] {
        refused(path, &[], MESSAGE, Code::Unimplemented, text).await;
    }
}

/// The one name that the health service knows is that of the whole server.
#[tokio::test]
async fn health_is_known_by_one_name() {
    let empty = [0, 0, 0, 0, 0];
    refused(HEALTH, &[], &empty, Code::Ok, "").await;
    refused(HEALTH, &[], MESSAGE, Code::NotFound, "unknown service").await;
    refused("/grpc.health.v1.Health/List", &[], &empty, Code::Ok, "").await;
}
