//! Credentials, in the form in which each new connection sends them.
//!
//! Files are read anew at each connection, since they may have been renewed.

use nkeys::KeyPair;
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::sync::watch;

/// The token of the embedded server that runs; `None` while none is known to listen.
#[derive(Clone)]
pub struct RunToken(pub watch::Receiver<Option<String>>);

impl PartialEq for RunToken {
    fn eq(&self, other: &RunToken) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Eq for RunToken {}

impl std::fmt::Debug for RunToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RunToken(…)")
    }
}

/// Credentials for NATS. The client library ignores those in a URL.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// None.
    #[default]
    Anonymous,
    /// User and password.
    Password(String, String),
    /// Token.
    Token(String),
    /// A `.creds` file with a user JWT and its key.
    CredentialsFile(PathBuf),
    /// A file with the seed of an nkey.
    NkeyFile(PathBuf),
    /// A user JWT and the seed of its key.
    Jwt(String, String),
    /// A user of the embedded server, whose password is the token of each run.
    Embedded(&'static str, RunToken),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Auth::Anonymous => "Anonymous",
            Auth::Password(..) => "Password(…)",
            Auth::Token(_) => "Token(…)",
            Auth::CredentialsFile(_) => "CredentialsFile(…)",
            Auth::NkeyFile(_) => "NkeyFile(…)",
            Auth::Jwt(..) => "Jwt(…)",
            Auth::Embedded(..) => "Embedded(…)",
        })
    }
}

/// Credentials that cannot be used.
#[derive(Debug, Error)]
pub enum LoginError {
    /// A file cannot be read.
    #[error("{flag} {}: {source}", file.display())]
    Read {
        /// The flag that names such files.
        flag: &'static str,
        /// The file.
        file: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file lacks a part.
    #[error("{flag} {}: it holds no {part}", file.display())]
    Lacks {
        /// The flag that names such files.
        flag: &'static str,
        /// The file.
        file: PathBuf,
        /// The part.
        part: &'static str,
    },
    /// A seed is not one of a user.
    #[error("{place}: the seed of the nkey cannot be used: {source}")]
    Seed {
        /// The file or the setting.
        place: String,
        /// The reason.
        source: nkeys::error::Error,
    },
    /// The embedded server does not run. Another program may listen on its port.
    #[error("the embedded nats-server is down")]
    Down,
}

/// The fields of CONNECT that show who connects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) token: Option<String>,
    pub(super) jwt: Option<String>,
    pub(super) nkey: Option<String>,
    pub(super) signature: Option<Vec<u8>>,
}

impl Auth {
    /// The credentials for a connection that is opened after this call. The token of the embedded server is
    /// taken before the connection: a program that has accepted it in place of the server gets the token of a
    /// run that has ended, never that of a later run.
    ///
    /// # Errors
    /// [`LoginError::Down`].
    pub(super) fn before_connecting(&self) -> Result<Auth, LoginError> {
        let Auth::Embedded(user, token) = self else { return Ok(self.clone()) };
        let token = token.0.borrow().clone().ok_or(LoginError::Down)?;
        Ok(Auth::Password((*user).to_owned(), token))
    }

    /// Waits until the embedded server runs. Any other server is taken to run.
    pub(super) async fn running(&self) {
        if let Auth::Embedded(_, token) = self {
            // Without a sender the server has been stopped for good.
            token.0.clone().wait_for(Option::is_some).await.ok();
        }
    }

