//! Users and roles: the model, and every change to it.
//!
//! A change is a method that either succeeds or leaves the store as it was. The checks come in etcd's order,
//! since a client sees the first one that fails.

use super::permission::Permission;
use crate::error::EtcdError;
use crate::proto::authpb;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The user that must exist before auth can be enabled.
pub(crate) const ROOT: &str = "root";

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct User {
    /// bcrypt's hash of the password. A text that is no such hash belongs to no password.
    password: String,
    /// Whether the user logs in with a certificate alone.
    no_password: bool,
    roles: BTreeSet<String>,
    /// Auth revision at which the user was added or got this password. Tokens of earlier revisions are void.
    tokens_since: u64,
}

/// All users and roles. They are stored as one value, which is always that of one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthStore {
    enabled: bool,
    revision: u64,
    /// Auth revision at which auth was disabled last. Tokens of earlier revisions are void.
    tokens_since: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Vec<Permission>>,
}

impl Default for AuthStore {
    /// The store before the first change: disabled, at revision 1.
    fn default() -> AuthStore {
        AuthStore {
            enabled: false,
            revision: 1,
            tokens_since: 0,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
        }
    }
}

impl AuthStore {
    /// A store that permits nothing: auth is enabled, and there are no users. It replaces one that cannot be
    /// read.
    pub fn locked() -> AuthStore {
        AuthStore { enabled: true, ..AuthStore::default() }
    }

    /// Whether permissions are checked at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Grows with every change of a user or a role.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Names of the users, ascending.
    pub fn users(&self) -> impl Iterator<Item = &String> {
        self.users.keys()
    }

    /// Names of the roles, ascending.
    pub fn roles(&self) -> impl Iterator<Item = &String> {
        self.roles.keys()
    }

    /// The roles of a user, ascending.
    ///
    /// # Errors
    /// [`EtcdError::UserNotFound`].
    pub fn roles_of(&self, user: &str) -> Result<&BTreeSet<String>, EtcdError> {
        self.users.get(user).map(|user| &user.roles).ok_or(EtcdError::UserNotFound)
    }

    /// Permissions of a role. Those of `root` are not kept there.
    ///
    /// # Errors
    /// [`EtcdError::RoleNotFound`].
    pub fn permissions_of(&self, role: &str) -> Result<&[Permission], EtcdError> {
        self.roles.get(role).map(Vec::as_slice).ok_or(EtcdError::RoleNotFound)
    }

    /// The users as etcd stores them, ascending by name.
    pub(crate) fn stored_users(&self) -> impl Iterator<Item = authpb::User> {
        self.users.iter().map(|(name, user)| authpb::User {
            name: name.clone().into(),
            password: user.password.clone().into(),
            roles: user.roles.iter().cloned().collect(),
            options: Some(authpb::UserAddOptions { no_password: user.no_password }),
        })
    }

    /// The roles as etcd stores them, ascending by name.
    pub(crate) fn stored_roles(&self) -> impl Iterator<Item = authpb::Role> {
        let permission = |permission: &Permission| authpb::Permission {
            perm_type: permission.kind,
            key: permission.key.clone(),
            range_end: permission.range_end.clone(),
        };
        self.roles.iter().map(move |(name, permissions)| authpb::Role {
            name: name.clone().into(),
            key_permission: permissions.iter().map(permission).collect(),
        })
    }

    /// The store of users and roles that etcd has stored; `None` if a name or a hash is no text. Tokens of
    /// before are void, since none comes along.
    pub(crate) fn of_stored(
        enabled: bool,
        revision: u64,
        users: Vec<authpb::User>,
        roles: Vec<authpb::Role>,
    ) -> Option<AuthStore> {
        let text = |bytes: bytes::Bytes| String::from_utf8(bytes.into()).ok();
        let user = |user: authpb::User| {
            let stored = User {
                password: text(user.password)?,
                no_password: user.options.is_some_and(|options| options.no_password),
                roles: user.roles.into_iter().collect(),
                tokens_since: 0,
            };
            Some((text(user.name)?, stored))
        };
        let permission = |permission: authpb::Permission| Permission {
            kind: permission.perm_type,
            key: permission.key,
            range_end: permission.range_end,
        };
        let role = |role: authpb::Role| {
            Some((text(role.name)?, role.key_permission.into_iter().map(permission).collect()))
        };
        Some(AuthStore {
            enabled,
            revision,
            tokens_since: 0,
            users: users.into_iter().map(user).collect::<Option<_>>()?,
            roles: roles.into_iter().map(role).collect::<Option<_>>()?,
        })
    }

