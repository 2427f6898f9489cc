//! What both versions did since a stage began, put together from windows that follow each other: whoever tells the figures looks back
//! some minutes only.

use std::time::{Duration, Instant};

use super::judge::Evidence;

/// A window that has become so long is kept, and the next one begins. Short enough that figures which fail to come for as long again lose none.
const KEPT_AFTER: Duration = Duration::from_secs(300);
/// The longest window that is asked for.
const LONGEST: Duration = Duration::from_secs(600);
/// Workers report once a second: what is told of the first second after an instant may have happened before it.
const LAG: Duration = Duration::from_secs(1);

/// The evidence of a stage.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// When the newest window began.
    since: Instant,
    newest: Evidence,
    /// The window before it.
    last: Option<Evidence>,
    /// All windows before that.
    earlier: Option<Evidence>,
}

impl Gathered {
    /// Of a stage that begins now.
    pub fn new(now: Instant) -> Self {
        Self { since: now + LAG, newest: Evidence::default(), last: None, earlier: None }
    }

    /// Over how many whole seconds figures are wanted now; `None` while there is none that lies within the stage.
    pub fn window(&self, now: Instant) -> Option<Duration> {
        let seconds = Duration::from_secs(now.saturating_duration_since(self.since).as_secs());
        (!seconds.is_zero()).then(|| seconds.min(LONGEST))
    }

    /// This is what was told of such a window, just now.
    pub fn tell(&mut self, evidence: Evidence, window: Duration, now: Instant) {
        self.newest = evidence;
        if window >= KEPT_AFTER {
            self.since = now;
            if let Some(last) = self.last.replace(std::mem::take(&mut self.newest)) {
                self.earlier = Some(self.earlier.take().unwrap_or_default().plus(&last));
            }
        }
    }

    /// Since the stage began.
    pub fn whole(&self) -> Evidence {
        let kept = [&self.earlier, &self.last].into_iter().flatten();
        kept.fold(self.newest.clone(), |sum, kept| sum.plus(kept))
    }

    /// Over the last minutes, where the stage has lasted for longer.
    pub fn lately(&self) -> Option<Evidence> {
        self.earlier.as_ref()?;
        self.last.as_ref().map(|last| last.plus(&self.newest))
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::Sample;
    use super::*;
    use weft_types::SystemClock;

    #[test]
    fn windows_follow_each_other_and_lie_within_the_stage() {
        let began = SystemClock::now();
        let at = |seconds: f64| began + Duration::from_secs_f64(seconds);
        let mut gathered = Gathered::new(began);
        assert_eq!([0.2, 1.0, 1.9].map(|seconds| gathered.window(at(seconds))), [None; 3], "calls of the stage before");
        assert_eq!(gathered.window(at(2.9)), Some(Duration::from_secs(1)));
        // A call a second, told as of each window.
        let mut tell = |seconds: f64| {
            let window = gathered.window(at(seconds)).expect("it lies within the stage");
            let canary = Sample { calls: window.as_secs(), ..Sample::default() };
            gathered.tell(Evidence { canary, ..Evidence::default() }, window, at(seconds));
            (gathered.whole().canary.calls, gathered.lately().map(|lately| lately.canary.calls))
        };
        assert_eq!(tell(100.0), (99, None));
        assert_eq!(tell(200.0), (199, None), "the same window, told later");
        assert_eq!(tell(301.0), (300, None));
        assert_eq!(tell(401.0), (400, None));
        assert_eq!(tell(601.0), (600, Some(300)), "kept a second time");
        assert_eq!(tell(801.0), (800, Some(500)));
        assert_eq!(tell(901.0), (900, Some(300)));
        assert_eq!(tell(1000.0), (999, Some(399)));
        // Nobody has told anything for long: what is further back than anybody looks is lost.
        assert_eq!(tell(5000.0), (1500, Some(600)));
    }
}
