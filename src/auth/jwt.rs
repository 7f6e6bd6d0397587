//! JSON web tokens. Each instance has the key that signs them, so no instance stores them.

use super::claims::Claims;
use super::{Caller, TokenError};
use crate::duration;
use crate::error::EtcdError;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use ring::signature::KeyPair;
use ring::{rand, signature};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// Validity of a token without the option `ttl`.
const DEFAULT_TTL: Duration = Duration::from_mins(5);
const METHODS: &[(&str, Algorithm)] = &[
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];
const PRIVATE: &str = "priv-key";
const PUBLIC: &str = "pub-key";

/// Base64 of the parts of a token, as the library of etcd reads it: no padding, and any value in the
/// unused bits of the last letter.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

#[derive(Serialize)]
struct Issued<'a> {
    username: &'a str,
    revision: u64,
    exp: u64,
}

/// Issues and checks tokens.
pub(crate) struct Jwt {
    method: Algorithm,
    /// `None` if the server only checks tokens that others have signed.
    signing: Option<EncodingKey>,
    checking: DecodingKey,
    ttl: Duration,
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The keys are left out: this goes to the log.
        f.debug_struct("Jwt").field("method", &self.method).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl Jwt {
    /// Reads the options behind `jwt`.
    pub(super) fn new(options: &HashMap<&str, &str>) -> Result<Jwt, TokenError> {
        let given = |name: &str| options.get(name).copied().filter(|value| !value.is_empty());
        let ttl = match given("ttl") {
            None => DEFAULT_TTL,
            Some(ttl) => {
                duration::parse(ttl).map_err(|reason| TokenError::Options(format!("ttl {ttl}: {reason}")))?
            }
        };
        let read = |option: &'static str| -> Result<Option<Vec<u8>>, TokenError> {
            let read = |path| std::fs::read(path).map_err(|error| wrong(option, format!("{path}: {error}")));
            given(option).map(read).transpose()
        };
        let (public, private) = (read(PUBLIC)?, read(PRIVATE)?);
        let name = given("sign-method").unwrap_or_default();
        let method = METHODS.iter().find(|(known, _)| *known == name).map(|(_, method)| *method);
        let method = method.ok_or_else(|| {
            let known: Vec<_> = METHODS.iter().map(|(name, _)| *name).collect();
            TokenError::Method(format!("sign-method {name:?}: give one of {}", known.join(", ")))
        })?;
        let unknown: Vec<_> =
            options.keys().filter(|name| !["sign-method", PUBLIC, PRIVATE, "ttl"].contains(name)).collect();
        if !unknown.is_empty() {
            tracing::warn!(?unknown, "unknown JWT options");
        }
        let (signing, checking) = keys(method, public.as_deref(), private.as_deref())?;
        let jwt = Jwt { method, signing, checking, ttl };
        jwt.check_pair()?;
        Ok(jwt)
    }

    /// A token for a user at an auth revision.
    ///
    /// # Errors
    /// [`EtcdError::Unknown`] without a key to sign with.
    pub(crate) fn sign(&self, user: &str, revision: u64) -> Result<String, EtcdError> {
        let Some(key) = &self.signing else {
            return Err(EtcdError::Unknown("auth: token signing attempted with verify-only key".into()));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = Issued { username: user, revision, exp: (now + self.ttl).as_secs() };
        jsonwebtoken::encode(&Header::new(self.method), &claims, key)
            .map_err(|error| EtcdError::Unknown(error.to_string()))
    }

    /// The user that a token names, and the auth revision at which it was issued; `None` for an invalid
    /// token.
    pub(super) fn verify(&self, token: &str) -> Option<Caller> {
        let Claims { username, revision } = Claims::read(&self.payload(token)?, SystemTime::now())?;
        Some(Caller::new(username.into(), revision))
    }

    /// The claims of a token with the right method and a valid signature. Of the header only the method
    /// counts, as in etcd.
    fn payload(&self, token: &str) -> Option<Vec<u8>> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header: Value = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
        let name = METHODS.iter().find(|(_, method)| *method == self.method).map(|(name, _)| *name);
        if header.get("alg").and_then(Value::as_str) != name {
            return None;
        }
        // The library takes no text with spare bits.
        let signature = BASE64.encode(BASE64.decode(signature).ok()?);
        let is_valid =
            jsonwebtoken::crypto::verify(&signature, message.as_bytes(), &self.checking, self.method);
        if is_valid.is_ok_and(|is_valid| is_valid) { BASE64.decode(payload).ok() } else { None }
    }

