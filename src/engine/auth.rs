//! Users, roles and tokens: their changes go through the meta stream, like everything that all instances share.

use super::{Engine, Inner, REQUEST_TIMEOUT, meta};
use crate::auth::{self, AuthStore, Caller, Credentials, SimpleToken, TokenSettings};
use crate::error::EtcdError;
use crate::jetstream::PublishError;
use crate::txn::Request;
use crate::types::LeaseId;
use std::sync::Arc;
use tokio::time::Instant;

impl Engine {
    /// Who a request comes from; nobody while auth is off.
    pub async fn identify(&self, credentials: &Credentials) -> Result<Caller, EtcdError> {
        let inner = &self.inner;
        if !inner.auth.is_enabled() {
            return Ok(Caller::default());
        }
        if let Some(token) = &credentials.token {
            // Another instance may have issued it a moment ago.
            if !inner.settings.sole_writer && !inner.auth.tokens().is_settled(token) {
                inner.refresh_meta().await?;
            }
        }
        let caller = inner.auth.identify(credentials)?;
        // Only now: a token that has run out must not come to life again because somebody tries it.
        if let Some(token) = &credentials.token {
            inner.renew_token(token);
        }
        Ok(caller)
    }

    /// Users and roles, no older than this call.
    pub async fn auth_store(&self) -> Result<Arc<AuthStore>, EtcdError> {
        self.inner.wait_ready().await?;
        self.inner.refresh_auth().await?;
        Ok(self.inner.auth.store())
    }

    /// Changes users or roles, which only an administrator may while auth is on.
    pub async fn change_auth(
        &self,
        caller: &Caller,
        change: impl Fn(&mut AuthStore) -> Result<(), EtcdError>,
    ) -> Result<(), EtcdError> {
        let inner = &self.inner;
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        inner.wait_ready().await?;
        inner.refresh_auth().await?;
        loop {
            // The entry before the store: if both change in between, the guard does not hold.
            let known = inner.meta.entry(meta::AUTH);
            let store = inner.auth.store();
            store.check_admin(caller.user())?;
            let mut changed = AuthStore::clone(&store);
            change(&mut changed)?;
            if changed == *store {
                return Ok(());
            }
            match inner.put_auth(&changed, known).await {
                Ok(entry) => return inner.wait_meta(entry).await,
                Err(PublishError::Conflict(_)) if Instant::now() < deadline => inner.refresh_meta().await?,
                Err(error) => return Err(meta::failed(error)),
            }
        }
    }

    /// A token for whoever knows a user's password.
    pub async fn authenticate(&self, name: &str, password: &str) -> Result<String, EtcdError> {
        let inner = &self.inner;
        loop {
            let store = self.auth_store().await?;
            let hash = store.password_hash(name)?.to_owned();
            if !auth::fits(password.to_owned(), hash).await? {
                return Err(EtcdError::AuthFailed);
            }
            let token = inner.issue_token(name, store.revision()).await?;
            // Otherwise the password may be another one by now.
            if inner.auth.store().revision() == store.revision() {
                return Ok(token);
            }
        }
    }

    /// Whether a caller may end or renew a lease: it must be allowed to write every key on it.
    pub fn check_lease_write(&self, caller: &Caller, lease: LeaseId) -> Result<(), EtcdError> {
        self.inner.check_lease_write(caller, lease)
    }

    /// Whether a caller may see the keys of leases.
    pub fn check_leases_read(
        &self,
        caller: &Caller,
        leases: impl Iterator<Item = LeaseId>,
    ) -> Result<(), EtcdError> {
        let inner = &self.inner;
        if inner.auth.check_admin(caller).is_ok() {
            return Ok(());
        }
        let access = inner.auth.access(caller);
        let mut keys = leases.flat_map(|lease| inner.attachments.keys(lease));
        keys.try_for_each(|key| access.read(&key, &[]))
    }
}

impl Inner {
    /// Whether a caller may carry out a request that may write.
    pub(super) fn check_request(&self, caller: &Caller, request: &Request) -> Result<(), EtcdError> {
        let access = self.auth.access(caller);
        auth::check_request(&access, request, &|lease| self.check_lease_write(caller, lease))
    }

    fn check_lease_write(&self, caller: &Caller, lease: LeaseId) -> Result<(), EtcdError> {
        if self.auth.check_admin(caller).is_ok() {
            return Ok(());
        }
        let access = self.auth.access(caller);
        self.attachments.keys(lease).iter().try_for_each(|key| access.write(key, &[]))
    }

    /// Where others change users too, what is known here may be a little old.
    async fn refresh_auth(&self) -> Result<(), EtcdError> {
        if self.settings.sole_writer { Ok(()) } else { self.refresh_meta().await }
    }

    async fn issue_token(&self, user: &str, revision: u64) -> Result<String, EtcdError> {
        let tokens = self.auth.tokens();
        match tokens.kind() {
            TokenSettings::None => Err(EtcdError::AuthFailed),
            TokenSettings::Jwt(jwt) => jwt.sign(user, revision),
            TokenSettings::Simple => {
                let token = SimpleToken::invent(self.reader.snapshot().position.0);
                let entry = SimpleToken { user: user.to_owned(), revision };
                let stored = self.put_token(&token, &entry, tokens.entry_ttl()).await;
                self.wait_meta(stored.map_err(meta::failed)?).await?;
                Ok(token)
            }
        }
    }

    /// Tells the stream now and then that a token is in use. Nobody waits for it: a token that is lost with its last
    /// uses is asked for again.
    fn renew_token(self: &Arc<Self>, token: &str) {
        let Some(entry) = self.auth.tokens().wants_renewal(token) else { return };
        let (inner, token) = (Arc::clone(self), token.to_owned());
        tokio::spawn(async move {
            let ttl = inner.auth.tokens().entry_ttl();
            if let Err(error) = inner.put_token(&token, &entry, ttl).await {
                tracing::debug!(%error, "a token's use could not be recorded");
            }
        });
    }
}
