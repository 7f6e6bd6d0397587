//! The sender of a request, by its metadata and its connection.

use crate::auth::{Caller, Credentials};
use crate::engine::Engine;
use crate::error::EtcdError;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request};

/// Reads credentials. The token may have one of two names. A certificate does not count for a request from
/// the JSON gateway, since it is the gateway's.
pub(crate) fn credentials(metadata: &MetadataMap, extensions: &Extensions) -> Credentials {
    let token = metadata.get("token").or_else(|| metadata.get("authorization")).map(|value| {
        let text = value.to_str().unwrap_or_default();
        text.strip_prefix("Bearer ").unwrap_or(text).to_owned()
    });
    let is_gateway = metadata.contains_key("grpcgateway-accept");
    let certificate = extensions.get().filter(|_| !is_gateway).cloned();
    Credentials { token, certificate }
}

/// The sender of a request; nobody while auth is off, which costs nothing.
///
/// # Errors
/// [`EtcdError::InvalidAuthToken`].
pub(crate) async fn identify(
    engine: &Engine,
    metadata: &MetadataMap,
    extensions: &Extensions,
) -> Result<Caller, EtcdError> {
    if !engine.auth().is_enabled() {
        return Ok(Caller::default());
    }
    engine.identify(&credentials(metadata, extensions)).await
}

/// As [`identify`], for a whole request.
///
/// # Errors
/// As [`identify`].
pub(crate) async fn caller<T>(engine: &Engine, request: &Request<T>) -> Result<Caller, EtcdError> {
    identify(engine, request.metadata(), request.extensions()).await
}

/// Refuses a sender without the role `root`, while auth is on.
///
/// # Errors
/// As [`caller`]; [`EtcdError::UserEmpty`], [`EtcdError::PermissionDenied`].
pub(crate) async fn require_admin<T>(engine: &Engine, request: &Request<T>) -> Result<(), EtcdError> {
    let caller = caller(engine, request).await?;
    engine.auth().check_admin(&caller)
}

/// Refuses a request without an identity, while auth is on.
///
/// # Errors
/// As [`caller`]; [`EtcdError::UserEmpty`].
pub(crate) async fn require_identity<T>(engine: &Engine, request: &Request<T>) -> Result<(), EtcdError> {
    let caller = caller(engine, request).await?;
    engine.auth().check_identified(&caller)
}
