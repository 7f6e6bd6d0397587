//! TLS of the ports: its flags, its files, and the names of clients.
//!
//! - T1: a new certificate, key or revocation list is in use from the next handshake on, without a restart,
//!   as in etcd, which reads them for every handshake. Here they are read again if their metadata have
//!   changed, and in the first seconds after a change, in which the metadata may miss another one. The
//!   authorities of client certificates are read once, as in etcd too.
//! - T2: a certificate or key that cannot be used leaves the last good pair in use, and a warning is logged
//!   once. A revocation list that cannot be used refuses every client certificate, because the revoked ones
//!   are not known.
//! - T3: no session is resumed. A resumed session skips the check of the client's certificate, which may have
//!   been revoked or may have expired since. Clients of etcd hold their connections for days, so there is
//!   nothing to gain.

mod clients;
mod files;
mod peer_authority;
mod self_signed;
mod suites;

pub(super) use clients::common_name;
pub(crate) use peer_authority::{PeerCertificateError, issue as issue_peer_certificate};

use crate::cli::{TlsSettings, TlsVersion};
use arc_swap::ArcSwap;
use clients::{ClientCheck, Clients};
use files::{FileError, Files, Paths, Versions};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, VerifierBuilderError};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig, SupportedProtocolVersion};

/// A flag of TLS, or the file that it names, that cannot be used.
#[derive(Debug, Error)]
#[error("{flag} {value}: {reason}")]
pub struct TlsError {
    flag: &'static str,
    value: String,
    reason: TlsReason,
}

impl TlsError {
    fn new(flag: &'static str, value: impl Into<String>, reason: impl Into<TlsReason>) -> TlsError {
        TlsError { flag, value: value.into(), reason: reason.into() }
    }

    fn of_file(flag: &'static str, path: &Path, reason: impl Into<TlsReason>) -> TlsError {
        TlsError::new(flag, path.display().to_string(), reason)
    }
}

/// The reason why a flag, or its file, cannot be used. The texts are etcd's where etcd refuses the same.
#[derive(Debug, Error)]
enum TlsReason {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("private key does not match public key of --cert-file")]
    OtherKey,
    #[error("{0}; give an RSA key of at least 2048 bits, or an ECDSA key (P-256, P-384) or Ed25519 key")]
    UnusableKey(String),
    #[error(transparent)]
    Rustls(rustls::Error),
    #[error(transparent)]
    Authorities(#[from] VerifierBuilderError),
    #[error("this system has no authorities to check against: give --trusted-ca-file")]
    NoAuthorities,
    #[error("does not go together with --client-cert-allowed-hostname; give one of them")]
    NamesAndHosts,
    #[error("unexpected TLS cipher suite {name:?}; there are {}", suites::names())]
    UnknownSuite { name: String },
    #[error("not available in jetway; there are {}", suites::names())]
    MissingSuites,
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled; leave one of the two flags out")]
    FixedSuites,
    #[error("min version ({lowest}) is greater than max version ({highest}); raise --tls-max-version")]
    NoVersion { lowest: &'static str, highest: &'static str },
    #[error("should be greater than 0")]
    NoValidity,
    #[error(transparent)]
    SelfSigned(#[from] rcgen::Error),
    #[error(transparent)]
    Write(#[from] std::io::Error),
}

impl From<rustls::Error> for TlsReason {
    fn from(error: rustls::Error) -> TlsReason {
        match error {
            rustls::Error::InconsistentKeys(_) => TlsReason::OtherKey,
            rustls::Error::General(reason) => TlsReason::UnusableKey(reason),
            other => TlsReason::Rustls(other),
        }
    }
}

/// TLS with the certificates that the files hold now.
#[derive(Debug)]
pub(crate) struct Tls {
    fixed: Fixed,
    current: ArcSwap<Current>,
    /// Held while the files are read, so that a thousand handshakes at once read them once.
    reading: Mutex<()>,
}

/// The parts that do not change while the server runs.
#[derive(Debug)]
struct Fixed {
    paths: Paths,
    clients: Clients,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    /// Checks the chain of a client's certificate; `None` if clients are not asked for one.
    chain_check: Option<Arc<dyn ClientCertVerifier>>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// The pair in use; kept when the files go bad (T2).
    pair: Arc<CertifiedKey>,
    /// Contents of the files when they were last read, good or bad.
    files: Files,
    /// Versions of the files before that; none if they have to be read again in any case.
    versions: Option<Versions>,
}

impl Tls {
    /// Reads everything once, so that mistakes show at the start. `hosts` are the names and addresses of the
    /// ports, for the certificate of `--auto-tls`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn new(settings: &TlsSettings, hosts: Vec<String>) -> Result<Tls, TlsError> {
        let versions = versions(settings)?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suites::choose(&settings.cipher_suites, &versions)?,
            ..ring::default_provider()
        });
        let (paths, clients) = if let (Some(cert), Some(key)) = (&settings.cert, &settings.key) {
            if settings.auto_tls {
                tracing::warn!("--auto-tls is ignored, since there is --cert-file");
            }
            let crl = settings.crl_file.clone();
            (Paths { cert: cert.clone(), key: key.clone(), crl }, Clients::new(settings)?)
        } else {
            if settings.require_client_cert {
                tracing::warn!(
                    "with --auto-tls clients are not asked for a certificate, as in etcd: \
                     --client-cert-auth and --trusted-ca-file need --cert-file"
                );
            }
            let years = settings.self_signed_cert_validity_years;
            let (cert, key) = self_signed::create(&settings.auto_tls_dir, hosts, years)?;
            (Paths { cert, key, crl: None }, Clients::default())
        };
        let chain_check = clients.chain_check(&provider)?;
        let (files, read_versions) = read(&paths);
        let pair = files.pair(&paths, &provider)?;
        let fixed = Fixed { paths, clients, provider, versions, chain_check };
        let config = fixed.configure(&files, Arc::clone(&pair))?;
        let current = ArcSwap::from_pointee(Current { config, pair, files, versions: read_versions });
        Ok(Tls { fixed, current, reading: Mutex::default() })
    }

    /// The configuration for a handshake that starts now (T1).
    pub(super) async fn config(&self) -> Arc<ServerConfig> {
        if let Some(config) = self.unchanged() {
            return config;
        }
        let _reading = self.reading.lock().await;
        // Another handshake may have read them meanwhile.
        if let Some(config) = self.unchanged() {
            return config;
        }
        let paths = self.fixed.paths.clone();
        // Reading cannot panic; a runtime that shuts down takes the handshake with it.
        if let Ok((files, versions)) = tokio::task::spawn_blocking(move || read(&paths)).await {
            self.current.store(Arc::new(self.renewed(files, versions)));
        }
        Arc::clone(&self.current.load().config)
    }

    /// The configuration, if the files are still those that it was made of.
    fn unchanged(&self) -> Option<Arc<ServerConfig>> {
        let current = self.current.load();
        let is_unchanged =
            current.versions.as_ref().is_some_and(|known| *known == self.fixed.paths.versions());
        is_unchanged.then(|| Arc::clone(&current.config))
    }

    fn renewed(&self, files: Files, versions: Option<Versions>) -> Current {
        let current = self.current.load();
        let (mut config, mut pair) = (Arc::clone(&current.config), Arc::clone(&current.pair));
        if files == current.files {
            return Current { config, pair, files, versions };
        }
        match files.pair(&self.fixed.paths, &self.fixed.provider) {
            Ok(renewed) => pair = renewed,
            Err(error) => tracing::warn!(%error, "the certificate from before stays in use"),
        }
        match self.fixed.configure(&files, Arc::clone(&pair)) {
            Ok(renewed) => {
                tracing::info!("TLS files have changed and were read again");
                config = renewed;
            }
            Err(error) => tracing::warn!(%error, "the TLS configuration from before stays in use"),
        }
        Current { config, pair, files, versions }
    }

    /// Whether the common name of a client's certificate is its user.
    pub(super) fn names_clients(&self) -> bool {
        self.fixed.clients.are_named()
    }
}

