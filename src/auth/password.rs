//! Passwords and their hashes. Hashing and checking take long on purpose, so they run on threads of their
//! own.

use super::DEFAULT_BCRYPT_COST;
use crate::error::EtcdError;

/// bcrypt ignores the bytes behind these.
const LONGEST_PASSWORD: usize = 72;
/// The costs of bcrypt.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;

/// Hashes a password. As in etcd, the default replaces a cost that bcrypt does not have.
///
/// # Errors
/// [`EtcdError::PasswordTooLong`]; [`EtcdError::Stopped`] while the server stops.
pub(crate) async fn hash(password: String, cost: u32) -> Result<String, EtcdError> {
    if password.len() > LONGEST_PASSWORD {
        return Err(EtcdError::PasswordTooLong);
    }
    let cost = if COSTS.contains(&cost) { cost } else { DEFAULT_BCRYPT_COST };
    let hashed = run(move || bcrypt::hash(password, cost)).await?;
    hashed.map_err(|error| EtcdError::Unknown(error.to_string()))
}

/// Whether a hash is that of a password. A text that is no hash is that of none.
///
/// # Errors
/// [`EtcdError::Stopped`] while the server stops.
pub(crate) async fn fits(password: String, hash: String) -> Result<bool, EtcdError> {
    run(move || bcrypt::verify(password, &hash).unwrap_or(false)).await
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EtcdError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| EtcdError::Stopped)
}
