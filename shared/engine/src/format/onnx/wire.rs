//! Protobuf's wire format, read in place: fields with their extents, and never past what contains them.

use std::io::{BufReader, Read, Seek};

use super::super::{Refusal, Rule, file};

/// The longest text that is read.
const MAX_TEXT_BYTES: u64 = 64 << 10;

/// The most bytes of text that are read of one file.
const MAX_NAME_BYTES: u64 = 64 << 20;

/// A file that is read once, from start to end.
pub(super) struct Wire<R> {
    source: BufReader<R>,
    at: u64,
    length: u64,
    text_bytes: u64,
}

/// A field's number and content, of which only the extent is known yet.
pub(super) struct Field {
    pub(super) number: u64,
    content: Content,
    /// Where it ends.
    end: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Varint(u64),
    Fixed,
    Bytes,
}

impl<R: Read + Seek> Wire<R> {
    pub(super) fn new(mut source: R, longest: u64) -> Result<Self, Refusal> {
        let length = file::length(&mut source, longest)?;
        Ok(Self { source: BufReader::new(source), at: 0, length, text_bytes: 0 })
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn refuse(&self, rule: Rule, place: impl Into<String>) -> Refusal {
        Refusal::new(rule, place, self.at)
    }

    /// The next field of the message that ends at `end`, or nothing more.
    pub(super) fn next(&mut self, end: u64) -> Result<Option<Field>, Refusal> {
        if self.at >= end {
            return Ok(None);
        }
        let tag = self.varint(end)?;
        let number = tag >> 3;
        if !(1..1 << 29).contains(&number) {
            return Err(self.refuse(Rule::Tag, "a field"));
        }
        let (content, length) = match tag & 7 {
            0 => (Content::Varint(self.varint(end)?), 0),
            1 => (Content::Fixed, 8),
            2 => (Content::Bytes, self.varint(end)?),
            5 => (Content::Fixed, 4),
            // Groups, which ONNX never had, and what is undefined.
            _ => return Err(self.refuse(Rule::Tag, "a field")),
        };
        match self.at.checked_add(length) {
            Some(stop) if stop <= end => Ok(Some(Field { number, content, end: stop })),
            _ if end == self.length => Err(self.refuse(Rule::Truncated, format!("field {number}"))),
            _ => Err(self.refuse(Rule::FieldLength, format!("field {number}"))),
        }
    }

    /// Goes to the end of a field, however much of it has been read.
    pub(super) fn leave(&mut self, field: &Field) -> Result<(), Refusal> {
        self.skip(field.end - self.at)
    }

    fn varint(&mut self, end: u64) -> Result<u64, Refusal> {
        let mut value = 0u64;
        for at in 0..10 {
            if self.at >= end {
                let rule = if end == self.length { Rule::Truncated } else { Rule::Varint };
                return Err(self.refuse(rule, "a number"));
            }
            let [byte] = self.array::<1>()?;
            // The tenth byte has room for one bit.
            if at == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.refuse(Rule::Varint, "a number"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        self.source.read_exact(&mut array).map_err(|_| self.refuse(Rule::Unreadable, "the file"))?;
        self.at += N as u64;
        Ok(array)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Refusal> {
        let step = i64::try_from(bytes).map_err(|_| self.refuse(Rule::FieldLength, "a field"))?;
        self.source.seek_relative(step).map_err(|_| self.refuse(Rule::Unreadable, "the file"))?;
        self.at += bytes;
        Ok(())
    }
}

impl Field {
    pub(super) fn varint<R: Read + Seek>(&self, wire: &Wire<R>) -> Result<u64, Refusal> {
        match self.content {
            Content::Varint(value) => Ok(value),
            _ => Err(self.wrong(wire)),
        }
    }

    /// The end of a message, or of packed numbers, which begins here.
    pub(super) fn message<R: Read + Seek>(&self, wire: &Wire<R>) -> Result<u64, Refusal> {
        if self.content == Content::Bytes { Ok(self.end) } else { Err(self.wrong(wire)) }
    }

    /// How many bytes it holds.
    pub(super) fn bytes<R: Read + Seek>(&self, wire: &Wire<R>) -> Result<u64, Refusal> {
        self.message(wire).map(|end| end - wire.at)
    }

    pub(super) fn text<R: Read + Seek>(&self, wire: &mut Wire<R>) -> Result<String, Refusal> {
        let length = self.bytes(wire)?;
        if length > MAX_TEXT_BYTES {
            return Err(wire.refuse(Rule::Text, format!("field {}", self.number)));
        }
        // What is kept of an empty name is not nothing either.
        wire.text_bytes += length + 8;
        if wire.text_bytes > MAX_NAME_BYTES {
            return Err(wire.refuse(Rule::NameBytes, "the names"));
        }
        let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
        wire.source.read_exact(&mut text).map_err(|_| wire.refuse(Rule::Unreadable, "the file"))?;
        wire.at += length;
        String::from_utf8(text).map_err(|_| wire.refuse(Rule::Text, format!("field {}", self.number)))
    }

    /// Numbers, one or packed, each of which is handed to `each`.
    pub(super) fn varints<R: Read + Seek>(&self, wire: &mut Wire<R>, mut each: impl FnMut(u64)) -> Result<(), Refusal> {
        match self.content {
            Content::Varint(value) => each(value),
            Content::Bytes => {
                while wire.at < self.end {
                    each(wire.varint(self.end)?);
                }
            }
            Content::Fixed => return Err(self.wrong(wire)),
        }
        Ok(())
    }

    /// How many numbers of `width` bytes, one or packed.
    pub(super) fn fixed<R: Read + Seek>(&self, wire: &Wire<R>, width: u64) -> Result<u64, Refusal> {
        match self.content {
            Content::Fixed if self.end - wire.at == width => Ok(1),
            Content::Bytes if (self.end - wire.at).is_multiple_of(width) => Ok((self.end - wire.at) / width),
            Content::Bytes => Err(wire.refuse(Rule::TensorData, format!("field {}", self.number))),
            _ => Err(self.wrong(wire)),
        }
    }

    /// Little-endian numbers of 8 bytes, each of which is handed to `each`.
    pub(super) fn words<R: Read + Seek>(&self, wire: &mut Wire<R>, mut each: impl FnMut(u64)) -> Result<(), Refusal> {
        while wire.at + 8 <= self.end {
            each(u64::from_le_bytes(wire.array()?));
        }
        Ok(())
    }

    fn wrong<R: Read + Seek>(&self, wire: &Wire<R>) -> Refusal {
        wire.refuse(Rule::WireType, format!("field {}", self.number))
    }
}
