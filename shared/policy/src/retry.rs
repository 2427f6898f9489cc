//! Whether a failed call may be tried again: what the failure allows, what the deadline allows, what the budget allows.

use std::time::{Duration, Instant};

use weft_types::{Error, MIN_RESERVE, Retry};

/// The limits of one call's retries.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The most attempts, the first one included.
    pub max_attempts: u32,
    /// What must remain of the deadline for another attempt to make sense.
    pub min_remaining: Duration,
}

impl Default for Policy {
    /// Once elsewhere. Two reserves must remain: this process's own and that of the hop after it.
    fn default() -> Self {
        Self { max_attempts: 2, min_remaining: MIN_RESERVE.saturating_mul(2) }
    }
}

/// Where a call stands after a failed attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// How it failed.
    pub error: &'a Error,
    /// Attempts made so far, the failed one included.
    pub made: u32,
    /// What remains of the deadline.
    pub remaining: Duration,
    /// Whether any part of a response has reached the caller: then the call cannot be taken back.
    pub started: bool,
}

/// What to do with a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer the caller with the failure.
    GiveUp,
    /// Try another replica now.
    Elsewhere,
    /// Wait this long, as the server asked, then try again.
    After(Duration),
}

/// What to do after a failed attempt. Unless the verdict is to give up, ask the [`Budget`] last, because asking spends.
pub fn may_retry(policy: &Policy, attempt: &Attempt<'_>) -> Verdict {
    let wait = attempt.error.pushback().unwrap_or_default();
    let verdict = match (attempt.error.reason().retry(), attempt.error.pushback()) {
        (Retry::Never, _) => return Verdict::GiveUp,
        (Retry::Elsewhere, None) => Verdict::Elsewhere,
        (Retry::Elsewhere | Retry::AfterPushback, Some(wait)) => Verdict::After(wait),
        // The server did not say how long, and guessing is how a busy server is finished off.
        (Retry::AfterPushback, None) => return Verdict::GiveUp,
    };
    let affordable = attempt.remaining.checked_sub(wait).is_some_and(|left| left >= policy.min_remaining);
    if attempt.started || attempt.made >= policy.max_attempts || !affordable { Verdict::GiveUp } else { verdict }
}

/// The size of a [`Budget`].
#[derive(Clone, Copy, Debug)]
pub struct BudgetSettings {
    /// Retries that each hundred calls earn.
    pub percent: u32,
    /// Retries that each second earns, so that a quiet route may retry at all.
    pub per_second: u32,
    /// The most retries that can be saved up: the largest burst.
    pub cap: u32,
}

impl Default for BudgetSettings {
    /// One retry for five calls bounds the load that retries add to 20 %; the cap is about what a second of it earns.
    fn default() -> Self {
        Self { percent: 20, per_second: 3, cap: 100 }
    }
}

/// A token bucket that calls and time fill and retries empty, shared by the calls of one route.
#[derive(Clone, Debug)]
pub struct Budget {
    settings: BudgetSettings,
    /// In millionths of a retry, so that microseconds and percents count exactly.
    tokens: u64,
    filled: Instant,
}

impl Budget {
    const RETRY: u64 = 1_000_000;

    /// A budget with one second's worth saved up.
    pub fn new(settings: BudgetSettings, now: Instant) -> Self {
        let mut budget = Self { settings, tokens: 0, filled: now };
        budget.add(u64::from(settings.per_second) * Self::RETRY);
        budget
    }

    /// Counts a first attempt.
    pub fn deposit(&mut self) {
        self.add(u64::from(self.settings.percent) * Self::RETRY / 100);
    }

    /// The whole retries that could be paid for.
    pub fn left(&mut self, now: Instant) -> u64 {
        self.earn(now);
        self.tokens / Self::RETRY
    }

    /// Pays for one retry, if there is enough.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.earn(now);
        match self.tokens.checked_sub(Self::RETRY) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }

    /// Counts the time since it was last counted.
    fn earn(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        let earned = elapsed.as_micros().saturating_mul(u128::from(self.settings.per_second));
        self.add(u64::try_from(earned).unwrap_or(u64::MAX));
    }

    fn add(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens).min(u64::from(self.settings.cap) * Self::RETRY);
    }
}

/// Retry throttling as in gRFC A6: failures of one server cost a token, successes give back a part, and below half of
/// the tokens nothing is sent to it again.
#[derive(Clone, Debug)]
pub struct Throttle {
    /// In thousandths: the precision that the gRFC asks for.
    tokens: u64,
    max: u64,
    ratio: u64,
}

impl Throttle {
    /// A full throttle of `max_tokens`, where each success gives back `ratio_thousandths` of one.
    pub fn new(max_tokens: u32, ratio_thousandths: u32) -> Self {
        let max = u64::from(max_tokens) * 1000;
        Self { tokens: max, max, ratio: u64::from(ratio_thousandths) }
    }

    /// Counts a call that the server answered.
    pub fn succeeded(&mut self) {
        self.tokens = (self.tokens + self.ratio).min(self.max);
    }

