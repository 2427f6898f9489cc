//! Any sequence of deliveries, with processes that die at any point between: whatever a network and a job may do to one effect.

use proptest::prelude::*;

use super::*;

/// What becomes of a call that has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Fails,
    /// Its handler is dropped, before or after the effect.
    DroppedBefore,
    DroppedAfter,
    /// The process dies, before or after the effect.
    DiesBefore,
    DiesAfter,
}

#[derive(Clone, Debug)]
struct Delivery {
    direction: Direction,
    attempt: u32,
    epoch: u64,
    fate: Fate,
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let direction = prop_oneof![4 => Just(Direction::Action), 2 => Just(Direction::Undo), 1 => Just(Direction::Probe)];
    let fate = prop_oneof![
        4 => Just(Fate::Done),
        1 => Just(Fate::Fails),
        1 => Just(Fate::DroppedBefore),
        1 => Just(Fate::DroppedAfter),
        1 => Just(Fate::DiesBefore),
        1 => Just(Fate::DiesAfter),
    ];
    (direction, 1..6_u32, 1..4_u64, fate).prop_map(|(direction, attempt, epoch, fate)| Delivery {
        direction,
        attempt,
        epoch,
        fate,
    })
}

/// A participant whose effect lies outside of the store that has its rows, as a file or another service does.
struct Participant {
    store: MemoryStore,
    barrier: Barrier,
    actions: u32,
    undos: u32,
    /// An undo was answered or began: nothing may take effect any more.
    is_undone: bool,
    /// The newest attempt that was let in.
    heard: (u64, u32),
    /// Attempts up to this one were said to have had no effect.
    disowned: (u64, u32),
}

impl Participant {
    async fn new() -> Self {
        let store = MemoryStore::new(Arc::new(ManualClock::default()));
        let barrier = Self::open(&store).await;
        Self { store, barrier, actions: 0, undos: 0, is_undone: false, heard: (0, 0), disowned: (0, 0) }
    }

    async fn open(store: &MemoryStore) -> Barrier {
        let opened = Barrier::open(Arc::new(store.clone()), Arc::new(ManualClock::default()), "", Limits::default());
        opened.await.expect("memory answers")
    }

    fn is_there(&self) -> bool {
        self.actions > self.undos
    }

    async fn deliver(&mut self, delivery: &Delivery) {
        let mark = Mark { epoch: delivery.epoch, ..mark(delivery.direction, delivery.attempt) };
        let entry = self.barrier.enter(&mark).await;
        if matches!(entry, Ok(Entry::Run(_) | Entry::Unknown(_))) && delivery.direction != Direction::Undo {
            self.heard = self.heard.max(mark.order());
        }
        match entry {
            Ok(Entry::Run(pass)) => {
                // A probe has nothing to do, and an undo is only run when there is something to undo.
                assert_ne!(delivery.direction, Direction::Probe);
                assert_eq!(self.is_there(), delivery.direction == Direction::Undo, "{delivery:?}");
                self.work(pass, &mark, delivery.fate).await;
            }
            Ok(Entry::Unknown(pass)) => match (delivery.direction, self.is_there()) {
                (Direction::Action | Direction::Probe, true) | (Direction::Undo, false) => self.end(pass, &mark).await,
                (Direction::Probe, false) => self.fail(pass, &mark).await,
                (Direction::Action, false) | (Direction::Undo, true) => self.work(pass, &mark, delivery.fate).await,
            },
            Ok(Entry::Answer(_)) => {
                assert_eq!(self.is_there(), delivery.direction != Direction::Undo, "an answer that is not true");
            }
            Ok(Entry::Nothing) => {
                assert!(!self.is_there(), "{delivery:?}: nothing was said to be there");
                self.said(&mark);
            }
            Err(error) => match (error.reason(), delivery.direction) {
                (Reason::RejectedByBarrier, Direction::Action) | (Reason::StaleEpoch, _) => {}
                (Reason::PreconditionFailed, Direction::Probe) => assert!(self.is_undone),
                _ => panic!("{delivery:?}: {error}"),
            },
        }
        assert!(self.actions <= 1 && self.undos <= self.actions, "{} actions, {} undos", self.actions, self.undos);
    }

    /// Nothing of this effect is there, and no attempt so far will change that: the caller was told so.
    fn said(&mut self, mark: &Mark) {
        match mark.direction {
            Direction::Undo => self.is_undone = true,
            Direction::Action | Direction::Probe => self.disowned = self.disowned.max(mark.order()).max(self.heard),
        }
    }

    async fn work(&mut self, pass: Pass, mark: &Mark, fate: Fate) {
        self.is_undone |= mark.direction == Direction::Undo;
        match fate {
            Fate::Done => {
                self.effect(mark);
                self.end(pass, mark).await;
            }
            Fate::Fails => self.fail(pass, mark).await,
            Fate::DroppedBefore => drop(pass),
            Fate::DroppedAfter => {
                self.effect(mark);
                drop(pass);
            }
            Fate::DiesBefore => self.die(pass).await,
            Fate::DiesAfter => {
                self.effect(mark);
                self.die(pass).await;
            }
        }
    }

    fn effect(&mut self, mark: &Mark) {
        if mark.direction == Direction::Undo {
            self.undos += 1;
            return;
        }
        assert!(!self.is_undone, "{mark:?}: an effect after the undo");
        // A duplicate may finish what a newer attempt began and left unknown.
        assert!(self.heard > self.disowned, "{mark:?}: an effect of an attempt that was said to have none");
        self.actions += 1;
    }

    async fn end(&mut self, pass: Pass, mark: &Mark) {
        pass.done(Bytes::new()).await.expect("memory takes it");
        assert_eq!(self.is_there(), mark.direction != Direction::Undo);
    }

    async fn fail(&mut self, pass: Pass, mark: &Mark) {
        pass.failed().await.expect("memory takes it");
        if mark.direction != Direction::Undo {
            self.said(mark);
        }
    }

    async fn die(&mut self, pass: Pass) {
        drop(pass);
        self.barrier = Self::open(&self.store).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_effect_happens_once_and_never_after_its_undo(deliveries in prop::collection::vec(delivery(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut participant = Participant::new().await;
            for delivery in &deliveries {
                participant.deliver(delivery).await;
            }
            // However it went, one more undo of the newest owner leaves nothing there.
            let undo = Delivery { direction: Direction::Undo, attempt: 9, epoch: 9, fate: Fate::Done };
            participant.deliver(&undo).await;
            assert!(!participant.is_there());
        });
    }
}
