//! What happens to a simulated mesh: which calls come when, and which workers fail.

use std::f64::consts::TAU;

/// Times are in microseconds of virtual time.
pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000_000;

/// How the rate of a model's calls moves around its mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Steady,
    /// A sine of this period, which goes so far up and down.
    Diurnal {
        period: u64,
        depth: f64,
    },
    /// Three times the mean for a fifth of each second, and half of it in between.
    Bursty,
    /// Steady, but in the middle of the run the least called models become the most called.
    Turning,
}

/// The model of a pool and who calls it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    /// As Triton has it: 1 is realtime, 2 is the default.
    pub(crate) band: u8,
    /// An execution takes this and `each` for every row, within a tenth.
    pub(crate) fixed: u64,
    pub(crate) each: u64,
    pub(crate) max_rows: usize,
    /// The share of calls that take `long` instead.
    pub(crate) longs: f64,
    pub(crate) long: u64,
    /// What callers have.
    pub(crate) has: u64,
    /// An execution notices within this time that it shall stop.
    pub(crate) yields: u64,
    /// Until a replica is ready.
    pub(crate) loads: u64,
    /// Calls per second, on average.
    pub(crate) rate: f64,
    /// The rate after the turn, where there is one.
    pub(crate) turned: f64,
    pub(crate) shape: Shape,
    /// Where in its period it begins, from 0 to 1.
    pub(crate) phase: f64,
}

/// A fleet of equal pools, each with its own models and workers, behind the same routers.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) pools: usize,
    /// Workers of one pool. Each has memory for two models.
    pub(crate) workers: usize,
    pub(crate) routers: usize,
    /// The models of one pool.
    pub(crate) models: Vec<Model>,
    /// What is counted begins after this.
    pub(crate) warm: u64,
    /// No call comes after this.
    pub(crate) span: u64,
    /// Failures of each worker per second.
    pub(crate) fails: f64,
    /// For so long it is gone then.
    pub(crate) down: u64,
}

impl Model {
    /// Somebody waits for each answer: 4 ms, within 100.
    fn realtime(max_rows: usize) -> Self {
        let (fixed, each) = if max_rows > 1 { (6 * MS, MS) } else { (3 * MS, MS) };
        Self {
            band: 1,
            fixed,
            each,
            max_rows,
            longs: 0.0,
            long: 0,
            has: 100 * MS,
            yields: MS,
            loads: SECOND,
            rate: 0.0,
            turned: 0.0,
            shape: Shape::Steady,
            phase: 0.0,
        }
    }

    /// What can wait: 30 ms, one in a thousand 150, within 10 seconds.
    fn batch() -> Self {
        let long = 150 * MS;
        Self { band: 2, fixed: 29 * MS, longs: 0.001, long, has: 10 * SECOND, yields: 4 * MS, ..Self::realtime(1) }
    }

    /// Device time of one call in full batches.
    pub(crate) fn mean(&self) -> f64 {
        let usual = self.fixed as f64 / self.max_rows as f64 + self.each as f64;
        usual * (1.0 - self.longs) + self.long as f64 * self.longs
    }

    /// Calls per second at a moment of a run that lasts for `span`.
    pub(crate) fn rate_at(&self, now: u64, span: u64) -> f64 {
        let seconds = now as f64 / SECOND as f64;
        match self.shape {
            Shape::Steady => self.rate,
            Shape::Diurnal { period, depth } => {
                self.rate * (1.0 + depth * (TAU * (now as f64 / period as f64 + self.phase)).sin())
            }
            Shape::Bursty => self.rate * if (seconds + self.phase).fract() < 0.2 { 3.0 } else { 0.5 },
            Shape::Turning => {
                if now < span / 2 {
                    self.rate
                } else {
                    self.turned
                }
            }
        }
    }
}

/// Five models that share this part of a pool's time in proportion to `weights`.
fn group(model: Model, load: f64, weights: [f64; 5], shape: Shape) -> Vec<Model> {
    let (sum, capacity) = (weights.iter().sum::<f64>(), WORKERS as f64 * SECOND as f64);
    let rate = |weight: f64| load * capacity * weight / sum / model.mean();
    let of = |(at, weight): (usize, &f64)| Model {
        rate: rate(*weight),
        turned: rate(weights[4 - at]),
        phase: at as f64 / 5.0,
        shape,
        ..model
    };
    weights.iter().enumerate().map(of).collect()
}

const WORKERS: usize = 100;
const EVEN: [f64; 5] = [1.0; 5];
/// Zipf's law with an exponent of 1.
const ZIPF: [f64; 5] = [1.0, 0.5, 0.333, 0.25, 0.2];

impl Scenario {
    fn new(name: &'static str, models: Vec<Model>) -> Self {
        let (warm, span) = (2 * SECOND, 18 * SECOND);
        Self { name, pools: 1, workers: WORKERS, routers: 8, models, warm, span, fails: 0.0, down: 3 * SECOND }
    }

    /// Realtime calls only, in batches of up to eight.
    pub(crate) fn steady() -> Self {
        Self::new("steady", group(Model::realtime(8), 0.7, EVEN, Shape::Steady))
    }

    /// The same, each model with its own time of day.
    pub(crate) fn diurnal() -> Self {
        let shape = Shape::Diurnal { period: 6 * SECOND, depth: 0.7 };
        Self::new("diurnal", group(Model::realtime(8), 0.7, EVEN, shape))
    }

    pub(crate) const DAYS: &str = "days";

    /// Realtime calls one by one, with days of two minutes: long enough for an autoscaler, which keeps what it needed in the last minute.
    pub(crate) fn days() -> Self {
        let shape = Shape::Diurnal { period: 120 * SECOND, depth: 0.7 };
        let models = group(Model::realtime(1), 0.4, EVEN, shape);
        Self { warm: 20 * SECOND, span: 260 * SECOND, ..Self::new(Self::DAYS, models) }
    }

    /// The same in bursts.
    pub(crate) fn bursty() -> Self {
        Self::new("bursty", group(Model::realtime(8), 0.7, EVEN, Shape::Bursty))
    }

    /// Few models have most calls, and then others.
    pub(crate) fn skewed() -> Self {
        Self::new("skewed", group(Model::realtime(8), 0.7, ZIPF, Shape::Turning))
    }

    /// Realtime calls that come and go, and batch calls that fill what they leave.
    pub(crate) fn mixed() -> Self {
        let shape = Shape::Diurnal { period: 4 * SECOND, depth: 0.4 };
        let same_time = |model: Model| Model { phase: 0.0, ..model };
        let realtime = group(Model::realtime(1), 0.32, EVEN, shape).into_iter().map(same_time);
        Self::new("mixed", realtime.chain(group(Model::batch(), 0.62, EVEN, Shape::Steady)).collect())
    }

    /// The same with less to do, while workers fail.
    pub(crate) fn failing() -> Self {
        let realtime = group(Model::realtime(1), 0.3, EVEN, Shape::Steady);
        let models = realtime.into_iter().chain(group(Model::batch(), 0.4, EVEN, Shape::Steady)).collect();
        Self { fails: 0.01, down: 8 * SECOND, ..Self::new("failing", models) }
    }

    /// Ten thousand workers and about a million calls per second.
    pub(crate) fn large() -> Self {
        let (warm, span) = (SECOND, 3 * SECOND);
        Self { name: "large", pools: 100, routers: 16, warm, span, ..Self::mixed() }
    }
}
