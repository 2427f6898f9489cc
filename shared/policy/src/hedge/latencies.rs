//! What calls to one model take, as a distribution: a histogram whose buckets grow by a fixed factor and whose counts fade.

use std::time::{Duration, Instant};

/// Buckets for each doubling of the time: an estimate is off by less than a fifth.
const PER_OCTAVE: f32 = 4.0;
/// Where the first bucket ends, in seconds.
const LEAST: f32 = 50e-6;
/// Up to 50 us times 2 to the power of 22 (210 s); the last one takes whatever is longer.
const BUCKETS: usize = 22 * PER_OCTAVE as usize + 2;
/// With so many calls all counts are halved, so that a busy model's estimate follows within some hundreds of calls.
const MOST: f32 = 1024.0;
/// All counts are halved this often in any case, so that an idle model's estimate does not stand for ever.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// So many calls must lie beyond a quantile for it to be known.
const BEYOND: f32 = 5.0;

/// How long calls have lately taken. All fits into some hundred bytes.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: [f32; BUCKETS],
    total: f32,
    /// When the counts were last halved by time.
    halved: Instant,
}

impl Latencies {
    /// Nothing is known yet.
    pub const fn new(now: Instant) -> Self {
        Self { counts: [0.0; BUCKETS], total: 0.0, halved: now }
    }

    /// Counts a call that was answered after so long.
    pub fn observe(&mut self, took: Duration, now: Instant) {
        self.fade(now);
        self.counts[bucket(took)] += 1.0;
        self.total += 1.0;
        if self.total >= MOST {
            self.halve(1);
        }
    }

    /// Counts a call that another one was faster than, or that was given up: it took longer than this. It counts where it stands, which
    /// changes no quantile below that. If only the calls that ended were counted, the tail that is hedged away would be missing,
    /// and each estimate would come out lower than the one before.
    ///
    /// What was given up sooner than `share` of the calls take says nothing of which side it would have come to, and is left out.
    pub fn observe_longer(&mut self, took: Duration, share: f32, now: Instant) {
        if self.quantile(share, now).is_none_or(|known| took >= known) {
            self.observe(took, now);
        }
    }

    /// The time within which this share of calls is answered, above 0 and below 1; `None` while there are too few to know.
    pub fn quantile(&mut self, share: f32, now: Instant) -> Option<Duration> {
        self.fade(now);
        let share = share.clamp(0.0, 1.0);
        if self.total * share.min(1.0 - share) < BEYOND {
            return None;
        }
        let mut rest = self.total * share;
        for (index, count) in self.counts.iter().enumerate() {
            if *count > 0.0 && rest <= *count {
                return Duration::try_from_secs_f32(within(index, rest / count)).ok();
            }
            rest -= count;
        }
        // Rounding may leave a rest.
        Duration::try_from_secs_f32(within(BUCKETS - 1, 1.0)).ok()
    }

    fn fade(&mut self, now: Instant) {
        let times = now.saturating_duration_since(self.halved).as_secs() / HALF_LIFE.as_secs();
        if times > 0 {
            self.halved = now;
            self.halve(times.min(64) as i32);
        }
    }

    fn halve(&mut self, times: i32) {
        let kept = 0.5f32.powi(times);
        self.counts.iter_mut().for_each(|count| *count *= kept);
        // Summed anew, so that errors of rounding do not add up.
        self.total = self.counts.iter().sum();
    }
}

fn bucket(took: Duration) -> usize {
    let octaves = (took.as_secs_f32() / LEAST).log2();
    // Whatever takes no time at all comes out as minus infinity, which is zero as an index.
    ((octaves * PER_OCTAVE).ceil().max(0.0) as usize).min(BUCKETS - 1)
}

