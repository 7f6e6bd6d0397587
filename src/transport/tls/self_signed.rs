//! `--auto-tls`: a certificate that its own key has signed.

use super::{TlsError, TlsReason};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

/// Paths of a certificate and its key in `dir`. They are made for `hosts` (names and addresses) unless both
/// exist.
///
/// # Errors
/// The flag is zero, or the files cannot be written.
pub(super) fn create(
    dir: &Path,
    hosts: Vec<String>,
    validity_years: u32,
) -> Result<(PathBuf, PathBuf), TlsError> {
    if validity_years == 0 {
        return Err(TlsError::new("--self-signed-cert-validity", "0", TlsReason::NoValidity));
    }
    let (cert_path, key_path) = (dir.join("cert.pem"), dir.join("key.pem"));
    if cert_path.exists() && key_path.exists() {
        return Ok((cert_path, key_path));
    }
    let failed = |reason: TlsReason| TlsError::of_file("--auto-tls", &cert_path, reason);
    let (cert, key) = generate(hosts, validity_years).map_err(|error| failed(error.into()))?;
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // The key first: a certificate without its key would be taken for a pair after a crash in between.
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&key_path)?;
        file.write_all(key.as_bytes())?;
        fs::write(&cert_path, cert)
    };
    write().map_err(|error: std::io::Error| failed(error.into()))?;
    tracing::info!(path = %cert_path.display(), validity_years, "made a self-signed certificate");
    Ok((cert_path, key_path))
}

/// A certificate and its key, both PEM.
fn generate(hosts: Vec<String>, validity_years: u32) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "etcd");
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from(rand::random::<u64>()));
    params.not_before = time::OffsetDateTime::now_utc();
    params.not_after = params.not_before + DAY * 365 * validity_years;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // etcd takes P-521, which ring does not have.
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
