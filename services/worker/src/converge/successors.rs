//! While the worker drains: what others could take over, read from the store itself.
//!
//! A worker follows its own placements and nothing else of the mesh, so it has to ask; only a drain wants to know.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::sync::watch;
use weft_proto::weft::state::v1::Worker;
use weft_store::{Error, Range, Store};
use weft_types::{SystemClock, Version};

use super::plan::Key;
use crate::Shared;

/// Between two looks, about: workers come and go while this one drains, but a look reads the records of all of them, and
/// many workers may drain at once.
const AGAIN: Duration = Duration::from_secs(5);
/// After a look that failed, or was not worth its while, about.
const SOON: Duration = Duration::from_millis(500);
/// How long the store may be away before the drain goes on without it, as nothing can be moved then. Long enough for an
/// election among the store's members and another attempt after it. It bounds each look as well.
const AWAY: Duration = Duration::from_secs(6);

/// What others offer, as of the last look; `None` before the first.
pub(super) type Offered = Option<BTreeSet<Key>>;

/// Looks again and again once the worker drains. Never returns; ends with the task that holds it.
pub(super) async fn look(shared: Arc<Shared>, store: Arc<dyn Store>, told: watch::Sender<Offered>) {
    let mut draining = shared.draining.subscribe();
    // Fails only when the sender is gone, which `shared` holds.
    let _ = draining.wait_for(|draining| *draining).await;
    let mut absence = Absence::default();
    loop {
        let mut wait = SOON;
        // What is not held cannot be moved, so there is nothing to ask. A load that was on its way may still come.
        if !shared.replicas.all().is_empty() {
            let begun = SystemClock::now();
            let looked = ask(&shared, store.as_ref()).await;
            if let Err(error) = &looked {
                tracing::warn!(%error, "cannot see who could take over: looking again");
            } else {
                wait = AGAIN;
            }
            if let Some(offered) = absence.outcome(looked.ok(), begun, SystemClock::now()) {
                tell(&told, offered);
            }
        }
        tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>())).await;
    }
}

/// What others offer now.
async fn ask(shared: &Shared, store: &dyn Store) -> Result<BTreeSet<Key>, Error> {
    let read = tokio::time::timeout(AWAY, store.read(Range::Prefix(shared.keys.workers())));
    let listing = read.await.unwrap_or_else(|_| Err(Error::Unavailable("no answer in time".to_owned())))?;
    let records = listing.entries.into_iter().filter_map(|entry| Worker::decode(entry.value).ok());
    Ok(offered(records, shared.options.id.as_str()))
}

fn tell(told: &watch::Sender<Offered>, offered: BTreeSet<Key>) {
    told.send_if_modified(|before| {
        let changed = before.as_ref() != Some(&offered);
        *before = Some(offered);
        changed
    });
}

/// Since when the store has not answered.
#[derive(Debug, Default)]
struct Absence {
    since: Option<Instant>,
}

impl Absence {
    /// What is known now that a look from `begun` to `now` told `offered`; `None` leaves what was known as it was. A failure
    /// tells nothing, unless the store has been away for long: then nothing can be moved.
    fn outcome(&mut self, offered: Option<BTreeSet<Key>>, begun: Instant, now: Instant) -> Option<BTreeSet<Key>> {
        if offered.is_some() {
            self.since = None;
            return offered;
        }
        let since = *self.since.get_or_insert(begun);
        (now.saturating_duration_since(since) >= AWAY).then(BTreeSet::new)
    }
}

/// What workers other than `own` offer and could still load.
fn offered(records: impl Iterator<Item = Worker>, own: &str) -> BTreeSet<Key> {
    let mut offered = BTreeSet::new();
    for worker in records.filter(|worker| worker.id != own && !worker.draining) {
        for offer in &worker.offers {
            let Ok(model) = offer.name.parse() else { continue };
            let versions = offer.versions.iter().filter_map(|offered| Version::new(offered.version));
            offered.extend(versions.map(|version| (weft_types::ModelName::clone(&model), version)));
        }
    }
    offered
}

#[cfg(test)]
mod tests {
    use weft_proto::weft::state::v1::{ModelOffer, VersionOffer};

    use super::*;

    fn worker(id: &str, draining: bool, model: &str) -> Worker {
        let versions = [1, 0].map(|version| VersionOffer { version, ..VersionOffer::default() }).to_vec();
        let offers = vec![ModelOffer { name: model.into(), engine: "builtin".into(), versions }];
        Worker { id: id.into(), draining, offers, ..Worker::default() }
    }

    #[test]
    fn only_others_that_stay_count() {
        let records = [
            worker("w-1", false, "own"),
            worker("w-2", true, "going"),
            worker("w-3", false, "a"),
            worker("w-4", false, "../x"),
        ];
        let told: Vec<String> =
            offered(records.into_iter(), "w-1").iter().map(|(model, _)| model.to_string()).collect();
        assert_eq!(told, ["a"]);
    }

    #[test]
    fn only_a_long_absence_in_a_row_counts() {
        let start = SystemClock::now();
        let at = |millis| start + Duration::from_millis(millis);
        let known = Some(BTreeSet::from([("m".parse().expect("a name"), Version::new(1).expect("a version"))]));
        let (mut absence, nothing) = (Absence::default(), Some(BTreeSet::new()));
        // Two looks that took the store's own limit, in an election; then an answer, which begins the count anew.
        assert_eq!(absence.outcome(None, at(0), at(2_000)), None);
        assert_eq!(absence.outcome(None, at(2_500), at(4_500)), None);
        assert_eq!(absence.outcome(known.clone(), at(5_000), at(5_100)), known);
        assert_eq!(absence.outcome(None, at(5_500), at(7_500)), None);
        assert_eq!(absence.outcome(None, at(10_000), at(11_500)), nothing);
        assert_eq!(Absence::default().outcome(None, at(0), at(6_000)), nothing, "one look that never ended");
    }
}
