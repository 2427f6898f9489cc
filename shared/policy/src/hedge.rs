//! When a call that takes long is sent to another replica as well (hedging, gRFC A6; "The Tail at Scale", Dean and Barroso 2013).

mod latencies;

use std::time::{Duration, Instant};

use weft_types::{Deadline, Error, MIN_RESERVE, Retry};

pub use latencies::Latencies;

/// The most attempts that a call may have (gRFC A6).
pub const MAX_ATTEMPTS: u32 = 5;
/// What is hedged sooner is hedged by the noise of timers.
const MIN_DELAY: Duration = Duration::from_millis(1);
/// What another attempt needs beside the time that calls take: this process's reserve and that of the hop after it.
const OVERHEAD: Duration = MIN_RESERVE.saturating_mul(2);

/// How the calls of a route are hedged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The most attempts of one call, the first one included.
    pub max_attempts: u32,
    /// How long the latest attempt may take before another is sent.
    pub delay: Delay,
}

/// How long an attempt may take before the next is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    /// Always the same.
    Fixed(Duration),
    /// As long as this share of calls has lately taken at most: above 0, below 1.
    Quantile(f32),
}

impl Delay {
    /// The delay for a call that begins now; `None` while too little is known, and then the call is not hedged.
    pub fn given(self, known: &mut Latencies, now: Instant) -> Option<Duration> {
        match self {
            Self::Fixed(delay) => Some(delay),
            Self::Quantile(share) => known.quantile(share, now),
        }
        .map(|delay| delay.max(MIN_DELAY))
    }
}

/// What a failed attempt says about the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ends the call: others would fail alike, or the work may have been done (what gRFC A6 calls a fatal status).
    Fatal,
    /// Others may succeed: those that are under way are waited for, and the next may be due.
    GoOn,
}

/// What the server of a failed attempt said about the next one (gRFC A6, `grpc-retry-pushback-ms`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    None,
    /// Not before this time has passed.
    After(Duration),
    /// There shall be no more.
    Never,
}

/// The attempts of one call: when the next is due, if there may be one.
#[derive(Clone, Debug)]
pub struct Attempts {
    max: u32,
    /// `None` hedges only what has failed.
    delay: Option<Duration>,
    /// What an attempt needs to end in time more often than not.
    needs: Duration,
    made: u32,
    next: Option<Instant>,
}

impl Attempts {
    /// A call whose first attempt begins now. `median` is what calls to its model take, as far as that is known.
    pub fn begin(max: u32, delay: Option<Duration>, median: Option<Duration>, now: Instant) -> Self {
        let needs = median.unwrap_or_default().saturating_add(OVERHEAD);
        let next = delay.map(|delay| now + delay);
        Self { max: max.min(MAX_ATTEMPTS), delay, needs, made: 1, next }
    }

    /// When the next attempt is due; `None` when there is to be none, because that was the last one or since too little
    /// of the deadline would be left for it. The retry budget is asked when it is due.
    pub fn due(&self, deadline: Deadline) -> Option<Instant> {
        self.next.filter(|next| self.made < self.max && deadline.remaining(*next) >= self.needs)
    }

    /// Attempts made so far, the first included.
    pub const fn made(&self) -> u32 {
        self.made
    }

    /// Another attempt was sent now.
    pub fn sent(&mut self, now: Instant) {
        self.made = self.made.saturating_add(1);
        self.next = self.delay.map(|delay| now + delay);
    }

    /// There are to be no more.
    pub const fn stop(&mut self) {
        self.max = 0;
    }

    /// There is nobody to send another to: only when an attempt fails is one due again.
    pub const fn postpone(&mut self) {
        self.next = None;
    }

    /// An attempt of which nothing was done, since it never left or its replica is not there any more: the next one takes its
    /// place at once, and does not count as another (gRFC A6, transparent retry).
    pub const fn undone(&mut self, now: Instant) {
        self.made = self.made.saturating_sub(1);
        self.next = Some(now);
    }

    /// An attempt failed now.
    pub fn failed(&mut self, error: &Error, pushback: Pushback, now: Instant) -> Verdict {
        match (error.reason().retry(), pushback) {
            (Retry::Never, _) => return Verdict::Fatal,
            (_, Pushback::After(wait)) => self.next = Some(now + wait),
            (Retry::Elsewhere, Pushback::None) => self.next = Some(now),
            // A busy server that does not say how long is not helped by guesses.
            (_, Pushback::Never) | (Retry::AfterPushback, Pushback::None) => self.stop(),
        }
        Verdict::GoOn
    }
}

#[cfg(test)]
mod simulated;

#[cfg(test)]
mod tests;
