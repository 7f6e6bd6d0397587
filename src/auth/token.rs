//! Tokens: `simple` ones, which the server stores, and JWTs, which hold everything themselves.

use super::jwt::Jwt;
use super::{AuthSettings, AuthStore, Caller, DEFAULT_TOKEN_TTL};
use rand::distr::{Distribution, slice::Choose};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Letters of a simple token before its dot.
const LETTERS: usize = 16;
/// Bytes of a token's hash that name it in the log.
const HASH_BYTES: usize = 16;

/// Why a value of `--auth-token` is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// A kind or a form that does not exist.
    #[error("auth: invalid auth options: {0}")]
    Options(String),
    /// `sign-method` is missing or not known.
    #[error("auth: invalid auth signature method: {0}")]
    Method(String),
    /// The needed key is missing.
    #[error("auth: missing key data: {0}")]
    MissingKey(&'static str),
    /// Two keys that are no pair.
    #[error("auth: public and private keys don't match")]
    KeyMismatch,
    /// A file that holds no such key.
    #[error("{option}: {reason}")]
    Key {
        /// The option that names the file.
        option: &'static str,
        /// The reason.
        reason: String,
    },
}

/// The kind of tokens.
#[derive(Clone, Debug)]
pub(crate) enum TokenSettings {
    /// None: nobody can authenticate with a password.
    None,
    /// The server's own.
    Simple,
    /// Signed ones.
    Jwt(Arc<Jwt>),
}

impl TokenSettings {
    /// Reads a value of `--auth-token`: `simple`, or `jwt` with options, of which `sign-method` is needed and
    /// the files of `pub-key` and `priv-key` are read.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) fn parse(text: &str) -> Result<TokenSettings, TokenError> {
        let mut words = text.split(',');
        let kind = words.next().unwrap_or_default();
        let mut options = HashMap::new();
        for word in words {
            let Some((name, value)) = word.split_once('=').filter(|(_, value)| !value.contains('=')) else {
                return Err(TokenError::Options(format!("{word:?} is not of the form option=value")));
            };
            if options.insert(name, value).is_some() {
                return Err(TokenError::Options(format!("{name} is given twice")));
            }
        }
        match kind {
            "" => Ok(TokenSettings::None),
            "simple" => Ok(TokenSettings::Simple),
            "jwt" => Jwt::new(&options).map(|jwt| TokenSettings::Jwt(Arc::new(jwt))),
            other => Err(TokenError::Options(format!("{other:?} is no kind of token: give simple or jwt"))),
        }
    }
}

/// The stored part of a simple token, beside the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimpleToken {
    /// Name of its user.
    pub user: String,
    /// The auth revision at which it was issued.
    pub revision: u64,
}

impl SimpleToken {
    /// A new token: 16 random letters, a dot, and a position of the store.
    pub fn generate(position: u64) -> String {
        const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let choice = Choose::new(ALPHABET).expect("the alphabet has letters");
        let letters: String =
            choice.sample_iter(rand::rng()).take(LETTERS).map(|&byte| byte as char).collect();
        format!("{letters}.{position}")
    }
}

/// A simple token on this instance.
#[derive(Debug)]
struct Known {
    user: Arc<str>,
    revision: u64,
    /// The token expires at this time, unless it is used before.
    deadline: Instant,
    /// Time of the last use that was reported to the writer.
    reported: Instant,
}

/// The valid tokens of this instance.
#[derive(Debug)]
pub(crate) struct Tokens {
    kind: TokenSettings,
    ttl: Duration,
    /// Whether deadlines count on this instance. They count on the writer, which ends a token by a record. On
    /// other instances a token is valid for as long as the log holds it.
    keeps_time: AtomicBool,
    known: Mutex<HashMap<String, Known>>,
}

