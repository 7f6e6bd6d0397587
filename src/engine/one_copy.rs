//! The request that one server keeps the only copy of the stream: a member must not lose the last other one
//! while that one is needed for a majority of copies.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// How long a request counts. The call that it is made for has ended by then.
const REQUEST_LIFETIME: Duration = Duration::from_secs(10);

/// Shared by the writer, which requests, and the reconciler of the servers, which carries it out.
#[derive(Debug, Default)]
pub(super) struct OneCopy {
    request: Mutex<Option<Request>>,
    requested: Notify,
}

#[derive(Clone, Debug)]
struct Request {
    server: String,
    until: Instant,
    is_confirmed: bool,
}

impl OneCopy {
    fn request(&self) -> MutexGuard<'_, Option<Request>> {
        let mut request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        if request.as_ref().is_some_and(|request| request.until <= Instant::now()) {
            *request = None;
        }
        request
    }

    /// Returns whether a server has the only copy; asks for it where it has not.
    pub(super) fn request_or_check(&self, server: &str) -> bool {
        let mut request = self.request();
        match &*request {
            Some(known) if known.server == server => known.is_confirmed,
            _ => {
                let until = Instant::now() + REQUEST_LIFETIME;
                *request = Some(Request { server: server.to_owned(), until, is_confirmed: false });
                self.requested.notify_one();
                false
            }
        }
    }

    /// The server that is to have the only copy, if there is one.
    pub(super) fn requested_server(&self) -> Option<String> {
        self.request().as_ref().map(|request| request.server.clone())
    }

    /// A server has the only copy now.
    pub(super) fn confirm(&self, server: &str) {
        if let Some(request) = self.request().as_mut().filter(|request| request.server == server) {
            request.is_confirmed = true;
        }
    }

    /// Waits for a new request.
    pub(super) async fn requested(&self) {
        self.requested.notified().await;
    }
}
