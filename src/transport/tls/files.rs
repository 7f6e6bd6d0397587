//! The files that are read again when they change: certificate, key, revocation list.
//!
//! Their metadata are looked up for each handshake: three system calls. A crate that watches files, such as
//! `notify`, brings a thread, learns of a change later than the next handshake, and of none on network file
//! systems.

use super::TlsError;
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::error::X509Error;
use x509_parser::nom;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// A file that was written less than this before it was read may be written again with the same times: the
/// times of some file systems have seconds only, or two of them.
const TIME_GRANULARITY: Duration = Duration::from_secs(3);

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub(super) enum FileError {
    #[error("{0}; give a file that the user of this process may read")]
    Read(#[from] ReadError),
    #[error("holds no certificate in PEM form; give one that begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    #[error("holds no private key in PEM form; give an unencrypted one, such as -----BEGIN PRIVATE KEY-----")]
    NoKey,
    #[error("{0}")]
    Pem(pem::Error),
    #[error("{0}")]
    Certificate(nom::Err<X509Error>),
    #[error("holds no certificate revocation list: {0}")]
    RevocationList(nom::Err<X509Error>),
}

/// Why a file cannot be read, in a form that can be compared.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{text}")]
pub(super) struct ReadError {
    kind: io::ErrorKind,
    text: String,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError { kind: error.kind(), text: error.to_string() }
    }
}

/// Serial numbers of the revoked certificates, or why they are not known.
pub(super) type Revoked = Result<HashSet<Vec<u8>>, FileError>;

/// Contents of the files.
#[derive(PartialEq, Eq)]
pub(super) struct Files {
    cert: Result<Vec<u8>, ReadError>,
    key: Result<Vec<u8>, ReadError>,
    crl: Option<Result<Vec<u8>, ReadError>>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the contents: one is a private key.
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

/// Paths of the files.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) crl: Option<PathBuf>,
}

impl Paths {
    /// Reads the files; blocks.
    pub(super) fn read(&self) -> Files {
        let read = |path: &Path| std::fs::read(path).map_err(ReadError::from);
        Files { cert: read(&self.cert), key: read(&self.key), crl: self.crl.as_deref().map(read) }
    }

    /// The versions that the files have now. It does not read them.
    pub(super) fn versions(&self) -> Versions {
        let files = [Some(&self.cert), Some(&self.key), self.crl.as_ref()];
        Versions(files.map(|path| path.and_then(|path| Version::of(path))))
    }
}

/// Versions of the three files; none of a file that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Versions([Option<Version>; 3]);

impl Versions {
    /// Whether a later change of a file shows in its version.
    pub(super) fn are_settled(&self, now: SystemTime) -> bool {
        self.0.iter().flatten().all(|version| {
            let written = version.modified.max(version.changed);
            now.duration_since(UNIX_EPOCH).unwrap_or_default() > written + TIME_GRANULARITY
        })
    }
}

/// Metadata that change with each change of a file, and with its replacement by another file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    /// Times since 1970.
    modified: Duration,
    changed: Duration,
}

impl Version {
    fn of(path: &Path) -> Option<Version> {
        let file = std::fs::metadata(path).ok()?;
        let time = |seconds: i64, nanoseconds: i64| Duration::new(seconds.max(0) as u64, nanoseconds as u32);
        Some(Version {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: time(file.mtime(), file.mtime_nsec()),
            changed: time(file.ctime(), file.ctime_nsec()),
        })
    }
}

impl Files {
    /// Whether all files could be read.
    pub(super) fn are_readable(&self) -> bool {
        self.cert.is_ok() && self.key.is_ok() && self.crl.as_ref().is_none_or(Result::is_ok)
    }

    /// The certificate with its key.
    ///
    /// # Errors
    /// A file cannot be used, or both do not belong together.
    pub(super) fn pair(
        &self,
        paths: &Paths,
        provider: &CryptoProvider,
    ) -> Result<Arc<CertifiedKey>, TlsError> {
        let bad_cert = |error: FileError| TlsError::of_file("--cert-file", &paths.cert, error);
        let bad_key = |error: FileError| TlsError::of_file("--key-file", &paths.key, error);
        let cert = self.cert.as_ref().map_err(|error| bad_cert(error.clone().into()))?;
        let chain = certificates(cert).map_err(bad_cert)?;
        let key = self.key.as_ref().map_err(|error| bad_key(error.clone().into()))?;
        let key = private_key(key).map_err(bad_key)?;
        let leaf = chain.first().expect("there is at least one, or it would have been an error");
        if let Err(error) = x509_parser::parse_x509_certificate(leaf) {
            return Err(bad_cert(FileError::Certificate(error)));
        }
        let pair = CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| TlsError::of_file("--key-file", &paths.key, error))?;
        Ok(Arc::new(pair))
    }

    /// The revoked certificates; `None` without a list.
    pub(super) fn revoked(&self, paths: &Paths) -> Option<Revoked> {
        let (crl, path) = self.crl.as_ref().zip(paths.crl.as_ref())?;
        let serials = match crl {
            Ok(bytes) => serials(bytes),
            Err(error) => Err(error.clone().into()),
        };
        if let Err(error) = &serials {
            tracing::warn!(
                path = %path.display(),
                reason = %error,
                "--client-crl-file cannot be used: every client certificate is refused until it can"
            );
        }
        Some(serials)
    }
}

/// All certificates of a PEM file, at least one.
///
/// # Errors
/// [`FileError`].
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(FileError::NoCertificate),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(FileError::Pem(error)),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => FileError::NoKey,
        other => FileError::Pem(other),
    })
}

/// The serial numbers that a revocation list names. etcd takes DER only; PEM is the form that most tools
/// write.
fn serials(list: &[u8]) -> Revoked {
    let der = match CertificateRevocationListDer::from_pem_slice(list) {
        Ok(list) => list.to_vec(),
        Err(_) => list.to_vec(),
    };
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(FileError::RevocationList)?;
    Ok(list.iter_revoked_certificates().map(|revoked| number(revoked.raw_serial()).to_vec()).collect())
}

/// A serial number without the zeros that DER puts before it.
pub(super) fn number(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|&&byte| byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_file_shows_once_its_version_is_settled() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let paths = Paths { cert: path("cert"), key: path("key"), crl: None };
        let missing = paths.versions();
        for file in [&paths.cert, &paths.key] {
            std::fs::write(file, "one").expect("written");
        }
        let first = paths.versions();
        assert_ne!(missing, first);
        assert_eq!(first, paths.versions());
        assert!(!first.are_settled(SystemTime::now()), "it may be written again within the same tick");
        assert!(first.are_settled(SystemTime::now() + 2 * TIME_GRANULARITY));
        std::fs::write(path("other"), "two").expect("written");
        std::fs::rename(path("other"), &paths.key).expect("renamed");
        assert_ne!(first, paths.versions(), "another file of the same size");
    }
}
