//! The codec of every call: protobuf, with small buffers to begin with. tonic sets aside 8 KiB for each direction of a call
//! when it opens; ten thousand idle streams would hold 80 MB of them for directives that take a few hundred bytes. Named
//! by the generated code only.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a buffer begins with, in bytes; it grows with its messages.
const BUFFER: usize = 512;
/// Encoded bytes that go to the socket in one piece when a stream has more to say (tonic's own figure).
const YIELD_AT: usize = 32 * 1024;

/// Protobuf messages in buffers that begin small.
#[derive(Debug)]
pub struct LeanCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for LeanCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER, YIELD_AT)
}

impl<T, U> Codec for LeanCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}
