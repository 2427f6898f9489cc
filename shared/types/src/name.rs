//! Names that came from outside, checked once and carried as types.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More than 128 bytes.
    #[error("must be at most 128 characters")]
    TooLong,
    /// A character outside the set, or a leading one that is not alphanumeric.
    #[error("must be letters, digits, '.', '_' or '-', starting with a letter or digit, without '..'")]
    Character,
    /// Not a positive whole number.
    #[error("must be a positive whole number")]
    Number,
}

fn check(name: &str) -> Result<(), InvalidName> {
    let bytes = name.as_bytes();
    match bytes {
        [] => Err(InvalidName::Empty),
        _ if bytes.len() > 128 => Err(InvalidName::TooLong),
        [first, ..] if !first.is_ascii_alphanumeric() => Err(InvalidName::Character),
        _ if bytes.windows(2).any(|pair| pair == b"..") => Err(InvalidName::Character),
        _ if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte)) => {
            Err(InvalidName::Character)
        }
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        ///
        /// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}` without `..`, so that it is safe as a path part, an etcd key part and a metric label.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The checked text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                check(name)?;
                Ok(Self(name.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, formatter)
            }
        }

        // Names are looked up by `&str` on the hot path, without building a name first.
        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// The name of a model, or of a route to one.
    ModelName
);
name!(
    /// The identity of a worker, stable over restarts.
    WorkerId
);

/// A model's version: a positive number, as in Triton's repository layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// A version, unless `number` is zero.
    pub const fn new(number: u64) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Version {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() || text.len() > 19 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidName::Number);
        }
        text.parse().ok().and_then(Self::new).ok_or(InvalidName::Number)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_triton_repositories_use() {
        for good in ["digits", "densenet_onnx", "gemma-3-270m", "a", "0", "Model.v2", &"x".repeat(128)] {
            assert!(good.parse::<ModelName>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn refuses_what_could_escape() {
        let long = "x".repeat(129);
        for bad in
            ["", "../etc", "a/b", "a\\b", ".hidden", "-rf", "a..b", "a\0b", "%2e", "mod\u{e9}l", " a", "a ", &long]
        {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn versions_are_positive_numbers() {
        assert_eq!("12".parse::<Version>().map(Version::get), Ok(12));
        for bad in ["", "0", "-1", "1.0", "one", "99999999999999999999"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?} was accepted");
        }
    }
}
