//! Changes of users and roles.

use crate::auth::{AuthStore, Permission};
use crate::error::EtcdError;
use serde::{Deserialize, Serialize};

/// A change of users or roles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum AuthChange {
    /// Starts to check permissions.
    Enable,
    /// Ends it.
    Disable,
    /// Adds a user; without a password where there is no hash.
    AddUser {
        /// Its name.
        name: String,
        /// The hash of its password.
        hash: Option<String>,
    },
    /// Removes a user.
    DeleteUser(String),
    /// Gives a user another password.
    ChangePassword {
        /// Its name.
        name: String,
        /// The hash of the password; an error that comes after "no such user".
        hash: Result<String, EtcdError>,
    },
    /// Gives a user a role.
    GrantRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Takes a role from a user.
    RevokeRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Adds a role.
    AddRole(String),
    /// Removes a role.
    DeleteRole(String),
    /// Gives a role a permission.
    GrantPermission {
        /// The role.
        role: String,
        /// The permission.
        permission: Option<Permission>,
    },
    /// Takes a permission from a role.
    RevokePermission {
        /// The role.
        role: String,
        /// The first key of its range.
        key: Vec<u8>,
        /// The end of its range.
        range_end: Vec<u8>,
    },
}

impl AuthChange {
    /// Carries the change out.
    ///
    /// # Errors
    /// Those of [`AuthStore`]'s methods; the store is as it was then.
    pub(crate) fn apply(&self, store: &mut AuthStore) -> Result<(), EtcdError> {
        match self {
            AuthChange::Enable => store.enable(),
            AuthChange::Disable => {
                store.disable();
                Ok(())
            }
            AuthChange::AddUser { name, hash } => store.add_user(name, hash.as_deref()),
            AuthChange::DeleteUser(name) => store.delete_user(name),
            AuthChange::ChangePassword { name, hash } => {
                store.roles_of(name)?;
                store.change_password(name, hash.as_ref().map_err(EtcdError::clone)?)
            }
            AuthChange::GrantRole { user, role } => store.grant_role(user, role),
            AuthChange::RevokeRole { user, role } => store.revoke_role(user, role),
            AuthChange::AddRole(name) => store.add_role(name),
            AuthChange::DeleteRole(name) => store.delete_role(name),
            AuthChange::GrantPermission { role, permission } => {
                store.grant_permission(role, permission.clone())
            }
            AuthChange::RevokePermission { role, key, range_end } => {
                store.revoke_permission(role, key, range_end)
            }
        }
    }
}
