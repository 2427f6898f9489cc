//! While the worker drains: what others could take over, read from the store itself.
//!
//! A worker follows its own placements and nothing else of the mesh, so it has to ask; only a drain wants to know.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::watch;
use weft_proto::weft::state::v1::Worker;
use weft_store::{Range, Store};
use weft_types::Version;

use super::plan::Key;
use crate::Shared;

/// Between two looks: workers come and go while this one drains.
const AGAIN: Duration = Duration::from_secs(1);
/// How long one look may take. A store that is away moves nothing, so the drain must not wait for it.
const LIMIT: Duration = Duration::from_secs(1);

/// What others offer, as of the last look; `None` before the first.
pub(super) type Offered = Option<BTreeSet<Key>>;

/// Looks again and again once the worker drains. Never returns; ends with the task that holds it.
pub(super) async fn look(shared: Arc<Shared>, store: Arc<dyn Store>, told: watch::Sender<Offered>) {
    let mut draining = shared.draining.subscribe();
    // Fails only when the sender is gone, which `shared` holds.
    let _ = draining.wait_for(|draining| *draining).await;
    loop {
        let read = store.read(Range::Prefix(shared.keys.workers()));
        let offered = match tokio::time::timeout(LIMIT, read).await {
            Ok(Ok(listing)) => {
                let records = listing.entries.into_iter().filter_map(|entry| Worker::decode(entry.value).ok());
                offered(records, shared.options.id.as_str())
            }
            Ok(Err(_)) | Err(_) => BTreeSet::new(),
        };
        told.send_if_modified(|before| {
            let changed = before.as_ref() != Some(&offered);
            *before = Some(offered);
            changed
        });
        tokio::time::sleep(AGAIN).await;
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
        let versions = vec![VersionOffer { version: 1, size_bytes: 0 }, VersionOffer { version: 0, size_bytes: 0 }];
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
}
