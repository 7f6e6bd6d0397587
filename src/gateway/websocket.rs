//! The gateway over a WebSocket: incoming messages are the request's body, and the response's lines are
//! outgoing messages.
//!
//! Browsers cannot set headers there, so a token comes as a subprotocol (`Bearer, <token>`) or as the cookie
//! `token`. The request ends when the connection does, and the connection when the response does.

use super::Gateway;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;

/// Time for a client to close its end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Headers of the handshake that are the request's.
const FORWARDED: [header::HeaderName; 2] = [header::ORIGIN, header::REFERER];

/// Whether a request asks for a WebSocket.
pub(super) fn is_wanted(request: &Request<Body>) -> bool {
    let has = |name: header::HeaderName, token: &str| {
        let values = request.headers().get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|element| element.trim().eq_ignore_ascii_case(token)))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// Takes the handshake, and serves the connection until one end closes it.
pub(super) async fn serve(gateway: Gateway, request: Request<Body>) -> Response {
    let (mut head, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut head, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let mut inner = Request::new(Body::empty());
    *inner.method_mut() = Method::POST;
    *inner.uri_mut() = head.uri.clone();
    *inner.headers_mut() = headers(&head.headers);
    let upgrade = upgrade.protocols(["Bearer"]).max_message_size(gateway.max_json_bytes);
    upgrade.on_upgrade(async move |socket| relay(gateway, inner, socket).await)
}

fn headers(handshake: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in FORWARDED {
        if let Some(value) = handshake.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(token) = token(handshake)
        && let Ok(authorization) = HeaderValue::try_from(format!("Bearer {token}"))
    {
        headers.insert(header::AUTHORIZATION, authorization);
    }
    headers
}

fn token(handshake: &HeaderMap) -> Option<&str> {
    let cookies = handshake.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut cookies = cookies.flat_map(|cookies| cookies.split(';'));
    let cookie = cookies.find_map(|cookie| cookie.trim().strip_prefix("token="));
    // Some browsers leave the space out.
    let protocol = || {
        let protocols = handshake.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
        protocols.split_once("Bearer,").map(|(_, token)| token.trim_matches(' '))
    };
    cookie.or_else(protocol)
}

async fn relay(gateway: Gateway, request: Request<Body>, socket: WebSocket) {
    let (mut outgoing, mut incoming) = socket.split();
    let (texts, body) = mpsc::channel::<Bytes>(1);
    let body = stream::unfold(body, async |mut body| {
        body.recv().await.map(|text| (Ok::<_, Infallible>(text), body))
    });
    let request = request.map(|_| Body::from_stream(body));
    // Ends with the connection only, since a call goes on when its requests have ended.
    let reading = async {
        while let Some(Ok(message)) = incoming.next().await {
            let mut line = match message {
                Message::Text(text) => BytesMut::from(text.as_bytes()),
                Message::Binary(bytes) => bytes.into(),
                // Pings are answered by the protocol's implementation.
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Close(_) => break,
            };
            line.extend_from_slice(b"\n");
            // A call that takes no more requests may still have responses.
            texts.send(line.freeze()).await.ok();
        }
    };
    let responding = async {
        let mut response = gateway.transcode(request).await.into_body();
        let mut buffer = BytesMut::new();
        while let Some(Ok(frame)) = response.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end + 1);
                if !send(&mut outgoing, &line[..end]).await {
                    return;
                }
            }
        }
        if !buffer.is_empty() {
            send(&mut outgoing, &buffer).await;
        }
    };
    tokio::select! {
        () = responding => {}
        () = reading => {}
    }
    // A close cannot reach a client that has gone. A client that still sends is read for a moment: a
    // connection that is closed on unread data takes the response with it.
    outgoing.close().await.ok();
    let rest = async { while let Some(Ok(_)) = incoming.next().await {} };
    tokio::time::timeout(CLOSE_TIMEOUT, rest).await.ok();
}

async fn send(outgoing: &mut (impl SinkExt<Message> + Unpin), line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line).into_owned();
    outgoing.send(Message::Text(text.into())).await.is_ok()
}
