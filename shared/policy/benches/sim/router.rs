//! What a simulated router knows: what it has sent and what came back, and the reports that came with that.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use weft_policy::admit::{Limit, Line};
use weft_policy::choose::{self, Latency, Look, Quickest, Reported, Standing};
use weft_policy::{Candidate, Terms};

use super::method::Balance;
use super::worker::Call;

/// Who waits longer than this for a place makes the queue stand, as in the router's own settings.
const TARGET_WAIT: Duration = Duration::from_millis(25);

/// A replica as one router sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) in_flight: u32,
    latency: Latency,
    quickest: Quickest,
    others: Reported,
    wait: Reported,
    /// Since when, in milliseconds.
    since: u32,
}

/// What an answer tells of its replica.
pub(crate) struct Told {
    pub(crate) took: Duration,
    /// Requests at the replica.
    pub(crate) requests: usize,
    pub(crate) wait: Duration,
}

/// The calls of one router to one model.
pub(crate) struct Gate {
    pub(crate) limit: Limit,
    pub(crate) line: Line<Call>,
    pub(crate) in_flight: u32,
    /// In the order of the model's replicas.
    pub(crate) seen: Vec<Seen>,
    turn: usize,
    fastest: Quickest,
}

/// A replica in passing.
#[derive(Clone, Copy)]
struct Met<'a>(&'a Seen, u32);

impl Look for Met<'_> {
    fn standing(&self) -> Standing {
        Standing { tried: false, ejected: false, draining: false }
    }

    fn identity(&self) -> u64 {
        0
    }

    fn load(&self) -> u64 {
        choose::load(self.0.in_flight.into(), self.0.others.faded(self.1))
    }

    fn is_local(&self) -> bool {
        false
    }

    fn known(&self) -> Candidate {
        let Self(seen, now) = *self;
        Candidate {
            in_flight: seen.in_flight.into(),
            others: seen.others.faded(now),
            wait: seen.wait.seconds_left(now),
            latency: seen.latency.seconds(now),
            quickest: seen.quickest.seconds(now),
            there_for: Duration::from_millis(now.saturating_sub(seen.since).into()),
            ..Candidate::default()
        }
    }
}

impl Seen {
    pub(crate) fn new(now: u32) -> Self {
        Self { since: now, ..Self::default() }
    }

    pub(crate) fn hear(&mut self, told: &Told, now: u32) {
        self.latency = self.latency.observe(told.took, now);
        self.quickest = self.quickest.observe(told.took, now);
        self.others = Reported::others(told.requests as f64, self.in_flight.into(), now);
        self.wait = Reported::wait(told.wait.as_secs_f64() * 1e3, now);
    }
}

impl Gate {
    pub(crate) fn new(now: Instant) -> Self {
        let limit = Limit::new(1, now);
        let line = Line::new(TARGET_WAIT, limit.calls(), now);
        Self { limit, line, in_flight: 0, seen: Vec::new(), turn: 0, fastest: Quickest::default() }
    }

    /// A call was answered after so long.
    pub(crate) fn note_quickest(&mut self, took: Duration, now: u32) {
        self.fastest = self.fastest.observe(took, now);
    }

    /// What calls take at best; zero while nothing is known.
    pub(crate) fn quickest(&self, now: u32) -> Duration {
        Duration::from_secs_f32(self.fastest.seconds(now).unwrap_or(0.0))
    }

    /// The replica that takes a call with so much time left.
    pub(crate) fn choose(
        &mut self,
        balance: Balance,
        remaining: Duration,
        rng: &mut StdRng,
        now: u32,
    ) -> Option<usize> {
        let count = self.seen.len();
        match balance {
            Balance::TwoChoices => {
                let terms = Terms { remaining: Some(remaining), ..Terms::default() };
                choose::choose(self.seen.iter().map(|seen| Met(seen, now)), terms, rng)
            }
            Balance::First => (count > 0).then_some(0),
            Balance::RoundRobin => {
                self.turn = (self.turn + 1) % count.max(1);
                (count > 0).then_some(self.turn)
            }
            Balance::LeastLoaded => {
                // From another one each time, or ties would all go to the first.
                self.turn = (self.turn + 1) % count.max(1);
                let from = |at: usize| (at + count - self.turn) % count;
                (0..count).min_by_key(|at| (self.seen.get(*at).map_or(0, |seen| seen.in_flight), from(*at)))
            }
        }
    }
}