    /// Checks that the public key accepts a signature of the private key.
    fn check_pair(&self) -> Result<(), TokenError> {
        if self.signing.is_none() {
            return Ok(());
        }
        let token = self.sign("", 0).map_err(|error| wrong(PRIVATE, error.to_string()))?;
        self.payload(&token).map(drop).ok_or(TokenError::KeyMismatch)
    }
}

fn wrong(option: &'static str, reason: String) -> TokenError {
    TokenError::Key { option, reason }
}

/// The key to sign with, if there is one, and the key to check with.
fn keys(
    method: Algorithm,
    public: Option<&[u8]>,
    private: Option<&[u8]>,
) -> Result<(Option<EncodingKey>, DecodingKey), TokenError> {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512};
    if matches!(method, HS256 | HS384 | HS512) {
        let secret = private
            .filter(|secret| !secret.is_empty())
            .ok_or(TokenError::MissingKey("this method needs priv-key, a file with the secret"))?;
        return Ok((Some(EncodingKey::from_secret(secret)), DecodingKey::from_secret(secret)));
    }
    let signing = private.map(|pem| private_key(method, pem)).transpose()?;
    let checking = public
        .map(|pem| match method {
            ES256 | ES384 => DecodingKey::from_ec_pem(pem),
            EdDSA => DecodingKey::from_ed_pem(pem),
            _ => DecodingKey::from_rsa_pem(pem),
        })
        .transpose()
        .map_err(|error| wrong(PUBLIC, error.to_string()))?;
    match (signing, checking) {
        (None, None) => Err(TokenError::MissingKey("give pub-key, priv-key or both")),
        (None, Some(checking)) => Ok((None, checking)),
        (Some((signing, _)), Some(checking)) => Ok((Some(signing), checking)),
        (Some((signing, derived)), None) => Ok((Some(signing), derived)),
    }
}

/// A private key, and its public half.
fn private_key(method: Algorithm, pem: &[u8]) -> Result<(EncodingKey, DecodingKey), TokenError> {
    let refused = |error: &dyn fmt::Display| wrong(PRIVATE, error.to_string());
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| refused(&error))?;
    match (method, key) {
        (Algorithm::ES256 | Algorithm::ES384, key) => {
            let algorithm = match method {
                Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                _ => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            };
            let pkcs8 = match key {
                PrivateKeyDer::Sec1(sec1) => wrap_sec1(method, sec1.secret_sec1_der()),
                other => other.secret_der().to_vec(),
            };
            let pair = signature::EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8, &rand::SystemRandom::new())
                .map_err(|error| refused(&error))?;
            Ok((EncodingKey::from_ec_der(&pkcs8), DecodingKey::from_ec_der(pair.public_key().as_ref())))
        }
        (Algorithm::EdDSA, key) => {
            let der = key.secret_der();
            let pair = signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                .map_err(|error| refused(&error))?;
            Ok((EncodingKey::from_ed_der(der), DecodingKey::from_ed_der(pair.public_key().as_ref())))
        }
        (_, key) => {
            let pair = match &key {
                PrivateKeyDer::Pkcs1(pkcs1) => signature::RsaKeyPair::from_der(pkcs1.secret_pkcs1_der()),
                other => signature::RsaKeyPair::from_pkcs8(other.secret_der()),
            };
            let pair = pair.map_err(|error| refused(&error))?;
            let signing = EncodingKey::from_rsa_pem(pem).map_err(|error| refused(&error))?;
            Ok((signing, DecodingKey::from_rsa_der(pair.public_key().as_ref())))
        }
    }
}

/// Turns an EC key of OpenSSL's older commands into the form that ring reads: algorithm and curve go in
/// front.
fn wrap_sec1(method: Algorithm, sec1: &[u8]) -> Vec<u8> {
    const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    let curve = if method == Algorithm::ES256 { P256 } else { P384 };
    let algorithm = der(0x30, &[EC_PUBLIC_KEY, curve].concat());
    der(0x30, &[&[0x02, 0x01, 0x00], algorithm.as_slice(), &der(0x04, sec1)].concat())
}

/// A DER value with its tag and length; less than 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = (content.len() as u16).to_be_bytes();
    let length = match content.len() {
        0..=0x7f => vec![low],
        0x80..=0xff => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], length.as_slice(), content].concat()
}
