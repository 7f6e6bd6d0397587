//! The reasons for which a connection to nats-server cannot be made or ends.

use crate::log::login::LoginError;
use crate::log::rights::Denied;
use crate::log::tls::TlsSetupError;
use crate::version::TooOld;
use std::io;
use thiserror::Error;

/// Data that no nats-server sends, or an endpoint that names none.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    /// The endpoint is empty.
    #[error("the endpoint names no server")]
    NoServer,
    /// The address of a server is no URL with a host.
    #[error("the address {address}: {reason}")]
    Address {
        /// The address.
        address: String,
        /// The reason.
        reason: AddressError,
    },
    /// The server is too old.
    #[error("the server does not know headers")]
    NoHeaders,
    /// The first operation is another one than INFO.
    #[error("the server does not introduce itself")]
    NoInfo,
    /// The JSON of INFO cannot be read.
    #[error("{0}")]
    Info(String),
    /// A message is larger than any that nats-server allows.
    #[error("a message without end")]
    Endless,
    /// A line is not an operation.
    #[error("not an operation: {0:?}")]
    Operation(String),
    /// A line of a message lacks the sizes.
    #[error("no sizes in {0:?}")]
    NoSizes(String),
    /// The sizes of a message are impossible.
    #[error("a message of {bytes} bytes with {header_bytes} of headers")]
    Sizes {
        /// Of the message.
        bytes: usize,
        /// Of its headers.
        header_bytes: usize,
    },
    /// Headers or a subject are not UTF-8.
    #[error("{0}")]
    Utf8(#[from] std::str::Utf8Error),
    /// The reply subject of a delivered message has another form.
    #[error("a message without delivery data: {0:?}")]
    Delivery(String),
    /// The JSON of an acknowledgement cannot be read.
    #[error("an acknowledgement that cannot be read: {0}")]
    Acknowledgement(String),
}

/// The reason for which an address cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// It is no URL.
    #[error(transparent)]
    Url(#[from] url::ParseError),
    /// It has no host.
    #[error("no host")]
    NoHost,
}

/// A connection could not be made, or ended.
#[derive(Debug, Error)]
pub enum WireError {
    /// The network.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server denies a use of a subject.
    #[error("the NATS user may not {0}")]
    Denied(Denied),
    /// The server reports another error.
    #[error("NATS reports: {0}")]
    Server(String),
    /// The server sends data that no nats-server sends.
    #[error("unexpected data from NATS: {0}")]
    Protocol(#[from] ProtocolError),
    /// TLS cannot be set up.
    #[error("TLS to NATS: {0}")]
    Tls(#[from] TlsSetupError),
    /// Credentials cannot be read.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The server is too old.
    #[error("NATS at {server} is {reason}")]
    TooOld {
        /// The server.
        server: String,
        /// Its version, and the reason.
        reason: TooOld,
    },
    /// No answer in time.
    #[error("no answer from NATS in time")]
    TimedOut,
}
