//! A gRPC client of etcd's API, for commands that ask a server: etcd or jetway, with TLS and users.
//!
//! The crate etcd-client does as much, but its build needs a protoc on the machine.

use crate::error::EtcdError;
use crate::proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use futures_util::Stream;
use http::uri::PathAndQuery;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// The time without an answer after which a server is asked whether it is there; etcd allows a ping in five
/// seconds, and Go's client sends none before this.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long it may take to answer that, as with etcdctl.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(6);

/// A server and the way to it.
#[derive(Clone)]
pub(crate) struct ClientSettings {
    /// `http://` or `https://`, a host and a port. Without a scheme, TLS is used if a file of it is named.
    pub(crate) endpoint: String,
    /// A user and a password.
    pub(crate) user: Option<(String, String)>,
    /// The authorities of the server's certificate (PEM); else those of the machine.
    pub(crate) ca_file: Option<PathBuf>,
    /// A certificate of the client and its key (PEM).
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// How long a connection may take to be made.
    pub(crate) dial_timeout: Duration,
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSettings").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A server that cannot be asked, or that refuses a call.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    #[error("{0} is no endpoint: give http://host:port or https://host:port")]
    Endpoint(String),
    #[error("{path}: {source}", path = .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{endpoint} cannot be reached: {reason}")]
    Connect { endpoint: String, reason: String },
    /// In the form that etcd's own clients print.
    #[error("rpc error: code = {code:?} desc = {message}", code = .0.code(), message = .0.message())]
    Refused(Status),
}

/// A connection, and the identity of its calls.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn connect(settings: &ClientSettings) -> Result<Client, ClientError> {
        let has_tls = settings.ca_file.is_some() || settings.certificate.is_some();
        let url = match settings.endpoint.split_once("://") {
            Some(("http" | "https", _)) => settings.endpoint.clone(),
            Some(_) => return Err(ClientError::Endpoint(settings.endpoint.clone())),
            None if has_tls => format!("https://{}", settings.endpoint),
            None => format!("http://{}", settings.endpoint),
        };
        let refused = || ClientError::Endpoint(settings.endpoint.clone());
        let is_secure = url.starts_with("https:");
        let mut endpoint = Endpoint::from_shared(url).map_err(|_| refused())?;
        if endpoint.uri().host().is_none_or(str::is_empty) || endpoint.uri().port().is_none() {
            return Err(refused());
        }
        let unreachable = |error: &dyn std::error::Error| ClientError::Connect {
            endpoint: settings.endpoint.clone(),
            reason: with_causes(error),
        };
        if is_secure {
            endpoint = endpoint.tls_config(tls(settings)?).map_err(|error| unreachable(&error))?;
        }
        endpoint = endpoint
            .connect_timeout(settings.dial_timeout)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| unreachable(&error))?;
        let mut client = Client { channel, token: None };
        if let Some((name, password)) = &settings.user {
            let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
            let answer = client.unary("/etcdserverpb.Auth/Authenticate", request).await;
            match answer {
                Ok(AuthenticateResponse { token, .. }) => client.token = MetadataValue::try_from(token).ok(),
                // As etcd's own clients: a name does no harm where none is needed.
                Err(error) if is_without_auth(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(client)
    }

    /// A call with one request and one answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub(crate) async fn unary<Q, R>(&self, path: &'static str, request: Q) -> Result<R, ClientError>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<Q, R>::default());
        let call = self.call(async |mut grpc| grpc.unary(self.request(request), path, codec).await);
        call.await.map(tonic::Response::into_inner)
    }

    /// A call with one request and many answers.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub(crate) async fn server_stream<Q, R>(
        &self,
        path: &'static str,
        request: Q,
    ) -> Result<Streaming<R>, ClientError>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        self.server_stream_with(path, request, |_| {}).await.map(tonic::Response::into_inner)
    }

    /// The same with more metadata. The response has that of the server.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub(crate) async fn server_stream_with<Q, R>(
        &self,
        path: &'static str,
        request: Q,
        metadata: impl FnOnce(&mut MetadataMap),
    ) -> Result<tonic::Response<Streaming<R>>, ClientError>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<Q, R>::default());
        let mut request = self.request(request);
        metadata(request.metadata_mut());
        self.call(async |mut grpc| grpc.server_streaming(request, path, codec).await).await
    }

    /// A call with many requests and many answers.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub(crate) async fn streams<Q, R>(
        &self,
        path: &'static str,
        requests: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<R>, ClientError>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<Q, R>::default());
        let call = self.call(async |mut grpc| grpc.streaming(self.request(requests), path, codec).await);
        call.await.map(tonic::Response::into_inner)
    }

    /// Makes a call once the connection is ready for it.
    async fn call<T>(
        &self,
        call: impl AsyncFnOnce(Grpc<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<tonic::Response<T>, ClientError> {
        // Answers may be as large as the store.
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let ready = grpc.ready().await;
        ready.map_err(|error| ClientError::Refused(Status::unavailable(with_causes(&error))))?;
        call(grpc).await.map_err(ClientError::Refused)
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

fn is_without_auth(error: &ClientError) -> bool {
    let text = EtcdError::AuthNotEnabled.to_string();
    matches!(error, ClientError::Refused(status) if status.message() == text)
}

fn tls(settings: &ClientSettings) -> Result<ClientTlsConfig, ClientError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| ClientError::File { path: path.clone(), source })
    };
    let mut tls = match &settings.ca_file {
        Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(file)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let Some((certificate, key)) = &settings.certificate {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

/// An error and its causes. tonic's errors name no reason without theirs.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
