//! Which calls are under way at once, which wait, and which are refused: admission in front of replicas that have queues of their own.
//!
//! - [`Limit`]: how many calls may be under way; it looks for the fewest with which the replicas do all that they can.
//! - [`Line`]: those that wait beyond it: by priority band, in a band by fair share between tenants, of a tenant by deadline.
//! - [`Standing`]: whether what waits is a burst or a queue that stands, after CoDel (Nichols & Jacobson, RFC 8289).

mod limit;
mod line;
#[cfg(test)]
mod simulated;
mod standing;
mod tenants;

pub use limit::{Limit, Sample};
pub use line::{Asked, Key, Line, Place, Refusal, Room};
pub use standing::Standing;

/// How urgent a call is: the derived order is the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Band {
    /// Served before all others.
    Critical,
    /// What callers get that do not say.
    #[default]
    Default,
    /// Served when nobody else waits, and shed first.
    Sheddable,
}

impl Band {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Default, Self::Sheddable];

    /// The band of Triton's `priority` parameter, of which 1 is the most urgent and 0 stands for the default.
    pub const fn of(priority: u64) -> Self {
        match priority {
            1 => Self::Critical,
            0 | 2 => Self::Default,
            _ => Self::Sheddable,
        }
    }

    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Default => "default",
            Self::Sheddable => "sheddable",
        }
    }
}
