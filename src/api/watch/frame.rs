//! Responses of the Watch call as they are sent: their events are encoded already.

use crate::api::header::HeaderSource;
use crate::api::status_code::cancel_reason;
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse};
use crate::watch::{Body, Response};
use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use smallvec::SmallVec;
use std::collections::VecDeque;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// The field of the events in a `WatchResponse`. The last one, so that a response is its other fields, then
/// these.
const EVENTS_FIELD: u32 = 11;

/// A `WatchResponse` with encoded events.
#[derive(Debug)]
pub(super) struct Frame {
    /// Everything but the events.
    pub(super) head: WatchResponse,
    pub(super) events: SmallVec<[Bytes; 1]>,
}

impl Frame {
    pub(super) fn new(response: Response, header: &HeaderSource) -> Frame {
        let mut head = WatchResponse {
            header: Some(header.at(response.revision)),
            watch_id: response.watch_id,
            ..WatchResponse::default()
        };
        let mut events = SmallVec::new();
        match response.body {
            Body::Created => head.created = true,
            Body::Refused(error) => {
                head.created = true;
                head.canceled = true;
                head.cancel_reason = cancel_reason(&error);
            }
            Body::Canceled => head.canceled = true,
            Body::Compacted(floor) => {
                head.canceled = true;
                head.compact_revision = floor.0;
            }
            Body::Progress => {}
            Body::Events { events: encoded, .. } => events = encoded,
        }
        Frame { head, events }
    }

    fn event_len(event: &Bytes) -> usize {
        key_len(EVENTS_FIELD) + encoded_len_varint(event.len() as u64) + event.len()
    }

    pub(super) fn encoded_len(&self) -> usize {
        self.head.encoded_len() + self.events.iter().map(Frame::event_len).sum::<usize>()
    }

    /// Splits a long response into pieces below `max_bytes`, or of one event. All but the last are marked as
    /// fragments.
    pub(super) fn split(self, max_bytes: usize) -> VecDeque<Frame> {
        let head = WatchResponse { fragment: true, ..self.head };
        let head_len = head.encoded_len();
        let mut pieces: VecDeque<Frame> = VecDeque::new();
        let mut len = 0;
        for event in self.events {
            let event_len = Frame::event_len(&event);
            match pieces.back_mut() {
                Some(piece) if len + event_len < max_bytes => piece.events.push(event),
                _ => {
                    pieces.push_back(Frame { head: head.clone(), events: SmallVec::from_iter([event]) });
                    len = head_len;
                }
            }
            len += event_len;
        }
        if let Some(last) = pieces.back_mut() {
            last.head.fragment = false;
        }
        pieces
    }

    pub(super) fn encode(&self, buf: &mut impl BufMut) {
        self.head.encode_raw(buf);
        for event in &self.events {
            encode_key(EVENTS_FIELD, WireType::LengthDelimited, buf);
            encode_varint(event.len() as u64, buf);
            buf.put_slice(event);
        }
    }
}

/// Encodes frames, and decodes requests by prost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Frame;
    type Decode = WatchRequest;
    type Encoder = WatchCodec;
    type Decoder = ProstDecoder<WatchRequest>;

    fn encoder(&mut self) -> WatchCodec {
        WatchCodec
    }

    fn decoder(&mut self) -> ProstDecoder<WatchRequest> {
        ProstDecoder::default()
    }
}

impl Encoder for WatchCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(frame.encoded_len());
        frame.encode(buf);
        Ok(())
    }
}
