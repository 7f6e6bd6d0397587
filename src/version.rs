//! Versions that clients ask for, and those of nats-server that jetway can use.

use std::fmt;
use thiserror::Error;

/// The etcd release whose behaviour jetway has; clients derive features from it.
pub(crate) const ETCD_VERSION: &str = "3.7.3";
/// The cluster version etcd of that release reports.
pub(crate) const CLUSTER_VERSION: &str = "3.7.0";

/// The version of a nats-server. A pre-release counts as its release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NatsVersion(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl NatsVersion {
    /// Proposals are fenced by their leader's term from here on.
    pub(crate) const MINIMUM: NatsVersion = NatsVersion(2, 14, 4);
    /// Renames by block rewrites are synced, a stream keeps its creation time, and three replicas sync in
    /// groups.
    pub(crate) const RECOMMENDED: NatsVersion = NatsVersion(2, 15, 1);

    /// Reads `2.15.1` and `2.15.1-RC.2`.
    pub(crate) fn parse(text: &str) -> Option<NatsVersion> {
        let mut numbers = text.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok());
        let version = NatsVersion(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(version)
    }

    /// Refuses a server below the minimum. A text that is no version passes: it is a build of its own.
    ///
    /// # Errors
    /// [`TooOld`].
    pub(crate) fn check(text: &str) -> Result<(), TooOld> {
        match NatsVersion::parse(text) {
            Some(version) if version < NatsVersion::MINIMUM => Err(TooOld(text.to_owned())),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for NatsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A nats-server that jetway cannot use, by its version.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "nats-server {0}; jetway needs {minimum} or newer (recommended: {recommended}), since older ones refuse valid \
     transactions over several keys, can lose a stored write, and can pass a compare on a deposed leader",
    minimum = NatsVersion::MINIMUM,
    recommended = NatsVersion::RECOMMENDED
)]
pub struct TooOld(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        assert_eq!(NatsVersion::parse("2.15.1"), Some(NatsVersion(2, 15, 1)));
        assert_eq!(NatsVersion::parse("2.14.0-RC.1"), Some(NatsVersion(2, 14, 0)));
        assert_eq!(NatsVersion::parse("2.15"), None);
        assert_eq!(NatsVersion::parse("2.15.1.4"), None);
        assert!(NatsVersion::check("2.9.25").is_err() && NatsVersion::check("2.14.3").is_err());
        assert!(NatsVersion::check("2.14.10").is_ok() && NatsVersion::check("main").is_ok());
    }
}
