//! The last minutes at one-second resolution: pure, told the time, asked for figures.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::histogram::Histogram;
use crate::options::Options;

/// What a worker measures about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// Seconds from admission to answer.
    Call,
    /// Seconds of waiting.
    Queue,
    /// Seconds of execution.
    Compute,
    /// Requests in a batch.
    Batch,
}

/// A model's version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Model {
    pub(crate) name: Arc<str>,
    pub(crate) version: u64,
}

/// One series of the window. Instances are merged: only that they reported is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) measure: Measure,
    pub(crate) model: Model,
    /// The gRPC status name, for calls.
    pub(crate) status: Option<&'static str>,
}

/// The figures of one model over a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) call: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) compute: Histogram,
    pub(crate) batch: Histogram,
    pub(crate) errors: BTreeMap<&'static str, u64>,
    /// Calls per second.
    pub(crate) rate: f64,
    /// Instances that reported.
    pub(crate) sources: usize,
    /// Calls that routers have under way; not of the window.
    pub(crate) in_flight: u64,
    /// Since a call was last told of; `None` where none was in the window.
    pub(crate) since_last_call: Option<Duration>,
}

/// The window was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug)]
pub(crate) struct Window {
    origin: Instant,
    kept_seconds: u64,
    max_series: usize,
    max_buckets: usize,
    /// Ascending by second; seconds in which nothing arrived have no slot.
    slots: VecDeque<Slot>,
    buckets: usize,
    /// The second in which each series was last heard of; those that left the window are forgotten.
    series: HashMap<Arc<Key>, u64>,
    /// The second in which each instance last reported about a model.
    reports: HashMap<Model, HashMap<Arc<str>, u64>>,
}

#[derive(Debug)]
struct Slot {
    second: u64,
    series: HashMap<Arc<Key>, Histogram>,
}

impl Window {
    pub(crate) fn new(options: &Options, now: Instant) -> Self {
        Self {
            origin: now,
            kept_seconds: options.window.as_secs().max(1),
            max_series: options.max_series,
            max_buckets: options.max_buckets,
            slots: VecDeque::new(),
            buckets: 0,
            series: HashMap::new(),
            reports: HashMap::new(),
        }
    }

    /// Adds what an instance measured. It counts for the second in which it arrives: clocks of machines do not agree, and
    /// reports come every second.
    pub(crate) fn record(
        &mut self,
        now: Instant,
        instance: &Arc<str>,
        key: Key,
        measured: &Histogram,
    ) -> Result<(), Full> {
        let second = self.advance(now);
        let key = match self.series.get_key_value(&key) {
            Some((known, _)) => Arc::clone(known),
            None if self.series.len() >= self.max_series => return Err(Full),
            None => Arc::new(key),
        };
        self.series.insert(Arc::clone(&key), second);
        // Instances are bounded by who may report at all, so this map is as well.
        self.reports.entry(key.model.clone()).or_default().insert(Arc::clone(instance), second);
        let Some(slot) = self.slots.back_mut() else {
            return Ok(());
        };
        let histogram = slot.series.entry(key).or_default();
        self.buckets -= if histogram.count() == 0 { 0 } else { histogram.cells() };
        histogram.merge(measured);
        self.buckets += if histogram.count() == 0 { 0 } else { histogram.cells() };
        while self.buckets > self.max_buckets && self.slots.len() > 1 {
            self.drop_oldest();
        }
        Ok(())
    }

    /// The figures of every model, or of those with one name, over the last `length`, the current second included.
    pub(crate) fn figures(&mut self, now: Instant, length: Duration, name: Option<&str>) -> BTreeMap<Model, Figures> {
        let second = self.advance(now);
        // A service that just started has seen less than it is asked for: its rate is over what it has seen.
        let seconds = (length.as_millis().div_ceil(1000) as u64).clamp(1, second + 1);
        let first = second + 1 - seconds;
        let mut figures: BTreeMap<Model, Figures> = BTreeMap::new();
        let recent = self.slots.iter().rev().take_while(|slot| slot.second >= first);
        for (slot, (key, histogram)) in recent.flat_map(|slot| slot.series.iter().map(move |series| (slot, series))) {
            if name.is_none_or(|name| *key.model.name == *name) {
                let figures = figures.entry(key.model.clone()).or_default();
                figures.add(key, histogram);
                if key.measure == Measure::Call && histogram.count() > 0 {
                    // The newest slot comes first.
                    figures.since_last_call.get_or_insert(Duration::from_secs(second - slot.second));
                }
            }
        }
        for (model, figures) in &mut figures {
            figures.rate = figures.call.count() as f64 / seconds as f64;
            figures.sources =
                self.reports.get(model).map_or(0, |by| by.values().filter(|last| **last >= first).count());
        }
        figures
    }

    /// Forgets what has left the window and opens the current second. Time never goes back here: an instant before the newest
    /// slot counts for that slot.
    fn advance(&mut self, now: Instant) -> u64 {
        let second = now.saturating_duration_since(self.origin).as_secs();
        let newest = self.slots.back().map(|slot| slot.second);
        if newest.is_some_and(|newest| newest >= second) {
            return newest.unwrap_or(second);
        }
        let oldest = (second + 1).saturating_sub(self.kept_seconds);
        while self.slots.front().is_some_and(|slot| slot.second < oldest) {
            self.drop_oldest();
        }
        self.series.retain(|_, last| *last >= oldest);
        self.reports.retain(|_, by| {
            by.retain(|_, last| *last >= oldest);
            !by.is_empty()
        });
        self.slots.push_back(Slot { second, series: HashMap::new() });
        second
    }

