//! The files that are read again and again: certificate, key, revocation list.

use super::{TlsError, explain};
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// Serial numbers of the revoked certificates, or why they are not known.
pub(super) type Revoked = Result<HashSet<Vec<u8>>, String>;

/// What the files hold, or why that is not known. Kept and compared as bytes: times and sizes of files may miss a change.
#[derive(PartialEq, Eq)]
pub(super) struct Files {
    cert: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    crl: Option<Result<Vec<u8>, String>>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not their contents: one is a private key.
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

/// Where they are.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) crl: Option<PathBuf>,
}

impl Paths {
    /// Reads them; blocks.
    pub(super) fn read(&self) -> Files {
        let read = |path: &Path| std::fs::read(path).map_err(|error| error.to_string());
        Files { cert: read(&self.cert), key: read(&self.key), crl: self.crl.as_deref().map(read) }
    }
}

impl Files {
    /// The certificate with its key.
    pub(super) fn pair(
        &self,
        paths: &Paths,
        provider: &CryptoProvider,
    ) -> Result<Arc<CertifiedKey>, TlsError> {
        let bad_cert = |reason: String| TlsError::of_file("--cert-file", &paths.cert, reason);
        let bad_key = |reason: String| TlsError::of_file("--key-file", &paths.key, reason);
        let cert = self.cert.as_ref().map_err(|reason| bad_cert(reason.clone()))?;
        let key = self.key.as_ref().map_err(|reason| bad_key(reason.clone()))?;
        let chain = certificates(cert).map_err(bad_cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            bad_key(match error {
                pem::Error::NoItemsFound => "holds no private key in PEM form".to_owned(),
                other => other.to_string(),
            })
        })?;
        let leaf = chain.first().expect("there is at least one, or it would have been an error");
        if let Err(error) = x509_parser::parse_x509_certificate(leaf) {
            return Err(bad_cert(error.to_string()));
        }
        let pair = CertifiedKey::from_der(chain, key, provider).map_err(|error| bad_key(explain(&error)))?;
        Ok(Arc::new(pair))
    }

    /// Who is revoked; `None` if there is no list to heed.
    pub(super) fn revoked(&self, paths: &Paths) -> Option<Revoked> {
        let (crl, path) = self.crl.as_ref().zip(paths.crl.as_ref())?;
        let serials = crl.as_ref().map_err(String::clone).and_then(|bytes| serials(bytes));
        if let Err(reason) = &serials {
            tracing::warn!(
                path = %path.display(),
                reason,
                "--client-crl-file cannot be used: every client certificate is refused until it can"
            );
        }
        Some(serials)
    }
}

/// All certificates of a PEM file, at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate in PEM form".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}

/// The serial numbers that a revocation list names. etcd takes DER only; PEM is what most tools write.
fn serials(list: &[u8]) -> Result<HashSet<Vec<u8>>, String> {
    let der = match CertificateRevocationListDer::from_pem_slice(list) {
        Ok(list) => list.to_vec(),
        Err(_) => list.to_vec(),
    };
    let (_, list) = CertificateRevocationList::from_der(&der)
        .map_err(|error| format!("holds no certificate revocation list: {error}"))?;
    Ok(list.iter_revoked_certificates().map(|revoked| number(revoked.raw_serial()).to_vec()).collect())
}

/// A serial number without the zeros that DER puts before it.
pub(super) fn number(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|&&byte| byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}
