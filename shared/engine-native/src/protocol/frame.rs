//! Messages in a stream of bytes: each after its length as a 4-byte little-endian number.

use bytes::{Buf as _, BufMut as _, BytesMut};
use prost::Message;

/// The longest command. Tensors are not in messages; prompts are, and they come out of gRPC messages that are bounded, too.
pub(crate) const MAX_COMMAND_BYTES: usize = 256 << 20;

/// The longest event: it tells of tensors, and of a few tokens. An engine process is not believed, and a message of nothing but
/// empty parts takes fifty times its length once it is read.
pub(crate) const MAX_EVENT_BYTES: usize = 2 << 20;

/// Appends a message. It cannot be too long for its prefix: what goes in came through a gRPC message.
pub(crate) fn write(message: &impl Message, buffer: &mut BytesMut) {
    let length = message.encoded_len();
    buffer.reserve(4 + length);
    buffer.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(buffer);
}

/// Takes the first message out, if all of it is there. Fails on what is no message: the stream is of no use then.
pub(crate) fn read<M: Message + Default>(buffer: &mut BytesMut, longest: usize) -> Result<Option<M>, String> {
    let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > longest {
        return Err(format!("a message of {length} bytes"));
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    let message = M::decode(buffer.split_to(length));
    message.map(Some).map_err(|error| format!("a message that cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Command, Load, command};

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let load =
            |name: &str| Command { body: Some(command::Body::Load(Load { name: name.to_owned(), ..Load::default() })) };
        let messages = [load("one"), Command { body: Some(command::Body::Cancel(7)) }, load(&"x".repeat(5000))];
        let mut whole = BytesMut::new();
        messages.iter().for_each(|message| write(message, &mut whole));
        for size in [1, 3, 64, whole.len()] {
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for part in whole.chunks(size) {
                buffer.extend_from_slice(part);
                while let Some(message) = read::<Command>(&mut buffer, MAX_COMMAND_BYTES).unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!((seen.as_slice(), buffer.len()), (&messages[..], 0));
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        let read = |bytes: &[u8]| read::<Command>(&mut BytesMut::from(bytes), MAX_EVENT_BYTES);
        assert!(read(&[0xFF; 8]).is_err());
        assert!(read(&[2, 0, 0, 0, 0xFF, 0xFF]).is_err());
        assert!(read(&[0, 0, 32, 0]).is_ok() && read(&[1, 0, 32, 0]).is_err(), "the bound is not held");
    }
}
