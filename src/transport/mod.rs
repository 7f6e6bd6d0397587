//! Everything between the sockets and the services: listeners, TLS, connections, HTTP/1 and HTTP/2, and the
//! layer around every gRPC call.
//!
//! ```text
//! listener -> tls -> protocol -> cork, keepalive -> hyper -> dispatch -> grpc -> services
//!                                                                   `-> http -> gateway, probes
//! ```
//!
//! Texts, codes and limits are those of grpc-go and of Go's HTTP server, on which etcd stands.

mod connection;
mod cork;
mod dispatch;
mod grpc;
mod http;
mod keepalive;
mod limits;
mod listener;
mod protocol;
mod services;
mod socket;
mod tls;

pub(crate) use connection::Http2Settings;
pub(crate) use dispatch::{Dispatcher, Endpoints, Purpose, Stage};
pub(crate) use grpc::CallLayer;
pub(crate) use http::{Access, HttpRoutes, Probes, probe_routes};
pub(crate) use limits::connections as connection_limit;
pub(crate) use listener::Listener;
pub(crate) use services::{GrpcServices, ServiceSet, Services};
pub(crate) use tls::Tls;
pub(crate) use tls::{PeerCertificateError, issue_peer_certificate};

pub(crate) use listener::ListenError;
pub(crate) use tls::TlsError;
