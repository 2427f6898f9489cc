//! The types that a setting can have, each with its text form.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_types::{ModelName, WorkerId};

/// How a value is given and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In quotes.
    Text,
    /// Without quotes.
    Number,
    /// Without quotes; a flag without a value means true.
    Switch,
    /// Separated by commas; a flag may be given several times.
    List,
    /// In no message and no printed configuration.
    Secret,
}

/// A type that a setting can have. `parse(show(x))` gives `x` again, so that a printed configuration can be read back.
pub trait Value: Sized {
    /// What is accepted, for messages: completes the sentence "expected ...".
    const EXPECTED: &'static str;
    /// How it is given and shown.
    const KIND: Kind = Kind::Text;

    /// Reads the text form.
    fn parse(text: &str) -> Option<Self>;
    /// Writes the text form.
    fn show(&self) -> String;
}

macro_rules! plain {
    ($($type:ty, $kind:ident, $expected:literal;)+) => {$(
        impl Value for $type {
            const EXPECTED: &'static str = $expected;
            const KIND: Kind = Kind::$kind;

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

plain! {
    bool, Switch, "true or false";
    u16, Number, "a whole number from 0 to 65535";
    u32, Number, "a whole number";
    u64, Number, "a whole number";
    usize, Number, "a whole number";
    String, Text, "text";
    SocketAddr, Text, "an address with a port, such as 127.0.0.1:8001 or [::1]:8001";
    ModelName, Text, "a name of letters, digits, '.', '_' and '-' that starts with a letter or digit";
    WorkerId, Text, "a name of letters, digits, '.', '_' and '-' that starts with a letter or digit";
}

impl Value for f64 {
    const EXPECTED: &'static str = "a number";
    const KIND: Kind = Kind::Number;

    // Infinity and NaN pass every comparison in surprising ways, so no setting takes them.
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|number: &Self| number.is_finite())
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// An empty text is the absence of a value, so that a flag can take back what a file says.
impl<T: Value> Value for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const KIND: Kind = T::KIND;

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::parse(text).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, T::show)
    }
}

/// Separated by commas; in a file an array does as well.
impl<T: Value> Value for Vec<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const KIND: Kind = if matches!(T::KIND, Kind::Secret) { Kind::Secret } else { Kind::List };

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(Self::new()) } else { text.split(',').map(|part| T::parse(part.trim())).collect() }
    }

    fn show(&self) -> String {
        self.iter().map(T::show).collect::<Vec<_>>().join(",")
    }
}

/// A text that is shown nowhere: not in messages, not by `--print-config`, not by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(***)")
    }
}

impl Value for Secret {
    const EXPECTED: &'static str = "text";
    const KIND: Kind = Kind::Secret;

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// Splits `"250ms"` into its digits and its unit.
fn number_and_rest(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

const TIME_UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Value for Duration {
    const EXPECTED: &'static str = "a time with its unit, such as 250ms, 30s or 1m30s";

    fn parse(text: &str) -> Option<Self> {
        let mut total: u64 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, after) = number_and_rest(rest)?;
            let end = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
            let (name, next) = after.split_at(end);
            let (_, unit) = TIME_UNITS.iter().find(|(unit, _)| *unit == name)?;
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*unit)?)?;
            rest = next;
        }
        (!text.is_empty()).then(|| Self::from_nanos(total))
    }

    fn show(&self) -> String {
        let nanos = self.as_nanos();
        // Zero divides by every unit; seconds read best.
        let unit = TIME_UNITS
            .iter()
            .skip(if nanos == 0 { 2 } else { 0 })
            .find(|(_, unit)| nanos.is_multiple_of(u128::from(*unit)));
        unit.map_or_else(|| format!("{nanos}ns"), |(name, unit)| format!("{}{name}", nanos / u128::from(*unit)))
    }
}

/// An amount of memory or data, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// So many bytes.
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// So many times 1024 * 1024 bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; the largest length when it does not fit.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Value for ByteSize {
    const EXPECTED: &'static str = "a size with its unit, such as 64MiB or 2GiB";

    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = number_and_rest(text)?;
        let unit = match unit.trim_start() {
            "" => 1,
            name => SIZE_UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(name))?.1,
        };
        number.parse::<u64>().ok()?.checked_mul(unit).map(Self)
    }

    fn show(&self) -> String {
        let largest = SIZE_UNITS.iter().take(4).find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        largest.map_or_else(|| format!("{}B", self.0), |(name, unit)| format!("{}{name}", self.0 / unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        for (text, nanos) in [("250ms", 250_000_000), ("30s", 30_000_000_000), ("1m30s", 90_000_000_000), ("0s", 0)] {
            assert_eq!(Duration::parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "30", "s", "1.5s", "-1s", "1 s", "1x", "99999999999h", "1s1"] {
            assert_eq!(Duration::parse(text), None, "{text:?} was accepted");
        }
        for (text, bytes) in [("64MiB", 64 << 20), ("64 mib", 64 << 20), ("512", 512), ("1KB", 1000), ("0", 0)] {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1B", "1.5GiB", "99999999999TiB", "1 parsec"] {
            assert_eq!(ByteSize::parse(text), None, "{text:?} was accepted");
        }
    }

    #[test]
    fn numbers_outside_what_a_setting_can_mean_are_refused() {
        for text in ["nan", "inf", "-inf", "", "1e999"] {
            assert_eq!(f64::parse(text), None, "{text:?} was accepted");
        }
        assert_eq!(u16::parse("65536"), None);
        assert_eq!(u32::parse("-1"), None);
        assert_eq!(bool::parse("yes"), None);
    }

    #[test]
    fn an_empty_text_is_no_value() {
        assert_eq!(Option::<u16>::parse(""), Some(None));
        assert_eq!(Vec::<u16>::parse(""), Some(vec![]));
        assert_eq!(Vec::<u16>::parse("1, 2,3"), Some(vec![1, 2, 3]));
        assert_eq!(Vec::<u16>::parse("1,,3"), None);
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let secret = Secret::parse("hunter2").expect("not empty");
        assert_eq!((format!("{secret:?}").as_str(), secret.expose()), ("Secret(***)", "hunter2"));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nanos: u64, bytes: u64, number: u64, fraction in -1e12..1e12_f64, list: Vec<u32>) {
            let time = Duration::from_nanos(nanos);
            prop_assert_eq!(Duration::parse(&time.show()), Some(time));
            prop_assert_eq!(ByteSize::parse(&ByteSize(bytes).show()), Some(ByteSize(bytes)));
            prop_assert_eq!(u64::parse(&number.show()), Some(number));
            prop_assert_eq!(f64::parse(&fraction.show()), Some(fraction));
            prop_assert_eq!(Vec::<u32>::parse(&list.show()), Some(list));
        }

        #[test]
        fn round_times_and_sizes_read_back(seconds in 0..10_000_000_u64, mib in 0..10_000_000_u64) {
            let time = Duration::from_secs(seconds);
            prop_assert_eq!(Duration::parse(&time.show()), Some(time));
            prop_assert_eq!(ByteSize::parse(&ByteSize::mib(mib).show()), Some(ByteSize::mib(mib)));
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = (Duration::parse(&text), ByteSize::parse(&text), Vec::<SocketAddr>::parse(&text));
        }
    }
}
