//! From a request's credentials to what they permit now.

use super::permission::Permissions;
use super::store::ROOT;
use super::token::Tokens;
use super::{AuthSettings, AuthStore, CertificateName};
use crate::error::EtcdError;
use crate::primitive::{AtomicBool, Ordering, Published};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The parts of a request that identify its sender.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// The token of the metadata, not checked yet.
    pub token: Option<String>,
    /// Name in the certificate of the connection.
    pub certificate: Option<CertificateName>,
}

/// The sender of a request: a user, or nobody while auth is off or without credentials.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller(Option<Identity>);

#[derive(Clone, Debug)]
struct Identity {
    user: Arc<str>,
    /// The auth revision at which the user was recognized.
    revision: u64,
}

impl Caller {
    pub(super) fn new(user: Arc<str>, revision: u64) -> Caller {
        Caller(Some(Identity { user, revision }))
    }

    /// The user's name and the auth revision, for another instance.
    pub(crate) fn to_parts(&self) -> (Option<String>, u64) {
        match &self.0 {
            Some(identity) => (Some(identity.user.to_string()), identity.revision),
            None => (None, 0),
        }
    }

    /// The caller with these parts.
    pub(crate) fn from_parts(user: Option<String>, revision: u64) -> Caller {
        Caller(user.map(|user| Identity { user: user.into(), revision }))
    }

    /// Name of the user.
    pub(crate) fn user(&self) -> Option<&str> {
        self.0.as_ref().map(|identity| identity.user.as_ref())
    }
}

/// The rights of a caller.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// Everything: auth is off, or the user has the role `root`.
    Unlimited,
    /// The permissions of the user's roles.
    Limited(Arc<Permissions>),
    /// Nothing, for this reason.
    None(EtcdError),
}

impl Access {
    /// Whether there is nothing to check.
    pub(crate) fn is_unlimited(&self) -> bool {
        matches!(self, Access::Unlimited)
    }

    /// Whether all of a range, as on the wire, may be read.
    ///
    /// # Errors
    /// [`EtcdError::PermissionDenied`], or the reason of [`Access::None`].
    pub(crate) fn read(&self, key: &[u8], range_end: &[u8]) -> Result<(), EtcdError> {
        self.check(|permissions| permissions.may_read(key, range_end))
    }

    /// Whether all of a range, as on the wire, may be written.
    ///
    /// # Errors
    /// [`EtcdError::PermissionDenied`], or the reason of [`Access::None`].
    pub(crate) fn write(&self, key: &[u8], range_end: &[u8]) -> Result<(), EtcdError> {
        self.check(|permissions| permissions.may_write(key, range_end))
    }

    fn check(&self, is_permitted: impl Fn(&Permissions) -> bool) -> Result<(), EtcdError> {
        match self {
            Access::Unlimited => Ok(()),
            Access::Limited(permissions) if is_permitted(permissions) => Ok(()),
            Access::Limited(_) => Err(EtcdError::PermissionDenied),
            Access::None(error) => Err(error.clone()),
        }
    }
}

/// The store with what follows from it.
#[derive(Debug)]
struct Snapshot {
    store: Arc<AuthStore>,
    access: HashMap<String, Access>,
}

impl Snapshot {
    fn new(store: Arc<AuthStore>) -> Snapshot {
        let access_of = |user: &String| {
            if store.has_role(user, ROOT) {
                return Access::Unlimited;
            }
            let roles = store.roles_of(user).into_iter().flatten();
            let permissions = roles.filter_map(|role| store.permissions_of(role).ok()).flatten();
            Access::Limited(Arc::new(Permissions::merge(permissions)))
        };
        let access = store.users().map(|user| (user.clone(), access_of(user))).collect();
        Snapshot { store, access }
    }
}

/// Users, roles and tokens as they are known here.
pub(crate) struct Auth {
    settings: AuthSettings,
    tokens: Tokens,
    /// A copy of the snapshot's switch, which a check reads first. It is stored after the snapshot with
    /// Release and loaded with Acquire: a reader that finds auth enabled finds a snapshot at least as new.
    enabled: AtomicBool,
    snapshot: Published<Snapshot>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

impl Auth {
    /// Begins without users, and disabled.
    pub(crate) fn new(settings: AuthSettings) -> Auth {
        Auth {
            tokens: Tokens::new(&settings),
            settings,
            enabled: AtomicBool::new(false),
            snapshot: Published::from_pointee(Snapshot::new(Arc::default())),
        }
    }

