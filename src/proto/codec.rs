//! Encodes and decodes the messages of calls.

use crate::long_work;
use prost::Message;
use std::fmt;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// Encoding so many bytes takes about as long as a worker of the runtime may be held.
const LONG_BYTES: usize = 1 << 20;

/// The codec of the generated services. It decodes as `tonic_prost::ProstCodec` does. It takes the room of a
/// message at once, and encodes large messages as long work.
pub struct MessageCodec<T, U>(PhantomData<(T, U)>);

/// The encoder of a [`MessageCodec`].
pub struct MessageEncoder<T>(PhantomData<T>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        MessageCodec(PhantomData)
    }
}

impl<T, U> fmt::Debug for MessageCodec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageCodec")
    }
}

impl<T> fmt::Debug for MessageEncoder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageEncoder")
    }
}

impl<T, U> Codec for MessageCodec<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = MessageEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> MessageEncoder<T> {
        MessageEncoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::default()
    }
}

impl<T: Message> Encoder for MessageEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = message.encoded_len();
        // The message is also dropped there.
        let encode = move || {
            buf.reserve(bytes);
            message.encode(buf).map_err(|error| Status::internal(error.to_string()))
        };
        long_work::run_if(bytes >= LONG_BYTES, encode)
    }
}
