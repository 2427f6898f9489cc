//! What the log promises, as checks over any store. This crate runs them over the embedded store, the tests of the mesh over real etcd.

#![expect(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

pub(crate) mod desk;
pub(crate) mod faults;
pub(crate) mod faulty;
pub(crate) mod history;
pub(crate) mod suite;
pub(crate) mod sweeps;
pub(crate) mod upkeep;

use std::future::Future;
use std::time::Duration;

/// Far more than anything here takes: a test that would hang fails instead.
const LIMIT: Duration = Duration::from_secs(90);

/// Fails a test that hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it hangs")
}

/// A test for each check; `$over` gives it a store.
macro_rules! every {
    ($over:path) => {
        $crate::checks::each!($over:
            suite::a_job_is_logged_from_its_beginning_to_its_end,
            suite::a_key_stands_for_one_job,
            suite::slots_are_never_given_twice,
            suite::a_reservation_takes_all_or_nothing,
            suite::a_scheduler_that_stops_hands_over_at_once,
            suite::a_scheduler_that_vanishes_is_replaced,
            suite::a_scheduler_that_comes_takes_its_part,
            suite::a_shard_waits_for_jobs_that_would_not_survive,
            suite::a_worker_that_drains_gives_no_slots,
            suite::a_record_that_cannot_be_read_stops_nobody,
            suite::what_is_not_journaled_ends_with_its_scheduler,
            suite::definitions_and_long_values_read_back,
            faults::every_transition_happens_once,
            faults::a_late_copy_changes_nothing,
            faults::a_write_of_a_former_owner_is_void,
            faults::who_was_told_that_it_lost_has_lost,
            faults::a_commit_waits_for_the_store,
            faults::what_the_store_refuses_takes_nothing_along,
            faults::a_shard_is_given_up_however_often_that_fails,
            faults::a_shard_that_has_an_owner_is_not_won,
            faults::a_shard_whose_key_has_gone_is_lost,
            upkeep::ended_jobs_are_forgotten_with_their_keys,
            upkeep::the_next_owner_forgets,
            upkeep::slots_that_no_job_has_are_freed,
            upkeep::many_slots_are_given_back,
            upkeep::a_full_store_takes_only_endings,
            upkeep::a_full_store_takes_nothing_of_jobs_that_are_not_journaled,
            upkeep::what_no_job_refers_to_is_removed,
            sweeps::much_is_forgotten_after_one_sweep,
            sweeps::what_could_not_be_forgotten_is_forgotten_later,
            sweeps::a_look_for_what_is_not_needed_holds_nothing_up,
            sweeps::a_look_that_failed_is_not_repeated_at_once,
            sweeps::ended_jobs_are_known_for_their_time,
            sweeps::ended_jobs_are_bounded_in_bytes_and_over_all_schedulers,
            sweeps::a_slot_is_freed_when_it_was_stray_twice,
            sweeps::a_slot_that_was_taken_anew_is_not_freed,
            sweeps::what_a_record_that_cannot_be_read_holds_stays,
            sweeps::what_may_be_needed_is_kept,
        );
    };
}

macro_rules! each {
    ($over:path: $($module:ident::$check:ident,)*) => {
        $(#[tokio::test]
        async fn $check() {
            Box::pin($over(crate::checks::$module::$check)).await;
        })*
    };
}

pub(crate) use {each, every};
