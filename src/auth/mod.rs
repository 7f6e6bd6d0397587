//! Users, roles and permissions.

use std::sync::Arc;

/// Common name of the client certificate that TLS has verified: an extension of each request on such a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName(pub Arc<str>);
