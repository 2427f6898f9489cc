//! What a job has under way: started when it is wanted, ended when it is not wanted any more.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use weft_runtime::Running;
use weft_saga::{Event, Wanted, Wants};

/// How many results may wait to be looked at: what lands meanwhile waits with them.
const LANDING: usize = 32;

/// One thing that may be under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// An attempt of an action, undo or probe.
    Attempt(Wanted),
    /// Condition and list of a step are looked at.
    Rule(usize),
}

/// How something ended; `None` where it was not begun, and is to be begun again while it is wanted.
pub(super) type Landed = (Work, Option<Event>);

/// What is under way. Dropping it ends all of it.
pub(super) struct Flight {
    under_way: BTreeMap<Work, Running>,
    sender: mpsc::Sender<Landed>,
    landing: mpsc::Receiver<Landed>,
}

impl Flight {
    pub(super) fn new() -> Self {
        let (sender, landing) = mpsc::channel(LANDING);
        Self { under_way: BTreeMap::new(), sender, landing }
    }

    /// Starts what is wanted and not under way, ends what is under way and not wanted any more.
    pub(super) fn steer(&mut self, wants: &Wants, mut start: impl FnMut(Work, mpsc::Sender<Landed>) -> Running) {
        let attempts = wants.attempts.iter().copied().map(Work::Attempt);
        let wanted: BTreeSet<Work> = attempts.chain(wants.rulings.iter().copied().map(Work::Rule)).collect();
        self.under_way.retain(|work, _| wanted.contains(work));
        for work in wanted {
            if !self.under_way.contains_key(&work) {
                let running = start(work.clone(), self.sender.clone());
                self.under_way.insert(work, running);
            }
        }
    }

    /// The next result. It stays in the channel when this is not awaited to its end.
    pub(super) async fn next(&mut self) -> Option<Event> {
        // A sender is kept here, so the channel does not close.
        let landed = self.landing.recv().await?;
        self.land(landed)
    }

    /// A further result that is there already.
    pub(super) fn ready(&mut self) -> Option<Event> {
        let landed = self.landing.try_recv().ok()?;
        self.land(landed)
    }

    /// What came of work that is no longer wanted is taken, too: the engine knows what it means.
    fn land(&mut self, (work, event): Landed) -> Option<Event> {
        self.under_way.remove(&work);
        event
    }
}