    /// Cost of a password's hash.
    pub(crate) fn bcrypt_cost(&self) -> u32 {
        self.settings.bcrypt_cost
    }

    /// The tokens.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Whether permissions are checked (A1).
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// All users and roles.
    pub(crate) fn store(&self) -> Arc<AuthStore> {
        Arc::clone(&self.snapshot.load().store)
    }

    /// Replaces all users and roles.
    pub(crate) fn replace(&self, store: AuthStore) {
        let enabled = store.is_enabled();
        self.snapshot.store(Arc::new(Snapshot::new(Arc::new(store))));
        self.enabled.store(enabled, Ordering::Release);
    }

    /// The sender of a request, by its token, or without one by the certificate of its connection.
    ///
    /// # Errors
    /// [`EtcdError::InvalidAuthToken`].
    pub(crate) fn identify(&self, credentials: &Credentials) -> Result<Caller, EtcdError> {
        if !self.is_enabled() {
            return Ok(Caller::default());
        }
        let store = self.store();
        match (&credentials.token, &credentials.certificate) {
            (Some(token), _) => self.tokens.caller(token, &store).ok_or(EtcdError::InvalidAuthToken),
            (None, Some(CertificateName(name))) if self.settings.client_cert_auth => {
                Ok(Caller::new(Arc::clone(name), store.revision()))
            }
            (None, _) => Ok(Caller::default()),
        }
    }

    /// The rights of a caller on keys now.
    pub(crate) fn access(&self, caller: &Caller) -> Access {
        if !self.is_enabled() {
            return Access::Unlimited;
        }
        let snapshot = self.snapshot.load();
        if !snapshot.store.is_enabled() {
            return Access::Unlimited;
        }
        // For etcd revision 0 means no identity. Only a signed token can hold it.
        let Some(identity) = caller.0.as_ref().filter(|identity| identity.revision != 0) else {
            return Access::None(EtcdError::UserEmpty);
        };
        if identity.revision < snapshot.store.revision() {
            return Access::None(EtcdError::AuthOldRevision);
        }
        snapshot
            .access
            .get(identity.user.as_ref())
            .cloned()
            .unwrap_or(Access::None(EtcdError::PermissionDenied))
    }

    /// Whether a caller has the role `root`. The revision does not matter here, as it does not in etcd.
    ///
    /// # Errors
    /// [`EtcdError::UserEmpty`], [`EtcdError::PermissionDenied`].
    pub(crate) fn check_admin(&self, caller: &Caller) -> Result<(), EtcdError> {
        if self.is_enabled() { self.store().check_admin(caller.user()) } else { Ok(()) }
    }

    /// Whether a caller has an identity.
    ///
    /// # Errors
    /// [`EtcdError::UserEmpty`].
    pub(crate) fn check_identified(&self, caller: &Caller) -> Result<(), EtcdError> {
        if self.is_enabled() && caller.0.is_none() { Err(EtcdError::UserEmpty) } else { Ok(()) }
    }

    /// Whether users and roles have not changed since the caller was recognized. As in etcd, this is checked
    /// after a read.
    ///
    /// # Errors
    /// [`EtcdError::AuthOldRevision`].
    pub(crate) fn check_unchanged(&self, caller: &Caller) -> Result<(), EtcdError> {
        match &caller.0 {
            Some(Identity { revision: 0, .. }) | None => Ok(()),
            Some(identity) if identity.revision != self.snapshot.load().store.revision() => {
                Err(EtcdError::AuthOldRevision)
            }
            Some(_) => Ok(()),
        }
    }
}

/// The switch and the snapshot are two atomics: a reader that finds auth enabled finds the users of that
/// moment or of a later one.
#[cfg(all(test, jetway_loom))]
mod loom_model {
    use super::*;
    use loom::thread;

    #[test]
    fn a_reader_that_finds_auth_enabled_finds_the_store_that_enabled_it() {
        loom::model(|| {
            let auth = Arc::new(Auth::new(AuthSettings::default()));
            let request = thread::spawn({
                let auth = Arc::clone(&auth);
                move || {
                    assert!(!auth.is_enabled() || auth.store().is_enabled());
                }
            });
            auth.replace(AuthStore::locked());
            assert!(!auth.access(&Caller::default()).is_unlimited());
            request.join().expect("the request");
        });
    }
}
