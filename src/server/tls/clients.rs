//! Which client certificates are taken, and whose they are.

use super::files::{certificates, number};
use super::{TlsError, TlsSettings};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The authorities in a file, or those of the system, which is what etcd asks when it is given none.
pub(super) fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
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

/// Checks a client's certificate: its chain, the names it may have, and that nobody has revoked it.
#[derive(Debug)]
pub(super) struct ClientCheck {
    chain: Arc<dyn ClientCertVerifier>,
    allowed_cn: Vec<String>,
    allowed_hostname: Vec<ServerName<'static>>,
    /// Whether there are names to compare with; a list of host names none of which can be one allows nobody.
    names_count: bool,
    revoked: Option<Result<HashSet<Vec<u8>>, String>>,
}

impl ClientCheck {
    pub(super) fn new(
        chain: Arc<dyn ClientCertVerifier>,
        settings: &TlsSettings,
        revoked: Option<Result<HashSet<Vec<u8>>, String>>,
    ) -> ClientCheck {
        let hosts = settings.allowed_hostname.iter();
        ClientCheck {
            chain,
            allowed_cn: settings.allowed_cn.clone(),
            allowed_hostname: hosts.filter_map(|host| ServerName::try_from(host.clone()).ok()).collect(),
            names_count: !settings.allowed_cn.is_empty() || !settings.allowed_hostname.is_empty(),
            revoked,
        }
    }

    fn check_names(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if !self.names_count {
            return Ok(());
        }
        let has_name = common_name(leaf).is_some_and(|name| self.allowed_cn.contains(&name));
        let parsed = ParsedCertificate::try_from(leaf)?;
        if has_name || self.allowed_hostname.iter().any(|host| verify_server_name(&parsed, host).is_ok()) {
            return Ok(());
        }
        tracing::warn!(
            name = common_name(leaf),
            "client certificate authentication failed: its name is not one of the allowed ones"
        );
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
        self.check_names(end_entity)?;
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
