//! Which calls are under way at once, which wait, and which are refused: admission in front of replicas that have queues of their own.
//!
//! - [`Limit`]: how many calls may be under way; it looks for the fewest with which the replicas do all that they can.
//! - [`open_to`]: for which bands there is a place within it.
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

/// The lowest band of which one more call may be under way; `None` where there is no place for any.
///
/// A band counts its own calls and those of the bands above, as in a preemptive priority queue, where nobody sees who is less urgent: replicas
/// serve by band, and stop less urgent work for a call that would be late. So nobody waits for a place that a less urgent call has. Each band
/// alone keeps within the limit, and all together within three times as many; while they are more than one, a place that becomes free goes to nobody
/// below, which brings them back to it.
///
/// `under_way` has the calls of each of [`Band::ALL`].
pub fn open_to(limit: u32, under_way: [u32; Band::ALL.len()]) -> Option<Band> {
    let up_to = under_way.into_iter().scan(0u32, |sum, calls| {
        *sum = sum.saturating_add(calls);
        Some(*sum)
    });
    Band::ALL.into_iter().zip(up_to).take_while(|(_, calls)| *calls < limit).last().map(|(band, _)| band)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_waits_for_a_place_of_somebody_less_urgent() {
        let open = |under_way| open_to(10, under_way);
        assert_eq!(open([3, 3, 3]), Some(Band::Sheddable));
        assert_eq!(open([0, 0, 10]), Some(Band::Default));
        assert_eq!(open([0, 10, 0]), Some(Band::Critical));
        assert_eq!(open([9, 1, 0]), Some(Band::Critical), "its own calls and those above");
        assert_eq!(open([10, 0, 0]), None);
        assert_eq!(open([u32::MAX, u32::MAX, 1]), None);
        assert_eq!(open_to(0, [0, 0, 0]), None);
    }

    proptest! {
        /// However calls come and go, no band has more than the limit, all together have no more than three times as many, and those who come to a
        /// mesh with less than the limit under way all find a place.
        #[test]
        fn each_band_keeps_within_the_limit(
            limit in 1u32..20,
            steps in proptest::collection::vec((0usize..3, any::<bool>()), 0..300),
        ) {
            let mut under_way = [0u32; 3];
            for (band, comes) in steps {
                let open = open_to(limit, under_way);
                prop_assert_eq!(open == Some(Band::Sheddable), under_way.iter().sum::<u32>() < limit);
                if !comes {
                    under_way[band] = under_way[band].saturating_sub(1);
                } else if open.is_some_and(|lowest| Band::ALL[band] <= lowest) {
                    under_way[band] += 1;
                }
                prop_assert!(under_way.iter().all(|calls| *calls <= limit));
            }
        }
    }
}
