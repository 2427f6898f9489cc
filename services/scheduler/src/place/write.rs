//! A plan as transactions.

use prost::Message as _;
use weft_client::{Keys, Snapshot};
use weft_policy::place::{DeviceId, Move, Plan};
use weft_proto::weft::state::v1::{Placement, PlacementDevice};
use weft_store::{Compare, Fence, Op, Revision, Txn};

use crate::observe::replica_key;

/// The write that carries out some moves of `plan`, decided on `snapshot`.
///
/// It holds only while the leader leads, while the barrier is where it was, and while what it changes is as the snapshot told, so a write
/// that was delayed or decided on an old snapshot does nothing, and a repeated one nothing more.
pub(super) fn transaction(
    moves: &[Move],
    plan: &Plan,
    snapshot: &Snapshot,
    keys: &Keys,
    (fence, barrier): (&Fence, Revision),
) -> Txn {
    let epoch = u64::try_from(fence.create_revision).unwrap_or(0);
    let device = |id: &DeviceId| PlacementDevice { kind: id.kind.clone(), ordinal: id.ordinal };
    let change = |change: &Move| match change {
        Move::Place(key, _) => {
            let value = Placement { epoch, device: plan.devices.get(key).map(device) }.encode_to_vec().into();
            let key = keys.placement(&replica_key(key));
            (Compare::CreateRevision(key.clone(), 0), Op::Put { key, value, lease: None })
        }
        Move::Remove(key, _) => {
            let key = replica_key(key);
            let revision = snapshot.placements.get(&key).map_or(0, |record| record.mod_revision);
            let key = keys.placement(&key);
            (Compare::ModRevision(key.clone(), revision), Op::Delete(key))
        }
    };
    let (mut compares, ops): (Vec<_>, Vec<_>) = moves.iter().map(change).unzip();
    compares.extend([fence.compare(), Compare::ModRevision(keys.barrier(), barrier)]);
    Txn { compares, ops }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{key, placement, snapshot};
    use crate::observe::place_key;
    use bytes::Bytes;
    use std::sync::Arc;
    use weft_policy::place::Why;
    use weft_store::{Commit, MemoryStore, Store as _};
    use weft_types::SystemClock;

    fn fence(create_revision: i64) -> Fence {
        Fence { key: "leader".to_owned(), create_revision, valid_until: SystemClock::now() }
    }

    #[test]
    fn a_placement_names_the_device_that_was_chosen() {
        let one = place_key(&key("w1", "m", 1));
        let moves =
            vec![Move::Place(one.clone(), Why::Missing), Move::Place(place_key(&key("w1", "m", 2)), Why::Missing)];
        let devices = [(one, DeviceId { kind: "cuda".to_owned(), ordinal: 3 })].into();
        let plan = Plan { moves, devices, ..Plan::default() };
        let keys = Keys::new("t");
        let transaction = transaction(&plan.moves, &plan, &snapshot(&[]), &keys, (&fence(7), 0));
        let written = transaction.ops.into_iter().map(|op| match op {
            Op::Put { value, .. } => Placement::decode(value).expect("a placement"),
            other => panic!("{other:?}"),
        });
        let device = PlacementDevice { kind: "cuda".to_owned(), ordinal: 3 };
        let expected = [Placement { epoch: 7, device: Some(device) }, Placement { epoch: 7, device: None }];
        assert_eq!(written.collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn only_the_leader_writes_and_only_what_it_has_seen() {
        let store = MemoryStore::new(Arc::new(SystemClock));
        let keys = Keys::new("t");
        let put =
            |key: String| Txn { compares: Vec::new(), ops: vec![Op::Put { key, value: Bytes::new(), lease: None }] };
        let Ok(Commit::Done(term)) = store.commit(put("leader".to_owned())).await else { panic!("no leader") };
        let (one, mut mesh) = (key("w1", "m", 1), snapshot(&[]));
        let place = Plan { moves: vec![Move::Place(place_key(&one), Why::Missing)], ..Plan::default() };
        let remove = Plan { moves: vec![Move::Remove(place_key(&one), Why::Excess)], ..Plan::default() };
        let write = |plan: &Plan, mesh: &Snapshot, term, barrier| {
            transaction(&plan.moves, plan, mesh, &keys, (&fence(term), barrier))
        };
        let commit = async |txn| matches!(store.commit(txn).await, Ok(Commit::Done(_)));

        assert!(!commit(write(&place, &mesh, term - 1, 0)).await, "a leader of the past placed");
        assert!(commit(write(&place, &mesh, term, 0)).await);
        assert!(!commit(write(&place, &mesh, term, 0)).await, "placed twice");
        assert!(!commit(write(&remove, &mesh, term, 0)).await, "removed what it had not seen");
        placement(&mut mesh, &one, term + 1);
        assert!(!commit(write(&remove, &mesh, term + 1, 0)).await, "a leader of the future removed");
        let late = write(&remove, &mesh, term, 0);
        let Ok(Commit::Done(barrier)) = store.commit(put(keys.barrier())).await else { panic!("no barrier") };
        assert!(!commit(late).await, "what was sent before the barrier has arrived after it");
        assert!(commit(write(&remove, &mesh, term, barrier)).await);
    }
}