/// The time at this part of a bucket, in seconds.
fn within(index: usize, part: f32) -> f32 {
    let end = |index: usize| LEAST * (index as f32 / PER_OCTAVE).exp2();
    let from = index.checked_sub(1).map_or(0.0, end);
    from + (end(index) - from) * part.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_types::SystemClock;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn near(found: Option<Duration>, wanted: Duration) -> bool {
        found.is_some_and(|found| (found.as_secs_f32() / wanted.as_secs_f32() - 1.0).abs() < 0.2)
    }

    #[test]
    fn nothing_is_known_before_enough_calls_lie_beyond() {
        let now = SystemClock::now();
        let mut known = Latencies::new(now);
        for call in 1..=100 {
            assert_eq!(known.quantile(0.95, now), None, "after {call}");
            known.observe(MS * call, now);
        }
        assert!(near(known.quantile(0.95, now), 95 * MS), "{:?}", known.quantile(0.95, now));
        assert!(near(known.quantile(0.5, now), 50 * MS));
        assert_eq!(known.quantile(0.99, now), None);
        for nothing in [0.0, 1.0, -1.0, 2.0] {
            assert_eq!(known.quantile(nothing, now), None, "{nothing}");
        }
    }

    #[test]
    fn follows_a_change_and_forgets() {
        let start = SystemClock::now();
        let mut known = Latencies::new(start);
        (0..5_000).for_each(|_| known.observe(2 * MS, start));
        (0..2_000).for_each(|_| known.observe(40 * MS, start));
        assert!(near(known.quantile(0.5, start), 40 * MS));
        assert!(known.total < MOST);
        assert!(known.quantile(0.5, start + 2 * HALF_LIFE).is_some());
        assert_eq!(known.quantile(0.5, start + 20 * HALF_LIFE), None);
        // A reader that is behind changes nothing.
        let mut other = Latencies::new(start + HALF_LIFE);
        other.observe(MS, start);
        assert_eq!(other.total, 1.0);
    }

    /// A twentieth of the calls takes long and is hedged away: the estimate stays where it is for as long as those count.
    #[test]
    fn what_was_hedged_away_still_counts() {
        let now = SystemClock::now();
        let settle = |longer: bool| {
            let mut known = Latencies::new(now);
            for call in 0..20_000u32 {
                // Spread evenly from 1 to 10 ms.
                let took = if call % 20 == 0 { 80 * MS } else { MS + MS / 1000 * (call * 7_919 % 9_000) };
                match known.quantile(0.95, now).filter(|delay| took > *delay) {
                    Some(delay) if longer => known.observe_longer(delay + MS, 0.95, now),
                    Some(_) => {}
                    None => known.observe(took, now),
                }
            }
            known.quantile(0.95, now).expect("it is known")
        };
        let (with, without) = (settle(true), settle(false));
        assert!(with > 9 * MS && with < 12 * MS && without < with * 9 / 10, "{with:?}, {without:?}");
    }

    proptest! {
        /// Whatever is counted, a quantile is at most a bucket away from the true one, and grows with the share.
        #[test]
        fn is_near_the_true_one(mut micros in proptest::collection::vec(100u64..100_000_000, 100..900)) {
            let now = SystemClock::now();
            let mut known = Latencies::new(now);
            micros.iter().for_each(|took| known.observe(Duration::from_micros(*took), now));
            micros.sort_unstable();
            let mut last = Duration::ZERO;
            for share in [0.5f32, 0.75, 0.9, 0.95] {
                let found = known.quantile(share, now).expect("enough are there");
                let at = ((micros.len() as f32 * share).ceil() as usize).clamp(1, micros.len());
                // The one before and the one after, as a share may fall between two.
                let low = micros[at.saturating_sub(2)] as f32 * 1e-6 / 1.2;
                let high = micros[at.min(micros.len() - 1)] as f32 * 1e-6 * 1.2;
                prop_assert!((low..=high).contains(&found.as_secs_f32()), "{share}: {found:?} of {low}..{high}");
                prop_assert!(found >= last);
                last = found;
            }
        }

        #[test]
        fn any_time_has_its_bucket(nanos: u64) {
            let took = Duration::from_nanos(nanos);
            let index = bucket(took);
            prop_assert!(index < BUCKETS);
            prop_assert!(index == BUCKETS - 1 || took.as_secs_f32() <= within(index, 1.0) * 1.0001);
            prop_assert!(index == 0 || took.as_secs_f32() >= within(index, 0.0) * 0.9999);
        }
    }
}