    /// Whether a user has a role.
    pub fn has_role(&self, user: &str, role: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.roles.contains(role))
    }

    /// The hash that a user's password must fit.
    ///
    /// # Errors
    /// [`EtcdError::AuthNotEnabled`], [`EtcdError::AuthFailed`] without such a user,
    /// [`EtcdError::NoPasswordUser`].
    pub fn password_hash(&self, user: &str) -> Result<&str, EtcdError> {
        if !self.enabled {
            return Err(EtcdError::AuthNotEnabled);
        }
        match self.users.get(user) {
            None => Err(EtcdError::AuthFailed),
            Some(User { no_password: true, .. }) => Err(EtcdError::NoPasswordUser),
            Some(user) => Ok(&user.password),
        }
    }

    /// Whether a simple token that was issued to a user at an auth revision is good.
    pub fn accepts_token_of(&self, user: &str, issued: u64) -> bool {
        self.enabled
            && issued >= self.tokens_since
            && self.users.get(user).is_some_and(|user| issued >= user.tokens_since)
    }

    /// Checks for the role `root`, which each change of users, roles, members or the whole store needs.
    ///
    /// # Errors
    /// [`EtcdError::UserEmpty`], [`EtcdError::PermissionDenied`].
    pub fn check_admin(&self, user: Option<&str>) -> Result<(), EtcdError> {
        if !self.enabled {
            return Ok(());
        }
        let user = user.filter(|user| !user.is_empty()).ok_or(EtcdError::UserEmpty)?;
        let roles = self.roles_of(user)?;
        if roles.contains(ROOT) { Ok(()) } else { Err(EtcdError::PermissionDenied) }
    }

    /// Enables auth. The revision stays.
    ///
    /// # Errors
    /// [`EtcdError::RootUserNotExist`], [`EtcdError::RootRoleNotExist`].
    pub fn enable(&mut self) -> Result<(), EtcdError> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(EtcdError::RootUserNotExist)?;
        if !root.roles.contains(ROOT) {
            return Err(EtcdError::RootRoleNotExist);
        }
        self.enabled = true;
        Ok(())
    }

    /// Disables auth, and makes every token void.
    pub fn disable(&mut self) {
        if self.enabled {
            self.enabled = false;
            self.revision += 1;
            self.tokens_since = self.revision;
        }
    }

    /// Adds a user; `None` for one without a password.
    ///
    /// # Errors
    /// [`EtcdError::UserEmpty`], [`EtcdError::UserExists`].
    pub fn add_user(&mut self, name: &str, password_hash: Option<&str>) -> Result<(), EtcdError> {
        if name.is_empty() {
            return Err(EtcdError::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(EtcdError::UserExists);
        }
        self.revision += 1;
        let user = User {
            password: password_hash.unwrap_or_default().to_owned(),
            no_password: password_hash.is_none(),
            roles: BTreeSet::new(),
            tokens_since: self.revision,
        };
        self.users.insert(name.to_owned(), user);
        Ok(())
    }

    /// Removes a user.
    ///
    /// # Errors
    /// [`EtcdError::UserNotFound`]; [`EtcdError::InvalidAuthManagement`] for `root` while auth is on.
    pub fn delete_user(&mut self, name: &str) -> Result<(), EtcdError> {
        if self.enabled && name == ROOT {
            return Err(EtcdError::InvalidAuthManagement);
        }
        self.users.remove(name).ok_or(EtcdError::UserNotFound)?;
        self.revision += 1;
        Ok(())
    }

    /// Changes a user's password. A user without a password stays without.
    ///
    /// # Errors
    /// [`EtcdError::UserNotFound`].
    pub fn change_password(&mut self, name: &str, password_hash: &str) -> Result<(), EtcdError> {
        let user = self.users.get_mut(name).ok_or(EtcdError::UserNotFound)?;
        self.revision += 1;
        user.tokens_since = self.revision;
        if !user.no_password {
            password_hash.clone_into(&mut user.password);
        }
        Ok(())
    }

    /// Grants a role to a user, who may have it already. The role `root` need not exist.
    ///
    /// # Errors
    /// [`EtcdError::UserNotFound`], [`EtcdError::RoleNotFound`].
    pub fn grant_role(&mut self, user: &str, role: &str) -> Result<(), EtcdError> {
        let user = self.users.get_mut(user).ok_or(EtcdError::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(EtcdError::RoleNotFound);
        }
        if user.roles.insert(role.to_owned()) {
            self.revision += 1;
        }
        Ok(())
    }

    /// Revokes a role from a user.
    ///
    /// # Errors
    /// [`EtcdError::UserNotFound`], [`EtcdError::RoleNotGranted`]; [`EtcdError::InvalidAuthManagement`] for
    /// `root` while auth is on.
    pub fn revoke_role(&mut self, user: &str, role: &str) -> Result<(), EtcdError> {
        if self.enabled && user == ROOT && role == ROOT {
            return Err(EtcdError::InvalidAuthManagement);
        }
        let user = self.users.get_mut(user).ok_or(EtcdError::UserNotFound)?;
        if !user.roles.remove(role) {
            return Err(EtcdError::RoleNotGranted);
        }
        self.revision += 1;
        Ok(())
    }

    /// Adds a role.
    ///
    /// # Errors
    /// [`EtcdError::RoleEmpty`], [`EtcdError::RoleExists`].
    pub fn add_role(&mut self, name: &str) -> Result<(), EtcdError> {
        if name.is_empty() {
            return Err(EtcdError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(EtcdError::RoleExists);
        }
        self.roles.insert(name.to_owned(), Vec::new());
        self.revision += 1;
        Ok(())
    }

    /// Removes a role, from all users too.
    ///
    /// # Errors
    /// [`EtcdError::RoleNotFound`]; [`EtcdError::InvalidAuthManagement`] for `root` while auth is on.
    pub fn delete_role(&mut self, name: &str) -> Result<(), EtcdError> {
        if self.enabled && name == ROOT {
            return Err(EtcdError::InvalidAuthManagement);
        }
        self.roles.remove(name).ok_or(EtcdError::RoleNotFound)?;
        for user in self.users.values_mut() {
            user.roles.remove(name);
        }
        self.revision += 1;
        Ok(())
    }

    /// Grants a permission to a role. As in etcd, it replaces one for the same range only if that is the
    /// first of those that begin at its key.
    ///
    /// # Errors
    /// [`EtcdError::PermissionNotGiven`], [`EtcdError::RoleNotFound`]; [`EtcdError::InvalidAuthManagement`]
    /// for an invalid range.
    pub fn grant_permission(&mut self, role: &str, granted: Option<Permission>) -> Result<(), EtcdError> {
        let granted = granted.ok_or(EtcdError::PermissionNotGiven)?;
        if !granted.is_valid() {
            return Err(EtcdError::InvalidAuthManagement);
        }
        let permissions = self.roles.get_mut(role).ok_or(EtcdError::RoleNotFound)?;
        let first = permissions.partition_point(|given| given.key < granted.key);
        match permissions.get_mut(first) {
            Some(given) if (&given.key, &given.range_end) == (&granted.key, &granted.range_end) => {
                given.kind = granted.kind;
            }
            _ => {
                let behind = permissions.partition_point(|given| given.key <= granted.key);
                permissions.insert(behind, granted);
            }
        }
        self.revision += 1;
        Ok(())
    }

    /// Revokes the permission for exactly this range from a role.
    ///
    /// # Errors
    /// [`EtcdError::RoleNotFound`], [`EtcdError::PermissionNotGranted`].
    pub fn revoke_permission(&mut self, role: &str, key: &[u8], range_end: &[u8]) -> Result<(), EtcdError> {
        let permissions = self.roles.get_mut(role).ok_or(EtcdError::RoleNotFound)?;
        let before = permissions.len();
        permissions.retain(|given| given.key != key || given.range_end != range_end);
        if permissions.len() == before {
            return Err(EtcdError::PermissionNotGranted);
        }
        self.revision += 1;
        Ok(())
    }
}
