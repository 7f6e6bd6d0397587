//! TLS of the listeners.

use super::flag_values::FlagValues;
use super::flags::ALLOWED_CN;
use super::listen::ListenUrl;
use super::notice::Notice;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Flags of TLS that do not go together. The texts are etcd's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum TlsFlagsError {
    #[error(
        "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme in {flag}"
    )]
    NoCertificate { url: String, flag: &'static str },
    #[error(
        "KeyFile and CertFile must both be present[key: {key}, cert: {cert}]: give --cert-file and --key-file"
    )]
    HalfCertificate { key: String, cert: String },
    #[error("--{flag}: unexpected TLS version {version:?} (must be one of: TLS1.2, TLS1.3)")]
    Version { flag: &'static str, version: String },
    #[error(
        "min version (TLS1.3) is greater than max version (TLS1.2): --tls-min-version, --tls-max-version"
    )]
    NoVersion,
    #[error("--cipher-suites: cipher suites cannot be configured when only TLS1.3 is enabled")]
    CipherSuites,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// TLS of the listeners.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Certificate chain; `None` only if `auto_tls` makes one.
    pub cert: Option<PathBuf>,
    /// Key of `cert`; `None` exactly if `cert` is.
    pub key: Option<PathBuf>,
    /// Authorities of client certificates.
    pub trusted_ca: Option<PathBuf>,
    /// Whether a client must have a certificate: with `--client-cert-auth`, and as in etcd with authorities
    /// alone.
    pub require_client_cert: bool,
    /// `--client-cert-auth` itself: only then is a certificate's common name a user.
    pub client_cert_auth: bool,
    /// Revoked client certificates.
    pub crl_file: Option<PathBuf>,
    /// Common names that client certificates may have; empty for any.
    pub allowed_cn: Vec<String>,
    /// Host names of which a client certificate must have one; empty for any.
    pub allowed_hostname: Vec<String>,
    /// Go's names of the cipher suites to offer for TLS 1.2; empty for the library's choice.
    pub cipher_suites: Vec<String>,
    /// Oldest version that is accepted.
    pub min_version: TlsVersion,
    /// Newest version that is accepted; `None` for the library's newest.
    pub max_version: Option<TlsVersion>,
    /// Whether to serve with a certificate that jetway makes and keeps in `auto_tls_dir`.
    pub auto_tls: bool,
    /// Directory of such a certificate and its key.
    pub auto_tls_dir: PathBuf,
    /// Validity of such a certificate, in years of 365 days.
    pub self_signed_cert_validity_years: u32,
}

/// The listeners, by their flags.
pub(super) struct Listeners<'a> {
    pub(super) clients: &'a [ListenUrl],
    pub(super) client_http: &'a [ListenUrl],
    pub(super) metrics: &'a [ListenUrl],
}

impl<'a> Listeners<'a> {
    /// The first listener that asks for TLS, and its flag.
    fn first_secure(&self) -> Option<(&'static str, &'a ListenUrl)> {
        let all = [
            ("--listen-client-urls", self.clients),
            ("--listen-client-http-urls", self.client_http),
            ("--listen-metrics-urls", self.metrics),
        ];
        all.into_iter().find_map(|(flag, urls)| Some((flag, urls.iter().find(|url| url.tls)?)))
    }
}

/// TLS, if a listener asks for it.
pub(super) fn settings(
    flags: &FlagValues,
    data_dir: &Path,
    listeners: &Listeners<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Option<TlsSettings>, TlsFlagsError> {
    let (min_version, max_version) = versions(flags)?;
    let (cert, key) = (flags.path("cert-file"), flags.path("key-file"));
    let client_cert_auth = flags.is_true("client-cert-auth");
    let has_files = cert.is_some() || key.is_some();
    for url in listeners.clients.iter().chain(listeners.client_http).filter(|url| !url.tls) {
        if has_files {
            notices.push(Notice::warning(format!(
                "scheme is http or unix while key and cert files are present; ignoring key and cert files for {}",
                url.url
            )));
        }
        if client_cert_auth {
            notices.push(Notice::warning(format!(
                "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for {}",
                url.url
            )));
        }
    }
    let Some((flag, secure)) = listeners.first_secure() else { return Ok(None) };
    let auto_tls = flags.is_true("auto-tls");
    match (&cert, &key) {
        (None, None) if !auto_tls => {
            return Err(TlsFlagsError::NoCertificate { url: secure.url.clone(), flag });
        }
        (Some(_), None) | (None, Some(_)) => {
            let text = |path: &Option<PathBuf>| {
                path.as_ref().map_or(String::new(), |path| path.display().to_string())
            };
            return Err(TlsFlagsError::HalfCertificate { key: text(&key), cert: text(&cert) });
        }
        _ => {}
    }
    let trusted_ca = flags.path("trusted-ca-file");
    Ok(Some(TlsSettings {
        require_client_cert: client_cert_auth || trusted_ca.is_some(),
        cert,
        key,
        trusted_ca,
        client_cert_auth,
        crl_file: flags.path("client-crl-file"),
        allowed_cn: flags.texts(ALLOWED_CN),
        allowed_hostname: flags.texts("client-cert-allowed-hostname"),
        cipher_suites: flags.texts("cipher-suites"),
        min_version,
        max_version,
        auto_tls,
        auto_tls_dir: data_dir.join("fixtures").join("client"),
        // As in etcd, 0 is a mistake on the command line and the default in a config file.
        self_signed_cert_validity_years: match flags.unsigned_32("self-signed-cert-validity") {
            0 if flags.from_file => 1,
            years => years,
        },
    }))
}

fn versions(flags: &FlagValues) -> Result<(TlsVersion, Option<TlsVersion>), TlsFlagsError> {
    let version = |flag: &'static str, text: &str| match text {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(TlsVersion::V12)),
        "TLS1.3" => Ok(Some(TlsVersion::V13)),
        other => Err(TlsFlagsError::Version { flag, version: other.to_owned() }),
    };
    let oldest = version("tls-min-version", flags.text("tls-min-version").unwrap_or("TLS1.2"))?;
    let newest = version("tls-max-version", flags.text("tls-max-version").unwrap_or_default())?;
    if let (Some(TlsVersion::V13), Some(TlsVersion::V12)) = (oldest, newest) {
        return Err(TlsFlagsError::NoVersion);
    }
    if oldest == Some(TlsVersion::V13) && !flags.texts("cipher-suites").is_empty() {
        return Err(TlsFlagsError::CipherSuites);
    }
    // An empty value leaves the choice to the library, whose oldest version is 1.2 as well.
    Ok((oldest.unwrap_or(TlsVersion::V12), newest))
}
