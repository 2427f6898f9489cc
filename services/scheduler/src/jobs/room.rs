//! How much jobs may have under way at once on one scheduler, and how much of it for one other side.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use weft_saga::Direction;

/// One other side, a service or a model, has one in so many of all places: one that hangs leaves the others theirs.
const SHARE: usize = 4;
/// Pieces of work with large values at once: each can take tens of MiB.
const LARGE: usize = 16;
/// Conditions and lists that are looked at at once.
const RULINGS: usize = 64;

/// Places of each kind. What is to be taken back never waits for what may go on, nor a question for either.
pub(super) struct Room {
    actions: Places,
    undos: Places,
    probes: Places,
    rulings: Places,
}

/// What a place is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    /// The service or model that it is about.
    pub(super) about: Option<&'a str>,
    /// Whether its values may be large.
    pub(super) is_large: bool,
}

struct Places {
    all: Semaphore,
    large: Semaphore,
    of_one: usize,
    /// Places of those that have work here, which bounds their number. Never held across an await.
    others: Mutex<HashMap<String, Side>>,
}

struct Side {
    places: Arc<Semaphore>,
    /// Who has a place or waits for one.
    users: usize,
}

/// A place; dropping it gives it back.
pub(super) struct Place<'a> {
    _place: SemaphorePermit<'a>,
    _large: Option<SemaphorePermit<'a>>,
    _share: Option<Share<'a>>,
}

/// A place of one other side, or the wait for it.
struct Share<'a> {
    places: &'a Places,
    about: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(attempts: usize) -> Self {
        let places = || Places::new(attempts, attempts.div_ceil(SHARE));
        Self { actions: places(), undos: places(), probes: places(), rulings: Places::new(RULINGS, RULINGS) }
    }

    /// A place for an attempt, in the order in which they were asked for. `None` only where there are none at all.
    pub(super) async fn take(&self, direction: Direction, wish: Wish<'_>) -> Option<Place<'_>> {
        let places = match direction {
            Direction::Action => &self.actions,
            Direction::Undo => &self.undos,
            Direction::Probe => &self.probes,
        };
        places.take(wish).await
    }

    /// A place for a look at a condition or a list.
    pub(super) async fn take_ruling(&self, is_large: bool) -> Option<Place<'_>> {
        self.rulings.take(Wish { about: None, is_large }).await
    }
}

impl Places {
    fn new(all: usize, of_one: usize) -> Self {
        Self { all: Semaphore::new(all), large: Semaphore::new(LARGE), of_one, others: Mutex::default() }
    }

    /// The scarcest first: who waits for it holds nothing that others could have. Semaphores are never closed.
    async fn take(&self, wish: Wish<'_>) -> Option<Place<'_>> {
        let share = match wish.about {
            Some(about) => Some(self.share(about).await?),
            None => None,
        };
        let large = match wish.is_large {
            true => Some(self.large.acquire().await.ok()?),
            false => None,
        };
        Some(Place { _place: self.all.acquire().await.ok()?, _large: large, _share: share })
    }

    async fn share(&self, about: &str) -> Option<Share<'_>> {
        let semaphore = {
            let mut others = self.others();
            let fresh = || Side { places: Arc::new(Semaphore::new(self.of_one)), users: 0 };
            let side = others.entry(about.to_owned()).or_insert_with(fresh);
            side.users += 1;
            Arc::clone(&side.places)
        };
        let mut share = Share { places: self, about: about.to_owned(), permit: None };
        share.permit = Some(semaphore.acquire_owned().await.ok()?);
        Some(share)
    }

    fn others(&self) -> MutexGuard<'_, HashMap<String, Side>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut others = self.places.others();
        drop(self.permit.take());
        if let Some(side) = others.get_mut(&self.about) {
            side.users -= 1;
            if side.users == 0 {
                others.remove(&self.about);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn about(about: &str) -> Wish<'_> {
        Wish { about: Some(about), is_large: false }
    }

    /// A place that is there at once.
    fn now<'a>(room: &'a Room, direction: Direction, wish: Wish<'_>) -> Option<Place<'a>> {
        room.take(direction, wish).now_or_never().flatten()
    }

    #[test]
    fn a_service_that_hangs_leaves_others_their_places() {
        let room = Room::new(8);
        let hanging: Vec<_> = (0..8).filter_map(|_| now(&room, Direction::Action, about("hangs:1"))).collect();
        assert_eq!(hanging.len(), 2);
        let other = now(&room, Direction::Action, about("other:1"));
        assert!(other.is_some());
        // Its undos and questions have places of their own.
        assert!(now(&room, Direction::Undo, about("hangs:1")).is_some());
        assert!(now(&room, Direction::Probe, about("hangs:1")).is_some());
        drop(hanging);
        assert!(now(&room, Direction::Action, about("hangs:1")).is_some());
        drop(other);
        assert!(room.actions.others().is_empty(), "nobody has a place, and nothing is remembered");
    }

    #[test]
    fn all_together_have_no_more_than_there_are() {
        let room = Room::new(4);
        let names: Vec<String> = (0..8).map(|number| format!("service-{number}:1")).collect();
        let held: Vec<_> = names.iter().filter_map(|name| now(&room, Direction::Action, about(name))).collect();
        assert_eq!(held.len(), 4);
        assert_eq!(room.actions.others().len(), 4, "who gave up waiting is forgotten");
    }

    #[test]
    fn large_values_are_few_at_a_time() {
        let room = Room::new(1_024);
        let large = Wish { about: None, is_large: true };
        let held: Vec<_> = (0..LARGE + 1).filter_map(|_| now(&room, Direction::Action, large)).collect();
        assert_eq!(held.len(), LARGE);
        assert!(now(&room, Direction::Action, about("small:1")).is_some());
        let rulings: Vec<_> =
            (0..RULINGS + 1).filter_map(|_| room.take_ruling(false).now_or_never().flatten()).collect();
        assert_eq!(rulings.len(), RULINGS);
    }
}
