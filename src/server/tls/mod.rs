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
#[expect(unused_imports, reason = "until the flags are there")]
pub(super) use self_signed::create as create_self_signed;

use clients::{ClientCheck, roots};
use files::Files;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
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

    fn of_file(flag: &'static str, path: &Path, reason: impl ToString) -> TlsError {
        TlsError::new(flag, path.display().to_string(), reason.to_string())
    }
}

/// What the flags say of TLS.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsSettings {
    /// Certificate chain (PEM).
    pub(super) cert: PathBuf,
    /// Its key (PEM).
    pub(super) key: PathBuf,
    /// Authorities of client certificates (PEM). Naming them is enough to ask every client for one.
    pub(super) trusted_ca: Option<PathBuf>,
    /// Whether clients must have a certificate, and are who its common name says.
    pub(super) client_cert_auth: bool,
    /// Revoked client certificates (DER or PEM).
    pub(super) crl_file: Option<PathBuf>,
    /// Common names that clients may have; any if empty.
    pub(super) allowed_cn: Vec<String>,
    /// Host names or addresses of which a client's certificate must be good for one; any if empty.
    pub(super) allowed_hostname: Vec<String>,
    /// Suites of TLS 1.2 by Go's names; all if empty.
    pub(super) cipher_suites: Vec<String>,
    /// Lowest version, TLS 1.2 if empty.
    pub(super) min_version: String,
    /// Highest version, the highest there is if empty.
    pub(super) max_version: String,
}

impl TlsSettings {
    fn asks_clients(&self) -> bool {
        self.trusted_ca.is_some() || self.client_cert_auth
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
    settings: TlsSettings,
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
    /// Reads everything once, so that mistakes show at the start.
    pub(super) fn new(settings: TlsSettings) -> Result<Tls, TlsError> {
        if !settings.allowed_cn.is_empty() && !settings.allowed_hostname.is_empty() {
            return Err(TlsError::new(
                "--client-cert-allowed-cn",
                settings.allowed_cn.join(","),
                "does not go together with --client-cert-allowed-hostname; give one of them",
            ));
        }
        let versions = versions(&settings)?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suites::choose(&settings.cipher_suites, &versions)?,
            ..ring::default_provider()
        });
        for (flag, given) in [
            ("--client-crl-file", settings.crl_file.is_some()),
            ("--client-cert-allowed-cn", !settings.allowed_cn.is_empty()),
            ("--client-cert-allowed-hostname", !settings.allowed_hostname.is_empty()),
        ] {
            if given && !settings.asks_clients() {
                tracing::warn!(
                    flag,
                    "clients are not asked for a certificate: this flag needs --client-cert-auth"
                );
            }
        }
        let chain_check: Option<Arc<dyn ClientCertVerifier>> = if settings.asks_clients() {
            let roots = Arc::new(roots(settings.trusted_ca.as_deref())?);
            let check = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            let file = settings.trusted_ca.clone().unwrap_or_default();
            Some(check.map_err(|error| TlsError::of_file("--trusted-ca-file", &file, error))?)
        } else {
            None
        };
        let seen = Files::read(&settings);
        let pair = seen.pair(&settings, &provider)?;
        let fixed = Fixed { settings, provider, versions, chain_check };
        let config = fixed.configure(&seen, Arc::clone(&pair))?;
        Ok(Tls { fixed, current: Mutex::new(Current { config, pair, seen }) })
    }

    /// The configuration for a handshake that starts now (T1).
    pub(super) async fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().await;
        let settings = self.fixed.settings.clone();
        let read = tokio::task::spawn_blocking(move || Files::read(&settings)).await;
        // Reading cannot panic; a runtime that shuts down takes the handshake with it.
        let Ok(files) = read else { return Arc::clone(&current.config) };
        if files != current.seen {
            self.renew(&mut current, files);
        }
        Arc::clone(&current.config)
    }

    fn renew(&self, current: &mut Current, files: Files) {
        match files.pair(&self.fixed.settings, &self.fixed.provider) {
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
        self.fixed.settings.client_cert_auth
    }
}

impl Fixed {
    fn configure(&self, files: &Files, pair: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&self.versions)
            .map_err(|error| {
                TlsError::new("--cipher-suites", self.settings.cipher_suites.join(","), error.to_string())
            })?;
        let builder = match &self.chain_check {
            None => builder.with_no_client_auth(),
            Some(chain) => builder.with_client_cert_verifier(Arc::new(ClientCheck::new(
                Arc::clone(chain),
                &self.settings,
                files.revoked(&self.settings),
            ))),
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
    let known = |flag, name: &str, default| match name {
        "" => Ok(default),
        "TLS1.2" => Ok(2),
        "TLS1.3" => Ok(3),
        _ => Err(TlsError::new(
            flag,
            name,
            format!("unexpected TLS version {name:?} (must be one of: TLS1.2, TLS1.3)"),
        )),
    };
    let lowest = known("--tls-min-version", &settings.min_version, 2)?;
    let highest = known("--tls-max-version", &settings.max_version, 3)?;
    if lowest > highest {
        return Err(TlsError::new(
            "--tls-min-version",
            &settings.min_version,
            format!(
                "min version ({}) is greater than max version ({}); lower it or raise --tls-max-version",
                settings.min_version, settings.max_version
            ),
        ));
    }
    if lowest == 3 && !settings.cipher_suites.is_empty() {
        return Err(TlsError::new(
            "--cipher-suites",
            settings.cipher_suites.join(","),
            "cipher suites cannot be configured when only TLS1.3 is enabled; leave one of the two flags out",
        ));
    }
    let versions: [(u8, &'static SupportedProtocolVersion); 2] = [(2, &TLS12), (3, &TLS13)];
    let allowed = versions.into_iter().filter(|(number, _)| (lowest..=highest).contains(number));
    Ok(allowed.map(|(_, version)| version).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(settings: &TlsSettings) -> Result<Vec<rustls::ProtocolVersion>, String> {
        versions(settings)
            .map(|versions| versions.iter().map(|version| version.version).collect())
            .map_err(|error| error.to_string())
    }

    fn between(min: &str, max: &str) -> TlsSettings {
        TlsSettings { min_version: min.into(), max_version: max.into(), ..TlsSettings::default() }
    }

    #[test]
    fn versions_run_from_the_lowest_to_the_highest() {
        use rustls::ProtocolVersion::{TLSv1_2, TLSv1_3};
        assert_eq!(names(&between("", "")), Ok(vec![TLSv1_2, TLSv1_3]));
        assert_eq!(names(&between("TLS1.3", "")), Ok(vec![TLSv1_3]));
        assert_eq!(names(&between("TLS1.2", "TLS1.2")), Ok(vec![TLSv1_2]));
    }

    #[test]
    fn versions_that_make_no_sense_are_refused_in_etcd_s_words() {
        for (settings, words) in [
            (
                between("TLS1.1", ""),
                r#"--tls-min-version TLS1.1: unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)"#,
            ),
            (between("TLS1.3", "TLS1.2"), "min version (TLS1.3) is greater than max version (TLS1.2)"),
            (
                TlsSettings { cipher_suites: vec!["x".into()], ..between("TLS1.3", "") },
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
        ] {
            let error = names(&settings).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }
}
