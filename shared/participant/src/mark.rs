//! What the headers of a call say of it.

use std::fmt;
use std::sync::Arc;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use weft_types::{Error, Result};

/// The header with the effect's [`Key`].
pub const KEY: &str = "weft-idempotency-key";
/// The header with the [`Direction`].
pub const DIRECTION: &str = "weft-direction";
/// The header with the number of the attempt, from 1.
pub const ATTEMPT: &str = "weft-attempt";
/// The header with the owner's epoch.
pub const EPOCH: &str = "weft-epoch";

/// The longest key: a job's id, a step's name and an item's number fit with room to spare.
pub const MAX_KEY_BYTES: usize = 512;

/// Which effect: `<job id>/<step>` or `<job id>/<step>/<item>`. Every attempt of an action has the same one, and so have its undo and probe.
///
/// 1 to 512 visible ASCII characters, so that it is safe as part of a key in etcd and in logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// A checked key.
    ///
    /// # Errors
    ///
    /// When it is empty, longer than 512 bytes, or holds anything but visible ASCII; the header is named.
    pub fn try_new(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > MAX_KEY_BYTES {
            return Err(Error::invalid(KEY, format_args!("must have 1 to {MAX_KEY_BYTES} characters")));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::invalid(KEY, "must be visible ASCII characters without spaces"));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// What the job wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The effect.
    Action,
    /// That the effect is gone, whether or not it ever was there.
    Undo,
    /// To know whether the effect is there.
    Probe,
}

impl Direction {
    const ALL: [Self; 3] = [Self::Action, Self::Undo, Self::Probe];

    /// The header's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Undo => "undo",
            Self::Probe => "probe",
        }
    }
}

/// What a call of a job says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which effect.
    pub key: Key,
    /// What is wanted.
    pub direction: Direction,
    /// Which attempt, from 1. Actions count up over the whole life of a job; a probe has the number of the last action before it.
    pub attempt: u32,
    /// Which owner of the job sent it: it grows with each take-over.
    pub epoch: u64,
}

impl Mark {
    /// Reads the headers of a call.
    ///
    /// # Errors
    ///
    /// `InvalidRequest`, with the header as its field, when one is missing, stands more than once or cannot be read.
    pub fn read(headers: &MetadataMap) -> Result<Self> {
        let key = Key::try_new(single(headers, KEY)?)?;
        let direction = single(headers, DIRECTION)?;
        let direction = Direction::ALL.into_iter().find(|known| known.as_str() == direction);
        let direction = direction.ok_or_else(|| Error::invalid(DIRECTION, "must be 'action', 'undo' or 'probe'"))?;
        let attempt = number(headers, ATTEMPT)?;
        let attempt = u32::try_from(attempt).ok().filter(|attempt| *attempt > 0);
        let attempt = attempt.ok_or_else(|| Error::invalid(ATTEMPT, "must be from 1 to 4294967295"))?;
        Ok(Self { key, direction, attempt, epoch: number(headers, EPOCH)? })
    }

    /// Puts the headers onto a call, in the place of any that stand there.
    pub fn write(&self, headers: &mut MetadataMap) {
        if let Ok(key) = MetadataValue::<Ascii>::try_from(self.key.as_str()) {
            // A key is visible ASCII, so this is always the way taken.
            headers.insert(KEY, key);
        }
        headers.insert(DIRECTION, MetadataValue::from_static(self.direction.as_str()));
        headers.insert(ATTEMPT, MetadataValue::from(self.attempt));
        headers.insert(EPOCH, MetadataValue::from(self.epoch));
    }

    /// Where an attempt stands among all attempts of one action: owners come after each other, and each counts on.
    pub(crate) const fn order(&self) -> (u64, u32) {
        (self.epoch, self.attempt)
    }
}

/// A header that stands exactly once.
fn single<'a>(headers: &'a MetadataMap, name: &'static str) -> Result<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(Error::invalid(name, "is missing")),
        (Some(value), None) => value.to_str().map_err(|_| Error::invalid(name, "must be visible ASCII characters")),
        (Some(_), Some(_)) => Err(Error::invalid(name, "given more than once")),
    }
}

fn number(headers: &MetadataMap, name: &'static str) -> Result<u64> {
    let text = single(headers, name)?;
    // `parse` would take a sign.
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| Error::invalid(name, "must be a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &str)]) -> MetadataMap {
        let mut headers = MetadataMap::new();
        for (name, value) in of {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    const GOOD: [(&str, &str); 4] = [(KEY, "3f/load/7"), (DIRECTION, "undo"), (ATTEMPT, "3"), (EPOCH, "412")];

    #[test]
    fn reads_what_it_writes() {
        let mark = Mark::read(&headers(&GOOD)).expect("good headers");
        let key = Key::try_new("3f/load/7").expect("a good key");
        assert_eq!(mark, Mark { key, direction: Direction::Undo, attempt: 3, epoch: 412 });
        let mut again = headers(&[(KEY, "another")]);
        mark.write(&mut again);
        assert_eq!(Mark::read(&again), Ok(mark));
    }

    #[test]
    fn each_header_is_named_when_it_is_bad() {
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        let bad: [(&'static str, &[&str]); 4] = [
            (KEY, &["", " ", "a b", "caf\u{e9}", &long]),
            (DIRECTION, &["", "Action", "redo"]),
            (ATTEMPT, &["", "0", "-1", "+1", "1.0", "4294967296", "NaN"]),
            (EPOCH, &["", "-1", "+1", "1e3", "18446744073709551616", "inf"]),
        ];
        for (name, values) in bad {
            let others = GOOD.into_iter().filter(|(other, _)| *other != name);
            let others: Vec<_> = others.collect();
            let refused = |headers: MetadataMap| Mark::read(&headers).map_err(|error| error.field().map(str::to_owned));
            assert_eq!(refused(headers(&others)), Err(Some(name.to_owned())), "{name} is missing");
            for value in values {
                let all: Vec<_> = others.iter().copied().chain([(name, *value)]).collect();
                assert_eq!(refused(headers(&all)), Err(Some(name.to_owned())), "{name}: {value:?}");
            }
            let good = GOOD.into_iter().find(|(known, _)| *known == name).expect("a header of ours");
            let twice: Vec<_> = GOOD.into_iter().chain([good]).collect();
            assert_eq!(refused(headers(&twice)), Err(Some(name.to_owned())), "{name} twice");
        }
    }
}
