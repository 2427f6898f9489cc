//! The whole mesh in one process: every contract that a caller relies on.

mod mesh {
    mod admission;
    mod affinity;
    mod bad_input;
    mod caching;
    mod control;
    mod deadlines;
    mod digits;
    mod hedging;
    mod jobs;
    mod load;
    mod outliers;
    mod pieces;
    mod preemption;
    mod relay;
    mod resets;
    mod scaling;
    mod scripted;
    mod splits;
    mod standard;
    mod streams;
    mod tap;
    mod trace;
}
