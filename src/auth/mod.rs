//! Users, roles and permissions.
//!
//! ```text
//! log -> applier -> Auth: AuthStore (users and roles, one value) + each user's merged permissions
//!                            |
//! metadata, certificate -> Caller (who, at which auth revision) -> Access (what that one may do now)
//! ```
//!
//! Users and roles are one record of the log, so that they and their revision are the same on every instance and after every
//! restart. Simple tokens are a record each, which the writer ends; whether one is good follows from the revision it was issued
//! at, so that nothing has to be deleted when a password changes.
//!
//! Invariants:
//! - A1: while auth is off, a check costs one load of an atomic and looks at nothing a client has sent.
//! - A2: a check is made against the newest store known here, and by a revision that is no older than what is answered:
//!   a read takes its snapshot first. Another instance's change counts here as soon as it has arrived, which is later
//!   than its answer by one delivery of NATS.

mod access;
mod jwt;
mod password;
mod permission;
mod request;
mod store;
mod token;

pub use access::{Access, Auth, Caller, Credentials};
pub use password::{fits, hash};
pub use permission::{Permission, READ, READ_WRITE, WRITE};
pub use request::check as check_request;
pub use store::{AuthStore, ROOT};
pub use token::{SimpleToken, TokenError, TokenSettings, token_hash};

use std::sync::Arc;
use std::time::Duration;

/// Cost of a password's hash where none is chosen.
pub const DEFAULT_BCRYPT_COST: u32 = 10;
/// How long a simple token lives without use where nothing else is chosen.
pub const DEFAULT_TOKEN_TTL: Duration = Duration::from_mins(5);

/// What can be chosen about auth.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// Kind of tokens.
    pub token: TokenSettings,
    /// How long a simple token lives without use; zero for the default.
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

/// Common name of the client certificate that TLS has verified: an extension of each request on such a connection.
/// Empty if the certificate has none, which makes its owner somebody that no user is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName(pub Arc<str>);