    fn drop_oldest(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            self.buckets -= slot.series.values().filter(|held| held.count() > 0).map(Histogram::cells).sum::<usize>();
        }
    }
}

impl Figures {
    fn add(&mut self, key: &Key, histogram: &Histogram) {
        match key.measure {
            Measure::Call => {
                self.call.merge(histogram);
                if let Some(status) = key.status.filter(|status| *status != "OK") {
                    *self.errors.entry(status).or_default() += histogram.count();
                }
            }
            Measure::Queue => self.queue.merge(histogram),
            Measure::Compute => self.compute.merge(histogram),
            Measure::Batch => self.batch.merge(histogram),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_types::SystemClock;

    fn model(name: &str) -> Model {
        Model { name: name.into(), version: 1 }
    }

    fn calls(name: &str, status: &'static str) -> Key {
        Key { measure: Measure::Call, model: model(name), status: Some(status) }
    }

    fn of(values: &[f64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value, 1));
        histogram
    }

    fn at(origin: Instant, seconds: f64) -> Instant {
        origin + Duration::from_secs_f64(seconds)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn instances_and_statuses_are_merged() {
        let origin = SystemClock::now();
        let mut window = Window::new(&Options::default(), origin);
        let (one, two): (Arc<str>, Arc<str>) = ("w-1".into(), "w-2".into());
        let now = at(origin, 120.0);
        window.record(now, &one, calls("digits", "OK"), &of(&[0.010; 98])).expect("room");
        window.record(now, &two, calls("digits", "OK"), &of(&[0.020; 100])).expect("room");
        window.record(now, &two, calls("digits", "UNAVAILABLE"), &of(&[0.500; 2])).expect("room");
        window.record(now, &two, calls("other", "OK"), &of(&[1.0])).expect("room");
        window
            .record(now, &two, Key { measure: Measure::Batch, model: model("digits"), status: None }, &of(&[4.0, 8.0]))
            .expect("room");
        let figures = window.figures(now, MINUTE, Some("digits"));
        assert_eq!(figures.len(), 1);
        let digits = &figures[&model("digits")];
        assert_eq!((digits.call.count(), digits.sources), (200, 2));
        assert_eq!(digits.errors, BTreeMap::from([("UNAVAILABLE", 2)]));
        assert!((digits.rate - 200.0 / 60.0).abs() < 1e-9);
        assert!(digits.call.quantile(0.99).is_some_and(|p99| (p99 / 0.020 - 1.0).abs() < 0.05));
        assert!(digits.call.quantile(0.995).is_some_and(|p995| (p995 / 0.5 - 1.0).abs() < 0.05));
        assert_eq!((digits.batch.sum(), digits.batch.count()), (12.0, 2));
    }

    #[test]
    fn a_young_service_has_a_rate_over_its_age() {
        let origin = SystemClock::now();
        let mut window = Window::new(&Options::default(), origin);
        window.record(at(origin, 1.0), &"w".into(), calls("digits", "OK"), &of(&[0.01; 30])).expect("room");
        let figures = window.figures(at(origin, 2.5), MINUTE, None);
        assert_eq!(figures[&model("digits")].rate, 10.0);
    }

    #[test]
    fn a_full_window_refuses_new_series_and_drops_old_seconds() {
        let origin = SystemClock::now();
        let mut window = Window::new(&Options { max_series: 2, max_buckets: 20, ..Options::default() }, origin);
        let instance: Arc<str> = "w".into();
        for (second, name) in [(0.0, "a"), (1.0, "b"), (2.0, "a")] {
            window.record(at(origin, second), &instance, calls(name, "OK"), &of(&[1.0])).expect("room");
        }
        assert_eq!(window.record(at(origin, 2.0), &instance, calls("c", "OK"), &of(&[1.0])), Err(Full));
        // Each histogram takes nine buckets: the first second had to go.
        let figures = window.figures(at(origin, 2.0), MINUTE, None);
        assert_eq!(figures.values().map(|figures| figures.call.count()).sum::<u64>(), 2);
        // Once the others have left the window there is room again, and no memory is held.
        window.record(at(origin, 700.0), &instance, calls("c", "OK"), &of(&[1.0])).expect("room");
        assert_eq!((window.series.len(), window.slots.len(), window.buckets), (1, 1, 9));
    }

    proptest! {
        /// A window of n seconds holds exactly what arrived in the current second and the n - 1 before it.
        #[test]
        fn holds_exactly_what_is_asked(
            gaps in proptest::collection::vec(0u64..200, 1..40),
            length in 1u64..=600,
        ) {
            let origin = SystemClock::now();
            let mut window = Window::new(&Options::default(), origin);
            let mut second = 0;
            let mut arrivals = Vec::new();
            for gap in gaps {
                second += gap;
                window.record(at(origin, second as f64 + 0.5), &"w".into(), calls("m", "OK"), &of(&[1.0])).expect("room");
                arrivals.push(second);
            }
            let figures = window.figures(at(origin, second as f64 + 0.9), Duration::from_secs(length), None);
            let expected = arrivals.iter().filter(|arrival| **arrival + length > second).count() as u64;
            prop_assert_eq!(figures[&model("m")].call.count(), expected);
            let held: usize = window.slots.iter().flat_map(|slot| slot.series.values()).map(Histogram::cells).sum();
            prop_assert_eq!(window.buckets, held);
        }
    }
}
