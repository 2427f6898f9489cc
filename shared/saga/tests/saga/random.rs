//! Random definitions in random worlds.

use proptest::prelude::*;

use crate::judge::judge;
use crate::shapes::{Choices, any_definition, take_course};
use crate::world::World;

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever fails, and wherever the scheduler crashes, the invariants hold, and the job ends when the faults do.
    #[test]
    fn invariants_hold(
        shape in proptest::collection::vec(any::<u8>(), 1..60),
        course in proptest::collection::vec(any::<u8>(), 0..160),
        crash_after in proptest::option::of(1_usize..40),
    ) {
        let mut world = World::new(any_definition(&mut Choices::new(shape)));
        world.crash_after = crash_after;
        take_course(&mut world, &mut Choices::new(course));
        world.heal();
        let breaches = judge(&world);
        prop_assert!(breaches.is_empty(), "{}\n{:#?}\n{:#?}", breaches.join("\n"), world.definition, world.ledger);
    }
}
