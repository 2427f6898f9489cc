//! How many calls may be under way at once: the fewest with which the replicas answer as much as they can.
//!
//! Throughput rises with the calls under way until everything that can work does; beyond, they only wait for each other. Gradient and
//! Vegas limits look for that knee by latency, against the least that was ever seen; a replica that batches then looks congested as soon as it
//! batches, and the least drifts. So throughput itself is compared (Uber's Cinnamon guards its Vegas in the same way), and only while
//! calls wait for the limit: then the calls under way are as many as it says, and by Little's law throughput is their number over what a
//! call takes, which is exact over few calls, where counts of answers are not. The search brackets the knee and stays there, and looks
//! again after a while, and at once when throughput changes by itself.
//!
//! Replicas tell how long one more call would wait ([`Sample::wait`]). Where they are shared, more calls always bring one caller more
//! throughput, at the cost of the others: a wait that is most of a call's time ends the growth, and one beyond that brings the limit down.
//! Those that tell how many calls they can put to use ([`Sample::load`]) need no search: what is more is taken back at once, by every
//! caller in the same proportion, and fewer are tried only where calls wait.

use std::time::{Duration, Instant};

/// Per replica: one that runs, and one that is on its way.
const MIN: f64 = 2.0;
/// Per replica: more is not kept under way by anything that one process holds.
const MAX: f64 = 4_096.0;
/// Per replica, before anything is known. Too many wait at the replica, which orders and refuses them as well; too few leave it idle.
const START: f64 = 64.0;
/// What a higher limit must bring to be kept, and what of the peak a lower one may cost.
const GAIN: f64 = 1.07;
const KEEP: f64 = 0.95;
/// The knee is bracketed as closely as this.
const FINE: f64 = 1.06;
/// How far the search reaches up to see whether the knee has moved.
const REACH: f64 = 1.5;
/// A change of throughput at the same limit beyond these means that the replicas have changed.
const SAME: (f64, f64) = (0.8, 1.25);
/// As long as calls take no longer than this, in seconds, and succeed, it is not worth keeping them back.
const HARMLESS: f64 = 0.005;
/// The share of a call's time that is a wait at the replica: above the first no growth, above the second fewer calls.
const CROWDED: (f64, f64) = (0.67, 0.8);
/// Above this part of what replicas can put to use, calls are too many.
const FULL: f64 = 1.05;
/// The limit grows by no more than the inverse of this at once.
const LEAP: f64 = 1.0 / 16.0;
/// Below this part of it, there is room for more.
const SPARE: f64 = 0.9;
/// Where the wait is a lesser share of a call's time, fewer calls would be answered hardly sooner.
const CALM: f64 = 0.15;
/// A replica at which one more call waits for less than this share of a call's time has room: it need not be shown that more calls bring more.
const ROOM: f64 = 0.1;
/// A window takes at least so long and so many calls.
const WINDOW: Duration = Duration::from_millis(20);
const CALLS: (u32, u32) = (16, 1_024);
/// Between two looks around pass at most so many windows, but not less time than this: a look upward makes calls wait.
const PATIENCE: u32 = 64;
const PAUSE: Duration = Duration::from_secs(10);
/// After so long without a call that waited, what was measured before is not compared with what comes.
const STALE: Duration = Duration::from_secs(1);

/// A call that ended while others waited for its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When it got its place.
    pub began: Instant,
    /// How many were under way at its end, itself included.
    pub in_flight: u32,
    /// Whether it was answered; otherwise it came too late or its replica had no room. Other ends tell nothing and are no samples.
    pub is_good: bool,
    /// How long one more call would wait at the replica, in seconds, if it told.
    pub wait: Option<f32>,
    /// The calls at the replica, from whomever, for each that it can put to use at once, if it told.
    pub load: Option<f32>,
}

/// The limit on calls to the replicas of one model version.
#[derive(Clone, Debug)]
pub struct Limit {
    replicas: u32,
    /// What holds, per replica: [`Self::good`], or what is being tried.
    tested: f64,
    /// The least that is known to do.
    good: f64,
    /// The most that is known not to do.
    poor: f64,
    /// The throughput that it is measured by, per replica and second.
    peak: f64,
    search: Search,
    patience: u32,
    /// Calls in a row whose replica had room.
    roomy: u32,
    /// What replicas have told of their load at this limit.
    told: Told,
    window: Window,
    /// When the limit last changed, and when the first call that began after that has ended. Calls that began in between found the
    /// replicas as the last limit had left them: they say nothing about this one.
    changed: Instant,
    settled: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// More is tried.
    Up,
    /// Less is tried.
    Down,
    /// Nothing is tried. So many windows have passed since.
    Hold(u32),
}

