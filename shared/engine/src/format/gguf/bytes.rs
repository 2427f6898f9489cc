//! Little-endian reading that knows where it is and what is left.

use std::io::{BufReader, Read, Seek};

use super::super::refusal::quoted;
use super::super::{Refusal, Rule, file};

/// The most bytes that come before the tensors' data.
const MAX_HEADER_BYTES: u64 = 64 << 20;

/// A file that is read from its start to the end of its header.
pub(super) struct Bytes<R> {
    source: BufReader<R>,
    at: u64,
    length: u64,
    place: String,
}

impl<R: Read + Seek> Bytes<R> {
    pub(super) fn new(mut source: R, longest: u64) -> Result<Self, Refusal> {
        let length = file::length(&mut source, longest)?;
        Ok(Self { source: BufReader::new(source), at: 0, length, place: "the file".to_owned() })
    }

    /// Names what is read next, for refusals.
    pub(super) fn place(&mut self, place: &str) {
        place.clone_into(&mut self.place);
    }

    /// As [`Self::place`], with a name of the file's own.
    pub(super) fn place_named(&mut self, kind: &str, name: &str) {
        self.place = format!("{kind} {}", quoted(name));
    }

    pub(super) fn refuse(&self, rule: Rule) -> Refusal {
        Refusal::new(rule, self.place.clone(), self.at)
    }

    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Makes sure that so many bytes follow, before anything is done about them.
    fn expect(&self, bytes: u64) -> Result<(), Refusal> {
        match self.at.checked_add(bytes) {
            Some(end) if end > self.length => Err(self.refuse(Rule::Truncated)),
            Some(end) if end > MAX_HEADER_BYTES => Err(self.refuse(Rule::MetadataSize)),
            Some(_) => Ok(()),
            None => Err(self.refuse(Rule::Truncated)),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        self.expect(N as u64)?;
        let mut array = [0; N];
        self.source.read_exact(&mut array).map_err(|_| self.refuse(Rule::Unreadable))?;
        self.at += N as u64;
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Refusal> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Refusal> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of things, each of which takes more than a byte of the file.
    pub(super) fn count(&mut self, most: u64, rule: Rule, place: &str) -> Result<u64, Refusal> {
        self.place(place);
        let count = self.u64()?;
        if count > most || count > self.length - self.at { Err(self.refuse(rule)) } else { Ok(count) }
    }

    /// A text of at most `longest` bytes.
    pub(super) fn text(&mut self, longest: u64, rule: Rule) -> Result<String, Refusal> {
        let length = self.u64()?;
        if length > longest {
            return Err(self.refuse(rule));
        }
        self.expect(length)?;
        let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
        self.source.read_exact(&mut text).map_err(|_| self.refuse(Rule::Unreadable))?;
        self.at += length;
        String::from_utf8(text).map_err(|_| self.refuse(rule))
    }

    pub(super) fn skip(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.expect(bytes)?;
        let step = i64::try_from(bytes).map_err(|_| self.refuse(Rule::Truncated))?;
        self.source.seek_relative(step).map_err(|_| self.refuse(Rule::Unreadable))?;
        self.at += bytes;
        Ok(())
    }
}
