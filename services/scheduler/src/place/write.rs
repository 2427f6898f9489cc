//! A plan as transactions.

use prost::Message as _;
use weft_client::{Keys, ReplicaKey, Snapshot};
use weft_policy::place::{DeviceId, Move, Plan, Why};
use weft_proto::weft::control::v1::Priority;
use weft_proto::weft::state::v1::{Placement, PlacementDevice, ReplicaState};
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
            let value =
                Placement { epoch, device: plan.devices.get(key).map(device), yields: false }.encode_to_vec().into();
            let key = keys.placement(&replica_key(key));
            (snapshot.unchanged(key.clone(), None), Op::Put { key, value, lease: None })
        }
        Move::Remove(key, why) => {
            let replica = replica_key(key);
            let placement = snapshot.placements.get(&replica);
            let key = keys.placement(&replica);
            let op = match placement.filter(|_| *why == Why::Preempted && yields(snapshot, &replica)) {
                Some(record) => {
                    let value = Placement { epoch, yields: true, ..record.value.clone() }.encode_to_vec().into();
                    Op::Put { key: key.clone(), value, lease: None }
                }
                None => Op::Delete(key.clone()),
            };
            (snapshot.unchanged(key, Some(placement.map_or(0, |record| record.mod_revision))), op)
        }
    };
    let (mut compares, ops): (Vec<_>, Vec<_>) = moves.iter().map(change).unzip();
    compares.extend([fence.compare(), Compare::ModRevision(keys.barrier(), barrier)]);
    Txn { compares, ops }
}

/// Whether what runs at a replica is stopped for what takes its room: batch work is, where its worker knows how.
fn yields(snapshot: &Snapshot, replica: &ReplicaKey) -> bool {
    let is_batch = snapshot.models.get(&replica.model).is_some_and(|model| model.value.priority() == Priority::Batch);
    let serves = snapshot.replicas.get(replica).is_some_and(|record| record.value.state() == ReplicaState::Ready);
    is_batch && serves && snapshot.workers.get(&replica.worker).is_some_and(|worker| worker.value.yields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{key, placement, record, replica, snapshot, worker};
    use crate::observe::place_key;
    use bytes::Bytes;
    use std::sync::Arc;
    use weft_proto::weft::control::v1::Model;
    use weft_proto::weft::state::v1::Worker;
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
        let expected = [Some(device), None].map(|device| Placement { epoch: 7, device, yields: false });
        assert_eq!(written.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_batch_work_that_is_preempted_is_stopped_and_only_where_its_worker_knows_how() {
        let (keys, one) = (Keys::new("t"), key("w1", "m", 1));
        let yields = |why, priority: Priority, state, knows| {
            let mut mesh = snapshot(&[Worker { yields: knows, ..worker("w1", 1, &[("m", 1)]) }]);
            let model = Model { name: "m".to_owned(), priority: priority.into(), ..Model::default() };
            mesh.models.insert(one.model.clone(), record(model, 1));
            let device = Some(PlacementDevice { kind: "cpu".to_owned(), ordinal: 0 });
            mesh.placements.insert(one.clone(), record(Placement { epoch: 3, device, yields: false }, 5));
            replica(&mut mesh, &one, state, 6);
            let moves = [Move::Remove(place_key(&one), why)];
            let mut transaction = transaction(&moves, &Plan::default(), &mesh, &keys, (&fence(7), 0));
            assert!(transaction.compares.contains(&Compare::ModRevision(keys.placement(&one), 5)));
            match transaction.ops.remove(0) {
                Op::Delete(_) => false,
                Op::Put { value, .. } => {
                    let told = Placement::decode(value).expect("a placement");
                    assert_eq!((told.epoch, told.device.is_some(), told.yields), (7, true, true));
                    true
                }
            }
        };
        use ReplicaState::{Loading, Ready};
        assert!(yields(Why::Preempted, Priority::Batch, Ready, true));
        assert!(!yields(Why::Preempted, Priority::Unspecified, Ready, true), "it drains");
        assert!(!yields(Why::Excess, Priority::Batch, Ready, true), "nothing waits for its room");
        assert!(!yields(Why::Preempted, Priority::Batch, Loading, true), "nothing runs there");
        assert!(!yields(Why::Preempted, Priority::Batch, Ready, false), "its worker would serve on");
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
