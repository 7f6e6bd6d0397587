//! Certificates, keys and revocation lists, made afresh for each test.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

/// A certificate with its key, both PEM.
#[derive(Debug)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub cert: String,
}

/// The fields of a certificate that is issued.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    /// The common name; none if empty.
    pub name: &'a str,
    pub hosts: &'a [&'a str],
    pub serial: u64,
    /// Days from now on which it begins and ends to be valid.
    pub days: (i64, i64),
    pub usage: Usage,
}

/// The extended key usages of a certificate.
#[derive(Clone, Copy, Debug)]
pub enum Usage {
    Both,
    Server,
}

impl Default for Template<'_> {
    fn default() -> Self {
        Self {
            name: "client",
            hosts: &["127.0.0.1", "localhost"],
            serial: 7,
            days: (-1, 10),
            usage: Usage::Both,
        }
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), cert }
    }

    pub fn issue(&self, template: Template<'_>) -> Pair {
        let hosts: Vec<String> = template.hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "jetway");
        if !template.name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, template.name);
        }
        params.serial_number = Some(SerialNumber::from(template.serial));
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::days(template.days.0);
        params.not_after = now + Duration::days(template.days.1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match template.usage {
            Usage::Both => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { cert, key: key.serialize_pem() }
    }

    /// A revocation list (DER) of these serial numbers.
    pub fn revoke(&self, serials: &[u64]) -> Vec<u8> {
        let now = OffsetDateTime::now_utc();
        let revoked = |&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

/// A folder with an authority, a server's certificate and its key.
pub struct Material {
    dir: TempDir,
    pub authority: Authority,
}

impl Material {
    pub fn create() -> Self {
        let authority = Authority::new("the authority");
        let material = Self { dir: tempfile::tempdir().unwrap(), authority };
        material.write("ca.pem", &material.authority.cert);
        material.serve(Template { name: "server", ..Template::default() });
        material
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As a flag's value.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Puts a whole file in place at once.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        replace(&self.path(name), contents.as_ref());
    }

    /// Puts another certificate with its key in the server's place.
    pub fn serve(&self, template: Template<'_>) {
        let pair = self.authority.issue(template);
        self.write("server.pem", pair.cert);
        self.write("server.key", pair.key);
    }
}

fn replace(path: &Path, contents: &[u8]) {
    let next = path.with_extension("next");
    fs::write(&next, contents).unwrap();
    fs::rename(&next, path).unwrap();
}
