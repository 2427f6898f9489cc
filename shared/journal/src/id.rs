//! What a job is called: `<shard><ulid>`, two hexadecimal digits and 26 characters of Crockford's base 32.

use std::fmt;
use std::str::FromStr;

/// Characters of a ULID (github.com/ulid/spec).
const ULID: usize = 26;
/// Of the time in it.
const TIME: usize = 10;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A job's name. It says which shard the job belongs to, so nobody has to look that up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Box<str>);

/// A text that is no job's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job's id is two hexadecimal digits and a ULID, 28 characters in all")]
pub struct InvalidId;

impl JobId {
    /// A new one of `shard`, made at `now` (milliseconds since 1970); of `random` 80 bits are used.
    pub fn new(shard: u8, now: u64, random: u128) -> Self {
        let mut text = format!("{shard:02x}");
        let mut push = |digits: usize, value: u128| {
            for place in (0..digits).rev() {
                let digit = usize::try_from((value >> (5 * place)) & 31).unwrap_or(0);
                text.push(char::from(ALPHABET[digit]));
            }
        };
        push(TIME, u128::from(now) & ((1 << 48) - 1));
        push(ULID - TIME, random & ((1 << 80) - 1));
        Self(text.into())
    }

    /// The shard that it belongs to.
    pub fn shard(&self) -> u8 {
        // It was checked, or written by us.
        u8::from_str_radix(self.0.get(..2).unwrap_or_default(), 16).unwrap_or(0)
    }

    /// The part that grows with time: ids of all shards in the order in which they were made.
    pub fn ulid(&self) -> &str {
        self.0.get(2..).unwrap_or_default()
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (shard, ulid) = text.split_at_checked(2).ok_or(InvalidId)?;
        let is_hex = shard.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        // The first character holds the top three of 48 bits.
        let is_ulid = ulid.len() == ULID
            && ulid.bytes().all(|byte| ALPHABET.contains(&byte))
            && ulid.as_bytes().first().is_some_and(|first| *first <= b'7');
        if is_hex && is_ulid { Ok(Self(text.into())) } else { Err(InvalidId) }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_read_back_and_follow_time(shard: u8, now in 0u64..(1 << 48) - 1, one: u128, other: u128) {
            let id = JobId::new(shard, now, one);
            prop_assert_eq!(id.as_str().parse::<JobId>(), Ok(id.clone()));
            prop_assert_eq!(id.shard(), shard);
            prop_assert!(JobId::new(shard.wrapping_add(1), now + 1, other).ulid() > id.ulid());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let good = JobId::new(255, 1, 2).to_string();
        assert!(good.parse::<JobId>().is_ok());
        let upper = good.replace("ff", "FF");
        let long = format!("{good}0");
        let bads = [
            "",
            "0",
            "00",
            &good[1..],
            &upper,
            &long,
            "ff00000000000000000000000O",
            "ff80000000000000000000000000",
            "éé",
        ];
        for bad in bads {
            assert_eq!(bad.parse::<JobId>(), Err(InvalidId), "{bad:?}");
        }
    }
}
