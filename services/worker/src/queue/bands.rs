//! Priority levels, as a model's configuration has them: how many requests of a level may wait, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_proto::inference::{ModelDynamicBatching, ModelQueuePolicy};

/// What holds for the requests of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The most that wait.
    pub(crate) requests: Option<usize>,
    /// The longest that one waits before it is executed; its deadline bounds the whole of it besides.
    pub(crate) timeout: Option<Duration>,
}

impl Rule {
    /// A request's own `timeout` shortens the wait already, as part of its deadline: so `allow_timeout_override` changes nothing.
    fn of(policy: &ModelQueuePolicy) -> Self {
        Self {
            requests: Some(policy.max_queue_size).filter(|size| *size > 0).and_then(|size| usize::try_from(size).ok()),
            timeout: Some(policy.default_timeout_microseconds).filter(|micros| *micros > 0).map(Duration::from_micros),
        }
    }
}

/// The levels of one model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bands {
    /// How many levels there are; 0 where the configuration has none: then any number goes.
    levels: u64,
    general: Rule,
    own: BTreeMap<u64, Rule>,
}

impl Bands {
    pub(crate) fn of(dynamic: &ModelDynamicBatching) -> Self {
        let own = dynamic.priority_queue_policy.iter().map(|(level, policy)| (*level, Rule::of(policy)));
        Self {
            levels: dynamic.priority_levels,
            general: dynamic.default_queue_policy.as_ref().map(Rule::of).unwrap_or_default(),
            own: own.collect(),
        }
    }

    /// The level that a caller asked for, if there is such a one; 0 asks for none.
    pub(crate) fn level(&self, priority: u64) -> Option<u64> {
        Some(priority).filter(|level| *level > 0 && (self.levels == 0 || *level <= self.levels))
    }

    /// What holds for a level.
    pub(crate) fn rule(&self, level: u64) -> Rule {
        self.own.get(&level).copied().unwrap_or(self.general)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_its_own_rule_or_the_general_one() {
        let policy = |max_queue_size, default_timeout_microseconds| ModelQueuePolicy {
            max_queue_size,
            default_timeout_microseconds,
            ..ModelQueuePolicy::default()
        };
        let bands = Bands::of(&ModelDynamicBatching {
            priority_levels: 2,
            default_priority_level: 2,
            default_queue_policy: Some(policy(7, 0)),
            priority_queue_policy: [(1, policy(0, 5))].into(),
            ..ModelDynamicBatching::default()
        });
        assert_eq!(bands.rule(1), Rule { requests: None, timeout: Some(Duration::from_micros(5)) });
        assert_eq!(bands.rule(2), Rule { requests: Some(7), timeout: None });
        assert_eq!([0, 1, 2, 3].map(|priority| bands.level(priority)), [None, Some(1), Some(2), None]);
        assert_eq!(Bands::default().level(200), Some(200));
    }
}
