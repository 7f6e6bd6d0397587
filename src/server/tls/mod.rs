//! TLS of the ports: what the flags say, what the files hold, and who the client is.
//!
//! T1. Certificate, key and revocation list are read for every handshake, as etcd does, so that whoever renews them needs
//!     no restart. The authorities of client certificates are read once, as in etcd too.
//! T2. A certificate or key that cannot be used leaves the last good pair in use, and the log says so once. A revocation
//!     list that cannot be used refuses every client certificate: nobody can say which of them are still good.
//! T3. No session is resumed. A resumed one skips the check of the client's certificate, which may have been revoked or
//!     may have expired since; clients of etcd hold their connections for days, so there is nothing to gain.

mod clients;
mod files;
mod self_signed;
mod suites;

pub(super) use clients::common_name;

use crate::cli::{TlsSettings, TlsVersion};
use clients::{ClientCheck, Clients};
use files::{Files, Paths};
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig, SupportedProtocolVersion};

/// A flag, or the file that it names, with which there is no TLS.
#[derive(Debug, Error)]
#[error("{flag} {value}: {reason}")]
pub struct TlsError {
    flag: &'static str,
    value: String,
    reason: String,
}

impl TlsError {
    fn new(flag: &'static str, value: impl Into<String>, reason: impl Into<String>) -> TlsError {
        TlsError { flag, value: value.into(), reason: reason.into() }
    }

    fn of_file(flag: &'static str, path: &Path, reason: impl Into<String>) -> TlsError {
        TlsError::new(flag, path.display().to_string(), reason)
    }
}

/// TLS with the certificate of the moment.
#[derive(Debug)]
pub(super) struct Tls {
    fixed: Fixed,
    /// Locked while the files are read, so that a thousand handshakes at once do not take as many threads.
    current: Mutex<Current>,
}

/// What does not change while the server runs.
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
    /// What the files held when they were last read, good or bad.
    seen: Files,
}

impl Tls {
    /// Reads everything once, so that mistakes show at the start. `hosts` are the names and addresses of the ports, for the
    /// certificate of `--auto-tls`.
    pub(super) fn new(settings: &TlsSettings, hosts: Vec<String>) -> Result<Tls, TlsError> {
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
        let seen = paths.read();
        let pair = seen.pair(&paths, &provider)?;
        let fixed = Fixed { paths, clients, provider, versions, chain_check };
        let config = fixed.configure(&seen, Arc::clone(&pair))?;
        Ok(Tls { fixed, current: Mutex::new(Current { config, pair, seen }) })
    }

    /// The configuration for a handshake that starts now (T1).
    pub(super) async fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().await;
        let paths = self.fixed.paths.clone();
        let read = tokio::task::spawn_blocking(move || paths.read()).await;
        // Reading cannot panic; a runtime that shuts down takes the handshake with it.
        if let Ok(files) = read
            && files != current.seen
        {
            self.renew(&mut current, files);
        }
        Arc::clone(&current.config)
    }

    fn renew(&self, current: &mut Current, files: Files) {
        match files.pair(&self.fixed.paths, &self.fixed.provider) {
            Ok(pair) => current.pair = pair,
            Err(error) => tracing::warn!(%error, "the certificate from before stays in use"),
        }
        match self.fixed.configure(&files, Arc::clone(&current.pair)) {
            Ok(config) => {
                tracing::info!("TLS files have changed and were read again");
                current.config = config;
            }
            Err(error) => tracing::warn!(%error, "the TLS configuration from before stays in use"),
        }
        current.seen = files;
    }

    /// Whether the common name of a client's certificate says who the client is.
    pub(super) fn names_clients(&self) -> bool {
        self.fixed.clients.are_named()
    }
}

impl Fixed {
    fn configure(&self, files: &Files, pair: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&self.versions)
            .map_err(|error| TlsError::new("--cipher-suites", "", error.to_string()))?;
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

/// The versions from the lowest to the highest that the flags allow.
fn versions(settings: &TlsSettings) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    let name = |version| match version {
        TlsVersion::V12 => "TLS1.2",
        TlsVersion::V13 => "TLS1.3",
    };
    let lowest = settings.min_version;
    if let (TlsVersion::V13, Some(highest @ TlsVersion::V12)) = (lowest, settings.max_version) {
        let (lowest, highest) = (name(lowest), name(highest));
        let reason = format!(
            "min version ({lowest}) is greater than max version ({highest}); raise --tls-max-version"
        );
        return Err(TlsError::new("--tls-min-version", lowest, reason));
    }
    if lowest == TlsVersion::V13 && !settings.cipher_suites.is_empty() {
        return Err(TlsError::new(
            "--cipher-suites",
            settings.cipher_suites.join(","),
            "cipher suites cannot be configured when only TLS1.3 is enabled; leave one of the two flags out",
        ));
    }
    Ok(match (lowest, settings.max_version) {
        (_, Some(TlsVersion::V12)) => vec![&TLS12],
        (TlsVersion::V12, _) => vec![&TLS12, &TLS13],
        (TlsVersion::V13, _) => vec![&TLS13],
    })
}

/// What rustls says, with the words of a person who has to do something about it.
fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            "private key does not match public key of --cert-file".to_owned()
        }
        rustls::Error::General(reason) => {
            format!(
                "{reason}; give an RSA key of at least 2048 bits, or an ECDSA key (P-256, P-384) or Ed25519 key"
            )
        }
        other => other.to_string(),
    }
}
