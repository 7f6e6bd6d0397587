//! The body of a response as it passes.

use super::frames::FrameCounter;
use super::wording::{put_status, translate};
use super::{Call, deadline, outcome};
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep};
use tonic::Status;

/// The body of a response, whose messages are counted and whose trailers end its call. A deadline cuts it
/// off.
#[derive(Debug)]
pub(super) struct CountedResponse {
    body: tonic::body::Body,
    call: Call,
    frames: FrameCounter,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl CountedResponse {
    pub(super) fn new(body: tonic::body::Body, call: Call, deadline: Option<Instant>) -> CountedResponse {
        let frames = FrameCounter::new(call.method.counters.sent.clone());
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        CountedResponse { body, call, frames, deadline }
    }

    /// Drops the rest of the body, and the call behind it. Returns the trailers for that.
    fn cut_off(&mut self) -> Frame<Bytes> {
        self.body = tonic::body::Body::empty();
        self.deadline = None;
        let status = deadline::exceeded();
        self.call.end(status.code());
        let mut trailers = HeaderMap::new();
        put_status(&mut trailers, &status);
        Frame::trailers(trailers)
    }
}

impl HttpBody for CountedResponse {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(context);
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.frames.pass(data);
                } else if let Some(trailers) = frame.trailers_mut() {
                    translate(trailers, self.call.method.kind);
                    if let Some(code) = outcome(trailers) {
                        self.call.end(code);
                    }
                }
            }
            Poll::Ready(_) => {}
            Poll::Pending => {
                let deadline = self.deadline.as_mut();
                if deadline.is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
                    return Poll::Ready(Some(Ok(self.cut_off())));
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
