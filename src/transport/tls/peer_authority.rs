//! `--peer-auto-tls`: certificates of an authority that all members of a cluster have in common.
//!
//! etcd's members take any certificate with this flag. nats-server checks the certificates of both sides of a
//! route in any case, so there must be an authority. Each member derives the authority's key from the
//! cluster's token and issues its own certificate, so only those who know the token are let in.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

const DAY: Duration = Duration::from_hours(24);

/// The encoding of an Ed25519 key (RFC 8410) up to its seed of 32 bytes.
const ED25519_KEY_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The certificate for the peer port cannot be made.
#[derive(Debug, Error)]
pub enum PeerCertificateError {
    /// It cannot be signed.
    #[error("--peer-auto-tls: {0}")]
    Sign(#[from] rcgen::Error),
    /// Its files cannot be written.
    #[error("--peer-auto-tls: cannot write to {}: {source}; --data-dir must name a directory that jetway may write", dir.display())]
    Write {
        /// Their directory.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Writes `cert.pem`, `key.pem` and `ca.pem` to `dir`, for `hosts` (names and addresses). They are made anew
/// at each start, so none of them expires in a member that is restarted in time.
///
/// # Errors
/// [`PeerCertificateError`].
pub(crate) fn issue(
    dir: &Path,
    token: &str,
    hosts: Vec<String>,
    validity_years: u32,
) -> Result<(), PeerCertificateError> {
    let (not_before, years) = (time::OffsetDateTime::now_utc() - DAY, validity_years.max(1));
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name = DistinguishedName::new();
    authority.distinguished_name.push(DnType::CommonName, "members of a jetway cluster");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (authority.not_before, authority.not_after) = (not_before, not_before + DAY * 365 * 100);
    let authority_key = derive(token)?;
    let authority_cert = authority.self_signed(&authority_key)?;
    let mut member = CertificateParams::new(hosts)?;
    member.distinguished_name = DistinguishedName::new();
    member.distinguished_name.push(DnType::OrganizationName, "jetway");
    member.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    member.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (member.not_before, member.not_after) = (not_before, not_before + DAY * 365 * years);
    let member_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let member_cert = member.signed_by(&member_key, &Issuer::new(authority, authority_key))?;
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let key = dir.join("key.pem");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(key)?;
        file.write_all(member_key.serialize_pem().as_bytes())?;
        fs::write(dir.join("cert.pem"), member_cert.pem())?;
        fs::write(dir.join("ca.pem"), authority_cert.pem())
    };
    write().map_err(|source| PeerCertificateError::Write { dir: dir.to_owned(), source })
}

/// The key of the authority.
fn derive(token: &str) -> Result<KeyPair, rcgen::Error> {
    let text = format!("jetway peer authority {token}");
    let seed = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let der = [&ED25519_KEY_PREFIX[..], seed.as_ref()].concat();
    KeyPair::from_pkcs8_der_and_sign_algo(&der.into(), &PKCS_ED25519)
}