impl Fixed {
    fn configure(&self, files: &Files, pair: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&self.versions)
            .map_err(|error| TlsError::new("--cipher-suites", "", error))?;
        let builder = match &self.chain_check {
            None => builder.with_no_client_auth(),
            Some(chain) => builder.with_client_cert_verifier(Arc::new(ClientCheck {
                chain: Arc::clone(chain),
                allowed: self.clients.allowed.clone(),
                revoked: files.revoked(&self.paths),
            })),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        // gRPC clients insist on h2 being chosen; curl and probes speak HTTP/1.1.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // T3
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// Contents and versions of the files; blocks. The versions are taken first, so that a change meanwhile shows
/// later.
fn read(paths: &Paths) -> (Files, Option<Versions>) {
    let (now, versions) = (SystemTime::now(), paths.versions());
    let files = paths.read();
    let is_settled = files.are_readable() && versions.are_settled(now);
    (files, is_settled.then_some(versions))
}

/// The versions from the lowest to the highest that the flags allow.
fn versions(settings: &TlsSettings) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    let name = |version| match version {
        TlsVersion::V12 => "TLS1.2",
        TlsVersion::V13 => "TLS1.3",
    };
    let lowest = settings.min_version;
    if let (TlsVersion::V13, Some(highest @ TlsVersion::V12)) = (lowest, settings.max_version) {
        let (lowest, highest) = (name(lowest), name(highest));
        return Err(TlsError::new("--tls-min-version", lowest, TlsReason::NoVersion { lowest, highest }));
    }
    if lowest == TlsVersion::V13 && !settings.cipher_suites.is_empty() {
        return Err(TlsError::new(
            "--cipher-suites",
            settings.cipher_suites.join(","),
            TlsReason::FixedSuites,
        ));
    }
    Ok(match (lowest, settings.max_version) {
        (_, Some(TlsVersion::V12)) => vec![&TLS12],
        (TlsVersion::V12, _) => vec![&TLS12, &TLS13],
        (TlsVersion::V13, _) => vec![&TLS13],
    })
}
