//! Tokens: `simple` ones, which the server remembers, and JWTs, which say all themselves.

use super::jwt::Jwt;
use super::{AuthStore, Caller, DEFAULT_TOKEN_TTL, Settings};
use rand::distr::{Distribution, slice::Choose};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Letters of a simple token before its dot.
const LETTERS: usize = 16;
/// How often tokens that have run out are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Why a value of `--auth-token` is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// A kind or a form that does not exist.
    #[error("auth: invalid auth options: {0}")]
    Options(String),
    /// `sign-method` is missing or not known.
    #[error("auth: invalid auth signature method: {0}")]
    Method(String),
    /// Neither key is there, or not the one that is needed.
    #[error("auth: missing key data: {0}")]
    MissingKey(&'static str),
    /// Two keys that are no pair.
    #[error("auth: public and private keys don't match")]
    KeyMismatch,
    /// A file with something else in it.
    #[error("{option}: {reason}")]
    Key {
        /// The option that names the file.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Which tokens there are.
#[derive(Clone, Debug)]
pub enum TokenSettings {
    /// None: nobody can authenticate with a password.
    None,
    /// The server's own.
    Simple,
    /// Signed ones.
    Jwt(Arc<Jwt>),
}

impl TokenSettings {
    /// Reads a value of `--auth-token`: `simple`, or `jwt` with options, of which `sign-method` is needed and the files
    /// of `pub-key` and `priv-key` are read.
    pub fn parse(text: &str) -> Result<TokenSettings, TokenError> {
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

/// What is stored of a simple token, beside the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimpleToken {
    /// Whose it is.
    pub user: String,
    /// The auth revision at which it was issued.
    pub revision: u64,
}

/// A simple token as it is remembered here.
#[derive(Debug)]
struct Remembered {
    user: Arc<str>,
    revision: u64,
    /// When it runs out unless it is used.
    deadline: Instant,
    /// When its entry was last written, by whomever.
    stored: Instant,
}

#[derive(Debug)]
struct Table {
    tokens: HashMap<String, Remembered>,
    swept: Instant,
}

/// The tokens that are good here.
#[derive(Debug)]
pub struct Tokens {
    kind: TokenSettings,
    ttl: Duration,
    table: Mutex<Table>,
}

impl Tokens {
    pub(super) fn new(settings: &Settings) -> Tokens {
        Tokens {
            kind: settings.token.clone(),
            ttl: if settings.token_ttl.is_zero() { DEFAULT_TOKEN_TTL } else { settings.token_ttl },
            table: Mutex::new(Table { tokens: HashMap::new(), swept: Instant::now() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is complete before the lock is let go, so a panic elsewhere leaves nothing half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which kind is issued.
    pub fn kind(&self) -> &TokenSettings {
        &self.kind
    }

    /// A token that nobody has: 16 letters, a dot, and a position of the store.
    pub fn invent(&self, position: u64) -> String {
        const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let letters = Choose::new(ALPHABET).expect("the alphabet has letters");
        let rng = rand::rng();
        let mut token: String =
            letters.sample_iter(rng).take(LETTERS).map(|&letter| letter as char).collect();
        token.push('.');
        token.push_str(&position.to_string());
        token
    }

    /// How long a simple token's entry must be kept. Longer than a token lives without use, since its use is told to
    /// the stream only now and then.
    pub fn entry_ttl(&self) -> Duration {
        self.ttl + self.ttl / 2
    }

    /// Remembers a simple token whose entry was stored so long ago.
    pub fn remember(&self, token: &str, entry: SimpleToken, age: Duration) {
        let now = Instant::now();
        let mut table = self.lock();
        if now.duration_since(table.swept) >= SWEEP_INTERVAL {
            table.tokens.retain(|_, token| token.deadline > now);
            table.swept = now;
        }
        let Some(left) = self.ttl.checked_sub(age) else { return };
        let deadline = now + left;
        let remembered =
            Remembered { user: entry.user.into(), revision: entry.revision, deadline, stored: now };
        match table.tokens.get_mut(token) {
            // An entry that only says that the token was used, by us or on another instance.
            Some(known) => {
                known.deadline = known.deadline.max(deadline);
                known.stored = now;
            }
            None => drop(table.tokens.insert(token.to_owned(), remembered)),
        }
    }

    /// Whether a simple token is known here, or could not be one at all.
    pub fn is_settled(&self, token: &str) -> bool {
        if !matches!(self.kind, TokenSettings::Simple) {
            return true;
        }
        let looks_right = token.split_once('.').is_some_and(|(letters, position)| {
            letters.len() == LETTERS
                && letters.bytes().all(|byte| byte.is_ascii_alphabetic())
                && position.parse::<u64>().is_ok()
        });
        !looks_right || self.lock().tokens.contains_key(token)
    }

    /// Whom a token belongs to. Using a simple one makes it live on.
    pub(super) fn caller(&self, token: &str, store: &AuthStore) -> Option<Caller> {
        match &self.kind {
            TokenSettings::None => None,
            TokenSettings::Jwt(jwt) => jwt.verify(token),
            TokenSettings::Simple => {
                let now = Instant::now();
                let mut table = self.lock();
                let known = table.tokens.get_mut(token)?;
                if known.deadline <= now || !store.accepts_token_of(&known.user, known.revision) {
                    table.tokens.remove(token);
                    return None;
                }
                known.deadline = now + self.ttl;
                Some(Caller::new(Arc::clone(&known.user), store.revision()))
            }
        }
    }

    /// The entry of a simple token that is in use and whose entry is getting old; told once, since whoever asks writes
    /// it again.
    pub fn wants_renewal(&self, token: &str) -> Option<SimpleToken> {
        if !matches!(self.kind, TokenSettings::Simple) {
            return None;
        }
        let now = Instant::now();
        let mut table = self.lock();
        let known = table.tokens.get_mut(token)?;
        if now.duration_since(known.stored) < self.ttl / 2 {
            return None;
        }
        known.stored = now;
        Some(SimpleToken { user: known.user.to_string(), revision: known.revision })
    }
}
