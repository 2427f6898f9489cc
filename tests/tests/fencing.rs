//! A lease is not mutual exclusion: who was paused, cut off or killed while it owned something must not write late.

mod fencing {
    mod history;
    mod late;
    mod owners;
    mod schedulers;
}
