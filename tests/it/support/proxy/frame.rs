//! The framing of PostgreSQL's protocol, version 3: a first packet without a tag, then tagged messages. Their meaning
//! is left to `flight.rs` and `link.rs`.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

/// A longer message means that the stream is not this protocol.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The length includes itself.
const LENGTH_BYTES: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Frame {
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let length = u32::try_from(LENGTH_BYTES + self.body.len()).expect("below the longest message");
        bytes.push(self.tag);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&self.body);
    }
}

/// The first packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    pub code: u32,
    /// The whole packet.
    pub bytes: Vec<u8>,
}

impl Startup {
    pub const CANCEL: u32 = 80_877_102;
    pub const TLS: u32 = 80_877_103;
    pub const GSS: u32 = 80_877_104;
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes: this is not PostgreSQL's protocol")]
pub struct Malformed(usize);

/// Splits a stream into messages, however it arrives.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete message.
    pub fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(end) = self.end_of_message(1)? else {
            return Ok(None);
        };
        let message: Vec<u8> = self.bytes.drain(..end).collect();
        Ok(Some(Frame {
            tag: message[0],
            body: message[1 + LENGTH_BYTES..].to_vec(),
        }))
    }

    pub fn next_startup(&mut self) -> Result<Option<Startup>, Malformed> {
        let Some(end) = self.end_of_message(0)? else {
            return Ok(None);
        };
        let bytes: Vec<u8> = self.bytes.drain(..end).collect();
        let code = bytes.get(LENGTH_BYTES..2 * LENGTH_BYTES).ok_or(Malformed(end))?;
        let code = u32::from_be_bytes(code.try_into().expect("four bytes"));
        Ok(Some(Startup { code, bytes }))
    }

    /// The bytes read beyond the last complete message.
    pub fn into_rest(self) -> Vec<u8> {
        self.bytes
    }

    fn end_of_message(&self, tag_bytes: usize) -> Result<Option<usize>, Malformed> {
        let Some(length) = self.bytes.get(tag_bytes..tag_bytes + LENGTH_BYTES) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        if !(LENGTH_BYTES..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(Malformed(length));
        }
        let end = tag_bytes + length;
        Ok((self.bytes.len() >= end).then_some(end))
    }
}

mod tests {
    use super::*;

    fn messages() -> Vec<Frame> {
        let frame = |tag, body: &[u8]| Frame {
            tag,
            body: body.to_vec(),
        };
        vec![
            frame(b'P', b"\0select 1\0\0\0"),
            frame(b'S', b""),
            frame(b'Q', b"begin\0"),
            frame(b'd', &[7; 5000]),
        ]
    }

    fn encoded(frames: &[Frame]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        bytes
    }

    #[test]
    fn a_stream_is_split_into_messages_however_it_arrives() {
        let bytes = encoded(&messages());
        for chunk in [1, 2, 3, 5, 7, 4096, bytes.len()] {
            let mut frames = Frames::default();
            let mut read = Vec::new();
            for part in bytes.chunks(chunk) {
                frames.push(part);
                while let Some(frame) = frames.next().unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, messages(), "in chunks of {chunk}");
            assert!(frames.into_rest().is_empty());
        }
    }

    #[test]
    fn a_first_packet_has_a_code_instead_of_a_tag() {
        let packet = [0, 0, 0, 8, 4, 210, 22, 47];
        let mut frames = Frames::default();
        frames.push(&packet[..7]);
        assert_eq!(frames.next_startup(), Ok(None));
        frames.push(&packet[7..]);
        frames.push(b"more");
        let startup = frames.next_startup().unwrap().unwrap();
        assert_eq!((startup.code, startup.bytes), (Startup::TLS, packet.to_vec()));
        assert_eq!(frames.into_rest(), b"more");
    }

    #[test]
    fn an_impossible_length_is_refused() {
        for length in [0_u32, 3, 0x4854_5450, u32::MAX] {
            let mut frames = Frames::default();
            frames.push(b"Q");
            frames.push(&length.to_be_bytes());
            assert_eq!(frames.next(), Err(Malformed(length as usize)));
        }
    }
}
