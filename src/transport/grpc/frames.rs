//! Finds the messages in a gRPC body as it passes, without holding any of it back.
//!
//! A message is a flag byte, its length in four bytes, big endian, and that many bytes. Chunks of a body
//! split it anywhere.

use crate::telemetry::MessageCounters;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

const PREFIX_BYTES: usize = 5;

/// Counts the messages of one body.
#[derive(Debug)]
pub(super) struct FrameCounter {
    counters: MessageCounters,
    prefix: [u8; PREFIX_BYTES],
    /// How much of the prefix of the next message is known.
    prefix_filled: usize,
    /// How much of the current message is still to pass.
    payload_left: usize,
}

impl FrameCounter {
    pub(super) fn new(counters: MessageCounters) -> FrameCounter {
        FrameCounter { counters, prefix: [0; PREFIX_BYTES], prefix_filled: 0, payload_left: 0 }
    }

    /// Takes the next chunk of the body into account. A message counts when its length is known.
    pub(super) fn pass(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            if self.payload_left > 0 {
                let passing = self.payload_left.min(chunk.len());
                self.payload_left -= passing;
                chunk = &chunk[passing..];
                continue;
            }
            let known = (PREFIX_BYTES - self.prefix_filled).min(chunk.len());
            self.prefix[self.prefix_filled..][..known].copy_from_slice(&chunk[..known]);
            self.prefix_filled += known;
            chunk = &chunk[known..];
            if self.prefix_filled == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                let length = u32::from_be_bytes(length);
                self.prefix_filled = 0;
                self.payload_left = length as usize;
                self.counters.messages.inc();
                self.counters.bytes.inc_by(u64::from(length));
            }
        }
    }
}

/// The body of a request, whose messages are counted.
#[derive(Debug)]
pub(crate) struct CountedRequest {
    body: Body,
    frames: FrameCounter,
}

impl CountedRequest {
    pub(super) fn new(body: Body, frames: FrameCounter) -> CountedRequest {
        CountedRequest { body, frames }
    }
}

impl HttpBody for CountedRequest {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.frames.pass(data);
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

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::IntCounter;

    #[test]
    fn messages_are_found_however_the_body_is_cut() {
        let body: Vec<u8> =
            [&[0, 0, 0, 0, 3, 7, 7, 7][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[9; 256]].concat();
        for size in 1..=body.len() {
            let counter = || IntCounter::new("name", "help").expect("a legal name");
            let counters = MessageCounters { messages: counter(), bytes: counter() };
            let mut frames = FrameCounter::new(counters.clone());
            body.chunks(size).for_each(|chunk| frames.pass(chunk));
            assert_eq!((counters.messages.get(), counters.bytes.get()), (3, 259), "chunks of {size}");
        }
    }
}
