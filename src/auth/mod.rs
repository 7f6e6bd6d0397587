//! Users, roles and permissions.
//!
//! ```text
//! log -> applier -> Auth: AuthStore (users and roles, one value) + each user's merged permissions
//!                            |
//! metadata, certificate -> Caller (user and auth revision) -> Access (the user's rights now)
//! ```
//!
//! Users and roles are one record of the log, so that they and their revision are the same on every instance
//! and after every restart. Each simple token is a record, which the writer ends. The auth revision at which
//! a token was issued decides whether it is valid, so that a change of a password deletes no token.
//!
//! Invariants:
//! - A1: while auth is off, a check costs one load of an atomic and reads nothing that a client has sent.
//! - A2: a check uses the newest users that this instance has, which are no older than the keys in the
//!   response: a read takes its snapshot of the keys first. A change by another instance counts here from its
//!   delivery on, which is later than its response.

mod access;
mod claims;
mod jwt;
mod password;
mod permission;
mod request;
mod store;
mod token;

pub(crate) use access::{Access, Auth, Caller, Credentials};
pub(crate) use password::{fits, hash};
pub(crate) use permission::{Permission, READ_WRITE};
pub(crate) use request::check as check_request;
pub(crate) use store::{AuthStore, ROOT};
pub(crate) use token::{SimpleToken, TokenError, TokenSettings, token_hash};

use std::sync::Arc;
use std::time::Duration;

/// Default cost of a password's hash.
pub(crate) const DEFAULT_BCRYPT_COST: u32 = 10;
/// Default validity of a simple token without use.
pub(crate) const DEFAULT_TOKEN_TTL: Duration = Duration::from_mins(5);

/// Settings of auth.
#[derive(Clone, Debug)]
pub(crate) struct AuthSettings {
    /// Kind of tokens.
    pub token: TokenSettings,
    /// Validity of a simple token without use; zero for the default.
    pub token_ttl: Duration,
    /// Cost of a password's hash, 4 to 31; the default for anything else.
    pub bcrypt_cost: u32,
    /// Whether the common name of a client's certificate is a user's name.
    pub client_cert_auth: bool,
}

impl Default for AuthSettings {
    fn default() -> AuthSettings {
        AuthSettings {
            token: TokenSettings::Simple,
            token_ttl: DEFAULT_TOKEN_TTL,
            bcrypt_cost: DEFAULT_BCRYPT_COST,
            client_cert_auth: false,
        }
    }
}

/// Common name of the client certificate that TLS has verified: an extension of each request on such a
/// connection. Empty if the certificate has none: no user has an empty name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateName(pub Arc<str>);
