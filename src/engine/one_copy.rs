//! The wish that one server keeps the only copy of the stream: a member must not lose the last other one
//! while that one is needed for a majority of copies.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// How long a wish counts. The call that it is made for has ended by then.
const LIFE: Duration = Duration::from_secs(10);

/// Shared by the writer, which wishes, and the keeper of the servers, which carries it out.
#[derive(Debug, Default)]
pub(super) struct OneCopy {
    wish: Mutex<Option<Wish>>,
    made: Notify,
}

#[derive(Clone, Debug)]
struct Wish {
    server: String,
    until: Instant,
    is_fulfilled: bool,
}

impl OneCopy {
    fn wish(&self) -> MutexGuard<'_, Option<Wish>> {
        let mut wish = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
        if wish.as_ref().is_some_and(|wish| wish.until <= Instant::now()) {
            *wish = None;
        }
        wish
    }

    /// Returns whether a server has the only copy; asks for it where it has not.
    pub(super) fn is_on(&self, server: &str) -> bool {
        let mut wish = self.wish();
        match &*wish {
            Some(known) if known.server == server => known.is_fulfilled,
            _ => {
                let until = Instant::now() + LIFE;
                *wish = Some(Wish { server: server.to_owned(), until, is_fulfilled: false });
                self.made.notify_one();
                false
            }
        }
    }

    /// The server that is to have the only copy, if there is one.
    pub(super) fn wanted(&self) -> Option<String> {
        self.wish().as_ref().map(|wish| wish.server.clone())
    }

    /// A server has the only copy now.
    pub(super) fn fulfil(&self, server: &str) {
        if let Some(wish) = self.wish().as_mut().filter(|wish| wish.server == server) {
            wish.is_fulfilled = true;
        }
    }

    /// Waits for a new wish.
    pub(super) async fn made(&self) {
        self.made.notified().await;
    }
}
