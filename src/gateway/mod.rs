//! etcd's JSON gateway: `/v3/*` over plain HTTP, and over WebSockets.
//!
//! A request's path names a method, and its JSON becomes that method's protobuf message. The services that
//! gRPC clients call take it, in this process, and their responses become JSON again. No method has code
//! here: types come from the descriptors, and the only table is the one of paths.
//!
//! ```text
//! body -> Values -> protobuf -> frames -> services -> frames -> protobuf -> JSON
//!         `Values` and `to_protobuf`      `call`                `from_protobuf`, `result_line`
//! ```
//!
//! A method with one response returns it once the request's body has ended. A method with a stream of
//! responses returns a line for each as it comes, while requests are still read: a watch begins before the
//! client has sent all of its requests. A client that goes away drops the call.

mod call;
mod json;
mod metadata;
mod routes;
mod websocket;

#[cfg(any(fuzzing, test))]
pub(crate) use json::fuzz;

use axum::body::Body;
use axum::response::Response;
use call::Responses;
use http::{HeaderValue, Method, Request, StatusCode, header};
use json::{ReadError, Values};
use routes::Route;
use std::convert::Infallible;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;

/// JSON needs more bytes than protobuf for the same message: four for three in base64, more with space
/// between.
const JSON_GROWTH: usize = 4;

/// Prefix of the gateway's paths.
pub(crate) const PREFIX: &str = "/v3/";
/// The older name of [`PREFIX`].
pub(crate) const OLD_PREFIX: &str = "/v3beta/";

/// The gRPC services, as calls from a connection reach them.
pub(crate) type Services = BoxCloneSyncService<Request<Body>, http::Response<Body>, Infallible>;

/// Serves requests for paths that begin with [`PREFIX`].
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    services: Services,
    max_json_bytes: usize,
}

impl Gateway {
    /// A gateway to gRPC services that take messages of at most `max_message_bytes`.
    pub(crate) fn new(services: Services, max_message_bytes: usize) -> Gateway {
        Gateway { services, max_json_bytes: max_message_bytes.saturating_mul(JSON_GROWTH) }
    }

    /// The response to a request, which may ask for a WebSocket.
    pub(crate) async fn respond(&self, request: Request<Body>) -> Response {
        if websocket::is_wanted(&request) {
            websocket::serve(self.clone(), request).await
        } else {
            self.transcode(request).await
        }
    }

    async fn transcode(&self, request: Request<Body>) -> Response {
        let request = overridden(request);
        let Some(route) = routes::find(request.uri().path()) else {
            return error_response(&Status::not_found("Not Found"));
        };
        if request.method() != Method::POST {
            return error_response(&Status::unimplemented("Method Not Allowed"));
        }
        let response = if route.streams_responses {
            self.stream(route, request).await
        } else {
            self.once(route, request).await
        };
        response.unwrap_or_else(|status| error_response(&status))
    }

    /// One request, one response.
    async fn once(&self, route: &'static Route, request: Request<Body>) -> Result<Response, Status> {
        let mut responses = self.call_with_one(route, request).await?;
        let message = responses.next().await?.unwrap_or_default();
        // The status comes last.
        responses.next().await?;
        Ok(success(Body::from(json::from_protobuf(&route.response, message)?)))
    }

    async fn stream(&self, route: &'static Route, request: Request<Body>) -> Result<Response, Status> {
        let mut responses = if route.streams_requests {
            self.call_with_many(route, request).await?
        } else {
            self.call_with_one(route, request).await?
        };
        let first = match next_line(route, &mut responses).await {
            Ok(Some(first)) => first,
            Ok(None) => return Ok(Response::new(in_chunks(String::new()))),
            Err(status) => {
                let mut response = error_response(&status);
                *response.body_mut() = in_chunks(json::error_line(&status));
                return Ok(response);
            }
        };
        let lines = async_stream::stream! {
            yield Ok::<_, Infallible>(first);
            loop {
                match next_line(route, &mut responses).await {
                    Ok(Some(line)) => yield Ok(line),
                    Ok(None) => break,
                    Err(status) => {
                        yield Ok(json::error_line(&status));
                        break;
                    }
                }
            }
        };
        Ok(success(Body::from_stream(lines)))
    }

    /// Calls with the first value of the body, once all of the body has come.
    async fn call_with_one(&self, route: &Route, request: Request<Body>) -> Result<Responses, Status> {
        let metadata = metadata::of_call(request.headers())?;
        let mut values = Values::new(request.into_body(), self.max_json_bytes);
        let message = match values.next().await? {
            Some(value) => json::to_protobuf(&route.request, &value)?,
            None => Vec::new(),
        };
        values.drain().await?;
        let body = Body::from(call::framed(&message));
        call::start(self.services.clone(), &route.method, metadata, body).await
    }

    /// Calls with every value of the body as it comes. A value that cannot be read ends the requests, as does
    /// the end of the body; the responses to those before it still come. A client that has gone ends the
    /// call.
    async fn call_with_many(
        &self,
        route: &'static Route,
        request: Request<Body>,
    ) -> Result<Responses, Status> {
        let metadata = metadata::of_call(request.headers())?;
        let mut values = Values::new(request.into_body(), self.max_json_bytes);
        let messages = async_stream::stream! {
            loop {
                let message = match values.next().await {
                    Ok(Some(value)) => json::to_protobuf(&route.request, &value),
                    Ok(None) => break,
                    Err(ReadError::Refused(status)) => Err(status),
                    Err(ReadError::Gone(error)) => {
                        yield Err(error);
                        break;
                    }
                };
                match message {
                    Ok(message) => yield Ok(call::framed(&message)),
                    Err(status) => {
                        tracing::debug!(%status, "a stream's request cannot be read");
                        break;
                    }
                }
            }
        };
        call::start(self.services.clone(), &route.method, metadata, Body::from_stream(messages)).await
    }
}

/// A form that names another method in place of its own has that method, and nothing is left of its body.
fn overridden(request: Request<Body>) -> Request<Body> {
    let headers = request.headers();
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes() == b"application/x-www-form-urlencoded");
    let method = headers.get("x-http-method-override").filter(|method| !method.is_empty());
    let Some(method) = method.filter(|_| is_form && request.method() == Method::POST) else {
        return request;
    };
    let method = Method::from_bytes(&method.as_bytes().to_ascii_uppercase()).unwrap_or_default();
    let (mut head, _) = request.into_parts();
    head.method = method;
    Request::from_parts(head, Body::empty())
}

/// The line for the next response; none at the end of the stream.
async fn next_line(route: &Route, responses: &mut Responses) -> Result<Option<String>, Status> {
    let message = responses.next().await?;
    message.map(|message| json::result_line(&route.response, message)).transpose()
}

/// A body without a length, as streams have it.
fn in_chunks(text: String) -> Body {
    Body::from_stream(futures_util::stream::iter([Ok::<_, Infallible>(text)]))
}

fn success(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("grpc-metadata-content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// The response to a call that failed before its first message.
fn error_response(status: &Status) -> Response {
    let mut response = Response::new(Body::from(json::error(status)));
    *response.status_mut() = http_status(status.code());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.code() == Code::Unauthenticated
        && let Ok(challenge) = HeaderValue::try_from(status.message())
    {
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // No standard has a name for it: the client has gone.
        Code::Cancelled => StatusCode::from_u16(499).expect("a legal status"),
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