    /// The fields for a server that has sent `nonce`.
    pub(super) async fn login(&self, nonce: &[u8]) -> Result<Login, LoginError> {
        let mut login = Login::default();
        match self {
            Auth::Anonymous => {}
            Auth::Embedded(..) => return Err(LoginError::Down),
            Auth::Password(user, password) => {
                (login.user, login.password) = (Some(user.clone()), Some(password.clone()));
            }
            Auth::Token(token) => login.token = Some(token.clone()),
            Auth::CredentialsFile(file) => {
                const FLAG: &str = "--nats-creds";
                let lacks = |part| LoginError::Lacks { flag: FLAG, file: file.clone(), part };
                let text = read(FLAG, file).await?;
                let jwt = section(&text, "NATS USER JWT").ok_or_else(|| lacks("user JWT"))?;
                let seed = section(&text, "USER NKEY SEED").ok_or_else(|| lacks("seed"))?;
                let key = key(seed, || format!("{FLAG} {}", file.display()))?;
                (login.jwt, login.signature) = (Some(jwt.to_owned()), Some(key.sign(nonce)?));
            }
            Auth::NkeyFile(file) => {
                const FLAG: &str = "--nats-nkey";
                let text = read(FLAG, file).await?;
                // As in NATS' own tools, other lines may stand around the seed.
                let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
                let seed = seed.ok_or_else(|| LoginError::Lacks {
                    flag: FLAG,
                    file: file.clone(),
                    part: "seed of a user",
                })?;
                let key = key(seed, || format!("{FLAG} {}", file.display()))?;
                (login.nkey, login.signature) = (Some(key.public_key()), Some(key.sign(nonce)?));
            }
            Auth::Jwt(jwt, seed) => {
                let key = key(seed, || "user_seed".to_owned())?;
                (login.jwt, login.signature) = (Some(jwt.clone()), Some(key.sign(nonce)?));
            }
        }
        Ok(login)
    }
}

/// A key that signs, and its place in errors.
struct Key {
    pair: KeyPair,
    place: String,
}

impl Key {
    fn public_key(&self) -> String {
        self.pair.public_key()
    }

    fn sign(&self, nonce: &[u8]) -> Result<Vec<u8>, LoginError> {
        self.pair.sign(nonce).map_err(|source| LoginError::Seed { place: self.place.clone(), source })
    }
}

fn key(seed: &str, place: impl Fn() -> String) -> Result<Key, LoginError> {
    let pair = KeyPair::from_seed(seed).map_err(|source| LoginError::Seed { place: place(), source })?;
    Ok(Key { pair, place: place() })
}

async fn read(flag: &'static str, file: &Path) -> Result<String, LoginError> {
    let text = tokio::fs::read_to_string(file).await;
    text.map_err(|source| LoginError::Read { flag, file: file.to_owned(), source })
}

/// The line between two marks of a credentials file.
fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {name}");
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.contains(&begin)).skip(1);
    lines.find(|line| !line.is_empty())
}

impl From<Login> for async_nats::Auth {
    fn from(login: Login) -> async_nats::Auth {
        let mut auth = async_nats::Auth::new();
        (auth.username, auth.password) = (login.user, login.password);
        (auth.token, auth.jwt) = (login.token, login.jwt);
        (auth.nkey, auth.signature) = (login.nkey, login.signature);
        auth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nkeys::KeyPairType;

    fn user() -> KeyPair {
        KeyPair::new_from_raw(KeyPairType::User, rand::random()).expect("a key")
    }

    #[tokio::test]
    async fn files_are_read_at_each_login() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("seed");
        let auth = Auth::NkeyFile(file.clone());
        let error = auth.login(b"n").await.expect_err("there is no file").to_string();
        assert!(error.contains("--nats-nkey") && error.contains("seed"), "{error}");
        for _ in 0..2 {
            let key = user();
            let text =
                format!("# comment\n-----BEGIN USER NKEY SEED-----\n{}\n", key.seed().expect("a seed"));
            std::fs::write(&file, text).expect("written");
            let login = auth.login(b"nonce").await.expect("a seed");
            assert_eq!(login.nkey, Some(key.public_key()));
            key.verify(b"nonce", &login.signature.expect("signed")).expect("its signature");
        }
        let error = Auth::CredentialsFile(file).login(b"n").await.expect_err("no JWT").to_string();
        assert!(error.contains("holds no user JWT"), "{error}");
    }
}
