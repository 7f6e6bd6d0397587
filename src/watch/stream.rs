//! A Watch call as an asynchronous stream of responses.
//!
//! The stream is pulled: a response is made when the connection has room for it. A task of its own reads the
//! requests, so that a client that reads slowly can still cancel. The two share no state that would need a
//! lock: the session belongs to the stream alone. The end of the call drops the stream, and with it all its
//! watchers at once.

use super::control::{Request, read_requests};
use super::hub::WatchHub;
use super::response::Response;
use super::session::{Session, Step, open};
use crate::core::Reader;
use crate::error::EtcdError;
use futures_util::Stream;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Consecutive responses after which a busy stream checks its ticker and the end of the call.
const CHECK_INTERVAL: usize = 64;

/// The responses of one Watch call. Ends with an error and never without one.
pub struct WatchStream {
    /// `None` once the call is over.
    session: Option<Session>,
    ticker: Interval,
    /// Ends the call from outside, with a reason.
    ending: Pin<Box<dyn Future<Output = EtcdError> + Send>>,
    requests: AbortHandle,
    /// Responses since the last [`WatchStream::check_rare_events`].
    unchecked: usize,
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream").field("session", &self.session).finish_non_exhaustive()
    }
}

impl WatchStream {
    /// Starts a call. The end of `requests` changes nothing (WAT-14), an error in them ends the call, and so
    /// does `ending`. Progress is reported every `progress_interval`, plus up to a tenth, different for each
    /// call.
    pub fn new(
        hub: WatchHub,
        reader: Reader,
        requests: impl Stream<Item = Result<Request, EtcdError>> + Send + 'static,
        progress_interval: Duration,
        ending: impl Future<Output = EtcdError> + Send + 'static,
    ) -> WatchStream {
        let (control, session) = open(hub, reader);
        let reading = tokio::spawn(read_requests(control, Box::pin(requests)));
        let period = progress_interval.mul_f64(1.0 + rand::random::<f64>() / 10.0);
        let mut ticker = tokio::time::interval_at(Instant::now() + period, period);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        WatchStream {
            session: Some(session),
            ticker,
            ending: Box::pin(ending),
            requests: reading.abort_handle(),
            unchecked: 0,
        }
    }

    /// Checks rare events: the end of the call from outside, and the ticker. After that every source that may
    /// wake the stream has its waker.
    fn check_rare_events(&mut self, cx: &mut Context<'_>) -> Poll<EtcdError> {
        if let Some(session) = &mut self.session {
            session.register(cx.waker());
            while self.ticker.poll_tick(cx).is_ready() {
                session.tick();
            }
        }
        self.ending.as_mut().poll(cx)
    }

    fn end(&mut self, error: EtcdError) -> Poll<Option<Result<Response, EtcdError>>> {
        self.requests.abort();
        self.session = None;
        Poll::Ready(Some(Err(error)))
    }
}

impl Stream for WatchStream {
    type Item = Result<Response, EtcdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut has_checked = false;
        loop {
            if self.unchecked == CHECK_INTERVAL && !has_checked {
                if let Poll::Ready(error) = self.check_rare_events(cx) {
                    return self.end(error);
                }
                has_checked = true;
            }
            let Some(session) = &mut self.session else { return Poll::Ready(None) };
            match session.next() {
                Step::Respond(response) => {
                    self.unchecked = if has_checked { 1 } else { self.unchecked + 1 };
                    return Poll::Ready(Some(Ok(response)));
                }
                Step::End(error) => return self.end(error),
                // The stream must register its waker before it sleeps.
                Step::Idle | Step::Yield if !has_checked => self.unchecked = CHECK_INTERVAL,
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
    }
}
