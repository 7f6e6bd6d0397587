//! Users: the caller of a request, changes of users and roles, and the checks that need the engine's tables.

use super::calls::NewCall;
use super::{AuthChange, Engine, REQUEST_TIMEOUT};
use crate::auth::{self, Auth, AuthStore, Caller, Credentials, TokenSettings};
use crate::engine::proposal::Proposal;
use crate::error::EtcdError;
use crate::types::LeaseId;
use std::sync::Arc;
use tokio::time::Instant;

impl Engine {
    /// The user of a request; none while auth is off.
    ///
    /// # Errors
    /// [`EtcdError::InvalidAuthToken`].
    pub(crate) async fn identify(&self, credentials: &Credentials) -> Result<Caller, EtcdError> {
        let auth = &self.tables.auth;
        if !auth.is_enabled() {
            return Ok(Caller::default());
        }
        if let Some(token) = &credentials.token {
            // Another instance may have issued it a moment ago.
            if !self.mode.is_alone() && !auth.tokens().is_decided(token) {
                self.linearizable().await?;
            }
        }
        let caller = auth.identify(credentials)?;
        if let Some(hash) =
            credentials.token.as_ref().and_then(|token| auth.tokens().take_unreported_use(token))
        {
            let call = NewCall {
                proposal: Proposal::TokenUsed { hash },
                caller: Caller::default(),
                deadline: Instant::now() + REQUEST_TIMEOUT,
                answer: None,
            };
            // Nobody waits for it: a token that is lost with its last uses is asked for again.
            drop(self.calls.sender.send(call));
        }
        Ok(caller)
    }

    /// Users, roles and what they may do.
    pub(crate) fn auth(&self) -> &Auth {
        &self.tables.auth
    }

    /// Users and roles, no older than this call.
    ///
    /// # Errors
    /// Those of a linearizable read.
    pub(crate) async fn auth_store(&self) -> Result<Arc<AuthStore>, EtcdError> {
        self.linearizable().await?;
        Ok(self.tables.auth.store())
    }

    /// Changes users or roles, which only an administrator may while auth is on.
    ///
    /// # Errors
    /// Those of [`AuthStore`]'s methods and of every call to the writer.
    pub(crate) async fn change_auth(&self, caller: &Caller, change: AuthChange) -> Result<(), EtcdError> {
        self.calls.ask_as(Proposal::Users(change), caller).await.map(drop)
    }

    /// A token for the user with this name and password.
    ///
    /// # Errors
    /// [`EtcdError::AuthFailed`], [`EtcdError::AuthNotEnabled`], [`EtcdError::NoPasswordUser`] and those of
    /// every call to the writer.
    pub(crate) async fn authenticate(&self, name: &str, password: &str) -> Result<String, EtcdError> {
        loop {
            let store = self.auth_store().await?;
            let hash = store.password_hash(name)?.to_owned();
            if !auth::fits(password.to_owned(), hash).await? {
                return Err(EtcdError::AuthFailed);
            }
            match self.tables.auth.tokens().kind() {
                TokenSettings::None => return Err(EtcdError::AuthFailed),
                TokenSettings::Jwt(jwt) => {
                    if self.tables.auth.store().revision() == store.revision() {
                        return jwt.sign(name, store.revision());
                    }
                }
                TokenSettings::Simple => {
                    let token = auth::SimpleToken::generate(self.reader.snapshot().log_index.0);
                    let (hash, user) = (auth::token_hash(&token), name.to_owned());
                    let revision = store.revision();
                    match self.calls.ask(Proposal::IssueToken { hash, user, revision }).await {
                        Ok(_) => return Ok(token),
                        // The password may be another one by now.
                        Err(EtcdError::AuthOldRevision) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Whether a caller may end or renew a lease: it must be allowed to write every key on it.
    ///
    /// # Errors
    /// [`EtcdError::PermissionDenied`] and the like.
    pub(crate) fn check_lease_write(&self, caller: &Caller, lease: LeaseId) -> Result<(), EtcdError> {
        if self.tables.auth.check_admin(caller).is_ok() {
            return Ok(());
        }
        let access = self.tables.auth.access(caller);
        self.tables.attachments.keys(lease).iter().try_for_each(|key| access.write(key, &[]))
    }

    /// Whether a caller may see the keys of leases.
    ///
    /// # Errors
    /// [`EtcdError::PermissionDenied`] and the like.
    pub(crate) fn check_leases_read(
        &self,
        caller: &Caller,
        leases: impl Iterator<Item = LeaseId>,
    ) -> Result<(), EtcdError> {
        if self.tables.auth.check_admin(caller).is_ok() {
            return Ok(());
        }
        let access = self.tables.auth.access(caller);
        let mut keys = leases.flat_map(|lease| self.tables.attachments.keys(lease));
        keys.try_for_each(|key| access.read(&key, &[]))
    }
}
