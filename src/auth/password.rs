//! Passwords and their hashes. Both take long on purpose, so they run where they hold nobody up.

use super::DEFAULT_BCRYPT_COST;
use crate::error::EtcdError;

/// bcrypt looks at no more than this.
const LONGEST_PASSWORD: usize = 72;
/// Costs that bcrypt knows.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;

/// Hashes a password. A cost that bcrypt does not know is replaced by the default, as in etcd.
pub async fn hash(password: String, cost: u32) -> Result<String, EtcdError> {
    if password.len() > LONGEST_PASSWORD {
        return Err(EtcdError::PasswordTooLong);
    }
    let cost = if COSTS.contains(&cost) { cost } else { DEFAULT_BCRYPT_COST };
    let hashed = run(move || bcrypt::hash(password, cost)).await?;
    hashed.map_err(|error| EtcdError::Unknown(error.to_string()))
}

/// Whether a password fits a hash. Nothing fits what is no hash.
pub async fn fits(password: String, hash: String) -> Result<bool, EtcdError> {
    run(move || bcrypt::verify(password, &hash).unwrap_or(false)).await
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EtcdError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| EtcdError::Stopped)
}
