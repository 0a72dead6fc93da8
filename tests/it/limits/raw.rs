//! HTTP/2 by hand, for clients that no library would let misbehave (RFC 9113; headers as RFC 7541 literals).

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const DATA: u8 = 0;

pub const ACK: u8 = 1;

pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const REFUSED_STREAM: u32 = 7;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const ENHANCE_YOUR_CALM: u32 = 11;

const GET: u8 = 0x82;
const POST: u8 = 0x83;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame as received.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM (its first word) or GOAWAY (its second).
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        let word = self.payload.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(word))
    }

    /// The settings of a SETTINGS frame.
    pub fn settings(&self) -> Vec<(u16, u32)> {
        let pair =
            |six: &[u8]| (u16::from_be_bytes([six[0], six[1]]), u32::from_be_bytes([six[2], six[3], six[4], six[5]]));
        self.payload.chunks_exact(6).map(pair).collect()
    }
}

/// A connection after the preface and an empty SETTINGS.
pub struct RawClient(TlsStream<TcpStream>);

impl RawClient {
    pub async fn greet(mut stream: TlsStream<TcpStream>) -> Self {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("preface written");
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("settings written");
        Self(stream)
    }

    /// Sends everything in one write.
    pub async fn send(&mut self, frames: &[Vec<u8>]) {
        self.0.write_all(&frames.concat()).await.expect("frames written");
        self.0.flush().await.expect("frames flushed");
    }

    /// The next frame; `None` when the server closed the connection.
    pub async fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Some(Frame { kind: head[3], stream, payload })
    }

    /// Frames up to the first that fits, or to the end of the connection.
    pub async fn until(&mut self, fits: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.receive().await?;
            if fits(&frame) {
                return Some(frame);
            }
        }
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The opening of a gRPC call, without its message.
pub fn call(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    frame(HEADERS, END_HEADERS, stream, &block(POST, path, grpc.iter().chain(more)))
}

/// A whole GET request.
pub fn get(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(GET, path, more.iter()))
}

/// The header block of a request; `method` is its index in the static table.
fn block<'h>(method: u8, path: &str, headers: impl Iterator<Item = &'h (&'h str, &'h str)>) -> Vec<u8> {
    let mut block = vec![method, 0x87]; // :scheme https
    block.push(0x04); // :path
    text(&mut block, path);
    block.push(0x01); // :authority
    text(&mut block, "localhost");
    for (name, value) in headers {
        block.push(0x00);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// A string literal without Huffman coding: its length as a 7-bit prefix integer (RFC 7541, 5.1).
fn text(block: &mut Vec<u8>, value: &str) {
    let mut rest = value.len();
    if rest < 127 {
        block.push(u8::try_from(rest).expect("below 127"));
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).expect("below 128") | 0x80);
            rest /= 128;
        }
        block.push(u8::try_from(rest).expect("below 128"));
    }
    block.extend(value.as_bytes());
}
