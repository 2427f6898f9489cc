//! What to do about the difference between what is held and what is wanted. Pure: it takes `now`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use weft_types::{ModelName, Version};

/// A version of a model.
pub(crate) type Key = (ModelName, Version);

/// Where a version stands, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Loading,
    Ready,
    /// To be loaded again at this instant, if ever.
    Failed {
        retry_at: Option<Instant>,
    },
    Draining,
}

/// One action on one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Load(Key),
    /// Serve what has come, then drop it.
    Unload(Key),
    /// It serves nobody: a load under way is cancelled, a failure is cleared.
    Forget(Key),
}

/// The steps from `held` towards `wanted`, and when to look again although nothing has changed. A worker that is not
/// `accepting` loads nothing more.
pub(crate) fn plan(
    held: &BTreeMap<Key, Phase>,
    wanted: &BTreeSet<Key>,
    accepting: bool,
    now: Instant,
) -> (Vec<Step>, Option<Instant>) {
    let mut steps = Vec::new();
    let mut wake: Option<Instant> = None;
    for (key, phase) in held {
        match (phase, wanted.contains(key)) {
            // A version that drains and is wanted again loads anew once it has gone.
            (Phase::Draining, _) | (Phase::Loading | Phase::Ready, true) => {}
            (Phase::Ready, false) => steps.push(Step::Unload(key.clone())),
            (Phase::Loading | Phase::Failed { .. }, false) => steps.push(Step::Forget(key.clone())),
            (Phase::Failed { retry_at: Some(retry_at) }, true) if accepting && *retry_at <= now => {
                steps.push(Step::Load(key.clone()));
            }
            (Phase::Failed { retry_at: Some(retry_at) }, true) if accepting => {
                wake = Some(wake.map_or(*retry_at, |wake| wake.min(*retry_at)));
            }
            (Phase::Failed { .. }, true) => {}
        }
    }
    let missing = wanted.iter().filter(|key| accepting && !held.contains_key(key));
    steps.extend(missing.cloned().map(Step::Load));
    (steps, wake)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use weft_types::SystemClock;

    use super::*;

    fn key(number: u64) -> Key {
        ("m".parse().expect("a name"), Version::new(number).expect("a version"))
    }

    fn phases(now: Instant) -> [Phase; 6] {
        let late = now + Duration::from_secs(1);
        [
            Phase::Loading,
            Phase::Ready,
            Phase::Draining,
            Phase::Failed { retry_at: Some(now) },
            Phase::Failed { retry_at: Some(late) },
            Phase::Failed { retry_at: None },
        ]
    }

    #[test]
    fn every_phase_has_its_step() {
        let now = SystemClock::now();
        let cases = [
            (None, true, Some(Step::Load(key(1)))),
            (None, false, None),
            (Some(Phase::Loading), true, None),
            (Some(Phase::Loading), false, Some(Step::Forget(key(1)))),
            (Some(Phase::Ready), true, None),
            (Some(Phase::Ready), false, Some(Step::Unload(key(1)))),
            (Some(Phase::Draining), true, None),
            (Some(Phase::Draining), false, None),
            (Some(Phase::Failed { retry_at: Some(now) }), true, Some(Step::Load(key(1)))),
            (Some(Phase::Failed { retry_at: Some(now) }), false, Some(Step::Forget(key(1)))),
            (Some(Phase::Failed { retry_at: None }), true, None),
            (Some(Phase::Failed { retry_at: None }), false, Some(Step::Forget(key(1)))),
        ];
        for (phase, wanted, step) in cases {
            let held = phase.map(|phase| (key(1), phase)).into_iter().collect();
            let wanted = wanted.then(|| key(1)).into_iter().collect();
            assert_eq!(plan(&held, &wanted, true, now), (step.into_iter().collect(), None), "{phase:?}");
        }
    }

    #[test]
    fn a_failure_waits_for_its_time() {
        let now = SystemClock::now();
        let retry_at = now + Duration::from_secs(1);
        let held = BTreeMap::from([(key(1), Phase::Failed { retry_at: Some(retry_at) })]);
        let wanted = BTreeSet::from([key(1)]);
        assert_eq!(plan(&held, &wanted, true, now), (vec![], Some(retry_at)));
        assert_eq!(plan(&held, &wanted, true, retry_at), (vec![Step::Load(key(1))], None));
        assert_eq!(plan(&held, &wanted, false, retry_at), (vec![], None));
    }

    proptest! {
        /// Each version gets one step at most, nothing wanted is taken away, and a draining worker loads nothing.
        #[test]
        fn steps_agree_with_what_is_wanted(
            held in proptest::collection::btree_map(1u64..20, 0usize..6, 0..20),
            wanted in proptest::collection::btree_set(1u64..20, 0..20),
            accepting: bool,
        ) {
            let now = SystemClock::now();
            let held: BTreeMap<Key, Phase> = held.into_iter().map(|(number, phase)| (key(number), phases(now)[phase])).collect();
            let wanted: BTreeSet<Key> = wanted.into_iter().map(key).collect();
            let (steps, _) = plan(&held, &wanted, accepting, now);
            let mut seen = BTreeSet::new();
            for step in steps {
                let (key, loads) = match step {
                    Step::Load(key) => (key, true),
                    Step::Unload(key) | Step::Forget(key) => (key, false),
                };
                prop_assert_eq!(wanted.contains(&key), loads);
                prop_assert!(accepting || !loads);
                prop_assert!(seen.insert(key));
            }
        }
    }
}
