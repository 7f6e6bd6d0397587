//! TLS of the connections to NATS.

use super::connect::Endpoint;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// TLS to NATS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsSetupError {
    /// A file that holds no certificate, or no key.
    #[error("{flag} {path}: {source}", path = path.display())]
    Pem {
        /// The flag that names it.
        flag: &'static str,
        /// Its path.
        path: PathBuf,
        /// The reason.
        source: pem::Error,
    },
    /// An authority that cannot be used.
    #[error("--nats-ca-file {path}: {source}", path = path.display())]
    Authority {
        /// Its file.
        path: PathBuf,
        /// The reason.
        source: rustls::Error,
    },
    /// The certificate and the key of the client, or the versions.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// The host of the endpoint.
    #[error(transparent)]
    Host(#[from] InvalidDnsNameError),
}

/// The configuration of a client. It reads the files anew, so that renewed ones need no restart.
///
/// # Errors
/// [`TlsSetupError`].
pub(super) fn config(endpoint: &Endpoint) -> Result<ClientConfig, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // A certificate of the system that cannot be read is no reason to refuse the connection.
        roots.add(certificate).ok();
    }
    if let Some(file) = &endpoint.ca_file {
        for certificate in certificates("--nats-ca-file", file)? {
            roots
                .add(certificate)
                .map_err(|source| TlsSetupError::Authority { path: file.clone(), source })?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some((cert, key)) = &endpoint.client_cert else { return Ok(builder.with_no_client_auth()) };
    let certs = certificates("--nats-cert-file", cert)?;
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|source| pem_error("--nats-key-file", key, source))?;
    Ok(builder.with_client_auth_cert(certs, key)?)
}

fn certificates(flag: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    certificates.map_err(|source| pem_error(flag, path, source))
}

fn pem_error(flag: &'static str, path: &Path, source: pem::Error) -> TlsSetupError {
    TlsSetupError::Pem { flag, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_flag_and_the_file() {
        let error =
            certificates("--nats-cert-file", Path::new("/no/such.pem")).expect_err("there is no file");
        assert!(error.to_string().starts_with("--nats-cert-file /no/such.pem: "), "{error}");
    }
}