    /// Counts a call that failed in a way that may be retried, or that the server told not to retry.
    pub fn failed(&mut self) {
        self.tokens = self.tokens.saturating_sub(1000);
    }

    /// Whether a retry may be sent.
    pub const fn allows(&self) -> bool {
        self.tokens > self.max / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_types::{Reason, SystemClock};

    const LONG: Duration = Duration::from_secs(1);

    fn verdict(error: &Error, made: u32, remaining: Duration) -> Verdict {
        may_retry(&Policy::default(), &Attempt { error, made, remaining, started: false })
    }

    #[test]
    fn only_what_the_error_table_allows_goes_again() {
        for reason in Reason::ALL {
            let plain = Error::new(reason, "why");
            let pushed = plain.clone().retry_after(Duration::from_millis(50));
            let (now, later) = match reason.retry() {
                Retry::Never => (Verdict::GiveUp, Verdict::GiveUp),
                Retry::Elsewhere => (Verdict::Elsewhere, Verdict::After(Duration::from_millis(50))),
                Retry::AfterPushback => (Verdict::GiveUp, Verdict::After(Duration::from_millis(50))),
            };
            assert_eq!(verdict(&plain, 1, LONG), now, "{reason:?}");
            assert_eq!(verdict(&pushed, 1, LONG), later, "{reason:?}");
        }
    }

    #[test]
    fn once_and_not_on_a_started_stream() {
        let lost = Error::new(Reason::WorkerLost, "why");
        assert_eq!(verdict(&lost, 1, LONG), Verdict::Elsewhere);
        assert_eq!(verdict(&lost, 2, LONG), Verdict::GiveUp);
        let started = Attempt { error: &lost, made: 1, remaining: LONG, started: true };
        assert_eq!(may_retry(&Policy::default(), &started), Verdict::GiveUp);
    }

    proptest! {
        /// No retry is started that the deadline leaves no room for, the wait included.
        #[test]
        fn never_past_the_deadline(remaining_us in 0u64..100_000, wait_us in proptest::option::of(0u64..100_000)) {
            let remaining = Duration::from_micros(remaining_us);
            let mut error = Error::new(Reason::Draining, "why");
            if let Some(wait) = wait_us {
                error = error.retry_after(Duration::from_micros(wait));
            }
            let wait = Duration::from_micros(wait_us.unwrap_or(0));
            let fits = wait + Policy::default().min_remaining <= remaining;
            prop_assert_eq!(verdict(&error, 1, remaining) != Verdict::GiveUp, fits);
        }

        /// Over any history, retries stay within the share of calls plus what time earns plus what was saved at first.
        #[test]
        fn the_budget_bounds_retries(steps in proptest::collection::vec((any::<bool>(), 0u64..400), 0..400)) {
            let settings = BudgetSettings { percent: 20, per_second: 3, cap: 10 };
            let start = SystemClock::now();
            let (mut budget, mut now, mut calls, mut retries) = (Budget::new(settings, start), start, 0u64, 0u64);
            for (retry, pause) in steps {
                now += Duration::from_millis(pause);
                if retry {
                    retries += u64::from(budget.withdraw(now));
                } else {
                    budget.deposit();
                    calls += 1;
                }
                let earned = calls as f64 * 0.2 + now.duration_since(start).as_secs_f64() * 3.0 + 3.0;
                prop_assert!(retries as f64 <= earned + 1e-6);
            }
        }
    }

    #[test]
    fn the_budget_earns_by_calls_and_by_time() {
        let start = SystemClock::now();
        let mut budget = Budget::new(BudgetSettings { percent: 20, per_second: 0, cap: 2 }, start);
        assert!(!budget.withdraw(start));
        for _ in 0..5 {
            budget.deposit();
        }
        assert_eq!(budget.left(start), 1);
        assert!(budget.withdraw(start));
        assert!(!budget.withdraw(start));
        for _ in 0..1000 {
            budget.deposit();
        }
        assert_eq!((0..10).filter(|_| budget.withdraw(start)).count(), 2);
        let mut budget = Budget::new(BudgetSettings { percent: 0, per_second: 2, cap: 2 }, start);
        assert_eq!((0..10).filter(|_| budget.withdraw(start)).count(), 2);
        assert!(!budget.withdraw(start + Duration::from_millis(499)));
        assert_eq!(budget.left(start + Duration::from_millis(500)), 1);
        assert!(budget.withdraw(start + Duration::from_millis(500)));
    }

    #[test]
    fn the_throttle_follows_the_grfc() {
        let mut throttle = Throttle::new(10, 100);
        for _ in 0..4 {
            throttle.failed();
        }
        assert!(throttle.allows());
        throttle.failed();
        assert!(!throttle.allows());
        throttle.succeeded();
        assert!(throttle.allows());
        for _ in 0..100 {
            throttle.failed();
        }
        for _ in 0..50 {
            throttle.succeeded();
        }
        assert!(!throttle.allows());
        throttle.succeeded();
        assert!(throttle.allows());
    }
}
