//! Which client certificates are taken, and whose they are.

use super::TlsError;
use super::files::{Revoked, certificates, number};
use crate::cli::TlsSettings;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What is asked of clients.
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
    /// The certificate is good for one of these hosts.
    Hosts(Vec<ServerName<'static>>),
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
            (true, false) => Allowed::Hosts(hosts.iter().map(host).collect::<Result<_, _>>()?),
            (false, false) => {
                return Err(TlsError::new(
                    "--client-cert-allowed-cn",
                    names.join(","),
                    "does not go together with --client-cert-allowed-hostname; give one of them",
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

    /// Whether the common name of a client's certificate says who the client is.
    pub(super) fn are_named(&self) -> bool {
        self.named
    }

    /// What checks that somebody trusted has signed a client's certificate; `None` if clients are not asked for one.
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
            Err(error) => {
                Err(TlsError::of_file("--trusted-ca-file", file.unwrap_or(Path::new("")), error.to_string()))
            }
        }
    }
}

fn host(name: &String) -> Result<ServerName<'static>, TlsError> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(bare.to_owned()).map_err(|_| {
        TlsError::new("--client-cert-allowed-hostname", name, "is neither a host name nor an address")
    })
}

/// The authorities in a file, or those of the system, which is what etcd asks when it is given none.
fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            let reason = "this system has no authorities to check against: give --trusted-ca-file";
            return Err(TlsError::new("--client-cert-auth", "true", reason));
        }
        tracing::warn!("--client-cert-auth without --trusted-ca-file trusts every authority of this system");
        return Ok(roots);
    };
    let refused = |reason: String| TlsError::of_file("--trusted-ca-file", path, reason);
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    for certificate in certificates(&pem).map_err(refused)? {
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
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
            Allowed::Hosts(hosts) => {
                let parsed = ParsedCertificate::try_from(leaf)?;
                hosts.iter().any(|host| verify_server_name(&parsed, host).is_ok())
            }
        };
        if is_allowed {
            return Ok(());
        }
        let name = common_name(leaf);
        tracing::warn!(name, "client certificate authentication failed: its name is not an allowed one");
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    /// As etcd does it: by serial number alone, whoever issued the certificate or the list, and over all that the client
    /// has sent.
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
