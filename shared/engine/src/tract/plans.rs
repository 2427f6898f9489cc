//! The plans that are kept: the least recently used goes first.

use std::sync::{Arc, Mutex, PoisonError};

/// The shapes that a plan is for, one for each input.
pub(super) type Shapes = Vec<Vec<usize>>;

/// A bounded map from shapes to what was made for them.
pub(super) struct Plans<P> {
    capacity: usize,
    /// The most recently used is last. A few entries: walking them costs less than hashing shapes would.
    entries: Mutex<Vec<(Arc<Shapes>, P)>>,
}

impl<P: Clone> Plans<P> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), entries: Mutex::default() }
    }

    /// What was made for `shapes`, made now if need be.
    ///
    /// The lock is not held while making, so that those who have their plan run on; two that miss at once both make one
    /// and the later is kept.
    pub(super) fn get<E>(&self, shapes: Shapes, make: impl FnOnce(&Shapes) -> Result<P, E>) -> Result<P, E> {
        if let Some(plan) = self.touch(&shapes) {
            return Ok(plan);
        }
        let plan = make(&shapes)?;
        // A poisoned lock guards plain values that are whole at every step.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(known, _)| **known != shapes);
        if entries.len() >= self.capacity {
            entries.remove(0);
        }
        entries.push((Arc::new(shapes), plan.clone()));
        Ok(plan)
    }

    fn touch(&self, shapes: &Shapes) -> Option<P> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().rposition(|(known, _)| **known == *shapes)?;
        let entry = entries.remove(at);
        let plan = entry.1.clone();
        entries.push(entry);
        Some(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(plans: &Plans<usize>, size: usize) -> bool {
        let mut made = false;
        let plan = plans.get(vec![vec![size]], |_| {
            made = true;
            Ok::<_, ()>(size)
        });
        assert_eq!(plan, Ok(size));
        made
    }

    #[test]
    fn keeps_the_most_recently_used_within_its_bound() {
        let plans = Plans::new(2);
        assert!(get(&plans, 1) && get(&plans, 2));
        assert!(!get(&plans, 1), "made twice");
        assert!(get(&plans, 3));
        assert!(!get(&plans, 1), "the most recently used was dropped");
        assert!(get(&plans, 2), "the bound was not held");
    }

    #[test]
    fn a_failure_is_not_kept() {
        let plans = Plans::new(2);
        assert_eq!(plans.get(vec![], |_| Err::<usize, _>("no")), Err("no"));
        assert_eq!(plans.get(vec![], |_| Ok::<_, ()>(7)), Ok(7));
    }
}
