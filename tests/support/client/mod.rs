//! A client over bare protobuf messages: it can send what a polite client library refuses to, and shows
//! answers and errors as they are on the wire.

mod calls;
mod messages;

pub use messages::*;

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Extensions, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::{TIMEOUT, within, within_time};

/// Anything that a call can answer.
pub type Answer<T> = Result<T, Status>;

#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    metadata: MetadataMap,
    /// The longest that one of its calls may take.
    pub patience: Duration,
}

impl Client {
    pub async fn connect(endpoint: &str) -> Self {
        let endpoint = Endpoint::new(endpoint.to_owned()).unwrap();
        let channel = within("a connection", endpoint.connect()).await.unwrap();
        Self { channel, metadata: MetadataMap::new(), patience: TIMEOUT }
    }

    /// A client over a channel that somebody has set up.
    pub fn over(channel: Channel) -> Self {
        Self { channel, metadata: MetadataMap::new(), patience: TIMEOUT }
    }

    /// A client that connects with its first call, and again when the connection breaks.
    pub fn lazy(endpoint: &str) -> Self {
        let channel = Endpoint::new(endpoint.to_owned()).unwrap().connect_lazy();
        Self { channel, metadata: MetadataMap::new(), patience: TIMEOUT }
    }

    /// The same client, whose calls may take so long.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A client that sends this with each call.
    pub fn with_metadata(mut self, name: &'static str, value: &'static str) -> Self {
        self.metadata.insert(name, value.parse().unwrap());
        self
    }

    /// Sends this token, or none, with each call from now on.
    pub fn set_token(&mut self, token: Option<&str>) {
        match token {
            Some(token) => drop(self.metadata.insert("token", token.parse().unwrap())),
            None => drop(self.metadata.remove("token")),
        }
    }

    /// The token that it sends.
    pub fn token(&self) -> Option<String> {
        Some(self.metadata.get("token")?.to_str().expect("a token is text").to_owned())
    }

    /// Whether it sends a token.
    pub fn has_token(&self) -> bool {
        self.metadata.contains_key("token")
    }

    /// The same client with a token, in place of the one it had.
    pub fn with_token(&self, token: &str) -> Self {
        let mut client = self.clone();
        client.metadata.insert("token", token.parse().unwrap());
        client
    }

    /// The same client of another server.
    pub fn at(&self, endpoint: &str) -> Self {
        Self { metadata: self.metadata.clone(), patience: self.patience, ..Self::lazy(endpoint) }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), Extensions::default(), message)
    }

    /// One call of `/package.Service/Method`.
    pub async fn unary<Q, R>(&self, path: &'static str, message: Q) -> Answer<R>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        self.unary_with_metadata(path, message).await.map(tonic::Response::into_inner)
    }

    pub async fn unary_with_metadata<Q, R>(
        &self,
        path: &'static str,
        message: Q,
    ) -> Answer<tonic::Response<R>>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let call = async {
            let mut grpc = self.grpc().await?;
            let codec = ProstCodec::<Q, R>::default();
            grpc.unary(self.request(message), PathAndQuery::from_static(path), codec).await
        };
        within_time(self.patience, path, call).await
    }

    /// One call of any method, with any bytes for a message.
    pub async fn raw(&self, path: &str, body: Bytes) -> Answer<Bytes> {
        let path = PathAndQuery::try_from(path).unwrap();
        let call = async { self.grpc().await?.unary(self.request(body), path.clone(), Plain).await };
        within(path.as_str(), call).await.map(tonic::Response::into_inner)
    }

    /// As [`Self::raw`], for the first message of a call that answers with a stream. The call ends with that.
    pub async fn raw_first(&self, path: &str, body: Bytes) -> Answer<Option<Bytes>> {
        let path = PathAndQuery::try_from(path).unwrap();
        let call = async {
            let call = self.grpc().await?.server_streaming(self.request(body), path.clone(), Plain).await;
            call?.into_inner().message().await
        };
        within(path.as_str(), call).await
    }

    /// One call that answers with a stream.
    pub async fn server_stream<Q, R>(&self, path: &'static str, message: Q) -> Answer<Streaming<R>>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let call = async {
            let mut grpc = self.grpc().await?;
            let codec = ProstCodec::<Q, R>::default();
            grpc.server_streaming(self.request(message), PathAndQuery::from_static(path), codec).await
        };
        within(path, call).await.map(tonic::Response::into_inner)
    }

    /// A call with streams both ways. It returns when the server has sent its headers, which may be with its
    /// first message only, so it must not be awaited before something is sent.
    pub async fn bidi_stream<Q, R>(
        &self,
        path: &'static str,
        messages: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Answer<Streaming<R>>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc().await?;
        let codec = ProstCodec::<Q, R>::default();
        grpc.streaming(self.request(messages), PathAndQuery::from_static(path), codec)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn grpc(&self) -> Answer<tonic::client::Grpc<Channel>> {
        // Answers may be as large as the store.
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(format!("no connection: {error}")))?;
        Ok(grpc)
    }
}

/// Messages as the bytes that they are.
#[derive(Clone, Copy, Debug)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Whether a call may end so while its server, or the way to it, fails.
pub fn is_of_an_outage(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => true,
        // The server has closed the connection in order, before the client could send the request.
        Code::Internal => status.message().starts_with("h2 protocol error"),
        _ => false,
    }
}

/// Panics unless the call was refused with exactly this status.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Answer<T>, code: Code, text: &str) {
    let status = answer.expect_err("the call must be refused");
    assert_eq!((status.code(), status.message()), (code, text));
}