/// What has been seen at one limit.
#[derive(Clone, Copy, Debug)]
struct Window {
    calls: u32,
    good: u32,
    seconds: f64,
    in_flight: f64,
    waits: Told,
    loads: Told,
    last: Option<Instant>,
}

/// A sum of what replicas told, and how often they did.
#[derive(Clone, Copy, Debug)]
struct Told {
    times: u32,
    sum: f64,
}

impl Limit {
    /// A limit of which nothing is known.
    pub const fn new(replicas: u32, now: Instant) -> Self {
        Self {
            replicas,
            tested: START,
            good: START,
            poor: 0.0,
            peak: 0.0,
            search: Search::Down,
            patience: 1,
            roomy: 0,
            told: Told::NOTHING,
            window: Window::EMPTY,
            changed: now,
            settled: None,
        }
    }

    /// How many calls may be under way.
    pub fn calls(&self) -> u32 {
        (self.tested * f64::from(self.replicas.max(1))).ceil() as u32
    }

    /// There are so many replicas now.
    pub fn resize(&mut self, replicas: u32, now: Instant) {
        if self.replicas != replicas {
            self.replicas = replicas;
            self.restart(now);
        }
    }

    fn restart(&mut self, now: Instant) {
        (self.window, self.told, self.changed, self.settled) = (Window::EMPTY, Told::NOTHING, now, None);
    }

    /// Learns from a call that ended at `now` while others waited. Calls that began before the replicas had settled at this limit are
    /// passed over.
    pub fn observe(&mut self, sample: &Sample, now: Instant) {
        if self.has_room(sample, now) || self.is_too_much(sample, now) {
            return;
        }
        match self.settled {
            None if sample.began >= self.changed => return self.settled = Some(now),
            Some(settled) if sample.began >= settled => {}
            _ => return,
        }
        let pause = self.window.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        if pause > STALE.max(self.window.mean().saturating_mul(8)) {
            self.window = Window::EMPTY;
        }
        self.window.add(sample, now);
        let enough = self.calls().saturating_mul(2).clamp(CALLS.0, CALLS.1);
        if self.window.calls < enough || now.saturating_duration_since(self.changed) < WINDOW {
            return;
        }
        let window = std::mem::replace(&mut self.window, Window::EMPTY);
        let before = self.tested;
        self.judge(&window, now);
        self.tested = self.tested.clamp(MIN, MAX);
        if self.tested != before {
            self.restart(now);
        }
    }

    /// Where replicas say that they have room while calls wait here, more are let through at once.
    fn has_room(&mut self, sample: &Sample, now: Instant) -> bool {
        let took = now.saturating_duration_since(sample.began).as_secs_f64();
        let is_roomy = sample.is_good && sample.wait.is_some_and(|wait| (0.0..ROOM * took).contains(&f64::from(wait)));
        self.roomy = if is_roomy { self.roomy + 1 } else { 0 };
        if self.roomy < (self.calls() / 4).clamp(CALLS.0, CALLS.1) || self.tested >= MAX {
            return false;
        }
        // Where replicas tell what they can put to use, that is where this goes.
        let load = sample.load.filter(|load| *load >= 0.0).map_or(0.5, |load| f64::from(load).max(LEAP));
        if load > SPARE {
            return false;
        }
        // What had room until now hardly does: the knee is looked for above it.
        (self.roomy, self.poor, self.search, self.patience) = (0, self.tested / GAIN, Search::Down, 1);
        self.tested = (self.tested / load).min(MAX);
        self.good = self.tested;
        self.restart(now);
        true
    }

    /// Where replicas say that they have more calls than they can put to use, what is more is taken back at once. Not while more are under
    /// way than the limit says: what they tell is then of an earlier one.
    fn is_too_much(&mut self, sample: &Sample, now: Instant) -> bool {
        if sample.in_flight > self.calls() || now.saturating_duration_since(self.changed) < WINDOW {
            return false;
        }
        if now.saturating_duration_since(sample.began).as_secs_f64() > HARMLESS {
            self.told.add(sample.load);
        }
        if self.told.times < CALLS.0 {
            return false;
        }
        let load = std::mem::replace(&mut self.told, Told::NOTHING).mean();
        if load <= FULL || self.tested <= MIN {
            return false;
        }
        self.tested = (self.tested / load).max(MIN);
        (self.good, self.poor, self.peak, self.search, self.patience) = (self.tested, 0.0, 0.0, Search::Down, 1);
        self.restart(now);
        true
    }

