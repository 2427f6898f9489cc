//! What the processes that own a register in turn (`src/bin/owner.rs`) and the test that watches them agree on.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use rustix::time::{ClockId, clock_gettime};

/// The register.
pub const REGISTER: &str = "register";
/// Who holds this key owns the register.
pub const OWNER: &str = "owner";
/// How long the ownership outlives its owner: the least that etcd grants.
pub const TTL: Duration = Duration::from_secs(2);

/// One line of what an owner tells. Times are those of [`now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It owns the register from this revision on.
    Elected(i64),
    /// It has seen a value.
    Read {
        /// When it began to look.
        invoked: u64,
        /// When it had seen it.
        returned: u64,
        /// The value.
        value: u64,
    },
    /// It has decided to write; the outcome follows, unless it is not known.
    Begun {
        /// The write's number among this owner's.
        write: u64,
        /// When it decided.
        invoked: u64,
        /// The value that it believes to be there.
        found: u64,
        /// The value that it writes.
        left: u64,
        /// Whether it takes its time before it writes.
        slow: bool,
    },
    /// The write happened.
    Done {
        /// The write's number.
        write: u64,
        /// When that was known.
        returned: u64,
    },
    /// The write was refused: it did nothing.
    Refused {
        /// The write's number.
        write: u64,
    },
    /// The write may have happened or not: its answer was lost.
    Unknown {
        /// The write's number.
        write: u64,
    },
}

/// The machine's monotonic clock in nanoseconds, comparable between processes. It goes on while a process is stopped.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elected(term) => write!(f, "elected {term}"),
            Self::Read { invoked, returned, value } => write!(f, "read {invoked} {returned} {value}"),
            Self::Begun { write, invoked, found, left, slow } => {
                write!(f, "begun {write} {invoked} {found} {left} {}", u8::from(*slow))
            }
            Self::Done { write, returned } => write!(f, "done {write} {returned}"),
            Self::Refused { write } => write!(f, "refused {write}"),
            Self::Unknown { write } => write!(f, "unknown {write}"),
        }
    }
}

impl FromStr for Line {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let (word, numbers) = line.split_once(' ').context("a line has numbers")?;
        let numbers = numbers.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        Ok(match (word, numbers.as_slice()) {
            ("elected", [term]) => Self::Elected(i64::try_from(*term)?),
            ("read", &[invoked, returned, value]) => Self::Read { invoked, returned, value },
            ("begun", &[write, invoked, found, left, slow]) => {
                Self::Begun { write, invoked, found, left, slow: slow == 1 }
            }
            ("done", &[write, returned]) => Self::Done { write, returned },
            ("refused", &[write]) => Self::Refused { write },
            ("unknown", &[write]) => Self::Unknown { write },
            _ => bail!("an owner told '{line}'"),
        })
    }
}
