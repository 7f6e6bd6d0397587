//! A Watch call as an asynchronous stream of responses.
//!
//! The stream is pulled: a response is made when the connection has room for it. Requests are read by a task of their
//! own, so that a client that reads slowly can still cancel. Dropping the stream, which is what the end of the call
//! does, takes all its watchers with it at once.

use super::hub::WatchHub;
use super::mailbox::Mailbox;
use super::session::{Request, Response, Session, Step};
use crate::core::Reader;
use crate::error::EtcdError;
use crate::primitive::{Mutex, MutexGuard, Notify};
use futures_util::{Stream, StreamExt};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Responses in a row after which a busy stream looks at its ticker and for the end of the call.
const LOOK_AFTER: usize = 64;

/// The responses of one Watch call. Ends with an error and never without one.
pub struct WatchStream {
    call: Arc<Call>,
    ticker: Interval,
    /// Ends the call from outside, with a reason.
    ending: Pin<Box<dyn Future<Output = EtcdError> + Send>>,
    requests: AbortHandle,
    /// Responses since the stream last looked around.
    unlooked: usize,
    is_over: bool,
}

pub(super) struct Call {
    session: Mutex<Option<Session>>,
    mailbox: Arc<Mailbox>,
    /// Told when answers have been taken.
    room: Notify,
}

impl Call {
    pub(super) fn new(session: Session) -> Call {
        let mailbox = Arc::clone(session.mailbox());
        Call { session: Mutex::new(Some(session)), mailbox, room: Notify::new() }
    }

    /// What comes next. Where that is nothing, whoever polls is woken by what brings something.
    pub(super) fn step(&self, cx: &Context<'_>) -> Step {
        // First the waker, then the look: what comes in between wakes us.
        self.mailbox.register(cx.waker());
        let mut session = self.session();
        let Some(session) = session.as_mut() else { return Step::End(EtcdError::WatchCanceled) };
        let had_room = session.has_room();
        let step = session.next();
        if !had_room && session.has_room() {
            self.room.notify_one();
        }
        step
    }

    /// Ends the call and with it all its watchers.
    pub(super) fn close(&self) {
        drop(self.session().take());
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        // The session of a call that panicked is only dropped any more.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl WatchStream {
    /// Starts a call. The end of `requests` changes nothing (WAT-14), an error in them ends the call, and so does
    /// `ending`. Progress is told every `progress_interval`, plus up to a tenth, different for each call.
    pub fn new(
        hub: WatchHub,
        reader: Reader,
        requests: impl Stream<Item = Result<Request, EtcdError>> + Send + 'static,
        progress_interval: Duration,
        ending: impl Future<Output = EtcdError> + Send + 'static,
    ) -> WatchStream {
        let call = Arc::new(Call::new(Session::new(hub, reader)));
        let reading = tokio::spawn(read_requests(Arc::clone(&call), Box::pin(requests)));
        let period = progress_interval.mul_f64(1.0 + rand::random::<f64>() / 10.0);
        let mut ticker = tokio::time::interval_at(Instant::now() + period, period);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        WatchStream {
            call,
            ticker,
            ending: Box::pin(ending),
            requests: reading.abort_handle(),
            unlooked: 0,
            is_over: false,
        }
    }

    /// Looks for what is rare: the end of the call from outside, and the ticker.
    fn look_around(&mut self, cx: &mut Context<'_>) -> Poll<EtcdError> {
        while self.ticker.poll_tick(cx).is_ready() {
            if let Some(session) = self.call.session().as_mut() {
                session.tick();
            }
        }
        self.ending.as_mut().poll(cx)
    }

    fn end(&mut self, error: EtcdError) -> Poll<Option<Result<Response, EtcdError>>> {
        self.is_over = true;
        self.requests.abort();
        self.call.close();
        Poll::Ready(Some(Err(error)))
    }
}

impl Stream for WatchStream {
    type Item = Result<Response, EtcdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let mut has_looked = false;
        loop {
            if self.unlooked == LOOK_AFTER && !has_looked {
                if let Poll::Ready(error) = self.look_around(cx) {
                    return self.end(error);
                }
                has_looked = true;
            }
            match self.call.step(cx) {
                Step::Respond(response) => {
                    self.unlooked = if has_looked { 1 } else { self.unlooked + 1 };
                    return Poll::Ready(Some(Ok(response)));
                }
                Step::End(error) => return self.end(error),
                // Nobody sleeps without having said what is to wake him.
                Step::Idle | Step::Yield if !has_looked => self.unlooked = LOOK_AFTER,
                Step::Idle => return Poll::Pending,
                Step::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.requests.abort();
        self.call.close();
    }
}

pub(super) async fn read_requests<S>(call: Arc<Call>, mut requests: Pin<Box<S>>)
where
    S: Stream<Item = Result<Request, EtcdError>>,
{
    while let Some(request) = requests.next().await {
        loop {
            let has_room = call.session().as_ref().is_none_or(Session::has_room);
            if has_room {
                break;
            }
            call.room.notified().await;
        }
        let has_failed = request.is_err();
        match (call.session().as_mut(), request) {
            (Some(session), Ok(request)) => session.handle(request),
            (Some(session), Err(error)) => session.fail(error),
            (None, _) => return,
        }
        call.mailbox.wake();
        if has_failed {
            return;
        }
    }
}