    fn judge(&mut self, window: &Window, now: Instant) {
        let throughput = window.throughput() / f64::from(self.replicas.max(1));
        let harmless = window.is_harmless();
        if window.crowding() > CROWDED.1 && !harmless && self.tested > MIN {
            // For all who share the replicas alike, so that each comes to its share (AIMD).
            self.good = (self.tested * 0.75).max(MIN);
            (self.poor, self.peak) = (0.0, throughput);
            return self.settle(true);
        }
        match self.search {
            Search::Up => {
                let gains = (throughput > self.peak * GAIN || harmless) && window.crowding() <= CROWDED.0;
                self.peak = self.peak.max(throughput);
                if gains && self.tested < MAX {
                    (self.poor, self.good, self.patience) = (self.good, self.tested, 1);
                    self.tested *= 2.0;
                } else {
                    self.search = Search::Down;
                    self.next_down();
                }
            }
            Search::Down => {
                let does = throughput >= self.peak * KEEP;
                self.peak = self.peak.max(throughput);
                let found = if does { &mut self.good } else { &mut self.poor };
                *found = self.tested;
                if does && (harmless || window.is_calm()) { self.settle(false) } else { self.next_down() }
            }
            Search::Hold(passed) => self.hold(window, throughput, (passed + 1, now)),
        }
    }

    fn hold(&mut self, window: &Window, throughput: f64, (passed, now): (u32, Instant)) {
        let pause = PAUSE * self.patience / PATIENCE;
        let is_due = passed >= self.patience && now.saturating_duration_since(self.changed) >= pause;
        let has_changed = throughput < self.peak * SAME.0 || throughput > self.peak * SAME.1;
        // Slowly: a single window is not what the replicas can do.
        self.peak = if has_changed { throughput } else { self.peak * 0.9 + throughput * 0.1 };
        if has_changed || is_due {
            self.patience = if has_changed { 1 } else { self.patience };
            self.poor = self.good / REACH;
            if window.loads.mean() * REACH <= 1.0 {
                self.tested = self.good * REACH;
                self.search = Search::Up;
            } else if window.is_calm() {
                self.settle(false);
            } else {
                self.search = Search::Down;
                self.next_down();
            }
        } else {
            self.search = Search::Hold(passed);
        }
    }

    /// Tries the middle between what does and what does not.
    fn next_down(&mut self) {
        if self.good <= MIN || self.good <= self.poor * FINE {
            return self.settle(false);
        }
        self.tested = if self.poor < 1.0 { self.good / 2.0 } else { (self.good * self.poor).sqrt() }.max(MIN);
    }

    /// Stays with what does, each time for longer, unless it was found anew.
    fn settle(&mut self, is_new: bool) {
        self.tested = self.good;
        self.patience = if is_new { 1 } else { (self.patience * 2).min(PATIENCE) };
        self.search = Search::Hold(0);
    }
}

impl Told {
    const NOTHING: Self = Self { times: 0, sum: 0.0 };

    fn add(&mut self, value: Option<f32>) {
        if let Some(value) = value.filter(|value| *value >= 0.0 && value.is_finite()) {
            self.times += 1;
            self.sum += f64::from(value);
        }
    }

    /// 0 where nothing was told.
    fn mean(&self) -> f64 {
        self.sum / f64::from(self.times.max(1))
    }
}

impl Window {
    const EMPTY: Self = Self {
        calls: 0,
        good: 0,
        seconds: 0.0,
        in_flight: 0.0,
        waits: Told::NOTHING,
        loads: Told::NOTHING,
        last: None,
    };

    fn add(&mut self, sample: &Sample, now: Instant) {
        self.calls += 1;
        self.good += u32::from(sample.is_good);
        self.seconds += now.saturating_duration_since(sample.began).as_secs_f64();
        self.in_flight += f64::from(sample.in_flight);
        self.waits.add(sample.wait);
        self.loads.add(sample.load);
        self.last = Some(now);
    }

    fn share_of_good(&self) -> f64 {
        f64::from(self.good) / f64::from(self.calls.max(1))
    }

    /// What a call took.
    fn mean(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds / f64::from(self.calls.max(1))).unwrap_or(Duration::MAX)
    }

    /// Good answers per second, by Little's law.
    fn throughput(&self) -> f64 {
        self.share_of_good() * self.in_flight / self.seconds.max(1e-9)
    }

    /// The part of a call's time that the replicas say is a wait; 0 where they do not tell.
    fn crowding(&self) -> f64 {
        self.waits.mean() / self.mean().as_secs_f64().max(1e-9)
    }

    /// Whether replicas tell that calls hardly wait there.
    fn is_calm(&self) -> bool {
        self.waits.times > 0 && self.loads.times > 0 && self.crowding() < CALM
    }

    fn is_harmless(&self) -> bool {
        self.mean().as_secs_f64() <= HARMLESS && self.share_of_good() >= KEEP
    }
}

#[cfg(test)]
mod tests;
