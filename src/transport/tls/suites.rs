//! Cipher suites by the names that Go, and so etcd, gives them.

use super::{TlsError, TlsReason};
use tokio_rustls::rustls::crypto::ring::{self, cipher_suite as suite};
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::{SupportedCipherSuite, SupportedProtocolVersion};

const FLAG: &str = "--cipher-suites";

/// The suites of TLS 1.2 in rustls. All of them are AEADs with forward secrecy.
const TLS12_SUITES: [(&str, SupportedCipherSuite); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Those of TLS 1.3, which Go knows by name and never turns off.
const TLS13_SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Suites that etcd takes and rustls does not have: without forward secrecy, with CBC, or worse.
const MISSING_SUITES: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// The suites that `names` allow; all if there are no names. As in Go the names choose among those of TLS 1.2
/// only, and their order counts for nothing.
///
/// A name of a missing suite is left out, which weakens nothing.
///
/// # Errors
/// An unknown name, or TLS 1.2 alone without a suite.
pub(super) fn choose(
    names: &[String],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let all = ring::default_provider().cipher_suites;
    if names.is_empty() {
        return Ok(all);
    }
    let mut chosen = Vec::new();
    let mut missing = Vec::new();
    for name in names {
        // Go has two older names without the hash.
        let is_old = name.starts_with("TLS_ECDHE_") && name.ends_with("_CHACHA20_POLY1305");
        let full = if is_old { format!("{name}_SHA256") } else { name.clone() };
        if let Some((_, suite)) = TLS12_SUITES.iter().find(|(known, _)| *known == full) {
            chosen.push(*suite);
        } else if MISSING_SUITES.contains(&full.as_str()) {
            missing.push(name.as_str());
        } else if !TLS13_SUITES.contains(&full.as_str()) {
            return Err(TlsError::new(FLAG, name, TlsReason::UnknownSuite { name: name.clone() }));
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(",");
        let tls12_only = versions.iter().all(|version| **version == TLS12);
        if chosen.is_empty() && tls12_only {
            return Err(TlsError::new(FLAG, missing, TlsReason::MissingSuites));
        }
        tracing::warn!(flag = FLAG, missing, "cipher suites that are not available are left out");
    }
    chosen.extend(all.into_iter().filter(|suite| suite.tls13().is_some()));
    Ok(chosen)
}

/// The names of the suites of TLS 1.2, for the text of an error.
pub(super) fn names() -> String {
    let names: Vec<&str> = TLS12_SUITES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_rustls::rustls::version::TLS13;

    /// The number of suites of TLS 1.2.
    fn chosen(names: &[&str], versions: &[&'static SupportedProtocolVersion]) -> Result<usize, TlsError> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let suites = choose(&names, versions)?;
        Ok(suites.iter().filter(|suite| suite.tls13().is_none()).count())
    }

    fn refused(names: &[&str], versions: &[&'static SupportedProtocolVersion]) -> String {
        chosen(names, versions).expect_err("it is refused").to_string()
    }

    #[test]
    fn names_choose_among_the_suites_of_tls_1_2() {
        let both: [&'static SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
        let count = |names: &[&str]| chosen(names, &both).expect("known names");
        assert_eq!(count(&[]), 6);
        assert_eq!(count(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]), 1);
        assert_eq!(count(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]), 1, "an older name");
        assert_eq!(count(&["TLS_AES_128_GCM_SHA256"]), 0, "a name of TLS 1.3");
    }

    #[test]
    fn a_missing_suite_is_left_out_while_another_remains() {
        const CBC: &str = "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA";
        let count = |names: &[&str], versions: &[_]| chosen(names, versions).expect("something remains");
        assert_eq!(count(&[CBC, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"], &[&TLS12]), 1);
        assert_eq!(count(&[CBC], &[&TLS12, &TLS13]), 0);
        let error = refused(&[CBC], &[&TLS12]);
        assert!(error.contains(CBC) && error.contains(TLS12_SUITES[0].0), "{error}");
    }

    #[test]
    fn an_unknown_name_is_refused_in_etcd_s_words() {
        let error = refused(&["TLS_NONE"], &[&TLS12]);
        assert!(error.contains(r#"unexpected TLS cipher suite "TLS_NONE""#), "{error}");
    }
}
