//! What is counted of a simulated run.

/// Steps of a factor of two.
const FINE: f64 = 16.0;

/// Times in classes that are a twenty-fifth apart.
#[derive(Clone, Debug)]
pub(crate) struct Times(Vec<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(vec![0; 40 * FINE as usize])
    }
}

impl Times {
    pub(crate) fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum.0.iter_mut().zip(&one.0).for_each(|(sum, count)| *sum += count);
            sum
        })
    }

    pub(crate) fn add(&mut self, micros: u64) {
        let class = ((micros.max(1) as f64).log2() * FINE) as usize;
        let last = self.0.len() - 1;
        self.0[class.min(last)] += 1;
    }

    /// In milliseconds; 0 where nothing was counted.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let (all, mut below) = (self.0.iter().sum::<u64>() as f64, 0.0);
        let class = self.0.iter().position(|count| {
            below += *count as f64;
            below > 0.0 && below >= all * share
        });
        class.map_or(0.0, |class| ((class + 1) as f64 / FINE).exp2() / 1e3)
    }
}

/// Calls of one band.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    pub(crate) sent: u64,
    /// Answered in time.
    pub(crate) met: u64,
    pub(crate) times: Times,
}

/// One run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) realtime: Calls,
    pub(crate) batch: Calls,
    /// Microseconds of all devices: there, away, used for answers, and used in vain.
    pub(crate) there: u64,
    pub(crate) absent: u64,
    pub(crate) useful: u64,
    pub(crate) wasted: u64,
    pub(crate) preemptions: u64,
    /// From the decision that something makes way to the beginning of the urgent execution.
    pub(crate) switches: Times,
    pub(crate) moves: u64,
    /// Replicas that were held, and the most that workers had memory for, each summed over all seconds.
    pub(crate) held: u64,
    pub(crate) seats: u64,
    /// All calls, those before the counting too.
    pub(crate) calls: u64,
    /// The share of devices at work in each tenth of a second.
    pub(crate) course: Vec<f64>,
}

/// Figures of a run, each to be averaged over seeds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// In percent.
    pub(crate) utilization: f64,
    /// Of the replicas that there is memory for.
    pub(crate) held: f64,
    pub(crate) wasted: f64,
    pub(crate) missed: f64,
    pub(crate) realtime_missed: f64,
    /// In milliseconds, of realtime calls.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) switch: f64,
    pub(crate) preemptions: f64,
    pub(crate) moves: f64,
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

impl Tally {
    pub(crate) fn figures(&self) -> Figures {
        let (realtime, batch) = (&self.realtime, &self.batch);
        let (sent, met) = (realtime.sent + batch.sent, realtime.met + batch.met);
        Figures {
            utilization: percent(self.useful, self.there),
            held: percent(self.held, self.seats),
            wasted: percent(self.wasted, self.there),
            missed: percent(sent - met, sent),
            realtime_missed: percent(realtime.sent - realtime.met, realtime.sent),
            p50: realtime.times.quantile(0.5),
            p99: realtime.times.quantile(0.99),
            switch: self.switches.quantile(0.99),
            preemptions: self.preemptions as f64,
            moves: self.moves as f64,
        }
    }
}

impl Figures {
    /// The mean of each.
    pub(crate) fn mean(all: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>() / all.len().max(1) as f64;
        Self {
            utilization: mean(|one| one.utilization),
            held: mean(|one| one.held),
            wasted: mean(|one| one.wasted),
            missed: mean(|one| one.missed),
            realtime_missed: mean(|one| one.realtime_missed),
            p50: mean(|one| one.p50),
            p99: mean(|one| one.p99),
            switch: mean(|one| one.switch),
            preemptions: mean(|one| one.preemptions),
            moves: mean(|one| one.moves),
        }
    }
}
