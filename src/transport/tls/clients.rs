//! The check of client certificates, and the names in them.

use super::files::{FileError, ReadError, Revoked, certificates, number};
use super::{TlsError, TlsReason};
use crate::cli::TlsSettings;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The certificates that clients need.
#[derive(Debug, Default)]
pub(super) struct Clients {
    asked: bool,
    named: bool,
    trusted_ca: Option<PathBuf>,
    pub(super) allowed: Allowed,
}

/// The names that clients may have.
#[derive(Clone, Debug, Default)]
pub(super) enum Allowed {
    #[default]
    All,
    /// The common name is one of these.
    CommonNames(Vec<String>),
    /// The certificate is good for one of these host names or addresses.
    Hosts(Vec<String>),
}

impl Clients {
    pub(super) fn new(settings: &TlsSettings) -> Result<Clients, TlsError> {
        let (names, hosts) = (&settings.allowed_cn, &settings.allowed_hostname);
        for (flag, given) in [
            ("--client-crl-file", settings.crl_file.is_some()),
            ("--client-cert-allowed-cn", !names.is_empty()),
            ("--client-cert-allowed-hostname", !hosts.is_empty()),
        ] {
            if given && !settings.require_client_cert {
                tracing::warn!(
                    flag,
                    "clients are not asked for a certificate: this flag needs --client-cert-auth"
                );
            }
        }
        let allowed = match (names.is_empty(), hosts.is_empty()) {
            (true, true) => Allowed::All,
            (false, true) => Allowed::CommonNames(names.clone()),
            (true, false) => Allowed::Hosts(hosts.clone()),
            (false, false) => {
                return Err(TlsError::new(
                    "--client-cert-allowed-cn",
                    names.join(","),
                    TlsReason::NamesAndHosts,
                ));
            }
        };
        Ok(Clients {
            asked: settings.require_client_cert,
            named: settings.client_cert_auth,
            trusted_ca: settings.trusted_ca.clone(),
            allowed,
        })
    }

    /// Whether the common name of a client's certificate is its user.
    pub(super) fn are_named(&self) -> bool {
        self.named
    }

    /// The check of the chain of a client's certificate; `None` if clients need none.
    ///
    /// # Errors
    /// The authorities cannot be used.
    pub(super) fn chain_check(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        if !self.asked {
            return Ok(None);
        }
        let file = self.trusted_ca.as_deref();
        let roots = Arc::new(roots(file)?);
        let check = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
        match check {
            Ok(check) => Ok(Some(check)),
            Err(error) => Err(TlsError::of_file("--trusted-ca-file", file.unwrap_or(Path::new("")), error)),
        }
    }
}

/// The authorities in a file; without a file those of the system, as in etcd.
fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            return Err(TlsError::new("--client-cert-auth", "true", TlsReason::NoAuthorities));
        }
        tracing::warn!("--client-cert-auth without --trusted-ca-file trusts every authority of this system");
        return Ok(roots);
    };
    let refused = |error: FileError| TlsError::of_file("--trusted-ca-file", path, error);
    let pem = std::fs::read(path).map_err(|error| refused(ReadError::from(error).into()))?;
    for certificate in certificates(&pem).map_err(refused)? {
        roots.add(certificate).map_err(|error| TlsError::of_file("--trusted-ca-file", path, error))?;
    }
    Ok(roots)
}

/// Checks a client's certificate: its chain, its name, and that nobody has revoked it.
#[derive(Debug)]
pub(super) struct ClientCheck {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) allowed: Allowed,
    /// `None` without a revocation list.
    pub(super) revoked: Option<Revoked>,
}

impl ClientCheck {
    fn check_name(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let is_allowed = match &self.allowed {
            Allowed::All => true,
            Allowed::CommonNames(names) => common_name(leaf).is_some_and(|name| names.contains(&name)),
            Allowed::Hosts(hosts) => is_good_for(leaf, hosts),
        };
        if is_allowed {
            return Ok(());
        }
        let name = common_name(leaf);
        tracing::warn!(name, "client certificate authentication failed: its name is not an allowed one");
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    /// As in etcd: by serial number alone, without a look at the issuer, and for all certificates that the
    /// client has sent.
    fn check_revoked<'a>(&self, sent: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> Result<(), Error> {
        let revoked = match &self.revoked {
            None => return Ok(()),
            Some(Err(_)) => return Err(CertificateError::UnknownRevocationStatus.into()),
            Some(Ok(revoked)) => revoked,
        };
        for certificate in sent {
            let (_, parsed) =
                X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
            if revoked.contains(number(parsed.raw_serial())) {
                tracing::warn!(serial = parsed.raw_serial_as_string(), "client certificate is revoked");
                return Err(CertificateError::Revoked.into());
            }
        }
        Ok(())
    }
}

impl ClientCertVerifier for ClientCheck {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.check_name(end_entity)?;
        self.check_revoked(std::iter::once(end_entity).chain(intermediates))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The common name of a certificate's subject, the last one if it has several, as Go reads it.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().last()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// Whether a certificate names one of the hosts, by Go's rules: a host that is an address has to be named as
/// one, and the first label of a name in the certificate may be `*`.
fn is_good_for(certificate: &CertificateDer<'_>, hosts: &[String]) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    let names = &names.value.general_names;
    hosts.iter().any(|host| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => names.iter().any(|name| match (name, address) {
                (GeneralName::IPAddress(bytes), IpAddr::V4(address)) => **bytes == address.octets(),
                (GeneralName::IPAddress(bytes), IpAddr::V6(address)) => **bytes == address.octets(),
                _ => false,
            }),
            Err(_) => names
                .iter()
                .any(|name| matches!(name, GeneralName::DNSName(name) if matches_host(name, host))),
        }
    })
}

fn matches_host(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(pattern), Some((first, rest))) => !first.is_empty() && pattern.eq_ignore_ascii_case(rest),
        _ => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        for (pattern, host, expected) in [
            ("a.test", "A.TEST", true),
            ("a.test", "a.test.", true),
            ("*.test", "a.test", true),
            ("*.test", "a.b.test", false),
            ("*.test", "test", false),
            ("*.test", ".test", false),
            ("*", "test", false),
            ("a.*", "a.test", false),
        ] {
            assert_eq!(matches_host(pattern, host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn an_address_has_to_be_named_as_one() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["127.0.0.1", "::1", "10.0.0.1.test"].map(str::to_owned);
        let params = rcgen::CertificateParams::new(names).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate");
        let good = |host: &str| is_good_for(certificate.der(), &["other.test".to_owned(), host.to_owned()]);
        assert!(good("127.0.0.1") && good("::1") && good("[::1]") && good("10.0.0.1.test"));
        assert!(!good("10.0.0.1") && !good("::") && !good(""));
    }
}