/// The name of a simple token in the log. The log does not hold the token itself, so that a reader of the
/// bucket cannot use it.
pub(crate) fn token_hash(token: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    digest.as_ref()[..HASH_BYTES].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl Tokens {
    pub(super) fn new(settings: &AuthSettings) -> Tokens {
        Tokens {
            kind: settings.token.clone(),
            ttl: if settings.token_ttl.is_zero() { DEFAULT_TOKEN_TTL } else { settings.token_ttl },
            keeps_time: AtomicBool::new(false),
            known: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // Each change is complete before the lock is released, so a panic elsewhere leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kind that is issued.
    pub(crate) fn kind(&self) -> &TokenSettings {
        &self.kind
    }

    /// Adds a token that the log holds.
    pub(crate) fn remember(&self, hash: &str, token: SimpleToken) {
        let now = Instant::now();
        let known = Known {
            user: token.user.into(),
            revision: token.revision,
            deadline: now + self.ttl,
            reported: now,
        };
        self.lock().insert(hash.to_owned(), known);
    }

    /// Removes a token that the log has ended.
    pub(crate) fn forget(&self, hash: &str) {
        self.lock().remove(hash);
    }

    /// Removes all other tokens.
    pub(crate) fn keep_only(&self, is_kept: impl Fn(&str) -> bool) {
        self.lock().retain(|hash, _| is_kept(hash));
    }

    /// Sets whether deadlines count on this instance. Each token gets its full time again.
    pub(crate) fn keep_time(&self, keeps_time: bool) {
        let deadline = Instant::now() + self.ttl;
        self.lock().values_mut().for_each(|known| known.deadline = deadline);
        // Relaxed: the deadlines have a lock of their own.
        self.keeps_time.store(keeps_time, Ordering::Relaxed);
    }

    /// The hashes of expired tokens.
    pub(crate) fn expired(&self) -> Vec<String> {
        let now = Instant::now();
        self.lock().iter().filter(|(_, known)| known.deadline <= now).map(|(hash, _)| hash.clone()).collect()
    }

    /// Records a use of a token on another instance.
    pub(crate) fn touch(&self, hash: &str) {
        if let Some(known) = self.lock().get_mut(hash) {
            known.deadline = Instant::now() + self.ttl;
        }
    }

    /// Whether it is decided that a token is valid or not: it is in the table, or has not the form of a
    /// simple token.
    pub(crate) fn is_decided(&self, token: &str) -> bool {
        if !matches!(self.kind, TokenSettings::Simple) {
            return true;
        }
        let looks_right = token.split_once('.').is_some_and(|(letters, position)| {
            letters.len() == LETTERS
                && letters.bytes().all(|byte| byte.is_ascii_alphabetic())
                && position.parse::<u64>().is_ok()
        });
        !looks_right || self.lock().contains_key(&token_hash(token))
    }

    /// The user of a token. A use of a simple token renews it.
    pub(super) fn caller(&self, token: &str, store: &AuthStore) -> Option<Caller> {
        match &self.kind {
            TokenSettings::None => None,
            TokenSettings::Jwt(jwt) => jwt.verify(token),
            TokenSettings::Simple => {
                let now = Instant::now();
                let mut table = self.lock();
                let known = table.get_mut(&token_hash(token))?;
                let is_over = known.deadline <= now && self.keeps_time.load(Ordering::Relaxed);
                if is_over || !store.accepts_token_of(&known.user, known.revision) {
                    return None;
                }
                known.deadline = now + self.ttl;
                Some(Caller::new(Arc::clone(&known.user), store.revision()))
            }
        }
    }

    /// The hash of a token whose use this instance must report to the writer. Each token is returned once in
    /// a while.
    pub(crate) fn take_unreported_use(&self, token: &str) -> Option<String> {
        if !matches!(self.kind, TokenSettings::Simple) || self.keeps_time.load(Ordering::Relaxed) {
            return None;
        }
        let (now, hash) = (Instant::now(), token_hash(token));
        let mut table = self.lock();
        let known = table.get_mut(&hash)?;
        if now.duration_since(known.reported) < self.ttl / 4 {
            return None;
        }
        known.reported = now;
        Some(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        TokenSettings::parse(text).expect_err("it must be refused").to_string()
    }

    #[test]
    fn kinds_and_options_are_read() {
        assert!(matches!(TokenSettings::parse("simple"), Ok(TokenSettings::Simple)));
        // Options that mean nothing to a simple token are no error in etcd.
        assert!(matches!(TokenSettings::parse("simple,a=b,c="), Ok(TokenSettings::Simple)));
        assert!(matches!(TokenSettings::parse(""), Ok(TokenSettings::None)));
        for text in ["jwt2", "Simple", "simple,", "simple,a", "simple,a=b=c", "simple,a=b,a=c"] {
            assert!(refusal(text).starts_with("auth: invalid auth options"), "{text}");
        }
    }

    #[test]
    fn keys_of_signed_tokens_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, contents: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, contents).unwrap();
            path.display().to_string()
        };
        let (one, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let private = file("one.key", &one.serialize_pem());
        let public = file("one.pub", &one.public_key_pem());
        let others = file("other.pub", &other.public_key_pem());
        let parse = |options: String| TokenSettings::parse(&format!("jwt,{options}"));
        for options in [
            format!("sign-method=ES256,priv-key={private},pub-key={public},ttl=1h"),
            format!("sign-method=ES256,priv-key={private}"),
            format!("sign-method=ES256,pub-key={public}"),
            format!("sign-method=HS512,priv-key={public},unknown=1"),
        ] {
            assert!(matches!(parse(options.clone()), Ok(TokenSettings::Jwt(_))), "{options}");
        }
        assert_eq!(refusal("jwt").split(':').nth(1), Some(" invalid auth signature method"));
        assert!(refusal("jwt,sign-method=none").starts_with("auth: invalid auth signature method"));
        assert!(refusal("jwt,sign-method=HS256").starts_with("auth: missing key data"));
        assert!(refusal("jwt,sign-method=ES256").starts_with("auth: missing key data"));
        assert!(refusal(&format!("jwt,sign-method=HS256,pub-key={public}")).contains("missing key data"));
        assert!(
            refusal("jwt,sign-method=RS256,priv-key=/no/such/file").starts_with("priv-key: /no/such/file")
        );
        assert!(refusal("jwt,sign-method=HS256,ttl=soon").contains("ttl soon"));
        let mismatch = format!("sign-method=ES256,priv-key={private},pub-key={others}");
        assert_eq!(parse(mismatch).unwrap_err(), TokenError::KeyMismatch);
        let wrong_kind = refusal(&format!("jwt,sign-method=RS256,priv-key={private}"));
        assert!(wrong_kind.starts_with("priv-key: "), "{wrong_kind}");
        let wrong_half = refusal(&format!("jwt,sign-method=ES256,pub-key={private}"));
        assert!(wrong_half.starts_with("pub-key: "), "{wrong_half}");
    }

    fn tokens(ttl: Duration) -> (Tokens, AuthStore) {
        let settings = AuthSettings { token_ttl: ttl, ..AuthSettings::default() };
        let mut store = AuthStore::default();
        store.add_user("root", None).unwrap();
        store.grant_role("root", "root").unwrap();
        store.add_user("u", Some("hash")).unwrap();
        store.enable().unwrap();
        (Tokens::new(&settings), store)
    }

    #[test]
    fn a_token_ends_with_its_user_its_password_and_auth() {
        let entry = |store: &AuthStore| SimpleToken { user: "u".into(), revision: store.revision() };
        let changes: [fn(&mut AuthStore); 3] = [
            |store| store.change_password("u", "other").unwrap(),
            |store| {
                store.delete_user("u").unwrap();
                store.add_user("u", Some("hash")).unwrap();
            },
            |store| {
                store.disable();
                store.enable().unwrap();
            },
        ];
        for change in changes {
            let (tokens, mut store) = tokens(DEFAULT_TOKEN_TTL);
            tokens.remember(&token_hash("t"), entry(&store));
            store.add_role("harmless").unwrap();
            assert_eq!(tokens.caller("t", &store).unwrap().user(), Some("u"));
            change(&mut store);
            assert!(tokens.caller("t", &store).is_none());
            // A load of the log finds the old token again, and it stays void.
            tokens.remember(&token_hash("t"), SimpleToken { user: "u".into(), revision: 3 });
            assert!(tokens.caller("t", &store).is_none());
            tokens.remember(&token_hash("new"), entry(&store));
            assert!(tokens.caller("new", &store).is_some());
        }
    }

    #[test]
    fn a_token_runs_out_where_time_is_kept() {
        let (tokens, store) = tokens(Duration::from_nanos(1));
        tokens.remember(&token_hash("t"), SimpleToken { user: "u".into(), revision: store.revision() });
        assert!(tokens.caller("t", &store).is_some() && tokens.take_unreported_use("t").is_some());
        tokens.keep_time(true);
        assert!(tokens.caller("t", &store).is_none() && tokens.take_unreported_use("t").is_none());
        assert_eq!(tokens.expired(), [token_hash("t")]);
        tokens.forget(&token_hash("t"));
        assert!(tokens.expired().is_empty());
        assert!(tokens.is_decided("odd") && !tokens.is_decided("abcdefghijklmnop.1"));
    }

    #[test]
    fn invented_tokens_have_the_form_of_etcds() {
        let (tokens, _) = tokens(DEFAULT_TOKEN_TTL);
        let (one, other) = (SimpleToken::generate(7), SimpleToken::generate(7));
        assert_ne!(one, other);
        assert!(!tokens.is_decided(&one), "{one}");
        assert!(one.ends_with(".7"));
    }
}
